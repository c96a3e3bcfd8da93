"""Write figures to files, and join files into a GIF."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageChops

from iwae_tf.errors import UsageError
from iwae_tf.files import written_whole
from iwae_tf.plots.layout import Figure, literal_text

_GREY_LEVELS = (64, 32, 16, 8, 4, 2)  # tried until the GIF is below _GIF_BYTES
_COLORS = (255, 128, 64, 32, 16, 8)  # numbers of colours, tried likewise
_SAMPLE = 100_000  # number of pixels that a palette is made from
_GIF_BYTES = 1_000_000


@literal_text
def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as a PNG; the same figure always gives the same bytes.

    Args:
      figure: the figure to write.
      path: the file to write or to replace, in a folder that exists.
    """
    with written_whole(path) as temporary:
        # matplotlib would write its version into the file
        figure.savefig(temporary, format="png", metadata={"Software": None})


def animate(
    png_paths: Sequence[str | os.PathLike],
    gif_path: str | os.PathLike,
    seconds_per_frame: float = 0.8,
    shrink: int = 1,
) -> None:
    """Join PNGs into one endless GIF that pauses at its last frame.

    It is grey if all frames are grey. Otherwise all frames share one palette. It has
    fewer greys or colours than the frames if it would be larger than one megabyte.

    Args:
      png_paths: the frames in order; smaller ones are padded with white on the right
          and below.
      gif_path: the file to write or to replace, in a folder that exists.
      seconds_per_frame: time per frame; the last one stays three times as long.
      shrink: each square of this many pixels becomes one pixel, their mean. Frames of
        8 inches have a width for pages on the web if it is 2 or 3.

    Raises:
      ValueError: If there are no frames, `shrink` is below 1, or frames last less than
          0.02 s, which browsers do not follow.
    """
    if not len(png_paths):
        raise ValueError("png_paths must hold at least one PNG, got 0 paths")
    if shrink < 1:
        raise ValueError(f"shrink must be at least 1, got {shrink}")
    if not seconds_per_frame >= 0.02:
        raise ValueError(
            f"seconds_per_frame must be at least 0.02, got {seconds_per_frame}"
        )
    images = [_open(path).reduce(shrink) for path in png_paths]
    color = any(image.mode == "RGB" for image in images)
    size = tuple(np.max([image.size for image in images], axis=0).tolist())
    frames = [Image.new("RGB" if color else "L", size, "white") for _ in images]
    for frame, image in zip(frames, images, strict=True):
        frame.paste(image)
    milliseconds = [round(1000 * seconds_per_frame)] * len(frames)
    milliseconds[-1] *= 3
    reduced = _colors(frames) if color else _greys(frames)
    with written_whole(gif_path) as temporary:
        for first, *others in reduced:
            first.save(
                temporary,
                format="GIF",
                save_all=True,
                append_images=others,
                duration=milliseconds,
                loop=0,
            )
            if temporary.stat().st_size < _GIF_BYTES:
                break


def read_png(path: str | os.PathLike) -> np.ndarray:
    """Read an image file.

    Args:
      path: the file.

    Returns:
      pixels: [height, width, 3], 0 to 255.

    Raises:
      UsageError: If it cannot be read to its end without damage.
    """
    try:
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:  # Pillow raises errors of many kinds
        raise UsageError(
            f"path: must be an image that can be read, got {str(path)!r}"
        ) from None


def _open(path: str | os.PathLike) -> Image.Image:
    """Open an image: in colour if it has any, otherwise in grey."""
    with Image.open(path) as image:
        red, *others = image.convert("RGB").split()
        if any(ImageChops.difference(red, other).getbbox() for other in others):
            return image.convert("RGB")
        return image.convert("L")


def _greys(frames: Sequence[Image.Image]) -> Iterator[list[Image.Image]]:
    for levels in _GREY_LEVELS:
        grey = np.linspace(0, 255, levels).round()
        table = [int(grey[round(v / 255 * (levels - 1))]) for v in range(256)]
        yield [frame.point(table) for frame in frames]


def _colors(frames: Sequence[Image.Image]) -> Iterator[list[Image.Image]]:
    """Frames with one palette, so that parts that stand still do not flicker."""
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames])
    if len(pixels) > _SAMPLE:
        pixels = pixels[np.random.default_rng(0).integers(len(pixels), size=_SAMPLE)]
    sample = Image.fromarray(pixels[None])
    for n in _COLORS:
        palette = sample.quantize(n, Image.Quantize.MAXCOVERAGE)
        table = np.array(palette.getpalette()).reshape(-1, 3)
        # Pillow looks colours up by their first six bits, and pages must stay white
        table[table.min(1) >= 248] = 255
        palette.putpalette(table.ravel().tolist())
        none = Image.Dither.NONE
        yield [frame.quantize(palette=palette, dither=none) for frame in frames]
