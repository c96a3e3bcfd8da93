"""Arrays in memory that TensorFlow can use without a copy."""

import math

import numpy as np

_ALIGNMENT = 64  # bytes; TensorFlow uses an array in place if its address divides by it


def aligned(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An array without values in memory that TensorFlow can use without a copy."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + n_bytes].view(dtype).reshape(shape)


def is_aligned(x: np.ndarray) -> bool:
    """Whether TensorFlow can use an array without a copy."""
    is_plain = x.flags.c_contiguous and x.flags.writeable and x.dtype.isnative
    return is_plain and x.ctypes.data % _ALIGNMENT == 0


def aligned_copy(x: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """A copy that TensorFlow can use without another."""
    copy = aligned(x.shape, dtype)
    copy[...] = x
    return copy
