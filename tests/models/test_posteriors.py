"""Tests of iwae_tf.models.iwaes.posteriors."""

import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from linear_gaussian import LinearGaussian, exact_posterior

from iwae_tf import randomness
from iwae_tf.models.posteriors import GaussianChain, flatten

SEED = randomness.seed_of(7)


def normal_parts(q, x, zs, loc_scale):
    """Location and scale of each layer given the layers below, NumPy float64."""
    belows = (x.reshape(len(x), -1), *(z.numpy() for z in zs[:-1]))
    return [loc_scale(*pair) for pair in zip(q.conditionals, belows, strict=True)]


@pytest.mark.parametrize("stochastic_layers", [1, 2, 3])
def test_log_qz_equals_scipy_normals(stochastic_layers, tiny, binary, loc_scale):
    q, x = tiny(stochastic_layers).posterior, binary(4)
    zs, log_qz = q.draw(x, 5, SEED)
    parts = normal_parts(q, x, zs, loc_scale)
    want = sum(
        scipy.stats.norm.logpdf(z.numpy().astype(np.float64), loc, scale).sum(axis=-1)
        for z, (loc, scale) in zip(zs, parts, strict=True)
    )
    assert want.shape == (5, 4)
    np.testing.assert_allclose(log_qz, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(q.log_prob(zs, x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stochastic_layers", [1, 2, 3])
def test_log_prob_of_latents_from_elsewhere_equals_scipy_normals(
    stochastic_layers, tiny, binary, loc_scale
):
    q, x = tiny(stochastic_layers).posterior, binary(4)
    rng = np.random.default_rng(0)
    zs = tuple(tf.constant(rng.normal(size=(5, 4, d)), tf.float32) for d in q.n_latent)
    want = sum(
        scipy.stats.norm.logpdf(z.numpy(), loc, scale).sum(axis=-1)
        for z, (loc, scale) in zip(zs, normal_parts(q, x, zs, loc_scale), strict=True)
    )
    np.testing.assert_allclose(q.log_prob(zs, x), want, rtol=1e-5)


def test_noise_is_standard_normal_and_shared_by_nothing(tiny, binary, loc_scale):
    q, x = tiny(3, n_latent=(2, 2, 2)).posterior, binary(2)
    k = 4000
    zs, _ = q.draw(x, k, SEED)
    parts = normal_parts(q, x, zs, loc_scale)
    noise = np.concatenate(
        [(z - loc) / scale for z, (loc, scale) in zip(zs, parts, strict=True)], axis=-1
    )
    columns = noise.reshape(k, -1)  # one for each image, layer and dimension
    assert scipy.stats.kstest(columns.ravel(), "norm").pvalue > 1e-3
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 5 / k**0.5
    # Neighbours along the sample axis do not share either.
    assert abs(np.mean(columns[1:] * columns[:-1])) < 5 / columns.size**0.5


def test_draw_is_a_function_of_its_seed(tiny, binary):
    q, x = tiny(2).posterior, binary(3)
    first, again, other = (
        q.draw(x, 4, randomness.seed_of(seed))[0] for seed in (1, 1, 2)
    )
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.any(np.isclose(a, c, atol=1e-6))


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
def test_draws_of_the_exact_posterior_have_its_dense_moments(n_latent):
    # Also the check of the fixture: two routes to p(z|x).
    generator = LinearGaussian(n_latent=n_latent)
    x, k = generator.images(2), 20000
    zs, _ = exact_posterior(generator).draw(x, k, SEED)
    for level, z in enumerate(zs):
        mean, covariance = generator.posterior_moments(x, level)
        variance = np.diag(covariance)
        error = np.mean(z, axis=0) - mean
        assert np.all(np.abs(error) < 5 * np.sqrt(variance / k))
        for image in range(2):
            centred = z.numpy()[:, image] - mean[image]
            got = centred.T @ centred / k
            # Of a product of two Gaussians, by Isserlis.
            se = np.sqrt((covariance**2 + np.outer(variance, variance)) / k)
            assert np.all(np.abs(got - covariance) < 5 * se)


def test_density_of_one_latent_integrates_to_one():
    q = GaussianChain([(3,)], (1,))
    x = np.ones((1, 2, 1, 1), np.float32)
    q.draw(x, 1, SEED)
    z = np.linspace(-60, 60, 60001, dtype=np.float32)
    log_qz = q.log_prob((tf.constant(z[:, None, None]),), x)
    assert np.trapezoid(np.exp(log_qz[:, 0].numpy()), z) == pytest.approx(1, abs=1e-4)


def test_gradient_of_a_draw_passes_through_every_layer(tiny, binary):
    # Reparameterised: the top latent moves with the bottom layer's variables.
    q, x = tiny(3).posterior, binary(3)
    with tf.GradientTape() as tape:
        zs, _ = q.draw(x, 4, SEED)
        total = tf.reduce_sum(zs[-1])
    variables = [
        *q.conditionals[0].trainable_variables,
        *q.conditionals[1].trainable_variables,
    ]
    for gradient in tape.gradient(total, variables):
        assert np.any(gradient.numpy())


def test_draw_in_a_function_equals_eager(tiny, binary):
    q, x = tiny(2).posterior, binary(3)
    compiled = tf.function(lambda x: q.draw(x, 4, SEED))
    for got, want in zip(
        tf.nest.flatten(compiled(x)), tf.nest.flatten(q.draw(x, 4, SEED)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_flatten_keeps_the_order_of_pixels():
    x = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    rows = flatten(tf.constant(x)).numpy()
    assert rows.shape == (2, 24)
    for b, i, j, c in itertools.product(range(2), range(3), range(4), range(2)):
        assert rows[b, (i * 4 + j) * 2 + c] == x[b, i, j, c]
