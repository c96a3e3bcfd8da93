"""Spatial transformers: grids of positions, and images that are read at them.

A position is (x, y), where x points to the right and y down. The centre of the first
pixel of the first row is at (-1, -1), and that of the last pixel of the last row is at
(1, 1). A grid [..., height, width, 2] holds, for each pixel of the warped image, the
position in the image where its value is read.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_LATTICE = 3


def affine_grid(theta: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The grid of an affine map: the pixel at (x, y) is read at theta (x, y, 1).

    Args:
      theta: [..., 2, 3]; [[1, 0, 0], [0, 1, 0]] is the identity.
      height: height of the warped image.
      width: width of the warped image.

    Returns:
      grid: [..., height, width, 2].

    Reference:
      Jaderberg et al. 2015, eq. 1, arXiv:1506.02025.
    """
    pixels = _with_one(_positions(height, width))
    return _linear(tf.unstack(theta, axis=-2), pixels)


def control_points() -> np.ndarray:
    """The positions of a spline's control points in the warped image.

    Returns:
      points: [9, 2], a 3x3 lattice from -1 to 1, row by row.
    """
    return _positions(_LATTICE, _LATTICE).reshape(-1, 2)


def thin_plate_grid(points: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The grid of a thin-plate spline: the smoothest map with given control points.

    The map is linear in the control points, so its linear system is solved only once
    for each image size.

    Args:
      points: positions [..., 9, 2] where the `control_points` are read. If they are the
        `control_points` themselves, the map is the identity.
      height: height of the warped image.
      width: width of the warped image.

    Returns:
      grid: [..., height, width, 2].

    Reference:
      Bookstein 1989, Principal warps; Jaderberg et al. 2015, arXiv:1506.02025.
    """
    return _linear(tf.unstack(points, axis=-1), _spline_basis(height, width))


def _linear(weights, basis):
    """Positions (x, y): weighted sums of basis functions [height, width, n]."""
    # x and y are computed apart: in one sum, the compiled warp computes every index of
    # a transposed array again.
    basis = tf.constant(basis, weights[0].dtype)
    return tf.stack([tf.einsum("...p,hwp->...hw", w, basis) for w in weights], axis=-1)


@functools.cache
def _spline_basis(height, width):
    """[height, width, 9]: the weight of each control point in each position."""
    centres, pixels = control_points(), _positions(height, width).reshape(-1, 2)
    n = len(centres)
    # The radial weights are orthogonal to affine functions: [[K, P], [P^T, 0]].
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _radial(centres, centres)
    system[:n, n:] = _with_one(centres)
    system[n:, :n] = system[:n, n:].T
    values = np.hstack([_radial(pixels, centres), _with_one(pixels)])
    return np.linalg.solve(system, values.T).T[:, :n].reshape(height, width, n)


def _radial(a, b):
    squared = np.sum((a[:, None] - b[None]) ** 2, axis=-1)
    return squared * np.log(np.where(squared > 0, squared, 1.0))


def _with_one(positions):
    return np.concatenate([positions, np.ones_like(positions[..., :1])], axis=-1)


def _positions(height, width):
    """Positions of the pixels, [height, width, 2]; a single row or column is at 0."""
    x, y = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1)


class Corners(NamedTuple):
    """Four pixels around each position: top left, top right, bottom left, bottom right.

    Attributes:
      places: index of each pixel, counted row by row: four tensors [..., m, n].
      weights: bilinear weights: four tensors [..., m, n] that sum to one.
    """

    places: tuple[tf.Tensor, ...]
    weights: tuple[tf.Tensor, ...]


def corners(grid: tf.Tensor, height: int, width: int) -> Corners:
    """Finds the four pixels around each position.

    A position outside the image is moved to the border. A position that equals a pixel
    up to rounding is moved to that pixel.

    Args:
      grid: positions [..., m, n, 2].
      height: height of the image that is read.
      width: width of the image that is read.

    Returns:
      corners: pixels and weights for each position.
    """
    x, y = tf.unstack(grid, axis=-1)
    column, right = _before(x, width)
    row, below = _before(y, height)
    step_right, step_down = min(width - 1, 1), width * min(height - 1, 1)
    first = row * width + column
    return Corners(
        tuple(first + y + x for y in (0, step_down) for x in (0, step_right)),
        tuple(y * x for y in (1 - below, below) for x in (1 - right, right)),
    )


def _before(coordinate, n):
    """The pixel before a position along one axis, and the distance from it, 0..1."""
    place = tf.clip_by_value((coordinate + 1) * ((n - 1) / 2), 0, n - 1)
    rounding = 8 * n * np.finfo(coordinate.dtype.as_numpy_dtype).eps
    offset = tf.stop_gradient(place - tf.round(place))
    place -= tf.where(tf.abs(offset) < rounding, offset, 0)
    before = tf.stop_gradient(tf.minimum(tf.floor(place), max(n - 2, 0)))
    return tf.cast(before, tf.int32), place - before


def bilinear_sample(image: tf.Tensor, grid: tf.Tensor) -> tf.Tensor:
    """Reads images at positions: bilinear between pixels, the border value outside.

    Args:
      image: [..., height, width, channels].
      grid: positions [..., m, n, 2], with the same leading axes.

    Returns:
      warped: [..., m, n, channels].

    Reference:
      Jaderberg et al. 2015, eq. 5, arXiv:1506.02025.
    """
    terms = zip(*corners(grid, *image.shape[-3:-1]), strict=True)
    return tf.add_n([w[..., tf.newaxis] * at(image, place) for place, w in terms])


def at(image: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Reads pixels of images.

    Args:
      image: [..., height, width, channels].
      places: indices of the pixels, [..., m, n].

    Returns:
      values: [..., m, n, channels].
    """
    height, width, channels = image.shape[-3:]
    leading = tf.shape(image)[:-3]
    first = tf.range(tf.reduce_prod(leading)) * (height * width)
    first = tf.reshape(first, tf.concat([leading, [1, 1]], axis=0))
    return tf.gather(tf.reshape(image, [-1, channels]), first + places)
