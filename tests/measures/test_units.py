"""Tests of iwae_tf.measures.units."""

import functools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from eager import eagerly
from linear_gaussian import LinearGaussian, exact_posterior

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.measures.units import Units, WithoutUnits, statistics
from iwae_tf.models.iwae import IWAE

SEED = randomness.seed_of(11)


@functools.cache
def pair(n_latent, shift=0.0, stretch=1.0):
    generator = LinearGaussian(n_latent=n_latent)
    return generator, IWAE(exact_posterior(generator, shift, stretch), generator)


def without_column(unit):
    """A generator that ignores a unit of z1, and its exact model."""
    generator = LinearGaussian(n_latent=(3,))
    columns = generator.maps[0].numpy()
    columns[:, unit] = 0
    generator.maps[0].assign(columns)
    return generator, IWAE(exact_posterior(generator), generator)


def kept_and_values(n_latent, held):
    """All units but those of `held`, {(level, unit): constant}."""
    kept = [np.ones(d, bool) for d in n_latent]
    values = [np.full(d, 77.0) for d in n_latent]
    for (level, unit), value in held.items():
        kept[level][unit] = False
        values[level][unit] = value
    return kept, values


# Statistics --------------------------------------------------------------------------


@eagerly()
def test_statistics_of_one_layer_are_the_closed_form_over_the_images():
    generator, model = pair((3,))
    x = generator.images(25)
    (got,) = statistics(model, x, batch_size=10)
    mean, covariance = generator.posterior_moments(x)
    variance = np.diag(covariance)
    kl = np.mean(variance + mean**2 - 1 - np.log(variance), axis=0) / 2
    np.testing.assert_allclose(got.mean, mean.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(got.activity, mean.var(axis=0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(got.variance, variance, rtol=1e-4)
    np.testing.assert_allclose(got.kl, kl, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 12, 99])
@eagerly()
def test_statistics_of_one_layer_do_not_depend_on_batches_samples_and_seed(
    batch_size, tiny, binary
):
    model, x = tiny(), binary(12)
    (want,) = statistics(model, x)
    (got,) = statistics(model, x, n_samples=1, batch_size=batch_size, seed=8)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def two_layers_by_hand(generator, x):
    """Closed forms of q(z1|x) q(z2|z1), exact; units of each layer in dictionaries.

    z2 = gain z1 + offset + noise, by conditioning within p(z1, z2).
    """
    mean2, covariance2 = generator.moments(1)
    mean1, covariance1 = generator.moments(0)
    a_map, shift, log_scale = generator._float64(1)
    gain = np.linalg.solve(covariance1, a_map @ covariance2).T
    offset = mean2 - gain @ mean1
    noise = covariance2 - gain @ covariance1 @ gain.T
    m1, v1 = generator.posterior_moments(x, 0)
    m2, v2 = generator.posterior_moments(x, 1)
    within, between = np.diag(noise), np.diag(gain @ v1 @ gain.T)
    # What p(z1|z2) leaves over: z1 - A z2 - a.
    rest = np.eye(len(shift)) - a_map @ gain
    left = m1 @ rest.T - a_map @ offset - shift
    of_rest = rest @ v1 @ rest.T + a_map @ noise @ a_map.T
    entropy = 0.5 * np.log(2 * np.pi * np.e * np.diag(v1))
    surprise = log_scale + 0.5 * np.log(2 * np.pi)
    surprise = surprise + (left**2 + np.diag(of_rest)) / 2 / np.exp(2 * log_scale)
    kl2 = (within + m2**2 + between - 1 - np.log(within)) / 2
    return (
        {"mean": m1, "variance": np.diag(v1), "kl": surprise - entropy},
        {"mean": m2, "variance": np.diag(v2), "between": between, "kl": kl2},
    )


def spread_of_kl(generator, model, x, by_hand, k=200):
    """Standard deviation of a sample's share of each unit's KL, by SciPy's normals."""
    zs, _ = model.posterior.draw(x, k, randomness.seed_of(99))
    qs, ps = model.posterior.factors(zs, x), generator.factors(zs)
    logpdf = scipy.stats.norm.logpdf
    q1, p1 = (d.distribution for d in (qs[0], ps[0]))
    of_z1 = logpdf(zs[0], q1.loc, q1.scale) - logpdf(zs[0], p1.loc, p1.scale)
    of_z2 = np.square(qs[1].mean()) / 2  # the rest of the closed form is constant
    away = of_z1 - by_hand[0]["kl"]
    return np.sqrt(np.mean(away**2, axis=(0, 1))), np.std(of_z2, axis=0).mean(axis=0)


def test_statistics_of_two_layers_are_the_closed_form_within_5_standard_errors():
    # So few samples that z2's activity would be off by their noise.
    n, k = 20_000, 3
    generator, model = pair((3, 2))
    x = generator.images(n)
    low, high = statistics(model, x, n_samples=k, batch_size=5000)
    want1, want2 = by_hand = two_layers_by_hand(generator, x)
    # q(z1|x) is known without samples.
    np.testing.assert_allclose(low.mean, want1["mean"].mean(axis=0), atol=1e-5)
    activity1 = want1["mean"].var(axis=0, ddof=1)
    np.testing.assert_allclose(low.activity, activity1, rtol=1e-4)
    np.testing.assert_allclose(low.variance, want1["variance"], rtol=1e-4)

    between, mean2 = want2["between"], want2["mean"]
    activity2 = mean2.var(axis=0, ddof=1)
    noise = between / k
    error = high.mean - mean2.mean(axis=0)
    assert np.all(np.abs(error) < 5 * np.sqrt(noise / n))
    # s^2 of mean plus noise, less the noise by its own k samples.
    of_activity = 4 * activity2 * noise + 2 * noise**2 * (1 + 1 / (k - 1))
    se = np.sqrt(of_activity / n)
    assert np.all(np.abs(high.activity - activity2) < 5 * se)
    assert np.all(noise > 10 * se)  # forgetting the noise would show
    se = between * np.sqrt(2 / (k - 1) / n)
    assert np.all(np.abs(high.variance - want2["variance"]) < 5 * se)
    assert np.all(between > 20 * se)

    spreads = spread_of_kl(
        generator, model, x[:200], [{"kl": part["kl"][:200]} for part in by_hand]
    )
    for layer, want, spread in zip((low, high), by_hand, spreads, strict=True):
        error = layer.kl - want["kl"].mean(axis=0)
        assert np.all(np.abs(error) < 5 * spread / (n * k) ** 0.5)


@eagerly()
def test_kl_of_units_and_layers_sums_to_the_closed_form_of_the_exact_posterior():
    # KL(p(z|x) || p(z)) = E log p(x|z) - log p(x).
    generator, model = pair((3, 2))
    x = generator.images(50)
    columns, shift, log_scale = generator._float64(0)
    mean, covariance = generator.posterior_moments(x)
    away = np.reshape(x, [50, -1]) - mean @ columns.T - shift
    squares = np.sum(away**2, axis=1) + np.trace(columns @ covariance @ columns.T)
    log_px_given_z = -squares / 2 / np.exp(2 * log_scale)
    log_px_given_z -= len(shift) * (log_scale + 0.5 * np.log(2 * np.pi))
    want = np.mean(log_px_given_z - generator.log_evidence(x))
    k = 2000
    got = sum(layer.kl.sum() for layer in statistics(model, x, n_samples=k))
    draws = model.draw(x, k, SEED)
    spread = np.std(draws.log_qz - draws.log_pz, axis=0)
    assert abs(got - want) < 5 * np.sqrt(np.mean(spread**2) / (50 * k))


@pytest.mark.parametrize("stochastic_layers", [1, 2, 3])
@eagerly()
def test_kl_of_units_and_layers_sums_to_that_of_log_likelihood_within_5_standard_errors(
    stochastic_layers, tiny, binary
):
    model, x, k = tiny(stochastic_layers), binary(20), 2000
    layers = statistics(model, x, n_samples=k)
    assert [len(layer.kl) for layer in layers] == list(model.posterior.n_latent)
    got = sum(layer.kl.sum() for layer in layers)
    want = log_likelihood(model, x, k, k, jit_compile=False).kl.mean()
    draws = model.draw(x, k, SEED)
    spread = np.std(draws.log_qz - draws.log_pz, axis=0)
    # Both are sampled.
    assert abs(got - want) < 5 * np.sqrt(2 * np.mean(spread**2) / (20 * k))


@eagerly()
def test_batches_do_not_share_noise(tiny, binary):
    model, x = tiny(2), np.repeat(binary(1), 4, axis=0)
    once, twice = (
        statistics(model, images, n_samples=3, batch_size=2)[1].mean
        for images in (x[:2], x)
    )
    assert not np.any(np.isclose(once, twice, rtol=1e-4))


@pytest.mark.parametrize("unit", [0, 1, 2])
@eagerly()
def test_active_units_are_those_that_the_generator_reads(unit):
    generator, model = without_column(unit)
    (layer,) = statistics(model, generator.images(20))
    np.testing.assert_array_equal(layer.active, np.arange(3) != unit)
    assert layer.activity[unit] == pytest.approx(0, abs=1e-9)
    assert layer.variance[unit] == pytest.approx(1, rel=1e-5)
    assert layer.kl[unit] == pytest.approx(0, abs=1e-6)


def test_active_is_above_a_hundredth_as_in_the_paper():
    activity = np.array([0.0099, 0.01, 0.0101])
    units = Units(np.zeros(3), activity, np.ones(3), np.zeros(3))
    assert units.active.tolist() == [False, False, True]


def test_statistics_refuse_what_has_no_variance(tiny, binary):
    one, two = tiny(1), tiny(2)
    with pytest.raises(UsageError, match="^number of observations: must be at least 2"):
        statistics(one, binary(1))
    with pytest.raises(UsageError, match="^n_samples: must be at least 2, got 1$"):
        statistics(two, binary(3), n_samples=1)
    with pytest.raises(UsageError, match="^n_samples: must be at least 1, got 0$"):
        statistics(one, binary(3), n_samples=0)


# Without units -----------------------------------------------------------------------


@pytest.mark.parametrize("stochastic_layers", [1, 2, 3])
def test_holding_nothing_gives_the_draws_of_the_model(stochastic_layers, tiny, binary):
    model, x = tiny(stochastic_layers), binary(4)
    held = WithoutUnits(model, *kept_and_values(model.posterior.n_latent, {}))
    got, want = held.draw(x, 5, SEED), model.draw(x, 5, SEED)
    for a, b in zip(tf.nest.flatten(got[:4]), tf.nest.flatten(want[:4]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_without_a_unit_that_is_not_read_every_weight_is_the_closed_form_evidence(unit):
    generator, model = without_column(unit)
    x = generator.images(4)
    held = WithoutUnits(model, *kept_and_values((3,), {(0, unit): 1.7}))
    draws = held.draw(x, 6, SEED)
    want = np.tile(generator.log_evidence(x), (6, 1))
    np.testing.assert_allclose(draws.log_w(), want, rtol=0, atol=1e-4)
    np.testing.assert_allclose(draws.zs[0][..., unit], 1.7)


def evidence_of_held(generator, x, level, unit, value):
    """log p(x) where one unit is a constant and has no density, by SciPy, [n]."""
    mean, covariance = generator.moments(len(generator.n_latent) - 1)
    for below in reversed(range(-1, len(generator.n_latent))):
        if below == level:
            mean[unit] = value
            covariance[unit], covariance[:, unit] = 0, 0
        if below >= 0:
            a_map, shift, log_scale = generator._float64(below)
            noise = np.exp(2 * log_scale) * np.eye(len(shift))
            mean = a_map @ mean + shift
            covariance = a_map @ covariance @ a_map.T + noise
    p = scipy.stats.multivariate_normal(mean, covariance)
    return p.logpdf(np.reshape(np.float64(x), [len(x), -1]))


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_weights_with_an_active_unit_held_are_the_closed_form_evidence(unit):
    # W's columns are orthogonal: q of the others stays exact.
    generator, model = pair((3,))
    x = generator.images(4)
    held = WithoutUnits(model, *kept_and_values((3,), {(0, unit): 0.8}))
    want = evidence_of_held(generator, x, 0, unit, 0.8)
    assert np.all(np.abs(want - generator.log_evidence(x)) > 0.01)
    got = held.draw(x, 6, SEED).log_w()
    np.testing.assert_allclose(got, np.tile(want, (6, 1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("level", "unit"), [(0, 0), (0, 2), (1, 0), (1, 1)])
@eagerly()
def test_log_likelihood_of_held_units_is_the_closed_form_within_5_standard_errors(
    level, unit
):
    # z2's unit above one that is held is as wide as its prior: so must q be.
    k = 50_000
    generator, model = pair((3, 2), shift=0.1, stretch=3.0)
    x = generator.images(4)
    held = WithoutUnits(model, *kept_and_values((3, 2), {(level, unit): 0.6}))
    got = log_likelihood(held, x, k, chunk=k, jit_compile=False)
    want = evidence_of_held(generator, x, level, unit, 0.6)
    se = np.sqrt(1 / got.ess - 1 / k)
    assert np.all(np.abs(got.log_px - want) < 5 * se)
    assert np.any(np.abs(want - generator.log_evidence(x)) > 10 * se)


def test_held_units_have_no_density_and_are_read_as_constants_above_and_below(
    tiny, binary, loc_scale, pixel_logits
):
    model, x = tiny(2), binary(4)
    q, p = model.posterior, model.generator
    kept, values = kept_and_values((3, 2), {(0, 1): 2.5, (1, 0): -1.5})
    draws = WithoutUnits(model, kept, values).draw(x, 5, SEED)
    z1, z2 = (np.float64(z) for z in draws.zs)
    np.testing.assert_array_equal(z1[..., 1], 2.5)
    np.testing.assert_array_equal(z2[..., 0], -1.5)
    rows, logpdf = x.reshape(4, -1), scipy.stats.norm.logpdf
    of_z1 = logpdf(z1, *loc_scale(q.conditionals[0], rows))[..., [0, 2]]
    of_z2 = logpdf(z2, *loc_scale(q.conditionals[1], z1))[..., 1]
    log_qz = of_z1.sum(axis=-1) + of_z2
    np.testing.assert_allclose(draws.log_qz, log_qz, rtol=1e-4, atol=1e-5)
    of_z1 = logpdf(z1, *loc_scale(p.conditionals[0], z2))[..., [0, 2]]
    log_pz = of_z1.sum(axis=-1) + logpdf(z2[..., 1])
    np.testing.assert_allclose(draws.log_pz, log_pz, rtol=1e-4, atol=1e-5)
    logits = pixel_logits(p, z1)
    log_px = np.sum(rows * logits - np.logaddexp(0, logits), axis=-1)
    np.testing.assert_allclose(draws.log_px, log_px, rtol=1e-5)
    # The same noise as the model: z1's free units are its own.
    free = model.draw(x, 5, SEED).zs[0].numpy()
    np.testing.assert_allclose(z1[..., [0, 2]], free[..., [0, 2]], rtol=1e-5)
    # The noise of z2 too, though its mean is another.
    loc, scale = loc_scale(q.conditionals[1], z1)
    noise = randomness.normal([5, 4, 2], randomness.seed_of(SEED, 1))
    np.testing.assert_allclose(z2[..., 1], (loc + scale * noise)[..., 1], rtol=1e-4)


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (3, 2, 1)])
def test_units_of_other_sizes_are_refused(sizes, tiny):
    with pytest.raises(
        UsageError, match=r"^kept: must be of the latent sizes \(3, 2\)"
    ):
        WithoutUnits(tiny(2), *kept_and_values(sizes, {}))
