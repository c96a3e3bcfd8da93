"""The rows of `metrics.csv`, one for each epoch, as text."""

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence

_NUMERAL = re.compile(r"(-?(\d+(\.\d+)?(e[-+]?\d+)?|inf)|nan)?", re.ASCII)
SCALARS = ("bound", "vae_elbo", "iwae_elbo", "log_px", "log_pz", "log_qz")
COLUMNS = (
    "epoch",
    "step",
    "seconds",
    "learning_rate",
    "images_per_second",
    "train_samples",
    *(f"train_{name}" for name in SCALARS),
    *(f"test_{name}" for name in SCALARS),
)


def lines_of(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """The lines of `metrics.csv`, of which the first has the names of the columns."""
    cells = ([str(row.get(name, "")) for name in COLUMNS] for row in rows)
    return [",".join(COLUMNS), *map(",".join, cells)]


def lost_epochs(rows: Iterable[Mapping[str, str]], epochs: int) -> str:
    """The epochs up to the given one that have no row, such as 3, 7-9; "" if all do."""
    lost = {*range(1, epochs + 1)} - {int(row["epoch"]) for row in rows}
    firsts = sorted(epoch for epoch in lost if epoch - 1 not in lost)
    lasts = sorted(epoch for epoch in lost if epoch + 1 not in lost)
    return ", ".join(
        str(first) if first == last else f"{first}-{last}"
        for first, last in zip(firsts, lasts, strict=True)
    )


def best_of(rows: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """The first row with the largest test bound; NaN is less than any number."""
    bounds = [float(row.get("test_bound") or "nan") for row in rows]
    bounds = [-math.inf if math.isnan(bound) else bound for bound in bounds]
    return rows[bounds.index(max(bounds))]


def stops(rows: Sequence[Mapping[str, str]], patience: int | None) -> bool:
    """Whether the last epochs had no better test bound than one before them.

    Args:
      rows: the rows of all epochs so far.
      patience: the number of last epochs; None for training that never stops early.
    """
    if not rows or patience is None:
        return False
    last, best = (int(row["epoch"]) for row in (rows[-1], best_of(rows)))
    return last - best >= patience


def parsed(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of those lines of a `metrics.csv` that are whole.

    Args:
      lines: the lines, each with the line break at its end.
    """
    header, *rest = [*lines] or [""]
    names = header.strip().split(",")
    is_twice = len({*names}) < len(names)
    if is_twice or not {"epoch", "step", "seconds"} <= {*names} <= {*COLUMNS}:
        names = COLUMNS  # the header is damaged
    split = (line.strip().split(",") for line in rest if line.endswith("\n"))
    rows = [
        dict(zip(names, cells, strict=True))
        for cells in split
        if len(cells) == len(names) and all(map(_NUMERAL.fullmatch, cells))
    ]
    return [row for row in rows if (row["epoch"] + row["step"]).isdecimal()]


def by_epoch(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The first row of each epoch, without those of another number of steps."""
    ratios = [int(row["step"]) / max(1, int(row["epoch"])) for row in rows]
    common = collections.Counter(ratios).most_common(1)
    found = {}
    for row, ratio in zip(rows, ratios, strict=True):
        if (ratio, common[0][1]) == common[0]:
            found.setdefault(int(row["epoch"]), row)
    return [found[epoch] for epoch in sorted(found)]
