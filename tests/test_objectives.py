"""Tests of iwae_tf.objectives."""

import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from linear_gaussian import LinearGaussian, exact_posterior

from iwae_tf import randomness
from iwae_tf.draws import Draws
from iwae_tf.model import IWAE
from iwae_tf.objectives import (
    OBJECTIVES,
    Objective,
    iwae_elbo,
    vae_elbo,
    vae_elbo_kl,
    value_and_gradients,
)

SEED = randomness.seed_of(3)


def draws_of(log_w, kl=None):
    """Draws with these log-weights, cut into parts at random; float64."""
    rng = np.random.default_rng(9)
    log_pz, log_qz = rng.normal(size=(2, *np.shape(log_w)))
    parts = (log_w - log_pz + log_qz, log_pz, log_qz)
    return Draws((), *(tf.constant(part) for part in parts), kl)


def draw_log_w(k, b, scale=2.0, seed=0):
    return np.random.default_rng(seed).normal(scale=scale, size=(k, b))


def gradients_of(name, model, x, k, seed=SEED, beta=1.0):
    row = name if isinstance(name, Objective) else OBJECTIVES[name]
    loss, gradients, draws = value_and_gradients(row, model, x, k, seed, beta)
    return float(loss), [g.numpy() for g in gradients], draws


def assert_same_gradients(got, want, rtol=1e-5):
    # Rounding is relative to the sum over samples and images that makes an entry, so
    # to the largest entry rather than to each.
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


# Bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
def test_bounds_equal_numpy(beta):
    draws = draws_of(draw_log_w(4, 4), kl=tf.constant([1.0, 2.0, 3.0, 4.0], tf.float64))
    log_px, log_pz, log_qz, kl = (part.numpy() for part in draws[1:])
    log_w = log_px + beta * (log_pz - log_qz)
    np.testing.assert_allclose(vae_elbo(draws, beta), log_w.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        iwae_elbo(draws, beta), np.log(np.exp(log_w).mean(axis=0)), rtol=1e-12
    )
    np.testing.assert_allclose(
        vae_elbo_kl(draws, beta), log_px.mean(axis=0) - beta * kl, rtol=1e-12
    )


def test_rows_name_their_own_bounds():
    draws = draws_of(draw_log_w(4, 3), kl=tf.constant([1.0, 2.0, 3.0], tf.float64))
    log_w = draws.log_w().numpy()
    log_mean_w = np.log(np.exp(log_w).mean(axis=0))
    want = {
        "vae_elbo": log_w.mean(axis=0),
        "vae_elbo_kl": draws.log_px.numpy().mean(axis=0) - [1, 2, 3],
        "iwae_elbo": log_mean_w,
        "iwae_eq14": log_mean_w,
    }
    for name, values in want.items():
        row = OBJECTIVES[name]
        np.testing.assert_allclose(row.bound(draws, 1.0), values, rtol=1e-12)
        assert row.needs_kl == (name == "vae_elbo_kl")


def test_iwae_with_one_sample_is_the_elbo():
    draws = draws_of(draw_log_w(1, 5))
    np.testing.assert_allclose(iwae_elbo(draws), vae_elbo(draws), rtol=1e-14)
    np.testing.assert_allclose(iwae_elbo(draws), draws.log_w()[0], rtol=1e-14)


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_burda_theorem_1_over_all_subsets(scale):
    # E over subsets of size j of fixed weights is exact: no sampling error. By
    # Jensen, it cannot fall with j.
    k, b = 6, 3
    log_w = draw_log_w(k, b, scale)
    means = [
        np.mean(
            [
                iwae_elbo(draws_of(log_w[list(subset)]))
                for subset in itertools.combinations(range(k), j)
            ],
            axis=0,
        )
        for j in range(1, k + 1)
    ]
    assert np.all(np.diff(means, axis=0) >= 0)
    np.testing.assert_allclose(means[0], log_w.mean(axis=0), rtol=1e-12)
    assert np.all(means[-1] <= log_w.max(axis=0))


@pytest.mark.parametrize("bound", [vae_elbo, iwae_elbo])
def test_bounds_move_with_a_shift_and_do_not_see_the_order_of_samples(bound):
    log_w = draw_log_w(5, 5)
    want = bound(draws_of(log_w))
    shifts = 1e4 * np.arange(-2, 3)
    np.testing.assert_allclose(bound(draws_of(log_w + shifts)), want + shifts)
    np.testing.assert_allclose(bound(draws_of(log_w[::-1])), want, rtol=1e-12)


# Gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iwae_elbo", "iwae_eq14"])
def test_gradient_in_log_w_is_numpy_softmax(name):
    log_w = draw_log_w(4, 4)
    shifted = tf.constant(log_w - 1e4)
    zero = tf.zeros_like(shifted)
    with tf.GradientTape() as tape:
        tape.watch(shifted)
        draws = Draws((), shifted, zero, zero)
        value = tf.reduce_sum(OBJECTIVES[name].surrogate(draws, 1.0))
    np.testing.assert_allclose(
        tape.gradient(value, shifted), scipy.special.softmax(log_w, axis=0), rtol=1e-10
    )


@pytest.mark.parametrize(("stochastic_layers", "beta"), [(1, 1.0), (2, 0.5)])
def test_eq_14_equals_autodiff_of_eq_8_on_the_same_draws(
    stochastic_layers, beta, tiny, binary
):
    model, x = tiny(stochastic_layers), binary(4)
    loss_8, eq_8, _ = gradients_of("iwae_elbo", model, x, 7, beta=beta)
    loss_14, eq_14, _ = gradients_of("iwae_eq14", model, x, 7, beta=beta)
    assert loss_8 == loss_14
    assert_same_gradients(eq_14, eq_8)


@pytest.mark.parametrize("stochastic_layers", [1, 2])
def test_iwae_gradient_equals_weights_of_numpy_times_gradients_of_samples(
    stochastic_layers, tiny, binary
):
    model, x, k = tiny(stochastic_layers), binary(2), 3
    _, got, draws = gradients_of("iwae_elbo", model, x, k)
    w_norm = scipy.special.softmax(draws.log_w().numpy().astype(np.float64), axis=0)
    want = 0.0
    for i, image in itertools.product(range(k), range(2)):
        with tf.GradientTape() as tape:
            log_w = model.draw(x, k, SEED).log_w()[i, image]
        gradients = tape.gradient(log_w, model.trainable_variables)
        terms = [-w_norm[i, image] / 2 * g.numpy() for g in gradients]
        want = [a + b for a, b in zip(want, terms, strict=True)] if want else terms
    assert_same_gradients(got, want, rtol=2e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_is_minus_the_mean_over_images_of_the_bound(name, tiny, binary):
    model, x = tiny(), binary(5)
    loss, _, draws = gradients_of(name, model, x, 3, beta=0.5)
    log_px, log_pz, log_qz = (part.numpy() for part in draws[1:4])
    log_w = log_px + 0.5 * (log_pz - log_qz)
    want = {
        "vae_elbo": lambda: log_w.mean(axis=0),
        "vae_elbo_kl": lambda: log_px.mean(axis=0) - 0.5 * draws.kl.numpy(),
    }.get(name, lambda: np.log(np.exp(log_w).mean(axis=0)))()
    assert loss == pytest.approx(-want.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "stochastic_layers"),
    [
        (name, layers)
        for name, row in OBJECTIVES.items()
        for layers in ([1] if row.needs_kl else [1, 3])
    ],
)
def test_every_variable_has_a_gradient(name, stochastic_layers, tiny, binary):
    model = tiny(stochastic_layers)
    loss, gradients, _ = gradients_of(name, model, binary(4), 3)
    assert np.isfinite(loss)
    # Each network: two hidden layers, and two heads or the pixels.
    assert len(gradients) == 2 * (4 * (2 * stochastic_layers - 1) + 3)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(gradient), variable.path


def test_gradient_equals_finite_differences_of_the_loss(tiny, binary):
    # float32: a step of 1e-2 on a loss of 5 nats is rounded by 5e-5 of the slope.
    model, x, step = tiny(2), binary(4), 1e-2
    _, gradients, _ = gradients_of("iwae_elbo", model, x, 5)
    forward = tf.function(lambda: model.draw(x, 5, SEED).log_w())
    rng = np.random.default_rng(0)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        value = variable.numpy()
        direction = rng.choice([-1.0, 1.0], size=value.shape)
        losses = []
        for sign in (1, -1):
            variable.assign(value + sign * step * direction)
            log_w = forward().numpy().astype(np.float64)
            losses.append(-np.mean(np.log(np.exp(log_w).mean(axis=0))))
        variable.assign(value)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_elbo_with_closed_form_kl_has_the_same_expected_gradient(tiny, binary):
    model, x, n_repeats = tiny(), binary(4), 100

    @tf.function
    def difference(seed):
        both = (
            value_and_gradients(OBJECTIVES[name], model, x, 20, seed, 0.7)[1]
            for name in ("vae_elbo", "vae_elbo_kl")
        )
        return [a - b for a, b in zip(*both, strict=True)]

    repeats = [
        np.concatenate([d.numpy().ravel() for d in difference(randomness.seed_of(i))])
        for i in range(n_repeats)
    ]
    mean = np.mean(repeats, axis=0)
    standard_error = np.std(repeats, axis=0, ddof=1) / n_repeats**0.5
    # The generator's gradients are the same sums, so they differ by rounding only.
    assert np.all(np.abs(mean) < 5 * standard_error + 1e-6)
    assert np.max(standard_error) > 1e-4  # they are two estimators


def test_new_row_of_equal_weights_is_the_elbo(tiny, binary):
    equal = Objective(vae_elbo, sample_weights=lambda w: tf.ones_like(w) / w.shape[0])
    model, x = tiny(2), binary(4)
    got_loss, got, _ = gradients_of(equal, model, x, 5, beta=0.5)
    want_loss, want, _ = gradients_of("vae_elbo", model, x, 5, beta=0.5)
    assert got_loss == want_loss
    assert_same_gradients(got, want)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_value_and_gradients_in_a_function_equal_eager(
    jit_compile, tiny, binary, noise_of_bits
):
    model, x = tiny(2), tf.constant(binary(4))

    def compute(x):
        return value_and_gradients(OBJECTIVES["iwae_eq14"], model, x, 5, SEED, 0.5)[:2]

    got_loss, got = tf.function(compute, jit_compile=jit_compile)(x)
    want_loss, want = compute(x)
    assert float(got_loss) == pytest.approx(float(want_loss), rel=1e-5)
    assert_same_gradients([g.numpy() for g in got], [g.numpy() for g in want], 1e-4)


# A model whose log p(x) is known ------------------------------------------------------


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
def test_exact_posterior_makes_log_w_the_closed_form_log_px(n_latent):
    # In float64 at latents from anywhere: the identity p(x, z) / p(z|x) = p(x).
    generator = LinearGaussian(n_latent=n_latent, dtype="float64")
    posterior = exact_posterior(generator)
    x = tf.constant(generator.images(4), tf.float64)
    rng = np.random.default_rng(0)
    zs = tuple(tf.constant(rng.normal(size=(5, 4, d))) for d in n_latent)
    draws = Draws(zs, *generator.log_joint(x, zs), posterior.log_prob(zs, x))
    want = np.broadcast_to(generator.log_evidence(x), [5, 4])
    np.testing.assert_allclose(draws.log_w(), want, rtol=1e-13)


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
def test_exact_posterior_makes_every_bound_the_closed_form_log_px(n_latent):
    generator = LinearGaussian(n_latent=n_latent)
    model = IWAE(exact_posterior(generator), generator)
    x = generator.images(4)
    draws = model.draw(x, 5, SEED, with_kl=len(n_latent) == 1)
    want = generator.log_evidence(x)
    # Sums of about 30 terms of up to 10 nats, each rounded by 6e-8 of itself.
    atol = 30 * 10 * 6e-8
    np.testing.assert_allclose(
        draws.log_w(), np.broadcast_to(want, [5, 4]), rtol=0, atol=atol
    )
    for bound in (vae_elbo, iwae_elbo):
        np.testing.assert_allclose(bound(draws), want, rtol=0, atol=atol)


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
def test_bounds_of_an_inexact_posterior_are_ordered_below_the_closed_form_log_px(
    n_latent,
):
    generator = LinearGaussian(n_latent=n_latent)
    model = IWAE(exact_posterior(generator, shift=0.3, stretch=1.3), generator)
    x, n = generator.images(2), 4000
    log_w = model.draw(x, 20 * n, SEED).log_w().numpy().reshape(20, n, 2)
    log_px, below = generator.log_evidence(x), -np.inf
    for k in (1, 5, 20):
        bounds = iwae_elbo(draws_of(log_w[:k].reshape(k, -1).astype(np.float64)))
        bounds = bounds.numpy().reshape(n, 2)
        mean, se = bounds.mean(axis=0), bounds.std(axis=0) / n**0.5
        assert np.all(mean > below)
        assert np.all(mean < log_px - 5 * se)
        below = mean


def test_gap_of_the_bound_shrinks_like_var_w_over_2k():
    generator = LinearGaussian(n_latent=(2,))
    stretch, shift, n_samples = 1.15, 0.1, 2**18
    posterior = exact_posterior(generator, shift, stretch)
    x = generator.images(1)
    draws = IWAE(posterior, generator).draw(x, n_samples, SEED)
    log_w = draws.log_w().numpy()[:, 0].astype(np.float64)
    log_w -= generator.log_evidence(x)
    # Var(w) by hand: integral of p^2 / q for two Gaussians, dimension by dimension.
    p = np.diag(generator.posterior_moments(x)[1])
    q = stretch**2 * p
    second_moments = q / np.sqrt(p * (2 * q - p)) * np.exp(shift**2 / (2 * q - p))
    variance = np.prod(second_moments) - 1
    ks = np.array([4, 8, 16, 32, 64])
    gaps = []
    for k in ks:
        groups = log_w.reshape(-1, k).T
        # mean(w) - 1 has mean zero, and most of the noise of log mean(w).
        noise = np.exp(groups).mean(axis=0) - 1
        gaps.append(-np.mean(iwae_elbo(draws_of(groups)).numpy() - noise))
    np.testing.assert_allclose(2 * ks * np.array(gaps) / variance, 1, atol=0.1)
    slope = np.polyfit(np.log(ks), np.log(gaps), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)
