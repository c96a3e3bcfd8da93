"""One run: data, model, fit, score, figures, and a directory with the results."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

from iwae_tf import data, randomness, rules
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError
from iwae_tf.files import sha256_of_file
from iwae_tf.models import zoo
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs import figures, names, pretrained, schedules, scoring, training
from iwae_tf.runs.checkpoints import step_of
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import Metrics
from iwae_tf.runs.progress import say
from iwae_tf.runs.results import summary
from iwae_tf.runs.rows import lost_epochs
from iwae_tf.runs.run import Run, commit, versions

_WIDEST_DEFAULT = 450  # number of units in a layer whose size is not chosen, at most

Watch = Callable[[IWAE, int, Run], None]


def run(
    config: Config,
    images: datasets.Images | None = None,
    watch: Watch | None = None,
) -> dict:
    """Trains and scores one model, or continues where an earlier start stopped.

    Args:
      config: options of the run.
      images: the data set; by default the one that `config` names is loaded.
      watch: called with the model, the number of epochs done and the run at epochs 0,
        1, 2, 4, 8, ... and the last. If a run continues from an earlier epoch, it is
        called again for the epochs since.

    Returns:
      report: the content of `report.json`.

    Raises:
      UsageError: if an option, the data or a file is at fault.
      Diverged: if a loss is not finite.
    """
    device = training.use_device(config.device)
    if config.pretrained:
        config = pretrained.with_options(config)
    if images is None:
        images = datasets.load(config.dataset, config.data_dir, config.offline)
    config = dataclasses.replace(config, dataset=images.name)
    sets = data.sets_of(images, **config.of_sets())
    model = build(config, sets)
    record = {"config": config.of_run(), "data": describe(images, sets)}
    if config.pretrained:
        record |= from_pretrained(model, config, record)
    elif config.init_from:
        record |= from_run(model, config, record)
    else:
        record |= from_scratch(model, config, record)
    name = config.pretrained or names.run_name(config)
    this = Run(config.run_dir or Path("runs") / name)
    with this.claimed(record):
        say(f"{names.caption(config)}: {this}")
        if this.is_finished and not config.rescore:
            say("finished earlier; --rescore scores it again")
            report = this.report
            if config.scorer == "ais" and not config.pretrained:
                this.restore(model)
        else:
            say(f"{device}, {'' if config.jit else 'not '}compiled by XLA")
            if config.pretrained:
                take_metrics(this, model, config, sets)
            else:
                train(this, model, config, sets, watch)
            figures.draw(this, model, config, sets)
            report = record | scoring.score(this, model, config, sets)
            report |= facts_of_training(this, config, sets) | {"device": device}
            report |= {"versions": versions(), "commit": commit()}
            this.write_report(report)
        if config.scorer == "ais":
            report["ais"] = scoring.anneal(this, model, config, sets)
            this.write_report(report)
        say(summary(report))
        return report


def describe(images: datasets.Images, sets: data.Sets) -> dict:
    """The facts of a data set that a result depends on."""
    facts = {
        "name": images.name,
        "image_shape": list(images.image_shape),
        "n_train": len(sets.x_train),
        "n_test": len(sets.x_test),
        "train_sha256": data.sha256(sets.x_train),
        "binarized_test_sha256": data.sha256(sets.x_test),
    }
    if sets.n_context:
        given = (y for y in (images.y_train, images.y_test) if y is not None)
        facts["labels_sha256"] = data.sha256_of_labels(*given)
        if sets.classes is None:
            facts["n_context"] = sets.n_context
        else:
            facts["classes"] = sets.classes.tolist()
    if sets.n_levels:
        facts["n_levels"] = sets.n_levels
    if sets.scale is not None:
        facts["mean"], facts["scale"] = sets.mean.tolist(), sets.scale.tolist()
    return facts


def build(config: Config, sets: data.Sets) -> IWAE:
    """The compiled model of a run, with its initial weights.

    Raises:
      UsageError: if the options do not fit the data set or one another.
    """
    steps_per_epoch, steps_per_execution = data.steps_of_epoch(
        len(sets.x_train), config.batch_size
    )
    _check_size(config, sets)
    model = zoo.build(
        sets.x_train.shape[1:],
        sets.n_context,
        data.mean_of(sets.x_train),
        sets.n_levels,
        **config.of_networks(),
    )
    if config.n_flows:
        images = data.binarize(sets.x_train[:100], config.binarization, config.seed)
        contexts = sets.context_train[:100] if sets.n_context else None
        seed = randomness.seed_of(config.seed, randomness.TRAIN)
        model.posterior.initialise(images, seed, contexts)
    model.compile(
        schedules.optimizer(config, config.epochs * steps_per_epoch),
        config.objective,
        config.n_samples,
        config.beta,
        config.warmup_steps,
        config.n_groups,
        config.combination_beta,
        jit_compile=config.jit,
        steps_per_execution=steps_per_execution,
    )
    return model


def _check_size(config, sets):
    """Checks that no tensor becomes too large for TensorFlow to count its elements."""
    shape = sets.x_train.shape[1:]
    n_parameters = {"categorical": sets.n_levels}.get(config.likelihood, 1)
    n_outputs = math.prod(shape) * n_parameters
    given = (config.n_latent, config.n_hidden, config.flow_hidden)
    units = [_WIDEST_DEFAULT, *itertools.chain(*filter(None, given))]
    maps = math.prod(shape[:2]) * (config.feature_maps or 0)
    config.check_elements(max(n_outputs, maps, *units))
    if config.n_hidden:
        rules.check_elements(n_outputs, n_hidden=max(config.n_hidden))


def load(run: str | Path) -> IWAE:
    """The model of a run, with the weights of its newest checkpoint.

    Args:
      run: the directory of a run, or the name of a trained model of the package.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: if there is no such run, or its newest checkpoint cannot be read.
    """
    return (pretrained.run_of(run) if run in pretrained.SHA256 else Run(run)).model


# Three sources of the initial weights. Each function gives them to the model, and
# returns what the record of the run must say about them.


def from_scratch(model: IWAE, config: Config, record: dict) -> dict:
    """Keeps the initial weights of a model, which are a function of the seed."""
    return {}


def from_run(model: IWAE, config: Config, record: dict) -> dict:
    """Gives a model the weights of the run `init_from`, with a new optimizer.

    Raises:
      UsageError: if there is no such run, or it has other networks.
    """
    other = Run(config.init_from)
    try:
        source, options = other.model, other.record["config"]
    except UsageError as error:
        raise UsageError(str(error).replace("run_dir", "init_from", 1)) from None
    _take_weights(model, source, "init_from", other)
    newest = other.checkpoints().paths()[-1]
    return {
        "init": {
            "run": other.directory.resolve().name,
            "objective": options["objective"],
            "n_samples": options["n_samples"],
            "step": step_of(newest),
            "weights_sha256": sha256_of_file(newest),
        }
    }


def from_pretrained(model: IWAE, config: Config, record: dict) -> dict:
    """Gives a model the weights of the trained model `pretrained` of the package.

    Raises:
      UsageError: if it was trained on other data, or its files are damaged.
    """
    name = config.pretrained
    source = pretrained.run_of(name)
    trained = source.report
    for fact, value in trained["data"].items():
        if record["data"].get(fact) != value:
            raise UsageError(
                f"pretrained: {name} must have the data it was trained on, {fact} "
                f"{value!r}, got {record['data'].get(fact)!r}"
            )
    _take_weights(model, source.model, "pretrained", source)
    newest = source.checkpoints().paths()[-1]
    return {
        "pretrained": {
            "name": name,
            "weights_sha256": sha256_of_file(newest),
            "commit": trained["commit"],
        }
    }


def _take_weights(model, source, argument, run):
    """Gives a model the weights of the model of a run.

    Raises:
      UsageError: if they do not fit. It names the argument.
    """
    shapes, others = ([w.shape for w in m.weights] for m in (model, source))
    if shapes != others:
        raise UsageError(
            f"{argument}: must be a run with the same networks and image size, got "
            f"{str(run)!r} with {_size(source)} for {_size(model)}"
        )
    model.set_weights(source.get_weights())


def _size(model):
    return (
        f"latents {model.posterior.n_latent}, data {model.generator.event_shape}, "
        f"{model.count_params():,} parameters"
    )


def take_metrics(this: Run, model: IWAE, config: Config, sets: data.Sets) -> None:
    """Gives a run the metrics of a trained model, and pictures of its last epoch."""
    source = pretrained.run_of(config.pretrained)
    metrics = Metrics(this, config.batch_size, source.metrics())
    metrics.set_model(model)
    figures.painter(this, model, config, sets, metrics)(config.epochs)
    metrics.on_train_end()


def train(
    this: Run,
    model: IWAE,
    config: Config,
    sets: data.Sets,
    watch: Watch | None = None,
) -> None:
    """Trains a model from the present state of the run to the end of the last epoch.

    Args:
      this: the run; gets checkpoints, metrics and figures.
      model: compiled; gets the trained weights.
      config: options of the run.
      sets: training and test images.
      watch: see `run`.
    """
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), config.batch_size)
    n_steps = config.epochs * steps_per_epoch
    checkpoints = this.checkpoints(config.checkpoint_seconds, steps_per_epoch)
    checkpoints.set_model(model)
    first_step = checkpoints.restore(model)
    checkpoints.rows = this.rows(first_step)
    lost = lost_epochs(checkpoints.rows, first_step // steps_per_epoch)
    if lost:
        say(f"{this}: the metrics of epochs {lost} are lost")
    if first_step >= n_steps:
        this.write_rows(checkpoints.rows)
        return
    if first_step:
        say(f"goes on at step {first_step} of {n_steps}")
    metrics = Metrics(this, config.batch_size, checkpoints.rows, config.histograms)
    watchers = [figures.painter(this, model, config, sets, metrics)]
    if watch is not None:
        watchers.append(lambda epoch: watch(model, epoch, this))
    stages = schedules.stages(config)
    callbacks = [
        training.StopWhenDiverged(checkpoints),
        training.Display(stages, steps_per_epoch, first_step),
        metrics,
        *(training.AtEpochs(config.epochs, watcher) for watcher in watchers),
        checkpoints,
    ]
    try:
        with checkpoints.guard():
            training.fit(
                model,
                sets,
                stages=stages,
                batch_size=config.batch_size,
                binarization=config.binarization,
                first_step=first_step,
                callbacks=callbacks,
            )
    except KeyboardInterrupt:
        say(
            f"\nsaved at step {checkpoints.newest_step()}; "
            "the same command goes on from there"
        )
        raise
    checkpoints.save()


def facts_of_training(this: Run, config: Config, sets: data.Sets) -> dict:
    """The part of a report about training; the seconds are None if they are lost."""
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), config.batch_size)
    last = {int(row["epoch"]): row for row in this.rows()}.get(config.epochs)
    return {
        "epochs": config.epochs,
        "steps": config.epochs * steps_per_epoch,
        "train_seconds": float(last["seconds"]) if last else None,
    }
