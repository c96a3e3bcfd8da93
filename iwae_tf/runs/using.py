"""What a trained model says of data, and what it draws, for the command line."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from iwae_tf import data, plots
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError
from iwae_tf.files import write_arrays
from iwae_tf.measures import proposals
from iwae_tf.measures.likelihood import LADDER, log_likelihood
from iwae_tf.runs import devices, names, records, reports, scoring
from iwae_tf.runs.config import Config
from iwae_tf.runs.progress import say, shown
from iwae_tf.runs.run import Run


class Observations(NamedTuple):
    """One part of a data set, as the model of a run takes it.

    Attributes:
      name: what it is, for messages.
      x: observations [n, *event_shape].
      context: contexts [n, c] of a conditional model, or None.
      labels: what the data set says of each, [n, ...], or None.
      log_jacobian: the log-density of x as it was minus that of x, [n], nats.
    """

    name: str
    x: np.ndarray
    context: np.ndarray | None
    labels: np.ndarray | None
    log_jacobian: np.ndarray

    def spread(self, n: int | None) -> "Observations":
        """Takes n of them, evenly spaced; all if n is None."""
        places = data.spread(len(self.x), n or len(self.x))
        parts = (None if part is None else part[places] for part in self[1:])
        return Observations(self.name, *parts)


def observations(
    run: Run, dataset: str | None, split: str, data_dir: str | None, offline: bool
) -> Observations:
    """Prepares data as those were that the run was trained on.

    Args:
      run: the run.
      dataset: as `Config.dataset`; by default that of the run.
      split: `train` or `test`. What a run has held out by `--validation` is its test.
      data_dir: as `Config.data_dir`.
      offline: as `Config.offline`.

    Raises:
      UsageError: if the data set cannot be found, or has observations or labels that
        the model does not have.
    """
    config, facts = records.config_of(run.record), run.record["data"]
    if dataset is None and facts["name"] not in datasets.NAMES:
        raise UsageError(
            f"dataset: must be given for a run on {facts['name']!r}, of which the "
            "record has no place"
        )
    name = datasets.resolve(dataset or facts["name"], data_dir, offline)
    images = datasets.load(name, data_dir, offline)
    if config.validation and images.name == facts["name"]:
        images = data.with_validation(images, config.validation)
    x, labels = {
        "train": (images.x_train, images.y_train),
        "test": (images.x_test, images.y_test),
    }[split]
    if x is None:
        raise UsageError(f"split: must be train for {name}, which has no test data")
    shape = tuple(facts["image_shape"])
    if x.shape[1:] != shape:
        raise UsageError(
            f"dataset: must have observations of shape {shape}, as the run has, got "
            f"{x.shape[1:]}"
        )
    x = np.asarray(x)
    scale = facts.get("scale")
    if scale is not None:
        x = (x - np.float32(facts["mean"])) / np.float32(scale)
    sets = data.Sets(x, x, scale=None if scale is None else np.float32(scale))
    x = data.binarize(x, config.binarization, data.TEST_SEED).numpy()
    context = contexts_of(labels, facts) if config.conditional else None
    what = f"{images.name}, {split}"
    return Observations(what, x, context, labels, sets.log_jacobian(x))


def contexts_of(labels: np.ndarray | None, facts: dict) -> np.ndarray:
    """The contexts [n, c] of labels [n], or of contexts, for a run with these facts.

    Raises:
      UsageError: if there are no labels, or some that the run does not know.
    """
    kind = "labels" if "classes" in facts else f"contexts [n, {facts['n_context']}]"
    size = (facts["n_context"],) if "classes" not in facts else ()
    if labels is None or labels.shape[1:] != size:
        found = "none" if labels is None else f"an array of shape {labels.shape}"
        raise UsageError(f"dataset: must have {kind} for this run, got {found}")
    if "classes" not in facts:
        return labels
    classes = np.array(facts["classes"])
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise UsageError(
            f"label: must be one of {', '.join(map(str, classes.tolist()))}, as the "
            f"run has them, got {unknown[0]}"
        )
    return (labels[:, None] == classes).astype(np.float32)


def score(run: Run, given: Observations, config: Config, out: Path | None) -> None:
    """Estimates log p(x) of data; prints the mean, and writes the values if asked.

    Args:
      run: the run.
      given: what to score.
      config: has the options of scoring.
      out: the .npz file to write, or None.
    """
    say(devices.use(config.device, is_alone=True).description)
    given = given.spread(config.eval_images)
    trained = run.config
    by = _of_proposal(config)
    what = f"scoring {len(given.x)} of {given.name} with {config.eval_samples} samples"
    what += by
    with shown(what, len(given.x), is_kept=False) as on_progress:
        found = log_likelihood(
            run.model,
            given.x,
            config.eval_samples,
            config.eval_chunk,
            seed=config.seed,
            jit_compile=_jit(run, config),
            on_progress=on_progress,
            ladder={*LADDER, trained.n_groups * trained.n_samples},
            context=given.context,
            proposal=proposals.by_name(config.proposal),
        ).shifted(given.log_jacobian)
    say(f"{names.caption(trained)}\n{given.name}{by}: {found}")
    for line in reports.warning_of_tails(scoring.summarise(found)):
        say(line)
    if out is not None:
        write_arrays(out, **found.arrays())
        say(str(out))


def _of_proposal(config):
    """Words that name the proposal, if it is not q(z|x)."""
    is_plain = config.proposal == "posterior"
    return "" if is_plain else f" by the proposal {config.proposal}"


def _jit(run, config):
    """Whether XLA compiles: as asked, or as in the run."""
    return run.config.jit if config.jit is None else config.jit


def embed(run: Run, given: Observations, config: Config, out: Path) -> None:
    """Writes encodings, means of p(z|x), log p(x) and labels of data to an .npz file.

    Args:
      run: the run.
      given: what to embed.
      config: has the options of scoring.
      out: the file to write.
    """
    say(devices.use(config.device, is_alone=True).description)
    given, model = given.spread(config.eval_images), run.model
    n, k = len(given.x), config.eval_samples
    jit = _jit(run, config)
    options = {"seed": config.seed, "jit_compile": jit, "batch_size": 20}
    encoded = model.encode(given.x, given.context)
    what = f"embedding {n} of {given.name} with {k} samples"
    with shown(what, n, False) as told, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        embedded = model.embed(
            given.x, k, context=given.context, on_progress=told, **options
        )
    for warning in warned:
        say(f"warning: {warning.message}")
    with shown(f"scoring them with {k} samples", n, False) as told:
        scores = log_likelihood(
            model,
            given.x,
            k,
            config.eval_chunk,
            context=given.context,
            on_progress=told,
            **options,
        ).shifted(given.log_jacobian)
    layers = {}
    for level, mean in enumerate(encoded.means, 1):
        layers[f"mean_z{level}"] = mean
        if encoded.scales is not None:
            layers[f"scale_z{level}"] = encoded.scales[level - 1]
        layers[f"posterior_mean_z{level}"] = embedded.means[level - 1]
        layers[f"posterior_error_z{level}"] = embedded.standard_errors[level - 1]
    labels = {} if given.labels is None else {"labels": given.labels}
    write_arrays(out, **layers, ess=embedded.ess, log_px=scores.log_px, **labels)
    say(f"{given.name}: {scores}\n{out}")


def sample(run: Run, n: int, label: str | None, config: Config, out: Path) -> None:
    """Draws from the model of a run, into an .npz file or, for images, a .png file.

    Args:
      run: the run.
      n: number of draws.
      label: the label of all draws of a conditional model; by default the labels take
        turns.
      config: has the seed and the device.
      out: the file to write.

    Raises:
      UsageError: for a label that the run does not have, or a .png file of vectors.
    """
    devices.use(config.device, is_alone=True)
    facts, model = run.record["data"], run.model
    labels = context = None
    if records.config_of(run.record).conditional:
        if "classes" not in facts:
            raise UsageError(
                "run_dir: must hold a run with labels, got one with contexts that are "
                "vectors; iwae_tf.load(run_dir).sample(n, seed, context) takes these"
            )
        classes = np.array(facts["classes"])
        labels = np.resize(classes, n)
        if label is not None:
            known = {str(c): c for c in classes.tolist()}
            labels = np.full(n, known.get(label, label))
        context = contexts_of(labels, facts)
    elif label is not None:
        raise UsageError(f"label: must be given for conditional runs only, got {label}")
    samples, means = (part.numpy() for part in model.sample(n, config.seed, context))
    scale = facts.get("scale")
    if scale is not None:
        scale, shift = np.float32(scale), np.float32(facts["mean"])
        samples, means = samples * scale + shift, means * scale + shift
    if out.suffix == ".png":
        if samples.ndim != 4:
            raise UsageError(f"out: must be an .npz file for vectors, got {str(out)!r}")
        title = f"{names.caption(run.config)} · {n} samples"
        plots.save(plots.sample_sheet(samples, means, title), out)
    else:
        own = {} if labels is None else {"labels": labels}
        write_arrays(out, samples=samples, means=means, **own)
    say(str(out))
