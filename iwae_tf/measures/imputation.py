"""Imputation of missing entries by importance weights."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import randomness, weights
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.models import batches
from iwae_tf.models.generators import seed_of_missing


def resampled(log_w: tf.Tensor, n: int, seed: int | tf.Tensor) -> tf.Tensor:
    """The places of n of k draws, in proportion to their weights.

    Args:
      log_w: log-weights, [k, b], nats.
      n: number of places for each observation; a place may come twice.
      seed: random seed, an integer or [2].

    Returns:
      chosen: places from 0 to k - 1, int32 [b, n].
    """
    log_w = weights.check_log_w(log_w)
    return tf.random.stateless_categorical(
        tf.transpose(log_w), n, randomness.seed_of(seed), tf.int32
    )


def taken(values: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Values [k, b, ...] at the places [b, n] that were chosen, [n, b, ...]."""
    swapped = tf.experimental.numpy.swapaxes(values, 0, 1)
    return tf.experimental.numpy.swapaxes(
        tf.gather(swapped, chosen, batch_dims=1), 0, 1
    )


class Imputed(NamedTuple):
    """The posterior mean of missing entries.

    Attributes:
      mean: x with E[x|observed entries] in place of NaN, [n, *event_shape].
      standard_error: standard error of these, 0 where x was observed, same shape.
      ess: effective sample size of the weights, [n].
    """

    mean: np.ndarray
    standard_error: np.ndarray
    ess: np.ndarray


def impute(
    model,
    x: batches.Observations,
    n_samples: int = 500,
    batch_size: int = 20,
    seed: int = 123,
    context: np.ndarray | None = None,
    jit_compile: bool = True,
    on_progress: Callable[[int], None] = lambda n_done: None,
) -> Imputed:
    """Estimates missing entries by self-normalised importance sampling.

    The mean of an entry is sum_i w~_i E[x|z_i]; for the codes of classes it means
    nothing, and `impute_samples` serves instead. With a mask model, whose weights
    depend on the missing entries that were drawn, it is sum_i w~_i x_i.

    Args:
      model: an `iwae_tf.IWAE` with missing entries.
      x: observations [n, *event_shape] with NaN for missing entries, or a dataset of
        them, see `batches_of` in `iwae_tf.models.batches`.
      n_samples: k, the number of samples per observation.
      batch_size: number of observations in one batch.
      seed: random seed for the noise.
      context: y of every observation, [n, c], for a conditional model.
      jit_compile: whether XLA compiles the computation.
      on_progress: called with the number of observations done.

    Returns:
      imputed: the mean of every entry, its standard error, and effective sample sizes.

    Raises:
      UsageError: if the model has no missing entries, or there are no samples; see
        `batches_of` too.

    Reference:
      Mattei and Frellsen 2019, section 4, arXiv:1812.02633.
    """
    look = _imputer(model, _mean_of_missing, n_samples, seed, jit_compile, on_progress)
    values = batches.run(batches.batches_of(model, x, context, batch_size), look)
    mean, error = (np.moveaxis(values[name], -1, 0) for name in ("mean", "error"))
    return Imputed(mean, error, values["ess"])


def impute_samples(
    model,
    x: batches.Observations,
    n_samples: int = 500,
    n: int = 10,
    batch_size: int = 20,
    seed: int = 123,
    context: np.ndarray | None = None,
    jit_compile: bool = True,
    on_progress: Callable[[int], None] = lambda n_done: None,
) -> np.ndarray:
    """Draws missing entries several times, by sampling importance resampling.

    Args:
      model: see `impute`.
      x: see `impute`.
      n_samples: k, the number of samples per observation among which n are chosen.
      n: number of imputations.
      batch_size: see `impute`.
      seed: see `impute`.
      context: see `impute`.
      jit_compile: see `impute`.
      on_progress: see `impute`.

    Returns:
      imputations: [n, number of observations, *event_shape], the same as x where it was
        observed.

    Raises:
      UsageError: see `impute`; also if there is no imputation.

    Reference:
      Mattei and Frellsen 2019, section 4, arXiv:1812.02633.
    """
    check_at_least(1, n=n)
    look = _imputer(
        model, _draws_of_missing, n_samples, seed, jit_compile, on_progress, n=n
    )
    values = batches.run(batches.batches_of(model, x, context, batch_size), look)
    return np.moveaxis(values["draws"], -1, 1)


def _imputer(model, function, k, seed, jit_compile, on_progress, **options):
    """A function that imputes one batch, for `batches.run`."""
    check_at_least(1, n_samples=k)
    if not getattr(model.generator, "missing", False):
        raise UsageError("model: must be built with missing=True, got one without")
    compute = batches.compiled(model, function, jit_compile, k=k, **options)
    return batches.with_noise(compute, seed, on_progress)


def _mean_of_missing(model, x, context, seed, *, k):
    draws = model.draw(x, k, seed, context)
    log_w = draws.log_w()
    if model.generator.mask_model is None:
        values = model.generator.mean(draws.zs, context)
    else:
        own = seed_of_missing(seed)
        values = model.generator.complete(x, draws.zs, own, context)
    mean = weights.snis_mean(log_w, values)
    error = weights.snis_standard_error(log_w, values)
    is_missing = tf.math.is_nan(x)
    return {
        "mean": _last(tf.where(is_missing, mean, x), 0),
        "error": _last(tf.where(is_missing, error, 0.0), 0),
        "ess": weights.effective_sample_size(log_w),
    }


def _draws_of_missing(model, x, context, seed, *, k, n):
    draws = model.draw(x, k, seed, context)
    chosen = resampled(draws.log_w(), n, randomness.seed_of(seed, -3))
    if model.generator.mask_model is None:
        zs = tuple(taken(z, chosen) for z in draws.zs)
        own = randomness.seed_of(seed, -4)
        values, _ = model.generator.sample(zs, own, context)
    else:
        own = seed_of_missing(seed)
        complete = model.generator.complete(x, draws.zs, own, context)
        values = taken(complete, chosen)
    return {"draws": _last(tf.where(tf.math.is_nan(x), values, x), 1)}


def _last(values, axis):
    """Values with one of their axes moved to the end."""
    return tf.experimental.numpy.moveaxis(values, axis, -1)
