"""One run: data, model, fit, score, figures, and a directory with the evidence."""

import dataclasses
import json
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from iwae_tf import data, datasets, plots, randomness, training, zoo
from iwae_tf.config import Config
from iwae_tf.errors import UsageError
from iwae_tf.evaluation import LADDER, Likelihood, log_likelihood, standard_error
from iwae_tf.model import IWAE
from iwae_tf.progress import Progress
from iwae_tf.results import summary

TEST_SEED = 20160509  # test images are binarised once, alike in every run
N_SAMPLES_SHOWN = 100
N_RECONSTRUCTIONS_SHOWN = 50


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
    if images is None:
        images = datasets.load(config.dataset, config.data_dir, config.offline)
    config = dataclasses.replace(config, dataset=images.name)
    run_dir = Path(config.run_dir or Path("runs") / run_name(config))
    x_test = binary_test_images(config, images)
    record = {"config": config.of_run(), "data": describe(images, x_test)}
    model = build(config, images)
    claim(run_dir, record)
    say(f"{caption(config)}: {run_dir}")
    path = run_dir / "report.json"
    if path.exists() and not config.rescore:
        report = json.loads(path.read_text())
        say("finished earlier; --rescore scores it again")
        say(summary(report))
        return report
    say(f"{device}, {'compiled by XLA' if config.jit else 'not compiled (--nojit)'}")
    train(model, config, images.x_train, x_test, run_dir, watch)
    report = record | score(model, config, x_test, run_dir)
    rows = training.read_metrics(run_dir / "metrics.csv")
    report |= {
        "epochs": int(rows[-1]["epoch"]),
        "steps": int(rows[-1]["step"]),
        "train_seconds": float(rows[-1]["seconds"]),
        "device": device,
        "versions": versions(),
        "commit": commit(),
    }
    write_json(path, report)
    say(summary(report))
    return report


def run_below(
    directory: Path,
    config: Config,
    images: datasets.Images,
    watch: Callable[[IWAE, int, Path], None] | None = None,
) -> tuple[Path, dict]:
    """One of many runs of a task, in a directory that another start finds again.

    Args:
      directory: of the task.
      config: options of the run; the run's own directory is below `directory`.
      images: its data set.
      watch: see `run`.

    Returns:
      run_dir: the run's directory.
      report: what `report.json` holds.
    """
    run_dir = directory / f"{run_name(config)}-e{config.epochs}"
    config = dataclasses.replace(config, run_dir=str(run_dir))
    return run_dir, run(config, images, watch)


def binary_test_images(config: Config, images: datasets.Images) -> np.ndarray:
    """The test images of every run: binarised once, [n, height, width, channels]."""
    return data.binarize(images.x_test, config.binarization, TEST_SEED).numpy()


def run_name(config: Config) -> str:
    """What a run is, as the name of a directory."""
    options = f"-m{config.n_groups}" if config.n_groups > 1 else ""
    if config.combination_beta is not None:
        options += f"-b{config.combination_beta:g}"
    return (
        f"{config.dataset}-{config.objective}-{config.stochastic_layers}l{options}"
        f"-k{config.n_samples}-s{config.seed}"
    )


def caption(config: Config) -> str:
    """What a run is, for people."""
    layers = config.stochastic_layers
    options = f" · m = {config.n_groups}" if config.n_groups > 1 else ""
    if config.combination_beta is not None:
        options += f" · ELBO × {config.combination_beta:g}"
    return (
        f"{config.dataset} · {config.objective} · {layers} "
        f"{'layer' if layers == 1 else 'layers'}{options} · k = {config.n_samples} · "
        f"seed {config.seed}"
    )


def describe(images: datasets.Images, x_test: np.ndarray) -> dict:
    """The facts of a data set that a result depends on.

    Args:
      images: the data set.
      x_test: its binarised test images.
    """
    return {
        "name": images.name,
        "image_shape": list(images.image_shape),
        "n_train": len(images.x_train),
        "n_test": len(x_test),
        "train_sha256": data.sha256(images.x_train),
        "binarized_test_sha256": data.sha256(x_test),
    }


def build(config: Config, images: datasets.Images) -> IWAE:
    """The compiled model of a run, with its initial weights.

    Raises:
      UsageError: if the options do not fit the data set or one another.
    """
    steps_per_epoch, steps_per_execution = data.steps_of_epoch(
        len(images.x_train), config.batch_size
    )
    model = zoo.burda(
        images.image_shape,
        config.stochastic_layers,
        config.n_latent,
        config.n_hidden,
        data.mean_image(images.x_train),
        config.seed,
    )
    rate = config.learning_rate or 1e-3
    if config.schedule == "burda":
        rate = training.burda_schedule(config.epochs * steps_per_epoch)
    model.compile(
        keras.optimizers.Adam(rate, epsilon=1e-4),
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
    config = record["config"]
    model = zoo.burda(
        tuple(record["data"]["image_shape"]),
        config["stochastic_layers"],
        config["n_latent"],
        config["n_hidden"],
        seed=config["seed"],
    )
    checkpoints.restore(model)
    return model


def claim(run_dir: Path, record: dict) -> None:
    """Makes a run directory, or makes sure that an old one is of the same run.

    Args:
      run_dir: the directory.
      record: configuration and data, written to `config.json`.

    Raises:
      UsageError: if the directory holds another run.
    """
    path = run_dir / "config.json"
    if not path.exists():
        # A part of config.json is what a kill leaves.
        if run_dir.exists() and {p.name for p in run_dir.iterdir()} - {"config.part"}:
            raise UsageError(
                f"run_dir: must be new, empty or a run, got {str(run_dir)!r}"
            )
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return
    old, new = json.loads(path.read_text()), json.loads(json.dumps(record))
    # A run that was started before an option existed has its default.
    old["config"] = Config().of_run() | old["config"]
    for part in ("config", "data"):
        for name in new[part]:
            was, now = old[part].get(name), new[part][name]
            if was != now:
                raise UsageError(
                    f"{name}: must be {was!r} to go on with {run_dir}, got {now!r}; "
                    "choose another --run_dir for another run"
                )


def train(
    model: IWAE,
    config: Config,
    x_train: np.ndarray,
    x_test: np.ndarray,
    run_dir: Path,
    watch: Callable[[IWAE, int, Path], None] | None = None,
) -> None:
    """Fits a model to the end of its last epoch, from wherever the run stands.

    Args:
      model: compiled; gets the trained weights.
      config: options of the run.
      x_train: grey training images.
      x_test: binary test images.
      run_dir: gets checkpoints, metrics and figures.
      watch: see `run`.
    """
    steps_per_epoch, _ = data.steps_of_epoch(len(x_train), config.batch_size)
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
        watchers = [painter(model, config, x_test, run_dir, metrics)]
        if watch is not None:
            watchers.append(lambda epoch: watch(model, epoch, run_dir))
        callbacks = [
            training.StopWhenDiverged(checkpoints),
            training.Display(config.epochs, steps_per_epoch, first_step),
            metrics,
            *(training.AtEpochs(config.epochs, watcher) for watcher in watchers),
            checkpoints,
        ]
        try:
            with checkpoints.guard():
                training.fit(
                    model,
                    x_train,
                    x_test,
                    epochs=config.epochs,
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
    draw_figures(model, config, x_test, run_dir)


def painter(
    model: IWAE,
    config: Config,
    x_test: np.ndarray,
    run_dir: Path,
    metrics: training.Metrics,
) -> Callable[[int], None]:
    """A function that pictures the model after a number of epochs."""
    seed = randomness.seed_of(config.seed, randomness.FIGURES)
    digits = len(str(config.epochs))
    (run_dir / "figures").mkdir(exist_ok=True)

    def paint(epoch):
        samples, means = (part.numpy() for part in model.sample(N_SAMPLES_SHOWN, seed))
        sheet = plots.sample_sheet(
            samples, means, f"{caption(config)} · epoch {epoch} of {config.epochs}"
        )
        plots.save(sheet, run_dir / "figures" / f"samples-{epoch:0{digits}}.png")
        metrics.write_images("samples", plots.montage(samples, 10))
        metrics.write_images("means", plots.montage(means, 10))
        pairs = np.stack(reconstructions(model, config, x_test), axis=1)
        pairs = pairs.reshape(-1, *pairs.shape[2:])
        metrics.write_images("reconstructions", plots.montage(pairs, 10))

    return paint


def reconstructions(model, config, x_test) -> tuple[np.ndarray, np.ndarray]:
    """Test images, spread over the set, and E[x|z] for one z ~ q(z|x) of each."""
    n = min(N_RECONSTRUCTIONS_SHOWN, len(x_test))
    x = x_test[np.linspace(0, len(x_test) - 1, n).astype(int)]
    seed = randomness.seed_of(config.seed, randomness.FIGURES, 1)
    return x, model.reconstruct(x, seed).numpy()


def draw_figures(model: IWAE, config: Config, x_test: np.ndarray, run_dir: Path):
    """Writes the figures of a trained run."""
    title = f"{caption(config)} · {config.epochs} epochs"
    sheet = plots.reconstruction_sheet(*reconstructions(model, config, x_test), title)
    plots.save(sheet, run_dir / "reconstructions.png")
    rows = training.read_metrics(run_dir / "metrics.csv")
    plots.save(plots.training_curves(rows, title), run_dir / "curves.png")
    frames = sorted((run_dir / "figures").glob("samples-*.png"))
    plots.animate(frames, run_dir / "samples.gif")


def score(model: IWAE, config: Config, x_test: np.ndarray, run_dir: Path) -> dict:
    """Scores a model and keeps the values of every image in `scores.npz`.

    Returns:
      part of the report: `test` and `score_seconds`.
    """
    say(f"scoring {len(x_test)} test images with {config.eval_samples} samples each")
    progress = Progress(len(x_test), "images")
    start = time.monotonic()
    try:
        likelihood = log_likelihood(
            model,
            x_test,
            config.eval_samples,
            chunk=config.eval_chunk,
            seed=config.seed,
            jit_compile=config.jit,
            on_progress=progress.update,
            ladder={*LADDER, config.n_groups * config.n_samples},
            with_jackknife=config.jackknife,
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


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("tensorflow", "keras", "tensorflow-probability", "numpy", "iwae_tf")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in names
    }


def commit() -> str | None:
    """The commit of this code, with a + if it was changed since; None if unknown."""
    here = Path(__file__).parent

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write_json(path: Path, value: dict) -> None:
    """Writes a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.replace(path)


def say(line: str) -> None:
    """Prints at once, also into a file."""
    print(line, flush=True)
