"""Every bound and its gradient estimator, one row each, over `Draws`.

The gradient of a multi-sample bound is a weighted sum of the gradients of log w_i with
the weights held constant. A row names the bound, which is what is logged, and either
those weights or nothing, in which case the bound itself is differentiated.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from iwae_tf import weights
from iwae_tf.draws import Draws


class Objective(NamedTuple):
    """One row of the table.

    Attributes:
      bound: (draws, beta) -> [b], nats.
      sample_weights: log_w [k, b] -> weights [k, b] that multiply the gradients of
        log_w; None differentiates `bound`.
      needs_kl: whether `bound` reads `draws.kl`.
    """

    bound: Callable[[Draws, float | tf.Tensor], tf.Tensor]
    sample_weights: Callable[[tf.Tensor], tf.Tensor] | None = None
    needs_kl: bool = False

    def surrogate(self, draws: Draws, beta: float | tf.Tensor) -> tf.Tensor:
        """What is differentiated: its gradient, not its value, is the objective's.

        Args:
          draws: of b images, k samples each.
          beta: weight of the latent part.

        Returns:
          surrogate: [b].
        """
        if self.sample_weights is None:
            return self.bound(draws, beta)
        log_w = draws.log_w(beta)
        held = tf.stop_gradient(self.sample_weights(log_w))
        return tf.reduce_sum(held * log_w, axis=0)


def vae_elbo(draws: Draws, beta: float | tf.Tensor = 1.0) -> tf.Tensor:
    """The evidence lower bound: mean_k log w.

    Args:
      draws: of b images, k samples each.
      beta: weight of the latent part.

    Returns:
      bound: [b], nats.

    Reference:
      Kingma and Welling 2014, eq. 6, arXiv:1312.6114.
    """
    return tf.reduce_mean(draws.log_w(beta), axis=0)


def vae_elbo_kl(draws: Draws, beta: float | tf.Tensor = 1.0) -> tf.Tensor:
    """The evidence lower bound: mean_k log p(x|z) - beta KL(q(z|x) || p(z)).

    Args:
      draws: of b images, k samples each, with `kl`.
      beta: weight of the latent part.

    Returns:
      bound: [b], nats.

    Reference:
      Kingma and Welling 2014, eq. 7, arXiv:1312.6114.
    """
    return tf.reduce_mean(draws.log_px, axis=0) - beta * draws.kl


def iwae_elbo(draws: Draws, beta: float | tf.Tensor = 1.0) -> tf.Tensor:
    """The importance weighted bound: log mean_k w.

    Args:
      draws: of b images, k samples each.
      beta: weight of the latent part.

    Returns:
      bound: [b], nats.

    Reference:
      Burda et al. 2016, eq. 8, arXiv:1509.00519.
    """
    return weights.log_mean_exp(draws.log_w(beta))


OBJECTIVES: dict[str, Objective] = {
    "vae_elbo": Objective(vae_elbo),
    "vae_elbo_kl": Objective(vae_elbo_kl, needs_kl=True),
    "iwae_elbo": Objective(iwae_elbo),
    # Burda et al. 2016, eq. 14: the normalised weights are written out.
    "iwae_eq14": Objective(iwae_elbo, sample_weights=weights.normalise),
}


def value_and_gradients(
    objective: Objective,
    model,
    x: tf.Tensor,
    k: int,
    seed: tf.Tensor,
    beta: float | tf.Tensor,
) -> tuple[tf.Tensor, list[tf.Tensor], Draws]:
    """The loss, its gradient and the draws behind them.

    Args:
      objective: a row of `OBJECTIVES`.
      model: has `draw(x, k, seed, with_kl)` and `trainable_variables`.
      x: images [b, height, width, channels].
      k: samples per image.
      seed: [2].
      beta: weight of the latent part.

    Returns:
      loss: scalar, minus the bound averaged over the batch, nats.
      gradients: of the loss, one per trainable variable.
      draws: of b images, k samples each.
    """
    with tf.GradientTape() as tape:
        draws = model.draw(x, k, seed, with_kl=objective.needs_kl)
        surrogate = -tf.reduce_mean(objective.surrogate(draws, beta))
    gradients = tape.gradient(surrogate, model.trainable_variables)
    return -tf.reduce_mean(objective.bound(draws, beta)), gradients, draws
