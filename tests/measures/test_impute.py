"""Tests of models with missing entries against closed forms, and of the imputations."""

import functools

import numpy as np
import pytest
import scipy.special
import scipy.stats
from eager import eagerly
from factor_analysis import FactorAnalysis

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.measures import annealing, inspection, units
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models import likelihoods, masks, zoo
from iwae_tf.models.masks import SelfMasking

SEED = randomness.seed_of(7)
SHAPES = pytest.mark.parametrize("event_shape", [(5,), (2, 3, 1)], ids=str)
PLAIN = {"jit_compile": False}


@functools.cache
def factor_analysis(event_shape=(5,), d=2, missing=True):
    """The model with a q that is wide enough for all masks."""
    return FactorAnalysis(event_shape, d, missing=missing)


def patterns(n):
    """All entries observed, all but one, a few, one, and none, bool [5, n]."""
    observed = np.ones((5, n), bool)
    observed[1, 2] = observed[2, 1:4] = observed[3, :-1] = observed[4] = False
    return observed


def exact_moments(model, x):
    """Mean and variance of x given what was observed, each of the shape of x."""
    pairs = [model.given_observed(row) for row in x]
    mean = np.stack([mean for mean, _ in pairs])
    variance = np.stack([np.diag(covariance) for _, covariance in pairs])
    return mean.reshape(x.shape), variance.reshape(x.shape)


def error_of_log_mean(ess, k):
    """Standard error of the log of a mean of k weights."""
    return np.sqrt(1 / ess - 1 / k)


# Evidence ----------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("missing", [True, False])
@eagerly()
def test_log_likelihood_is_the_closed_form_within_5_standard_errors(
    event_shape, missing
):
    model, k = factor_analysis(event_shape, missing=missing), 20_000
    observed = patterns(model.n) if missing else np.ones((5, model.n))
    x = model.rows(observed)
    got = log_likelihood(model.model, x, k, chunk=5000, **PLAIN)
    error = error_of_log_mean(got.ess, k)
    assert error.max() < 0.05
    assert np.all(np.abs(got.log_px - model.log_evidence(x)) < 5 * error)


@SHAPES
@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealed_weights_have_the_closed_form_as_their_mean(event_shape, start):
    model = factor_analysis(event_shape)
    x = model.rows(patterns(model.n))
    annealer = annealing.Annealer(model.model, 400, 8, 3, start=start, **PLAIN)
    annealed = annealing.log_likelihood(annealer, x)
    ratios = np.exp(annealed.log_w - model.log_evidence(x))
    error = np.std(ratios, axis=0, ddof=1) / 400**0.5
    assert np.all(np.abs(np.mean(ratios, axis=0) - 1) < 5 * error + 1e-5)
    assert error.max() < 0.1
    assert np.all(annealed.acceptance > 0.1)


@SHAPES
def test_latents_of_the_weights_are_the_closed_form_within_5_standard_errors(
    event_shape,
):
    model = factor_analysis(event_shape)
    x = model.rows(patterns(model.n))
    draws = model.model.draw(x, 20_000, SEED)
    got, error = inspection.snis_mean(draws)[0], inspection.snis_standard_error(draws)
    want = np.stack([model.latent_given_observed(row)[0] for row in x])
    assert np.all(np.abs(got - want) < 5 * error[0])
    assert np.max(error[0]) < 0.05


# Imputations -------------------------------------------------------------------------


@SHAPES
@eagerly()
def test_mean_is_the_closed_form_within_5_of_its_standard_errors(event_shape):
    model = factor_analysis(event_shape)
    x = model.rows(patterns(model.n))
    got = inspection.impute(model.model, x, 20_000, batch_size=2, **PLAIN)
    want, _ = exact_moments(model, x)
    is_missing = np.isnan(x)
    assert got.mean.shape == got.standard_error.shape == x.shape
    np.testing.assert_array_equal(got.mean[~is_missing], x[~is_missing])
    np.testing.assert_array_equal(got.standard_error[~is_missing], 0)
    error = got.standard_error[is_missing]
    assert 0 < error.min() and error.max() < 0.05
    assert np.all(np.abs(got.mean - want)[is_missing] < 5 * error)
    # The mean of the model without what was observed would not do, but in the last row.
    told = np.abs(want - model.shift.reshape(event_shape))[:-1][is_missing[:-1]]
    assert np.mean(told > 5 * got.standard_error[:-1][is_missing[:-1]]) > 0.6
    assert np.all((1 < got.ess) & (got.ess < 20_000))


@eagerly()
def test_standard_error_is_the_spread_of_the_mean_over_repetitions():
    model, repetitions = factor_analysis(), 2000
    x = np.repeat(model.rows([[True, False, True, False, True]]), repetitions, axis=0)
    got = inspection.impute(model.model, x, 300, batch_size=repetitions, **PLAIN)
    mean, error = (part[:, [1, 3]] for part in (got.mean, got.standard_error))
    ratio = np.sqrt(np.mean(error**2, axis=0)) / np.std(mean, axis=0, ddof=1)
    # A standard deviation over n has a relative error of 1 / sqrt(2 n).
    np.testing.assert_allclose(ratio, 1, rtol=5 / (2 * repetitions) ** 0.5)


@SHAPES
@eagerly()
def test_draws_have_the_closed_form_moments_within_5_standard_errors(event_shape):
    model, n, k = factor_analysis(event_shape), 20_000, 20_000
    x = model.rows(patterns(model.n)[2:])
    got = inspection.impute_samples(model.model, x, k, n, batch_size=1, **PLAIN)
    assert got.shape == (n, *x.shape)
    for i, row in enumerate(x):
        own = np.float64(got[:, i].reshape(n, -1))
        mean, covariance = model.given_observed(row)
        is_missing = np.isnan(row.ravel())
        want = np.tile(row.ravel()[~is_missing], (n, 1))
        np.testing.assert_array_equal(own[:, ~is_missing], want)
        # The size of an error is a matter of the model, so other draws tell it too.
        draws = model.model.draw(x[i : i + 1], k, SEED)
        w = scipy.special.softmax(np.float64(draws.log_w()[:, 0]))
        away = np.float64(draws.zs[0][:, 0]) @ model.map.T + model.shift - mean
        variance = np.diag(covariance)
        se = np.sqrt(w**2 @ away**2 + variance / n)
        assert np.all((np.abs(own.mean(axis=0) - mean) < 5 * se)[is_missing])
        noise = model.scale**2 * np.eye(model.n)
        squares = np.einsum("ki,kj->kij", away, away) + noise - covariance
        # Of a product of two Gaussians, by Isserlis.
        of_choice = (covariance**2 + np.outer(variance, variance)) / n
        se = np.sqrt(np.einsum("k,kij->ij", w**2, squares**2) + of_choice)
        second = (own - mean).T @ (own - mean) / n
        both = np.outer(is_missing, is_missing)
        assert np.all((np.abs(second - covariance) < 5 * se)[both])
        assert se[both].max() < 0.3


def test_compiled_imputations_are_those_of_the_graph():
    model, k = factor_analysis(), 2000
    x = model.rows(patterns(5))
    compiled, graph = (
        inspection.impute(model.model, x, k, batch_size=2, jit_compile=jit_compile)
        for jit_compile in (True, False)
    )
    for a, b in zip(compiled, graph, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    # XLA has other categorical numbers, so these are other draws.
    draws = inspection.impute_samples(model.model, x, k, k, batch_size=2)
    error = np.hypot(graph.standard_error, np.std(draws, axis=0) / k**0.5)
    assert np.all(np.abs(draws.mean(axis=0) - graph.mean) <= 5 * error + 1e-4)


@eagerly()
def test_imputations_are_a_function_of_the_seed_and_tell_their_progress():
    model, done = factor_analysis(), []
    x = model.rows(patterns(5))
    for function in (inspection.impute, inspection.impute_samples):
        options = PLAIN | {"n_samples": 20, "batch_size": 2}
        first, again, other = (
            np.asarray(function(model.model, x, seed=seed, **options)[0])
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)
        function(model.model, x, on_progress=done.append, **options)
    assert done == [2, 4, 5, 2, 4, 5]


@eagerly()
def test_imputations_of_one_row_are_unlike_one_another_and_so_are_rows():
    model = factor_analysis()
    x = np.repeat(model.rows([[False] * 5]), 2, axis=0)
    draws = inspection.impute_samples(model.model, x, 200, 30, **PLAIN)
    assert len(np.unique(draws[..., 0])) == 60


@pytest.mark.parametrize("function", [inspection.impute, inspection.impute_samples])
def test_models_without_missing_entries_and_no_samples_are_refused(function):
    model = factor_analysis()
    x = model.rows(patterns(5))
    rule = r"^model: must be built with missing=True, got one without$"
    with pytest.raises(UsageError, match=rule):
        function(factor_analysis(missing=False).model, x[:1])
    with pytest.raises(UsageError, match="^n_samples: must be at least 1, got 0$"):
        function(model.model, x, 0)
    with pytest.raises(UsageError, match="^number of observations: must be at least 1"):
        function(model.model, x[:0])
    with pytest.raises(UsageError, match="^x: must be finite, got -?[0-9.]+ to inf$"):
        function(model.model, np.where(np.isnan(x), np.inf, x))


def test_no_imputations_are_refused():
    model = factor_analysis()
    with pytest.raises(UsageError, match="^n: must be at least 1, got 0$"):
        inspection.impute_samples(model.model, model.rows(patterns(5)), n=0)


@eagerly()
def test_draws_have_values_that_the_likelihood_has():
    model = zoo.burda(
        (4,),
        n_latent=(2,),
        n_hidden=(3,),
        likelihood=likelihoods.Categorical(3),
        missing=True,
    )
    x = np.float32([[np.nan, 1, 2, np.nan], [0, np.nan, np.nan, np.nan]])
    draws = inspection.impute_samples(model, x, 50, 40, **PLAIN)
    assert set(np.unique(draws)) == {0, 1, 2}
    assert np.all(draws[:, ~np.isnan(x)] == x[~np.isnan(x)])


# Features in another order -----------------------------------------------------------


ORDER = np.array([3, 0, 4, 1, 2])


def in_another_order(seed=3):
    """A model, and the same model with its features in another order."""
    fill = np.random.default_rng(seed).normal(size=5)

    def make(fill):
        return zoo.burda(
            (5,),
            n_latent=(2,),
            n_hidden=(6,),
            likelihood=likelihoods.Gaussian(),
            missing=True,
            mask_input=True,
            fill=fill,
        )

    model, permuted = make(fill), make(fill[ORDER])
    rng = np.random.default_rng(seed)
    for variable, other in zip(
        model.trainable_variables, permuted.trainable_variables, strict=True
    ):
        value = rng.normal(scale=0.5, size=variable.shape)
        variable.assign(value)
        # The entries, then the mask; or the locations, then the scales.
        twice = np.concatenate([ORDER, 5 + ORDER])
        for axis, size in enumerate(value.shape):
            value = value.take(twice, axis) if size == 10 else value
        other.assign(value)
    return model, permuted


@eagerly()
def test_features_in_another_order_have_the_same_weights_and_imputations():
    model, permuted = in_another_order()
    rng = np.random.default_rng(1)
    x = np.where(rng.random((6, 5)) < 0.5, np.nan, rng.normal(size=(6, 5)))
    one, two = model.draw(x, 50, SEED), permuted.draw(x[:, ORDER], 50, SEED)
    np.testing.assert_allclose(one.log_w(), two.log_w(), rtol=1e-4, atol=1e-4)
    assert np.any(np.abs(one.log_w() - model.draw(x[:, ORDER], 50, SEED).log_w()) > 0.1)
    one = inspection.impute(model, x, 50, **PLAIN)
    two = inspection.impute(permuted, x[:, ORDER], 50, **PLAIN)
    for a, b in zip(one[:2], two[:2], strict=True):
        np.testing.assert_allclose(a[:, ORDER], b, rtol=1e-4, atol=1e-4)


# Missing not at random ---------------------------------------------------------------


def self_masked(slope, bias, sign=0, d=1, event_shape=(2,)):
    """A factor analysis whose entries are observed with the logit slope x + bias."""
    mask_model = SelfMasking(sign)
    model = FactorAnalysis(event_shape, d, mask_model=mask_model)
    raw = sign * np.asarray(slope) if sign else slope
    mask_model.slope.assign(np.log(np.expm1(raw)) if sign else raw)
    mask_model.bias.assign(bias)
    return model


def integrated(model, row, slope, bias):
    """log p(x_o, s) and E[x|x_o, s] of one row, by integration over z and x_m."""
    z = np.linspace(-9, 9, 1201)
    noise = np.linspace(-8, 8, 801)
    loc = z[:, None] * model.map[:, 0] + model.shift  # [z, n]
    log_p, means = scipy.stats.norm.logpdf(z), []
    for j, value in enumerate(np.float64(row)):
        if np.isnan(value):
            x = loc[:, j, None] + model.scale * noise
            p = scipy.stats.norm.pdf(noise) * (noise[1] - noise[0])
            p = p * scipy.special.expit(-(slope[j] * x + bias[j]))
            log_p = log_p + np.log(p.sum(axis=1))
            means.append((p * x).sum(axis=1) / p.sum(axis=1))
        else:
            log_p = log_p + scipy.stats.norm.logpdf(value, loc[:, j], model.scale)
            log_p = log_p + scipy.special.log_expit(slope[j] * value + bias[j])
            means.append(np.full_like(z, value))
    log_px = scipy.special.logsumexp(log_p) + np.log(z[1] - z[0])
    return log_px, scipy.special.softmax(log_p) @ np.stack(means, axis=1)


@pytest.mark.parametrize(
    ("slope", "sign"), [((2.0, -1.5), 0), ((-1.2, -2.5), -1), ((1.5, 2.0), 1)], ids=str
)
@eagerly()
def test_self_masked_evidence_and_mean_are_those_of_integration(slope, sign):
    bias, k = (0.4, -0.3), 40_000
    model = self_masked(slope, bias, sign)
    x = model.rows([[True, True], [True, False], [False, True], [False, False]])
    want = [integrated(model, row, slope, bias) for row in x]
    log_px, mean = (np.stack(part) for part in zip(*want, strict=True))
    got = log_likelihood(model.model, x, k, chunk=10_000, **PLAIN)
    error = error_of_log_mean(got.ess, k)
    assert error.max() < 0.02
    assert np.all(np.abs(got.log_px - log_px) < 5 * error)
    imputed = inspection.impute(model.model, x, k, **PLAIN)
    is_missing = np.isnan(x)
    error = imputed.standard_error[is_missing]
    assert error.max() < 0.03
    assert np.all(np.abs(imputed.mean - mean)[is_missing] < 5 * error)
    np.testing.assert_array_equal(imputed.mean[~is_missing], x[~is_missing])
    # Without the mask model the mean would be another one.
    at_random = np.stack([model.given_observed(row)[0] for row in x])
    assert np.all(np.abs(at_random - mean)[is_missing] > 10 * error)
    draws = inspection.impute_samples(model.model, x, k, 10_000, **PLAIN)
    spread = np.std(draws, axis=0)[is_missing] / 10_000**0.5
    error = np.hypot(error, spread)
    assert np.all(np.abs(draws.mean(axis=0) - mean)[is_missing] < 5 * error)


def test_integration_without_a_mask_model_is_the_closed_form():
    model = FactorAnalysis((2,), 1)
    x = model.rows([[True, True], [True, False], [False, False]])
    for row, evidence in zip(x, model.log_evidence(x), strict=True):
        log_px, mean = integrated(model, row, (0.0, 0.0), (0.0, 0.0))
        assert log_px == pytest.approx(evidence + 2 * np.log(0.5), abs=1e-6)
        seen = ~np.isnan(row)
        want = np.where(seen, row, model.given_observed(row)[0])
        np.testing.assert_allclose(mean, want, atol=1e-6)


@pytest.mark.parametrize("kind", [SelfMasking, masks.NetworkMasking])
@eagerly()
def test_mask_model_that_does_not_look_at_x_adds_a_constant(kind):
    bias = np.float32([0.7, -0.4, 1.1, -2.0, 0.3])
    mask_model = kind()
    model, plain = FactorAnalysis(mask_model=mask_model), factor_analysis()
    if kind is SelfMasking:
        mask_model.bias.assign(bias)
    else:
        mask_model.last.set_weights([np.zeros((5, 5)), bias])
    x = model.rows(patterns(5))
    log_ps = scipy.special.log_expit(np.where(np.isnan(x), -bias, bias)).sum(axis=1)
    with_it, without = (m.model.draw(x, 200, SEED).log_w() for m in (model, plain))
    np.testing.assert_allclose(with_it - without, log_ps + 0 * without, atol=1e-4)
    one, two = (inspection.impute(m.model, x, 20_000, **PLAIN) for m in (model, plain))
    error = np.hypot(one.standard_error, two.standard_error)
    assert np.all(np.abs(one.mean - two.mean) <= 5 * error)
    np.testing.assert_allclose(one.ess, two.ess, rtol=1e-4)


@eagerly()
def test_mask_model_counts_if_units_are_taken_out():
    model = self_masked((2.0, -1.5), (0.4, -0.3), d=2)
    x = model.rows([[True, False], [False, False]])
    whole = units.WithoutUnits(model.model, [np.ones(2, bool)], [np.zeros(2)])
    got, want = (m.draw(x, 5, SEED) for m in (whole, model.model))
    np.testing.assert_allclose(got.log_w(), want.log_w(), rtol=1e-5)
