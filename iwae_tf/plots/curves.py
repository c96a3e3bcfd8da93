"""Curves: the bounds of a run over epochs, and sheets of any curves."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from iwae_tf.plots.layout import (
    COLORS,
    DPI,
    STYLES,
    Figure,
    check_rows,
    figure_legend,
    literal_text,
    log_axis,
    title_size,
)

_OUTSIDE = 0.1  # this part of the values of a curve may lie below the y axis
_LONGER = 1.25  # unless the axis gets at most this many times as long with all of them
_CURVES = {
    "train_bound": {"color": COLORS[0], "linestyle": "-"},
    "test_bound": {"color": COLORS[1], "linestyle": "--"},
}
_MARKED_POINTS = 30  # curves with more points have no markers
_GREY = "0.35"


@literal_text
def training_curves(
    rows: Sequence[Mapping[str, object]], title: str, n_samples: int | None = None
) -> Figure:
    """Draw the training and test bound over epochs.

    The y axis reaches down to all values of a curve but the lowest tenth, which are
    those of the first epochs as a rule, and at least but one. It reaches down to these
    too if that makes it no more than a quarter longer. The last value of a curve is
    always shown.

    Args:
      rows: one mapping per epoch, as `csv.DictReader` reads metrics.csv: "epoch",
          and "train_bound" and "test_bound" in nats per image, each a number or
          its text; missing, empty and non-finite values are not drawn. Where
          "train_samples", k of the training bound, grows, a line marks the epoch.
      title: a description of the run.
      n_samples: k of the test bound, which is named if k of the training bound grows.

    Returns:
      figure: one panel. If a value lies below its y axis, a note above says so.

    Raises:
      ValueError: If `rows` is empty or a row has no epoch.
    """
    if not len(rows):
        raise ValueError("rows must hold at least one epoch, got 0 rows")
    epochs = _column(rows, "epoch")
    if not np.isfinite(epochs).all():
        raise ValueError(f"rows must all have a finite epoch, got {epochs.tolist()}")
    figure = Figure(figsize=(8, 4.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=title_size(title))
    axes = figure.add_subplot(xlabel="epoch", ylabel="bound (nats per image)")
    axes.xaxis.set_major_locator(
        MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    stages = _stages(epochs, _column(rows, "train_samples"))
    names = {"train_bound": "training", "test_bound": "test"}
    if len(stages) > 1:
        names["train_bound"] += ", k as marked"
        names["test_bound"] += f", k = {n_samples}" if n_samples else ""
    curves = []
    for key, style in _CURVES.items():
        values = _column(rows, key)
        measured = np.isfinite(values)
        x, y = epochs[measured], values[measured]
        marker = "o" if len(x) <= _MARKED_POINTS else None
        label = _label(names[key], x, y)
        axes.plot(x, y, label=label, marker=marker, markersize=3, **style)
        if len(x):
            curves.append((x, y))
    if curves:
        low, high = _range(curves)
        if len(stages) > 1:
            high += 0.1 * (high - low)  # room for the names of the stages
        axes.set_ylim(low, high)
        note = _note_below(axes, curves, "epoch")
        axes.set_title(note, loc="right", fontsize=8, color=_GREY)
    else:
        axes.set_yticks([])
    if len(stages) > 1:
        _mark(axes, stages)
    axes.legend(loc="lower right")
    return figure


class Panel(NamedTuple):
    """One panel of a `line_sheet`.

    Attributes:
      title: the title of the panel.
      xlabel: the label of the x axis.
      ylabel: the label of the y axis.
      curves: x and y of equal length for each label; non-finite values are not drawn.
        The part of a label after a colon is written at the end of the curve.
      log: axes with a logarithmic scale: "", "x", "y" or "xy". A linear y axis is that
        of `training_curves`: the lowest values may lie below it.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log: str = ""


@literal_text
def line_sheet(rows: Sequence[Sequence[Panel]], title: str) -> Figure:
    """Draw panels of curves, with one legend for all of them.

    Labels that agree up to a colon have the same style. Panels of a row with the same
    label of the y axis share this axis, and so do panels of all rows with the same
    label of the x axis.

    Args:
      rows: the panels of each row, with the same number in every row.
      title: the title of the sheet.

    Returns:
      figure: the panels in rows and columns. There is no legend for a single name.

    Raises:
      ValueError: If there are no panels, or the rows differ in length.
    """
    n_rows, n_columns = check_rows(rows)
    size = (4.4 * n_columns, 3.6 * n_rows + 0.7)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=min(13, 13 * size[0] * 8.5 / max(len(title), 1)))
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    panels = [panel for row in rows for panel in row]
    names = dict.fromkeys(_parts(c)[0] for panel in panels for c in panel.curves)
    styles = dict(zip(names, itertools.cycle(STYLES), strict=False))
    drawn = [
        _draw(axes, panel, styles)
        for axes, panel in zip(grid.flat, panels, strict=True)
    ]
    places = [divmod(i, n_columns) for i in range(len(panels))]
    for name in "xy":
        groups = {}
        for i, (row, _) in enumerate(places):
            label = getattr(panels[i], f"{name}label")
            key = label, name in panels[i].log, row if name == "y" else 0
            groups.setdefault(key, []).append(i)
        for group in groups.values():
            _share(name, [(grid.flat[i], panels[i], drawn[i]) for i in group])
            _label_outer(name, [(places[i], grid.flat[i]) for i in group])
    for axes, panel, curves in zip(grid.flat, panels, drawn, strict=True):
        if "y" not in panel.log:
            axes.annotate(
                _note_below(axes, curves, panel.xlabel),
                (1, 0),
                xycoords="axes fraction",
                xytext=(-4, 4),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=_GREY,
            )
    if len(names) > 1:
        lines = {line.get_label(): line for axes in grid.flat for line in axes.lines}
        figure_legend(figure, list(lines.values()))
    return figure


def _draw(
    axes: Axes, panel: Panel, styles: Mapping[str, Mapping]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw the curves of a panel, and return those that have points."""
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.set_title(panel.title, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    drawn, ends = [], {}
    for label, (x, y) in panel.curves.items():
        x, y = np.asarray(x, float), np.asarray(y, float)
        shown = np.isfinite(x) & np.isfinite(y)
        shown &= (y > 0) if "y" in panel.log else True
        x, y = x[shown], y[shown]
        marker = "o" if len(x) <= _MARKED_POINTS else None
        name, note = _parts(label)
        axes.plot(x, y, label=name, marker=marker, markersize=3, **styles[name])
        if len(x):
            drawn.append((x, y))
            # curves that end at one place with one note have it once
            ends[f"{x[-1]:.3g}", f"{y[-1]:.3g}", note] = x[-1], y[-1], note, name
    axes.set(**{f"{name}scale": "log" for name in panel.log})
    for x, y, note, name in ends.values():
        axes.annotate(
            note,
            (x, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=styles[name]["color"],
        )
    return drawn


def _parts(label: str) -> tuple[str, str]:
    """The name of a curve, and what is written at its end."""
    name, _, note = label.partition(":")
    return name, note.strip()


def _share(
    name: str,
    group: Sequence[tuple[Axes, Panel, Sequence[tuple[np.ndarray, np.ndarray]]]],
) -> None:
    """Let axes share their x or y axis, with ticks and limits for all curves."""
    first, panel, _ = group[0]
    for axes, _, _ in group[1:]:
        getattr(axes, f"share{name}")(first)
    first.autoscale(axis=name)
    curves = [curve for _, _, drawn in group for curve in drawn]
    axis = getattr(first, f"{name}axis")
    if name in panel.log:
        log_axis(axis, [curve[name == "y"] for curve in curves])
    elif name == "x":
        axis.set_major_locator(
            MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
    elif curves:
        ranges = [_range(drawn) for _, _, drawn in group if drawn]
        lows, highs = zip(*ranges, strict=True)
        first.set_ylim(min(lows), max(highs))
    else:
        first.set_yticks([])


def _label_outer(name: str, group: Sequence[tuple[tuple[int, int], Axes]]) -> None:
    """Leave the labels of a shared axis to its leftmost or its lowest panels."""
    for (row, column), axes in group:
        if name == "y" and column > min(place[1] for place, _ in group):
            axes.tick_params(axis="y", which="both", labelleft=False)
            axes.set_ylabel("")
        below = [place for place, _ in group if place == (row + 1, column)]
        if name == "x" and below:
            axes.tick_params(axis="x", which="both", labelbottom=False)
            axes.set_xlabel("")


def _column(rows: Sequence[Mapping[str, object]], key: str) -> np.ndarray:
    values = [row.get(key) for row in rows]
    return np.array([math.nan if v in ("", None) else float(v) for v in values])


def _label(name: str, epochs: np.ndarray, values: np.ndarray) -> str:
    if not len(values):
        return f"{name}: not measured"
    return f"{name}: {_number(values[-1])} at epoch {epochs[-1]:.0f}"


def _number(value: float) -> str:
    """A number as matplotlib writes it on an axis: with a minus, not a hyphen."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _stages(epochs: np.ndarray, samples: np.ndarray) -> list[tuple[float, int]]:
    """The first epoch of each stage of training, and its k."""
    known = np.isfinite(samples)
    epochs, samples = epochs[known], samples[known]
    new = np.flatnonzero(np.append(True, samples[1:] > samples[:-1])[: len(samples)])
    return [(epochs[i], int(samples[i])) for i in new]


def _mark(axes: Axes, stages: Sequence[tuple[float, int]]) -> None:
    """Name k at the top of each stage, and separate the stages by lines."""
    for i, (epoch, k) in enumerate(stages):
        x = epoch - 0.5 if i else axes.get_xlim()[0]
        if i:
            axes.axvline(x, color=_GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"k = {k}",
            (x, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, -3),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=9,
            color=_GREY,
        )


def _range(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """The limits of the y axis by the rule of `training_curves`."""
    values = [y for _, y in curves]
    lowest, high = min(map(np.min, values)), max(map(np.max, values))
    low = min(min(_most(y), y[-1]) for y in values)
    if high - lowest <= _LONGER * (high - low):
        low = lowest
    margin = max(0.05 * (high - low), 0.1)
    return low - margin, high + margin


def _most(values: np.ndarray) -> float:
    """The lowest value but the lowest tenth, and at least one; of two, the lowest."""
    left_out = math.ceil(_OUTSIDE * len(values)) if len(values) > 2 else 0
    return np.sort(values)[left_out]


def _note_below(
    axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], xlabel: str
) -> str:
    """Which value is the lowest one, if it lies below the axis; otherwise ""."""
    if not curves:
        return ""
    x, y = np.concatenate(curves, axis=1)
    if y.min() >= axes.get_ylim()[0]:
        return ""
    at = x[y.argmin()]
    place = f"epoch {at:.0f}" if xlabel == "epoch" else f"x = {at:.2g}"
    return f"lowest value: {_number(y.min())} at {place}"
