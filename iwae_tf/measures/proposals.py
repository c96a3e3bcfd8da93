"""Densities r(z|x) to draw latents from in place of q(z|x), to estimate log p(x).

An estimate by importance sampling is unbiased for p(x) by any r that is positive where
p(z|x) is. How much it varies depends on how close r is to p(z|x). `Refined` comes
closest; it spends gradients of log p(x, z) on each observation.

`Inflated` and `Refined` work in the coordinates of the noise e that q(z|x) is made of:
z = T(e), layer by layer and through flows, where e ~ N(0, I) gives q(z|x) itself. A
density r(e) has the log-weights log p(x, z) - log q(z|x) + log N(e; 0, I) - log r(e).
"""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from iwae_tf import randomness, rules, weights
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError, check_at_least, check_one_of
from iwae_tf.models import batches
from iwae_tf.models.generators import noise_of_missing
from iwae_tf.models.posteriors import GaussianChain

# What is folded into a seed, beside the layers and what a generator folds in.
_PRIOR, _COMPONENT, _FIT = -11, -12, -13


@dataclasses.dataclass(frozen=True)
class Proposal:
    """q(z|x) itself; the other proposals extend it."""

    name: ClassVar[str] = "posterior"

    def check(self, model) -> None:
        """Checks that the proposal can be used for a model.

        Raises:
          UsageError: if not.
        """

    def fit(
        self, model, batch: batches.Batch, seed: tf.Tensor, jit_compile: bool
    ) -> tuple[tf.Tensor, ...]:
        """What `draw` needs to know of the observations of a batch.

        Args:
          model: the model.
          batch: the observations.
          seed: random seed, [2]. No draw that is weighed uses its noise.
          jit_compile: whether XLA compiles the computation.

        Returns:
          fitted: tensors [b, ...].
        """
        return ()

    def draw(
        self,
        model,
        x: tf.Tensor,
        k: int,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
        fitted: tuple[tf.Tensor, ...] = (),
    ) -> Draws:
        """Draws k latents per observation and computes their log-weights.

        Args:
          model: the model.
          x: observations [b, *event_shape].
          k: number of samples per observation.
          seed: random seed, [2].
          context: [b, c], for a conditional model.
          fitted: what `fit` returns.

        Returns:
          draws: k samples for each of b observations, with log r(z|x) as `log_qz`.
        """
        return model.draw(x, k, seed, context)


@dataclasses.dataclass(frozen=True)
class Defensive(Proposal):
    """A mixture with the prior: r(z|x) = alpha q(z|x) + (1 - alpha) p(z).

    Weights are at most p(x|z) / (1 - alpha), so that they have all moments if p(x|z) is
    bounded. That helps where q(z|x) misses a part of p(z|x) which the prior finds.

    Attributes:
      alpha: share of the draws that are from q(z|x).

    References:
      Hesterberg 1995, Weighted average importance sampling and defensive mixture
      distributions, Technometrics 37. Owen, Zhou 2000, Safe and effective importance
      sampling, Journal of the American Statistical Association 95.
    """

    name: ClassVar[str] = "defensive"
    alpha: float = 0.9

    def __post_init__(self):
        """Checks the share.

        Raises:
          UsageError: if it is out of range.
        """
        if not 0 < self.alpha <= 1:
            raise UsageError(f"alpha: must be above 0 and at most 1, got {self.alpha}")

    def check(self, model) -> None:
        """See `Proposal.check`; q(z|x) must have a density of given latents."""
        if not model.posterior.has_factors:
            raise UsageError(
                "proposal: defensive goes with a posterior that has the density of "
                f"given latents only, got {_described(model.posterior)}"
            )

    def draw(self, model, x, k, seed, context=None, fitted=()):
        """See `Proposal.draw`."""
        x, context = model.inputs(x, context)
        zs, _ = model.posterior.draw(x, k, seed, context)
        b = x.shape[0]
        each = None if context is None else tf.tile(context, [k, 1])
        prior = randomness.seed_of(seed, _PRIOR)
        others = model.generator.sample_latents(k * b, prior, each)
        is_of_q = _is_of_first(self.alpha, k, b, seed)
        zs = tuple(
            tf.where(is_of_q, z, tf.cast(tf.reshape(other, tf.shape(z)), z.dtype))
            for z, other in zip(zs, others, strict=True)
        )
        draws = _weighed(model, x, zs, context, seed)
        log_qz = model.posterior.log_prob(zs, x, context)
        mixed = weights.log_mixture(log_qz, draws.log_pz, self.alpha)
        return draws._replace(log_qz=mixed)


@dataclasses.dataclass(frozen=True)
class Inflated(Proposal):
    """q(z|x) with its standard deviations multiplied by a factor, in every layer.

    With flows, these are the standard deviations of q(z0|x) before the flow. A factor
    above 1 helps where q(z|x) is narrower than p(z|x), and costs effective samples
    where it is not; in d dimensions it must be close to 1.

    Attributes:
      scale: the factor.
    """

    name: ClassVar[str] = "inflated"
    scale: float = 1.05

    def __post_init__(self):
        """Checks the factor.

        Raises:
          UsageError: if it is not positive and finite.
        """
        if not 0 < self.scale < float("inf"):
            raise UsageError(f"scale: must be positive and finite, got {self.scale}")

    def check(self, model) -> None:
        """See `Proposal.check`; q(z|x) must be Gaussian before any flows."""
        _check_gaussian(self, model)

    def draw(self, model, x, k, seed, context=None, fitted=()):
        """See `Proposal.draw`."""
        x, context = model.inputs(x, context)
        noise = _noise(model, k, x, seed)
        zs, log_qz = _through(model.posterior, x, self.scale * noise, context)
        # log r(e) - log N(e; 0, I)
        half = (self.scale**2 - 1) / 2
        excess = tf.reduce_sum(half * tf.square(noise) - np.log(self.scale), axis=-1)
        return _weighed(model, x, zs, context, seed, log_qz + excess)


@dataclasses.dataclass(frozen=True)
class Refined(Proposal):
    """A Gaussian that is fitted to p(z|x) for each observation, mixed with q(z|x).

    It is a Gaussian over all latents together, with a full covariance, in the
    coordinates of the noise of q(z|x). It starts as q(z|x). Each round draws from it
    and regresses the scores, which are gradients of log p(x, z) with respect to the
    noise, on the draws. For a Gaussian p(z|x) the scores are exactly linear, with minus
    the precision as the slope; else the slope is an estimate of the mean curvature. The
    Gaussian moves a part of the way there, so that it tends to the one with the largest
    ELBO. A ridge and limits on a round keep it near where few draws say little.

    The draws that are weighed are independent of those of the fit, so that the estimate
    of p(x) is unbiased. The fit takes as much work as `n_passes` samples.

    Attributes:
      n_rounds: number of rounds.
      n_draws: number of draws of each observation in a round.

    References:
      Kim et al. 2018, Semi-amortized variational autoencoders, arXiv:1802.02550, for
      the refinement of q(z|x) for one observation; Cremer et al. 2018, Inference
      suboptimality in variational autoencoders, arXiv:1801.03558, for what it gains;
      Opper, Archambeau 2009, The variational Gaussian approximation revisited, Neural
      Computation 21, for the moments of the best Gaussian; Hesterberg 1995,
      Technometrics 37, for the mixture.
    """

    name: ClassVar[str] = "refined"
    n_rounds: int = 8
    n_draws: int = 128

    def __post_init__(self):
        """Checks the numbers.

        Raises:
          UsageError: if a number is out of range.
        """
        check_at_least(1, n_rounds=self.n_rounds)
        check_at_least(2, n_draws=self.n_draws)

    @property
    def n_passes(self) -> int:
        """Work of a fit, as a number of samples: a gradient takes that of two."""
        return 2 * self.n_rounds * self.n_draws

    def check(self, model) -> None:
        """See `Proposal.check`; q(z|x) must be Gaussian before any flows."""
        _check_gaussian(self, model)
        d = sum(model.posterior.n_latent)
        rules.check_elements(rules.SCORE_BATCH * d, n_latent=d)

    def fit(self, model, batch, seed, jit_compile):
        """See `Proposal.fit`.

        Returns:
          mean: mean of the noise, [b, d] for all latents together.
          factor: a matrix whose product with its transpose is the covariance,
            [b, d, d].
          inverse: its inverse, [b, d, d].
          log_det: log of the absolute value of its determinant, [b].
        """
        score = batches.compiled(model, _scores, jit_compile, k=self.n_draws)
        n, d = len(batch.x), sum(model.posterior.n_latent)
        mean = tf.zeros([n, d], tf.float64)
        factor = tf.eye(d, batch_shape=[n], dtype=tf.float64)
        for i in range(self.n_rounds):
            now = (tf.cast(part, batch.x.dtype) for part in (mean, factor))
            own = randomness.seed_of(seed, _FIT, i)
            mean, factor = _moved(
                mean, factor, *score(batch.x, batch.context, *now, own)
            )
        factor *= _STRETCH
        log_det = tf.linalg.slogdet(factor).log_abs_determinant
        fitted = mean, factor, tf.linalg.inv(factor), log_det
        return tuple(tf.cast(part, batch.x.dtype) for part in fitted)

    def draw(self, model, x, k, seed, context=None, fitted=()):
        """See `Proposal.draw`."""
        x, context = model.inputs(x, context)
        mean, factor, inverse, log_det = fitted
        noise = _noise(model, k, x, seed)
        is_of_fit = _is_of_first(_SHARE, k, x.shape[0], seed)
        e = tf.where(is_of_fit, mean + _product(factor, noise), noise)
        zs, log_qz = _through(model.posterior, x, e, context)
        of_q = _log_normal(e)
        of_fit = _log_normal(_product(inverse, e - mean)) - log_det
        excess = weights.log_mixture(of_fit, of_q, _SHARE) - of_q
        return _weighed(model, x, zs, context, seed, log_qz + excess)


_STRETCH = 1.05  # of the fitted Gaussian, whose tails are shorter than those of p(z|x)
_SHARE = 0.9  # of the fitted Gaussian in the mixture with q(z|x)
_RATE = 0.5  # part of the way that a round goes
_RIDGE = 0.1  # draws that a slope of 0 counts as, as a share of the draws
# The least and largest factor by which a round multiplies the precision of a direction.
_LEAST, _LARGEST = 0.7, 4.0


def by_name(name: str) -> Proposal:
    """The proposal of a name, with its default options.

    Raises:
      UsageError: for an unknown name.
    """
    check_one_of(rules.PROPOSALS, proposal=name)
    kinds = (Proposal, Defensive, Inflated, Refined)
    return {kind.name: kind for kind in kinds}[name]()


def _check_gaussian(proposal, model):
    posterior = model.posterior
    is_gaussian = isinstance(posterior, GaussianChain)
    if not (is_gaussian and getattr(posterior, "is_reparameterised", True)):
        raise UsageError(
            f"proposal: {proposal.name} goes with Gaussian layers of q(z|x) only, got "
            f"{_described(posterior)}"
        )


def _described(posterior):
    name, n_flows = type(posterior).__name__, posterior.n_flows
    return f"{name} with {n_flows} flows" if n_flows else name


def _weighed(model, x, zs, context, seed, log_qz=None):
    own = noise_of_missing(model.generator, seed)
    log_px, log_pz = model.generator.log_joint(x, zs, context, **own)
    return Draws(zs, log_px, log_pz, log_qz)


def _is_of_first(share, k, b, seed):
    """Which draws are from the first part of a mixture, [k, b, 1]."""
    # The same with XLA and without it, which random floats are not.
    values = randomness.integers([k, b, 1], randomness.seed_of(seed, _COMPONENT))
    return values <= min(round((2 * share - 1) * 2**63), 2**63 - 1)


def _noise(model, k, x, seed):
    """The noise that `GaussianChain.draw` uses, [k, b, all latents]."""
    parts = (
        randomness.normal([k, x.shape[0], d], randomness.seed_of(seed, level))
        for level, d in enumerate(model.posterior.n_latent)
    )
    return tf.cast(tf.concat([*parts], axis=-1), x.dtype)


def _through(posterior, x, e, context):
    """The latents of given noise [k, b, all latents], and log q(z|x), [k, b]."""
    below, zs, log_qz = posterior.entries(x), (), 0.0
    for level, own in enumerate(tf.split(e, posterior.n_latent, axis=-1)):
        q = posterior.conditional(level, below, context)
        below = q.mean() + q.stddev() * own
        log_qz += q.log_prob(below)
        zs += (below,)
    if posterior.n_flows:
        features = posterior.features_of(x, context)
        z, log_det = posterior.flow.forward_and_log_det(*zs, features)
        zs, log_qz = (z,), log_qz - log_det
    return zs, log_qz


def _log_normal(e):
    """The log density of N(0, I) without its constant, [k, b]."""
    return -0.5 * tf.reduce_sum(tf.square(e), axis=-1)


def _product(matrix, vectors):
    """Products of matrices [b, d, d] with vectors [k, b, d]."""
    return tf.einsum("bij,kbj->kbi", matrix, vectors)


def _scores(model, x, context, mean, factor, seed, *, k):
    """Draws u from N(0, I), and what the scores at mean + factor u have beside -u.

    Returns:
      u: [k, b, d].
      residuals: gradients with respect to u of the log density of the target minus
        that of the Gaussian, [k, b, d].
    """
    x, context = model.inputs(x, context)
    u = _noise(model, k, x, seed)
    with tf.GradientTape() as tape:
        tape.watch(u)
        e = mean + _product(factor, u)
        zs, log_qz = _through(model.posterior, x, e, context)
        draws = _weighed(model, x, zs, context, seed, log_qz)
        target = draws.log_w() + _log_normal(e)
    return u, tape.gradient(target, u) + u


def _moved(mean, factor, u, residuals):
    """The Gaussian after a round; it stays where a residual is not finite.

    Args:
      mean: [b, d], float64, as all that is computed here.
      factor: [b, d, d].
      u: draws from N(0, I), [k, b, d].
      residuals: see `_scores`, [k, b, d].
    """
    k, d = u.shape[0], u.shape[2]
    one = tf.eye(d, dtype=tf.float64)
    parts = (tf.cast(part, tf.float64) for part in (u, residuals))
    u, residuals = (tf.transpose(part, [1, 0, 2]) for part in parts)
    is_finite = tf.reduce_all(tf.math.is_finite(residuals), [1, 2], keepdims=True)
    residuals = tf.where(is_finite, residuals, 0.0)
    centre, level = (tf.reduce_mean(a, 1, keepdims=True) for a in (u, residuals))
    second = tf.matmul(u - centre, u - centre, transpose_a=True) / k + _RIDGE * one
    cross = tf.matmul(u - centre, residuals - level, transpose_a=True) / k
    slope = tf.linalg.solve(second, cross)
    slope = (slope + tf.linalg.matrix_transpose(slope)) / 2
    # In the coordinates of u the Gaussian was N(0, I).
    precision, axes = tf.linalg.eigh(one - _RATE * slope)
    precision = tf.clip_by_value(precision, _LEAST, _LARGEST)[:, tf.newaxis]
    at_zero = level - centre @ slope
    step = tf.matmul(_RATE * (at_zero @ axes) / precision, axes, transpose_b=True)
    step = tf.clip_by_norm(step, _RATE * d**0.5, axes=[2])
    mean += tf.matmul(step, factor, transpose_b=True)[:, 0]
    return mean, factor @ (axes * tf.math.rsqrt(precision))
