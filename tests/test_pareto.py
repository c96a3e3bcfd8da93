"""Tests of iwae_tf.pareto."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from iwae_tf import pareto, weights


def draw_log_w(k, b, scale=1.5, seed=0):
    return np.random.default_rng(seed).normal(-90, scale, size=(k, b))


def draw_ratios(s, k, b, seed=0):
    """log p(z) / q(z) with p = N(0, 1), for z from q = N(0, s^2). Its mean is log 1.

    For s < 1, P(p/q > w) falls like w^(-1 / (1 - s^2)), but for a logarithm.
    """
    z = s * np.random.default_rng(seed).normal(size=(k, b))
    return scipy.stats.norm.logpdf(z) - scipy.stats.norm.logpdf(z, scale=s)


@pytest.mark.parametrize(
    ("n_samples", "value"),
    [(10, 0.0), (100, 0.5), (1000, 2 / 3), (2154, 0.7), (5000, 0.7), (10**6, 0.7)],
)
def test_threshold_is_that_of_the_paper(n_samples, value):
    assert pareto.threshold(n_samples) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    ("n_samples", "size"), [(24, 4), (25, 5), (225, 45), (226, 45), (5000, 212)]
)
def test_tail_has_a_fifth_of_few_and_three_roots_of_many(n_samples, size):
    assert pareto.tail_size(n_samples) == size


# k-hat ------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-0.2, 0.0, 0.2, 0.5, 0.9, 2.0])
def test_k_hat_of_pareto_weights_is_their_shape(k):
    n_samples, n_images = 5000, 200
    w = scipy.stats.genpareto(k).rvs((n_samples, n_images), random_state=1)
    got = pareto.pareto_k(np.log(w))
    m = pareto.tail_size(n_samples)
    # The exceedances of a generalised Pareto distribution have the same shape. The
    # prior is as much as ten of them with 0.5. The variance of the maximum likelihood
    # estimate is (1 + k)^2 / m; its bias is below a tenth of the standard deviation.
    want = (m * k + 5) / (m + 10)
    deviation = (1 + k) / m**0.5
    assert abs(got.mean() - want) < deviation * (4 / n_images**0.5 + 0.1)
    assert abs(got.std() / deviation - 1) < 0.25


@pytest.mark.parametrize("s", [0.6, 0.8, 0.95])
def test_k_hat_of_a_narrow_gaussian_tells_its_width(s):
    got = pareto.pareto_k(draw_ratios(s, 100_000, 20))
    # The logarithm in the tail makes it look shorter than it is.
    assert abs(got.mean() - (1 - s**2)) < 0.06
    assert got.std() < 2 * 1.5 / pareto.tail_size(100_000) ** 0.5


def test_k_hat_of_a_wide_gaussian_is_below_zero():
    # The ratio is bounded, at z = 0, where its density is that of a power -1/2: k = -2.
    assert np.all(pareto.pareto_k(draw_ratios(1.5, 100_000, 20)) < -1)


def test_k_hat_of_log_normal_weights_grows_with_their_scale():
    # All moments are finite, but no tail of a finite sample shows it if it is long.
    got = [pareto.pareto_k(draw_log_w(5000, 50, s)).mean() for s in (0.1, 1, 3, 10)]
    assert got == sorted(got)
    assert got[0] < 0.1 < got[1] < 0.6 and got[2] > 0.7 and got[3] > 2


@pytest.mark.parametrize("shift", [1e4, -1e4, 0.25])
def test_k_hat_does_not_see_a_factor_of_the_weights_or_the_order_of_samples(shift):
    log_w = draw_log_w(500, 6)
    want = pareto.pareto_k(log_w)
    moved = np.random.default_rng(1).permutation(log_w + shift * np.arange(6), axis=0)
    # The shift rounds log_w, at 5e4, by 7e-12.
    np.testing.assert_allclose(pareto.pareto_k(moved), want, rtol=1e-9)
    np.testing.assert_allclose(
        pareto.smoothed_log_mean_exp(moved),
        pareto.smoothed_log_mean_exp(log_w) + shift * np.arange(6),
        rtol=1e-12,
    )


def test_images_do_not_mix():
    log_w = draw_log_w(100, 100)
    order = np.random.default_rng(1).permutation(100)
    for function in (pareto.pareto_k, pareto.smoothed):
        np.testing.assert_allclose(
            function(log_w[:, order]), function(log_w)[..., order], rtol=1e-13
        )


def k_hat_by_definition(w, m):
    """The fit of Zhang and Stephens 2009 with the prior of Vehtari et al. 2024."""
    w = sorted(w)
    y = [value - w[-m - 1] for value in w[-m:]]
    n = 30 + int(m**0.5)
    thetas = [
        1 / y[-1] + (1 - (n / (j - 0.5)) ** 0.5) / (3 * y[int(m / 4 + 0.5) - 1])
        for j in range(1, n + 1)
    ]
    k = [np.mean([np.log(1 - t * each) for each in y]) for t in thetas]
    profile = [m * (np.log(-t / a) - a - 1) for t, a in zip(thetas, k, strict=True)]
    theta = np.dot(thetas, scipy.special.softmax(profile))
    k_hat = np.mean([np.log(1 - theta * each) for each in y])
    return (m * k_hat + 5) / (m + 10)


@pytest.mark.parametrize(("n_samples", "m"), [(25, 5), (100, 20), (900, 90)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_k_hat_is_the_fit_to_the_excess_over_the_next_largest(n_samples, m, scale):
    log_w = draw_log_w(n_samples, 2, scale)
    want = [k_hat_by_definition(w, m) for w in np.exp(log_w + 90).T]
    np.testing.assert_allclose(pareto.pareto_k(log_w), want, rtol=1e-10)


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 20.0, 100.0])
@pytest.mark.parametrize("n_samples", [25, 100, 225, 226, 1000, 5000])
def test_agrees_with_arviz(n_samples, scale):
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    log_w = draw_log_w(n_samples, 20, scale)
    log_w_norm, k_hat = array_stats.psislw(-log_w, axis=0)
    np.testing.assert_allclose(pareto.pareto_k(log_w), k_hat, rtol=1e-11, atol=1e-11)
    got = pareto.smoothed(log_w)
    got -= scipy.special.logsumexp(got, axis=0)
    np.testing.assert_allclose(got.T, log_w_norm, rtol=1e-11, atol=1e-11)


# Smoothing --------------------------------------------------------------------------


def test_smoothing_replaces_the_tail_by_quantiles_and_keeps_the_rest():
    log_w = draw_log_w(500, 4, 2.0)
    got, m = pareto.smoothed(log_w), pareto.tail_size(500)
    for old, new in zip(log_w.T, got.T, strict=True):
        order = np.argsort(old)
        rest, tail = order[:-m], order[-m:]
        np.testing.assert_array_equal(new[rest], old[rest])
        assert np.all(np.diff(new[tail]) >= 0)
        assert new[tail[0]] > old[rest[-1]] and new.max() <= old.max()
        # Quantiles at (i - 1/2) / m lie between neighbours, but for the noise of these.
        assert np.abs(new[tail] - old[tail]).mean() < 0.1
        assert not np.any(new[tail[:-1]] == old[tail[:-1]])


def test_smoothed_tail_is_that_of_its_distribution():
    # Of so many that the fit is exact to a percent, against the known quantiles.
    k, n_samples = 0.4, 10**6
    own = scipy.stats.genpareto(k)
    log_w = np.log(own.rvs((n_samples, 1), random_state=2))
    got, m = np.sort(pareto.smoothed(log_w)[:, 0]), pareto.tail_size(n_samples)
    want = own.isf((np.arange(m)[::-1] + 0.5) / n_samples)
    np.testing.assert_allclose(got[-m:-100], np.log(want[:-100]), atol=0.05)


@pytest.mark.parametrize("s", [0.5, 0.6, 0.7])  # k = 0.75, 0.64, 0.51
@pytest.mark.parametrize("seed", range(3))
def test_smoothed_estimate_varies_less_and_is_lower_for_long_tails(s, seed):
    log_w = draw_ratios(s, 1000, 2000, seed)  # log p(x) is 0
    plain = np.asarray(weights.log_mean_exp(log_w))
    smooth = pareto.smoothed_log_mean_exp(log_w)
    assert np.mean(smooth**2) < 0.8 * np.mean(plain**2)
    assert np.mean(smooth) < np.mean(plain) < 0


def test_smoothed_estimate_is_log_mean_exp_for_short_tails():
    log_w = draw_ratios(0.95, 5000, 100)  # k = 0.1
    got, plain = pareto.smoothed_log_mean_exp(log_w), weights.log_mean_exp(log_w)
    error = np.sqrt(np.mean(np.square(plain)))  # log p(x) is 0
    assert np.sqrt(np.mean((got - plain) ** 2)) < 0.2 * error


# Special cases ----------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 4, 5, 24])
def test_k_hat_of_fewer_than_25_samples_is_not_known(n_samples):
    log_w = draw_log_w(n_samples, 3)
    assert np.all(np.isnan(pareto.pareto_k(log_w)))
    np.testing.assert_array_equal(pareto.smoothed(log_w), log_w)
    assert np.all(np.isfinite(pareto.pareto_k(draw_log_w(25, 3))))


def special(n_samples=1300):
    """Log-weights of one image by name, and their k-hat if it is not finite."""
    rng = np.random.default_rng(3)
    plain = rng.normal(size=n_samples)
    flat = np.full(n_samples, -80.0)
    one, infinite, unknown = plain.copy(), plain.copy(), plain.copy()
    one[7], infinite[7], unknown[7] = 1e4, np.inf, np.nan
    lone = np.full(n_samples, -np.inf)
    lone[7] = -80
    half_zero = np.where(np.arange(n_samples) % 2, plain, -np.inf)
    few_left = np.where(np.arange(n_samples) % 20, -np.inf, plain)
    return {
        "constant": (flat, -np.inf),
        "equal but for rounding": (
            flat + rng.choice([0, 2e-5, 4e-5], n_samples),
            -np.inf,
        ),
        "equal in the tail": (np.minimum(plain, 0), -np.inf),
        "two values": (
            np.where(np.arange(n_samples) < n_samples // 20, 1.0, plain.clip(max=0)),
            None,
        ),
        "steps": (plain.round(1), None),
        "one above all": (one, None),
        "one above equal ones": (np.where(one == 1e4, 1.0, -80.0), np.inf),
        "one that is not zero": (lone, np.inf),
        "all zero": (np.full(n_samples, -np.inf), np.inf),
        "half zero": (half_zero, None),
        "few that are not zero": (few_left, None),
        "one infinite": (infinite, np.inf),
        "all infinite": (np.full(n_samples, np.inf), np.inf),
        "one unknown": (unknown, np.nan),
        "thousands of nats apart": (1000 * plain, None),
        "far down": (plain - 1e6, None),
    }


# The warnings that NumPy would give are errors here.
@pytest.mark.parametrize("name", special())
# 1,300 samples have a tail of 108, where the grid has a point at the exponential
# distribution if the tail has two values.
@pytest.mark.parametrize("n_samples", [100, 1300])
def test_special_weights_have_a_defined_k_hat(name, n_samples):
    log_w, want = special(n_samples)[name]
    log_w = np.stack([log_w, np.random.default_rng(0).normal(size=n_samples)], axis=1)
    got, smooth = pareto.pareto_k(log_w), pareto.smoothed(log_w)
    assert np.isfinite(got[1]) and np.all(np.isfinite(smooth[:, 1]))
    if want is None:
        assert np.isfinite(got[0])
        assert not np.any(np.isnan(smooth))
    else:
        np.testing.assert_equal(got[0], want)
        np.testing.assert_array_equal(smooth[:, 0], log_w[:, 0])
    k_hat, log_p = streamed(log_w, 7).results()
    np.testing.assert_array_equal(k_hat, got)
    np.testing.assert_allclose(log_p, pareto.smoothed_log_mean_exp(log_w), rtol=1e-13)


def test_one_weight_above_all_and_weights_far_apart_have_a_long_tail():
    for name in ("one above all", "thousands of nats apart"):
        log_w, _ = special()[name]
        assert pareto.pareto_k(log_w[:, None]) > 0.7


# Streaming --------------------------------------------------------------------------


def streamed(log_w, chunk):
    tail = pareto.StreamingTail(len(log_w))
    for first in range(0, len(log_w), chunk):
        tail.add(log_w[first : first + chunk])
    return tail


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_samples", [1, 24, 25, 300, 1234])
@pytest.mark.parametrize("chunk", [1, 7, 250, 2000])
def test_streaming_equals_the_whole(n_samples, chunk, dtype):
    log_w = draw_log_w(n_samples, 5, 3.0).astype(dtype)
    k_hat, log_p = streamed(log_w, chunk).results()
    np.testing.assert_array_equal(k_hat, pareto.pareto_k(log_w))
    np.testing.assert_allclose(log_p, pareto.smoothed_log_mean_exp(log_w), rtol=1e-14)
    assert k_hat.dtype == log_p.dtype == np.float64


def test_streaming_leaves_its_chunks_as_they_are():
    log_w = draw_log_w(300, 5)
    given = log_w.copy()
    pareto.smoothed(log_w)
    streamed(log_w, 100).results()
    np.testing.assert_array_equal(log_w, given)


def test_streaming_refuses_another_number_of_samples():
    rule = "^n_samples: must be the number of samples that were added, 30, got 31$"
    tail = pareto.StreamingTail(31)
    tail.add(draw_log_w(30, 2))
    with pytest.raises(ValueError, match=rule):
        tail.results()


@pytest.mark.parametrize(
    "function",
    [
        pareto.pareto_k,
        pareto.smoothed,
        pareto.smoothed_log_mean_exp,
        pareto.StreamingTail(3).add,
    ],
)
def test_wrong_shapes_are_refused(function):
    with pytest.raises(ValueError, match=r"^log_w: .* got float64 of shape \(3,\)$"):
        function(np.zeros(3))
