"""One run: data, model, fit, score, figures, and a directory with the results."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from iwae_tf import data, randomness, rules
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError
from iwae_tf.files import sha256_of_file
from iwae_tf.models import batches, likelihoods, zoo
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs import figures, names, pretrained, schedules, scoring, training
from iwae_tf.runs.checkpoints import has_optimizer, step_of
from iwae_tf.runs.config import Config
from iwae_tf.runs.devices import Devices, use
from iwae_tf.runs.metrics import Metrics, write_outcome
from iwae_tf.runs.progress import say, say_as_it_is, silence
from iwae_tf.runs.reports import estimate, next_steps, summary
from iwae_tf.runs.rows import best_of, lost_epochs, stops
from iwae_tf.runs.run import Run, commit, versions

_WIDEST_DEFAULT = 450  # number of units in a layer whose size is not chosen, at most

Watch = Callable[[IWAE, int, Run], None]


def run(
    config: Config,
    images: data.Images | None = None,
    watch: Watch | None = None,
    is_one_of_many: bool = False,
) -> dict:
    """Trains and scores one model, or continues where an earlier start stopped.

    Args:
      config: options of the run.
      images: the data set; by default the one that `config` names is loaded.
      watch: called with the model, the number of epochs done and the run at epochs 0,
        1, 2, 4, 8, ... and the last. If a run continues from an earlier epoch, it is
        called again for the epochs since.
      is_one_of_many: whether other runs follow, as in a task. The last lines then do
        not say what can be done with this one.

    Returns:
      report: the content of `report.json`; {} for a worker other than the first one,
        and if only a share of the images is scored.

    Raises:
      UsageError: if an option, the data or a file is at fault.
      Diverged: if a loss is not finite.
      WorkerLost: if another worker has ended.
    """
    devices = use(config.device, config.devices, is_alone=bool(config.shard))
    rules.check_shares(config.batch_size, devices.n_replicas)
    with devices.together():
        return _run(config, images, watch, is_one_of_many, devices)


def _run(config, images, watch, is_one_of_many, devices):
    if config.pretrained:
        config = pretrained.with_options(config)
    if images is None:
        images = datasets.load(config.dataset, config.data_dir, config.offline)
    config = dataclasses.replace(config, dataset=images.name)
    name = config.pretrained or names.run_name(config)
    this = Run(config.run_dir or Path("runs") / name)
    sets = data.sets_of(images, **config.of_sets())
    if config.jit is None:
        config = dataclasses.replace(config, jit=_jit(this, config, sets))
    record = {"config": config.of_run(), "data": describe(images, sets)}
    with devices.scope():
        model = build(config, sets)
        if config.pretrained:
            record |= from_pretrained(model, config, record)
        elif config.continue_from:
            record |= from_state(model, config, record)
        elif config.init_from:
            record |= from_run(model, config, record)
        else:
            record |= from_scratch(model, config, record)
    if config.shard:
        _score_shard(this, model, config, sets, record, images)
        return {}
    if devices.worker:
        _assist(this, model, config, sets, devices, images)
        return {}
    with _claimed(this, record, devices):
        say(f"{names.caption(config)}: {this}")
        is_finished = this.is_finished and not config.rescore
        devices.all(is_finished)
        if is_finished:
            say("finished earlier; --rescore scores it again")
            report = this.report
            if config.scorer == "ais" and not config.pretrained:
                this.restore(model)
        else:
            jit = f"{'' if config.jit else 'not '}compiled by XLA"
            say(f"{devices.description}, {jit}")
            if config.pretrained:
                take_metrics(this, model, config, sets)
            else:
                train(this, model, config, sets, devices, watch)
                if config.early_stopping:
                    take_best(this, model, config, sets)
            devices.all(0)  # The others may read the last checkpoint.
            figures.draw(this, model, config, sets)
            share(this, model, config, sets, devices, images)
            others = binarizations(images, config)
            report = record | scoring.score(this, model, config, sets, others)
            report |= facts_of_training(this, config, sets)
            report |= facts_of_devices(this, devices)
            report |= {"versions": versions(), "commit": commit()}
            write_outcome(this, report)
            this.write_report(report)
        if config.scorer == "ais":
            report["ais"] = scoring.anneal(this, model, config, sets)
            this.write_report(report)
        say(summary(report), estimate(report))
        if not is_one_of_many:
            say_as_it_is(next_steps(this, config))
        return report


_REFUSED = -1  # what the first worker tells the others if it cannot have the run


@contextlib.contextmanager
def _claimed(this, record, devices):
    """The run, claimed by the first worker; the others are told if it is refused."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(this.claimed(record))
        except UsageError:
            devices.all(_REFUSED)
            raise
        yield


def _assist(this, model, config, sets, devices, images):
    """What a worker other than the first one does; it writes parts of scores only."""
    silence()
    told, *_ = devices.all(0)
    if told == _REFUSED:
        raise UsageError(
            "run_dir: must be one that the first worker can have, see there"
        )
    if told:  # the run is finished
        return
    if not config.pretrained:
        train(this, model, config, sets, devices)
    devices.all(0)
    if config.early_stopping:
        this.restore(model)
    share(this, model, config, sets, devices, images)


def share(
    this: Run,
    model: IWAE,
    config: Config,
    sets: data.Sets,
    devices: Devices,
    images: data.Images,
) -> None:
    """Scores the share of a worker, and waits for those of the others.

    The parts of the scores are files in the directory of the run, from which the first
    worker joins them. It computes what it does not find there.
    """
    if devices.n_workers > 1:
        part = batches.Share(devices.worker, devices.n_workers)
        others = binarizations(images, config)
        scoring.share(this, model, config, sets, part, others)
        devices.all(0)


def binarizations(images: data.Images, config: Config) -> Iterator[np.ndarray]:
    """The test images of a run, binarised anew for each score beside the first."""
    for i in range(1, config.eval_binarizations):
        seed = data.TEST_SEED + i
        yield data.sets_of(images, **config.of_sets(), test_seed=seed).x_test


def _score_shard(this, model, config, sets, record, images):
    """Scores a share of the images of a trained run, beside other processes."""
    this.check(record)
    this.restore(model)
    n_steps = (
        config.epochs * data.steps_of_epoch(len(sets.x_train), config.batch_size)[0]
    )
    step = this.checkpoints().newest_step()
    if step < n_steps and not stops(this.rows(step), config.early_stopping):
        raise UsageError(
            f"shard: must be of a run whose training has ended, got {str(this)!r} at "
            f"step {step} of {n_steps}"
        )
    part = batches.Share(*rules.share_of(shard=config.shard))
    others = binarizations(images, config)
    scoring.share(this, model, config, sets, part, others)
    say(f"share {config.shard} is done; the same command without --shard joins all")


def _jit(this, config, sets):
    """Whether to compile a run: as an earlier start did, or if that pays."""
    with contextlib.suppress(UsageError):  # if this is the first start
        return this.config.jit
    n_entries = math.prod(sets.x_train.shape[1:])
    return schedules.compiling_pays(
        config, len(sets.x_train), len(sets.x_test), n_entries
    )


def describe(images: data.Images, sets: data.Sets) -> dict:
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
    n_train = len(sets.x_train)
    _, steps_per_execution = data.steps_of_epoch(n_train, config.batch_size)
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
    _compile(model, config, n_train, steps_per_execution)
    return model


def _compile(model, config, n_train, steps_per_execution=1, steps_before=0):
    """Compiles a model as its options say, with a new optimizer."""
    model.steps_before = steps_before
    steps_per_epoch, _ = data.steps_of_epoch(n_train, config.batch_size)
    model.compile(
        schedules.optimizer(config, config.epochs * steps_per_epoch, steps_before),
        config.objective,
        config.n_samples,
        config.beta,
        config.warmup_steps,
        config.n_groups,
        config.combination_beta,
        config.renyi_alpha,
        config.temperatures,
        jit_compile=bool(config.jit),
        steps_per_execution=steps_per_execution,
        auto_scale_loss=False,  # `schedules.optimizer` has a scale
    )


def _check_size(config, sets):
    """Checks that no tensor becomes too large for TensorFlow to count its elements."""
    shape = sets.x_train.shape[1:]
    likelihood = likelihoods.by_name(
        config.likelihood, config.likelihood_scale, sets.n_levels
    )
    n_outputs = math.prod(shape) * likelihood.n_parameters
    given = (config.n_latent, config.n_hidden, config.flow_hidden)
    units = [_WIDEST_DEFAULT, *itertools.chain(*filter(None, given))]
    maps = math.prod(shape[:2]) * (config.feature_maps or 0)
    config.check_elements(max(n_outputs, maps, *units))
    if config.n_hidden:
        rules.check_elements(n_outputs, n_hidden=max(config.n_hidden))


def load(run: str | Path) -> IWAE:
    """The model of a run, with the state of its newest checkpoint.

    With early stopping, that is the checkpoint of the best epoch.

    `fit` and `evaluate` work at once: the model is compiled with the objective, the k
    and the optimizer of the run. The optimizer goes on at the step of the checkpoint,
    so its schedule does too; after the last step of `--schedule fast`, the learning
    rate is 0. A trained model of the package has no state of its optimizer, which
    starts anew. An execution has one step, because the number of batches is yours.

    Args:
      run: the directory of a run, or the name of a trained model of the package.

    Returns:
      model: the model, compiled.

    Raises:
      UsageError: if there is no such run, or its newest checkpoint cannot be read.
    """
    return _loaded(pretrained.find(run))


def _loaded(this):
    """The model of a run, compiled, with the optimizer's state if there is one."""
    model = this.model
    n_train, before = this.record["data"]["n_train"], this.steps_before
    _compile(model, this.config, n_train, steps_before=before)
    if has_optimizer(this.checkpoint):
        this.restore(model)
    return model


# Four sources of the initial weights. Each function gives them to the model, and
# returns what the record of the run must say about them.


def from_scratch(model: IWAE, config: Config, record: dict) -> dict:
    """Keeps the initial weights of a model, which are a function of the seed."""
    return {}


def from_run(model: IWAE, config: Config, record: dict) -> dict:
    """Gives a model the weights of the run `init_from`, with a new optimizer.

    Raises:
      UsageError: if there is no such run, or it has other networks.
    """
    return {"init": _take_from(model, "init_from", Run(config.init_from))}


def from_state(model: IWAE, config: Config, record: dict) -> dict:
    """Gives a model the weights and the optimizer's state of the run `continue_from`.

    The optimizer goes on at its iteration, so that the bias correction of Adam, the
    warm-up and the noise go on too. The schedule of the learning rate begins anew.

    Raises:
      UsageError: if there is no such run, it has other networks or another optimizer,
        or its checkpoint has no state of the optimizer.
    """
    other = Run(config.continue_from)
    init = _take_from(model, "continue_from", other)
    trained_by = other.config.optimizer
    if trained_by != config.optimizer:
        raise UsageError(
            f"continue_from: must be a run with the same optimizer, got {str(other)!r} "
            f"with {trained_by} for {config.optimizer}"
        )
    if not has_optimizer(other.checkpoint):
        raise UsageError(
            "continue_from: must be a run with the state of its optimizer, got "
            f"{str(other)!r} with weights only"
        )
    source = _loaded(other).optimizer
    iterations = int(source.iterations.numpy())
    n_train, n_at_once = record["data"]["n_train"], model.steps_per_execution
    _compile(model, config, n_train, n_at_once, iterations)
    for own, its in zip(*map(_slots, (model.optimizer, source)), strict=True):
        own.assign(its)
    return {"init": init | {"iterations": iterations}}


def _slots(optimizer):
    """The state of an optimizer, without the learning rate that it may have."""
    rate = optimizer._learning_rate
    return [variable for variable in optimizer.variables if variable is not rate]


def _take_from(model, argument, other):
    """Gives a model the weights of a run; returns what the record says about them."""
    try:
        source, options = other.model, other.record["config"]
        newest = other.checkpoint
    except UsageError as error:
        raise UsageError(str(error).replace("run_dir", argument, 1)) from None
    _take_weights(model, source, argument, other)
    return {
        "run": other.directory.resolve().name,
        "objective": options["objective"],
        "n_samples": options["n_samples"],
        "step": step_of(newest),
        "weights_sha256": sha256_of_file(newest),
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
    return {
        "pretrained": {
            "name": name,
            "weights_sha256": sha256_of_file(source.checkpoint),
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
    last = source.report.get("best_epoch", config.epochs)
    figures.painter(this, model, config, sets, metrics)(last)
    metrics.on_train_end()


def take_best(this: Run, model: IWAE, config: Config, sets: data.Sets) -> None:
    """Gives a model the state after its best epoch, and pictures it.

    It also says whether and why training has stopped early.

    Raises:
      UsageError: if the checkpoint of that epoch cannot be read.
    """
    rows = this.rows()
    best = best_of(rows)
    this.checkpoints().restore_newest(model, int(best["step"]))
    epoch = int(best["epoch"])
    if stops(rows, config.early_stopping):
        say(
            f"stopped early after epoch {rows[-1]['epoch']}: no validation bound since "
            f"epoch {epoch} was better than its {float(best['test_bound']):.2f}"
        )
    if training.is_watched(epoch, config.epochs):  # it has been pictured
        return
    metrics = Metrics(this, config.batch_size, rows)
    metrics.set_model(model)
    figures.painter(this, model, config, sets, metrics)(epoch)
    metrics.on_train_end()


def train(
    this: Run,
    model: IWAE,
    config: Config,
    sets: data.Sets,
    devices: Devices,
    watch: Watch | None = None,
) -> None:
    """Trains a model from the present state of the run to the end of the last epoch.

    Args:
      this: the run; gets checkpoints, metrics and figures.
      model: compiled; gets the trained weights.
      config: options of the run.
      sets: training and test images.
      devices: those that the model was made for. Only the first worker writes.
      watch: see `run`.

    Raises:
      UsageError: if the workers have found checkpoints of different steps.
    """
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), config.batch_size)
    n_steps = config.epochs * steps_per_epoch
    checkpoints = this.checkpoints(
        config.checkpoint_seconds,
        steps_per_epoch,
        bool(config.early_stopping),
        devices,
    )
    checkpoints.set_model(model)
    first_step = checkpoints.restore(model)
    found = devices.all(first_step)
    if len(set(found)) > 1:
        raise UsageError(
            "run_dir: must be the same directory for all workers, got checkpoints of "
            f"steps {', '.join(map(str, found))}"
        )
    checkpoints.rows = this.rows(first_step)
    lost = lost_epochs(checkpoints.rows, first_step // steps_per_epoch)
    if lost and config.early_stopping:
        raise UsageError(
            "early_stopping: must have the metrics of all epochs, got none of epochs "
            f"{lost} in {str(this)!r}; train it again in another --run_dir"
        )
    if lost:
        say(f"{this}: the metrics of epochs {lost} are lost")
    is_over = first_step >= n_steps or stops(checkpoints.rows, config.early_stopping)
    if is_over and not devices.worker:
        this.write_rows(checkpoints.rows)
    if is_over:
        return
    if first_step:
        say(f"goes on at step {first_step} of {n_steps}")
    stages = schedules.stages(config)
    callbacks = [training.StopWhenDiverged(checkpoints)]
    if not devices.worker:
        this.note_devices(first_step, devices.n_replicas)
        metrics = Metrics(this, config.batch_size, checkpoints.rows, config.histograms)
        watchers = [figures.painter(this, model, config, sets, metrics)]
        if watch is not None:
            watchers.append(lambda epoch: watch(model, epoch, this))
        callbacks += [
            training.Display(stages, steps_per_epoch, first_step),
            metrics,
            *(training.AtEpochs(config.epochs, watcher) for watcher in watchers),
        ]
    if config.early_stopping and not devices.worker:
        callbacks.append(training.StopEarly(checkpoints.rows, config.early_stopping))
    if config.early_stopping and devices.n_workers > 1:
        callbacks.append(training.StopTogether(devices))
    callbacks.append(checkpoints)
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
                watches_all=bool(config.early_stopping),
            )
    except KeyboardInterrupt:
        say(
            f"\nsaved at step {checkpoints.newest_step()}; "
            "the same command goes on from there"
        )
        raise
    checkpoints.save()


def facts_of_devices(this: Run, devices: Devices) -> dict:
    """The part of a report about the devices that have trained and scored a run."""
    facts, noted = {"device": devices.description}, this.record.get("devices")
    if noted:
        facts["devices"] = noted
    if devices.n_workers > 1:
        facts["workers"] = devices.n_workers
    return facts


def facts_of_training(this: Run, config: Config, sets: data.Sets) -> dict:
    """The part of a report about training; the seconds are None if they are lost."""
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), config.batch_size)
    rows, epochs, best = this.rows(), config.epochs, {}
    if config.early_stopping:
        epochs = int(rows[-1]["epoch"])
        best = {"best_epoch": int(best_of(rows)["epoch"])}
    last = {int(row["epoch"]): row for row in rows}.get(epochs)
    return {
        "epochs": epochs,
        "steps": epochs * steps_per_epoch,
        **best,
        "train_seconds": float(last["seconds"]) if last else None,
    }
