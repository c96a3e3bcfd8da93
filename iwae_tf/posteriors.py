"""Approximate posteriors q(z|x).

A posterior has `draw(x, k, seed) -> (zs, log_qz)` and `log_prob(zs, x) -> log_qz`.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.networks import LocScale

tfd = tfp.distributions


class GaussianChain(keras.layers.Layer):
    """A chain of Gaussian layers: q(z1|x) q(z2|z1) ... q(zL|zL-1).

    Reference:
      Burda et al. 2016, section 2 and appendix, arXiv:1509.00519.
    """

    def __init__(self, widths: Sequence[Sequence[int]], n_latent: Sequence[int]):
        """Makes one network per stochastic layer, bottom-up.

        Args:
          widths: hidden units of each layer's network.
          n_latent: latent size of each layer.
        """
        super().__init__()
        self.conditionals = [
            LocScale(w, d) for w, d in zip(widths, n_latent, strict=True)
        ]
        self.n_latent = tuple(n_latent)

    def conditional(self, level: int, below: tf.Tensor) -> tfd.Distribution:
        """q(z | the layer below), event [d].

        Args:
          level: 0 is the layer nearest to the pixels.
          below: flattened images [b, n_pixels] for level 0, else z of the layer
            below [k, b, d].
        """
        loc, scale = self.conditionals[level](below)
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def draw(
        self, x: tf.Tensor, k: int, seed: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """Draws k reparameterised samples per image.

        Args:
          x: images [b, height, width, channels].
          k: samples per image.
          seed: [2].

        Returns:
          zs: tuple of latents, bottom-up, each [k, b, d].
          log_qz: [k, b], nats.
        """
        below, zs, log_qz = flatten(x), (), 0.0
        for level, d in enumerate(self.n_latent):
            q = self.conditional(level, below)
            noise = randomness.normal(
                [k, tf.shape(x)[0], d], randomness.seed_of(seed, level)
            )
            z = q.mean() + q.stddev() * noise
            log_qz += q.log_prob(z)
            zs += (z,)
            below = z
        return zs, log_qz

    def log_prob(self, zs: tuple[tf.Tensor, ...], x: tf.Tensor) -> tf.Tensor:
        """The log density of given latents: log q(z|x), summed over layers.

        Args:
          zs: tuple of latents, bottom-up, each [k, b, d].
          x: images [b, height, width, channels].

        Returns:
          log_qz: [k, b], nats.
        """
        belows = (flatten(x), *zs[:-1])
        return sum(
            self.conditional(level, below).log_prob(z)
            for level, (below, z) in enumerate(zip(belows, zs, strict=True))
        )


def flatten(x: tf.Tensor) -> tf.Tensor:
    """Images [b, height, width, channels] as rows [b, n_pixels]."""
    return tf.reshape(x, [tf.shape(x)[0], x.shape[1] * x.shape[2] * x.shape[3]])
