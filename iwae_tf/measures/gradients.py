"""Statistics of the gradients of an objective, accumulated over draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import randomness
from iwae_tf.errors import check_at_least
from iwae_tf.estimators import check_estimator, value_and_gradients
from iwae_tf.models import batches
from iwae_tf.objectives import Objective, row


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
      x: observations [b, *event_shape].
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
      UsageError: for an unknown objective, one that the model cannot have, or a
        number out of range; see `batches.checked` too.

    Reference:
      Rainforth et al. 2018, arXiv:1802.04537; Tucker et al. 2018, arXiv:1810.04152.
    """
    own = _row_of(objective)  # refuses an unknown name
    check_at_least(1, n_samples=n_samples)
    check_at_least(2, n_draws=n_draws)
    x, context = batches.checked(model, x, context)
    check_estimator(own, model.posterior, model.generator, n_samples)
    networks = {
        "posterior": model.posterior.trainable_variables,
        "generator": model.generator.trainable_variables,
    }
    variables = [v for network in networks.values() for v in network]
    options = {
        "objective": objective,
        "k": n_samples,
        "trainable": tuple(map(id, variables)),
    }
    if isinstance(objective, str):
        draw = batches.compiled(model, _gradient, jit_compile, **options)
    else:  # A row of one's own may refer to the model, which could then not be freed.
        draw = partial(_gradient, model, **options)
        draw = tf.function(draw, jit_compile=jit_compile)
    images, contexts = batches.at(slice(None), x, context)
    seed = randomness.seed_of(seed, randomness.GRADIENT)
    mean, square = 0.0, 0.0
    for i in range(n_draws):
        # Welford's update: the variance of 10^6 draws is as exact as that of ten.
        gradient = draw(images, contexts, seed, tf.constant(i))
        gradient = gradient.numpy().astype(np.float64)
        before = gradient - mean
        mean = mean + before / (i + 1)
        square = square + before * (gradient - mean)
        on_progress(i + 1)
    places = _places(networks if groups is None else groups, variables)
    return {
        name: GradientMoments(mean[at], square[at] / (n_draws - 1), n_draws)
        for name, at in places.items()
    }


def _row_of(objective):
    return row(objective) if isinstance(objective, str) else objective


def _gradient(model, images, contexts, seed, number, *, objective, k, trainable):
    """One draw of the gradient of all trainable variables, flattened.

    Which variables are trainable is read from the model when this is traced.
    `trainable` is there so that it is traced again when others are.
    """
    objective, seed = _row_of(objective), randomness.seed_of(seed, number)
    gradients = value_and_gradients(objective, model, images, k, seed, 1.0, contexts)[1]
    return tf.concat([tf.reshape(part, [-1]) for part in gradients], axis=0)


def _places(groups, variables):
    """Where the entries of every group are among those of all variables."""
    ends = np.cumsum([0, *(math.prod(v.shape) for v in variables)])
    places = {
        id(v): np.arange(first, last)
        for v, first, last in zip(variables, ends, ends[1:], strict=False)
    }
    return {
        name: np.concatenate([places[id(v)] for v in group])
        for name, group in groups.items()
    }
