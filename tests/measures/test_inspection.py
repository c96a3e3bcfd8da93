"""Tests of iwae_tf.measures.inspection."""

import functools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from linear_gaussian import (
    LinearGaussian,
    deviations,
    exact_posterior,
    pair,
    weights_of,
)

from iwae_tf import randomness
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError
from iwae_tf.measures import inspection
from iwae_tf.models.iwae import IWAE

SEED = randomness.seed_of(11)
LAYERS = pytest.mark.parametrize("n_latent", [(3,), (3, 2)])


@functools.cache
def inexact_draws(n_latent, k=20_000, n_images=3, seed=11):
    """The generator, images and draws of an inexact q."""
    generator, model = pair(n_latent, shift=0.3, stretch=1.3)
    x = generator.images(n_images)
    return generator, x, model.draw(x, k, randomness.seed_of(seed))


def parts_of(log_w, seed=9):
    """Float32 log_px, log_pz and log_qz that make these log-weights."""
    log_pz, log_qz = np.random.default_rng(seed).normal(size=(2, *log_w.shape))
    return [
        tf.constant(part, tf.float32)
        for part in (log_w - log_pz + log_qz, log_pz, log_qz)
    ]


def random_draws(k=7, b=3, sizes=(3, 2)):
    rng = np.random.default_rng(5)
    zs = tuple(tf.constant(rng.normal(size=(k, b, d)), tf.float32) for d in sizes)
    return Draws(zs, *parts_of(rng.normal(scale=2, size=(k, b))))


# By importance weights ---------------------------------------------------------------


def test_snis_equals_numpy_float64():
    draws = random_draws()
    w = weights_of(draws)
    of = (
        inspection.snis_mean,
        inspection.snis_covariance,
        inspection.snis_standard_error,
    )
    for layer, got in enumerate(zip(*(f(draws) for f in of), strict=True)):
        z = np.float64(draws.zs[layer])
        for image in range(3):
            w_i, z_i = w[:, image], z[:, image]
            mean = np.average(z_i, axis=0, weights=w_i)
            covariance = np.cov(z_i.T, aweights=w_i, ddof=0)
            error = np.sqrt(w_i**2 @ (z_i - mean) ** 2)
            for part, want in zip(got, (mean, covariance, error), strict=True):
                np.testing.assert_allclose(part[image], want, rtol=1e-4, atol=1e-6)


@LAYERS
def test_snis_mean_is_the_closed_form_mean_within_5_standard_errors(n_latent):
    generator, x, draws = inexact_draws(n_latent)
    got = inspection.snis_mean(draws)
    assert len(got) == len(n_latent)
    layers = deviations(draws, generator, x)
    for estimate, (w, away, mean, _) in zip(got, layers, strict=True):
        se = np.sqrt(np.einsum("kb,kbi->bi", w**2, away**2))
        assert np.all(np.abs(estimate - mean) < 5 * se)
        # So that a plain mean would not do.
        assert np.all(np.abs(np.mean(away, axis=0)) > 10 * se)


@LAYERS
def test_snis_covariance_is_the_closed_form_one_within_5_standard_errors(n_latent):
    generator, x, draws = inexact_draws(n_latent)
    got = inspection.snis_covariance(draws)
    assert len(got) == len(n_latent)
    layers = deviations(draws, generator, x)
    for estimate, (w, away, _, covariance) in zip(got, layers, strict=True):
        squares = np.einsum("kbi,kbj->kbij", away, away) - covariance
        se = np.sqrt(np.einsum("kb,kbij->bij", w**2, squares**2))
        assert estimate.shape == (len(x), *covariance.shape)
        assert np.all(np.abs(estimate - covariance) < 5 * se)


@LAYERS
def test_snis_standard_error_is_the_spread_of_the_mean_over_repetitions(n_latent):
    repetitions = 2000
    generator, model = pair(n_latent, shift=0.3, stretch=1.3)
    x = np.repeat(generator.images(1), repetitions, axis=0)
    draws = model.draw(x, 500, SEED)
    means = inspection.snis_mean(draws)
    for mean, error in zip(means, inspection.snis_standard_error(draws), strict=True):
        ratio = np.sqrt(np.mean(error**2, axis=0)) / np.std(mean, axis=0, ddof=1)
        # A standard deviation over n has a relative error of 1 / sqrt(2 n).
        np.testing.assert_allclose(ratio, 1, rtol=5 / (2 * repetitions) ** 0.5)


@LAYERS
def test_snis_standard_error_of_the_exact_q_is_the_closed_form_sd_over_root_k(n_latent):
    k = 10_000
    generator, model = pair(n_latent)
    x = generator.images(3)
    errors = inspection.snis_standard_error(model.draw(x, k, SEED))
    for level, error in enumerate(errors):
        _, covariance = generator.posterior_moments(x, level)
        want = np.sqrt(np.diag(covariance) / k)
        assert np.all(np.abs(error / want - 1) < 5 / (2 * k) ** 0.5)


# By resampling -----------------------------------------------------------------------


def tagged(log_w):
    """Draws whose latents are the number of the sample and of the image."""
    k, b = log_w.shape
    sample, image = np.meshgrid(np.arange(k), np.arange(b), indexing="ij")
    zs = (
        np.stack([sample, image], axis=-1),
        np.stack([image, sample, sample + 0.5], axis=-1),
    )
    zs = tuple(tf.constant(z, tf.float32) for z in zs)
    return Draws(zs, *parts_of(log_w))


def counts_of(log_w, n, seed=SEED):
    """How often `sir` chooses each sample of each image, [b, k]."""
    draws = tagged(log_w)
    if np.abs(log_w).max() > 100:  # nothing to round
        zeros = tf.zeros(log_w.shape)
        draws = Draws(draws.zs, tf.constant(log_w, tf.float32), zeros, zeros)
    chosen = inspection.sir(draws, n, seed)[0].numpy()[..., 0].astype(int)
    assert chosen.shape == (n, log_w.shape[1])
    return np.stack([np.bincount(c, minlength=len(log_w)) for c in chosen.T])


def test_sir_takes_all_latents_of_a_sample_from_one_draw_of_its_image():
    log_w = np.random.default_rng(1).normal(size=(6, 4))
    low, high = (z.numpy() for z in inspection.sir(tagged(log_w), 50, SEED))
    assert low.shape == (50, 4, 2) and high.shape == (50, 4, 3)
    sample = low[..., 0]
    np.testing.assert_array_equal(low[..., 1], np.tile(np.arange(4), (50, 1)))
    np.testing.assert_array_equal(high[..., 0], low[..., 1])
    np.testing.assert_array_equal(high[..., 1], sample)
    np.testing.assert_array_equal(high[..., 2], sample + 0.5)
    assert len(np.unique(sample)) == 6


def test_sir_is_a_function_of_its_seed_and_draws_with_replacement():
    log_w = np.random.default_rng(1).normal(size=(6, 4))
    first, again, other = (
        inspection.sir(tagged(log_w), 40, randomness.seed_of(seed))[0].numpy()
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    whole = inspection.sir(tagged(log_w), 40, 1)[0]
    np.testing.assert_array_equal(first, whole)
    # 40 samples of 6 draws; and images do not share their choices.
    assert len(first) == 40
    assert not np.array_equal(first[:, 0, 0], first[:, 1, 0])


@LAYERS
def test_sir_moments_are_the_closed_form_within_5_standard_errors(n_latent):
    n = 20_000
    generator, x, draws = inexact_draws(n_latent)
    got = inspection.sir(draws, n, SEED)
    layers = deviations(draws, generator, x)
    for z, (w, away, mean, covariance) in zip(got, layers, strict=True):
        variance = np.diag(covariance)
        # Of the draws, and of choosing n among them.
        se = np.sqrt(np.einsum("kb,kbi->bi", w**2, away**2) + variance / n)
        assert np.all(np.abs(np.mean(z, axis=0) - mean) < 5 * se)
        squares = np.einsum("kbi,kbj->kbij", away, away) - covariance
        # Of a product of two Gaussians, by Isserlis.
        of_choice = (covariance**2 + np.outer(variance, variance)) / n
        se = np.sqrt(np.einsum("kb,kbij->bij", w**2, squares**2) + of_choice)
        centred = np.float64(z) - mean
        second = np.einsum("nbi,nbj->bij", centred, centred) / n
        assert np.all(np.abs(second - covariance) < 5 * se)


@pytest.mark.parametrize("level", [0.0, 1e4, -1e4])
def test_sir_frequencies_are_the_weights_of_each_image_by_chi_square(level):
    n = 100_000
    # Eighths are exact in float32 up to 1e6.
    eighths = np.random.default_rng(2).integers(-16, 16, size=(20, 2)) / 8
    counts = counts_of(level + eighths, n)
    for image, p in enumerate(scipy.special.softmax(eighths, axis=0).T):
        assert scipy.stats.chisquare(counts[image], n * p).pvalue > 1e-6
        # The other image's weights would not do.
        assert scipy.stats.chisquare(counts[1 - image], n * p).pvalue < 1e-6


def test_sir_reaches_every_one_of_10000_equal_weights_by_chi_square():
    n, k = 100_000, 10_000
    (counts,) = counts_of(np.full((k, 1), -3.7), n)
    assert len(counts) == k  # no number beyond the last
    assert counts[0] > 0 and counts[-1] > 0
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("level", [0.0, 1e4, -1e4])
def test_sir_always_chooses_a_weight_that_dominates(level):
    log_w = level + np.random.default_rng(3).integers(-16, 16, size=(9, 3)) / 8
    places = [0, 5, 8]
    log_w[places, range(3)] += 1000
    counts = counts_of(log_w, 1000)
    np.testing.assert_array_equal(counts, 1000 * np.eye(9)[places])


# On a grid ---------------------------------------------------------------------------


@functools.cache
def tilted(scale=0.8):
    """A generator of two latents whose posterior is unlike in z1 and z2, and tilted."""
    generator = LinearGaussian(n_latent=(2,))
    columns = np.float64(generator.maps[0]) @ [[1.5, 0.35], [0.0, 0.6]]
    generator.maps[0].assign(columns)
    generator.log_scales[0].assign(np.log(scale))
    return generator, IWAE(exact_posterior(generator), generator)


def image_at(generator, z):
    """The mean image of latents, [height, width, channels]."""
    return generator.mean((tf.constant([z], tf.float32),))[0].numpy()


def box(mean, covariance, widths):
    sd = np.sqrt(np.diag(covariance))
    return tuple(
        (m - low * s, m + high * s)
        for m, s, (low, high) in zip(mean, sd, widths, strict=True)
    )


@functools.cache
def grid_and_moments(n=201):
    generator, model = tilted()
    x = image_at(generator, [1.6, -0.9])
    (mean,), covariance = generator.posterior_moments(x[None])
    limits = box(mean, covariance, [(6.5, 7), (7.5, 6)])
    return inspection.posterior_on_grid(model, x, limits, n), limits, mean, covariance


def test_posterior_of_the_grid_tests_tells_z1_from_z2():
    _, _, mean, covariance = grid_and_moments()
    sd = np.sqrt(np.diag(covariance))
    assert abs(mean[0] - mean[1]) > 1 and sd[1] > 1.5 * sd[0]
    assert abs(covariance[0, 1]) > 0.2 * sd.prod()


def test_grid_has_z1_along_columns_and_z2_along_rows_at_centres_of_cells():
    grid, limits, _, _ = grid_and_moments()
    for centres, (low, high) in zip((grid.z1, grid.z2), limits, strict=True):
        edges = np.linspace(low, high, 202)
        np.testing.assert_allclose(centres, (edges[1:] + edges[:-1]) / 2, rtol=1e-9)
    (cells,) = grid.cells
    assert cells.shape == (201 * 201, 1, 2)
    cells = cells.numpy().reshape(201, 201, 2)
    for row, column in ((0, 0), (3, 190), (200, 7)):
        want = grid.z1[column], grid.z2[row]
        np.testing.assert_allclose(cells[row, column], want, rtol=1e-6)


def test_log_density_on_the_grid_is_the_closed_form():
    grid, _, mean, covariance = grid_and_moments()
    points = np.array([[(z1, z2) for z1 in grid.z1] for z2 in grid.z2])
    want = scipy.stats.multivariate_normal(mean, covariance).logpdf(points)
    assert grid.log_density.shape == (201, 201)
    np.testing.assert_allclose(grid.log_density, want, rtol=0, atol=1e-3)


def test_density_on_the_grid_integrates_to_one():
    grid, ((low1, high1), (low2, high2)), _, _ = grid_and_moments()
    area = (high1 - low1) * (high2 - low2) / 201**2
    assert np.sum(np.exp(grid.log_density)) * area == pytest.approx(1, abs=1e-9)
    assert np.sum(grid.probability) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(grid.probability, np.exp(grid.log_density) * area)


def test_moments_and_evidence_of_the_grid_are_the_closed_form():
    generator, _ = tilted()
    grid, _, mean, covariance = grid_and_moments()
    np.testing.assert_allclose(grid.mean(), mean, rtol=0, atol=1e-3)
    np.testing.assert_allclose(grid.covariance(), covariance, rtol=0, atol=1e-3)
    (want,) = generator.log_evidence(image_at(generator, [1.6, -0.9])[None])
    assert grid.log_px == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_grid_over_a_part_has_that_share_of_the_closed_form_evidence(axis):
    generator, model = tilted()
    x = image_at(generator, [1.6, -0.9])
    (mean,), covariance = generator.posterior_moments(x[None])
    widths = [(7, 7), (7, 7)]
    widths[axis] = (-0.5, 8)  # from half a standard deviation above the mean
    limits = box(mean, covariance, widths)
    grid = inspection.posterior_on_grid(model, x, limits, 300)
    (log_px,) = generator.log_evidence(x[None])
    want = log_px + scipy.stats.norm.logsf(0.5)
    assert grid.log_px == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize(
    "limits",
    [
        ((1, 1), (0, 1)),
        ((0, 1), (1, -1)),
        ((0, np.inf), (0, 1)),
        ((0, np.nan), (0, 1)),
        (0, 1),
        ((0, 1, 2), (0, 1, 2)),
    ],
)
def test_limits_that_are_no_finite_pairs_that_rise_are_refused(limits, binary):
    with pytest.raises(UsageError, match="^limits: must be two pairs of finite num"):
        inspection.posterior_on_grid(None, binary(1)[0], limits)


@pytest.mark.parametrize(
    ("sizes", "layers"), [((3,), 1), ((1,), 1), ((2, 2), 2)], ids=str
)
def test_grid_of_other_latents_than_two_is_refused(sizes, layers, tiny, binary):
    model = tiny(layers, n_latent=sizes)
    with pytest.raises(UsageError, match="^model: must have one latent of size 2, got"):
        inspection.posterior_on_grid(model, binary(1)[0], ((0, 1), (0, 1)))


def test_grid_of_several_images_is_refused(tiny, binary):
    model = tiny(n_latent=(2,))
    with pytest.raises(UsageError, match="^x: must be of shape"):
        inspection.posterior_on_grid(model, binary(2), ((0, 1), (0, 1)))


def test_limits_of_mass_want_two_cells(tiny, binary):
    with pytest.raises(UsageError, match="^n: must be at least 2, got 1$"):
        inspection.limits_of_mass(tiny(n_latent=(2,)), binary(1)[0], n=1)


def test_grid_without_cells_is_refused(binary):
    with pytest.raises(UsageError, match="^n: must be at least 1, got 0$"):
        inspection.posterior_on_grid(None, binary(1)[0], ((0, 1), (0, 1)), 0)


# The second is a hundredth of what is looked at wide, and far from the middle.
@pytest.mark.parametrize(
    ("scale", "z"), [(0.8, (1.6, -0.9)), (0.02, (-6.3, 5.1)), (0.3, (0.0, 0.0))]
)
def test_limits_hold_the_closed_form_mass_and_little_more(scale, z):
    generator, model = tilted(scale)
    x = image_at(generator, z)
    (mean,), covariance = generator.posterior_moments(x[None])
    limits = inspection.limits_of_mass(model, x, outside=1e-4)
    sd = np.sqrt(np.diag(covariance))
    for (low, high), m, s in zip(limits, mean, sd, strict=True):
        marginal = scipy.stats.norm(m, s)
        assert marginal.cdf(high) - marginal.cdf(low) >= 0.999
        assert high - low <= 2 * np.diff(marginal.interval(0.9999))


@pytest.mark.parametrize("outside", [0.02, 0.01])
def test_limits_may_leave_out_more_of_the_closed_form_mass(outside):
    generator, model = tilted()
    x = image_at(generator, (1.6, -0.9))
    (mean,), covariance = generator.posterior_moments(x[None])
    limits = inspection.limits_of_mass(model, x, outside=outside)
    sd = np.sqrt(np.diag(covariance))
    for (low, high), m, s in zip(limits, mean, sd, strict=True):
        marginal = scipy.stats.norm(m, s)
        assert marginal.cdf(high) - marginal.cdf(low) >= 1 - outside
        # A rim of a tenth at either end, and a cell.
        assert high - low <= 1.3 * np.diff(marginal.interval(1 - outside))


def test_limits_hold_a_far_mode_whose_mass_is_small_but_not_its_variance(
    tiny, binary, monkeypatch
):
    # The trained model with two latents has such posteriors.
    model, mass, sd = tiny(n_latent=(2,)), 5e-5, 0.03
    places = np.array([[1.6, -0.7], [-0.2, -0.7]])

    def log_joint(x, zs, context=None):
        squares = tf.reduce_sum((zs[0] - places.astype(np.float32)) ** 2, axis=-1)
        modes = np.log([1 - mass, mass]) - squares / (2 * sd**2)
        return tf.reduce_logsumexp(modes, axis=-1, keepdims=True)

    monkeypatch.setattr(model, "log_joint", log_joint)
    x = binary(1)[0]
    grid = inspection.posterior_on_grid(model, x, inspection.limits_of_mass(model, x))
    between = np.diff(places, axis=0)[0]
    want = sd**2 * np.eye(2) + mass * (1 - mass) * np.outer(between, between)
    np.testing.assert_allclose(grid.covariance(), want, rtol=1e-3, atol=1e-8)


def test_widest_is_how_far_from_zero_limits_are_looked_for():
    generator, model = tilted(0.3)
    x = image_at(generator, (15.0, -12.0))
    mean = generator.posterior_moments(x[None])[0][0]
    for (low, high), m in zip(
        inspection.limits_of_mass(model, x, widest=20.0), mean, strict=True
    ):
        assert low < m < high
    ((_, high), _) = inspection.limits_of_mass(model, x)
    assert high < 9


# Along a unit ------------------------------------------------------------------------


@pytest.mark.parametrize("stochastic_layers", [1, 2])
@pytest.mark.parametrize("unit", [0, 1])
def test_traversal_equals_numpy_of_latents_set_by_hand(
    stochastic_layers, unit, tiny, pixel_logits
):
    model = tiny(stochastic_layers)
    rng = np.random.default_rng(4)
    zs = tuple(
        tf.constant(rng.normal(size=(3, d)), tf.float32)
        for d in model.posterior.n_latent
    )
    values = np.array([-2.0, 0.5, 3.0])
    got = inspection.traverse(model, zs, unit, values)
    assert got.shape == (3, 3, 3, 2, 1)
    for image, value in zip(got, values, strict=True):
        moved = np.float64(zs[0])
        moved[:, unit] = value
        want = scipy.special.expit(pixel_logits(model.generator, moved))
        np.testing.assert_allclose(image, want.reshape(3, 3, 2, 1), rtol=1e-4)


@pytest.mark.parametrize("unit", [-1, 3])
def test_traversal_of_no_unit_is_refused(unit, tiny):
    zs = (tf.zeros([1, 3]), tf.zeros([1, 2]))
    with pytest.raises(UsageError, match=f"^unit: must be from 0 to 2, got {unit}$"):
        inspection.traverse(tiny(2), zs, unit, [0.0])
