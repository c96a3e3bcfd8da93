"""Measurements during training: `metrics.csv`, and the same in TensorBoard."""

import csv
import os
import time

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.files import written_whole
from iwae_tf.measures.units import Units
from iwae_tf.plots.layout import displayable
from iwae_tf.runs.checkpoints import steps_done
from iwae_tf.runs.run import Run
from iwae_tf.runs.schedules import learning_rate_at

SCALARS = ("bound", "vae_elbo", "iwae_elbo", "log_px", "log_pz", "log_qz")


class Metrics(keras.callbacks.Callback):
    """Writes `metrics.csv` and TensorBoard's scalars and histograms, once an epoch."""

    COLUMNS = (
        "epoch",
        "step",
        "seconds",
        "learning_rate",
        "images_per_second",
        "train_samples",
        *(f"train_{name}" for name in SCALARS),
        *(f"test_{name}" for name in SCALARS),
    )

    def __init__(
        self,
        run: Run,
        batch_size: int,
        first_step: int,
        histograms: bool = False,
        rows: list[dict[str, str]] | None = None,
    ):
        """Opens the files and drops the rows after the step to continue from.

        Args:
          run: gets `metrics.csv` and `tensorboard/`.
          batch_size: number of images in one step.
          first_step: number of steps that an earlier start has done.
          histograms: whether to write histograms of the weights.
          rows: rows to begin with, by default those of the run up to `first_step`.
        """
        super().__init__()
        self.path = run.directory / "metrics.csv"
        self._batch_size, self._histograms = batch_size, histograms
        if rows is None:
            rows = [row for row in run.metrics(0) if int(row["step"]) <= first_step]
        with (
            written_whole(self.path) as unfinished,
            unfinished.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        seconds_before = float(rows[-1]["seconds"]) if rows else 0.0
        self._start = time.monotonic() - seconds_before
        self._writers = {
            part: tf.summary.create_file_writer(
                str(run.directory / "tensorboard" / part)
            )
            for part in ("train", "test")
        }

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
            "learning_rate": learning_rate_at(self.model.optimizer, step - 1),
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
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS).writerow(row)
            file.flush()
            os.fsync(file.fileno())  # the next checkpoint counts on this row
        for part, values in (("train", train | rates), ("test", test)):
            with self._writers[part].as_default(step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
        if self._histograms:
            with self._writers["train"].as_default(step):
                for variable in self.model.trainable_variables:
                    tf.summary.histogram(variable.path, variable)

    def write_images(self, name: str, images: np.ndarray) -> None:
        """Sends one picture [height, width, channels] to TensorBoard."""
        with self._writers["test"].as_default(steps_done(self.model)):
            tf.summary.image(name, displayable(images)[None])

    def write_units(self, layers: tuple[Units, ...]) -> None:
        """Sends statistics of latent units to TensorBoard, layer by layer."""
        with self._writers["test"].as_default(steps_done(self.model)):
            for level, layer in enumerate(layers, 1):
                tf.summary.scalar(f"active_units/z{level}", layer.active.sum())
                activity = np.log10(np.maximum(layer.activity, 1e-6))
                tf.summary.histogram(f"log10_activity/z{level}", activity)
                if layer.kl is not None:
                    tf.summary.scalar(f"kl/z{level}", layer.kl.sum())
                    tf.summary.histogram(f"kl_per_unit/z{level}", layer.kl)

    def on_train_end(self, logs=None):
        """Writes everything to disk."""
        for writer in self._writers.values():
            writer.flush()
