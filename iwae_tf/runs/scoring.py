"""Scores of a trained model, for the report of its run and the files beside it."""

import math
import shutil
import time
from collections.abc import Iterable

import numpy as np

from iwae_tf import data, pareto, rules
from iwae_tf.files import sha256_of_file, write_arrays
from iwae_tf.measures import annealing, proposals, units
from iwae_tf.measures.likelihood import (
    LADDER,
    Likelihood,
    log_likelihood,
    standard_error,
)
from iwae_tf.models import batches
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs.config import Config
from iwae_tf.runs.progress import shown
from iwae_tf.runs.run import Run


def score(
    run: Run,
    model: IWAE,
    config: Config,
    sets: data.Sets,
    others: Iterable[np.ndarray] = (),
) -> dict:
    """Scores a model and writes the values of every image to `scores.npz`.

    Finished batches are kept in the directory `scoring` of the run until all are done,
    so that another start can continue from there.

    Args:
      run: gets the files.
      model: the trained model.
      config: options of the run.
      sets: holds the images.
      others: other binarisations of these images; of their scores, the mean and the
        standard deviation are reported.

    Returns:
      report: its parts `test`, `units`, `scores_sha256` and `score_seconds`; the
        seconds are those of the last start only.
    """
    start = time.monotonic()
    likelihood = _likelihood(run, model, config, sets)
    log_jacobian = sets.log_jacobian(sets.x_test[_places(config, sets)])
    likelihood = likelihood.shifted(log_jacobian)
    means = [likelihood.mean]
    for i, x_test in enumerate(others, 1):
        other = sets._replace(x_test=x_test)
        means.append(_likelihood(run, model, config, other, number=i).mean)
    layers = unit_statistics(model, config, sets, directory=_units(run))
    path = run.directory / "scores.npz"
    # In float32: the noise of sampling is larger by a thousand than its rounding.
    kept = {name: np.float32(values) for name, values in likelihood.arrays().items()}
    write_arrays(path, **kept)
    report = {
        "test": summarise(likelihood)
        | {"n_samples": config.eval_samples, "chunk": config.eval_chunk}
        | ({} if config.proposal == "posterior" else {"proposal": config.proposal})
        | _unit_of(model, likelihood.mean, config)
        | _over_binarizations(means),
        "units": [describe_units(layer) for layer in layers],
        "scores_sha256": sha256_of_file(path),
        "score_seconds": round(time.monotonic() - start, 3),
    }
    shutil.rmtree(run.directory / "scoring")
    return report


def _over_binarizations(means):
    """The mean and the standard deviation of the scores of several binarisations."""
    if len(means) == 1:
        return {}
    spread = {
        "n": len(means),
        "log_likelihood": round(float(np.mean(means)), 4),
        "standard_deviation": round(float(np.std(means, ddof=1)), 4),
    }
    return {"binarizations": spread}


def share(
    run: Run,
    model: IWAE,
    config: Config,
    sets: data.Sets,
    share: batches.Share,
    others: Iterable[np.ndarray] = (),
) -> None:
    """Computes a share of what `score` and `anneal` compute, and keeps it for them.

    Args:
      run: gets files in the directories `scoring` and `annealing`.
      model: the trained model.
      config: options of the run.
      sets: holds the images.
      share: which of the batches to compute. There may be more shares than batches.
      others: see `score`.
    """
    n_test = len(sets.x_test)
    n_scored = len(_places(config, sets))
    if share.has_batches(n_scored, rules.SCORE_BATCH):
        _likelihood(run, model, config, sets, share)
        for i, x_test in enumerate(others, 1):
            other = sets._replace(x_test=x_test)
            _likelihood(run, model, config, other, share, i)
    if share.has_batches(n_test, rules.TEST_BATCH):
        unit_statistics(model, config, sets, directory=_units(run), share=share)
    n_annealed = min(n_scored, config.ais_images)
    if config.scorer == "ais" and share.has_batches(n_annealed, rules.AIS_BATCH):
        _annealed(run, model, config, sets, share)


def _places(config, sets):
    """The places of the images to score."""
    n_test = len(sets.x_test)
    return data.spread(n_test, config.eval_images or n_test)


def _units(run):
    """The directory of the parts of `unit_statistics`."""
    return run.directory / "scoring" / "units"


def _likelihood(run, model, config, sets, share=batches.WHOLE, number=0):
    """Estimates log p(x) of the images, or of a share of them.

    The parts are kept in the directory `scoring`, those of other binarisations than the
    first one, which has number 0, in a directory of their own there.
    """
    places = _places(config, sets)
    n_images = len(places)
    of_set = "validation" if config.validation else "test"
    what = f"scoring {n_images} {of_set} images with {config.eval_samples} samples each"
    if config.proposal != "posterior":
        what += f" of the proposal {config.proposal}"
    if number:
        what += f", binarisation {number + 1}"
    if share.n > 1:
        what += f", share {share.first + 1} of {share.n}"
    with shown(what, n_images) as on_progress:
        return log_likelihood(
            model,
            sets.x_test[places],
            config.eval_samples,
            chunk=config.eval_chunk,
            seed=config.seed,
            jit_compile=config.jit,
            on_progress=on_progress,
            ladder={*LADDER, config.n_groups * config.n_samples},
            with_jackknife=config.jackknife,
            context=sets.context_test[places] if sets.n_context else None,
            directory=run.directory / "scoring" / (f"other-{number}" if number else ""),
            share=share,
            proposal=proposals.by_name(config.proposal),
        )


def anneal(run: Run, model: IWAE, config: Config, sets: data.Sets) -> dict:
    """Anneals some of the images that were scored, and as many simulated ones.

    Finished batches are kept in the directory `annealing` of the run, so that another
    start can continue from there.

    Args:
      run: a scored run, with its report.
      model: the trained model.
      config: options of the run.
      sets: holds the images.

    Returns:
      report: its part `ais`: means and standard errors over images, nats per image.

    Raises:
      UsageError: if `scores.npz` is missing or damaged, or does not fit the report
        because scoring was stopped before the report was written.
    """
    by_importance = run.scores["log_px"]
    n_scored = len(by_importance)
    by_importance = by_importance[data.spread(n_scored, config.ais_images)]
    places, annealed, certificate = _annealed(run, model, config, sets, n=n_scored)
    forward, reverse = certificate.forward, certificate.reverse
    annealed_log_px = annealed.lower + sets.log_jacobian(sets.x_test[places])
    of_simulated = sets.log_jacobian(np.zeros((1, *sets.x_test.shape[1:])))
    return {
        "n_images": len(places),
        **_mean("log_likelihood", annealed_log_px),
        **_mean("importance", by_importance),
        **_mean("difference", annealed_log_px - by_importance),
        "ess_median": round(float(np.median(annealed.ess)), 2),
        "ess_min": round(float(annealed.ess.min()), 2),
        "acceptance": round(float(annealed.acceptance.mean()), 4),
        "certificate": {
            **_mean("lower", forward.lower + of_simulated),
            **_mean("upper", reverse.upper + of_simulated),
            **_mean("gap", certificate.gap),
        },
        "options": config.of_annealing(),
    }


def _annealed(run, model, config, sets, share=batches.WHOLE, n=None):
    """Anneals some of n scored images and as many simulated ones, or a share of both.

    Returns:
      places: the places of the images in the test set.
      annealed: the results for these images.
      certificate: the results for simulated images.
    """
    n_test = len(sets.x_test)
    scored = _places(config, sets) if n is None else data.spread(n_test, n)
    places = scored[data.spread(len(scored), config.ais_images)]
    n_images = len(places)
    directory = run.directory / "annealing"
    annealer = annealing.Annealer(
        model,
        config.ais_chains,
        config.ais_temperatures,
        config.ais_leapfrog,
        config.ais_schedule,
        config.ais_start,
        config.ais_acceptance,
        config.jit,
    )
    context = sets.context_test[places] if sets.n_context else None
    shared = {"seed": config.seed, "context": context, "share": share}
    with shown(f"annealing {n_images} images", n_images) as on_progress:
        annealed = annealing.log_likelihood(
            annealer,
            sets.x_test[places],
            directory=directory / "images",
            on_progress=on_progress,
            **shared,
        )
    what = f"annealing {n_images} simulated images, forward and in reverse"
    with shown(what, n_images) as on_progress:
        certificate = annealing.certify(
            annealer,
            n_images,
            directory=directory / "simulated",
            on_progress=on_progress,
            **shared,
        )
    return places, annealed, certificate


def _unit_of(model, mean, config):
    """What the scores are, if they are not log-probabilities of binary data."""
    likelihood = model.generator.likelihood
    if likelihood.is_density:
        return {"is_density": True}
    if config.likelihood == "discretized_logistic" and not config.missing:
        n_entries = math.prod(model.generator.event_shape)
        return {"bits_per_dimension": round(-mean / n_entries / math.log(2), 4)}
    return {}


def _mean(name, values):
    """The mean over images and its standard error, each under its name."""
    error = "standard_error" if name == "log_likelihood" else f"{name}_error"
    return {
        name: round(float(values.mean()), 4),
        error: round(standard_error(values), 4),
    }


def summarise(likelihood: Likelihood) -> dict:
    """The part `test` of a report: means over the test images, nats per image."""
    reconstruction, kl = likelihood.log_px_given_z.mean(), likelihood.kl.mean()
    jackknife = {
        str(order): _mean("log_likelihood", values)
        for order, values in likelihood.jackknife.items()
    }
    noise = likelihood.scoring_error
    summary = {
        "n_images": len(likelihood.log_px),
        "log_likelihood": round(likelihood.mean, 4),
        "standard_error": round(likelihood.standard_error, 4),
        "scoring_error": None if math.isnan(noise) else round(noise, 4),
        "elbo": round(float(reconstruction - kl), 4),
        "log_px_given_z": round(float(reconstruction), 4),
        "kl": round(float(kl), 4),
        "bounds": {
            str(k): round(float(values.mean()), 4)
            for k, values in likelihood.bounds.items()
        },
        "ess_median": round(float(np.median(likelihood.ess)), 2),
        "ess_min": round(float(likelihood.ess.min()), 2),
    } | ({"jackknife": jackknife} if jackknife else {})
    return summary | _of_tails(likelihood)


def _of_tails(likelihood):
    """What the tails of the weights tell, if there are enough samples for that."""
    share = likelihood.share_with_long_tails
    if math.isnan(share):
        return {}
    # The lower of two, whose mean may be that of -inf and inf.
    median = float(np.quantile(likelihood.pareto_k, 0.5, method="lower"))
    return {
        "pareto_k": {
            "median": round(median, 4) if math.isfinite(median) else None,
            "threshold": round(pareto.threshold(likelihood.n_samples), 4),
            "share_above": round(share, 4),
        }
    }


def describe_units(layer: units.Units) -> dict:
    """The units of one stochastic layer: number of active ones, values of each."""
    values = {
        name: [float(f"{value:.4g}") for value in getattr(layer, name)]
        for name in ("activity", "variance", "kl")
        if getattr(layer, name) is not None
    }
    return {"n_active": int(layer.active.sum()), **values}


def unit_statistics(model, config, sets, n_images=None, **options):
    """Statistics of the latent units over the first `n_images` test images, or all.

    The options are those of `iwae_tf.units.statistics`, which says what it returns.
    """
    context = sets.context_test[:n_images] if sets.n_context else None
    return units.statistics(
        model, sets.x_test[:n_images], seed=config.seed, context=context, **options
    )
