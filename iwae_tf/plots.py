"""Figures of a run: sample sheets, reconstructions, training curves, a GIF.

NumPy arrays in, matplotlib figures and files out: nothing here knows TensorFlow,
and no other file of the package imports matplotlib. Sheets are laid out in whole
output pixels, so that every image pixel becomes a square of one size.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)
from PIL import Image

_DPI = 224
_WIDTH = 8 * _DPI  # of a sheet, in output pixels, as are the next three
_MARGIN = 18
_TOP = 140  # holds the title and the titles of the panels
_LABELS = 100  # holds the names of rows
_GREY = 0.5
_LOG_EPOCHS = 30  # longer runs get a logarithmic axis
_DEPTH = 5  # the y axis goes this many times as far down as to the middle value
# Of Okabe and Ito: blue, vermillion, green, purple, orange, sky blue, black.
_COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
_CURVES = {
    "train_bound": {"color": _COLORS[0], "linestyle": "-"},
    "test_bound": {"color": _COLORS[1], "linestyle": "--"},
}
_DASHES = "-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1))
_STYLES = [  # later lines let earlier ones show through
    {"color": _COLORS[i % 7], "linestyle": _DASHES[i % 4]} for i in range(28)
]
_MARKED_POINTS = 100  # curves of more points show only their line
_GREY_LEVELS = (64, 32, 16, 8, 4, 2)  # of a GIF, the first that stays below _GIF_BYTES
_GIF_BYTES = 3_000_000


def montage(images: np.ndarray, n_columns: int) -> np.ndarray:
    """Tile images row by row, one pixel of mid grey between neighbours.

    Args:
      images: `[n, height, width, channels]`, values in 0..1.
      n_columns: images per row; an incomplete last row is filled with grey.

    Returns:
      image: `[rows * (height + 1) - 1, n_columns * (width + 1) - 1, channels]`.

    Raises:
      ValueError: If `images` is not rank 4, is empty or holds integers above 1,
          or if `n_columns` is below 1.
    """
    images = _check_images("images", images)
    if n_columns < 1:
        raise ValueError(f"n_columns must be at least 1, got {n_columns}")
    n, height, width, channels = images.shape
    n_rows = math.ceil(n / n_columns)
    tiles = np.full((n_rows * n_columns, height + 1, width + 1, channels), _GREY)
    tiles[:n, :-1, :-1] = images
    # [row, column, y, x, channel] to [row, y, column, x, channel]
    grid = tiles.reshape(n_rows, n_columns, *tiles.shape[1:]).swapaxes(1, 2)
    shape = n_rows * (height + 1), n_columns * (width + 1), channels
    return grid.reshape(shape)[:-1, :-1]


def sample_sheet(samples: np.ndarray, means: np.ndarray, title: str) -> Figure:
    """Draw samples of p(x|z) beside the mean images of the same latents.

    Args:
      samples: `[n, height, width, channels]`, values in 0..1.
      means: `[n, height, width, channels]`, E[x|z] for the z of each sample.
      title: what the run is.

    Returns:
      figure: two panels of the same grid, samples on the left, means on the right.

    Raises:
      ValueError: If an argument breaks a rule of `montage` or the shapes differ.
    """
    samples, means = _check_pair(samples=samples, means=means)
    n_columns = math.ceil(math.sqrt(len(samples)))
    kind = "binary samples" if np.isin(samples, (0, 1)).all() else "samples"
    panels = {
        f"{kind} x ~ p(x|z)": montage(samples, n_columns),
        "mean images E[x|z]": montage(means, n_columns),
    }
    height, width = panels["mean images E[x|z]"].shape[:2]
    scale = _scale(2 * width, height, _WIDTH - 3 * _MARGIN)
    figure, left = _sheet(2 * width * scale + _MARGIN, height * scale, title)
    for label, panel in panels.items():
        _panel(figure, panel, left, _TOP, scale).set_title(label, fontsize=11)
        left += width * scale + _MARGIN
    return figure


def reconstruction_sheet(
    images: np.ndarray, reconstructions: np.ndarray, title: str
) -> Figure:
    """Draw test images, each with its reconstruction directly below it.

    Args:
      images: `[n, height, width, channels]`, values in 0..1.
      reconstructions: `[n, height, width, channels]`, in the order of `images`.
      title: what the run is.

    Returns:
      figure: panels of two rows, the row "x" above the row "E[x|z]".

    Raises:
      ValueError: If an argument breaks a rule of `montage` or the shapes differ.
    """
    pair = _check_pair(images=images, reconstructions=reconstructions)
    n, image_height = pair[0].shape[:2]
    n_panels = math.ceil(n / (10 if n <= 50 else 20))
    n_columns = math.ceil(n / n_panels)
    panels = [
        montage(np.stack([montage(x[i : i + n_columns], n_columns) for x in pair]), 1)
        for i in range(0, n, n_columns)
    ]
    height, width = panels[0].shape[:2]
    scale = _scale(width, len(panels) * height, _WIDTH)
    step = height * scale + 2 * _MARGIN
    figure, left = _sheet(
        width * scale, len(panels) * step - 2 * _MARGIN, title, labels=_LABELS
    )
    for i, panel in enumerate(panels):
        axes = _panel(figure, panel, left, _TOP + i * step, scale)
        _name_row(axes, "x", (image_height - 1) / 2)
        _name_row(axes, "E[x|z]", (image_height - 1) / 2 + image_height + 1)
    figure.axes[0].set_title(
        "test images x above their reconstructions E[x|z]", fontsize=11
    )
    return figure


def training_curves(rows: Sequence[Mapping[str, object]], title: str) -> Figure:
    """Draw the training and test bound over epochs.

    Args:
      rows: one mapping per epoch, as `csv.DictReader` reads metrics.csv: "epoch",
          and "train_bound" and "test_bound" in nats per image, each a number or
          its text; missing, empty and non-finite values are not drawn.
      title: what the run is.

    Returns:
      figure: one panel. Very low values of the first epochs may lie below it; a
          note in the figure then says so.

    Raises:
      ValueError: If `rows` is empty or a row has no epoch.
    """
    if not len(rows):
        raise ValueError("rows must hold at least one epoch, got 0 rows")
    epochs = _column(rows, "epoch")
    if not np.isfinite(epochs).all():
        raise ValueError(f"rows must all have a finite epoch, got {epochs.tolist()}")
    figure = Figure(figsize=(8, 4.5), dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=_title_size(title))
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
    axes.legend(loc="lower right")
    return figure


class Panel(NamedTuple):
    """Axes of a `line_sheet`.

    Attributes:
      title: of the panel.
      xlabel: of the x axis.
      ylabel: of the y axis.
      curves: by their label, x and y of equal length; what is not finite is not drawn.
      log: axes with a logarithmic scale: "", "x", "y" or "xy". A linear y axis is that
        of `training_curves`: very low values of the start may lie below it.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log: str = ""


def line_sheet(rows: Sequence[Sequence[Panel]], title: str) -> Figure:
    """Draw panels of curves; labels that agree up to a colon have the same colour.

    Args:
      rows: panels of each row, equally many.
      title: what all of them are about.

    Returns:
      figure: one panel under another and beside another.

    Raises:
      ValueError: If there are no panels, or the rows differ in length.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"rows must be equally many panels each, got {[len(row) for row in rows]}"
        )
    n_columns = lengths.pop()
    size = (4.4 * n_columns, 3.8 * len(rows) + 0.4)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=min(13, 13 * size[0] * 8.5 / max(len(title), 1)))
    grid = figure.subplots(len(rows), n_columns, squeeze=False)
    panels = [panel for row in rows for panel in row]
    names = dict.fromkeys(c.split(":")[0] for panel in panels for c in panel.curves)
    styles = dict(zip(names, itertools.cycle(_STYLES), strict=False))
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
            _log_axis(axes.xaxis, [x for x, _ in drawn])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if "y" in panel.log:
            _log_axis(axes.yaxis, [y for _, y in drawn])
        else:
            _bound_axis(axes, drawn)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17)
        )
    return figure


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as a PNG; the same figure always gives the same bytes.

    Args:
      figure: a figure of this module.
      path: the file to write or to replace, in a folder that exists.
    """
    with _replacing(path) as temporary:
        # matplotlib would write its version into the file
        figure.savefig(temporary, format="png", metadata={"Software": None})


def animate(
    png_paths: Sequence[str | os.PathLike],
    gif_path: str | os.PathLike,
    seconds_per_frame: float = 0.8,
) -> None:
    """Join PNGs to one grey, endless GIF that rests on its last frame.

    Args:
      png_paths: the frames in order; smaller ones get white on the right and below.
      gif_path: the file to write or to replace, in a folder that exists.
      seconds_per_frame: time per frame; the last one stays three times as long.

    Raises:
      ValueError: If there are no frames or they last less than 0.02 s, which
          browsers do not follow.
    """
    if not len(png_paths):
        raise ValueError("png_paths must hold at least one PNG, got 0 paths")
    if not seconds_per_frame >= 0.02:
        raise ValueError(
            f"seconds_per_frame must be at least 0.02, got {seconds_per_frame}"
        )
    images = [_grey_image(path) for path in png_paths]
    size = tuple(np.max([image.size for image in images], axis=0).tolist())
    frames = [Image.new("L", size, 255) for _ in images]
    for frame, image in zip(frames, images, strict=True):
        frame.paste(image)
    milliseconds = [round(1000 * seconds_per_frame)] * len(frames)
    milliseconds[-1] *= 3
    with _replacing(gif_path) as temporary:
        for levels in _GREY_LEVELS:
            _write_gif(frames, temporary, milliseconds, levels)
            if temporary.stat().st_size < _GIF_BYTES:
                break


def _check_images(name: str, images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"{name} must be a non-empty [n, height, width, channels],"
            f" got shape {images.shape}"
        )
    if images.dtype.kind in "iu" and images.max() > 1:
        raise ValueError(f"{name} must be in 0..1, got a maximum of {images.max()}")
    return images.astype(float)


def _check_pair(**pair: np.ndarray) -> list[np.ndarray]:
    first, second = (_check_images(*item) for item in pair.items())
    if first.shape != second.shape:
        raise ValueError(
            "{} and {} must have the same shape,".format(*pair)
            + f" got {first.shape} and {second.shape}"
        )
    return [first, second]


def _scale(width: int, height: int, room: int) -> int:
    """Output pixels per image pixel: a whole number, as large as fits."""
    return max(1, min(room // width, int(0.85 * _WIDTH) // height))


def _sheet(width: int, height: int, title: str, labels: int = 0) -> tuple[Figure, int]:
    """A figure around panels of that many output pixels, and their left edge."""
    total = max(_WIDTH, labels + width + 2 * _MARGIN)
    size = np.array([total, _TOP + height + _MARGIN])
    figure = Figure(figsize=size / _DPI, dpi=_DPI)
    left = (total - width + labels) // 2
    figure.suptitle(
        title,
        x=(left + width / 2) / total,
        y=1 - 20 / size[1],
        va="top",
        fontsize=_title_size(title),
    )
    return figure, left


def _title_size(title: str) -> float:
    """Points at which the title fits into 8 inches."""
    return min(13, 13 * 70 / max(len(title), 1))


def _panel(figure: Figure, image: np.ndarray, left: int, top: int, scale: int) -> Axes:
    """Show an image with its upper left corner at that output pixel."""
    # matplotlib before 3.11 rounds sizes up, so float error would add a pixel
    height, width = np.array(image.shape[:2]) * scale - 1e-3
    bottom = figure.bbox.height - top - height
    position = np.array([left, bottom, width, height])
    axes = figure.add_axes(position / np.tile(figure.bbox.size, 2))
    axes.imshow(
        _displayable(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_axis_off()
    return axes


def _displayable(image: np.ndarray) -> np.ndarray:
    """RGB as it is, every other number of channels as its mean."""
    image = np.nan_to_num(image, nan=_GREY).clip(0, 1)
    return image if image.shape[-1] == 3 else image.mean(-1)


def _name_row(axes: Axes, name: str, y: float) -> None:
    axes.annotate(
        name,
        (-0.5, y),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9,
    )


def _column(rows: Sequence[Mapping[str, object]], key: str) -> np.ndarray:
    values = [row.get(key) for row in rows]
    return np.array([math.nan if v in ("", None) else float(v) for v in values])


def _label(key: str, epochs: np.ndarray, values: np.ndarray) -> str:
    name = key.replace("_", " ")
    if not len(values):
        return f"{name}: not measured"
    return f"{name}: {_number(values[-1])} at epoch {epochs[-1]:.0f}"


def _number(value: float) -> str:
    """As matplotlib writes it on an axis, with a minus and not a hyphen."""
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


def _log_axis(axis: Axis, values: Sequence[np.ndarray]) -> None:
    """Plain numbers at 1, 2, 5, 10, ... of a logarithmic axis, or at powers of 10."""
    if not values:
        return
    drawn = np.concatenate(values)
    subs = (1, 2, 5) if drawn.max() < 300 * drawn.min() else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bound_axis(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Fit the y axis to the run after its start, and say what that leaves out."""
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
        note = f"lowest value {_number(y.min())} (epoch {x[y.argmin()]:.0f}) not shown"
        axes.set_title(note, loc="right", fontsize=8, color="0.35")


def _grey_image(path: str | os.PathLike) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("L")


def _write_gif(
    frames: Sequence[Image.Image], path: Path, milliseconds: list[int], levels: int
) -> None:
    grey = np.linspace(0, 255, levels).round()
    table = [int(grey[round(v / 255 * (levels - 1))]) for v in range(256)]
    first, *others = (frame.point(table) for frame in frames)
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
    )


@contextlib.contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A file beside `path` that takes its place once it is complete."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
