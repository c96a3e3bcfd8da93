"""Curves: the bounds of a run over epochs, and sheets of any curves."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)

from iwae_tf.plots.layout import (
    COLORS,
    DPI,
    STYLES,
    Figure,
    check_rows,
    literal_text,
    log_axis,
    title_size,
)

_LOG_EPOCHS = 30  # longer runs get a logarithmic axis
_DEPTH = 5  # the y axis reaches down this many times as far as the median
_CURVES = {
    "train_bound": {"color": COLORS[0], "linestyle": "-"},
    "test_bound": {"color": COLORS[1], "linestyle": "--"},
}
_MARKED_POINTS = 100  # curves with more points have no markers


@literal_text
def training_curves(rows: Sequence[Mapping[str, object]], title: str) -> Figure:
    """Draw the training and test bound over epochs.

    Args:
      rows: one mapping per epoch, as `csv.DictReader` reads metrics.csv: "epoch",
          and "train_bound" and "test_bound" in nats per image, each a number or
          its text; missing, empty and non-finite values are not drawn. Where
          "train_samples", k of the training bound, grows, a line marks the epoch.
      title: a description of the run.

    Returns:
      figure: one panel. Very low values of the first epochs may lie below its y
          axis; a note in the figure then says so.

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
    _epoch_axis(axes, epochs)
    curves = []
    for key, style in _CURVES.items():
        values = _column(rows, key)
        measured = np.isfinite(values)
        x, y = epochs[measured], values[measured]
        marker = "o" if len(x) <= _MARKED_POINTS else None
        axes.plot(x, y, label=_label(key, x, y), marker=marker, markersize=3, **style)
        if len(x):
            curves.append((x, y))
    _bound_axis(axes, curves)
    _mark_growth(axes, epochs, _column(rows, "train_samples"))
    axes.legend(loc="lower right")
    return figure


class Panel(NamedTuple):
    """One panel of a `line_sheet`.

    Attributes:
      title: the title of the panel.
      xlabel: the label of the x axis.
      ylabel: the label of the y axis.
      curves: x and y of equal length for each label; non-finite values are not drawn.
      log: axes with a logarithmic scale: "", "x", "y" or "xy". A linear y axis is that
        of `training_curves`: very low values at the start may lie below it.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log: str = ""


@literal_text
def line_sheet(rows: Sequence[Sequence[Panel]], title: str) -> Figure:
    """Draw panels of curves; labels that agree up to a colon have the same colour.

    Args:
      rows: the panels of each row, with the same number in every row.
      title: the title of the sheet.

    Returns:
      figure: the panels in rows and columns.

    Raises:
      ValueError: If there are no panels, or the rows differ in length.
    """
    n_rows, n_columns = check_rows(rows)
    size = (4.4 * n_columns, 3.8 * n_rows + 0.4)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=min(13, 13 * size[0] * 8.5 / max(len(title), 1)))
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    panels = [panel for row in rows for panel in row]
    names = dict.fromkeys(c.split(":")[0] for panel in panels for c in panel.curves)
    styles = dict(zip(names, itertools.cycle(STYLES), strict=False))
    for axes, panel in zip(grid.flat, panels, strict=True):
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
        axes.set_title(panel.title, loc="left")
        drawn = []
        for label, (x, y) in panel.curves.items():
            x, y = np.asarray(x, float), np.asarray(y, float)
            shown = np.isfinite(x) & np.isfinite(y)
            shown &= (y > 0) if "y" in panel.log else True
            x, y = x[shown], y[shown]
            marker = "o" if len(x) <= _MARKED_POINTS else None
            style = styles[label.split(":")[0]]
            axes.plot(x, y, label=label, marker=marker, markersize=3, **style)
            if len(x):
                drawn.append((x, y))
        axes.set(**{f"{name}scale": "log" for name in panel.log})
        if "x" in panel.log:
            log_axis(axes.xaxis, [x for x, _ in drawn])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if "y" in panel.log:
            log_axis(axes.yaxis, [y for _, y in drawn])
        else:
            _bound_axis(axes, drawn)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17)
        )
    return figure


def _column(rows: Sequence[Mapping[str, object]], key: str) -> np.ndarray:
    values = [row.get(key) for row in rows]
    return np.array([math.nan if v in ("", None) else float(v) for v in values])


def _label(key: str, epochs: np.ndarray, values: np.ndarray) -> str:
    name = key.replace("_", " ")
    if not len(values):
        return f"{name}: not measured"
    return f"{name}: {_number(values[-1])} at epoch {epochs[-1]:.0f}"


def _number(value: float) -> str:
    """A number as matplotlib writes it on an axis: with a minus, not a hyphen."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _epoch_axis(axes: Axes, epochs: np.ndarray) -> None:
    first, last = epochs.min(), epochs.max()
    if first >= 1 and last > _LOG_EPOCHS * first:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.set_xlim(first / 1.05, last * 1.05)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_growth(axes: Axes, epochs: np.ndarray, samples: np.ndarray) -> None:
    for place in 1 + np.flatnonzero(samples[1:] > samples[:-1]):
        x = epochs[place]
        axes.axvline(x, color="0.35", linewidth=0.8, linestyle=":")
        axes.text(
            x,
            0.5,
            f"training with k = {samples[place]:.0f} ",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="center",
            fontsize=8,
            color="0.35",
        )


def _bound_axis(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Fit the y axis to the values after the start; note the lowest one left out."""
    if not curves:
        axes.set_yticks([])
        return
    x, y = np.concatenate(curves, axis=1)
    space = np.geomspace if axes.get_xscale() == "log" else np.linspace
    epochs, values = max(curves, key=lambda curve: len(curve[0]))
    drawn = np.interp(space(epochs[0], epochs[-1], 200), epochs, values)
    high = y.max()
    low = min(high - _DEPTH * (high - np.median(drawn)), *(c[1][-1] for c in curves))
    low = max(low, y.min())
    margin = max(0.05 * (high - low), 0.1)
    axes.set_ylim(low - margin, high + margin)
    if y.min() < low - margin:
        at = x[y.argmin()]
        place = f"epoch {at:.0f}" if axes.get_xlabel() == "epoch" else f"x = {at:.2g}"
        note = f"lowest value {_number(y.min())} ({place}) not shown"
        axes.set_title(note, loc="right", fontsize=8, color="0.35")
