"""Test log-likelihood by importance sampling, streamed over samples and images."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from iwae_tf import pareto, randomness
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.measures import proposals
from iwae_tf.models import batches
from iwae_tf.weights import StreamingLogMeanExp, jackknife, noise_of_mean

LADDER = (1, 5, 50, 500, 1000, 5000)
_POSTERIOR = proposals.Proposal()
_N_PARTS = 4  # of the samples, whose differences tell the noise of scoring


class Likelihood(NamedTuple):
    """The results of scoring, for each of n images.

    Attributes:
      log_px: importance sampling estimate of log p(x), [n], nats.
      ess: effective sample size of the weights, [n], from 1 to n_samples.
      log_px_given_z: E_q log p(x|z), [n], nats; the ELBO is this minus `kl`.
      kl: E_q log q(z|x) - log p(z), [n], nats.
      bounds: for each k, the importance weighted bound, [n], nats, estimated from
        all complete groups of k among the same samples.
      jackknife: for orders 1 and 2, the estimate of log p(x) that `weights.jackknife`
        makes from the same samples, [n], nats; empty unless it was asked for.
      quarters: the same estimate as `log_px` by each quarter of the samples, [4, n],
        nats; [0, n] for fewer than 4 samples.
      pareto_k: what `pareto.pareto_k` tells of the weights, [n].
      smoothed: the estimate of log p(x) by `pareto.smoothed_log_mean_exp`, [n], nats.
    """

    log_px: np.ndarray
    ess: np.ndarray
    log_px_given_z: np.ndarray
    kl: np.ndarray
    bounds: dict[int, np.ndarray]
    jackknife: dict[int, np.ndarray]
    quarters: np.ndarray
    pareto_k: np.ndarray
    smoothed: np.ndarray

    def __repr__(self):
        """One line, as notebooks show it."""
        n, k = len(self.log_px), self.n_samples
        line = (
            f"Likelihood: {self.mean:.2f} ± {self.standard_error:.2f} nats, mean of "
            f"log p(x) over {n:,} observations by {k:,} samples each, median ESS "
            f"{np.median(self.ess):.1f}"
        )
        share = self.share_with_long_tails
        if np.isnan(share):
            return line
        return f"{line}, Pareto k-hat above {pareto.threshold(k):.2g} for {share:.1%}"

    def arrays(self) -> dict[str, np.ndarray]:
        """All values by their names in files, each [n]."""
        return {
            "log_px": self.log_px,
            "ess": self.ess,
            "log_px_given_z": self.log_px_given_z,
            "kl": self.kl,
            **{f"bound_{k}": values for k, values in self.bounds.items()},
            **{f"jackknife_{order}": v for order, v in self.jackknife.items()},
            "pareto_k": self.pareto_k,
            "smoothed": self.smoothed,
        }

    def shifted(self, shift: np.ndarray) -> "Likelihood":
        """The results for other units of x, whose log-densities differ by [n], nats."""

        def moved(values):
            return {name: part + shift for name, part in values.items()}

        return self._replace(
            log_px=self.log_px + shift,
            log_px_given_z=self.log_px_given_z + shift,
            bounds=moved(self.bounds),
            jackknife=moved(self.jackknife),
            quarters=self.quarters + shift,
            smoothed=self.smoothed + shift,
        )

    @property
    def n_samples(self) -> int:
        """The number of samples for each image."""
        return max(self.bounds)

    @property
    def mean(self) -> float:
        """Mean of `log_px` over the images, nats per image."""
        return float(np.mean(self.log_px))

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` over the images, nats; NaN for one image."""
        return standard_error(self.log_px)

    @property
    def scoring_error(self) -> float:
        """Standard deviation of `mean` over scoring seeds for fixed images, nats.

        See `weights.noise_of_mean`. It is NaN for fewer than 4 samples.
        """
        return noise_of_mean(self.quarters) if len(self.quarters) else float("nan")

    @property
    def share_with_long_tails(self) -> float:
        """The share of images whose `pareto_k` is above `pareto.threshold`.

        These include images with a weight that is NaN. The share is NaN if there are
        too few samples for any `pareto_k`.
        """
        if np.all(np.isnan(self.pareto_k)):
            return float("nan")
        return float(np.mean(~(self.pareto_k <= pareto.threshold(self.n_samples))))


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of values [n]; NaN for one value."""
    n = len(values)
    return float(np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")


def log_likelihood(
    model,
    x: batches.Observations,
    n_samples: int = 5000,
    chunk: int = 250,
    batch_size: int = 20,
    seed: int = 123,
    jit_compile: bool = True,
    on_progress: Callable[[int], None] = lambda n_images: None,
    ladder: Collection[int] = LADDER,
    with_jackknife: bool = False,
    context: np.ndarray | None = None,
    directory: Path | None = None,
    share: batches.Share = batches.WHOLE,
    proposal: proposals.Proposal = _POSTERIOR,
) -> Likelihood:
    """Estimates log p(x) of every image, or log p(x|y): log mean_k exp(log_w).

    The memory is that of one chunk of samples for one batch of images, whatever
    `n_samples` is, and 3 sqrt(k) log-weights of each image. The jackknife also keeps
    all log-weights of the batch. The noise depends on seed, chunk, batch_size and
    jit_compile.

    Args:
      model: has `draw(x, k, seed, context) -> Draws`.
      x: observations [n, *event_shape], or a dataset of them, see `batches_of` in
        `iwae_tf.models.batches`.
      n_samples: k, the number of samples per image.
      chunk: number of samples per image that are held at once; the last chunk may be
        smaller.
      batch_size: number of images in one batch.
      seed: random seed for the noise.
      jit_compile: whether XLA compiles the computation.
      on_progress: called with the number of images done.
      ladder: values of k whose bound is estimated too, if they are below n_samples.
      with_jackknife: whether to fill in `jackknife`, which needs 3 samples.
      context: y of every image, [n, c], for a conditional model.
      directory: directory where the result of each batch is kept, so that the same call
        finds it again. By default nothing is kept.
      share: which batches to score; the results are those of their images.
      proposal: what latents are drawn from, see `iwae_tf.proposals`; by default
        q(z|x). With another density r(z|x), this stands for q(z|x) in `log_px_given_z`,
        `kl` and `bounds`.

    Returns:
      likelihood: results for each image, nats.

    Raises:
      UsageError: for a number out of range, or a proposal that does not go with the
        model; see `batches_of` too.

    Reference:
      Burda et al. 2016, section 5, arXiv:1509.00519.
    """
    least = min(ladder, default=1)
    check_at_least(1, n_samples=n_samples, chunk=chunk, ladder=least)
    parts = batches.batches_of(model, x, context, batch_size)
    if with_jackknife and n_samples < 3:
        raise UsageError(
            f"n_samples: must be at least 3 for the jackknife, got {n_samples}"
        )
    chunk = min(chunk, n_samples)
    proposal.check(model)
    draw = batches.compiled(model, _draw, jit_compile, k=chunk, proposal=proposal)
    ladder = sorted({k for k in {1, *ladder} if k < n_samples} | {n_samples})
    orders = (1, 2) if with_jackknife else ()

    def score(batch):
        own_seed = randomness.seed_of(seed, randomness.SCORE, batch.first)
        fitted = proposal.fit(model, batch, own_seed, jit_compile)
        values = _score_batch(
            partial(draw, batch.x, batch.context, fitted),
            own_seed,
            n_samples,
            chunk,
            ladder,
            orders,
        )
        on_progress(batch.first + batch.n_own)
        return values

    identity = directory and batches.identity_of(
        model,
        k=n_samples,
        chunk=chunk,
        seed=seed,
        ladder=ladder,
        orders=orders,
        n_parts=_N_PARTS,
        n_tail=pareto.tail_size(n_samples),
        **({} if proposal == _POSTERIOR else {"proposal": repr(proposal)}),
    )
    values = batches.run(parts, score, directory, identity, share)
    return Likelihood(
        *(values[name] for name in ("log_px", "ess", "log_px_given_z", "kl")),
        bounds={k: values[f"bound_{k}"] for k in ladder},
        jackknife={order: values[f"jackknife_{order}"] for order in orders},
        **{name: values[name] for name in ("quarters", "pareto_k", "smoothed")},
    )


def _draw(model, images, contexts, fitted, batch_seed, first, *, k, proposal):
    seed = randomness.seed_of(batch_seed, first)
    draws = proposal.draw(model, images, k, seed, contexts, fitted)
    return draws.log_w(), draws.log_px


def _score_batch(draw, seed, n_samples, chunk, ladder, orders):
    bounds = {k: StreamingLogMeanExp(k) for k in ladder}
    of_squares = StreamingLogMeanExp(n_samples)
    log_px_given_z = StreamingLogMeanExp(1)
    size = n_samples // _N_PARTS
    parts = [StreamingLogMeanExp(size) for _ in range(_N_PARTS)] if size else []
    tail = pareto.StreamingTail(n_samples)
    kept = []
    for first in range(0, n_samples, chunk):
        n_kept = min(chunk, n_samples - first)
        log_w, log_px = (part.numpy()[:n_kept] for part in draw(seed, np.int32(first)))
        for bound in bounds.values():
            bound.add(log_w)
        of_squares.add(2 * log_w)
        tail.add(log_w)
        for i, part in enumerate(parts):
            own = log_w[max(0, i * size - first) : max(0, (i + 1) * size - first)]
            if len(own):
                part.add(own)
        log_px_given_z.add(log_px)
        if orders:
            kept.append(log_w)
    values = {k: bound.mean() for k, bound in bounds.items()}
    log_mean_w = values[n_samples]
    reconstruction = log_px_given_z.mean()
    ess = n_samples * np.exp(2 * log_mean_w - of_squares.mean())
    pareto_k, smoothed = tail.results()
    return {
        "log_px": log_mean_w,
        "ess": ess,
        "log_px_given_z": reconstruction,
        "kl": reconstruction - values[1],
        "quarters": np.array([part.mean() for part in parts]).reshape(-1, len(ess)),
        "pareto_k": pareto_k,
        "smoothed": smoothed,
        **{f"bound_{k}": bound for k, bound in values.items()},
        **{f"jackknife_{o}": jackknife(np.concatenate(kept), o) for o in orders},
    }
