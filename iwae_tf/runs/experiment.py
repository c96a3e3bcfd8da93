"""One run: data, model, fit, score, figures, and a directory with the evidence."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from iwae_tf import data, plots, randomness
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError
from iwae_tf.models import zoo
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs import pretrained, schedules, scoring, training
from iwae_tf.runs import run as records
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import Metrics, read_metrics
from iwae_tf.runs.progress import say
from iwae_tf.runs.results import summary
from iwae_tf.runs.run import caption

N_SAMPLES_SHOWN = 100
N_RECONSTRUCTIONS_SHOWN = 50
N_WATCHED = 500  # test images, at most, that are looked at during training


def run(
    config: Config,
    images: datasets.Images | None = None,
    watch: Callable[[IWAE, int, Path], None] | None = None,
) -> dict:
    """Trains and scores one model, or goes on where an earlier start stopped.

    Args:
      config: options of the run.
      images: its data set; by default the one that `config` names is loaded.
      watch: called with the model, the number of epochs done and the run's directory
        at epochs 0, 1, 2, 4, 8, ... and the last; again where a run goes on from
        before.

    Returns:
      report: what `report.json` holds.

    Raises:
      UsageError: for what the caller can put right.
      Diverged: if a loss is not finite.
    """
    device = training.use_device(config.device)
    source = pretrained.directory(config.pretrained) if config.pretrained else None
    if source:
        own = records.config_of(records.read_report(source)).of_run()
        config = dataclasses.replace(config, **own)
    if images is None:
        images = datasets.load(config.dataset, config.data_dir, config.offline)
    config = dataclasses.replace(config, dataset=images.name)
    name = config.pretrained or records.run_name(config)
    run_dir = Path(config.run_dir or Path("runs") / name)
    sets = data.sets_of(
        images, config.binarization, config.conditional, config.validation
    )
    record = {"config": config.of_run(), "data": describe(images, sets)}
    model = build(config, sets)
    if config.init_from:
        record["init"] = start_from(model, config.init_from)
    if source:
        record |= take(model, source, record)
    records.claim(run_dir, record)
    with records.locked(run_dir):
        say(f"{caption(config)}: {run_dir}")
        path = run_dir / "report.json"
        if path.exists() and not config.rescore:
            report = records.read_report(run_dir)
            say("finished earlier; --rescore scores it again")
            if config.scorer == "ais":
                if not source:
                    training.Checkpoints(run_dir / "checkpoints").restore_newest(model)
                _anneal(report, model, config, sets, run_dir)
            say(summary(report))
            return report
        compiled = "compiled by XLA" if config.jit else "not compiled (--nojit)"
        say(f"{device}, {compiled}")
        if source:
            picture(model, config, sets, run_dir, source)
        else:
            train(model, config, sets, run_dir, watch)
        report = record | scoring.score(model, config, sets, run_dir)
        rows = read_metrics(run_dir / "metrics.csv", config.epochs)
        report |= {
            "epochs": int(rows[-1]["epoch"]),
            "steps": int(rows[-1]["step"]),
            "train_seconds": float(rows[-1]["seconds"]),
            "device": device,
            "versions": records.versions(),
            "commit": records.commit(),
        }
        records.write_json(path, report)
        if config.scorer == "ais":
            _anneal(report, model, config, sets, run_dir)
        say(summary(report))
        return report


def _anneal(report, model, config, sets, run_dir):
    """Adds to a report, and to its file, what annealing finds."""
    report["ais"] = scoring.anneal(model, config, sets, run_dir, report["test"])
    records.write_json(run_dir / "report.json", report)


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
        facts |= {
            "classes": np.unique(images.y_train).tolist(),
            "labels_sha256": records.sha256_of_labels(images.y_train, images.y_test),
        }
    return facts


def build(config: Config, sets: data.Sets) -> IWAE:
    """The compiled model of a run, with its initial weights.

    Raises:
      UsageError: if the options do not fit the data set or one another.
    """
    steps_per_epoch, steps_per_execution = data.steps_of_epoch(
        len(sets.x_train), config.batch_size
    )
    model = zoo.build(
        config, sets.x_train.shape[1:], sets.n_context, data.mean_image(sets.x_train)
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


def load(run_dir: str | Path) -> IWAE:
    """The model of a run directory, with the weights of its newest checkpoint.

    Raises:
      UsageError: if there is no such run or its newest checkpoint cannot be read.
    """
    return _load(run_dir)[0]


def _load(run_dir):
    """The model, and the checkpoint it is of."""
    record = records.read_record(run_dir)
    model = zoo.build(
        records.config_of(record),
        record["data"]["image_shape"],
        len(record["data"].get("classes", ())),
    )
    path = training.Checkpoints(Path(run_dir) / "checkpoints").restore_newest(model)
    return model, path


def start_from(model: IWAE, run_dir: str | Path) -> dict:
    """Gives a model the weights of another run, and nothing of its optimizer.

    Args:
      model: gets the weights.
      run_dir: the other run's.

    Returns:
      record: what a result depends on: the run's name, its step, the checkpoint.

    Raises:
      UsageError: if there is no such run, or its networks are others.
    """
    try:
        source, newest = _load(run_dir)
        source_config = records.read_record(run_dir)["config"]
    except UsageError as error:
        raise UsageError(str(error).replace("run_dir", "init_from", 1)) from None
    if not _assign(model, source):
        raise UsageError(
            "init_from: must be a run with the same networks and image size, got "
            f"{str(run_dir)!r} with {_size(source)} for {_size(model)}"
        )
    return {
        "run": Path(run_dir).resolve().name,
        **{name: source_config[name] for name in ("objective", "n_samples")},
        "step": training.step_of(newest),
        "weights_sha256": records.sha256_of_file(newest),
    }


def _size(model):
    return (
        f"latents {model.posterior.n_latent}, images {model.generator.image_shape}, "
        f"{model.count_params():,} parameters"
    )


def _assign(model, source):
    pairs = list(zip(model.weights, source.weights, strict=False))
    is_same = len(model.weights) == len(source.weights) and all(
        own.shape == other.shape for own, other in pairs
    )
    if is_same:
        for own, other in pairs:
            own.assign(other)
    return is_same


def take(model: IWAE, source: Path, record: dict) -> dict:
    """Gives a model the weights of a trained one.

    Args:
      model: gets the weights.
      source: see `iwae_tf.pretrained.directory`.
      record: of the run.

    Returns:
      record: the trained model's name, the SHA-256 of its weights, its commit.

    Raises:
      UsageError: if it was trained on other data.
    """
    trained = records.read_report(source)
    for name, value in trained["data"].items():
        if record["data"].get(name) != value:
            raise UsageError(
                f"pretrained: {source.name} must have the data it was trained on, "
                f"{name} {value!r}, got {record['data'].get(name)!r}"
            )
    _assign(model, load(source))
    weights = pretrained.SHA256[source.name]
    facts = {"name": source.name, "weights_sha256": weights}
    return {"pretrained": facts | {"commit": trained["commit"]}}


def picture(
    model: IWAE, config: Config, sets: data.Sets, run_dir: Path, source: Path
) -> None:
    """Writes metrics and figures of a trained model as those of a run at its end."""
    shutil.copy(source / "metrics.csv", run_dir)
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), config.batch_size)
    last_step = config.epochs * steps_per_epoch
    metrics = Metrics(run_dir, config.batch_size, last_step, False)
    metrics.set_model(model)
    painter(model, config, sets, run_dir, metrics)(config.epochs)
    metrics.on_train_end()
    draw_figures(model, config, sets, run_dir)


def train(
    model: IWAE,
    config: Config,
    sets: data.Sets,
    run_dir: Path,
    watch: Callable[[IWAE, int, Path], None] | None = None,
) -> None:
    """Fits a model to the end of its last epoch, from wherever the run stands.

    Args:
      model: compiled; gets the trained weights.
      config: options of the run.
      sets: training and test images.
      run_dir: gets checkpoints, metrics and figures.
      watch: see `run`.
    """
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), config.batch_size)
    checkpoints = training.Checkpoints(
        run_dir / "checkpoints", config.checkpoint_seconds, steps_per_epoch
    )
    checkpoints.set_model(model)
    first_step = checkpoints.restore(model)
    if first_step < config.epochs * steps_per_epoch:
        if first_step:
            say(f"goes on at step {first_step} of {config.epochs * steps_per_epoch}")
        metrics = Metrics(run_dir, config.batch_size, first_step, config.histograms)
        watchers = [painter(model, config, sets, run_dir, metrics)]
        if watch is not None:
            watchers.append(lambda epoch: watch(model, epoch, run_dir))
        callbacks = [
            training.StopWhenDiverged(checkpoints),
            training.Display(schedules.stages(config), steps_per_epoch, first_step),
            metrics,
            *(training.AtEpochs(config.epochs, watcher) for watcher in watchers),
            checkpoints,
        ]
        try:
            with checkpoints.guard():
                training.fit(
                    model,
                    sets,
                    stages=schedules.stages(config),
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
    draw_figures(model, config, sets, run_dir)


def painter(
    model: IWAE,
    config: Config,
    sets: data.Sets,
    run_dir: Path,
    metrics: Metrics,
) -> Callable[[int], None]:
    """A function that pictures the model after a number of epochs."""
    seed = randomness.seed_of(config.seed, randomness.FIGURES)
    digits = len(str(config.epochs))
    context = None
    if sets.n_context:  # every class, one after another
        place = np.arange(N_SAMPLES_SHOWN) * sets.n_context // N_SAMPLES_SHOWN
        context = np.eye(sets.n_context, dtype=np.float32)[place]
    (run_dir / "figures").mkdir(exist_ok=True)

    def paint(epoch):
        samples, means = (
            part.numpy() for part in model.sample(N_SAMPLES_SHOWN, seed, context)
        )
        sheet = plots.sample_sheet(
            samples, means, f"{caption(config)} · epoch {epoch} of {config.epochs}"
        )
        plots.save(sheet, run_dir / "figures" / f"samples-{epoch:0{digits}}.png")
        metrics.write_images("samples", plots.montage(samples, 10))
        metrics.write_images("means", plots.montage(means, 10))
        pairs = np.stack(reconstructions(model, config, sets), axis=1)
        pairs = pairs.reshape(-1, *pairs.shape[2:])
        metrics.write_images("reconstructions", plots.montage(pairs, 10))
        metrics.write_units(scoring.unit_statistics(model, config, sets, N_WATCHED))

    return paint


def reconstructions(model, config, sets) -> tuple[np.ndarray, np.ndarray]:
    """Test images, spread over the set, and E[x|z] for one z ~ q(z|x) of each."""
    chosen = data.spread(len(sets.x_test), N_RECONSTRUCTIONS_SHOWN)
    x = sets.x_test[chosen]
    context = sets.context_test[chosen] if sets.n_context else None
    seed = randomness.seed_of(config.seed, randomness.FIGURES, 1)
    return x, model.reconstruct(x, seed, context).numpy()


def draw_figures(model: IWAE, config: Config, sets: data.Sets, run_dir: Path):
    """Writes the figures of a trained run."""
    title = f"{caption(config)} · {records.epochs(config.epochs)}"
    sheet = plots.reconstruction_sheet(*reconstructions(model, config, sets), title)
    plots.save(sheet, run_dir / "reconstructions.png")
    rows = read_metrics(run_dir / "metrics.csv", config.epochs)
    plots.save(plots.training_curves(rows, title), run_dir / "curves.png")
    frames = sorted((run_dir / "figures").glob("samples-*.png"))
    if frames:
        plots.animate(frames, run_dir / "samples.gif")
