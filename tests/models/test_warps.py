import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from iwae_tf.models import warps

SIZES = [(1, 1), (1, 5), (17, 23), (28, 28)]
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def images(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def thetas(*leading, dtype=np.float32, seed=1):
    noise = np.random.default_rng(seed).normal(size=(*leading, 2, 3))
    return (IDENTITY + 0.3 * noise).astype(dtype)


def scipy_warp(image, grid):
    """One image [h, w, c] at positions [m, n, 2], by another route."""
    height, width, channels = image.shape
    rows = (grid[..., 1] + 1) / 2 * (height - 1)
    columns = (grid[..., 0] + 1) / 2 * (width - 1)
    return np.stack(
        [
            scipy.ndimage.map_coordinates(
                image[..., c], [rows, columns], order=1, mode="nearest"
            )
            for c in range(channels)
        ],
        axis=-1,
    )


# Grids -------------------------------------------------------------------------------


def test_positions_of_the_corners_and_the_middle():
    grid = warps.affine_grid(tf.constant(IDENTITY), 3, 5).numpy()
    assert grid.shape == (3, 5, 2)
    np.testing.assert_array_equal(grid[0, 0], [-1, -1])
    np.testing.assert_array_equal(grid[0, -1], [1, -1])
    np.testing.assert_array_equal(grid[-1, 0], [-1, 1])
    np.testing.assert_array_equal(grid[1, 2], [0, 0])
    np.testing.assert_array_equal(grid[1, 3], [0.5, 0])
    one = warps.affine_grid(tf.constant(IDENTITY), 1, 1).numpy()
    np.testing.assert_array_equal(one, [[[0, 0]]])


def test_affine_grid_by_hand():
    theta = tf.constant([[0.5, 0.25, 0.1], [-1.0, 2.0, -0.2]])
    grid = warps.affine_grid(theta, 2, 2).numpy()
    for row, y in enumerate((-1, 1)):
        for column, x in enumerate((-1, 1)):
            want = [0.5 * x + 0.25 * y + 0.1, -x + 2 * y - 0.2]
            np.testing.assert_allclose(grid[row, column], want, rtol=1e-6)


def test_spline_through_its_control_points():
    points = images(2, 9, 2, dtype=np.float64)
    # On a grid of 5x7 the lattice's pixels are every other row and every third column.
    grid = warps.thin_plate_grid(tf.constant(points), 5, 7).numpy()
    got = grid[:, ::2, ::3].reshape(2, 9, 2)
    np.testing.assert_allclose(got, points, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_spline_of_affinely_moved_points_is_the_affine_map(size):
    theta = thetas(4)
    points = np.hstack([warps.control_points(), np.ones((9, 1))])
    moved = np.einsum("pi,bji->bpj", points, theta).astype(np.float32)
    got = warps.thin_plate_grid(tf.constant(moved), *size)
    want = warps.affine_grid(tf.constant(theta), *size)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_spline_solves_the_equations_of_bookstein():
    # Second derivatives of the radial part vanish in sum: weights orthogonal to affine
    # maps, found by least squares from the positions far from any control point.
    points = images(9, 2, dtype=np.float64, seed=3)
    size = 31
    grid = warps.thin_plate_grid(tf.constant(points), size, size).numpy()
    axis = np.linspace(-1, 1, size)
    x, y = (part.ravel() for part in np.meshgrid(axis, axis))
    centres = warps.control_points()
    squared = (x[:, None] - centres[:, 0]) ** 2 + (y[:, None] - centres[:, 1]) ** 2
    radial = squared * np.log(np.maximum(squared, 1e-300)) / 2  # r^2 log r
    basis = np.column_stack([radial, x, y, np.ones_like(x)])
    solution, residual, *_ = np.linalg.lstsq(basis, grid.reshape(-1, 2), rcond=None)
    assert residual.max() < 1e-18
    affine = np.column_stack([centres, np.ones(9)])
    np.testing.assert_allclose(affine.T @ solution[:9], 0, atol=1e-10)


# Samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_bilinear_sample_equals_scipy_inside_and_outside(size, channels):
    image = images(2, 3, *size, channels)
    grid = images(2, 3, 6, 4, 2, seed=2)  # many of them outside of -1..1
    got = warps.bilinear_sample(tf.constant(image), tf.constant(grid)).numpy()
    assert got.shape == (2, 3, 6, 4, channels)
    for place in np.ndindex(2, 3):
        want = scipy_warp(image[place].astype(float), grid[place].astype(float))
        np.testing.assert_allclose(got[place], want, atol=2e-5)


# Compiled at one pixel, and where a position is rounded most.
@pytest.mark.parametrize(
    ("size", "jit_compile"),
    [*((size, False) for size in [*SIZES, (129, 257)])]
    + [((1, 1), True), ((129, 257), True)],
)
def test_identity_gives_the_image_back_exactly(size, jit_compile):
    image = images(2, *size, 3)

    def warp(image, theta, points):
        return (
            warps.bilinear_sample(image, warps.affine_grid(theta, *size)),
            warps.bilinear_sample(image, warps.thin_plate_grid(points, *size)),
        )

    if jit_compile:
        warp = tf.function(warp, jit_compile=True)
    theta = np.tile(IDENTITY.astype(np.float32), (2, 1, 1))
    points = np.tile(warps.control_points().astype(np.float32), (2, 1, 1))
    for got in warp(tf.constant(image), tf.constant(theta), tf.constant(points)):
        np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize(("right", "down"), [(0, 1), (1, 0), (3, -2), (-5, 4)])
@pytest.mark.parametrize("size", [(17, 23), (28, 28)])
def test_integer_shift_shifts_exactly_and_repeats_the_border(size, right, down):
    height, width = size
    image = images(*size, 2)
    theta = IDENTITY.copy()
    theta[:, 2] = -2 * right / (width - 1), -2 * down / (height - 1)
    grid = warps.affine_grid(tf.constant(theta, tf.float32), *size)
    got = warps.bilinear_sample(tf.constant(image), grid)
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    np.testing.assert_array_equal(got, image[rows][:, columns])


def test_weights_of_corners_are_convex():
    grid = tf.constant(images(3, 8, 8, 2, seed=5))
    places, weights = warps.corners(grid, 7, 9)
    places, weights = np.array(places), np.array(weights)
    assert places.shape == weights.shape == (4, 3, 8, 8)
    assert (weights >= 0).all() and places.min() >= 0
    assert places.max() < 7 * 9
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-6)


# Gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_equal_finite_differences_off_the_pixel_grid(jit_compile):
    image = images(2, 5, 7, 3, dtype=np.float64)
    grid = np.random.default_rng(9).uniform(-0.95, 0.95, size=(2, 4, 6, 2))
    place = (grid + 1) / 2 * (np.array([7, 5]) - 1)
    place += np.where(abs(place - np.rint(place)) < 0.02, 0.05, 0)  # off the pixels
    grid = place / (np.array([7, 5]) - 1) * 2 - 1
    upstream = images(2, 4, 6, 3, dtype=np.float64, seed=8)

    @tf.function(jit_compile=jit_compile)
    def value(image, grid):
        return tf.reduce_sum(upstream * warps.bilinear_sample(image, grid))

    arguments = [tf.constant(image), tf.constant(grid)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        total = value(*arguments)
    for i, gradient in enumerate(tape.gradient(total, arguments)):
        direction = np.random.default_rng(i).normal(size=gradient.shape)
        step = 1e-6
        ends = []
        for sign in (1, -1):
            moved = [argument.numpy() for argument in arguments]
            moved[i] = moved[i] + sign * step * direction
            ends.append(float(value(*map(tf.constant, moved))))
        want = (ends[0] - ends[1]) / (2 * step)
        got = float(np.sum(gradient.numpy() * direction))
        assert got == pytest.approx(want, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_gradient_in_the_parameters_equals_finite_differences(kind):
    image = tf.constant(images(1, 9, 8, 1, dtype=np.float64))
    upstream = images(1, 9, 8, 1, dtype=np.float64, seed=8)
    if kind == "affine":
        start, grid = thetas(1, dtype=np.float64), warps.affine_grid
    else:
        noise = 0.2 * images(1, 9, 2, dtype=np.float64, seed=4)
        start, grid = warps.control_points() + noise, warps.thin_plate_grid

    def value(parameters):
        return tf.reduce_sum(
            upstream * warps.bilinear_sample(image, grid(parameters, 9, 8))
        )

    parameters = tf.constant(start)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        total = value(parameters)
    gradient = tape.gradient(total, parameters).numpy()
    for place in np.ndindex(*start.shape):
        step = np.zeros_like(start)
        step[place] = 1e-7
        ends = [float(value(tf.constant(start + sign * step))) for sign in (1, -1)]
        want = (ends[0] - ends[1]) / 2e-7
        assert gradient[place] == pytest.approx(want, rel=1e-5, abs=1e-6)


def test_gradient_at_the_identity_is_not_zero():
    # Every position is that of a pixel there, and is held to it.
    image = tf.constant(images(1, 6, 6, 1))
    theta = tf.constant(IDENTITY[None], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        warped = warps.bilinear_sample(image, warps.affine_grid(theta, 6, 6))
        total = tf.reduce_sum(tf.square(warped) * images(1, 6, 6, 1, seed=7))
    assert (abs(tape.gradient(total, theta).numpy()) > 1e-3).all()
