"""Statistics of the gradients of an objective, accumulated over draws."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import randomness
from iwae_tf.errors import check_at_least
from iwae_tf.measures import batches
from iwae_tf.objectives import Objective, row, value_and_gradients


class GradientMoments(NamedTuple):
    """Moments of the gradient of a loss over the noise, for a group of p parameters.

    Attributes:
      mean: mean over the draws, [p], nats per image and unit of the parameter.
      variance: variance of one draw, [p], an unbiased estimate.
      n_draws: number of draws.
    """

    mean: np.ndarray
    variance: np.ndarray
    n_draws: int

    @property
    def signal_to_noise(self) -> float:
        """Length of the expected gradient over the standard deviation of a draw.

        The squared length is estimated without bias, by subtracting the variance of
        the mean. If nothing is left, the ratio is 0, and more draws are needed. For one
        parameter, the ratio is |E g| / sqrt(Var g). It is NaN if the gradient does not
        vary.

        Reference:
          Rainforth et al. 2018, arXiv:1802.04537, who define it for each entry.
        """
        noise = float(np.sum(self.variance))
        signal = float(np.sum(np.square(self.mean))) - noise / self.n_draws
        return (max(signal, 0.0) / noise) ** 0.5 if noise else float("nan")


def gradient_statistics(
    model,
    x: np.ndarray,
    objective: str | Objective = "iwae_elbo",
    n_samples: int = 50,
    n_draws: int = 1000,
    groups: Mapping[str, Sequence[tf.Variable]] | None = None,
    seed: int = 123,
    jit_compile: bool = True,
    on_progress: Callable[[int], None] = lambda n_draws: None,
    context: np.ndarray | None = None,
) -> dict[str, GradientMoments]:
    """Mean, variance and signal-to-noise ratio of an estimator at fixed weights.

    A draw is the gradient of the loss of the whole batch, which is a mean over images.
    With b copies of one image, a draw is therefore the mean of b independent draws.

    Args:
      model: an `iwae_tf.IWAE`; its weights do not change.
      x: binary images [b, height, width, channels].
      objective: a name in `iwae_tf.objectives.table`, or a row, such as
        `table(n_groups=8)["miwae"]`.
      n_samples: k, the number of samples per image and group.
      n_draws: number of gradients, at least 2.
      groups: trainable variables by the name of their group. By default the groups are
        "posterior" and "generator", each with all of its variables.
      seed: random seed for the noise.
      jit_compile: whether XLA compiles the computation.
      on_progress: called with the number of draws done.
      context: [b, c], for a conditional model.

    Returns:
      moments: moments by the name of the group. The entries are those of the group's
        variables in their order, flattened.

    Raises:
      UsageError: for an unknown objective or a number out of range; see
        `batches.checked` too.

    Reference:
      Rainforth et al. 2018, arXiv:1802.04537; Tucker et al. 2018, arXiv:1810.04152.
    """
    if isinstance(objective, str):
        objective = row(objective)
    check_at_least(1, n_samples=n_samples)
    check_at_least(2, n_draws=n_draws)
    networks = {
        "posterior": model.posterior.trainable_variables,
        "generator": model.generator.trainable_variables,
    }
    groups = networks if groups is None else groups
    variables = [v for network in networks.values() for v in network]
    images, contexts = batches.at(slice(None), *batches.checked(model, x, context))

    @tf.function(jit_compile=jit_compile)
    def draw(number):
        draw_seed = randomness.seed_of(seed, randomness.GRADIENT, number)
        gradients = value_and_gradients(
            objective, model, images, n_samples, draw_seed, 1.0, contexts
        )[1]
        of = {id(v): g for v, g in zip(variables, gradients, strict=True)}
        return [
            tf.concat([tf.reshape(of[id(v)], [-1]) for v in group], axis=0)
            for group in groups.values()
        ]

    means, squares = [0.0] * len(groups), [0.0] * len(groups)
    for i in range(n_draws):
        # Welford's update: the variance of 10^6 draws is as exact as that of ten.
        for j, gradient in enumerate(draw(tf.constant(i))):
            gradient = gradient.numpy().astype(np.float64)
            before = gradient - means[j]
            means[j] = means[j] + before / (i + 1)
            squares[j] = squares[j] + before * (gradient - means[j])
        on_progress(i + 1)
    return {
        name: GradientMoments(mean, square / (n_draws - 1), n_draws)
        for name, mean, square in zip(groups, means, squares, strict=True)
    }
