"""Values of images, computed batch by batch; each batch can be kept on disk."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from iwae_tf.data import check_range
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.files import read_arrays, write_arrays


def run(
    n: int,
    batch_size: int,
    compute: Callable[[int, int, np.ndarray], dict[str, np.ndarray]],
    directory: Path | None = None,
) -> dict[str, np.ndarray]:
    """Computes the values of n images, or reads those that an earlier call kept.

    Args:
      n: number of images.
      batch_size: number of images in one batch; it becomes n if it is larger.
      compute: function (first, n_own, places) -> named values [..., n_own]. `first` is
        the place of the first image of the batch, `places` [batch_size] are the places
        of all its images, and only the first `n_own` of them count. The last batch is
        filled up with the last image, so that only one shape is compiled.
      directory: directory where a file is kept for each batch; a damaged file counts as
        missing. If it is None, nothing is kept.

    Returns:
      values: named, [..., n].

    Raises:
      UsageError: if n or batch_size is less than 1.
    """
    check_at_least(1, **{"number of images": n}, batch_size=batch_size)
    batch_size = min(batch_size, n)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, n, batch_size):
        path = directory and directory / f"{first:06}.npz"
        if path:
            with contextlib.suppress(UsageError):
                parts.append(read_arrays(path))
                continue
        places = np.minimum(np.arange(first, first + batch_size), n - 1)
        part = compute(first, min(batch_size, n - first), places)
        parts.append(part)
        if path:
            write_arrays(path, **part)
    return {
        name: np.concatenate([part[name] for part in parts], axis=-1)
        for name in parts[0]
    }


def checked(
    model, x: np.ndarray, context: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Checks images and their contexts, and returns them as arrays.

    Args:
      model: if its generator has a `pixel_range`, images must be within it.
      x: images [n, height, width, channels].
      context: y of every image, [n, c], or None.

    Raises:
      UsageError: for values out of range, or if there is not one context per image.
    """
    x = np.asarray(x)
    check_range(x, getattr(getattr(model, "generator", None), "pixel_range", None))
    if context is None:
        return x, None
    context = np.asarray(context)
    if len(context) != len(x):
        raise UsageError(
            f"context: must be one for each of {len(x)} images, got {len(context)}"
        )
    return x, context


def at(
    places: np.ndarray | slice, *arrays: np.ndarray | None
) -> tuple[tf.Tensor | None, ...]:
    """The rows of arrays at the given places, as float32; None stays None."""
    return tuple(
        None if whole is None else tf.constant(np.asarray(whole)[places], tf.float32)
        for whole in arrays
    )
