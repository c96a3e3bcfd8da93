"""Measurements of a run: `metrics.csv`, and the same in TensorBoard.

TensorBoard's tags are in groups: `bound/`, `parts/`, `units/`, `speed/`, `images/` and
`weights/` during training, `score/` at the end.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from iwae_tf.files import naming
from iwae_tf.measures.units import Units
from iwae_tf.plots.layout import displayable
from iwae_tf.runs import names
from iwae_tf.runs.checkpoints import steps_done
from iwae_tf.runs.config import Config, kind_of
from iwae_tf.runs.rows import SCALARS, lines_of
from iwae_tf.runs.run import Run
from iwae_tf.runs.schedules import learning_rate_at

_SHOWN_WIDTH = 600  # pixels of a picture in TensorBoard, about
_LONGEST_TEXT = 60  # characters of an option in TensorBoard
_PARTS = ("log_px", "log_pz", "log_qz")


class Metrics(keras.callbacks.Callback):
    """Writes `metrics.csv` and TensorBoard's scalars and histograms, once an epoch."""

    def __init__(
        self,
        run: Run,
        batch_size: int,
        rows: list[dict[str, str]],
        histograms: bool = False,
    ):
        """Opens the files.

        Args:
          run: gets `metrics.csv` and `tensorboard/`.
          batch_size: number of images in one step.
          rows: rows to begin with. Those of later epochs are added to this list.
          histograms: whether to write histograms of the weights.
        """
        super().__init__()
        self.path = run.directory / "metrics.csv"
        self.rows = rows
        self._batch_size, self._histograms = batch_size, histograms
        run.write_rows(rows)
        seconds_before = float(rows[-1]["seconds"]) if rows else 0.0
        self._start = time.monotonic() - seconds_before
        self._directory = run.directory / "tensorboard"
        self._writers = {}
        for part in ("train", "test"):
            with _naming(self._directory / part):
                self._writers[part] = tf.summary.create_file_writer(
                    str(self._directory / part)
                )

    @contextlib.contextmanager
    def _writing(self, part):
        step = steps_done(self.model)
        with _naming(self._directory / part), self._writers[part].as_default(step):
            yield

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock for the images per second."""
        self._epoch_start = (time.monotonic(), steps_done(self.model))

    def on_epoch_end(self, epoch, logs=None):
        """Writes a row, and sends its values to TensorBoard."""
        now, step = time.monotonic(), steps_done(self.model)
        started, first_step = self._epoch_start
        rate = (step - first_step) * self._batch_size / (now - started)
        train = {name: logs[name] for name in SCALARS}
        test = {name: logs[f"val_{name}"] for name in SCALARS}
        rates = {
            "learning_rate": learning_rate_at(
                self.model.optimizer, self.model.steps_before + step - 1
            ),
            "images_per_second": rate,
        }
        row = {
            "epoch": epoch + 1,
            "step": step,
            "seconds": round(now - self._start, 3),
            **{name: f"{value:.7g}" for name, value in rates.items()},
            "train_samples": self.model.train_samples,
            **{f"train_{name}": f"{value:.4f}" for name, value in train.items()},
            **{f"test_{name}": f"{value:.4f}" for name, value in test.items()},
        }
        self.rows.append({name: str(value) for name, value in row.items()})
        with naming(self.path), self.path.open("a") as file:
            file.write(f"{lines_of(self.rows[-1:])[1]}\n")
            file.flush()
            os.fsync(file.fileno())
        for part, values in (("train", train), ("test", test)):
            with self._writing(part):
                for name, value in values.items():
                    group = "parts" if name in _PARTS else "bound"
                    tf.summary.scalar(f"{group}/{name}", value)
        with self._writing("train"):
            for name, value in rates.items():
                tf.summary.scalar(f"speed/{name}", value)
            if self._histograms:
                for variable in self.model.trainable_variables:
                    tf.summary.histogram(f"weights/{variable.path}", variable)

    def write_image(self, name: str, image: np.ndarray) -> None:
        """Sends one picture to TensorBoard, enlarged so that it can be read.

        Args:
          name: what it shows.
          image: [height, width, channels], values in 0..1.
        """
        image = displayable(image)
        factor = max(1, round(_SHOWN_WIDTH / image.shape[1]))
        enlarged = image.repeat(factor, axis=0).repeat(factor, axis=1)
        with self._writing("test"):
            tf.summary.image(f"images/{name}", enlarged[None])

    def write_units(self, layers: tuple[Units, ...]) -> None:
        """Sends statistics of latent units to TensorBoard, layer by layer."""
        with self._writing("test"):
            for level, layer in enumerate(layers, 1):
                tf.summary.scalar(f"units/active/z{level}", layer.active.sum())
                activity = np.log10(np.maximum(layer.activity, 1e-6))
                tf.summary.histogram(f"units/log10_activity/z{level}", activity)
                if layer.kl is not None:
                    tf.summary.scalar(f"units/kl/z{level}", layer.kl.sum())
                    tf.summary.histogram(f"units/kl_per_unit/z{level}", layer.kl)

    def on_train_end(self, logs=None):
        """Writes everything to disk."""
        for part, writer in self._writers.items():
            with _naming(self._directory / part):
                writer.flush()


@contextlib.contextmanager
def _naming(directory: Path) -> Iterator[None]:
    """Turns errors of TensorFlow's files into those of the system."""
    try:
        yield
    except tf.errors.OpError as error:
        why = error.message.partition("\n")[0].rpartition("; ")[2]
        raise OSError(None, why, str(directory)) from None


def write_outcome(run: Run, report: dict) -> None:
    """Sends the options and the scores of a run to TensorBoard's page HPARAMS.

    What an earlier score has sent is removed.

    Args:
      run: gets `tensorboard/score/`.
      report: the content of its `report.json`.
    """
    directory = run.directory / "tensorboard" / "score"
    earlier = [*directory.glob("events.out.tfevents.*")]
    with _naming(directory):
        writer = tf.summary.create_file_writer(str(directory))
        with writer.as_default(report["steps"]):
            hparams.hparams(_options(report), trial_id=str(run))
            for name, value in _outcome(report).items():
                tf.summary.scalar(f"score/{name}", value)
        writer.close()
    for path in earlier:
        path.unlink()


def _options(report):
    """The options of a run as TensorBoard takes them: numbers and short texts.

    TensorBoard finds which options differ among the runs that have them. So a text that
    is not given is there too; a number cannot be, because a column has one type.
    """
    values = report["config"] | {
        "epochs": report["epochs"],
        "eval_samples": report["test"]["n_samples"],
    }
    for field in dataclasses.fields(Config):
        if values.get(field.name, "") is None and kind_of(field) in (str, tuple):
            values[field.name] = "default"
    if "init" in report:
        values["start"] = names.trained_as(report["init"])
    return {name: _plain(v) for name, v in values.items() if v is not None}


def _plain(value):
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"…{value[1 - _LONGEST_TEXT :]}"
    return value


def _outcome(report):
    """The scores of a run, in nats per image, units and seconds."""
    values = {
        "log_px": report["test"]["log_likelihood"],
        "elbo": report["test"]["elbo"],
        "active_units": sum(layer["n_active"] for layer in report["units"]),
        "training_seconds": report["train_seconds"],
    }
    return {name: value for name, value in values.items() if value is not None}
