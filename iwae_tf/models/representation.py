"""What a trained model says of observations: encodings, embeddings, interpolations."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import weights
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.models import batches

LEAST_ESS = 10  # below it, a mean under p(z|x) says more of the seed than of x


class Encoded(NamedTuple):
    """The Gaussians of q(z|x), each given the mean of the layer below.

    Attributes:
      means: mean of every layer, bottom-up, [n, d]; with flows, what the flow makes of
        the mean of q(z0|x).
      scales: standard deviations, same shapes; None where they have no closed form, as
        with flows.
    """

    means: tuple[np.ndarray, ...]
    scales: tuple[np.ndarray, ...] | None


class Embedded(NamedTuple):
    """Estimates of the means of p(z|x), and how far they can be trusted.

    Attributes:
      means: mean of every latent, bottom-up, [n, d].
      standard_errors: their standard errors, same shapes. They are too small where the
        effective sample size is.
      ess: effective sample sizes of the weights, [n], from 1 to k.
    """

    means: tuple[np.ndarray, ...]
    standard_errors: tuple[np.ndarray, ...]
    ess: np.ndarray


class Representation:
    """The methods of `iwae_tf.IWAE` that take and give many latents, batch by batch.

    Where observations x are asked for, arrays [n, *event_shape] and datasets of batches
    do alike; see `iwae_tf.models.batches.batches_of`.
    """

    def encode(
        self,
        x: batches.Observations,
        context: np.ndarray | None = None,
        batch_size: int = 100,
    ) -> Encoded:
        """Computes the means and scales of q(z|x), without noise.

        Args:
          x: observations.
          context: [n, c], for a conditional model.
          batch_size: number of observations in one batch.

        Returns:
          encoded: means and scales of every layer.

        Raises:
          UsageError: see `iwae_tf.models.batches.batches_of`.
        """
        compute = batches.compiled(self, _encoded)
        values = batches.run(
            batches.batches_of(self, x, context, batch_size),
            lambda batch: compute(batch.x, batch.context),
        )
        scales = _layers(values, "scale") or None
        return Encoded(_layers(values, "mean"), scales)

    def decode(
        self,
        zs: np.ndarray | Sequence[np.ndarray],
        context: np.ndarray | None = None,
        batch_size: int = 100,
    ) -> np.ndarray:
        """Computes E[x|z].

        Args:
          zs: latents, bottom-up, each [..., n, d]; an array for one layer.
          context: [n, c], for a conditional model.
          batch_size: number of observations in one batch.

        Returns:
          means: E[x|z], [..., n, *event_shape].

        Raises:
          UsageError: if the latents are not those of the model, or the contexts.
        """
        zs = (zs,) if isinstance(zs, np.ndarray | tf.Tensor) else tuple(zs)
        zs = tuple(batches.numbers("zs", z) for z in zs)
        sizes, n_latent = [z.shape for z in zs], tuple(self.posterior.n_latent)
        leading = {size[:-1] for size in sizes}
        if tuple(size[-1] for size in sizes) != n_latent or len(leading) != 1:
            raise UsageError(
                f"zs: must be latents of sizes {n_latent}, bottom-up, with equal "
                f"leading axes, got shapes {sizes}"
            )
        if zs[0].ndim < 2:
            raise UsageError(f"zs: must be of shape [..., n, d], got {sizes}")
        check_at_least(1, batch_size=batch_size)
        n = zs[0].shape[-2]
        check_at_least(1, **{"number of latents": n})
        if context is not None:
            context = batches.numbers("context", context)
        self.check_context(context, n)
        compute = batches.compiled(self, _decoded)
        parts = []
        for first in range(0, n, batch_size):
            rows = slice(first, first + batch_size)
            own = tuple(tf.constant(z[..., rows, :], self.variable_dtype) for z in zs)
            (of_rows,) = batches.at(rows, context)
            parts.append(compute(own, of_rows).numpy())
        return np.concatenate(parts, axis=zs[0].ndim - 2)

    def embed(
        self,
        x: batches.Observations,
        k: int = 100,
        batch_size: int = 100,
        seed: int = 123,
        context: np.ndarray | None = None,
        jit_compile: bool = True,
        on_progress: Callable[[int], None] = lambda n_done: None,
    ) -> Embedded:
        """Estimates the means of the true posterior p(z|x) by importance sampling.

        It warns if a tenth of the observations or more have an effective sample size
        below 10. Their means then depend on the seed; with more samples they do less.

        Args:
          x: observations.
          k: number of samples from q(z|x) per observation.
          batch_size: number of observations in one batch.
          seed: random seed for the noise.
          context: [n, c], for a conditional model.
          jit_compile: whether XLA compiles the computation.
          on_progress: called with the number of observations done.

        Returns:
          embedded: the means with their standard errors and effective sample sizes.

        Raises:
          UsageError: if there are no samples; see
            `iwae_tf.models.batches.batches_of` too.

        Reference:
          Owen 2013, Monte Carlo theory, methods and examples, section 9.2.
        """
        check_at_least(1, k=k)
        compute = batches.compiled(self, _embedded, jit_compile, k=k)

        look = batches.with_noise(compute, seed, on_progress)
        values = batches.run(batches.batches_of(self, x, context, batch_size), look)
        n_low = int(np.sum(values["ess"] < LEAST_ESS))
        if 10 * n_low >= len(values["ess"]):
            warnings.warn(
                f"embed: {n_low} of {len(values['ess'])} observations have an "
                f"effective sample size below {LEAST_ESS} of k = {k} (median of all "
                f"{np.median(values['ess']):.1f}), so their means depend on the seed; "
                "a larger k helps",
                stacklevel=2,
            )
        return Embedded(
            _layers(values, "mean"), _layers(values, "error"), values["ess"]
        )

    def interpolate(
        self,
        x1: np.ndarray,
        x2: np.ndarray,
        n: int,
        context: np.ndarray | None = None,
    ) -> np.ndarray:
        """Decodes n latents on the straight line between the means of two encodings.

        The first and the last are the reconstructions of x1 and x2.

        Args:
          x1: observations to start from, [b, *event_shape] or a single one.
          x2: observations to end at, same shape.
          n: number of steps, the ends included.
          context: [b, c], or [c] for a single pair, for a conditional model.

        Returns:
          means: E[x|z], [n, b, *event_shape], or [n, *event_shape] for a single pair.

        Raises:
          UsageError: if there are fewer than two steps, the shapes differ, or there
            is nothing between two latents, as with binary ones.
        """
        if not getattr(self.posterior, "is_reparameterised", True):
            raise UsageError(
                "model: must have continuous latents for interpolations, got latents "
                "without a reparameterisation"
            )
        check_at_least(2, n=n)
        x1, x2 = batches.numbers("x1", x1), batches.numbers("x2", x2)
        if x1.shape != x2.shape:
            raise UsageError(f"x2: must be of shape {x1.shape}, as x1, got {x2.shape}")
        is_single = x1.ndim == len(self.generator.event_shape)
        if is_single:
            x1, x2 = x1[np.newaxis], x2[np.newaxis]
            context = None if context is None else np.asarray(context)[np.newaxis]
        ends = (self.encode(x, context).means for x in (x1, x2))
        t = np.linspace(0, 1, n)[:, np.newaxis, np.newaxis]
        zs = [(1 - t) * z1 + t * z2 for z1, z2 in zip(*ends, strict=True)]
        means = self.decode(zs, context)
        return means[:, 0] if is_single else means


def means_and_scales(
    model, x: tf.Tensor, context: tf.Tensor | None = None
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The parts of `Encoded` of one batch [b, *event_shape], as tensors [b, d].

    There are no scales where they have no closed form.
    """
    zs = model.posterior.mean(x, context)
    scales = []
    if getattr(model.posterior, "has_factors", False):
        factors = model.posterior.factors(zs, x, context)
        scales = [
            tf.reshape(q.stddev(), tf.shape(z)[1:])
            for q, z in zip(factors, zs, strict=True)
        ]
    return [z[0] for z in zs], scales


def _encoded(model, x, context):
    means, scales = means_and_scales(model, x, context)
    return {
        f"{name}{i}": tf.transpose(part)
        for name, parts in (("mean", means), ("scale", scales))
        for i, part in enumerate(parts)
    }


def _decoded(model, zs, context):
    return model.generator.mean(zs, context)


def _embedded(model, x, context, seed, *, k):
    draws = model.draw(x, k, seed, context)
    log_w = draws.log_w()
    values = {"ess": weights.effective_sample_size(log_w)}
    for i, z in enumerate(draws.zs):
        values[f"mean{i}"] = tf.transpose(weights.snis_mean(log_w, z))
        values[f"error{i}"] = tf.transpose(weights.snis_standard_error(log_w, z))
    return values


def _layers(values, name):
    """The values [d, n] of every layer, bottom-up, as [n, d]."""
    n = sum(key.removeprefix(name).isdigit() for key in values)
    return tuple(values[f"{name}{i}"].T for i in range(n))
