"""Annealed importance sampling by Hamiltonian Monte Carlo, forward and in reverse.

Chains go from a start density q0, the prior or q(z|x), to p(z|x) through densities
proportional to f_t(z) = q0(z)^(1 - beta_t) p(x, z)^beta_t. They yield log-weights
[chains, b], which are used like any others. For images that were sampled from the
model, chains also run in reverse, from the latents that the images were sampled from.
Forward chains bound log p(x) from below and reverse chains bound it from above. The gap
between the bounds certifies both.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.errors import UsageError, check_at_least, check_one_of
from iwae_tf.models import batches
from iwae_tf.models.posteriors import GaussianChain
from iwae_tf.rules import AIS_SCHEDULES, AIS_STARTS
from iwae_tf.weights import effective_sample_size, log_mean_exp

_FIRST_STEP = 0.5  # first leapfrog step, in standard deviations of a latent
_WARM_UP = 20  # transitions before step sizes are recorded
_GAIN = 0.3  # change of log step size per unit of excess acceptance


def temperatures(n: int, schedule: str = "linear") -> np.ndarray:
    """The inverse temperatures 0 = beta_0 < ... < beta_n = 1.

    Args:
      n: number of steps.
      schedule: `linear`, or `sigmoidal`, which takes small steps at both ends.

    Returns:
      betas: [n + 1].

    Raises:
      UsageError: for another schedule, or fewer than one step.

    Reference:
      Wu et al. 2017, On the quantitative analysis of decoder-based generative models,
      arXiv:1611.04273.
    """
    check_one_of(AIS_SCHEDULES, schedule=schedule)
    check_at_least(1, n_temperatures=n)
    t = np.linspace(0, 1, n + 1)
    if schedule == "linear":
        return t
    values = 1 / (1 + np.exp(-4 * (2 * t - 1)))
    return (values - values[0]) / (values[-1] - values[0])


class Annealed(NamedTuple):
    """The results of c chains for each of n images.

    Attributes:
      log_w: log-weights, [c, n], nats. In forward chains, the expectation of exp(log_w)
        is p(x); in reverse chains, that of exp(-log_w) is 1 / p(x).
      acceptance: share of accepted transitions, [n]; NaN if there were no transitions.
    """

    log_w: np.ndarray
    acceptance: np.ndarray

    @property
    def lower(self) -> np.ndarray:
        """For forward chains: an estimate of log p(x), below it on average, [n]."""
        return log_mean_exp(self.log_w).numpy()

    @property
    def upper(self) -> np.ndarray:
        """For reverse chains: an estimate of log p(x), above it on average, [n]."""
        return -log_mean_exp(-self.log_w).numpy()

    @property
    def ess(self) -> np.ndarray:
        """For forward chains: the effective sample size of the weights, [n], 1 to c."""
        return effective_sample_size(self.log_w).numpy()


class Certificate(NamedTuple):
    """The results of chains in both directions on images sampled from the model.

    Attributes:
      forward: chains from q0, [c, n].
      reverse: chains from the latents that the images were sampled from, [c, n].
    """

    forward: Annealed
    reverse: Annealed

    @property
    def gap(self) -> np.ndarray:
        """Upper minus lower bound, [n], nats; on average log p(x) lies between them."""
        return self.reverse.upper - self.forward.lower


class Annealer:
    """Chains of one model, with a Hamiltonian transition at each temperature.

    Every transition starts from fresh kernel results, because old results hold the
    density and the gradient at the previous temperature. There is one step size for
    each image and temperature. Its unit is the standard deviation of a latent, which is
    between those under q0 and q(z|x). The step sizes are tuned on separate chains: if
    they were tuned on the chains that are weighed, they would depend on the past of
    those chains.

    Reference:
      Neal 2001, Annealed importance sampling, Statistics and Computing 11; Wu et al.
      2017, arXiv:1611.04273.
    """

    def __init__(
        self,
        model,
        n_chains: int = 16,
        n_temperatures: int = 500,
        n_leapfrog: int = 5,
        schedule: str = "linear",
        start: str = "posterior",
        acceptance: float = 0.65,
        jit_compile: bool = True,
    ):
        """Sets up the chains.

        Args:
          model: an `iwae_tf.IWAE`.
          n_chains: number of chains for each image.
          n_temperatures: number of steps from q0 to p(z|x). With one step, the chains
            are plain draws from q0.
          n_leapfrog: number of leapfrog steps in a transition.
          schedule: see `temperatures`.
          start: the density q0: `prior`, or `posterior` for q(z|x). If q(z|x) has
            flows, the chains move in the coordinates before the flows, where q0 is
            Gaussian and p(x, z) includes the log-det of the flows.
          acceptance: share of accepted transitions that step sizes are tuned to.
          jit_compile: whether XLA compiles a transition.

        Raises:
          UsageError: for a value that breaks a rule, or a model with a mask model.
        """
        check_one_of(AIS_STARTS, start=start)
        if getattr(model.generator, "mask_model", None) is not None:
            raise UsageError(
                "model: must be without a mask model, whose missing entries are drawn "
                "with the latents, for annealing; use iwae_tf.log_likelihood"
            )
        if not getattr(model.posterior, "is_reparameterised", True):
            raise UsageError(
                "model: must have continuous latents for annealing, which moves along "
                "gradients, got latents without a reparameterisation; use "
                "iwae_tf.log_likelihood"
            )
        check_at_least(1, n_chains=n_chains, n_leapfrog=n_leapfrog)
        if not 0 < acceptance < 1:
            raise UsageError(f"acceptance: must be between 0 and 1, got {acceptance}")
        self.model, self.start = model, start
        self.n_chains, self.n_leapfrog = n_chains, n_leapfrog
        self.acceptance = acceptance
        dtype = getattr(model, "variable_dtype", "float32")
        self.betas = temperatures(n_temperatures, schedule).astype(dtype)
        self._through_flow = start == "posterior" and model.posterior.n_flows > 0
        self._begin, self._begin_at, self._log_ratio, self._transition = (
            tf.function(function, jit_compile=jit_compile)
            for function in (
                self._begin,
                self._begin_at,
                self._log_ratio,
                self._transition,
            )
        )

    @property
    def n_transitions(self) -> tuple[int, int]:
        """Number of transitions of `step_sizes`, and of `forward` or `reverse`."""
        n = len(self.betas) - 2
        return (n + _WARM_UP if n else 0), n

    def step_sizes(
        self,
        x: tf.Tensor,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
        on_transition: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Tunes step sizes so that the wanted share of transitions is accepted.

        Args:
          x: observations [b, *event_shape].
          seed: random seed, [2].
          context: [b, c], for a conditional model.
          on_transition: called after each transition.

        Returns:
          sizes: step sizes of the transitions at beta_1, ..., [t, b], in standard
            deviations.
        """
        z = self._begin(x, context, randomness.seed_of(seed, 0))
        inner = self.betas[1:-1]
        path = np.concatenate([np.repeat(inner[:1], _WARM_UP), inner])
        sizes = [np.full(len(x), _FIRST_STEP, self.betas.dtype)]
        for t, beta in enumerate(path if len(inner) else (), 1):
            t = np.int32(t)
            z, _, share = self._transition(z, x, context, beta, sizes[-1], seed, t)
            excess = share.numpy() - self.acceptance
            sizes.append(sizes[-1] * np.exp(_GAIN * excess))
            on_transition()
        return np.stack(sizes)[_WARM_UP:-1]

    def forward(
        self,
        x: tf.Tensor,
        sizes: np.ndarray,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
        on_transition: Callable[[], None] = lambda: None,
    ) -> Annealed:
        """Runs chains from q0 to p(z|x).

        Args:
          x: observations [b, *event_shape].
          sizes: see `step_sizes`.
          seed: random seed, [2].
          context: [b, c], for a conditional model.
          on_transition: called after each transition.

        Returns:
          annealed: results for b images.
        """
        z = self._begin(x, context, randomness.seed_of(seed, 0))
        order = range(1, len(self.betas) - 1)
        return self._anneal(z, order, x, sizes, seed, context, on_transition)

    def reverse(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        sizes: np.ndarray,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
        on_transition: Callable[[], None] = lambda: None,
    ) -> Annealed:
        """Runs chains from draws of p(z|x) to q0.

        Args:
          x: observations [b, *event_shape].
          zs: tuple of latents, bottom-up, each [b, d], drawn from p(z|x).
          sizes: see `step_sizes`.
          seed: random seed, [2].
          context: [b, c], for a conditional model.
          on_transition: called after each transition.

        Returns:
          annealed: results for b images.

        Reference:
          Grosse et al. 2015, Sandwiching the marginal likelihood using bidirectional
          Monte Carlo, arXiv:1511.02543.
        """
        z = self._begin_at(tuple(zs), x, context)
        order = range(len(self.betas) - 2, 0, -1)
        return self._anneal(z, order, x, sizes, seed, context, on_transition)

    def _anneal(self, z, order, x, sizes, seed, context, on_transition):
        """Runs chains from z through the temperatures in the given order.

        The ratio f_n / f_0 is first evaluated at the temperature where the chains
        start: beta_0 for forward chains, beta_n for reverse chains.
        """
        is_forward = order.step > 0
        steps = np.diff(self.betas)
        log_ratio = self._log_ratio(z, x, context)
        log_w = steps[0 if is_forward else -1] * log_ratio
        shares = []
        for t in order:
            z, log_ratio, share = self._transition(
                z, x, context, self.betas[t], sizes[t - 1], seed, np.int32(t)
            )
            log_w += steps[t if is_forward else t - 1] * log_ratio
            shares.append(share)
            on_transition()
        share = np.mean(shares, axis=0) if shares else np.full(len(x), np.nan)
        return Annealed(log_w.numpy(), share)

    def _begin(self, x, context, seed):
        """Draws from q0, [c, b, all latents]."""
        posterior, generator = self.model.posterior, self.model.generator
        if self.start == "posterior":
            zs, _ = GaussianChain.draw(posterior, x, self.n_chains, seed, context)
            return tf.concat(zs, axis=-1)
        b = x.shape[0]
        if context is not None:
            context = tf.tile(context, [self.n_chains, 1])
        zs = generator.sample_latents(self.n_chains * b, seed, context)
        return tf.reshape(tf.concat(zs, axis=-1), [self.n_chains, b, -1])

    def _begin_at(self, zs, x, context):
        """The same latents for every chain, [c, b, all latents]."""
        z = tf.concat(zs, axis=-1)
        if self._through_flow:
            posterior = self.model.posterior
            z = posterior.flow.inverse(z, posterior.features_of(x, context))
        return tf.tile(z[tf.newaxis], [self.n_chains, 1, 1])

    def _densities(self, x, context):
        """A function from z [c, b, all latents] to log f_0 and log f_n - log f_0."""
        posterior, generator = self.model.posterior, self.model.generator
        # Computed once here, and not in `densities`, which every leapfrog step calls.
        first = posterior.conditional(0, posterior.entries(x), context)
        features = posterior.features_of(x, context) if self._through_flow else None

        def log_q(zs):
            others = (
                posterior.conditional(level, below, context)
                for level, below in enumerate(zs[:-1], 1)
            )
            layers = zip((first, *others), zs, strict=True)
            return sum(q.log_prob(z) for q, z in layers)

        def densities(z):
            zs = tuple(tf.split(z, posterior.n_latent, axis=-1))
            if self.start == "prior":
                log_px, log_pz = generator.log_joint(x, zs, context)
                return log_pz, log_px
            log_q0, log_det = log_q(zs), 0.0
            if self._through_flow:
                z, log_det = posterior.flow.forward_and_log_det(z, features)
                zs = (z,)
            log_joint = sum(generator.log_joint(x, zs, context))
            return log_q0, log_joint + log_det - log_q0

        return densities

    def _log_ratio(self, z, x, context):
        return self._densities(x, context)(z)[1]

    def _scale(self, x, context, beta):
        """Approximate standard deviations of latents under f_t, [b, all latents]."""
        posterior = self.model.posterior
        below, scales = posterior.entries(x), []
        for level in range(len(posterior.n_latent)):
            q = posterior.conditional(level, below, context)
            below = q.mean()
            scales.append(q.stddev())
        scale = tf.concat(scales, axis=-1)
        if self.start == "posterior":
            return scale
        return tf.math.rsqrt(1 - beta + beta / tf.square(scale))

    def _transition(self, z, x, context, beta, size, seed, t):
        """One transition that leaves f_t invariant.

        Returns:
          z: the new latents, [c, b, all latents].
          log_ratio: log f_n - log f_0 at z, [c, b].
          share: share of accepted chains, [b].
        """
        densities = self._densities(x, context)

        def log_density(z):
            start, ratio = densities(z)
            return start + beta * ratio

        step = size[:, tf.newaxis] * self._scale(x, context, beta)
        kernel = tfp.mcmc.HamiltonianMonteCarlo(log_density, step, self.n_leapfrog)
        z, results = kernel.one_step(
            z, kernel.bootstrap_results(z), seed=randomness.seed_of(seed, t)
        )
        share = tf.reduce_mean(tf.cast(results.is_accepted, tf.float32), axis=0)
        return z, densities(z)[1], share


def log_likelihood(
    annealer: Annealer,
    x: batches.Observations,
    batch_size: int = 50,
    seed: int = 123,
    context: np.ndarray | None = None,
    directory: Path | None = None,
    on_progress: Callable[[float], None] = lambda n_images: None,
    share: batches.Share = batches.WHOLE,
) -> Annealed:
    """Estimates log p(x) of images by annealing, batch by batch.

    Args:
      annealer: the annealer of the model.
      x: observations [n, *event_shape], or a dataset of them, see `batches_of` in
        `iwae_tf.models.batches`.
      batch_size: number of images in one batch.
      seed: random seed for the noise.
      context: y of every image, [n, c], for a conditional model.
      directory: directory where the result of each batch is kept, so that the same call
        finds it again. By default nothing is kept.
      on_progress: called with the number of images done; within a batch it is a
        fraction.
      share: which batches to anneal; the results are those of their images.

    Returns:
      annealed: results for n images.

    Raises:
      UsageError: for a number out of range; see `batches_of` too.
    """
    (forward,) = _stream(
        annealer, x, None, batch_size, seed, context, directory, on_progress, share
    )
    return forward


def certify(
    annealer: Annealer,
    n_images: int,
    batch_size: int = 50,
    seed: int = 123,
    context: np.ndarray | None = None,
    directory: Path | None = None,
    on_progress: Callable[[float], None] = lambda n_images: None,
    share: batches.Share = batches.WHOLE,
) -> Certificate:
    """Bounds log p(x) from both sides for images drawn from the model.

    Args:
      annealer: the annealer of the model.
      n_images: n, the number of images.
      batch_size: number of images in one batch.
      seed: random seed for the images and the noise.
      context: [n, c], for a conditional model.
      directory: see `log_likelihood`.
      on_progress: see `log_likelihood`.
      share: see `log_likelihood`.

    Returns:
      certificate: results for n images.

    Raises:
      UsageError: for a number out of range.

    Reference:
      Grosse et al. 2015, arXiv:1511.02543.
    """
    check_at_least(1, n_images=n_images)
    model, seed = annealer.model, randomness.seed_of(seed, randomness.ANNEAL)
    x = model.sample(n_images, seed, context)[0].numpy()
    # The latents that the images were sampled from: the same seed gives the same noise.
    zs = model.generator.sample_latents(n_images, seed, context)
    zs = [z.numpy() for z in zs]
    return Certificate(
        *_stream(
            annealer, x, zs, batch_size, seed, context, directory, on_progress, share
        )
    )


def _stream(annealer, x, zs, batch_size, seed, context, directory, on_progress, share):
    """Runs forward chains for every image and, if there are zs, reverse chains too."""

    def anneal(batch):
        directions = _anneal_batch(
            annealer,
            batch.x,
            zs and [z[batch.places] for z in zs],
            randomness.seed_of(seed, randomness.ANNEAL, batch.first),
            batch.context,
            lambda share: on_progress(batch.first + share * batch.n_own),
        )
        parts = (np.stack(part) for part in zip(*directions, strict=True))
        return dict(zip(Annealed._fields, parts, strict=True))

    parts = batches.batches_of(annealer.model, x, context, batch_size)
    identity = directory and batches.identity_of(
        annealer.model,
        annealer.betas,
        *(zs or ()),
        n_chains=annealer.n_chains,
        n_leapfrog=annealer.n_leapfrog,
        start=annealer.start,
        acceptance=annealer.acceptance,
        seed=seed,
    )
    values = batches.run(parts, anneal, directory, identity, share)
    return [Annealed(*parts) for parts in zip(*values.values(), strict=True)]


def _anneal_batch(annealer, x, zs, seed, context, on_progress):
    n_tuning, n = annealer.n_transitions
    total = n_tuning + (2 if zs else 1) * n
    count = itertools.count(1)

    def on_transition():
        on_progress(next(count) / total)

    def part(chains, number, *args):
        return chains(
            x, *args, randomness.seed_of(seed, number), context, on_transition
        )

    sizes = part(annealer.step_sizes, 0)
    directions = [part(annealer.forward, 1, sizes)]
    if zs:
        directions.append(part(annealer.reverse, 2, zs, sizes))
    return directions
