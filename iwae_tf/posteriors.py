"""Approximate posteriors q(z|x), or q(z|x, y) of a conditional model.

A posterior has `n_latent`, `draw(x, k, seed, context) -> (zs, log_qz)`,
`layers(zs, x, context)`, the distribution of every latent given the one below it, and
`log_prob(zs, x, context) -> log_qz`. The context is y, [b, c], or None.
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

    With a context every layer sees it beside the layer below.

    Reference:
      Burda et al. 2016, section 2 and appendix, arXiv:1509.00519.
    """

    def __init__(
        self,
        widths: Sequence[Sequence[int]],
        n_latent: Sequence[int],
        activation: str = "tanh",
        n_bounded: int = 0,
    ):
        """Makes one network per stochastic layer, bottom-up.

        Args:
          widths: hidden units of each layer's network.
          n_latent: latent size of each layer.
          activation: nonlinearity after every hidden layer.
          n_bounded: so many means of each layer, the last, go through tanh.
        """
        super().__init__()
        self.conditionals = [
            LocScale(w, d, activation, n_bounded)
            for w, d in zip(widths, n_latent, strict=True)
        ]
        self.n_latent = tuple(n_latent)

    def conditional(
        self, level: int, below: tf.Tensor, context: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """q(z | the layer below), event [d].

        Args:
          level: 0 is the layer nearest to the pixels.
          below: flattened images [b, n_pixels] for level 0, else z of the layer
            below [k, b, d].
          context: [b, c].
        """
        loc, scale = self.conditionals[level](beside(below, context))
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def draw(
        self,
        x: tf.Tensor,
        k: int,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """Draws k reparameterised samples per image.

        Args:
          x: images [b, height, width, channels].
          k: samples per image.
          seed: [2].
          context: [b, c].

        Returns:
          zs: tuple of latents, bottom-up, each [k, b, d].
          log_qz: [k, b], nats.
        """
        below, zs, log_qz = flatten(x), (), 0.0
        for level, d in enumerate(self.n_latent):
            q = self.conditional(level, below, context)
            noise = randomness.normal(
                [k, tf.shape(x)[0], d], randomness.seed_of(seed, level)
            )
            z = q.mean() + q.stddev() * noise
            log_qz += q.log_prob(z)
            zs += (z,)
            below = z
        return zs, log_qz

    def layers(
        self,
        zs: tuple[tf.Tensor, ...],
        x: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> list[tfd.Distribution]:
        """The distribution of each latent given the one below it, bottom-up.

        Args:
          zs: tuple of latents, bottom-up, each [k, b, d]; the last is not looked at.
          x: images [b, height, width, channels].
          context: [b, c].

        Returns:
          layers: events [d]; batch [b] of the first, [k, b] of the others.
        """
        belows = (flatten(x), *zs[:-1])
        return [
            self.conditional(level, below, context)
            for level, below in enumerate(belows)
        ]

    def log_prob(
        self,
        zs: tuple[tf.Tensor, ...],
        x: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The log density of given latents: log q(z|x), summed over layers.

        Args:
          zs: tuple of latents, bottom-up, each [k, b, d].
          x: images [b, height, width, channels].
          context: [b, c].

        Returns:
          log_qz: [k, b], nats.
        """
        layers = self.layers(zs, x, context)
        return sum(q.log_prob(z) for q, z in zip(layers, zs, strict=True))


def beside(features: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
    """Features [..., b, d] with the context [b, c] appended: [..., b, d + c]."""
    if context is None:
        return features
    shape = tf.concat([tf.shape(features)[:-1], tf.shape(context)[-1:]], axis=0)
    return tf.concat([features, tf.broadcast_to(context, shape)], axis=-1)


def flatten(x: tf.Tensor) -> tf.Tensor:
    """Images [b, height, width, channels] as rows [b, n_pixels]."""
    return tf.reshape(x, [tf.shape(x)[0], x.shape[1] * x.shape[2] * x.shape[3]])
