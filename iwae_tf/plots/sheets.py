"""Images in rows and columns, laid out in whole output pixels.

Every image pixel becomes a square of the same size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from iwae_tf.plots.layout import (
    DPI,
    GREY,
    MARGIN,
    SHRINK,
    TOP,
    WIDTH,
    Figure,
    check_images,
    image_axes,
    literal_text,
    name_row,
    sheet,
    text_size,
    text_width,
)

_LABELS = 100  # width for the names of rows; all three are in output pixels
_TITLE = 60  # height for the title of a block
_COLUMN_NAMES = 42
_COLUMNS = 10  # of samples above their means
MISSING = np.array([0.35, 0.6, 0.95])  # colour of missing pixels


def montage(images: np.ndarray, n_columns: int) -> np.ndarray:
    """Tile images row by row, with one pixel of mid grey between neighbours.

    Args:
      images: `[n, height, width, channels]`, values in 0..1.
      n_columns: number of images in a row; an incomplete last row is filled with grey.

    Returns:
      image: `[rows * (height + 1) - 1, n_columns * (width + 1) - 1, channels]`.

    Raises:
      ValueError: If `images` is not rank 4, is empty or holds integers above 1,
          or if `n_columns` is below 1.
    """
    images = check_images("images", images)
    if n_columns < 1:
        raise ValueError(f"n_columns must be at least 1, got {n_columns}")
    n, height, width, channels = images.shape
    n_rows = math.ceil(n / n_columns)
    tiles = np.full((n_rows * n_columns, height + 1, width + 1, channels), GREY)
    tiles[:n, :-1, :-1] = images
    # [row, column, y, x, channel] to [row, y, column, x, channel]
    grid = tiles.reshape(n_rows, n_columns, *tiles.shape[1:]).swapaxes(1, 2)
    shape = n_rows * (height + 1), n_columns * (width + 1), channels
    return grid.reshape(shape)[:-1, :-1]


def missing_in_blue(images: np.ndarray) -> np.ndarray:
    """Colours missing pixels, which are NaN.

    Args:
      images: `[..., height, width, channels]`; other numbers of channels than 1 and 3
          are averaged.

    Returns:
      images: the same with 3 channels, `[..., height, width, 3]`.
    """
    if images.shape[-1] not in (1, 3):
        images = images.mean(axis=-1, keepdims=True)
    is_missing = np.isnan(images).any(axis=-1, keepdims=True)
    return np.where(is_missing, MISSING, images)


@literal_text
def sample_sheet(samples: np.ndarray, means: np.ndarray, title: str) -> Figure:
    """Draw samples of p(x|z) beside the mean images of the same latents.

    Args:
      samples: `[n, height, width, channels]`, values in 0..1.
      means: `[n, height, width, channels]`, E[x|z] for the z of each sample.
      title: a description of the run.

    Returns:
      figure: two panels of the same grid, samples to the left of the means or above
        them, whichever shows them larger. One pixel of an image is a square of a whole
        number of pixels, and a multiple of `SHRINK` if there is room, so that the sheet
        can be reduced that many times and stays sharp.

    Raises:
      ValueError: If an argument breaks a rule of `montage` or the shapes differ.
    """
    samples, means = _check_pair(samples=samples, means=means)
    n = len(samples)
    # with columns: [panels across, panels down]
    grids = {math.ceil(math.sqrt(n)): (2, 1), min(n, _COLUMNS): (1, 2)}
    kind = "binary samples" if np.isin(samples, (0, 1)).all() else "samples"
    texts = f"{kind} x ~ p(x|z)", "mean images E[x|z]"

    def scale_of(n_columns):
        height, width = montage(means, n_columns).shape[:2]
        across, down = grids[n_columns]
        room = WIDTH - (across + 1) * MARGIN
        return _scale(across * width, down * height, room)

    n_columns = max(grids, key=scale_of)
    across, down = grids[n_columns]
    panels = [montage(part, n_columns) for part in (samples, means)]
    scale = scale_of(n_columns)
    scale = max(1, round(scale / SHRINK)) * SHRINK if scale > 1 else scale
    height, width = (side * scale for side in panels[0].shape[:2])
    total = across * width + (across - 1) * MARGIN
    step = height + _TITLE
    figure, left = sheet(total, height + (down - 1) * step, title)
    for i, (text, panel) in enumerate(zip(texts, panels, strict=True)):
        at = (
            (left + i * (width + MARGIN), TOP) if across > 1 else (left, TOP + i * step)
        )
        image_axes(figure, panel, *at, scale).set_title(text, fontsize=11)
    return figure


@literal_text
def reconstruction_sheet(
    images: np.ndarray, reconstructions: np.ndarray, title: str
) -> Figure:
    """Draw test images, each with its reconstruction directly below it.

    Args:
      images: `[n, height, width, channels]`, values in 0..1; NaN is missing.
      reconstructions: `[n, height, width, channels]`, in the order of `images`.
      title: a description of the run.

    Returns:
      figure: panels of two rows, the row "x" above the row "E[x|z]".

    Raises:
      ValueError: If an argument breaks a rule of `montage` or the shapes differ.
    """
    pair = _check_pair(images=images, reconstructions=reconstructions)
    note = ""
    if np.isnan(pair[0]).any():
        pair, note = [missing_in_blue(x) for x in pair], "; missing pixels are blue"
    n, image_height = pair[0].shape[:2]
    n_panels = math.ceil(n / (10 if n <= 50 else 20))
    n_columns = math.ceil(n / n_panels)
    panels = [
        montage(np.stack([montage(x[i : i + n_columns], n_columns) for x in pair]), 1)
        for i in range(0, n, n_columns)
    ]
    height, width = panels[0].shape[:2]
    scale = _scale(width, len(panels) * height, WIDTH)
    step = height * scale + 2 * MARGIN
    figure, left = sheet(
        width * scale, len(panels) * step - 2 * MARGIN, title, labels=_LABELS
    )
    for i, panel in enumerate(panels):
        axes = image_axes(figure, panel, left, TOP + i * step, scale)
        name_row(axes, "x", (image_height - 1) / 2)
        name_row(axes, "E[x|z]", (image_height - 1) / 2 + image_height + 1)
    figure.axes[0].set_title(
        f"test images x above their reconstructions E[x|z]{note}", fontsize=11
    )
    return figure


class Block(NamedTuple):
    """Rows of images in an `image_table`.

    Attributes:
      title: the title above the images; may be empty.
      rows: for each row, by the name to its left, images `[columns, height, width,
        channels]` with values in 0..1.
      column_names: short names above the columns, one per column; None for no names.
    """

    title: str
    rows: Mapping[str, np.ndarray]
    column_names: Sequence[str] | None = None


@literal_text
def image_table(blocks: Sequence[Block], title: str) -> Figure:
    """Draw blocks of named rows of images, one block under another.

    Args:
      blocks: blocks with images of any size; an image pixel is equally large in all.
      title: the title of the figure.

    Returns:
      figure: one panel per block, which is a `montage` of its images. Names that are
          too long for their place are written smaller.

    Raises:
      ValueError: If there are no blocks, or one has no images, rows of different
          shapes, images that break a rule of `montage`, or names that are not one per
          column.
    """
    if not len(blocks):
        raise ValueError("blocks must hold at least one block, got 0 blocks")
    panels = [_table(f"of block {i}", block) for i, block in enumerate(blocks)]
    names = [name for block in blocks for name in block.rows]
    points = text_size(names, 9, 0.4 * WIDTH)
    labels = math.ceil(text_width(names, points)) + MARGIN
    width = max(panel.shape[1] for panel in panels)
    height = sum(panel.shape[0] for panel in panels)
    scale = max(
        1, min((WIDTH - 2 * MARGIN - labels) // width, 3 * WIDTH // 2 // height)
    )
    row = min(_size(block)[0] + 1 for block in blocks) * scale
    points = min(points, 0.8 * row * 72 / DPI)
    heads = [_head(block) for block in blocks]
    gaps = 2 * MARGIN * (len(blocks) - 1) - _TITLE
    figure, left = sheet(
        labels + width * scale, sum(heads) + height * scale + gaps, title
    )
    left += labels
    top = TOP - _TITLE
    for block, panel, head in zip(blocks, panels, heads, strict=True):
        axes = image_axes(figure, panel, left, top + head, scale)
        _name(axes, block, points, scale, figure.bbox.width - left - MARGIN)
        top += head + len(panel) * scale + 2 * MARGIN
    return figure


def _check_pair(**pair: np.ndarray) -> list[np.ndarray]:
    first, second = (check_images(*item) for item in pair.items())
    if first.shape != second.shape:
        raise ValueError(
            "{} and {} must have the same shape,".format(*pair)
            + f" got {first.shape} and {second.shape}"
        )
    return [first, second]


def _scale(width: int, height: int, room: int) -> int:
    """Output pixels per image pixel: the largest whole number that fits."""
    return max(1, min(room // width, int(0.85 * WIDTH) // height))


def _table(name: str, block: Block) -> np.ndarray:
    shapes = {np.shape(row) for row in block.rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows {name} must have one shape, got {sorted(shapes)}")
    axes = "rows, columns, height, width, channels"
    images = check_images(f"rows {name}", np.stack(list(block.rows.values())), axes)
    names, n = block.column_names, images.shape[1]
    if names is not None and len(names) != n:
        raise ValueError(
            f"column_names {name} must be one per column, got {len(names)} names for "
            f"{n} columns"
        )
    return montage(images.reshape(-1, *images.shape[2:]), n)


def _size(block: Block) -> tuple[int, int]:
    """Height and width of the images of a block."""
    height, width = np.shape(next(iter(block.rows.values())))[1:3]
    return height, width


def _head(block: Block) -> int:
    """Output pixels above the images of a block."""
    return _TITLE * bool(block.title) + _COLUMN_NAMES * (block.column_names is not None)


def _name(axes: Axes, block: Block, points: float, scale: int, room: float) -> None:
    height, width = np.array(_size(block)) + 1
    for i, name in enumerate(block.rows):
        name_row(axes, name, i * height + (height - 2) / 2, points)
    columns = () if block.column_names is None else block.column_names
    above = {"textcoords": "offset points", "va": "bottom"}
    size = text_size(columns, 9, 0.9 * width * scale)
    for i, name in enumerate(columns):
        x = i * width + (width - 2) / 2
        axes.annotate(name, (x, -0.5), (0, 3), ha="center", fontsize=size, **above)
    y = 5 + (_COLUMN_NAMES * 72 / DPI if len(columns) else 0)
    size = text_size([block.title], 11, room)
    axes.annotate(block.title, (-0.5, -0.5), (0, y), fontsize=size, **above)
