"""Tests of iwae_tf.objectives."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp
from linear_gaussian import LinearGaussian, exact_posterior
from row_gradients import SEED, assert_same_gradients, flat, gradients_of, split

from iwae_tf import randomness
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError
from iwae_tf.estimators import value_and_gradients
from iwae_tf.models.iwae import IWAE
from iwae_tf.objectives import (
    Objective,
    iwae_elbo,
    renyi,
    table,
    vae_elbo,
    vae_elbo_kl,
)

ROWS = table()
# Rows of paths, with the rows that have their bound and its total gradient.
PATHS = {"stl": "iwae_elbo", "dreg": "iwae_elbo", "rws_dreg": "iwae_elbo"} | {
    "renyi_dreg": "renyi"
}
SCORES = {name: "iwae_elbo" for name in ("vimco", "ovis", "rws", "rws_sleep")} | {
    "tvo": "tvo_total"
}


TEMPERATURES = (0, *(0.02 ** (i / 4) for i in (4, 3, 2, 1)))


def draws_of(log_w, kl=None):
    """Draws with these log-weights, cut into parts at random; float64."""
    rng = np.random.default_rng(9)
    log_pz, log_qz = rng.normal(size=(2, *np.shape(log_w)))
    parts = (log_w - log_pz + log_qz, log_pz, log_qz)
    return Draws((), *(tf.constant(part) for part in parts), kl)


def renyi_of(log_w, alpha=0.5):
    """The bound of `renyi` in NumPy.

    A power of 1e-6 makes rounding a million times as large, so it has longer numbers.
    """
    power, most = np.longdouble(1 - alpha), log_w.max(axis=0)
    mean = np.exp(power * (log_w - most)).mean(axis=0)
    return (most + np.log(mean) / power).astype(np.float64)


def riemann_of(log_w, temperatures=TEMPERATURES):
    """The bound of `tvo` in NumPy."""
    return sum(
        (end - t) * (scipy.special.softmax(t * log_w, axis=0) * log_w).sum(axis=0)
        for t, end in itertools.pairwise([*temperatures, 1])
    )


def draw_log_w(k, b, scale=2.0, seed=0):
    return np.random.default_rng(seed).normal(scale=scale, size=(k, b))


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
    # Samples 0 and 2 are one group, 1 and 3 the other.
    groups = np.log(np.exp(log_w.reshape(2, 2, 3)).mean(axis=0)).mean(axis=0)
    want = {
        "vae_elbo": log_w.mean(axis=0),
        "vae_elbo_kl": draws.log_px.numpy().mean(axis=0) - [1, 2, 3],
        "iwae_elbo": log_mean_w,
        "iwae_eq14": log_mean_w,
        "miwae": groups,
        "piwae": groups,
        "combination": 0.3 * log_w.mean(axis=0) + 0.7 * log_mean_w,
        "stl": log_mean_w,
        "dreg": log_mean_w,
        "gdreg": log_mean_w,
        "rws_dreg": log_mean_w,
        "renyi": renyi_of(log_w),
        "renyi_dreg": renyi_of(log_w),
        "tvo": riemann_of(log_w),
        "tvo_total": riemann_of(log_w),
        "vimco": log_mean_w,
        "ovis": log_mean_w,
        "rws": log_mean_w,
        "rws_sleep": log_mean_w,
    }
    rows = table(n_groups=2, combination_beta=0.3)
    assert set(want) == set(rows)
    for name, values in want.items():
        np.testing.assert_allclose(rows[name].bound(draws, 1.0), values, rtol=1e-12)
        assert rows[name].needs_kl == (name == "vae_elbo_kl")
        assert rows[name].n_groups == (2 if name in ("miwae", "piwae") else 1)
    half = table()["combination"].bound(draws, 1.0)
    np.testing.assert_allclose(half, (log_w.mean(axis=0) + log_mean_w) / 2, rtol=1e-12)


def test_renyi_falls_with_its_order_from_the_iwae_to_the_elbo():
    for log_w in (draw_log_w(5, 4), 1e4 + draw_log_w(5, 4, 1e3)):
        draws = draws_of(log_w)
        bounds = [iwae_elbo(draws)]
        for alpha in (0.1, 0.3, 0.5, 0.9, 0.99, 0.999999):
            bound = renyi(draws, alpha=alpha).numpy()
            np.testing.assert_allclose(bound, renyi_of(log_w, alpha), rtol=1e-9)
            bounds.append(bound)
        assert np.all(np.diff(bounds, axis=0) < 0)
        np.testing.assert_allclose(renyi(draws, alpha=0.0), bounds[0], rtol=1e-13)
        elbo = log_w.mean(axis=0)
        assert np.all(bounds[-1] > elbo)
        # Half the variance, times 1 - alpha, is what remains.
        remains = 5e-7 * log_w.var(axis=0)
        np.testing.assert_allclose(bounds[-1] - elbo, remains, rtol=0.01)


def test_renyi_near_the_elbo_keeps_its_digits_in_float32():
    log_w = draw_log_w(5, 4) - 90
    parts = (tf.constant(part, tf.float32) for part in (log_w, 0 * log_w, 0 * log_w))
    got = renyi(Draws((), *parts), alpha=0.999999)
    np.testing.assert_allclose(got, log_w.mean(axis=0), rtol=3e-7)


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
    with tf.GradientTape(persistent=True) as tape:
        log_w = [tf.unstack(row) for row in tf.unstack(model.draw(x, k, SEED).log_w())]
    for i, image in itertools.product(range(k), range(2)):
        gradients = tape.gradient(log_w[i][image], model.trainable_variables)
        terms = [-w_norm[i, image] / 2 * g.numpy() for g in gradients]
        want = [a + b for a, b in zip(want, terms, strict=True)] if want else terms
    assert_same_gradients(got, want, rtol=2e-5)


@pytest.mark.parametrize("name", ROWS)
def test_loss_is_minus_the_mean_over_images_of_the_bound(name, tiny, binary):
    model, x = tiny(), binary(5)
    loss, _, draws = gradients_of(name, model, x, 3, beta=0.5)
    log_px, log_pz, log_qz = (part.numpy() for part in draws[1:4])
    log_w = log_px + 0.5 * (log_pz - log_qz)
    iwae = np.log(np.exp(log_w).mean(axis=0))
    want = {
        "vae_elbo": lambda: log_w.mean(axis=0),
        "vae_elbo_kl": lambda: log_px.mean(axis=0) - 0.5 * draws.kl.numpy(),
        "combination": lambda: (log_w.mean(axis=0) + iwae) / 2,
        "renyi": lambda: renyi_of(log_w),
        "renyi_dreg": lambda: renyi_of(log_w),
        "tvo": lambda: riemann_of(log_w),
        "tvo_total": lambda: riemann_of(log_w),
    }.get(name, lambda: iwae)()
    assert loss == pytest.approx(-want.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "stochastic_layers"),
    [
        (name, layers)
        for name, row in ROWS.items()
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
            value_and_gradients(ROWS[name], model, x, 20, seed, 0.7)[1]
            for name in ("vae_elbo", "vae_elbo_kl")
        )
        return [a - b for a, b in zip(*both, strict=True)]

    repeats = [flat(difference(randomness.seed_of(i))) for i in range(n_repeats)]
    mean = np.mean(repeats, axis=0)
    standard_error = np.std(repeats, axis=0, ddof=1) / n_repeats**0.5
    # The generator's gradients are the same sums, so they differ by rounding only.
    assert np.all(np.abs(mean) < 5 * standard_error + 1e-6)
    assert np.max(standard_error) > 1e-4  # they are two estimators


def test_new_row_of_equal_weights_is_the_elbo(tiny, binary):
    equal = Objective(vae_elbo, lambda w, beta: tf.ones_like(w) / w.shape[0])
    model, x = tiny(2), binary(4)
    got_loss, got, _ = gradients_of(equal, model, x, 5, beta=0.5)
    want_loss, want, _ = gradients_of("vae_elbo", model, x, 5, beta=0.5)
    assert got_loss == want_loss
    assert_same_gradients(got, want)


@pytest.mark.parametrize("weights", [(None, True), (True, None), (True, True)])
def test_row_with_weights_for_one_or_both_is_the_iwae(weights, tiny, binary):
    own = ROWS["iwae_eq14"].theta_weights
    mixed = Objective(iwae_elbo, *(own if given else None for given in weights))
    model, x = tiny(2), binary(4)
    _, got, _ = gradients_of(mixed, model, x, 5, beta=0.5)
    _, want, _ = gradients_of("iwae_elbo", model, x, 5, beta=0.5)
    assert_same_gradients(got, want)


@pytest.mark.parametrize(
    "changes", [{"theta_weights": None}, {"phi_weights": None}, {"needs_kl": True}]
)
def test_path_only_row_that_cannot_be_is_refused(changes, tiny, binary):
    row = ROWS["dreg"]._replace(**changes)
    rule = (
        "^objective: must have theta_weights and phi_weights and no closed form for "
        "phi_gradient path, got "
    )
    with pytest.raises(UsageError, match=rule):
        gradients_of(row, tiny(), binary(2), 3)


# In a graph, and some by XLA; total ones are compiled in test_iwae.
@pytest.mark.parametrize(
    ("name", "stochastic_layers", "jit_compile"),
    [
        ("iwae_eq14", 2, False),
        ("piwae", 1, False),
        ("dreg", 2, True),
        ("tvo", 1, False),
        ("vimco", 2, True),
        ("rws_sleep", 2, False),
    ],
)
def test_value_and_gradients_in_a_function_equal_eager(
    name, stochastic_layers, jit_compile, tiny, binary
):
    model, x = tiny(stochastic_layers), tf.constant(binary(4))
    row = table(n_groups=2)[name]

    def compute(x):
        return value_and_gradients(row, model, x, 5, SEED, 0.5)[:2]

    got_loss, got = tf.function(compute, jit_compile=jit_compile)(x)
    want_loss, want = compute(x)
    assert float(got_loss) == pytest.approx(float(want_loss), rel=1e-5)
    assert_same_gradients([g.numpy() for g in got], [g.numpy() for g in want], 1e-4)


def test_sleep_by_xla_has_the_theta_gradient_of_eager_and_dreams_of_its_own(
    tiny, binary
):
    # XLA has other uniform numbers, so the binary images of its dreams are others.
    model, x = tiny(), tf.constant(binary(4))

    def compute(x):
        return value_and_gradients(ROWS["rws_sleep"], model, x, 5, SEED, 0.5)[1]

    got, want = tf.function(compute, jit_compile=True)(x), compute(x)
    (of_phi, of_theta), (other, want) = (
        split([g.numpy() for g in gradients], model) for gradients in (got, want)
    )
    assert_same_gradients(of_theta, want, 1e-4)
    for a, b in zip(of_phi, other, strict=True):
        assert 0.1 < np.linalg.norm(a) / np.linalg.norm(b) < 10


# Identities between rows -------------------------------------------------------------


@pytest.mark.parametrize("stochastic_layers", [1, 2])
@pytest.mark.parametrize(
    ("name", "options", "k", "other"),
    [
        ("miwae", {"n_groups": 1}, 6, "iwae_elbo"),
        ("miwae", {"n_groups": 6}, 1, "vae_elbo"),
        ("piwae", {"n_groups": 1}, 6, "iwae_elbo"),
        ("combination", {"combination_beta": 1.0}, 6, "vae_elbo"),
        ("combination", {"combination_beta": 0.0}, 6, "iwae_elbo"),
        ("renyi", {"renyi_alpha": 0.0}, 6, "iwae_elbo"),
        ("renyi", {"renyi_alpha": 1 - 1e-7}, 6, "vae_elbo"),
        ("renyi_dreg", {"renyi_alpha": 0.0}, 6, "dreg"),
        ("tvo_total", {"temperatures": (0.0,)}, 6, "vae_elbo"),
    ],
)
def test_row_at_its_limit_is_another_row(
    name, options, k, other, stochastic_layers, tiny, binary
):
    model, x = tiny(stochastic_layers), binary(4)
    got_loss, got, _ = gradients_of(name, model, x, k, beta=0.7, **options)
    want_loss, want, _ = gradients_of(other, model, x, 6, beta=0.7)
    assert got_loss == pytest.approx(want_loss, rel=1e-6)
    assert_same_gradients(got, want)


@pytest.mark.parametrize("stochastic_layers", [1, 2])
def test_piwae_has_the_theta_gradient_of_iwae_and_the_phi_gradient_of_miwae(
    stochastic_layers, tiny, binary
):
    model, x = tiny(stochastic_layers), binary(4)
    loss, got, _ = gradients_of("piwae", model, x, 3, n_groups=2)
    miwae_loss, multiply, _ = gradients_of("miwae", model, x, 3, n_groups=2)
    _, iwae, _ = gradients_of("iwae_elbo", model, x, 6)
    assert loss == pytest.approx(miwae_loss, rel=1e-6)
    (of_phi, of_theta), (of_phi_miwae, _), (_, of_theta_iwae) = (
        split(gradients, model) for gradients in (got, multiply, iwae)
    )
    assert_same_gradients(of_phi, of_phi_miwae)
    assert_same_gradients(of_theta, of_theta_iwae)


@pytest.mark.parametrize(("stochastic_layers", "beta"), [(1, 1.0), (2, 1.0), (2, 0.5)])
@pytest.mark.parametrize("name", PATHS | SCORES)
def test_rows_have_the_bound_and_the_theta_gradient_of_their_total_row(
    name, stochastic_layers, beta, tiny, binary
):
    model, x = tiny(stochastic_layers), binary(4)
    total = (PATHS | SCORES)[name]
    loss, got, draws = gradients_of(name, model, x, 7, beta=beta)
    total_loss, want, total_draws = gradients_of(total, model, x, 7, beta=beta)
    assert loss == pytest.approx(total_loss, rel=1e-6)
    for part, total_part in zip(draws[1:4], total_draws[1:4], strict=True):
        np.testing.assert_allclose(part, total_part, rtol=1e-6)
    (of_phi, of_theta), (of_phi_total, of_theta_total) = (
        split(gradients, model) for gradients in (got, want)
    )
    assert_same_gradients(of_theta, of_theta_total)
    assert not np.allclose(of_phi[0], of_phi_total[0], rtol=0.01)


@pytest.mark.parametrize(("stochastic_layers", "beta"), [(1, 1.0), (2, 1.0), (3, 0.5)])
@pytest.mark.parametrize("name", PATHS)
def test_path_gradient_equals_weights_of_numpy_times_paths_past_a_twin(
    name, stochastic_layers, beta, tiny, binary
):
    # A second model with the same values weighs the latents: its variables are not
    # those of the first, so log q(z|x) moves with phi through z only.
    model, twin = tiny(stochastic_layers), tiny(stochastic_layers)
    x, k = binary(2), 3
    loss, got, draws = gradients_of(name, model, x, k, beta=beta)
    log_w = draws.log_w(beta).numpy().astype(np.float64)
    w, v = (scipy.special.softmax(power * log_w, axis=0) for power in (1, 0.5))
    factors = {
        "stl": w,
        "dreg": (1 - beta) * w + beta * w**2,
        "rws_dreg": w * (1 - w),
        "renyi_dreg": v - beta * (1 - 0.5) * (v - v**2),
    }[name]
    want, sizes = 0.0, 0.0
    with tf.GradientTape(persistent=True) as tape:
        zs, _ = model.posterior.draw(x, k, SEED)
        log_w = twin.weigh(x, zs).log_w(beta)
        log_w = [tf.unstack(row) for row in tf.unstack(log_w)]
    for i, image in itertools.product(range(k), range(2)):
        of_phi = tape.gradient(log_w[i][image], model.posterior.trainable_variables)
        want += -factors[i, image] / 2 * flat(of_phi)
        sizes += w[i, image] / 2 * np.abs(flat(of_phi))
    # w~ is rounded relative to itself, and so is 1 - w~ relative to 1.
    got = flat(split(got, model)[0])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * sizes.max())
    assert np.abs(want).max() > 1e-3 * sizes.max()


def score_weights(name, log_w, beta):
    """What the rows multiply the scores of samples by, from their definitions."""
    w = scipy.special.softmax(log_w, axis=0)
    if name == "rws":
        return w
    if name == "tvo":
        held = np.zeros_like(w)
        for t, end in itertools.pairwise([*TEMPERATURES, 1]):
            v = scipy.special.softmax(t * log_w, axis=0)
            centred = log_w - (v * log_w).sum(axis=0)
            held += (end - t) * v * ((1 - beta * t) * centred - beta)
        return held
    rest = np.empty_like(w)
    for i in range(len(w)):
        others = np.delete(log_w, i, axis=0)
        replaced = [others.mean(axis=0, keepdims=True)] if name == "vimco" else []
        rest[i] = np.log(np.exp(np.concatenate([others, *replaced])).sum(axis=0))
    return np.log(np.exp(log_w).sum(axis=0)) - rest - beta * w


@pytest.mark.parametrize(("stochastic_layers", "beta"), [(1, 1.0), (2, 0.5)])
@pytest.mark.parametrize("name", [name for name in SCORES if name != "rws_sleep"])
def test_score_gradient_equals_weights_of_numpy_times_scores(
    name, stochastic_layers, beta, tiny, binary
):
    model, x, k = tiny(stochastic_layers), binary(2), 3
    _, got, draws = gradients_of(name, model, x, k, beta=beta)
    log_w = draws.log_w(beta).numpy().astype(np.float64)
    held = score_weights(name, log_w, beta)
    with tf.GradientTape(persistent=True) as tape:
        log_qz = model.posterior.log_prob(draws.zs, x)
        log_qz = [tf.unstack(row) for row in tf.unstack(log_qz)]
    want = 0.0
    for i, image in itertools.product(range(k), range(2)):
        score = tape.gradient(log_qz[i][image], model.posterior.trainable_variables)
        want += -held[i, image] / 2 * flat(score)
    got = flat(split(got, model)[0])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("stochastic_layers", [1, 2])
def test_three_ways_of_writing_the_iwae_loss_give_one_gradient(
    stochastic_layers, tiny, binary
):
    model, x = tiny(stochastic_layers), binary(4)

    def log_mean_exp(log_w):
        return tf.math.log(tf.reduce_mean(tf.exp(log_w), axis=0))

    def max_shifted(log_w):
        w = tf.exp(log_w - tf.reduce_max(log_w, axis=0))
        return tf.reduce_sum(tf.stop_gradient(w / tf.reduce_sum(w, 0)) * log_w, axis=0)

    def log_normalised(log_w):
        log_w_norm = log_w - tf.math.log(tf.reduce_sum(tf.exp(log_w), axis=0))
        return tf.reduce_sum(tf.stop_gradient(tf.exp(log_w_norm)) * log_w, axis=0)

    for name in ("iwae_elbo", "iwae_eq14"):
        _, got, _ = gradients_of(name, model, x, 7)
        for surrogate in (log_mean_exp, max_shifted, log_normalised):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(surrogate(model.draw(x, 7, SEED).log_w()))
            want = tape.gradient(loss, model.trainable_variables)
            assert_same_gradients(got, [g.numpy() for g in want])


# Extremes ----------------------------------------------------------------------------


class Line:
    """log w = level + theta z + (z - phi)^2 / 2 with z = phi + noise: any level."""

    def __init__(self, levels):
        self.levels = tf.constant(levels, tf.float32)
        self.posterior = self.generator = self
        self.phi, self.theta = tf.Variable(0.3), tf.Variable(0.7)
        self.posterior = SimpleNamespace(
            trainable_variables=[self.phi],
            draw=self.draw_latents,
            log_prob=lambda zs, x, context: -0.5 * (zs[0][..., 0] - self.phi) ** 2,
        )
        # The prior is flat for `weigh`, which does not ask for its factors.
        normal = tfp.distributions.Independent(
            tfp.distributions.Normal(self.theta + tf.zeros(1), 1.0), 1
        )
        self.generator = SimpleNamespace(
            trainable_variables=[self.theta],
            factors=lambda zs, context: [normal],
            sample_latents=lambda n, seed, context: (randomness.normal([n, 1], seed),),
            sample=lambda zs, seed, context: (zs[0][..., tf.newaxis, tf.newaxis], None),
        )

    def inputs(self, x, context=None):
        return x, context

    def draw_latents(self, x, k, seed, context=None):
        z = self.phi + randomness.normal([k, len(x), 1], seed)
        return (z,), -0.5 * (z[..., 0] - self.phi) ** 2

    def weigh(self, x, zs, context=None):
        z = zs[0][..., 0]
        log_qz = -0.5 * (z - self.phi) ** 2
        kl = 0.5 * self.phi**2 * tf.ones(len(x))
        return Draws(zs, self.levels + self.theta * z, tf.zeros_like(z), log_qz, kl)

    def draw(self, x, k, seed, context=None, with_kl=False):
        return self.weigh(x, self.draw_latents(x, k, seed)[0])


@pytest.mark.parametrize(
    "levels",
    {
        "high": np.full((6, 2), 1e4),
        "low": np.full((6, 2), -1e4),
        "equal": np.zeros((6, 2)),
        "one dominates": np.where(np.arange(6)[:, None] == [1, 4], 1e4, -1e4),
        "one is lost": np.where(np.arange(6)[:, None] == [1, 4], -1e4, 1e4),
        "one sample": np.full((1, 2), -1e4),
    }.values(),
    ids=lambda levels: f"{levels.shape[0]}:{levels.min():g}:{levels.max():g}",
)
@pytest.mark.parametrize("name", ROWS)
def test_extreme_weights_give_finite_values_and_gradients(name, levels):
    n_samples = len(levels)
    n_groups = 2 if name in ("miwae", "piwae") and n_samples > 1 else 1
    model, x = Line(levels), tf.zeros([2, 1, 1, 1])
    k, options = n_samples // n_groups, {"n_groups": n_groups}
    if k < ROWS[name].min_samples:
        with pytest.raises(UsageError, match="^n_samples: must be at least 2 .* got 1"):
            gradients_of(name, model, x, k, **options)
        return
    loss, gradients, draws = gradients_of(name, model, x, k, **options)
    log_w = draws.log_w().numpy()
    assert log_w.shape == levels.shape
    assert -log_w.max() - 1 <= loss <= -log_w.min() + 1
    assert np.all(np.isfinite(gradients))
    assert gradients[1] != 0
    if name == "dreg" and levels.min() < levels.max() and levels[0, 0] < 0:
        # All the weight is one sample's: the path gradient of log w is theta + noise.
        noise = (draws.zs[0][..., 0].numpy() - 0.3)[[1, 4], [0, 1]]
        assert gradients[0] == pytest.approx(-np.mean(0.7 + noise), rel=1e-5)


# A model whose log p(x) is known -----------------------------------------------------


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
