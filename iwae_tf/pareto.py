"""The Pareto tail of importance weights, from log-weights `log_w [k, b]`, in nats.

The largest weights of an image are fitted by a generalised Pareto distribution. Its
shape, the Pareto k-hat, tells whether the other weights predict how large these are:
1 / k is the number of finite moments. Up to `threshold`, estimates from these weights
can be trusted.

Everything is computed in float64. Weights are never exponentiated before their maximum,
or another one of the largest, is subtracted.

References:
  Vehtari, Simpson, Gelman, Yao, Gabry 2024, Pareto smoothed importance sampling,
  arXiv:1507.02646. Zhang, Stephens 2009, A new and efficient estimation method for the
  generalized Pareto distribution, Technometrics 51.
"""

import numpy as np

from iwae_tf.weights import check_log_w, log_sum_exp

_FEWEST = 5  # weights that a fit needs
_LEAST_SPREAD = 1e-3  # nats; log-weights in float32 differ by less from rounding alone
_WIDEST_SPREAD = 690.0  # nats, whose exponential is a float64


def threshold(n_samples: int) -> float:
    """The largest k-hat with which weights can be trusted: min(1 - 1/log10(k), 0.7).

    Args:
      n_samples: k, at least 2; for 5,000 samples or more it is 0.7, and for 100 it is
        0.5.

    Reference:
      Vehtari et al. 2024, section 3.2.4, arXiv:1507.02646.
    """
    return min(1 - 1 / np.log10(n_samples), 0.7)


def tail_size(n_samples: int) -> int:
    """How many of the k largest weights are the tail: min(0.2 k, 3 sqrt(k)) of them."""
    return int(min(n_samples / 5, 3 * n_samples**0.5))


def pareto_k(log_w) -> np.ndarray:
    """The Pareto k-hat of the weights of each image.

    It does not depend on the order of the samples, or on a factor of the weights.

    Args:
      log_w: log-weights [k, b], nats.

    Returns:
      k_hat: [b]. It is NaN for fewer than 25 samples, whose tail is too short, and for
        a log-weight that is NaN. It is -inf if the largest log-weights differ by less
        than 0.001 nats. It is inf if fewer than 5 of the weights in the tail are larger
        than those outside, all weights are zero, or one is infinite.
    """
    log_w = np.asarray(check_log_w(log_w), np.float64)
    return _fit(_largest(log_w))[0]


def smoothed(log_w) -> np.ndarray:
    """Pareto smoothed log-weights: those in the tail become quantiles of its fit.

    The i-th smallest of the m weights in the tail becomes the quantile at
    (i - 1/2) / m, or the largest weight if this is smaller. All others stay. If k-hat
    is not finite, all stay.

    Args:
      log_w: log-weights [k, b], nats.

    Returns:
      log_w: smoothed, [k, b], nats, float64.
    """
    log_w = np.array(check_log_w(log_w), np.float64)
    places = np.argsort(log_w, axis=0)[-1 - tail_size(len(log_w)) :]
    tail = _fit(np.take_along_axis(log_w, places, axis=0))[1]
    np.put_along_axis(log_w, places[1:], tail, axis=0)
    return log_w


def smoothed_log_mean_exp(log_w) -> np.ndarray:
    """The estimate of log p(x) by smoothed weights: log mean_k exp(smoothed(log_w)).

    If weights have a long tail, it varies less than `weights.log_mean_exp`, and its
    error for one image is smaller. It is lower on average, because no weight becomes
    larger than the largest one, so that a mean over images is better without it.

    Args:
      log_w: log-weights [k, b], nats.

    Returns:
      log_p: [b], nats, float64.
    """
    log_w = smoothed(log_w)
    return log_sum_exp(log_w, axis=0) - np.log(len(log_w))


class StreamingTail:
    """`pareto_k` and `smoothed_log_mean_exp` of samples that arrive in chunks.

    The largest min(0.2 k, 3 sqrt(k)) + 1 log-weights of an image are kept, and the
    log-sum of the others.
    """

    def __init__(self, n_samples: int):
        """Starts without samples.

        Args:
          n_samples: k, the number of samples that will arrive.
        """
        self.n_samples = n_samples
        self._n_kept = tail_size(n_samples) + 1
        self._n_seen = 0
        self._kept = None  # the largest log-weights in any order, [n, b]
        self._others = None  # log-sum of all others, [1, b], or [0, b] for none

    def add(self, log_w) -> None:
        """Adds the next chunk of samples, `log_w [c, b]`."""
        log_w = np.asarray(check_log_w(log_w), np.float64)
        self._n_seen += len(log_w)
        if self._kept is None:
            self._kept = self._others = log_w[:0]
        log_w = np.concatenate([self._kept, log_w])
        n_others = max(len(log_w) - self._n_kept, 0)
        if n_others:
            log_w = np.partition(log_w, n_others, axis=0)
            others = np.concatenate([self._others, log_w[:n_others]])
            self._others = log_sum_exp(others, axis=0)[None]
        self._kept = log_w[n_others:]

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """Fits the tail.

        Returns:
          k_hat: what `pareto_k` returns, [b].
          log_p: what `smoothed_log_mean_exp` returns, [b], nats.

        Raises:
          ValueError: unless all samples have arrived.
        """
        if self._n_seen != self.n_samples:
            raise ValueError(
                f"n_samples: must be the number of samples that were added, "
                f"{self._n_seen}, got {self.n_samples}"
            )
        largest = np.sort(self._kept, axis=0)
        k_hat, tail = _fit(largest)
        log_sum = log_sum_exp(np.concatenate([self._others, largest[:1], tail]), axis=0)
        return k_hat, log_sum - np.log(self.n_samples)


def _largest(log_w):
    """The tail and the largest weight outside it, ascending: [m + 1, b]."""
    n_others = len(log_w) - tail_size(len(log_w)) - 1
    return np.sort(np.partition(log_w, n_others, axis=0)[n_others:], axis=0)


def _fit(largest):
    """k-hat [b] and the smoothed tail [m, b] of ascending log-weights [m + 1, b]."""
    top = largest[-1]
    k_hat = np.where(np.isnan(top), np.nan, np.inf)
    tail = largest[1:].copy()
    if len(tail) < _FEWEST:
        return np.full_like(top, np.nan), tail
    has_sum = np.isfinite(top)
    spread = np.subtract(top, largest[0], out=np.zeros_like(top), where=has_sum)
    is_flat = has_sum & (spread < _LEAST_SPREAD)
    k_hat[is_flat] = -np.inf
    n_larger = np.sum(tail > largest[0], axis=0)
    fits = has_sum & ~is_flat & (n_larger >= _FEWEST)
    if np.any(fits):
        k_hat[fits], tail[:, fits] = _fit_exceedances(largest[:, fits])
    return k_hat, tail


def _fit_exceedances(largest):
    """As `_fit`, for finite weights of which at least 5 exceed the cutoff.

    The density of an exceedance y is t / k (1 + t y)^(-1 - 1/k) with t = k / sigma.
    Given t, the likelihood is largest at k = mean log(1 + t y), so that one parameter
    is left. Its estimate is the mean over a grid, weighted by that likelihood.
    """
    cutoff, tail = largest[0], largest[1:]
    m = len(tail)
    exceeds = tail > cutoff
    ratio = np.subtract(cutoff, tail, out=np.full_like(tail, -np.inf), where=exceeds)
    log_y = np.where(exceeds, tail, -np.inf)
    log_y += np.log(-np.expm1(ratio))
    # The unit of y is its lower quartile, among those that are larger than 0.
    n_larger = exceeds.sum(axis=0)
    place = m - n_larger + (n_larger / 4 + 0.5).astype(int) - 1
    unit = np.take_along_axis(log_y, place[None], axis=0)
    y = np.exp(np.minimum(log_y - unit, _WIDEST_SPREAD))

    n = 30 + int(m**0.5)
    steps = (np.sqrt(n / (np.arange(n) + 0.5)) - 1) / 3
    grid = steps[:, None] - 1 / y[-1]
    grid[grid == 0] = 1e-9  # k / t is 0 / 0 in the limit, which is exponential
    k = np.array([np.log1p(t * y).mean(axis=0) for t in grid])
    log_likelihood = m * (np.log(grid / k) - k - 1)
    weight = np.exp(log_likelihood - log_sum_exp(log_likelihood, axis=0))
    t = np.sum(weight * grid, axis=0)
    k = np.log1p(t * y).mean(axis=0)
    log_sigma = np.log(k / t) + unit[0]
    # A weak prior: as much as ten exceedances with k = 0.5.
    k_hat = (m * k + 10 * 0.5) / (m + 10)

    exponential = -np.log1p(-(np.arange(m) + 0.5) / m)[:, None]
    with np.errstate(over="ignore"):  # the largest weight is smaller than infinity
        log_quantile = np.log(np.expm1(k_hat * exponential) / k_hat) + log_sigma
    return k_hat, np.minimum(np.logaddexp(cutoff, log_quantile), largest[-1])
