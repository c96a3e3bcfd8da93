"""What all figures share: the page, colours, text that fits, panels of images."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as _Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

DPI = 224
WIDTH = 8 * DPI  # width of a sheet; this and the next two are in output pixels
MARGIN = 18
TOP = 141  # space for the title and the titles of the panels; a multiple of SHRINK
GREY = 0.5
SHRINK = 3  # sheets of samples can be reduced this many times and stay sharp
_HANDLE = 140  # width of a symbol of a legend and the space around it
# Colours of Okabe and Ito: blue, vermillion, green, purple, orange, sky blue, black.
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
_DASHES = "-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1))
_MORE = "#AA3377", "#8C6D31", "#999999"
STYLES = [  # dashes of later lines let earlier lines show through
    {"color": (*COLORS, *_MORE)[i % 10], "linestyle": _DASHES[i % 4]} for i in range(20)
]

# Decorates what makes text: names of runs are shown as they are, dollars included.
literal_text = rc_context(
    {
        "text.parse_math": False,
        "text.usetex": False,
        "axes.formatter.use_mathtext": False,
    }
)


class Figure(_Figure):
    """A figure that a notebook shows as it is, at half of its pixels."""

    @literal_text
    def _repr_png_(self):
        """The image and its size, as IPython asks for them."""
        with io.BytesIO() as file:
            self.savefig(file, format="png")
            width, height = (int(side) // 2 for side in self.bbox.size)
            return file.getvalue(), {"width": width, "height": height}


def check_images(
    name: str, images: np.ndarray, axes: str = "n, height, width, channels"
) -> np.ndarray:
    """Images as floats, after a check of their axes and their range."""
    images = np.asarray(images)
    if images.ndim != axes.count(",") + 1 or not images.size:
        raise ValueError(
            f"{name} must be a non-empty [{axes}], got shape {images.shape}"
        )
    if images.dtype.kind in "iu" and images.max() > 1:
        raise ValueError(f"{name} must be in 0..1, got a maximum of {images.max()}")
    return images.astype(float)


def check_rows(rows: Sequence[Sequence[object]]) -> tuple[int, int]:
    """The number of rows and the number of columns of panels."""
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"rows must be equally many panels each, got {[len(row) for row in rows]}"
        )
    return len(rows), lengths.pop()


def sheet(width: int, height: int, title: str, labels: int = 0) -> tuple[Figure, int]:
    """A figure around panels of the given output pixels, and their left edge."""
    total = max(WIDTH, labels + width + 2 * MARGIN)
    size = np.array([total, TOP + height + MARGIN])
    figure = Figure(figsize=size / DPI, dpi=DPI)
    left = (total - width + labels) // 2 // SHRINK * SHRINK
    figure.suptitle(
        title,
        x=(left + width / 2) / total,
        y=1 - 20 / size[1],
        va="top",
        fontsize=title_size(title),
    )
    return figure, left


def title_size(title: str) -> float:
    """The font size in points at which the title fits into 8 inches."""
    return min(13, 13 * 70 / max(len(title), 1))


def text_width(texts: Iterable[str], points: float) -> float:
    """The width of the widest text in output pixels."""
    page = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(page).get_renderer()
    widths = [
        page.text(0, 0, text, fontsize=points).get_window_extent(renderer).width
        for text in set(texts)
    ]
    return max(widths, default=0)


def text_size(texts: Iterable[str], points: float, room: float) -> float:
    """The font size, at most `points`, at which every text fits into `room` pixels."""
    texts = list(texts)
    # small letters are wider than in proportion to their size
    for _ in range(5):
        width = text_width(texts, points)
        if width <= room:
            break
        points *= room / width
    return points


def figure_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """One legend for all panels of a figure, below them."""
    width = text_width([str(handle.get_label()) for handle in handles], 9)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, int(0.95 * figure.bbox.width // (width + _HANDLE))),
        fontsize=9,
    )


def add_axes(
    figure: Figure, left: float, top: float, width: float, height: float
) -> Axes:
    """Axes whose upper left corner is at the given output pixel."""
    bottom = figure.bbox.height - top - height
    position = np.array([left, bottom, width, height])
    return figure.add_axes(position / np.tile(figure.bbox.size, 2))


def image_axes(
    figure: Figure, image: np.ndarray, left: int, top: int, scale: int
) -> Axes:
    """Show an image whose upper left corner is at the given output pixel."""
    # matplotlib before 3.11 rounds sizes up, so float error would add a pixel
    height, width = np.array(image.shape[:2]) * scale - 1e-3
    axes = add_axes(figure, left, top, width, height)
    axes.imshow(
        displayable(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_axis_off()
    return axes


def name_row(axes: Axes, name: str, y: float, points: float = 9) -> None:
    """Write a name to the left of an image."""
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
    """Label a logarithmic axis in plain numbers at 1, 2, 5, 10, ... or powers of 10.

    Args:
      axis: the axis to label.
      values: the values drawn along it.
      most: the ratio of largest to smallest value from which 2 and 5 have no label.
      n_labels: maximum number of powers of 10; by default as many as seem to fit.
    """
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    if not values:
        return
    drawn = np.concatenate(values)
    subs = (1, 2, 5) if drawn.max() < most * drawn.min() else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=n_labels))


def displayable(image: np.ndarray) -> np.ndarray:
    """An image in 0..1, [height, width, 3 or 1]: RGB, or the mean of its channels."""
    image = np.nan_to_num(image, nan=GREY).clip(0, 1)
    return image if image.shape[-1] == 3 else image.mean(-1, keepdims=True)
