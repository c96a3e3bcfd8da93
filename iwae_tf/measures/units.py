"""Which latent units a model uses: activity, KL, and scores without the others.

A unit is one entry of one latent. These functions use the layers of q and p, which
factorise over units, or samples of a q with flows. They do not depend on the networks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.models import batches
from iwae_tf.models.generators import noise_of_missing

ACTIVE_ABOVE = 0.01


class Units(NamedTuple):
    """Statistics of the d units u of one stochastic layer over images x.

    Attributes:
      mean: mean of u over images and q(u|x), [d].
      activity: Var_x(E_q[u|x]), [d], an unbiased estimate.
      variance: mean over images of Var_q[u|x], [d]. The smaller it is, the more an
        image says about the unit.
      kl: E_x E_q [log q(u | below) - log p(u | above)], [d], nats. Its sum over units
        and layers is the KL of the ELBO. It is None with flows, where the density of q
        is not a product over units.

    Reference:
      Burda et al. 2016, section 5.2, arXiv:1509.00519.
    """

    mean: np.ndarray
    activity: np.ndarray
    variance: np.ndarray
    kl: np.ndarray | None

    @property
    def active(self) -> np.ndarray:
        """Whether a unit's activity is above 0.01: bool [d]."""
        return self.activity > ACTIVE_ABOVE


def statistics(
    model,
    x: batches.Observations,
    n_samples: int = 50,
    batch_size: int = 100,
    seed: int = 123,
    context: np.ndarray | None = None,
    directory: Path | None = None,
    share: batches.Share = batches.WHOLE,
) -> tuple[Units, ...]:
    """Activity, posterior variance and KL of every latent unit.

    A model with one stochastic layer needs no samples. Layers above the first are
    averaged over samples of the layers below, and a layer with flows over its own
    samples. The noise of these samples is subtracted from the activity.

    Args:
      model: has a posterior and a generator with `factors`, see `iwae_tf.IWAE`.
      x: observations [n, *event_shape], or a dataset of them, see `batches_of` in
        `iwae_tf.models.batches`.
      n_samples: k, the number of samples per image.
      batch_size: number of images in one batch.
      seed: random seed for the noise.
      context: y of every image, [n, c], for a conditional model.
      directory: directory where the moments of each batch are kept, so that the same
        call finds them again. By default nothing is kept.
      share: which batches to look at; the statistics are those of their images.

    Returns:
      layers: statistics of every layer, bottom-up.

    Raises:
      UsageError: for fewer than two images, for fewer than two samples with several
        layers or flows; see `batches_of` too.
    """
    n_layers, n_flows = len(model.posterior.n_latent), model.posterior.n_flows
    least = 1 if n_layers == 1 and not n_flows else 2
    check_at_least(least, n_samples=n_samples)
    k = 1 if least == 1 else n_samples
    moments = batches.compiled(model, _moments_of_batch, k=k)

    def of_batch(batch):
        own = (a if a is None else a[: batch.n_own] for a in (batch.x, batch.context))
        batch_seed = randomness.seed_of(seed, randomness.UNITS, batch.first)
        return {
            f"{level} {number}": tf.transpose(part)
            for level, layer in enumerate(moments(*own, batch_seed))
            for number, part in enumerate(layer)
        }

    parts = batches.batches_of(model, x, context, batch_size)
    identity = directory and batches.identity_of(model, k=k, seed=seed)
    values = batches.run(parts, of_batch, directory, identity, share)
    if share == batches.WHOLE:
        check_at_least(2, **{"number of observations": values["0 0"].shape[-1]})
    layers = [[] for _ in range(n_layers)]
    for name, part in values.items():  # each [d, n]
        level, _ = name.split()
        layers[int(level)].append(part.T.astype(np.float64, order="C"))
    return tuple(
        Units(
            mean=mean.mean(axis=0),
            activity=mean.var(axis=0, ddof=1) - noise.mean(axis=0),
            variance=variance.mean(axis=0),
            kl=kl[0].mean(axis=0) if kl else None,
        )
        for mean, noise, variance, *kl in layers
    )


def _moments_of_batch(model, images, contexts, seed, *, k):
    """The moments of every layer, bottom-up."""
    zs, _ = model.posterior.draw(images, k, seed, contexts)
    if model.posterior.n_flows:
        return [_moments_of_samples(zs[0])]
    qs = model.posterior.factors(zs, images, contexts)
    ps = model.generator.factors(zs, contexts)
    return [
        _moments(q.distribution, p.distribution, z, level == len(zs) - 1)
        for level, (q, p, z) in enumerate(zip(qs, ps, zs, strict=True))
    ]


def _moments_of_samples(z):
    """For each image and unit, [b, d]: E[u|x], its noise variance, Var[u|x]."""
    k = z.shape[0]
    variance = tf.math.reduce_variance(z, axis=0) * k / (k - 1)
    return [tf.reduce_mean(z, axis=0), variance / k, variance]


def _moments(q, p, z, is_top):
    """For each image and unit, [b, d]: E[u|x], its noise variance, Var[u|x], KL.

    Only the KL of the top layer has a closed form. In a layer below, p(u | above)
    depends on the draw of the unit itself, through the layer above.
    """
    mean, variance = q.mean(), q.variance()
    if is_top:
        kl = tfp.distributions.kl_divergence(q, p)
    else:
        kl = q.log_prob(z) - p.log_prob(z)
    if mean.shape.rank == 2:  # the first layer: q(z1|x) itself
        kl = kl if is_top else tf.reduce_mean(kl, axis=0)
        return mean, tf.zeros_like(mean), variance, kl
    k = mean.shape[0]
    between = tf.math.reduce_variance(mean, axis=0) * k / (k - 1)
    return (
        tf.reduce_mean(mean, axis=0),
        between / k,
        tf.reduce_mean(variance, axis=0) + between,
        tf.reduce_mean(kl, axis=0),
    )


class WithoutUnits:
    """A model in which some units are constants; the other units form a model again.

    A unit that is constant has no density in p or q, and every layer that reads it
    reads the constant. `iwae_tf.log_likelihood` accepts an instance as a model.

    Reference:
      Burda et al. 2016, section 5.2, arXiv:1509.00519, which removes inactive units.
    """

    def __init__(self, model, kept: Sequence[np.ndarray], values: Sequence[np.ndarray]):
        """Chooses the units to keep.

        Args:
          model: an `iwae_tf.IWAE`.
          kept: for every layer, bottom-up, whether each unit is kept, bool [d].
          values: for every layer, the constants of the units that are not kept, [d].

        Raises:
          UsageError: if the sizes are not those of the model's latents, or the model
            has flows.
        """
        if model.posterior.n_flows:
            raise UsageError(
                "model: must be without flows for its units to be taken out, got "
                f"{model.posterior.n_flows} flows"
            )
        sizes = tuple(len(layer) for layer in kept)
        if sizes != tuple(model.posterior.n_latent):
            raise UsageError(
                f"kept: must be of the latent sizes {tuple(model.posterior.n_latent)}, "
                f"got {sizes}"
            )
        self.model = model
        # `batches.checked` reads both.
        self.inputs, self.generator = model.inputs, model.generator
        self.kept = [tf.constant(np.asarray(layer, bool)) for layer in kept]
        self.values = [tf.constant(np.asarray(v), tf.float32) for v in values]

    def draw(
        self,
        x: tf.Tensor,
        k: int,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> Draws:
        """Draws as `IWAE.draw` does, with the same noise."""
        posterior, generator = self.model.posterior, self.model.generator
        x, context = self.model.inputs(x, context)
        below, zs, log_qz = posterior.entries(x), (), 0.0
        for level, (kept, value) in enumerate(zip(self.kept, self.values, strict=True)):
            q = posterior.conditional(level, below, context)
            z = posterior.sample(q, k, randomness.seed_of(seed, level))
            log_qz += self._sum(level, q.distribution.log_prob(z))
            below = tf.where(kept, z, tf.cast(value, z.dtype))
            zs += (below,)
        log_pz = sum(
            self._sum(level, p.distribution.log_prob(z))
            for level, (p, z) in enumerate(
                zip(generator.factors(zs, context), zs, strict=True)
            )
        )
        own = noise_of_missing(generator, seed)
        return Draws(zs, generator.log_px(x, zs, context, **own), log_pz, log_qz)

    def _sum(self, level, log_density):
        return tf.reduce_sum(tf.where(self.kept[level], log_density, 0.0), axis=-1)
