"""The table of runs as text, Markdown or CSV.

The rows are those of `iwae_tf.runs.listing.table`, at least one.
"""

import csv
import io
import textwrap
from collections.abc import Sequence

from iwae_tf.files import escaped
from iwae_tf.runs import results
from iwae_tf.runs.progress import clock

_KEPT = ("name", "log_px", "bound")  # columns that every terminal has room for
_SHORTEST = 16  # characters of a name
_ANY = 10**6  # the width of text that is not wrapped


def as_csv(rows: Sequence[dict]) -> str:
    """Rows as CSV, with the names of the columns in the first line."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([plain(value) for value in row.values()] for row in rows)
    return file.getvalue().rstrip("\n")


def as_markdown(rows: Sequence[dict]) -> str:
    """Rows as Markdown, one table for each quantity."""
    parts = []
    for quantity, own in _by_quantity(rows).items():
        header, cells, is_left = _cells(own)
        rule = "|".join("---" if left else "--:" for left in is_left)
        body = [tuple(map(escaped, row)) for row in cells]
        parts += [_heading(quantity), results.markdown(" | ".join(header), rule, body)]
    return "\n\n".join(parts)


def as_text(rows: Sequence[dict], width: int | None = None) -> str:
    """Rows as text, one table for each quantity.

    In a table that would be too wide, values that all rows share are told above it,
    names are cut in the middle, and columns are left out from the right, which a line
    below it tells.

    Args:
      rows: the rows.
      width: the largest number of characters in a line; None for any.
    """
    parts = []
    for quantity, own in _by_quantity(rows).items():
        heading = textwrap.wrap(_heading(quantity), width or _ANY)
        parts.append("\n".join([*heading, *_lines(*_cells(own), width)]))
    return "\n\n".join(parts)


def plain(value: object) -> str:
    """A value of a row in full, as CSV has it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " + ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _by_quantity(rows):
    found = {}
    for row in rows:
        found.setdefault(row["quantity"], []).append(row)
    return found


def _heading(quantity):
    return f"{quantity}, nats per image, ± its standard error over images"


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
    return clock(value) if name == "training_time" else plain(value)


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
