"""What the figures share: the page, its colours, text that fits, panels of images."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

DPI = 224
WIDTH = 8 * DPI  # of a sheet, in output pixels, as are the next two
MARGIN = 18
TOP = 140  # holds the title and the titles of the panels
GREY = 0.5
# Of Okabe and Ito: blue, vermillion, green, purple, orange, sky blue, black.
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
_DASHES = "-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1))
_MORE = "#AA3377", "#8C6D31", "#999999"
STYLES = [  # later lines let earlier ones show through
    {"color": (*COLORS, *_MORE)[i % 10], "linestyle": _DASHES[i % 4]} for i in range(20)
]


def check_images(
    name: str, images: np.ndarray, axes: str = "n, height, width, channels"
) -> np.ndarray:
    """Images as floats, if they have those axes and may be in 0..1."""
    images = np.asarray(images)
    if images.ndim != axes.count(",") + 1 or not images.size:
        raise ValueError(
            f"{name} must be a non-empty [{axes}], got shape {images.shape}"
        )
    if images.dtype.kind in "iu" and images.max() > 1:
        raise ValueError(f"{name} must be in 0..1, got a maximum of {images.max()}")
    return images.astype(float)


def check_rows(rows: Sequence[Sequence[object]]) -> tuple[int, int]:
    """The number of rows of panels and of their columns."""
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"rows must be equally many panels each, got {[len(row) for row in rows]}"
        )
    return len(rows), lengths.pop()


def sheet(width: int, height: int, title: str, labels: int = 0) -> tuple[Figure, int]:
    """A figure around panels of that many output pixels, and their left edge."""
    total = max(WIDTH, labels + width + 2 * MARGIN)
    size = np.array([total, TOP + height + MARGIN])
    figure = Figure(figsize=size / DPI, dpi=DPI)
    left = (total - width + labels) // 2
    figure.suptitle(
        title,
        x=(left + width / 2) / total,
        y=1 - 20 / size[1],
        va="top",
        fontsize=title_size(title),
    )
    return figure, left


def title_size(title: str) -> float:
    """Points at which the title fits into 8 inches."""
    return min(13, 13 * 70 / max(len(title), 1))


def text_width(texts: Iterable[str], points: float) -> float:
    """Output pixels of the widest text."""
    page = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(page).get_renderer()
    widths = [
        page.text(0, 0, text, fontsize=points).get_window_extent(renderer).width
        for text in set(texts)
    ]
    return max(widths, default=0)


def text_size(texts: Iterable[str], points: float, room: float) -> float:
    """Points, no more than given, at which every text is that many pixels or less."""
    texts = list(texts)
    # small letters are wider than their size says
    for _ in range(5):
        width = text_width(texts, points)
        if width <= room:
            break
        points *= room / width
    return points


def add_axes(
    figure: Figure, left: float, top: float, width: float, height: float
) -> Axes:
    """Axes with their upper left corner at that output pixel."""
    bottom = figure.bbox.height - top - height
    position = np.array([left, bottom, width, height])
    return figure.add_axes(position / np.tile(figure.bbox.size, 2))


def image_axes(
    figure: Figure, image: np.ndarray, left: int, top: int, scale: int
) -> Axes:
    """Show an image with its upper left corner at that output pixel."""
    # matplotlib before 3.11 rounds sizes up, so float error would add a pixel
    height, width = np.array(image.shape[:2]) * scale - 1e-3
    axes = add_axes(figure, left, top, width, height)
    axes.imshow(
        displayable(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_axis_off()
    return axes


def name_row(axes: Axes, name: str, y: float, points: float = 9) -> None:
    """Write a name at the left of an image."""
    axes.annotate(
        name,
        (-0.5, y),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=points,
    )


def log_axis(
    axis: Axis,
    values: Sequence[np.ndarray],
    most: float = 300,
    n_labels: int | None = None,
) -> None:
    """Plain numbers at 1, 2, 5, 10, ... of a logarithmic axis, or at powers of 10.

    Args:
      axis: to be labelled.
      values: what is drawn along it.
      most: largest ratio of values at which there are 2 and 5, too.
      n_labels: at most, of powers of 10; by default as many as seem to fit.
    """
    if not values:
        return
    drawn = np.concatenate(values)
    subs = (1, 2, 5) if drawn.max() < most * drawn.min() else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=n_labels))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def displayable(image: np.ndarray) -> np.ndarray:
    """An image in 0..1, [height, width, 3 or 1]: RGB, or the mean of its channels."""
    image = np.nan_to_num(image, nan=GREY).clip(0, 1)
    return image if image.shape[-1] == 3 else image.mean(-1, keepdims=True)
