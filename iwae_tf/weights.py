"""Functions of log importance weights, `log_w [k, b]`, in nats.

A function that reduces does so over axis 0, the samples, and returns `[b]`. Weights are
never exponentiated before their maximum is subtracted.
"""

import math

import numpy as np
import tensorflow as tf


def check_log_w(log_w) -> tf.Tensor:
    """Returns `log_w` as a tensor.

    Raises:
      ValueError: if it is not a float tensor of shape [k, b].
    """
    log_w = tf.convert_to_tensor(log_w)
    _check(log_w.shape, log_w.dtype)
    return log_w


def _check(shape, dtype):
    dtype = tf.as_dtype(dtype)
    if len(shape) != 2 or not dtype.is_floating:
        raise ValueError(
            "log_w: must be a float tensor of shape [k, b], "
            f"got {dtype.name} of shape {tuple(shape)}"
        )


def log_mean_exp(log_w) -> tf.Tensor:
    """The importance sampling estimate of log p(x): log mean_k exp(log_w).

    Args:
      log_w: log-weights [k, b], nats.

    Returns:
      log_p: [b], nats.

    Reference:
      Burda et al. 2016, eq. 8, arXiv:1509.00519.
    """
    log_w = check_log_w(log_w)
    k = tf.cast(tf.shape(log_w)[0], log_w.dtype)
    return tf.reduce_logsumexp(log_w, axis=0) - tf.math.log(k)


def log_sum_without_each(log_w) -> tf.Tensor:
    """The logarithm of the sum of all weights but one.

    Args:
      log_w: log-weights [k, b], nats; k is at least 2.

    Returns:
      log_sum: for each weight that is left out, [k, b], nats.
    """
    log_w = check_log_w(log_w)
    # 1 - w~ has no digits left where w~ is nearly 1, which only the largest can be.
    is_largest = tf.one_hot(
        tf.argmax(log_w, axis=0), tf.shape(log_w)[0], True, False, axis=0
    )
    rest = tf.reduce_logsumexp(tf.where(is_largest, -math.inf, log_w), axis=0)
    w_norm = tf.where(is_largest, 0.0, normalise(log_w))
    log_sum = tf.reduce_logsumexp(log_w, axis=0)
    return tf.where(is_largest, rest, log_sum + tf.math.log1p(-w_norm))


def log_mean_exp_without_each(log_w) -> tf.Tensor:
    """`log_mean_exp` with one weight replaced by the geometric mean of all others.

    Args:
      log_w: log-weights [k, b], nats; k is at least 2.

    Returns:
      log_p: for each weight that is replaced, [k, b], nats.

    Reference:
      Mnih and Rezende 2016, arXiv:1602.06725.
    """
    log_w = check_log_w(log_w)
    k = tf.cast(tf.shape(log_w)[0], log_w.dtype)
    geometric = (tf.reduce_sum(log_w, axis=0) - log_w) / (k - 1)
    both = [log_sum_without_each(log_w), geometric]
    return tf.reduce_logsumexp(both, axis=0) - tf.math.log(k)


def log_mixture(log_first: tf.Tensor, log_second: tf.Tensor, share: float) -> tf.Tensor:
    """The log density of a mixture: log(share f + (1 - share) g).

    Args:
      log_first: log f, [k, b], nats.
      log_second: log g, [k, b], nats.
      share: the share of f, above 0 and at most 1.

    Returns:
      log_density: [k, b], nats.
    """
    if share == 1:
        return log_first
    parts = log_first + np.log(share), log_second + np.log1p(-share)
    return tf.reduce_logsumexp(tf.stack(parts), axis=0)


def normalise(log_w) -> tf.Tensor:
    """The self-normalised weights: w_i / sum_j w_j.

    Args:
      log_w: log-weights [k, b], nats.

    Returns:
      w_norm: [k, b]; it sums to one over axis 0.
    """
    return tf.nn.softmax(check_log_w(log_w), axis=0)


def snis_mean(log_w, values: tf.Tensor) -> tf.Tensor:
    """The mean of values under p(z|x), self-normalised: sum_i w~_i values_i.

    Args:
      log_w: log-weights [k, b], nats.
      values: values of the draws, [k, b, ...].

    Returns:
      mean: [b, ...].

    Reference:
      Owen 2013, Monte Carlo theory, methods and examples, section 9.2.
    """
    return tf.reduce_sum(_beside(normalise(log_w), values) * values, axis=0)


def snis_standard_error(log_w, values: tf.Tensor) -> tf.Tensor:
    """The standard error of `snis_mean`: root of sum_i w~_i^2 (values_i - mean)^2.

    Args:
      log_w: log-weights [k, b], nats.
      values: values of the draws, [k, b, ...].

    Returns:
      error: [b, ...].

    Reference:
      Owen 2013, Monte Carlo theory, methods and examples, section 9.2.
    """
    w_norm = _beside(normalise(log_w), values)
    error = values - snis_mean(log_w, values)
    return tf.sqrt(tf.reduce_sum(tf.square(w_norm * error), axis=0))


def _beside(w_norm, values):
    """Weights [k, b] with the axes of values [k, b, ...]."""
    ones = tf.ones([tf.rank(values) - 2], tf.int32)
    return tf.reshape(w_norm, tf.concat([tf.shape(w_norm), ones], axis=0))


def in_groups(log_w, n_groups: int) -> tf.Tensor:
    """Splits the samples of each image into m groups: [m k, b] becomes [k, m b].

    Sample i is in group i mod m, and column g b + j is group g of image j.

    Args:
      log_w: log-weights [m k, b], nats.
      n_groups: m, the number of groups.

    Returns:
      log_w: [k, m b], nats.

    Raises:
      ValueError: if m does not divide the number of samples.
    """
    log_w = check_log_w(log_w)
    n_samples = log_w.shape[0]
    if n_samples % n_groups:
        raise ValueError(
            f"n_groups: must divide the number of samples, {n_samples}, got {n_groups}"
        )
    return tf.reshape(log_w, [n_samples // n_groups, n_groups * tf.shape(log_w)[1]])


def effective_sample_size(log_w) -> tf.Tensor:
    """Kish's effective sample size: (sum_i w_i)^2 / sum_i w_i^2.

    Args:
      log_w: log-weights [k, b], nats.

    Returns:
      ess: [b], from 1 (one weight has all the mass) to k (all weights equal).
    """
    return 1 / tf.reduce_sum(tf.square(normalise(log_w)), axis=0)


def jackknife(log_w, order: int) -> np.ndarray:
    """`log_mean_exp` without the leading terms of its bias in 1/k.

    The estimate is the sum over j = 0..order of c_j m_j. Here m_j is the mean of
    `log_mean_exp` over all ways to leave out j of the k samples, and
    c_j = (-1)^j (k - j)^order / ((order - j)! j!). The bias falls like k^-(order + 1).
    The estimate is not a lower bound.

    The work is of order k. If a sample that is left out has one of the largest weights,
    the other weights are summed. All other pairs are summed by a series: if the weights
    u sum to 1, and v = u / (1 - u), then
    log(1 - u_i - u_j) = log(1 - u_i) + log(1 - u_j) + log(1 - v_i v_j).

    Args:
      log_w: log-weights [k, b], nats.
      order: 1 or 2; it must be less than k.

    Returns:
      log_p: [b], nats, float64.

    Raises:
      ValueError: for another order, or if there are too few samples for it.

    Reference:
      Nowozin 2018, Debiasing evidence approximations: on importance-weighted
      autoencoders and jackknife variational inference, ICLR.
    """
    log_w = np.asarray(check_log_w(log_w), np.float64)
    k = len(log_w)
    if order not in (1, 2):
        raise ValueError(f"order: must be 1 or 2, got {order}")
    if k <= order:
        raise ValueError(f"log_w: must have more than {order} samples, got {k}")
    largest = log_w.max(axis=0)
    log_u = np.sort(log_w - largest, axis=0)[::-1]
    log_sum = np.logaddexp.reduce(log_u, axis=0)
    log_u -= log_sum
    plain = largest + log_sum - np.log(k)
    # The large weights are separate; the last entry is the sum of the small ones.
    small = log_u[_N_LARGE:]
    head = np.vstack([log_u[:_N_LARGE], np.logaddexp.reduce(small, axis=0)])
    # The average change of `plain` when one sample, and when two, are left out.
    one = _sum_without_one(head, small) / k + np.log(k / (k - 1))
    if order == 1:
        return plain - (k - 1) * one
    n_pairs = k * (k - 1) / 2
    two = _sum_without_two(head, small) / n_pairs + np.log(k / (k - 2))
    return plain - (k - 1) ** 2 * one + (k - 2) ** 2 / 2 * two


_N_LARGE = 8  # for any other weight, u is below 1/9 and v below 1/8
_N_TERMS = 9  # terms of the series; the next one is below 8^-20


def _log_rest(head, *left_out):
    return np.logaddexp.reduce(np.delete(head, left_out, axis=0), axis=0)


def _sum_without_one(head, small):
    """sum_i log(1 - u_i), [b], for weights u that sum to one."""
    large = range(len(head) - 1)
    total = sum(_log_rest(head, i) for i in large)
    return total + np.log1p(-np.exp(small)).sum(axis=0)


def _sum_without_two(head, small):
    """sum_{i<j} log(1 - u_i - u_j), [b], for weights u that sum to one."""
    large = range(len(head) - 1)
    total = sum(_log_rest(head, i, j) for i in large for j in range(i))
    for i in large:
        rest = _log_rest(head, i)
        total += len(small) * rest + np.log1p(-np.exp(small - rest)).sum(axis=0)
    u = np.exp(small)
    v = u / (1 - u)
    powers = [(v**n).sum(axis=0) for n in range(1, 2 * _N_TERMS + 1)]
    series = sum(
        (powers[n - 1] ** 2 - powers[2 * n - 1]) / (2 * n)
        for n in range(1, _N_TERMS + 1)
    )
    return total + (len(small) - 1) * np.log1p(-u).sum(axis=0) - series


def noise_of_mean(quarters: np.ndarray) -> float:
    """Standard deviation over seeds of the mean over images of `log_mean_exp`.

    Estimates by halves of the samples differ less than those by quarters, and that by
    all samples less again. The variance is halved each time if the weights have no long
    tails, and falls more slowly if they have. So the ratio of what quarters and halves
    tell is taken for the step from halves to all samples too. The delta method,
    1 / ess - 1 / k, is too small for long tails, because it is bounded by 1.

    Args:
      quarters: `log_mean_exp` of each quarter of the samples, [4, b], nats.

    Returns:
      noise: nats.
    """
    of_quarters = np.var(quarters, axis=0, ddof=1) / 4
    if not np.any(of_quarters):
        return 0.0
    of_halves = []  # by each way to make two halves of the quarters
    for i in (1, 2, 3):
        others = [quarters[j] for j in (1, 2, 3) if j != i]
        one, other = np.logaddexp(quarters[0], quarters[i]), np.logaddexp(*others)
        of_halves.append(np.square(one - other) / 4)
    variance = np.sum(np.mean(of_halves, axis=0)) ** 2 / np.sum(of_quarters)
    return float(np.sqrt(variance) / quarters.shape[1])


class StreamingLogMeanExp:
    """`log_mean_exp` of groups of samples that arrive in chunks of any size.

    The mean over complete groups of `group_size` samples is an unbiased estimate of
    the bound with k = group_size. If group_size is the number of samples, the mean is
    `log_mean_exp` of them all. The memory does not depend on the number of samples.
    Sums are kept in float64.
    """

    def __init__(self, group_size: int):
        """Starts without samples.

        Args:
          group_size: k, the number of samples in a group.
        """
        self.group_size = group_size
        self._n_open = 0
        self._open = None  # log-sum of the group that is not yet complete, [b]
        self._n_closed = 0
        self._closed = 0.0  # sum of log-means of the complete groups, [b]

    def add(self, log_w) -> None:
        """Adds the next chunk of samples, `log_w [c, b]`."""
        log_w = np.asarray(log_w)
        _check(log_w.shape, log_w.dtype)
        log_w = log_w.astype(np.float64)
        n_head = min(len(log_w), self.group_size - self._n_open)
        n_groups = (len(log_w) - n_head) // self.group_size
        n_tail = n_head + n_groups * self.group_size
        if n_head:
            self._extend(log_w[:n_head])
        if n_groups:
            groups = log_w[n_head:n_tail].reshape(n_groups, self.group_size, -1)
            self._close(log_sum_exp(groups, axis=1))
        if n_tail < len(log_w):
            self._extend(log_w[n_tail:])

    def _extend(self, log_w):
        log_sum = log_sum_exp(log_w, axis=0)
        self._open = np.logaddexp(self._open, log_sum) if self._n_open else log_sum
        self._n_open += len(log_w)
        if self._n_open == self.group_size:
            self._close(self._open[None])
            self._n_open = 0

    def _close(self, log_sums):
        self._closed += np.sum(log_sums - np.log(self.group_size), axis=0)
        self._n_closed += len(log_sums)

    def mean(self) -> np.ndarray:
        """The mean of `log_mean_exp` over the complete groups: [b], nats, float64.

        Raises:
          ValueError: if no group is complete.
        """
        if not self._n_closed:
            raise ValueError(
                f"group_size: {self.group_size} samples are needed for a group, "
                f"got {self._n_open}"
            )
        return self._closed / self._n_closed


def log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    """The same as `np.logaddexp.reduce`, in a third of its time."""
    if values.shape[axis] == 1:
        return np.squeeze(values, axis)
    largest = values.max(axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        log_sum = np.log(np.exp(values - largest).sum(axis=axis))
    return log_sum + np.squeeze(largest, axis)
