"""Tests of iwae_tf.estimators: expectations of gradients in a model that is known."""

import functools
import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from linear_gaussian import LinearGaussian, exact_posterior
from row_gradients import SEED, flat, mean_and_error, split

from iwae_tf import objectives, randomness, weights
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError
from iwae_tf.estimators import check_estimator, value_and_gradients
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.posteriors import flatten
from iwae_tf.objectives import table

ROWS = table()
PATH_ONLY = [name for name, row in ROWS.items() if row.phi_gradient == "path"]


@pytest.mark.parametrize(
    ("name", "changes", "rule"),
    [
        ("dreg", {"phi_gradient": "paths"}, "phi_gradient: must be one of total, path"),
        (
            "vimco",
            {"phi_weights": None},
            "objective: must have theta_weights and phi_weights .* phi_gradient score",
        ),
        (
            "rws_sleep",
            {"theta_weights": None},
            "objective: must have theta_weights and no .* for phi_gradient sleep",
        ),
        ("vimco", {"needs_kl": True}, "objective: must have .* and no closed form"),
        ("vimco", {"prior_path": True}, "prior_path: goes with .* path only, got sco"),
        ("vimco", {"min_samples": 6}, "n_samples: must be at least 6 .* got 5$"),
    ],
)
def test_rows_that_cannot_be_are_refused_in_one_line(name, changes, rule):
    part = SimpleNamespace()
    check_estimator(ROWS[name], part, part, 5)
    with pytest.raises(UsageError, match=f"^{rule}") as info:
        check_estimator(ROWS[name]._replace(**changes), part, part, 5)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ROWS)
def test_models_that_cannot_have_a_row_are_told_rows_that_work(name):
    plain = SimpleNamespace(has_factors=True)
    binary = SimpleNamespace(is_reparameterised=False)
    masked = SimpleNamespace(mask_model="any", has_factors=True)
    for parts, is_refused in (
        ((binary, plain), ROWS[name].phi_gradient in ("total", "path")),
        ((plain, masked), ROWS[name].phi_gradient != "total"),
    ):
        if not is_refused:
            check_estimator(ROWS[name], *parts, 5)
            continue
        with pytest.raises(UsageError, match="^objective: must .*; use ") as info:
            check_estimator(ROWS[name], *parts, 5)
        named = str(info.value).split("; use ")[1]
        for other in named.replace(" or ", ", ").split(", "):
            check_estimator(ROWS[other], *parts, 5)


def of_phi(row, model, x, k, seed, beta=1.0):
    gradients = value_and_gradients(row, model, x, k, seed, beta)[1]
    return split(gradients, model)[0]


def with_stopped_loc_and_scale(model, x, k, seed):
    """DReG as it is often written: z1 -> q(z2|z1) is cut with the parameters."""
    phi = model.posterior.trainable_variables
    with tf.GradientTape() as tape:
        zs, _ = model.posterior.draw(x, k, seed)
        log_px, log_pz = model.generator.log_joint(x, zs)
        log_qz, below = 0.0, flatten(x)
        for level, z in enumerate(zs):
            q = model.posterior.conditional(level, below)
            stopped = (tf.stop_gradient(part) for part in (q.mean(), q.stddev()))
            log_qz += tfp.distributions.MultivariateNormalDiag(*stopped).log_prob(z)
            below = z
        log_w = log_px + log_pz - log_qz
        w_norm = tf.stop_gradient(tf.nn.softmax(log_w, axis=0))
        loss = -tf.reduce_mean(tf.reduce_sum(w_norm**2 * log_w, axis=0))
    return tape.gradient(loss, phi)


def wake_phi(model, x, k, seed):
    """The wake update of q in its own form: w~ times the score, z held."""
    draws = model.draw(x, k, seed)
    w_norm = tf.nn.softmax(draws.log_w(), axis=0)
    with tf.GradientTape() as tape:
        log_qz = model.posterior.log_prob(draws.zs, x)
        loss = -tf.reduce_mean(tf.reduce_sum(w_norm * log_qz, axis=0))
    return tape.gradient(loss, model.posterior.trainable_variables)


def with_own_weight_in_the_baseline(log_w, beta=1.0):
    """VIMCO's weights, wrongly: the geometric mean that replaces w_i is that of all."""
    k = log_w.shape[0]
    geometric = tf.reduce_mean(log_w, axis=0)
    replaced = [
        weights.log_mean_exp(tf.concat([log_w[:i], [geometric], log_w[i + 1 :]], 0))
        for i in range(k)
    ]
    signal = weights.log_mean_exp(log_w) - tf.stack(replaced)
    return signal - beta * weights.normalise(log_w)


def with_gamma_of_one(log_w, beta=1.0):
    """OVIS for a large effective sample size, whose baseline depends on w_i."""
    rest = weights.log_sum_without_each(log_w)
    return weights.log_mean_exp(log_w) - rest + np.log(log_w.shape[0] - 1)


def without_own_term(log_w, beta=1.0):
    """VIMCO's weights, wrongly: log q(z|x) in log w is taken as constant."""
    return objectives.leave_one_out(log_w, beta) + beta * weights.normalise(log_w)


WRONG = {
    "renyi_dreg with v^2": table()["renyi_dreg"]._replace(
        phi_weights=lambda log_w, beta: tf.square(weights.normalise(log_w / 2))
    ),
    "vimco with its own weight": table()["vimco"]._replace(
        phi_weights=with_own_weight_in_the_baseline
    ),
    "ovis with gamma = 1": table()["ovis"]._replace(phi_weights=with_gamma_of_one),
    "vimco without a term": table()["vimco"]._replace(phi_weights=without_own_term),
}


@pytest.fixture(scope="module", params=[(3,), (3, 2)], ids=["1 layer", "2 layers"])
def repeats(request):
    """A function of an estimator to 60 estimates [60, n], means over 2,000 draws."""
    generator = LinearGaussian(n_latent=request.param)
    model = IWAE(exact_posterior(generator, shift=0.3, stretch=1.3), generator)
    x = tf.repeat(generator.images(1), 2000, axis=0)
    seeds = [randomness.seed_of(i) for i in range(60)]
    own = {"stopped": with_stopped_loc_and_scale, "wake": wake_phi}

    @functools.cache
    def estimates(name, k=5, beta=1.0, **options):
        if name in own:
            function = partial(own[name], model, x, k)
        else:
            row = WRONG[name] if name in WRONG else table(**options)[name]
            function = partial(of_phi, row, model, x, k, beta=beta)
        traced = tf.function(function, autograph=False)
        return np.array([flat(traced(seed)) for seed in seeds])

    return estimates


def assert_same_expectation(estimates, others, n_errors=20):
    """Compares means, after a check that there is something to be wrong of."""
    difference, error = mean_and_error(estimates - others)
    assert np.all(np.abs(difference) < 5 * error)
    assert np.abs(others.mean(axis=0)).max() > n_errors * error.max()


@pytest.mark.parametrize(
    ("name", "k", "beta"),
    [("dreg", 5, 1.0), ("dreg", 5, 0.5), ("dreg", 1, 1.0), ("stl", 1, 1.0)],
)
def test_path_gradient_has_the_expectation_of_the_total_gradient(
    name, k, beta, repeats
):
    assert_same_expectation(repeats(name, k, beta), repeats("iwae_elbo", k, beta))


def test_dreg_with_stopped_loc_and_scale_is_biased_with_two_layers_only(
    repeats, request
):
    is_biased = request.node.callspec.params["repeats"] == (3, 2)
    mean, error = mean_and_error(repeats("stopped") - repeats("iwae_elbo"))
    assert np.any(np.abs(mean) > 10 * error) == is_biased
    assert np.all(np.abs(mean) < 5 * error) != is_biased


def test_stl_is_biased_for_more_than_one_sample(repeats):
    mean, error = mean_and_error(repeats("stl") - repeats("iwae_elbo"))
    assert np.abs(mean / error).max() > 20


def test_rws_dreg_has_the_expectation_of_the_wake_update(repeats):
    assert_same_expectation(repeats("rws_dreg"), repeats("wake"))


def test_rws_is_the_wake_update_in_its_own_form(repeats):
    np.testing.assert_allclose(repeats("rws"), repeats("wake"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 1.0), (0.8, 1.0), (0.5, 0.5)])
def test_renyi_dreg_has_the_expectation_of_the_total_gradient(alpha, beta, repeats):
    assert_same_expectation(
        repeats("renyi_dreg", beta=beta, renyi_alpha=alpha),
        repeats("renyi", beta=beta, renyi_alpha=alpha),
    )


@pytest.mark.parametrize(("k", "beta"), [(5, 1.0), (5, 0.5), (2, 1.0)])
@pytest.mark.parametrize("name", ["vimco", "ovis"])
def test_score_gradient_has_the_expectation_of_the_total_gradient(
    name, k, beta, repeats
):
    assert_same_expectation(
        repeats(name, k, beta), repeats("iwae_elbo", k, beta), n_errors=6
    )


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("renyi_dreg with v^2", "renyi"),
        ("vimco with its own weight", "iwae_elbo"),
        ("vimco without a term", "iwae_elbo"),
        ("ovis with gamma = 1", "iwae_elbo"),
    ],
)
def test_wrong_weights_are_seen_in_the_expectation(wrong, right, repeats):
    mean, error = mean_and_error(repeats(wrong) - repeats(right))
    assert np.abs(mean / error).max() > 10


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
@pytest.mark.parametrize("name", PATH_ONLY)
def test_exact_posterior_makes_path_gradients_zero(name, n_latent):
    generator = LinearGaussian(n_latent=n_latent)
    model = IWAE(exact_posterior(generator), generator)
    x = generator.images(4)
    path = of_phi(ROWS[name], model, x, 5, SEED)
    total = of_phi(ROWS["iwae_elbo"], model, x, 5, SEED)
    # What cancels is about as large as the total gradient, and rounded by 6e-8.
    for a, b in zip(path, total, strict=True):
        assert np.abs(a).max() < 100 * 6e-8 * np.abs(b).max()


# Sleep -------------------------------------------------------------------------------


def dream_gradients(generator, posterior):
    """-E_p[grad log q(z|x)] of a `GaussianChain` of linear heads, in NumPy float64."""
    gradients = {}
    for level, layer in enumerate(posterior.conditionals):
        # The inputs of the layer and its latent are Gaussian with these moments.
        mean, covariance = generator.moments(level - 1)
        own_mean, own_covariance = generator.moments(level)
        joint = next(generator._float64(level)) @ own_covariance
        kernel, bias = (np.float64(v) for v in (layer.loc.kernel, layer.loc.bias))
        variance = np.exp(2 * np.float64(layer.log_scale.bias))
        assert not np.any(layer.log_scale.kernel)
        # The error of q's mean, and its moments with the inputs.
        error = own_mean - mean @ kernel - bias
        with_inputs = joint - covariance @ kernel
        of_error = own_covariance - kernel.T @ joint - with_inputs.T @ kernel
        square = error**2 + np.diag(of_error)
        cubic = np.outer(mean, square) + 2 * error * with_inputs
        of_layer = (
            (layer.loc.kernel, (with_inputs + np.outer(mean, error)) / variance),
            (layer.loc.bias, error / variance),
            (layer.log_scale.kernel, cubic / variance - mean[:, np.newaxis]),
            (layer.log_scale.bias, square / variance - 1),
        )
        gradients |= {id(variable): -value for variable, value in of_layer}
    return [gradients[id(variable)] for variable in posterior.trainable_variables]


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
@pytest.mark.parametrize("stretch", [1.0, 1.3])
def test_sleep_has_the_expectation_of_the_closed_form(stretch, n_latent):
    generator = LinearGaussian(n_latent=n_latent)
    shift = 0.0 if stretch == 1 else 0.3
    model = IWAE(exact_posterior(generator, shift, stretch), generator)
    want = flat(dream_gradients(generator, model.posterior))
    x = tf.zeros([2000, *generator.event_shape])  # does not count
    row = ROWS["rws_sleep"]
    traced = tf.function(partial(of_phi, row, model, x, 1), autograph=False)
    estimates = np.array([flat(traced(randomness.seed_of(i))) for i in range(60)])
    difference, error = mean_and_error(estimates - want)
    assert np.all(np.abs(difference) < 5 * error)
    if stretch == 1:  # q is exact
        np.testing.assert_allclose(want, 0, atol=1e-6)
    else:
        assert np.abs(want).max() > 20 * error.max()


# The thermodynamic bound -------------------------------------------------------------


def exact_tvo(generator, posterior, x, temperatures):
    """The bound for one image and infinitely many samples, in NumPy float64."""
    (layer,) = posterior.conditionals
    rows = np.reshape(np.float64(x), [1, -1])
    kernel, bias = (np.float64(v) for v in (layer.loc.kernel, layer.loc.bias))
    heads = (np.float64(v) for v in (layer.log_scale.kernel, layer.log_scale.bias))
    slope, offset = heads
    q = (rows @ kernel + bias)[0], np.diag(np.exp(2 * (rows @ slope + offset)[0]))
    p = generator.posterior_moments(x)
    p = p[0][0], p[1]
    (bound,) = generator.log_evidence(x)
    for t, end in itertools.pairwise([*temperatures, 1.0]):
        # q^(1 - t) p^t is Gaussian; then means of log p(z|x) and log q(z|x).
        precision = [(1 - t) * np.linalg.inv(q[1]), t * np.linalg.inv(p[1])]
        covariance = np.linalg.inv(sum(precision))
        mean = covariance @ (precision[0] @ q[0] + precision[1] @ p[0])
        for sign, (centre, spread) in ((1, p), (-1, q)):
            inverse = np.linalg.inv(spread)
            square = (mean - centre) @ inverse @ (mean - centre)
            square += np.trace(inverse @ covariance) + np.linalg.slogdet(spread)[1]
            bound -= sign * (end - t) * square / 2
    return bound


def slopes(function, variables, step=1e-5):
    """Central differences of a function of float64 variables, one vector."""
    found = []
    for variable in variables:
        value = variable.numpy()
        for place in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = np.array(value)
                moved[place] += sign * step
                variable.assign(moved)
                ends.append(function())
            found.append((ends[0] - ends[1]) / (2 * step))
        variable.assign(value)
    return np.array(found)


@pytest.fixture(scope="module")
def in_float64():
    """One image and a model of it, of float64."""
    generator = LinearGaussian(event_shape=(2, 2, 1), n_latent=(2,), dtype="float64")
    model = IWAE(exact_posterior(generator, shift=0.3, stretch=1.3), generator)
    return model, generator.images(1)


TEMPERATURES = (0.0, 0.1, 0.4)


def test_tvo_with_many_samples_is_its_integral(in_float64):
    model, x = in_float64
    log_px = model.generator.log_evidence(x)[0]
    (log_w,) = model.draw(x, 400_000, SEED).log_w().numpy().T
    before, gaps = -np.inf, []
    for n in (1, 2, 10, 100):
        ends = np.arange(n) / n
        exact = exact_tvo(model.generator, model.posterior, x, ends)
        draws = Draws((), tf.constant(log_w[:, np.newaxis]), 0.0, 0.0)
        got = objectives.tvo(draws, temperatures=ends).numpy()
        np.testing.assert_allclose(got, exact, atol=0.01)
        assert before < exact < log_px
        before = exact
        gaps.append(log_px - exact)
    # The error of a left Riemann sum is proportional to the width of its parts.
    assert gaps[0] > 0.1 and gaps[3] == pytest.approx(gaps[2] / 10, rel=0.05)
    few = [
        objectives.tvo(
            Draws((), tf.constant(log_w[: k * 20_000].reshape(k, -1)), 0.0, 0.0),
            temperatures=TEMPERATURES,
        )
        .numpy()
        .mean()
        for k in (1, 3, 20)
    ]
    exact = exact_tvo(model.generator, model.posterior, x, TEMPERATURES)
    assert few[0] < few[1] < few[2] < exact


@pytest.mark.parametrize("name", ["tvo", "tvo_total"])
def test_tvo_with_many_samples_has_the_gradient_of_its_integral(name, in_float64):
    model, x = in_float64
    row = table(temperatures=TEMPERATURES)[name]
    variables = [
        *model.posterior.trainable_variables,
        *model.generator.trainable_variables,
    ]
    exact = slopes(
        lambda: exact_tvo(model.generator, model.posterior, x, TEMPERATURES), variables
    )
    draw = tf.function(
        lambda seed: value_and_gradients(row, model, x, 5000, seed, 1.0)[1],
        autograph=False,
    )
    estimates = np.array([flat(draw(randomness.seed_of(i))) for i in range(60)])
    difference, error = mean_and_error(estimates + exact)
    # A self-normalised mean is biased by about a variance over k.
    assert np.all(np.abs(difference) < 5 * error + 5e-3)
    assert np.abs(exact).max() > 20 * (error.max() + 5e-3)


def test_tvo_without_reparameterisation_has_the_expectation_of_the_total_gradient(
    in_float64,
):
    model, x = in_float64
    rows = table(temperatures=TEMPERATURES)

    @partial(tf.function, autograph=False)
    def both(seed):
        return [
            value_and_gradients(rows[name], model, x, 5000, seed, 0.5)[1]
            for name in ("tvo", "tvo_total")
        ]

    estimates = []
    for i in range(60):
        score, total = both(randomness.seed_of(i))
        estimates.append((flat(score), flat(total)))
    score, total = np.moveaxis(estimates, 1, 0)
    difference, error = mean_and_error(score - total)
    assert np.all(np.abs(difference) < 5 * error + 5e-3)
    assert np.abs(total.mean(axis=0)).max() > 20 * (error.max() + 5e-3)
