"""Sheets of panels: scatter plots of labelled points, histograms of groups."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from iwae_tf.plots.layout import (
    COLORS,
    DPI,
    STYLES,
    WIDTH,
    Figure,
    check_rows,
    figure_legend,
    literal_text,
    log_axis,
    text_size,
    title_size,
)

_MARKS = [
    (marker, color)
    for marker in "o^sv"
    # Yellow is the last colour of Okabe and Ito.
    for color in (*COLORS, "#F0E442", "#AA3377", "#BBBBBB")
]
_LEGEND = 10  # with more labels there is no legend
_HALO = [withStroke(linewidth=3, foreground="white")]
_BINS = 30


class Scatter(NamedTuple):
    """One panel of a `scatter_sheet`.

    Attributes:
      title: the title of the panel.
      xlabel: the label of the x axis.
      ylabel: the label of the y axis.
      points: `[n, 2]`; non-finite points are not drawn.
      labels: `[n]` integers or strings, such as classes; None for grey points.
    """

    title: str
    xlabel: str
    ylabel: str
    points: np.ndarray
    labels: np.ndarray | None = None


class Histogram(NamedTuple):
    """One panel of a `histogram_sheet`.

    Attributes:
      title: the title of the panel.
      xlabel: the label of the x axis.
      groups: `[n]` values for each name; non-finite values are not counted.
      threshold: a value to mark, or None.
      log: whether the x axis is logarithmic; its leftmost bin then also counts the
        values of zero and below.
      ylabel: what is counted.
    """

    title: str
    xlabel: str
    groups: Mapping[str, Sequence[float]]
    threshold: float | None = None
    log: bool = True
    ylabel: str = "units"


@literal_text
def scatter_sheet(rows: Sequence[Sequence[Scatter]], title: str) -> Figure:
    """Draw panels of points coloured by label; both axes have the same scale.

    The name of a label stands at the median of its points, or as near to it as the
    other names allow. The first ten labels differ in colour; further labels also
    differ in their marker.

    Args:
      rows: the panels of each row, with the same number in every row.
      title: the title of the sheet.

    Returns:
      figure: the panels in rows and columns.

    Raises:
      ValueError: If there are no panels, the rows differ in length, points are not
          `[n, 2]`, or labels are not `[n]` integers or strings.
    """
    n_rows, n_columns = check_rows(rows)
    panels = [panel for row in rows for panel in row]
    finite = [_finite(f"of panel {i}", panel) for i, panel in enumerate(panels)]
    names = sorted({name for _, labels in finite for name in labels.tolist()})
    marks = dict(zip(names, itertools.cycle(_MARKS), strict=False))
    figure, grid = _page(n_rows, n_columns, min(8 / n_columns, 5.5), title)
    numbers = []
    for axes, panel, (points, labels) in zip(grid, panels, finite, strict=True):
        _name(axes, (panel.title, panel.xlabel, panel.ylabel), n_columns)
        axes.set_aspect("equal", "datalim")
        size = np.clip(12000 / max(len(points), 1), 3, 16)
        style = {"s": size, "alpha": 0.6, "linewidths": 0}
        if panel.labels is None:
            axes.scatter(*points.T, color="0.5", **style)
            continue
        for marker, drawn in itertools.groupby(marks, lambda name: marks[name][0]):
            shown = np.isin(labels, list(drawn))
            if not shown.any():
                continue
            colors = [marks[name][1] for name in labels[shown].tolist()]
            axes.scatter(*points[shown].T, c=colors, marker=marker, **style)
        numbers.append(
            [
                _number(axes, name, np.median(points[labels == name], axis=0))
                for name in np.unique(labels).tolist()
            ]
        )
    if 0 < len(names) <= _LEGEND:
        handles = [
            Line2D([], [], marker=marker, color=color, linestyle="", label=name)
            for name, (marker, color) in marks.items()
        ]
        figure_legend(figure, handles)
    figure.draw_without_rendering()
    for texts in numbers:
        _spread(texts)
    return figure


@literal_text
def histogram_sheet(rows: Sequence[Sequence[Histogram]], title: str) -> Figure:
    """Draw panels of histograms, such as the activity of units, with common bins.

    Panels with the same label of the x axis, unless it is empty, have the same bins and
    share both axes.

    Args:
      rows: the panels of each row, with the same number in every row but the last,
          which may have fewer.
      title: the title of the sheet.

    Returns:
      figure: the panels in rows and columns. Groups of the same name have the same
        style in all panels; there is no legend for a single name. A note below an axis
        gives the number of values of zero and below, which the leftmost bin counts.

    Raises:
      ValueError: If there are no panels, the rows differ in length, values are not
          `[n]`, or a threshold cannot be drawn on its axis.
    """
    panels = [panel for row in rows for panel in row]
    n_rows, n_columns = check_rows(_filled(rows))
    names = dict.fromkeys(name for panel in panels for name in panel.groups)
    styles = dict(zip(names, itertools.cycle(STYLES), strict=False))
    figure, grid = _page(n_rows, n_columns, min(6 / n_columns, 3.2), title)
    grid = list(grid)
    for axes in grid[len(panels) :]:
        axes.remove()
    found = [dict(_groups(f"of panel {i}", panel)) for i, panel in enumerate(panels)]
    alike = [_alike(panel, i) for i, panel in enumerate(panels)]
    firsts, highest = {}, {}
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        groups, first = found[i], firsts.setdefault(alike[i], axes)
        every = [
            values
            for other, key in zip(found, alike, strict=True)
            if key == alike[i]
            for values in other.values()
        ]
        edges = _bins(f"of panel {i}", panel, every)
        xlabel = panel.xlabel
        below = sum((values <= 0).sum() for values in groups.values())
        if panel.log and below:
            xlabel += f"\n(leftmost bin: {below} values ≤ 0, too)"
        _name(axes, (panel.title, xlabel, panel.ylabel), n_columns)
        for name, values in groups.items():
            counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
            color = styles[name]["color"]
            axes.stairs(counts, edges, fill=True, alpha=0.15, color=color)
            axes.stairs(counts, edges, label=name, linewidth=1.5, **styles[name])
            highest[first] = max(highest.get(first, 1), counts.max())
        if panel.log:
            axes.set_xscale("log")
        if axes is not first:
            axes.sharex(first)
            axes.sharey(first)
            if i % n_columns:
                axes.tick_params(axis="y", labelleft=False)
                axes.set_ylabel("")
        elif panel.log:
            log_axis(axes.xaxis, [edges], 300 / n_columns, max(3, 10 // n_columns))
        first.set(xlim=edges[[0, -1]], ylim=(0, 1.2 * highest.get(first, 1)))
        first.yaxis.set_major_locator(
            MaxNLocator(5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
        axes.spines[["top", "right"]].set_visible(False)
        if panel.threshold is not None:
            _mark(axes, panel.threshold, panel.threshold < edges[_BINS // 2])
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    if len(handles) > 1:
        figure_legend(figure, handles)
    return figure


def _alike(panel: Histogram, place: int) -> tuple:
    """What panels have in common that share their bins."""
    if not panel.xlabel:
        return (place,)
    return panel.xlabel, panel.ylabel, panel.log, panel.threshold


def _filled(rows: Sequence[Sequence[Histogram]]) -> list[list[Histogram | None]]:
    """The same rows, with the last one filled up with None."""
    rows = [list(row) for row in rows]
    if rows and rows[-1]:
        rows[-1] += [None] * (len(rows[0]) - len(rows[-1]))
    return rows


def _page(
    n_rows: int, n_columns: int, height: float, title: str
) -> tuple[Figure, np.ndarray]:
    """A page with panels of the given height in inches."""
    size = (WIDTH / DPI, n_rows * (height + 0.3) + 0.8)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=title_size(title))
    return figure, figure.subplots(n_rows, n_columns, squeeze=False).flat


def _name(axes: Axes, texts: tuple[str, str, str], n_columns: int) -> None:
    room = 0.65 * WIDTH / n_columns
    title, *labels = [text_size(text.split("\n"), 11, room) for text in texts]
    axes.set_title(texts[0], loc="left", fontsize=title)
    axes.set_xlabel(texts[1], fontsize=min(10, labels[0]))
    axes.set_ylabel(texts[2], fontsize=min(10, labels[1]))


def _finite(name: str, panel: Scatter) -> tuple[np.ndarray, np.ndarray]:
    """The finite points, and their labels if there are any."""
    points = np.asarray(panel.points, float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points {name} must be [n, 2], got shape {points.shape}")
    shown = np.isfinite(points).all(1)
    if panel.labels is None:
        return points[shown], np.zeros(0, int)
    labels = np.asarray(panel.labels)
    if labels.shape != points.shape[:1] or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"labels {name} must be [{len(points)}] integers or strings,"
            f" got {labels.dtype} of shape {labels.shape}"
        )
    return points[shown], labels[shown]


def _number(axes: Axes, label: int | str, median: np.ndarray) -> Annotation:
    return axes.annotate(
        str(label),
        median,
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=11,
        fontweight="bold",
        path_effects=_HALO,
        in_layout=False,
    )


def _spread(texts: Sequence[Annotation]) -> None:
    """Move overlapping texts apart, pixel by pixel, within their axes."""
    if not texts:
        return
    boxes = [text.get_window_extent() for text in texts]
    start = np.array([box.get_points().mean(0) for box in boxes])
    half = np.array([box.size for box in boxes]) / 2 + 3
    page = texts[0].axes.get_window_extent()
    centres = start.copy()
    # a spiral of nudges gives texts at the same place directions to move in
    i = np.arange(len(texts))
    spiral = 1e-3 * np.sqrt(i) * np.exp(2.4j * i)
    nudges = np.stack([spiral.real, spiral.imag], axis=1)
    for _ in range(1000):
        apart = (centres + nudges)[:, None] - (centres + nudges)
        meet = (abs(apart) < half[:, None] + half).all(-1)
        np.fill_diagonal(meet, False)
        if not meet.any():
            break
        distance = np.linalg.norm(apart, axis=-1, keepdims=True)
        steps = apart / np.maximum(distance, 1e-9)
        centres += (steps * meet[..., None]).sum(1)
        centres = centres.clip(page.min + half, page.max - half)
    for text, offset in zip(texts, (centres - start) * 72 / DPI, strict=True):
        text.set_position(offset)


def _groups(name: str, panel: Histogram) -> Iterator[tuple[str, np.ndarray]]:
    for group, values in panel.groups.items():
        values = np.asarray(values, float)
        if values.ndim != 1:
            raise ValueError(
                f"values of {group!r} {name} must be [n], got shape {values.shape}"
            )
        yield group, values[np.isfinite(values)]


def _bins(name: str, panel: Histogram, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Edges of bins around all values and the threshold."""
    values, threshold = np.concatenate([*groups, []]), panel.threshold
    if threshold is not None:
        if not (0 if panel.log else -np.inf) < threshold < np.inf:
            raise ValueError(
                f"threshold {name} must be a {'positive' if panel.log else 'finite'}"
                f" number, got {threshold}"
            )
        values = np.append(values, threshold * np.array([0.5, 2]))
    if panel.log:
        values = values[values > 0]
    low, high = (values.min(), values.max()) if len(values) else (1, 1)
    if low == high:
        low, high = (low / 2, high * 2) if panel.log else (low - 0.5, high + 0.5)
    return (np.geomspace if panel.log else np.linspace)(low, high, _BINS + 1)


def _mark(axes: Axes, threshold: float, left: bool) -> None:
    """Draw the threshold, with its name on the side that has more room."""
    axes.axvline(threshold, color="0.35", linestyle="--", linewidth=1.2)
    axes.annotate(
        f"threshold {threshold:g}",
        (threshold, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(4 if left else -4, -4),
        textcoords="offset points",
        ha="left" if left else "right",
        va="top",
        fontsize=8,
        color="0.35",
    )
