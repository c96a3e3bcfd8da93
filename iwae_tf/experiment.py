"""One run: data, model, fit, score, figures, and a directory with the evidence."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from iwae_tf import (
    data,
    datasets,
    plots,
    pretrained,
    randomness,
    records,
    schedules,
    training,
    units,
    zoo,
)
from iwae_tf.config import Config
from iwae_tf.errors import UsageError
from iwae_tf.evaluation import LADDER, Likelihood, log_likelihood, standard_error
from iwae_tf.model import IWAE
from iwae_tf.progress import Progress
from iwae_tf.records import caption
from iwae_tf.results import summary

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
    say(f"{caption(config)}: {run_dir}")
    path = run_dir / "report.json"
    if path.exists() and not config.rescore:
        report = json.loads(path.read_text())
        say("finished earlier; --rescore scores it again")
        say(summary(report))
        return report
    say(f"{device}, {'compiled by XLA' if config.jit else 'not compiled (--nojit)'}")
    if source:
        picture(model, config, sets, run_dir, source)
    else:
        train(model, config, sets, run_dir, watch)
    report = record | score(model, config, sets, run_dir)
    rows = training.read_metrics(run_dir / "metrics.csv")
    report |= {
        "epochs": int(rows[-1]["epoch"]),
        "steps": int(rows[-1]["step"]),
        "train_seconds": float(rows[-1]["seconds"]),
        "device": device,
        "versions": records.versions(),
        "commit": records.commit(),
    }
    records.write_json(path, report)
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
      UsageError: if there is no such run or it has no checkpoint.
    """
    path = Path(run_dir) / "config.json"
    checkpoints = training.Checkpoints(Path(run_dir) / "checkpoints")
    if not path.exists() or not checkpoints.paths():
        raise UsageError(
            f"run_dir: must hold a run with a checkpoint, got {str(run_dir)!r}"
        )
    record = json.loads(path.read_text())
    model = zoo.build(
        records.config_of(record),
        record["data"]["image_shape"],
        len(record["data"].get("classes", ())),
    )
    checkpoints.restore(model)
    return model


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
        source = load(run_dir)
        source_config = json.loads((Path(run_dir) / "config.json").read_text())[
            "config"
        ]
    except UsageError as error:
        raise UsageError(str(error).replace("run_dir", "init_from", 1)) from None
    if not _assign(model, source):
        raise UsageError(
            "init_from: must be a run with the same networks and image size, got "
            f"{str(run_dir)!r} with latents {source.posterior.n_latent} for "
            f"{model.posterior.n_latent}"
        )
    newest = training.Checkpoints(Path(run_dir) / "checkpoints").paths()[-1]
    return {
        "run": Path(run_dir).resolve().name,
        **{name: source_config[name] for name in ("objective", "n_samples")},
        "step": training.Checkpoints(newest.parent).newest_step(),
        "weights_sha256": records.sha256_of_file(newest),
    }


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
    metrics = training.Metrics(run_dir, config.batch_size, last_step, False)
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
    if first_step:
        say(f"goes on at step {first_step} of {config.epochs * steps_per_epoch}")
    if first_step < config.epochs * steps_per_epoch:
        metrics = training.Metrics(
            run_dir, config.batch_size, first_step, config.histograms
        )
        watchers = [painter(model, config, sets, run_dir, metrics)]
        if watch is not None:
            watchers.append(lambda epoch: watch(model, epoch, run_dir))
        callbacks = [
            training.StopWhenDiverged(checkpoints),
            training.Display(
                config.epochs, steps_per_epoch, first_step, schedules.samples(config)
            ),
            metrics,
            *(training.AtEpochs(config.epochs, watcher) for watcher in watchers),
            checkpoints,
        ]
        try:
            with checkpoints.guard():
                training.fit(
                    model,
                    sets,
                    epochs=config.epochs,
                    batch_size=config.batch_size,
                    binarization=config.binarization,
                    samples=schedules.samples(config),
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
    metrics: training.Metrics,
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
        metrics.write_units(unit_statistics(model, config, sets, N_WATCHED))

    return paint


def reconstructions(model, config, sets) -> tuple[np.ndarray, np.ndarray]:
    """Test images, spread over the set, and E[x|z] for one z ~ q(z|x) of each."""
    n = min(N_RECONSTRUCTIONS_SHOWN, len(sets.x_test))
    chosen = np.linspace(0, len(sets.x_test) - 1, n).astype(int)
    x = sets.x_test[chosen]
    context = sets.context_test[chosen] if sets.n_context else None
    seed = randomness.seed_of(config.seed, randomness.FIGURES, 1)
    return x, model.reconstruct(x, seed, context).numpy()


def unit_statistics(model, config, sets, n_images=None) -> tuple[units.Units, ...]:
    """Statistics of the latent units over the first test images, by default all."""
    context = sets.context_test[:n_images] if sets.n_context else None
    return units.statistics(
        model, sets.x_test[:n_images], seed=config.seed, context=context
    )


def draw_figures(model: IWAE, config: Config, sets: data.Sets, run_dir: Path):
    """Writes the figures of a trained run."""
    title = f"{caption(config)} · {config.epochs} epochs"
    sheet = plots.reconstruction_sheet(*reconstructions(model, config, sets), title)
    plots.save(sheet, run_dir / "reconstructions.png")
    rows = training.read_metrics(run_dir / "metrics.csv")
    plots.save(plots.training_curves(rows, title), run_dir / "curves.png")
    frames = sorted((run_dir / "figures").glob("samples-*.png"))
    plots.animate(frames, run_dir / "samples.gif")


def score(model: IWAE, config: Config, sets: data.Sets, run_dir: Path) -> dict:
    """Scores a model and keeps the values of every image in `scores.npz`.

    Returns:
      part of the report: `test`, `units` and `score_seconds`.
    """
    n_images = len(sets.x_test)
    name = "validation" if config.validation else "test"
    say(f"scoring {n_images} {name} images with {config.eval_samples} samples each")
    progress = Progress(n_images, "images")
    start = time.monotonic()
    try:
        likelihood = log_likelihood(
            model,
            sets.x_test,
            config.eval_samples,
            chunk=config.eval_chunk,
            seed=config.seed,
            jit_compile=config.jit,
            on_progress=progress.update,
            ladder={*LADDER, config.n_groups * config.n_samples},
            with_jackknife=config.jackknife,
            context=sets.context_test,
        )
    except KeyboardInterrupt:
        say("\nnot scored; the same command scores the trained model")
        raise
    finally:
        progress.close()
    np.savez(
        run_dir / "scores.npz",
        log_px=likelihood.log_px,
        ess=likelihood.ess,
        log_px_given_z=likelihood.log_px_given_z,
        kl=likelihood.kl,
        **{f"bound_{k}": values for k, values in likelihood.bounds.items()},
        **{f"jackknife_{order}": v for order, v in likelihood.jackknife.items()},
    )
    return {
        "test": summarise(likelihood)
        | {"n_samples": config.eval_samples, "chunk": config.eval_chunk},
        "units": [
            describe_units(layer) for layer in unit_statistics(model, config, sets)
        ],
        "score_seconds": round(time.monotonic() - start, 3),
    }


def summarise(likelihood: Likelihood) -> dict:
    """Means over the test images, nats per image."""
    reconstruction, kl = likelihood.log_px_given_z.mean(), likelihood.kl.mean()
    jackknife = {
        str(order): {
            "log_likelihood": round(float(values.mean()), 4),
            "standard_error": round(standard_error(values), 4),
        }
        for order, values in likelihood.jackknife.items()
    }
    return {
        "n_images": len(likelihood.log_px),
        "log_likelihood": round(likelihood.mean, 4),
        "standard_error": round(likelihood.standard_error, 4),
        "scoring_error": round(likelihood.scoring_error, 4),
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


def describe_units(layer: units.Units) -> dict:
    """The units of one stochastic layer: how many are active, and each one's values."""
    values = {
        name: [float(f"{value:.4g}") for value in getattr(layer, name)]
        for name in ("activity", "variance", "kl")
        if getattr(layer, name) is not None
    }
    return {"n_active": int(layer.active.sum()), **values}


def say(line: str) -> None:
    """Prints at once, also into a file."""
    print(line, flush=True)
