"""All runs below a directory as one table: rows for Python, or text.

`table` reads finished runs from their `report.json`, and the others from `config.json`
and `metrics.csv`. TensorFlow is not imported.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iwae_tf import rules
from iwae_tf.errors import UsageError, closest
from iwae_tf.files import escaped
from iwae_tf.runs import names, records, results
from iwae_tf.runs.config import Config
from iwae_tf.runs.progress import clock
from iwae_tf.runs.run import Run

if TYPE_CHECKING:
    import pandas

# Columns of every table, and those that it has only if a run has a value there.
_ALWAYS = (
    *("name", "dataset", "objective", "layers", "k", "epochs", "seed"),
    *("log_px", "standard_error", "elbo", "active_units", "training_time", "quantity"),
)
_IF_ANY = ("planned_epochs", "bound", "best_epoch", "after")
# Options that have a column of another name, or that of the data set's real name.
_RENAMED = {"stochastic_layers": "layers", "n_samples": "k"}
OPTIONS = tuple(name for name in Config().of_run() if name not in (*_RENAMED, *_ALWAYS))
_ORDER = ("dataset", "layers", "objective", "k", "epochs", "seed", "name")
_KEPT = ("name", "log_px", "bound")  # columns that every terminal has room for
_SHORTEST = 16  # characters of a name
_ANY = 10**6  # the width of text that is not wrapped
_FEW = 20  # values of a column that a message lists


def table(
    directory: str | Path, where: Sequence[str] = (), sort: str | None = None
) -> list[dict]:
    """All runs below a directory, one row each.

    The columns of every row, in their order:
      name: the path of the run below `directory`.
      dataset, objective, layers, k, seed: of the run.
      epochs: the number of epochs trained so far.
      log_px, standard_error, elbo: estimates for the test images, nats per image.
      active_units: a tuple of their numbers, bottom-up.
      training_time: seconds so far.
      quantity: what `log_px` is, such as "test log p(x)". Densities of continuous data
        come after log-probabilities, however the rows are sorted.

    Columns that are there if a run has a value:
      planned_epochs, bound: of runs that are not finished, the epochs of the whole
        training and the test bound after the last epoch so far, nats per image.
      best_epoch: the epoch that early stopping chose.
      after: the run from which the training started, such as VAE k = 1.

    Options of the run follow if they differ among the rows. A value that a run lacks is
    None.

    Args:
      directory: searched at any depth for runs. Damaged ones are left out with a
        warning.
      where: conditions such as "dataset=mnist", which all rows must fulfil. They may
        name any option of a run.
      sort: a column, with a minus before it from the largest value to the smallest.
        Rows without a value come last. By default rows are sorted by data set, layers,
        objective, k, epochs and seed.

    Returns:
      rows: at least one.

    Raises:
      UsageError: if no run is left, or for a column that does not exist.
    """
    rows = _whole_rows(Path(directory))
    known = _columns(rows)
    for condition in where:
        rows = _fulfilling(rows, condition, known)
    for column in reversed(_ORDER):
        rows = _sorted(rows, column)
    if sort is not None:
        column = sort.removeprefix("-")
        _check_column(column, known, sort=sort)
        rows = _sorted(rows, column, is_descending=sort.startswith("-"))
    rows.sort(key=lambda row: ("density" in row["quantity"], row["quantity"]))
    return [{name: row[name] for name in _columns(rows)} for row in rows]


def frame(
    directory: str | Path, where: Sequence[str] = (), sort: str | None = None
) -> pandas.DataFrame:
    """The rows of `table` as a DataFrame of pandas.

    Args:
      directory: see `table`.
      where: likewise.
      sort: likewise.

    Raises:
      UsageError: if pandas is not installed, or as in `table`.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError(
            "frame: needs the package pandas, which `pip install 'iwae_tf[pandas]'` "
            "installs, got none"
        ) from None
    return pandas.DataFrame(table(directory, where, sort))


def as_csv(rows: Sequence[dict]) -> str:
    """Rows of `table` as CSV, with the names of the columns in the first line."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_plain(value) for value in row.values()] for row in rows)
    return file.getvalue().rstrip("\n")


def as_markdown(rows: Sequence[dict]) -> str:
    """Rows of `table` as Markdown, one table for each quantity."""
    parts = []
    for quantity, own in _by_quantity(rows).items():
        header, cells, is_left = _cells(own)
        rule = "|".join("---" if left else "--:" for left in is_left)
        body = [tuple(map(escaped, row)) for row in cells]
        parts += [_heading(quantity), results.markdown(" | ".join(header), rule, body)]
    return "\n\n".join(parts)


def as_text(rows: Sequence[dict], width: int | None = None) -> str:
    """Rows of `table` as text, one table for each quantity.

    Where it would be too wide, values that all rows share are told above the table,
    names are cut in the middle, and then columns are left out from the right.

    Args:
      rows: at least one.
      width: the largest number of characters in a line; None for any.
    """
    parts = []
    for quantity, own in _by_quantity(rows).items():
        heading = textwrap.wrap(_heading(quantity), width or _ANY)
        parts.append("\n".join([*heading, *_lines(*_cells(own), width)]))
    return "\n\n".join(parts)


def _whole_rows(directory):
    """The rows of all runs with all their columns."""
    files = ("config.json", "report.json")
    found = {path.parent for name in files for path in directory.rglob(name)}
    rows = []
    for path in sorted(found):
        try:
            rows.append(_row(Run(path), directory))
        except UsageError as error:
            warnings.warn(f"{path} is left out: {error}", stacklevel=3)
    if not rows:
        raise UsageError(
            f"directory: must have runs below it, got {str(directory)!r} without any"
        )
    return rows


def _row(run, directory):
    is_finished = run.is_finished
    facts = run.report if is_finished else run.record
    config = records.config_of(facts)
    below = run.directory.relative_to(directory).as_posix()
    row = dict.fromkeys((*_ALWAYS, *_IF_ANY)) | config.of_run()
    row |= {own: row.pop(name) for name, own in _RENAMED.items()}
    row |= {
        "name": run.directory.resolve().name if below == "." else below,
        "dataset": facts["data"]["name"],
        "after": names.trained_as(facts["init"]) if "init" in facts else None,
    }
    return row | (_of_report(facts) if is_finished else _of_training(run, config))


def _of_report(report):
    test = report["test"]
    active = tuple(layer["n_active"] for layer in report.get("units", []))
    return {
        "epochs": report["epochs"],
        "best_epoch": report.get("best_epoch"),
        "log_px": test["log_likelihood"],
        "standard_error": test["standard_error"],
        "elbo": test["elbo"],
        "active_units": active or None,
        "training_time": report["train_seconds"],
        "quantity": results.quantity(report),
    }


def _of_training(run, config):
    """What is known of a run that is not finished."""
    last = (run.rows() or [{}])[-1]
    test = {"is_density": config.likelihood in rules.DENSITIES}
    return {
        "epochs": int(last.get("epoch", 0)),
        "planned_epochs": config.epochs,
        "bound": float(last["test_bound"]) if last.get("test_bound") else None,
        "training_time": float(last["seconds"]) if last.get("seconds") else None,
        "quantity": results.quantity({"config": config.of_run(), "test": test}),
    }


def _columns(rows):
    """The columns that rows need, in their order."""

    def values(name):
        return {row[name] for row in rows}

    return (
        *_ALWAYS,
        *(name for name in _IF_ANY if values(name) != {None}),
        *(name for name in OPTIONS if len(values(name)) > 1),
    )


def _check_column(name, known, /, **argument):
    if name not in (*known, *_IF_ANY, *OPTIONS):
        ((flag, value),) = argument.items()
        raise UsageError(
            f"{flag}: must name one of the columns {', '.join(known)}, got {value!r}"
            f"{closest(name, known)}"
        )


def _fulfilling(rows, condition, known):
    """The rows that fulfil a condition."""
    name, equals, value = condition.partition("=")
    if not equals:
        raise UsageError(
            f"where: must be COLUMN=VALUE, such as dataset=mnist, got {condition!r}"
        )
    _check_column(name, known, where=condition)
    found = [row for row in rows if _is(row[name], value)]
    if not found:
        ordered = _sorted(rows, name)
        there = dict.fromkeys(_plain(row[name]) or "none" for row in ordered)
        some = f"; {name} is {', '.join(there)}" if len(there) <= _FEW else ""
        raise UsageError(f"where: must leave at least one run, got {condition!r}{some}")
    return found


def _is(value, text):
    """Whether a value of a row is what the user has written."""
    plain = _plain(value) or "none"
    if plain.replace(" ", "").lower() == text.replace(" ", "").lower():
        return True
    try:
        return not isinstance(value, bool) and float(text) == value
    except ValueError:
        return False


def _sorted(rows, column, is_descending=False):
    def is_known(row):
        value = row[column]
        return not (value is None or (isinstance(value, float) and math.isnan(value)))

    known = filter(is_known, rows)
    ordered = sorted(known, key=lambda row: row[column], reverse=is_descending)
    return ordered + [row for row in rows if not is_known(row)]


def _by_quantity(rows):
    found = {}
    for row in rows:
        found.setdefault(row["quantity"], []).append(row)
    return found


def _heading(quantity):
    return f"{quantity}, nats per image, ± its standard error over images"


def _plain(value):
    """A value in full, as CSV has it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " + ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cells(rows):
    """The header and the rows of a table for people, and which columns are text."""
    merged = ("standard_error", "planned_epochs", "quantity")
    header = [name for name in rows[0] if name not in merged]
    body = [[_cell(row, name) for name in header] for row in rows]
    is_left = [any(isinstance(row[name], str) for row in rows) for name in header]
    return header, body, is_left


def _cell(row, name):
    value = row[name]
    if value is None:
        return "—"
    if name == "log_px":
        return f"{value:.2f} ± {row['standard_error']:.2f}"
    if name == "epochs" and row.get("planned_epochs") is not None:
        return f"{value} of {row['planned_epochs']}"
    if name in ("elbo", "bound"):
        return f"{value:.2f}"
    return clock(value) if name == "training_time" else _plain(value)


def _lines(header, body, is_left, width):
    """The lines of a table, none of them wider than `width` if names can be cut."""
    columns = list(zip(header, zip(*body, strict=True), is_left, strict=True))
    above, below = [], []
    if width is not None and _width(columns) > width:
        shared = [
            (name, cells[0])
            for name, cells, _ in columns
            if len(cells) > 1 and len({*cells}) == 1 and name not in _KEPT
        ]
        columns = [c for c in columns if c[0] not in dict(shared)]
        above = _wrapped(
            "in all rows", [f"{name} {cell}" for name, cell in shared], width
        )
        dropped = []
        while _width(columns, _SHORTEST) > width:
            others = [i for i, c in enumerate(columns) if c[0] not in _KEPT]
            if not others:
                break
            dropped.insert(0, columns.pop(others[-1])[0])
        below = _wrapped("left out, as the terminal is narrow", dropped, width)
        room = max(_SHORTEST, width - _width(columns[1:]) - 2)
        name, cells, _ = columns[0]
        columns[0] = name, [_cut(cell, room) for cell in cells], True
    widths = [max(map(len, (name, *cells))) for name, cells, _ in columns]
    rows = zip(*((name, *cells) for name, cells, _ in columns), strict=True)
    lines = (
        "  ".join(
            cell.ljust(n) if left else cell.rjust(n)
            for cell, n, (_, _, left) in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in rows
    )
    return [*above, *lines, *below]


def _width(columns, longest_name=None):
    """The width of a table; its first column, of names, may be cut."""
    widths = [max(map(len, (name, *cells))) for name, cells, _ in columns]
    if widths and longest_name is not None:
        widths[0] = min(widths[0], longest_name)
    return sum(widths) + 2 * (len(widths) - 1)


def _cut(text, length):
    """Text without its middle, if it is longer than a number of characters."""
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def _wrapped(what, parts, width):
    """Lines that tell some parts, or none if there are no parts."""
    return textwrap.wrap(f"{what}: {', '.join(parts)}", width) if parts else []
