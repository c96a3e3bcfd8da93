"""Observations in memory or on disk, and the rules that they and labels obey.

Importing this module imports only NumPy.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import logging

from iwae_tf.data.memory import aligned_copy
from iwae_tf.errors import UsageError

_PIECE = 2**20  # number of values of a `Mapped` that are read at once


class Mapped:
    """Observations on disk, of which only the rows that are asked for are in memory.

    A slice of it is another one. An array of places gives these rows, and `np.asarray`
    gives all rows.

    Attributes:
      shape: `[n, height, width, channels]` of images, or `[n, ...]`.
      dtype: the type of the rows that are read, whatever the file has.
    """

    def __init__(
        self,
        on_disk: np.ndarray,
        memory: mmap.mmap,
        dtype: np.dtype | type | None = None,
        standard: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        """Takes an array of `np.load(path, mmap_mode="r")`, or a slice of its rows.

        Args:
          on_disk: the array.
          memory: what it lies in.
          dtype: the type of the rows that are read, by default that of the file.
          standard: what is subtracted from the rows, and what they are divided by.
        """
        self._on_disk, self._memory, self._standard = on_disk, memory, standard
        channels = (1,) if on_disk.ndim == 3 else ()
        self.shape = (*on_disk.shape, *channels)
        self.dtype = np.dtype(dtype or on_disk.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        """The number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> Mapped | np.ndarray:
        """A slice, which reads nothing, or the rows at an array of places."""
        if isinstance(rows, slice):
            return self._with(self._on_disk[rows], self.dtype, self._standard)
        return self._read(rows, "MADV_RANDOM")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """All rows in memory."""
        return self._read(slice(None), "MADV_NORMAL").astype(dtype or self.dtype)

    def astype(self, dtype: np.dtype | type) -> Mapped:
        """The same rows, read as another type."""
        return self._with(self._on_disk, dtype, self._standard)

    def standardised(self, mean: np.ndarray, scale: np.ndarray) -> Mapped:
        """The same rows after subtraction of a mean and division by a scale."""
        return self._with(self._on_disk, self.dtype, (mean, scale))

    def _with(self, on_disk, dtype, standard):
        return Mapped(on_disk, self._memory, dtype, standard)

    def _read(self, rows, order):
        self._advise(order)
        x = np.array(self._on_disk[rows], self.dtype).reshape(-1, *self.shape[1:])
        # Pages that were read count as memory of the process until they are released.
        self._advise("MADV_DONTNEED")
        if self._standard is None:
            return x
        mean, scale = self._standard
        return (x - mean) / scale

    def _advise(self, advice):
        if hasattr(mmap, advice):  # not on Windows
            self._memory.madvise(getattr(mmap, advice))


def pieces(x: np.ndarray | Mapped) -> Iterator[np.ndarray]:
    """The arrays that make up observations: an array itself, or slices of a `Mapped`.

    The sum over single numbers that are in memory does not go from row to row, so they
    are one piece too.
    """
    n_values = math.prod(x.shape[1:])
    if isinstance(x, np.ndarray) or n_values == 1:
        yield np.asarray(x)
        return
    n = max(1, _PIECE // n_values)
    for first in range(0, len(x), n):
        yield np.asarray(x[first : first + n])


def limits_of(x: np.ndarray | Mapped) -> tuple[np.generic, np.generic]:
    """The least and the greatest value; NaN only if all are."""
    ends = [
        (np.fmin.reduce(piece, axis=None), np.fmax.reduce(piece, axis=None))
        for piece in pieces(x)
    ]
    lows, highs = zip(*ends, strict=True)
    return np.fmin.reduce(lows), np.fmax.reduce(highs)


class Images(NamedTuple):
    """A data set, in memory or on disk.

    Attributes:
      name: letters, digits, `-` and `_` only, fit for a directory name.
      x_train: images `[n, height, width, channels]`, uint8 0..255 or float32, or
        others `[n, ...]`, float32; NaN where an entry is missing.
      x_test: `[m, ...]`, same type as `x_train`; None if there are only training data,
        of which some are then held out.
      y_train: labels `[n]`, int64 or strings, or contexts `[n, c]`, float32, or None.
      y_test: the same of the test data, `[m]` or `[m, c]`.
    """

    name: str
    x_train: np.ndarray | Mapped
    x_test: np.ndarray | Mapped | None
    y_train: np.ndarray | None
    y_test: np.ndarray | None

    @property
    def test_labels(self) -> np.ndarray | None:
        """The labels `[m]` of the test data; None if there are none, but contexts."""
        return self.y_test if has_labels(self.y_test) else None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one observation: `(height, width, channels)` of an image."""
        return self.x_train.shape[1:]


def has_labels(y: np.ndarray | None) -> bool:
    """Whether `y` is one label for each image, not a context, nor None."""
    return y is not None and y.ndim == 1


def check_images(where: str, x: np.ndarray | Mapped) -> np.ndarray | Mapped:
    """Returns images as `[n, h, w, c]` and others as they are, or raises.

    Integers of images are uint8 0..255. All else becomes float32, and must be finite or
    NaN, which is for missing entries.
    """
    check_shape(where, x.shape)
    if x.dtype.kind not in "biuf":
        raise UsageError(f"{where} must be integer, float or bool, got {x.dtype}")
    low, high = limits_of(x)
    if np.isinf([low, high]).any():
        count = sum(np.count_nonzero(np.isinf(piece)) for piece in pieces(x))
        raise UsageError(f"{where} must be finite or NaN, got {count} inf of {x.size}")
    is_grey = x.dtype.kind in "iu" and x.ndim > 2
    if is_grey and (low < 0 or high > 255):
        rule = f"must lie in 0..255 for {x.dtype}"
        raise UsageError(f"{where} {rule}, got values {low}..{high}")
    if is_grey and high <= 1:
        logging.warning(
            "%s has only values 0 and 1 of 0..255; save binary images as bool", where
        )
    dtype = np.uint8 if is_grey else np.float32
    if isinstance(x, Mapped):
        return x.astype(dtype)
    x = x[..., np.newaxis] if x.ndim == 3 else x
    return x if x.dtype == dtype else aligned_copy(x, dtype)


def check_shape(where: str, shape: tuple[int, ...]) -> None:
    """Raises if an array cannot hold observations."""
    if len(shape) < 2:
        rule = "must have rank 2 [n, d] or more, such as images [n, h, w, c]"
        raise UsageError(f"{where} {rule}, got shape {shape}")
    if 0 in shape:
        rule = "must hold at least one observation of at least one entry"
        raise UsageError(f"{where} {rule}, got shape {shape}")


def check_labels(where: str, y: np.ndarray | None, count: int) -> np.ndarray | None:
    """Returns labels or contexts as `Images` has them, None for None, or raises."""
    if y is None:
        return None
    is_context = y.ndim == 2 and y.dtype.kind == "f" and y.shape[1] > 0
    if y.shape[:1] != (count,) or not (
        is_context or (y.ndim == 1 and y.dtype.kind in "iuU")
    ):
        rule = (
            f"must be labels, integers or strings of shape {(count,)}, or contexts, "
            f"floats of shape ({count}, c)"
        )
        raise UsageError(f"{where} {rule}, got {y.dtype} of shape {y.shape}")
    if not is_context:
        return y if y.dtype.kind == "U" else y.astype(np.int64, copy=False)
    with np.errstate(over="ignore"):
        context = y.astype(np.float32, copy=False)
    n_bad = np.count_nonzero(~np.isfinite(context))
    if n_bad:
        rule = "must be finite as float32"
        raise UsageError(f"{where} {rule}, got {n_bad} of {y.size} that are not")
    return context


def check_agreement(where: str, letter: str, what: str, arrays: list) -> None:
    """Raises if arrays of training and test data differ in shape or type."""
    kinds = {(x.shape[1:], x.dtype.kind) for x in arrays if x is not None}
    if len(kinds) > 1:
        rule = f"{letter}_train and {letter}_test must agree in {what} and type"
        found = " and ".join(f"{x.shape[1:]} {x.dtype}" for x in arrays)
        raise UsageError(f"{where!r}: {rule}, got {found}")
