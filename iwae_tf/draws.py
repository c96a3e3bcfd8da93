"""The result of one pass of k samples: latents and the parts of their log-weights."""

from typing import NamedTuple

import tensorflow as tf


class Draws(NamedTuple):
    """k latents for each of b images, with the parts of their log-weights.

    Attributes:
      zs: latents, bottom-up: `zs[0]` is nearest to the pixels. Each [k, b, d].
      log_px: log p(x|z), [k, b], nats.
      log_pz: log p(z), summed over layers, [k, b], nats.
      log_qz: log q(z|x), summed over layers, [k, b], nats.
      kl: closed-form KL(q(z|x) || p(z)), [b], nats; None unless it was asked for.
    """

    zs: tuple[tf.Tensor, ...]
    log_px: tf.Tensor
    log_pz: tf.Tensor
    log_qz: tf.Tensor
    kl: tf.Tensor | None = None

    def log_w(self, beta: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Log importance weights: log p(x|z) + beta (log p(z) - log q(z|x)).

        Args:
          beta: weight of the latent part; 1 gives the weights of the true model.

        Returns:
          log_w: [k, b], nats.
        """
        return self.log_px + beta * (self.log_pz - self.log_qz)
