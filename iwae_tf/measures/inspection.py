"""Inspection of true posteriors: by importance weights, on a grid, and along units.

The functions take `Draws`, or a model with `log_joint(x, zs, context)`. They do not
depend on the networks.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import weights
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.measures.imputation import Imputed as Imputed
from iwae_tf.measures.imputation import impute as impute
from iwae_tf.measures.imputation import impute_samples as impute_samples
from iwae_tf.measures.imputation import resampled, taken
from iwae_tf.models import batches

Limits = tuple[tuple[float, float], tuple[float, float]]


def snis_mean(draws: Draws) -> tuple[tf.Tensor, ...]:
    """The posterior mean by self-normalised importance sampling: sum_i w~_i z_i.

    `iwae_tf.IWAE.embed` computes it for many observations.

    Args:
      draws: k samples for each of b images.

    Returns:
      means: posterior mean of every latent, bottom-up, [b, d].

    Reference:
      Owen 2013, Monte Carlo theory, methods and examples, section 9.2.
    """
    return tuple(weights.snis_mean(draws.log_w(), z) for z in draws.zs)


def snis_covariance(draws: Draws) -> tuple[tf.Tensor, ...]:
    """The posterior covariance by self-normalised importance sampling.

    Args:
      draws: k samples for each of b images.

    Returns:
      covariances: covariance of every latent around `snis_mean`, bottom-up, [b, d, d].
    """
    w_norm = weights.normalise(draws.log_w())
    return tuple(
        tf.einsum("kb,kbi,kbj->bij", w_norm, z - mean, z - mean)
        for z, mean in zip(draws.zs, snis_mean(draws), strict=True)
    )


def snis_standard_error(draws: Draws) -> tuple[tf.Tensor, ...]:
    """The standard error of `snis_mean`: root of sum_i w~_i^2 (z_i - mean)^2.

    Args:
      draws: k samples for each of b images.

    Returns:
      errors: standard error for every latent, bottom-up, [b, d].

    Reference:
      Owen 2013, Monte Carlo theory, methods and examples, section 9.2.
    """
    return tuple(weights.snis_standard_error(draws.log_w(), z) for z in draws.zs)


def sir(draws: Draws, n: int, seed: int | tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Posterior samples by sampling importance resampling, with replacement.

    All latents of a sample come from the same draw. The samples are resampled draws
    from q(z|x); they are close to p(z|x) if the effective sample size is large.

    Args:
      draws: k samples for each of b images.
      n: number of samples per image.
      seed: random seed, an integer or [2].

    Returns:
      zs: samples of every latent, bottom-up, [n, b, d].

    Reference:
      Rubin 1988, Using the SIR algorithm to simulate posterior distributions,
      Bayesian Statistics 3.
    """
    chosen = resampled(draws.log_w(), n, seed)
    return tuple(taken(z, chosen) for z in draws.zs)


class Grid(NamedTuple):
    """A posterior over two latents, in n x n cells.

    Attributes:
      z1: centres of the columns, [n].
      z2: centres of the rows, [n].
      log_density: log p(z|x), normalised over the grid, [n, n], nats. The first axis
        is z2.
      log_px: log p(x), nats, as far as the grid covers the mass.
    """

    z1: np.ndarray
    z2: np.ndarray
    log_density: np.ndarray
    log_px: float

    @property
    def cells(self) -> tuple[tf.Tensor]:
        """The centres of the cells as latents of one image, ([n * n, 1, 2],)."""
        return _cells(self.z1, self.z2)

    @property
    def probability(self) -> np.ndarray:
        """Probability of each cell, [n, n]; it sums to one."""
        p = np.exp(self.log_density - self.log_density.max())
        return p / p.sum()

    def mean(self) -> np.ndarray:
        """The posterior mean, [2]."""
        p = self.probability
        return np.array([p.sum(axis=0) @ self.z1, p.sum(axis=1) @ self.z2])

    def covariance(self) -> np.ndarray:
        """The posterior covariance, [2, 2]."""
        p, (mean1, mean2) = self.probability, self.mean()
        d1, d2 = self.z1 - mean1, self.z2 - mean2
        across = d2 @ p @ d1
        return np.array(
            [[p.sum(axis=0) @ d1**2, across], [across, p.sum(axis=1) @ d2**2]]
        )


def _cells(z1, z2):
    cells = np.stack(np.meshgrid(z1, z2), axis=-1)
    return (tf.constant(cells.reshape(-1, 1, 2), tf.float32),)


def posterior_on_grid(
    model, x: np.ndarray, limits: Limits, n: int = 201, context=None
) -> Grid:
    """The true posterior p(z|x) of one image, for z with two dimensions.

    Args:
      model: has `log_joint(x, zs, context) -> log p(x, z)`, [k, b], nats.
      x: one observation, of `event_shape`.
      limits: lowest and highest value of z1, and of z2.
      n: number of cells along each axis.
      context: y of the image, [c], for a conditional model.

    Returns:
      grid: posterior in the cells between the limits.

    Raises:
      UsageError: if the limits are not finite or do not rise, if there are no cells,
        or if the model has other latents; see `batches.checked` too.
    """
    ends = batches.numbers("limits", limits).astype(np.float64)
    if ends.shape != (2, 2) or not np.all(
        np.isfinite(ends) & (ends[:, :1] < ends[:, 1:])
    ):
        raise UsageError(
            f"limits: must be two pairs of finite numbers that rise, got {limits}"
        )
    check_at_least(1, n=n)
    if not getattr(getattr(model, "posterior", None), "is_reparameterised", True):
        raise UsageError(
            "model: must have continuous latents for a grid, got latents without a "
            "reparameterisation"
        )
    sizes = getattr(getattr(model, "posterior", None), "n_latent", (2,))
    if tuple(sizes) != (2,):
        raise UsageError(
            f"model: must have one latent of size 2, got sizes {tuple(sizes)}"
        )
    x = batches.numbers("x", x)[np.newaxis]
    if context is not None:
        context = batches.numbers("context", context)[np.newaxis]
    x, context = batches.at(slice(None), *batches.checked(model, x, context))
    (low1, high1), (low2, high2) = ends
    step1, step2 = (high1 - low1) / n, (high2 - low2) / n
    z1 = low1 + step1 * (np.arange(n) + 0.5)
    z2 = low2 + step2 * (np.arange(n) + 0.5)
    log_joint = model.log_joint(x, _cells(z1, z2), context).numpy().astype(np.float64)
    log_area = np.log((high1 - low1) * (high2 - low2))
    log_px = float(weights.log_mean_exp(log_joint)[0]) + log_area
    return Grid(z1, z2, log_joint.reshape(n, n) - log_px, log_px)


def limits_of_mass(
    model,
    x: np.ndarray,
    context=None,
    outside: float = 1e-8,
    widest: float = 8.0,
    n: int = 101,
) -> Limits:
    """The smallest box with nearly all of p(z|x) along each axis, plus a margin.

    Args:
      model: see `posterior_on_grid`.
      x: one observation, of `event_shape`.
      context: y of the image, [c], for a conditional model.
      outside: the mass along each axis that may be outside the box. Moments need a
        small one: a mode that has 5e-5 of the mass was seen to have 7 % of a variance.
      widest: the search is from -widest to widest.
      n: number of cells along each axis. The search uses three grids, each finer than
        the one before.

    Returns:
      limits: lowest and highest value of z1, and of z2.

    Raises:
      UsageError: if there are fewer than two cells; see `posterior_on_grid` too.
    """
    check_at_least(2, n=n)
    limits = ((-widest, widest), (-widest, widest))
    for _ in range(3):
        grid = posterior_on_grid(model, x, limits, n, context)
        p = grid.probability
        limits = tuple(
            _middle(z, p.sum(axis=axis), outside)
            for axis, z in enumerate((grid.z1, grid.z2))
        )
    return limits


def _middle(z, p, outside):
    """The ends of the mass, with a margin of one tenth and at least two cells."""
    cumulative = np.cumsum(p)
    first, last = np.searchsorted(cumulative, (outside / 2, 1 - outside / 2))
    low, high = z[first], z[min(last, len(z) - 1)]
    rim = max(0.1 * (high - low), 2 * (z[1] - z[0]))
    return float(low - rim), float(high + rim)


def traverse(
    model, zs: tuple[tf.Tensor, ...], unit: int, values: np.ndarray, context=None
) -> np.ndarray:
    """Mean images while one unit of the lowest latent varies and the others stay.

    Args:
      model: has a generator with `mean`, see `iwae_tf.IWAE`.
      zs: latents to start from, bottom-up, each [b, d].
      unit: index of the unit in `zs[0]`.
      values: values that the unit takes, [v].
      context: [b, c], for a conditional model.

    Returns:
      means: E[x|z], [v, b, *event_shape].

    Raises:
      UsageError: if there is no such unit.
    """
    d = zs[0].shape[-1]
    if not 0 <= unit < d:
        raise UsageError(f"unit: must be from 0 to {d - 1}, got {unit}")
    is_unit = tf.range(d) == unit
    moved = (tf.where(is_unit, tf.cast(v, zs[0].dtype), zs[0]) for v in values)
    return np.stack(
        [model.generator.mean((z, *zs[1:]), context).numpy() for z in moved]
    )
