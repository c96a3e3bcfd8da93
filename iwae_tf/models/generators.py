"""Generators p(x, z), or p(x, z|y) of a conditional model.

A generator has:
  `image_shape`: height, width and channels of an image;
  `log_px(x, zs, context)`: log p(x|z);
  `factors(zs, context)`: the distribution of every latent given the one above it;
  `log_joint(x, zs, context) -> (log_px, log_pz)`: the two parts of log p(x, z);
  `prior(context)`: the distribution of the top latent;
  `sample_latents(n, seed, context) -> zs`: draws from p(z);
  `mean_image(zs, context)`: E[x|z].
The context is y, [b, c], or None.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.models import likelihoods, warps
from iwae_tf.models.networks import MLP, LocScale
from iwae_tf.models.posteriors import beside, flatten

tfd = tfp.distributions


class BernoulliChain(keras.layers.Layer):
    """A chain of Gaussian layers over Bernoulli pixels: p(zL) ... p(z1|z2) p(x|z1).

    If there is a context, every layer sees it beside the layer above. The top layer
    sees it only if it has a network.

    Attributes:
      pixel_range: the least and the greatest value of a pixel.

    Reference:
      Burda et al. 2016, section 2 and appendix, arXiv:1509.00519; Sohn et al. 2015,
      Learning structured output representation using deep conditional generative
      models, NeurIPS.
    """

    pixel_range = (0, 1)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[Sequence[int]],
        n_latent: Sequence[int],
        output_bias: str | keras.initializers.Initializer = "zeros",
        prior_widths: Sequence[int] | None = None,
        activation: str = "tanh",
        pixels: keras.layers.Layer | None = None,
        head: keras.layers.Layer | None = None,
    ):
        """Makes the pixel network and one network per conditional layer.

        Args:
          image_shape: height, width, channels.
          widths: numbers of hidden units of each network, bottom-up: `widths[0]` is
            for the pixel network.
          n_latent: latent size of each layer, bottom-up.
          output_bias: initial bias of the pixel logits.
          prior_widths: numbers of hidden units of the network from the context to
            p(zL|y). If it is None, the top layer is standard normal.
          activation: nonlinearity after every hidden layer.
          pixels: network from z1 to features, in place of the one that `widths[0]`
            describes.
          head: layer from those features to logits [..., n_pixels]; by default it is
            linear.
        """
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.n_latent = tuple(n_latent)
        self.pixels = pixels or MLP(widths[0], activation)
        self.pixel_logits = head or keras.layers.Dense(
            math.prod(image_shape), bias_initializer=output_bias
        )
        self.conditionals = [
            LocScale(MLP(w, activation), d)
            for w, d in zip(widths[1:], n_latent[:-1], strict=True)
        ]
        self.top = (
            None
            if prior_widths is None
            else LocScale(MLP(prior_widths, activation), n_latent[-1])
        )

    def prior(self, context: tf.Tensor | None = None) -> tfd.Distribution:
        """p(z) of the top layer, event [d]: standard normal, or a Gaussian given y."""
        if self.top is None:
            return tfd.Independent(tfd.Normal(tf.zeros(self.n_latent[-1]), 1.0), 1)
        loc, scale = self.top(context)
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def conditional(
        self, level: int, above: tf.Tensor, context: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """p(z of this level | z of the level above), event [d]."""
        loc, scale = self.conditionals[level](beside(above, context))
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def factors(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> list[tfd.Distribution]:
        """The distribution of each latent given the one above it, bottom-up.

        Args:
          zs: tuple of latents, bottom-up, each [..., b, d]; the first is not used.
          context: [b, c].

        Returns:
          factors: distributions of event [d]; the last is `prior`, which has its own
            batch shape.
        """
        between = [
            self.conditional(level, above, context)
            for level, above in enumerate(zs[1:])
        ]
        return [*between, self.prior(context)]

    def logits(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Pixel logits [..., n_pixels] given latents [..., d]."""
        return self.pixel_logits(self.pixels(beside(zs[0], context)))

    def log_px(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The log-likelihood of images given latents: log p(x|z).

        Args:
          x: binary images [b, height, width, channels].
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c].

        Returns:
          log_px: [k, b], nats, summed over pixels.
        """
        return likelihoods.bernoulli_log_prob(flatten(x), self.logits(zs, context))

    def log_joint(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The two parts of log p(x, z): log p(x|z) and log p(z).

        Args:
          x: binary images [b, height, width, channels].
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c].

        Returns:
          log_px: [k, b], nats, summed over pixels.
          log_pz: [k, b], nats, summed over latents and layers.
        """
        factors = self.factors(zs, context)
        log_pz = sum(p.log_prob(z) for p, z in zip(factors, zs, strict=True))
        return self.log_px(x, zs, context), log_pz

    def sample_latents(
        self, n: int, seed: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Draws latents from the prior p(z).

        Args:
          n: number of draws.
          seed: random seed, [2].
          context: [n, c].

        Returns:
          zs: tuple of latents, bottom-up, each [n, d].
        """
        zs = ()
        context = None if context is None else tf.cast(context, tf.float32)
        for level in reversed(range(len(self.n_latent))):
            p = self.conditional(level, zs[0], context) if zs else self.prior(context)
            noise = randomness.normal(
                [n, self.n_latent[level]], randomness.seed_of(seed, level)
            )
            zs = (p.mean() + p.stddev() * noise, *zs)
        return zs

    def mean_image(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The mean image given latents: E[x|z].

        Args:
          zs: tuple of latents, bottom-up, each [..., b, d].
          context: [b, c].

        Returns:
          mean: pixel probabilities [..., b, height, width, channels].
        """
        return _with_shape(tf.sigmoid(self.logits(zs, context)), self.image_shape)


class WarpedBernoulli(BernoulliChain):
    """An upright Bernoulli image given z, which a spatial transformer places by u.

    The latent [z, u] is standard normal. Its last part, u, gives the parameters of the
    warp, theta = W u + b. The warp is the identity if W u is 0, and W starts at 0. The
    probability that a pixel is on is a weighted average over four upright pixels.

    Reference:
      Jaderberg et al. 2015, arXiv:1506.02025.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[int],
        n_latent: int,
        n_placing: int,
        warp: str,
        activation: str = "tanh",
    ):
        """Makes the pixel network and W.

        Args:
          image_shape: height, width, channels.
          widths: numbers of hidden units of the pixel network.
          n_latent: size of z and u together.
          n_placing: size of u.
          warp: `affine` or `spline`, see `iwae_tf.models.warps`.
          activation: nonlinearity after every hidden layer.
        """
        super().__init__(image_shape, [widths], [n_latent], activation=activation)
        self.n_placing = n_placing
        self._grid, self._shape, identity = {
            "affine": (warps.affine_grid, (2, 3), np.eye(2, 3)),
            "spline": (warps.thin_plate_grid, (9, 2), warps.control_points()),
        }[warp]
        self.placing = keras.layers.Dense(
            identity.size,
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(identity.ravel()),
        )

    def logits(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Logits of the upright pixels [..., n_pixels] given latents [..., d]."""
        return super().logits((zs[0][..., : -self.n_placing],), context)

    def grid(self, zs: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Where pixels are read, [..., height, width, 2], given latents [..., d]."""
        theta = self.placing(zs[0][..., -self.n_placing :])
        return self._grid(_with_shape(theta, self._shape), *self.image_shape[:2])

    def log_px(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """See `BernoulliChain.log_px`; NaN for images that are not binary.

        For a pixel that is on, four probabilities of being on are averaged; for one
        that is off, four of being off. So each pixel needs only one logarithm.
        """
        places, weights = warps.corners(self.grid(zs), *self.image_shape[:2])
        upright = _with_shape(self.logits(zs, context), self.image_shape)
        sign = 2 * x - 1
        log_px = likelihoods.log_average_sigmoid(
            tuple(w[..., tf.newaxis] for w in weights),
            tuple(sign * warps.at(upright, place) for place in places),
        )
        is_binary = tf.reduce_all(tf.abs(sign) == 1)
        log_px += tf.where(is_binary, 0.0, math.nan)
        return tf.reduce_sum(log_px, axis=[-3, -2, -1])

    def mean_image(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """See `BernoulliChain.mean_image`: the upright image, warped."""
        return warps.bilinear_sample(self.upright_image(zs, context), self.grid(zs))

    def upright_image(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """E[x|z] before the warp, [..., b, height, width, channels]."""
        return super().mean_image(zs, context)


def _with_shape(flat, shape):
    """Reshapes the last axis of [..., n] to a shape of n entries."""
    return tf.reshape(flat, tf.concat([tf.shape(flat)[:-1], shape], axis=0))
