"""Generators p(x, z).

A generator has `image_shape`, `log_joint(x, zs) -> (log_px, log_pz)`, `prior()` (the
distribution of the top latent), `sample_latents(n, seed) -> zs` and
`mean_image(zs)`.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.networks import MLP, LocScale
from iwae_tf.posteriors import flatten

tfd = tfp.distributions


class BernoulliChain(keras.layers.Layer):
    """A chain of Gaussian layers over Bernoulli pixels: p(zL) ... p(z1|z2) p(x|z1).

    Reference:
      Burda et al. 2016, section 2 and appendix, arXiv:1509.00519.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[Sequence[int]],
        n_latent: Sequence[int],
        output_bias: str | keras.initializers.Initializer = "zeros",
    ):
        """Makes the pixel network and one network per conditional layer.

        Args:
          image_shape: height, width, channels.
          widths: hidden units of each network, bottom-up: `widths[0]` is the pixel
            network's.
          n_latent: latent size of each layer, bottom-up.
          output_bias: initial pixel logits.
        """
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.n_latent = tuple(n_latent)
        self.pixels = MLP(widths[0])
        self.pixel_logits = keras.layers.Dense(
            math.prod(image_shape), bias_initializer=output_bias
        )
        self.conditionals = [
            LocScale(w, d) for w, d in zip(widths[1:], n_latent[:-1], strict=True)
        ]

    def prior(self) -> tfd.Distribution:
        """p(z) of the top layer: standard normal, event [d]."""
        return tfd.Independent(tfd.Normal(tf.zeros(self.n_latent[-1]), 1.0), 1)

    def conditional(self, level: int, above: tf.Tensor) -> tfd.Distribution:
        """p(z of this level | z of the level above), event [d]."""
        loc, scale = self.conditionals[level](above)
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def logits(self, zs: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Pixel logits [..., n_pixels] of latents [..., d]."""
        return self.pixel_logits(self.pixels(zs[0]))

    def log_joint(
        self, x: tf.Tensor, zs: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The two parts of log p(x, z): log p(x|z) and log p(z).

        Args:
          x: binary images [b, height, width, channels].
          zs: tuple of latents, bottom-up, each [k, b, d].

        Returns:
          log_px: [k, b], nats, summed over pixels.
          log_pz: [k, b], nats, summed over latents and layers.
        """
        logits = self.logits(zs)
        log_px = tf.reduce_sum(flatten(x) * logits - tf.nn.softplus(logits), axis=-1)
        log_pz = self.prior().log_prob(zs[-1])
        for level in range(len(zs) - 1):
            log_pz += self.conditional(level, zs[level + 1]).log_prob(zs[level])
        return log_px, log_pz

    def sample_latents(self, n: int, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Draws from the prior.

        Args:
          n: number of draws.
          seed: [2].

        Returns:
          zs: tuple of latents, bottom-up, each [n, d].
        """
        top = len(self.n_latent) - 1
        zs = (
            randomness.normal([n, self.n_latent[top]], randomness.seed_of(seed, top)),
        )
        for level in reversed(range(top)):
            p = self.conditional(level, zs[0])
            noise = randomness.normal(
                [n, self.n_latent[level]], randomness.seed_of(seed, level)
            )
            zs = (p.mean() + p.stddev() * noise, *zs)
        return zs

    def mean_image(self, zs: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """E[x|z].

        Args:
          zs: tuple of latents, bottom-up, each [..., d].

        Returns:
          mean: pixel probabilities [..., height, width, channels].
        """
        logits = self.logits(zs)
        return tf.reshape(
            tf.sigmoid(logits), tf.concat([tf.shape(logits)[:-1], self.image_shape], 0)
        )
