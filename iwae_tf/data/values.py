"""The values of observations: made binary or grey, checked, and digested."""

import hashlib
import json
import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from iwae_tf import randomness
from iwae_tf.data import observations
from iwae_tf.errors import UsageError, check_one_of
from iwae_tf.rules import BINARIZATIONS

LEVEL_WIDTH = 1e-3  # how far from a level a value may be, in parts of their spacing
_SLICE = 2**20  # number of values converted to float32 at once


def binarize(
    x: np.ndarray | tf.Tensor, mode: str = "dynamic", seed: int | tf.Tensor = 0
) -> tf.Tensor:
    """Makes images binary; NaN, which is missing, stays NaN.

    Args:
      x: images, uint8 0..255 or float 0..1, any shape; any floats for the mode `none`.
      mode: `dynamic` draws each pixel from a Bernoulli with the grey value as its
        mean, `threshold` gives 1 for grey values of at least 0.5, and `none` keeps the
        values.
      seed: random seed of the mode `dynamic`, an integer or [2].

    Returns:
      x: float32, same shape.

    Raises:
      UsageError: for an unknown mode.
    """
    check_one_of(BINARIZATIONS, binarization=mode)
    x = _read(x)
    if mode != "none":
        check_unit(x)
    return binarize_rows(x, mode, seed)


def binarize_rows(
    x: np.ndarray | tf.Tensor,
    mode: str,
    seed: int | tf.Tensor,
    first: int | None = None,
) -> tf.Tensor:
    """The values of `binarize`, of arguments that are known to be right.

    Args:
      x: images, of which these may be a part.
      mode: as for `binarize`.
      seed: as for `binarize`.
      first: the place of the first value among those of all images; None for all.
    """
    grey = _floats(x)
    if mode == "none":
        return grey
    if mode == "dynamic":
        threshold = randomness.uniform(tf.shape(x), randomness.seed_of(seed), first)
        binary = tf.cast(threshold < grey, tf.float32)
    else:
        binary = tf.cast(grey >= 0.5, tf.float32)
    if x.dtype == np.uint8:
        return binary
    return tf.where(tf.math.is_nan(grey), grey, binary)


def binarize_in_slices(
    x: np.ndarray | observations.Mapped, mode: str, seed: int
) -> np.ndarray:
    """The values of `binarize` as an array; only a slice of `x` becomes a tensor."""
    binary = np.empty(x.shape, np.float32)
    with tf.device("CPU"):  # they would come back from a GPU
        for rows in _slices(x):
            first = rows.start * math.prod(x.shape[1:])
            binary[rows] = binarize_rows(_read(x[rows]), mode, seed, first)
    return binary


def grey(x: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Returns images as float32 in 0..1; uint8 is divided by 255.

    Raises:
      UsageError: for an array of another type with values that are not in 0..1; NaN is
        missing.
    """
    x = _read(x)
    check_unit(x)
    return _floats(x)


def _read(x):
    """Observations in memory."""
    return np.asarray(x) if isinstance(x, observations.Mapped) else x


def _floats(x):
    return tf.cast(x, tf.float32) / (255.0 if x.dtype == np.uint8 else 1.0)


def check_unit(x: np.ndarray | observations.Mapped | tf.Tensor) -> None:
    """Raises if an array that is not uint8 has values outside 0..1."""
    is_array = isinstance(x, np.ndarray | observations.Mapped)
    if x.dtype == np.uint8 or not is_array or not x.size:
        return
    low, high = observations.limits_of(x)
    if low < 0 or high > 1:
        raise UsageError(
            f"x: must be uint8 in 0..255 or in 0..1, got {x.dtype} from {low:g} to "
            f"{high:g}"
        )


def check_range(
    x: np.ndarray,
    limits: tuple[float, float],
    step: float | None = None,
    missing: bool = False,
) -> None:
    """Checks the values of observations.

    Args:
      x: observations, any shape.
      limits: the least and the greatest value; all values must be finite.
      step: spacing of the levels from the least value on, if there are levels.
      missing: whether NaN stands for a missing entry.

    Raises:
      UsageError: if a value is out of range or between two levels, or if it is NaN and
        not missing.
    """
    if not x.size or (missing and np.all(np.isnan(x))):
        return
    low, high = (np.fmin, np.fmax) if missing else (np.minimum, np.maximum)
    low, high = low.reduce(x, axis=None), high.reduce(x, axis=None)
    least, greatest = limits
    if not (low >= least and high <= greatest and np.isfinite(low + high)):
        rule = {
            (True, True): f"in {least:g}..{greatest:g}",
            (True, False): f"finite and at least {least:g}",
            (False, True): f"finite and at most {greatest:g}",
            (False, False): "finite",
        }[bool(np.isfinite(least)), bool(np.isfinite(greatest))]
        raise UsageError(f"x: must be {rule}, got {low:g} to {high:g}")
    if step is not None:
        levels = (x - least) / step
        is_between = np.abs(levels - np.rint(levels)) > LEVEL_WIDTH
        if is_between.any():
            raise UsageError(
                f"x: must be one of the {round((greatest - least) / step) + 1} levels "
                f"from {least:g} to {greatest:g}, got {x[is_between].flat[0]:g}"
            )


def _slices(x: np.ndarray) -> Iterator[slice]:
    """Slices of the rows of an array, each of a multiple of 4 rows but the last."""
    n = 4 * max(1, _SLICE // 4 // max(1, math.prod(x.shape[1:])))
    return (slice(first, first + n) for first in range(0, len(x), n))


def sha256(x: np.ndarray | observations.Mapped | tf.Tensor) -> str:
    """The SHA-256 of the shape and the float32 bytes of images, made in slices."""
    if not isinstance(x, observations.Mapped):
        x = np.asarray(x)
    digest = hashlib.sha256(repr(x.shape).encode())
    for rows in _slices(x):
        digest.update(np.ascontiguousarray(_read(x[rows]), dtype="<f4"))
    return digest.hexdigest()


def sha256_of_labels(*labels: np.ndarray) -> str:
    """The SHA-256 of arrays of labels or contexts, one after another.

    Integers are hashed as int64, floats as float32, and strings as lists in JSON.
    """
    digest = hashlib.sha256()
    for y in labels:
        if y.dtype.kind == "U":
            digest.update(json.dumps(y.tolist()).encode())
        else:
            kind = "<f4" if y.dtype.kind == "f" else "<i8"
            digest.update(np.ascontiguousarray(y, dtype=kind))
    return digest.hexdigest()
