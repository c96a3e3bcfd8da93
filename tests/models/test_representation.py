"""Tests of iwae_tf.models.representation."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly
from linear_gaussian import deviations, pair, weights_of

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.models import zoo

SEED = randomness.seed_of(11)
LAYERS = pytest.mark.parametrize("n_latent", [(3,), (3, 2)])

# Embeddings --------------------------------------------------------------------------

ignoring = pytest.mark.filterwarnings("ignore:embed")


@ignoring
@pytest.mark.parametrize("batch_size", [4, 5, 10, 99])
@eagerly()
def test_posterior_means_equal_those_of_draws_by_hand(batch_size, tiny, binary):
    model, x, done = tiny(2), binary(10), []
    means, _, ess = model.embed(
        x, 6, batch_size, seed=3, jit_compile=False, on_progress=done.append
    )
    assert [mean.shape for mean in means] == [(10, 3), (10, 2)]
    size = min(batch_size, 10)
    for first in range(0, 10, size):
        images = x[np.minimum(np.arange(first, first + size), 9)]
        seed = randomness.seed_of(3, randomness.INSPECT, first)
        draws = model.draw(images, 6, seed)
        w = weights_of(draws)
        of_batch = slice(first, first + size)
        n = len(x[of_batch])
        for mean, z in zip(means, draws.zs, strict=True):
            want = np.einsum("kb,kbd->bd", w, np.float64(z))[:n]
            np.testing.assert_allclose(mean[of_batch], want, rtol=1e-4, atol=1e-5)
        want = 1 / np.sum(w**2, axis=0)[:n]
        np.testing.assert_allclose(ess[of_batch], want, rtol=1e-4)
    assert done == [*range(size, 10, size), 10]


@LAYERS
@eagerly()
def test_posterior_means_are_the_closed_form_within_5_standard_errors(n_latent):
    k = 4000
    generator, model = pair(n_latent, shift=0.3, stretch=1.3)
    x = generator.images(5)
    got, errors, ess = model.embed(x, k, 2, jit_compile=False)
    # The size of an error is a matter of the model, so other draws tell it too.
    draws = model.draw(x, k, SEED)
    layers = deviations(draws, generator, x)
    for estimate, error, of_layer in zip(got, errors, layers, strict=True):
        w, away, mean, _ = of_layer
        se = np.sqrt(np.einsum("kb,kbi->bi", w**2, away**2))
        assert np.all(np.abs(estimate - mean) < 5 * se)
        np.testing.assert_allclose(error, se, rtol=0.2)
    assert np.all((1 < ess) & (ess < k))


@eagerly()
def test_ess_of_the_exact_posterior_is_the_number_of_samples():
    generator, model = pair((3, 2))
    x = generator.images(3)
    *_, ess = model.embed(x, 50, jit_compile=False)
    np.testing.assert_allclose(ess, 50, rtol=1e-4)


def test_posterior_means_refuse_no_samples_and_no_images(tiny, binary):
    model = tiny()
    with pytest.raises(UsageError, match="^k: must be at least 1, got 0$"):
        model.embed(binary(2), 0)
    with pytest.raises(UsageError, match="^number of observations: must be at least 1"):
        model.embed(binary(0), 5)


def test_embeddings_warn_of_small_effective_sample_sizes_only():
    generator, exact = pair((3, 2))
    _, inexact = pair((3, 2), shift=3.0)
    x = generator.images(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact.embed(x, 50, jit_compile=False)
    with pytest.warns(UserWarning, match="^embed: 3 of 3 observations have .* k = 50"):
        *_, ess = inexact.embed(x, 50, jit_compile=False)
    assert np.all(ess < 10)


# Encodings and decodings -------------------------------------------------------------


@LAYERS
def test_encodings_are_means_and_scales_of_the_closed_form(n_latent):
    generator, model = pair(n_latent)
    x = generator.images(5)
    means, scales = model.encode(x, batch_size=2)
    last = len(n_latent) - 1
    if last:
        # q(z1|x) of the exact posterior is p(z1|x), whose moments are known.
        mean, covariance = generator.posterior_moments(x, 0)
        np.testing.assert_allclose(means[0], mean, rtol=1e-4, atol=1e-5)
    q = model.posterior.factors(model.posterior.mean(x), x)
    for scale, layer in zip(scales, q, strict=True):
        want = np.broadcast_to(np.squeeze(layer.stddev()), scale.shape)
        np.testing.assert_allclose(scale, want, rtol=1e-5)
    assert [m.shape for m in means] == [(5, d) for d in n_latent]


def test_encoding_is_of_q_by_numpy_and_decoding_of_it_is_the_reconstruction(
    tiny, binary, loc_scale
):
    model, x = tiny(2), binary(7)
    means, scales = model.encode(x, batch_size=3)
    below = x.reshape(7, -1).astype(np.float64)
    for mean, scale, head in zip(
        means, scales, model.posterior.conditionals, strict=True
    ):
        want, want_scale = loc_scale(head, below)
        np.testing.assert_allclose(mean, want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scale, want_scale, rtol=1e-4)
        below = want
    want = model.predict(x, verbose=0)
    np.testing.assert_allclose(model.decode(means, batch_size=3), want, rtol=1e-5)
    twice = [np.stack([mean, mean[::-1]]) for mean in means]
    both = model.decode(twice, batch_size=4)
    np.testing.assert_allclose(both, [want, want[::-1]], rtol=1e-5)
    one = tiny(1)
    (mean,), _ = one.encode(x)
    np.testing.assert_array_equal(one.decode(mean), one.decode([mean]))


def test_encodings_of_flows_have_no_scale(binary):
    model = zoo.burda((3, 2, 1), n_latent=[2], n_hidden=[4], n_flows=2)
    means, scales = model.encode(binary(3))
    assert scales is None
    np.testing.assert_allclose(
        means[0], model.posterior.mean(tf.constant(binary(3)))[0][0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("zs", "rule"),
    [
        (np.zeros([4, 3]), r"zs: must be latents of sizes \(3, 2\), bottom-up, .*"),
        ([np.zeros([4, 3]), np.zeros([4, 3])], "zs: must be latents of sizes .*"),
        ([np.zeros([4, 3]), np.zeros([5, 2])], "zs: must be latents of sizes .*"),
        ([np.zeros(3), np.zeros(2)], r"zs: must be of shape \[..., n, d\], got .*"),
        (
            [np.zeros([0, 3]), np.zeros([0, 2])],
            "number of latents: must be .*",
        ),
        ([["a"], ["b"]], "zs: must be an array of numbers, got list of <U1"),
    ],
    ids=range(6),
)
def test_latents_that_do_not_fit_are_one_line(zs, rule, tiny):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        tiny(2).decode(zs)


def test_interpolation_goes_from_one_reconstruction_to_the_other(tiny, binary):
    model, x1, x2 = tiny(2), binary(3, seed=1), binary(3, seed=2)
    steps = model.interpolate(x1, x2, 5)
    assert steps.shape == (5, *x1.shape)
    np.testing.assert_allclose(steps[0], model.predict(x1, verbose=0), rtol=1e-5)
    np.testing.assert_allclose(steps[-1], model.predict(x2, verbose=0), rtol=1e-5)
    middle = [
        (z1 + z2) / 2
        for z1, z2 in zip(model.encode(x1).means, model.encode(x2).means, strict=True)
    ]
    np.testing.assert_allclose(steps[2], model.decode(middle), rtol=1e-5)
    single = model.interpolate(x1[1], x2[1], 5)
    np.testing.assert_allclose(single, steps[:, 1], rtol=1e-5)
    with pytest.raises(UsageError, match="^n: must be at least 2, got 1$"):
        model.interpolate(x1, x2, 1)
    with pytest.raises(UsageError, match="^x2: must be of shape"):
        model.interpolate(x1, x2[:2], 3)


def test_conditional_models_take_contexts(binary):
    model = zoo.burda((3, 2, 1), n_latent=[2], n_hidden=[4], n_context=2, seed=1)
    x, y = binary(3), np.eye(2, dtype=np.float32)[[0, 1, 1]]
    means, _ = model.encode(x, y)
    want = model.predict((x, y), verbose=0)
    np.testing.assert_allclose(model.decode(means, y, batch_size=2), want, rtol=1e-5)
    steps = model.interpolate(x, x[::-1], 3, y)
    np.testing.assert_allclose(steps[0], want, rtol=1e-5)
    single = model.interpolate(x[0], x[2], 3, y[0])
    np.testing.assert_allclose(single, steps[:, 0], rtol=1e-5)
    with pytest.raises(UsageError, match="^context: must be of shape"):
        model.decode(means)
    with pytest.raises(UsageError, match="^context: must be of shape"):
        model.decode(means, y[:2])
