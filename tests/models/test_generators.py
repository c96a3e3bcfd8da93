"""Tests of iwae_tf.models.generators."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from linear_gaussian import LinearGaussian

from iwae_tf import randomness
from iwae_tf.models.generators import Chain

SEED = randomness.seed_of(7)


def draw_latents(generator, shape, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        tf.constant(rng.normal(size=(*shape, d)), tf.float32)
        for d in generator.n_latent
    )


@pytest.mark.parametrize(
    ("stochastic_layers", "image_shape"),
    [(1, (3, 2, 1)), (2, (3, 2, 1)), (3, (3, 2, 1)), (2, (2, 5, 3)), (1, (1, 5, 1))],
)
def test_log_joint_equals_scipy(
    stochastic_layers, image_shape, tiny, binary, loc_scale, pixel_logits
):
    p = tiny(stochastic_layers, image_shape).generator
    # As many samples as images: a mixed-up axis would broadcast.
    x, zs = binary(4, image_shape), draw_latents(p, (4, 4))
    log_px, log_pz = p.log_joint(x, zs)
    mean = scipy.special.expit(pixel_logits(p, zs[0]))
    want_px = scipy.stats.bernoulli.logpmf(x.reshape(4, -1), mean).sum(axis=-1)
    want_pz = scipy.stats.norm.logpdf(zs[-1].numpy().astype(np.float64)).sum(axis=-1)
    for layer, z, above in zip(p.conditionals, zs[:-1], zs[1:], strict=True):
        loc, scale = loc_scale(layer, above)
        want_pz += scipy.stats.norm.logpdf(z.numpy(), loc, scale).sum(axis=-1)
    np.testing.assert_allclose(log_px, want_px, rtol=1e-5)
    np.testing.assert_allclose(log_pz, want_pz, rtol=1e-5)


@pytest.mark.parametrize("logit", [40.0, -40.0, 400.0, -400.0])
def test_log_joint_at_large_logits_is_finite_with_finite_gradient(logit):
    p = Chain((2, 1, 1), [()], (1,))
    zs = (tf.ones([1, 2, 1]),)
    x = np.array([[0, 0], [1, 1]], np.float32).reshape(2, 2, 1, 1)
    p.log_joint(x, zs)
    p.pixel_logits.set_weights([np.full((1, 2), logit), np.zeros(2)])
    with tf.GradientTape() as tape:
        log_px, _ = p.log_joint(x, zs)
    # Two pixels; log sigmoid(40) is -4e-18, beside which float32 sees nothing.
    want = [-2 * max(logit, 0.0), -2 * max(-logit, 0.0)]
    np.testing.assert_allclose(log_px[0], want, rtol=1e-6, atol=1e-6)
    # d/dbias sums x - sigmoid(logit) over both images.
    gradient = tape.gradient(log_px, p.pixel_logits.bias)
    np.testing.assert_allclose(gradient, 1 - 2 * (logit > 0) * np.ones(2), atol=1e-6)


def test_pixel_probabilities_of_all_images_sum_to_one(tiny):
    p = tiny(1, (2, 2, 1)).generator
    bits = (np.arange(16)[:, None] >> np.arange(4)) & 1
    x = bits.reshape(16, 2, 2, 1).astype(np.float32)
    z = np.random.default_rng(0).normal(size=(3, 1, p.n_latent[0]))
    zs = (tf.constant(np.repeat(z, 16, axis=1), tf.float32),)
    log_px, _ = p.log_joint(x, zs)
    np.testing.assert_allclose(np.exp(log_px).sum(axis=1), 1, rtol=1e-5)


def test_prior_is_a_standard_normal_of_the_top_layer(tiny):
    p = tiny(2, n_latent=(3, 2)).generator
    z = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    want = scipy.stats.multivariate_normal(np.zeros(2), np.eye(2)).logpdf(z)
    np.testing.assert_allclose(p.prior().log_prob(z), want, rtol=1e-5)


def test_latents_of_the_prior_are_standard_normal_noise_layer_by_layer(tiny, loc_scale):
    p, n = tiny(3, n_latent=(2, 2, 2)).generator, 8000
    zs = p.sample_latents(n, SEED)
    noise = [zs[-1].numpy()]
    for layer, z, above in zip(p.conditionals, zs[:-1], zs[1:], strict=True):
        loc, scale = loc_scale(layer, above)
        noise.append((z - loc) / scale)
    columns = np.concatenate(noise, axis=-1)
    assert columns.shape == (n, 6)
    assert scipy.stats.kstest(columns.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(columns.T) - np.eye(6)).max() < 5 / n**0.5


@pytest.mark.parametrize("image_shape", [(3, 2, 1), (2, 5, 3)])
def test_mean_image_is_the_sigmoid_in_the_order_of_pixels(
    image_shape, tiny, pixel_logits
):
    p = tiny(2, image_shape).generator
    zs = draw_latents(p, (5, 4))
    mean = p.mean(zs)
    want = scipy.special.expit(pixel_logits(p, zs[0])).reshape(5, 4, *image_shape)
    np.testing.assert_allclose(mean, want, rtol=1e-5)
    # The same order as images have in log p(x|z): the likeliest image is the mode.
    mode = np.round(mean[:, 0]).astype(np.float32)
    at_mode, _ = p.log_joint(mode, tuple(z[:, :1] for z in zs))
    want = np.log(np.maximum(mean, 1 - mean)).sum(axis=(-3, -2, -1))[:, 0]
    np.testing.assert_allclose(np.diag(at_mode), want, rtol=1e-5)


# The fixture itself ------------------------------------------------------------------


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
def test_linear_gaussian_images_have_the_moments_of_the_oracle(n_latent):
    generator, n = LinearGaussian(n_latent=n_latent), 20000
    zs = generator.sample_latents(n, SEED)
    rng = np.random.default_rng(0)
    mean = generator.mean(zs).numpy().reshape(n, -1)
    x = mean + np.exp(generator.log_scales[0].numpy()) * rng.normal(size=mean.shape)
    want, covariance = generator.moments(-1)
    variance = np.diag(covariance)
    assert np.all(np.abs(x.mean(axis=0) - want) < 5 * np.sqrt(variance / n))
    se = np.sqrt((covariance**2 + np.outer(variance, variance)) / n)
    centred = x - want
    assert np.all(np.abs(centred.T @ centred / n - covariance) < 5 * se)


def test_linear_gaussian_evidence_equals_the_integral_over_z():
    # One latent: quadrature is a third route to log p(x).
    generator = LinearGaussian(event_shape=(1, 2, 1), n_latent=(1,), dtype="float64")
    x = generator.images(3).astype(np.float64)
    z = np.linspace(-12, 12, 4001)
    zs = (tf.constant(np.repeat(z[:, None, None], 3, axis=1)),)
    joint = np.exp(sum(generator.log_joint(x, zs)))
    want = np.log(np.trapezoid(joint, z, axis=0))
    np.testing.assert_allclose(generator.log_evidence(x), want, rtol=1e-10)
