"""Tests of iwae_tf.models.likelihoods."""

import inspect
import math
import textwrap

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness, rules
from iwae_tf.errors import UsageError
from iwae_tf.models import likelihoods
from iwae_tf.models.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    StudentT,
)

LIKELIHOODS = {
    "bernoulli": Bernoulli,
    "continuous": ContinuousBernoulli,
    "gaussian": Gaussian,
    "gaussian_feature": lambda: Gaussian("feature"),
    "gaussian_shared": lambda: Gaussian("shared"),
    "gaussian_fixed": lambda: Gaussian(0.5),
    "student": StudentT,
    "student_fixed": lambda: StudentT(0.5, 3.0),
    "logistic": lambda: DiscretizedLogistic(9),
    "categorical": lambda: Categorical(3),
}
EVERY = pytest.mark.parametrize("name", LIKELIHOODS)
N = 5


def make(name, n=N):
    likelihood = LIKELIHOODS[name]()
    likelihood.build((n,))
    return likelihood


def random_parameters(likelihood, shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(likelihood.n_parameters, *shape)).astype(dtype)
    return tuple(map(tf.constant, values))


def random_x(likelihood, shape, dtype=np.float64, seed=1):
    rng = np.random.default_rng(seed)
    low, high = likelihood.limits
    if likelihood.step:
        codes = rng.integers(0, round((high - low) / likelihood.step) + 1, size=shape)
        x = low + codes * likelihood.step
    else:
        x = rng.normal(size=shape) if math.isinf(low) else rng.uniform(size=shape)
    return tf.constant(x.astype(dtype))


def nodes(likelihood):
    """Values of x and their weights: an entry's sums or integrals are sums over them.

    The values are in 8 cells or, if they are discrete, as many as there are values.
    """
    low, high = likelihood.limits
    if isinstance(likelihood, Bernoulli):
        return np.array([[0.0], [1.0]]), np.ones((2, 1))
    if likelihood.step:
        x = np.arange(low, high + likelihood.step / 2, likelihood.step)[:, np.newaxis]
        return x, np.ones_like(x)
    u, w = np.polynomial.legendre.leggauss(60)
    u = (np.arange(8)[:, np.newaxis] + (u + 1) / 2) / 8
    w = np.broadcast_to(w / 16, u.shape)
    if not math.isinf(low):
        return u, w
    angle = math.pi * (u - 0.5)
    return np.tan(angle), w * math.pi / np.cos(angle) ** 2


def probabilities(likelihood, parameters):
    """The probability of each cell, [cells, n], and the sum of x over each cell."""
    x, w = nodes(likelihood)
    column = tf.constant(np.broadcast_to(x[..., np.newaxis], (*x.shape, N)))
    log_p = likelihood.entry_log_prob(column, parameters).numpy()
    terms = np.exp(log_p) * w[..., np.newaxis]
    return terms.sum(1), (terms * x[..., np.newaxis]).sum(1)


def test_gaussian_equals_scipy():
    x, (loc, raw) = np.linspace(-3, 3, N), random_parameters(Gaussian(), (2, N))
    scale = 0.05 + np.logaddexp(0, raw)
    got = Gaussian(floor=0.05).entry_log_prob(tf.constant(x), (loc, raw))
    want = scipy.stats.norm.logpdf(x, loc, scale)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("df", [1.1, 2.5, 8.0, 100.0, 1e4])
def test_student_equals_scipy(df):
    x, (loc, raw) = np.linspace(-30, 30, N), random_parameters(Gaussian(), (2, N))
    scale = 0.01 + np.logaddexp(0, raw)
    want = scipy.stats.t.logpdf(x, df, loc, scale)
    fixed = StudentT(df=df).entry_log_prob(tf.constant(x), (loc, raw))
    np.testing.assert_allclose(fixed, want, rtol=1e-10, atol=1e-10)
    if df > 2:
        raw_df = tf.fill([2, N], tfp.math.softplus_inverse(np.float64(df - 2)))
        got = StudentT().entry_log_prob(tf.constant(x), (loc, raw, raw_df))
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def test_student_of_many_degrees_is_gaussian():
    x = tf.constant(np.linspace(-5, 5, N), tf.float32)
    parameters = tf.zeros([N]), tf.fill([N], 1e7)
    got = StudentT(1.0).entry_log_prob(x, parameters)
    want = scipy.stats.norm.logpdf(x)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 20.0, 300.0])
def test_continuous_bernoulli_equals_tfp(scale):
    rng = np.random.default_rng(0)
    logits, x = scale * rng.normal(size=(40, N)), rng.uniform(size=N)
    logits = logits[(abs(logits) > 0.01).all(1)]  # TFP has fewer terms near 0.
    theirs = tfp.distributions.ContinuousBernoulli(
        logits=tf.constant(logits), dtype=tf.float64
    )
    ours, parameters = ContinuousBernoulli(), (tf.constant(logits),)
    got = ours.entry_log_prob(tf.constant(x), parameters)
    # TFP subtracts terms as large as the logit.
    np.testing.assert_allclose(got, theirs.log_prob(x), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.mean(parameters), theirs.mean(), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_continuous_bernoulli_is_right_near_a_logit_of_zero(dtype):
    size = np.array([1e-30, 1e-9, 1e-4, 0.01, 0.3, 0.499, 0.501, 2.0])
    logits = np.concatenate([-size, [0.0], size]).astype(dtype)
    x = dtype(0.3)
    with tf.GradientTape() as tape:
        variable = tf.constant(logits)
        tape.watch(variable)
        got = ContinuousBernoulli().entry_log_prob(x, (variable,))
    exact = np.where(logits == 0, 1e-30, logits).astype(np.float64)
    want = x * exact + np.log(exact / np.expm1(exact))
    tolerance = 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    # The series of 1 / (1 - exp(-l)) - 1 / l, of which the next term is below 1e-15.
    inner = abs(exact) < 0.02
    mean = 0.5 + exact / 12 - exact**3 / 720 + exact**5 / 30240
    mean = np.where(inner, mean, 1 / -np.expm1(-exact) - 1 / exact)
    gradient = tape.gradient(got, variable)
    np.testing.assert_allclose(gradient, x - mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        ContinuousBernoulli().mean((variable,)), mean, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("levels", [2, 9, 256])
def test_discretized_logistic_equals_scipy(levels):
    loc, log_scale = random_parameters(DiscretizedLogistic(), (3, levels), seed=levels)
    x = np.linspace(0, 1, levels)
    h, scale = 0.5 / (levels - 1), np.exp(log_scale) + 0.1 / (levels - 1)
    above = scipy.stats.logistic.cdf(np.where(x == 1, np.inf, x + h), loc, scale)
    below = scipy.stats.logistic.cdf(np.where(x == 0, -np.inf, x - h), loc, scale)
    got = DiscretizedLogistic(levels).entry_log_prob(tf.constant(x), (loc, log_scale))
    # SciPy's difference loses digits.
    np.testing.assert_allclose(np.exp(got), above - below, rtol=1e-10, atol=1e-14)


def test_bernoulli_and_categorical_equal_scipy():
    logits = tf.constant(np.random.default_rng(0).normal(size=(4, 3, N)))
    x = np.array([0.0, 1.0, 2.0, 3.0, 1.0])
    got = Categorical(4).entry_log_prob(tf.constant(x), tuple(logits))
    table = scipy.special.log_softmax(logits, axis=0)
    want = np.stack([table[int(code), :, j] for j, code in enumerate(x)], axis=-1)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    p = scipy.special.expit(logits[0])
    got = Bernoulli().entry_log_prob(tf.constant(x.clip(0, 1)), (logits[0],))
    want = scipy.stats.bernoulli.logpmf(x.clip(0, 1), p)
    np.testing.assert_allclose(got, want, rtol=1e-10)
    np.testing.assert_allclose(Bernoulli().mean((logits[0],)), p, rtol=1e-12)


def test_a_value_that_is_no_code_has_probability_zero():
    x, logits = tf.constant([0.0, 0.5, 3.0, -1.0]), (tf.zeros([4]),) * 3
    got = Categorical(3).entry_log_prob(x, logits)
    np.testing.assert_allclose(got, [-np.log(3), -np.inf, -np.inf, -np.inf], rtol=1e-6)


@EVERY
def test_log_prob_is_the_sum_of_the_entries(name):
    likelihood = make(name)
    x, parameters = (
        random_x(likelihood, (2, N)),
        random_parameters(likelihood, (3, 2, N)),
    )
    got = likelihood.log_prob(x, parameters)
    want = likelihood.entry_log_prob(x, parameters).numpy().sum(-1)
    assert got.shape == (3, 2)
    np.testing.assert_allclose(got, want, rtol=1e-10)


@EVERY
def test_probabilities_sum_to_one_and_average_to_the_mean(name):
    likelihood = make(name)
    parameters = random_parameters(likelihood, (N,))
    if name == "student":  # With about 2 degrees the integral converges slowly.
        parameters = *parameters[:-1], parameters[-1] + 6.0
    p, sums = probabilities(likelihood, parameters)
    np.testing.assert_allclose(p.sum(0), 1, rtol=1e-9)
    if not isinstance(likelihood, Categorical):
        got = likelihood.mean(parameters)
        np.testing.assert_allclose(got, sums.sum(0), rtol=1e-7, atol=1e-7)


def test_mean_of_categorical_is_the_most_probable_code():
    logits = tf.constant([[0.0, 2.0], [3.0, 1.0], [1.0, 5.0]])
    np.testing.assert_array_equal(Categorical(3).mean(tuple(logits)), [1.0, 2.0])


@EVERY
def test_frequencies_of_draws_are_the_probabilities(name):
    likelihood, n_draws = make(name), 100_000
    parameters = random_parameters(likelihood, (N,))
    many = tuple(
        tf.cast(tf.broadcast_to(p, [n_draws, N]), tf.float32) for p in parameters
    )
    draws = likelihood.sample(many, 3)
    assert draws.dtype == tf.float32 and draws.shape == (n_draws, N)
    p, _ = probabilities(likelihood, parameters)
    if likelihood.is_density:
        u = draws if likelihood.limits[0] == 0 else np.arctan(draws) / math.pi + 0.5
        cells = np.floor(np.array(u) * 8).clip(0, 7)
    else:
        cells = np.array(draws) / (likelihood.step or 1.0)
        np.testing.assert_allclose(cells, np.round(cells), atol=1e-4)
    frequency = np.stack([(np.round(cells) == c).mean(0) for c in range(len(p))])
    error = np.sqrt(p * (1 - p) / n_draws)
    assert (abs(frequency - p) <= 5 * error + 1e-6).all()
    # One that ends with one row would have the same frequencies.
    correlation = np.corrcoef(cells.T) - np.eye(N)
    assert abs(correlation).max() < 5 / np.sqrt(n_draws)


@EVERY
def test_a_draw_depends_on_the_seed_only(name):
    likelihood = make(name)
    parameters = random_parameters(likelihood, (20, N), np.float32)
    one, again, other = (
        likelihood.sample(parameters, seed).numpy()
        for seed in (4, tf.constant([4, 0]), randomness.seed_of(4, 1))
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@EVERY
def test_gradients_of_draws_are_finite_differences(name, scale):
    likelihood = make(name)
    parameters = random_parameters(likelihood, (2, N))
    parameters = tuple(scale * p for p in parameters)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        draw = likelihood.sample(parameters, 5)
    gradients = tape.gradient(draw, parameters)
    if not likelihood.is_reparameterised:
        assert all(g is None or not np.any(g) for g in gradients)
        return
    for i, gradient in enumerate(gradients):
        up, down = (
            likelihood.sample(
                tuple(p + h * (i == j) for j, p in enumerate(parameters)), 5
            )
            for h in (1e-5, -1e-5)
        )
        np.testing.assert_allclose(gradient, (up - down) / 2e-5, rtol=1e-5, atol=1e-7)


def test_draws_of_continuous_bernoulli_invert_its_cumulative_distribution():
    size = np.array([1e-9, 1e-3, 0.049, 0.051, 1.0, 10.0])
    logits = np.concatenate([-size, size])[:, np.newaxis]

    def draw(logit):
        # The same uniform numbers for every logit.
        return ContinuousBernoulli().sample((tf.fill([50], logit),), 2).numpy()

    u = draw(np.float64(0))
    x = np.stack([draw(logit) for logit in logits[:, 0]])
    p = np.expm1(logits * x) / np.expm1(logits)
    np.testing.assert_allclose(p, np.broadcast_to(u, p.shape), rtol=0, atol=1e-9)


@pytest.mark.parametrize("bits", [tf.int64.min, 0, tf.int64.max])
@EVERY
def test_draws_are_finite_for_all_random_numbers(name, bits, monkeypatch):
    likelihood = make(name)
    if isinstance(likelihood, Bernoulli):
        return  # It compares a number with a probability.

    def uniform(shape, seed, minval, maxval, dtype, alg):
        return tf.fill(shape, tf.constant(bits, dtype))

    monkeypatch.setattr(tf.random, "stateless_uniform", uniform)
    draw = likelihood.sample(random_parameters(likelihood, (N,), np.float32), 1)
    assert np.isfinite(draw).all()


@EVERY
def test_gradients_are_finite_differences(name):
    likelihood = make(name)
    parameters = random_parameters(likelihood, (2, N))
    x = random_x(likelihood, (N,))

    def by_parameters(*parameters):
        return likelihood.log_prob(x, parameters)

    def by_x(x):
        return likelihood.log_prob(x, parameters)

    functions = [(by_parameters, parameters)]
    functions += [(by_x, [x])] if likelihood.is_density else []
    for function, arguments in functions:
        got, want = tf.test.compute_gradient(function, arguments, delta=1e-5)
        for ours, differences in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, differences, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", ["feature", "shared"])
def test_a_trained_scale_is_that_of_an_entry(scale):
    own, entry = Gaussian(scale, floor=0.1), Gaussian(floor=0.1)
    own.build((N,))
    shape = (N,) if scale == "feature" else ()
    assert own.raw_scale.shape == shape and len(own.trainable_variables) == 1
    np.testing.assert_allclose(own._scale((tf.zeros([N]),)), 1, rtol=1e-6)
    raw = np.random.default_rng(0).normal(size=shape)
    own.raw_scale.assign(raw)
    x, (loc,) = (
        random_x(own, (2, N), np.float32),
        random_parameters(own, (3, 2, N), "f"),
    )
    raw = tf.broadcast_to(tf.constant(raw, tf.float32), loc.shape)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(raw)
        got, want = own.log_prob(x, (loc,)), entry.log_prob(x, (loc, raw))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    gradient = tape.gradient(want, raw).numpy().sum((0, 1))
    gradient = gradient if scale == "feature" else gradient.sum()
    np.testing.assert_allclose(
        tape.gradient(got, own.raw_scale.value), gradient, rtol=1e-4
    )


EXTREMES = {
    "bernoulli": [(-1e4, 0.0, 1e4)],
    "continuous": [(-1e4, -100.0, 0.0, 1e-20, 100.0, 1e4)],
    "gaussian": [(-1e6, 0.0, 1e6), (-1e4, 0.0, 1e4)],
    "gaussian_feature": [(-1e6, 0.0, 1e6)],
    "gaussian_shared": [(-1e6, 0.0, 1e6)],
    "gaussian_fixed": [(-1e6, 0.0, 1e6)],
    "student": [(-1e25, -1e6, 0.0, 1e6), (-1e4, 0.0, 1e4), (-1e4, 0.0, 1e4, 1e8)],
    "student_fixed": [(-1e25, -1e6, 0.0, 1e6)],
    "logistic": [(-1e6, -10.0, 0.5, 10.0, 1e6), (-20.0, -5.0, 0.0, 20.0, 80.0)],
    "categorical": [(-1e4, 0.0, 1e4)] * 3,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@EVERY
def test_value_gradient_mean_and_draw_are_finite_at_extreme_parameters(name, dtype):
    grid = np.array(np.meshgrid(*EXTREMES[name]), dtype).reshape(
        len(EXTREMES[name]), -1
    )
    likelihood = make(name, grid.shape[1])
    x, _ = nodes(likelihood)
    x = np.unique(np.clip(x[[0, len(x) // 2, -1]][:, ::30], -1e3, 1e3))
    parameters = tuple(map(tf.constant, grid))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(parameters)
        values = [
            likelihood.entry_log_prob(tf.fill(grid.shape[1:], dtype(v)), parameters)
            for v in x
        ]
        draw = likelihood.sample(parameters, 1)
    found = [*values, draw, likelihood.mean(parameters)]
    for value in [*values, draw] if likelihood.is_reparameterised else values:
        found += tape.gradient(value, parameters)
    assert all(np.isfinite(f).all() for f in found if f is not None)
    low, high = likelihood.limits
    assert np.min(draw) >= low and np.max(draw) <= high
    assert np.min(found[len(values) + 1]) >= low
    assert np.max(found[len(values) + 1]) <= high


def test_a_level_in_the_far_tail_still_has_its_gradient():
    x, loc = tf.constant([0.5, 0.0, 1.0]), tf.constant([40.0, 40.0, -40.0])
    with tf.GradientTape() as tape:
        tape.watch(loc)
        value = DiscretizedLogistic().entry_log_prob(x, (loc, tf.fill([3], -20.0)))
    # The slope of log_sigmoid, 1 / scale, where the bound is the scale.
    slope = 2550.0
    np.testing.assert_allclose(value, -slope * (abs(loc - x) - 0.5 / 255), rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(value, loc), [-slope, -slope, slope], rtol=1e-5
    )


# Missing entries ---------------------------------------------------------------------


def value_and_gradients(likelihood, x, parameters, observed):
    with tf.GradientTape() as tape:
        tape.watch((x, parameters))
        value = likelihood.log_prob(x, parameters, observed)
    of_x, of_parameters = tape.gradient(
        value, (x, parameters), unconnected_gradients="zero"
    )
    return value, of_x, of_parameters


@EVERY
def test_entries_that_are_not_observed_do_not_count(name):
    likelihood = make(name)
    shape = (2, N)
    parameters = random_parameters(likelihood, (3, *shape))
    full = random_x(likelihood, shape)
    observed = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 1, 1]], bool)
    x = tf.constant(np.where(observed, full, np.nan))
    value, of_x, of_parameters = value_and_gradients(
        likelihood, x, parameters, tf.constant(observed)
    )
    entries = likelihood.entry_log_prob(full, parameters).numpy()
    np.testing.assert_allclose(value, (entries * observed).sum(-1), rtol=1e-10)
    _, full_of_x, full_of_parameters = value_and_gradients(
        likelihood, full, parameters, None
    )
    for got, want in [
        (of_x, full_of_x),
        *zip(of_parameters, full_of_parameters, strict=True),
    ]:
        assert (np.array(got)[..., ~observed] == 0).all()
        np.testing.assert_allclose(got, want * observed, rtol=1e-10)


@EVERY
def test_a_mask_of_ones_changes_no_bit(name):
    likelihood = make(name, 37)
    x = random_x(likelihood, (2, 37), np.float32)
    parameters = random_parameters(likelihood, (3, 2, 37), np.float32)
    ours, without = (
        tf.nest.flatten(value_and_gradients(likelihood, x, parameters, observed))
        for observed in (tf.fill([2, 37], True), None)
    )
    for got, want in zip(ours, without, strict=True):
        np.testing.assert_array_equal(got, want)


class Positive(Likelihood):
    """A log-normal, whose log-likelihood and gradient are infinite at limits[0]."""

    limits = (0.0, math.inf)

    def entry_log_prob(self, x, parameters):
        return -tf.square(tf.math.log(x) - parameters[0]) - tf.math.log(x)


def test_a_stand_in_with_infinite_gradient_is_harmless():
    x, parameters = tf.constant([math.nan, -3.0, 2.0]), (tf.constant([1.0, 2.0, 3.0]),)
    value, of_x, (of_parameter,) = value_and_gradients(Positive(), x, parameters, x > 0)
    assert np.isfinite(value)
    for gradient in (of_x, of_parameter):
        np.testing.assert_array_equal(gradient != 0, x > 0)
        assert np.isfinite(gradient).all()


# XLA, configuration, arguments -------------------------------------------------------


@EVERY
def test_compiled_equals_eager(name):
    likelihood = make(name)
    x = random_x(likelihood, (2, N), np.float32)
    parameters = random_parameters(likelihood, (3, 2, N), np.float32)
    observed = tf.constant([[True, True, False, True, True]])

    def compute(x, parameters, observed, seed):
        return (
            likelihood.sample(parameters, seed),
            value_and_gradients(likelihood, x, parameters, observed),
            likelihood.mean(parameters),
        )

    arguments = x, parameters, observed, tf.constant([3, 4])
    got = tf.nest.flatten(tf.function(compute, jit_compile=True)(*arguments))
    want = tf.nest.flatten(compute(*arguments))
    if name == "bernoulli":
        # TensorFlow's own uniform numbers differ under XLA (tensorflow#117644).
        draw = got.pop(0)
        assert draw.shape == want.pop(0).shape and set(np.ravel(draw)) == {0, 1}
    for ours, eager in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, eager, rtol=2e-5, atol=2e-6)


@EVERY
def test_a_likelihood_is_made_again_from_its_configuration(name):
    likelihood = make(name)
    config = keras.saving.serialize_keras_object(likelihood)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(likelihood)
    assert again.get_config() == likelihood.get_config()
    again.build((N,))
    assert (again.n_parameters, again.limits, again.step) == (
        likelihood.n_parameters,
        likelihood.limits,
        likelihood.step,
    )
    x, parameters = random_x(likelihood, (N,)), random_parameters(likelihood, (N,))
    got, want = (f.log_prob(x, parameters) for f in (again, likelihood))
    np.testing.assert_array_equal(got, want)


def test_arguments_are_kept_in_the_configuration():
    assert StudentT("shared", 4, 0.2).get_config().items() >= {
        ("scale", "shared"),
        ("df", 4.0),
        ("floor", 0.2),
    }
    assert DiscretizedLogistic(17).get_config()["levels"] == 17
    assert Categorical(17).get_config()["n_classes"] == 17


@EVERY
def test_mean_at_the_initial_bias_is_the_mean_of_the_data(name):
    likelihood = make(name)
    data_mean = np.array([0.02, 0.3, 0.5, 0.75, 0.98])
    bias = likelihood.initial_bias(data_mean)
    assert bias.shape == (likelihood.n_parameters * N,)
    if isinstance(likelihood, Categorical):
        assert not bias.any()  # The mean of codes tells no probabilities.
        return
    parameters = tuple(map(tf.constant, np.split(bias, likelihood.n_parameters)))
    tolerance = 0.1 if isinstance(likelihood, DiscretizedLogistic) else 1e-6
    np.testing.assert_allclose(likelihood.mean(parameters), data_mean, atol=tolerance)
    assert np.isfinite(likelihood.initial_bias(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("make", [Gaussian, StudentT])
@pytest.mark.parametrize(("floor", "first"), [(1e-3, 1.0), (0.4, 1.0), (3.0, 6.0)])
def test_scales_start_at_one_if_the_bound_allows_it(make, floor, first):
    likelihood = make(floor=floor)
    bias = np.split(likelihood.initial_bias(np.zeros(2)), likelihood.n_parameters)
    scale = likelihood._scale(tuple(map(tf.constant, bias)))
    np.testing.assert_allclose(scale, first, rtol=1e-10)
    if make is StudentT:
        np.testing.assert_allclose(2 + np.logaddexp(0, bias[2]), 10, rtol=1e-10)


def test_the_likelihood_of_the_docstring_works():
    text = inspect.getdoc(Likelihood).split("```python")[1].split("```")[0]
    names = {**vars(likelihoods)}
    exec(textwrap.dedent(text), names)
    poisson = names["Poisson"]()
    x, (log_rate,) = np.arange(6.0), random_parameters(poisson, (3, 6))
    got = poisson.log_prob(tf.constant(x), (log_rate,), tf.constant(x < 4))
    want = scipy.stats.poisson.logpmf(x, np.exp(log_rate))[:, :4].sum(-1)
    np.testing.assert_allclose(got, want, rtol=1e-10)
    many = (tf.fill([10_000], math.log(3.0)),)
    draws = poisson.sample(many, 1).numpy()
    assert abs(draws.mean() - 3) < 5 * math.sqrt(3 / 10_000)
    assert not np.array_equal(draws, poisson.sample(many, 2))
    np.testing.assert_allclose(
        np.exp(poisson.initial_bias(np.array([2.0, 0.0]))), [2, 0.01]
    )
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(poisson)
    )
    assert type(again) is names["Poisson"]


def test_a_likelihood_without_its_methods_says_so():
    for method, arguments in [("entry_log_prob", 2), ("mean", 1), ("sample", 2)]:
        with pytest.raises(NotImplementedError):
            getattr(Likelihood(), method)(*[None] * arguments)


SCALE = "scale: must be entry, feature, shared or a finite number above 0, got "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian("shard"), SCALE + "'shard'; did you mean shared?"),
        (lambda: StudentT(""), SCALE + "''"),
        (lambda: Gaussian(0), SCALE + "0"),
        (lambda: Gaussian(-1.0), SCALE + "-1.0"),
        (lambda: Gaussian(math.nan), SCALE + "nan"),
        (lambda: Gaussian(math.inf), SCALE + "inf"),
        (lambda: Gaussian(True), SCALE + "True"),
        (lambda: Gaussian(None), SCALE + "None"),
        (lambda: Gaussian(floor=0), "floor: must be a finite number above 0, got 0"),
        (lambda: StudentT(df=1), "df: must be entry or a finite number above 1, got 1"),
        (
            lambda: StudentT(df="feature"),
            "df: must be entry or a finite number above 1, got 'feature'",
        ),
        (
            lambda: DiscretizedLogistic(1),
            "levels: must be a whole number of at least 2, got 1",
        ),
        (
            lambda: DiscretizedLogistic(2.5),
            "levels: must be a whole number of at least 2, got 2.5",
        ),
        (
            lambda: Categorical(True),
            "n_classes: must be a whole number of at least 2, got True",
        ),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(call, message):
    with pytest.raises(UsageError) as raised:
        call()
    assert str(raised.value) == message


def test_rules_know_which_likelihoods_are_densities():
    own = {name: likelihoods.by_name(name, n_levels=4) for name in rules.LIKELIHOODS}
    assert {name for name in own if own[name].is_density} == {*rules.DENSITIES}
