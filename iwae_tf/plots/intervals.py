"""Values with their errors, one below the other."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from iwae_tf.plots.layout import COLORS, DPI, Figure, literal_text, text_size


class Intervals(NamedTuple):
    """One panel of an `interval_sheet`.

    Attributes:
      title: the title of the panel.
      values: for each name, from the top, a value and its standard error.
    """

    title: str
    values: Mapping[str, tuple[float, float]]


@literal_text
def interval_sheet(panels: Sequence[Intervals], xlabel: str, title: str) -> Figure:
    """Draw values as points, with bars of one standard error to each side.

    Args:
      panels: panels from left to right; they share both axes.
      xlabel: what the values are, with their unit.
      title: the title of the sheet.

    Returns:
      figure: a row of panels, with a line for each name that any of them has. Values
        that are further below the median than twice the distance from there to the
        largest are written at the left edge.

    Raises:
      ValueError: If there is no value, or one is not finite.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.values))
    values = np.array([v for panel in panels for v, _ in panel.values.values()])
    if not values.size or not np.all(np.isfinite(values)):
        raise ValueError(f"panels must hold finite values, got {values.tolist()}")
    width = 2 + 4 * len(panels)
    figure = Figure(
        figsize=(width, 1.6 + 0.26 * len(names)), dpi=DPI, layout="constrained"
    )
    size = text_size([title], 13, 0.95 * width * DPI)
    figure.suptitle(title, fontsize=size)
    figure.supxlabel(xlabel, fontsize=10)
    low = _low(values)
    bars = [e for panel in panels for v, e in panel.values.values() if v >= low]
    margin = 0.05 * (values.max() - low) + max(bars) or 1.0
    ends = (low - margin, values.max() + margin)
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        places = [names.index(name) for name in panel.values]
        x, errors = np.array(list(panel.values.values())).T
        axes.errorbar(x, places, xerr=errors, fmt="o", ms=4, color=COLORS[0], capsize=2)
        axes.set_title(panel.title, loc="left")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for value, place in zip(x, places, strict=True):
            if value < low:
                text = f" ◂ {value:.2f}".replace("-", "\N{MINUS SIGN}")
                axes.text(ends[0], place, text, va="center", size=9)
    every[0].set_yticks(range(len(names)), names)
    every[0].set_ylim(len(names) - 0.5, -0.5)
    every[0].set_xlim(ends)
    return figure


def _low(values):
    """The lowest value that is drawn."""
    median = np.median(values)
    return values[values >= median - 2 * (values.max() - median)].min()
