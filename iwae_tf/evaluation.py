"""Test log-likelihood by importance sampling, streamed over samples and images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.weights import StreamingLogMeanExp

LADDER = (1, 5, 50, 500, 5000)


class Likelihood(NamedTuple):
    """What scoring found, for each of n images.

    Attributes:
      log_px: importance sampling estimate of log p(x), [n], nats.
      ess: effective sample size of the weights, [n], from 1 to n_samples.
      log_px_given_z: E_q log p(x|z), [n], nats; the ELBO is this minus `kl`.
      kl: E_q log q(z|x) - log p(z), [n], nats.
      bounds: for each k, the importance weighted bound, [n], nats, estimated from
        all complete groups of k among the same samples.
    """

    log_px: np.ndarray
    ess: np.ndarray
    log_px_given_z: np.ndarray
    kl: np.ndarray
    bounds: dict[int, np.ndarray]

    @property
    def mean(self) -> float:
        """Mean of `log_px` over the images, nats per image."""
        return float(np.mean(self.log_px))

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` over the images, nats; NaN for one image."""
        n = len(self.log_px)
        return float(np.std(self.log_px, ddof=1) / n**0.5) if n > 1 else float("nan")


def log_likelihood(
    model,
    x: np.ndarray,
    n_samples: int = 5000,
    chunk: int = 250,
    batch_size: int = 20,
    seed: int = 123,
    jit_compile: bool = True,
    on_progress: Callable[[int], None] = lambda n_images: None,
) -> Likelihood:
    """Estimates log p(x) of every image: log mean_k exp(log_w).

    Memory is that of one chunk of samples for one batch of images, whatever
    `n_samples` is. The noise is a function of seed, chunk, batch_size and jit_compile.

    Args:
      model: has `draw(x, k, seed) -> Draws`.
      x: binary images [n, height, width, channels].
      n_samples: k.
      chunk: samples of one image that are held at once; the last one may be smaller.
      batch_size: images that are scored at once.
      seed: of the noise.
      jit_compile: whether XLA compiles the computation.
      on_progress: called with the number of images done.

    Returns:
      likelihood: per image, nats.

    Raises:
      UsageError: for a number out of range or without images.

    Reference:
      Burda et al. 2016, section 5, arXiv:1509.00519.
    """
    for name, value in (
        ("n_samples", n_samples),
        ("chunk", chunk),
        ("batch_size", batch_size),
        ("number of images", len(x)),
    ):
        if value < 1:
            raise UsageError(f"{name}: must be at least 1, got {value}")
    chunk, batch_size = min(chunk, n_samples), min(batch_size, len(x))

    @tf.function(jit_compile=jit_compile)
    def draw(images, batch_seed):
        draws = model.draw(images, chunk, batch_seed)
        return draws.log_w(), draws.log_px

    parts = []
    for first in range(0, len(x), batch_size):
        # The last batch is filled up, so that one shape is compiled.
        places = np.minimum(np.arange(first, first + batch_size), len(x) - 1)
        images = tf.constant(np.asarray(x)[places], tf.float32)
        batch_seed = randomness.seed_of(seed, randomness.SCORE, first)
        n_kept = min(batch_size, len(x) - first)
        part = _score_batch(draw, images, batch_seed, n_samples, chunk)
        parts.append([values[:n_kept] for values in part])
        on_progress(first + n_kept)
    log_px, ess, log_px_given_z, kl, *bounds = (
        np.concatenate(values) for values in zip(*parts, strict=True)
    )
    ladder = dict(zip(_ladder(n_samples), bounds, strict=True))
    return Likelihood(log_px, ess, log_px_given_z, kl, ladder)


def _ladder(n_samples):
    return sorted({k for k in LADDER if k < n_samples} | {n_samples})


def _score_batch(draw, images, seed, n_samples, chunk):
    bounds = {k: StreamingLogMeanExp(k) for k in _ladder(n_samples)}
    of_squares = StreamingLogMeanExp(n_samples)
    log_px_given_z = StreamingLogMeanExp(1)
    for first in range(0, n_samples, chunk):
        n_kept = min(chunk, n_samples - first)
        log_w, log_px = (
            part.numpy()[:n_kept]
            for part in draw(images, randomness.seed_of(seed, first))
        )
        for bound in bounds.values():
            bound.add(log_w)
        of_squares.add(2 * log_w)
        log_px_given_z.add(log_px)
    values = {k: bound.mean() for k, bound in bounds.items()}
    log_mean_w = values[n_samples]
    reconstruction = log_px_given_z.mean()
    ess = n_samples * np.exp(2 * log_mean_w - of_squares.mean())
    return [
        log_mean_w,
        ess,
        reconstruction,
        reconstruction - values[1],
        *values.values(),
    ]
