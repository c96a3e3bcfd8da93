"""Measurements during training: `metrics.csv`, and the same in TensorBoard."""

import contextlib
import os
import time

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.files import naming
from iwae_tf.measures.units import Units
from iwae_tf.plots.layout import displayable
from iwae_tf.runs.checkpoints import steps_done
from iwae_tf.runs.rows import SCALARS, lines_of
from iwae_tf.runs.run import Run
from iwae_tf.runs.schedules import learning_rate_at


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
            with self._naming(part):
                self._writers[part] = tf.summary.create_file_writer(
                    str(self._directory / part)
                )

    @contextlib.contextmanager
    def _writing(self, part):
        with self._naming(part), self._writers[part].as_default(steps_done(self.model)):
            yield

    @contextlib.contextmanager
    def _naming(self, part):
        """Turns errors of TensorFlow's files into those of the system."""
        try:
            yield
        except tf.errors.OpError as error:
            why = error.message.partition("\n")[0].rpartition("; ")[2]
            raise OSError(None, why, str(self._directory / part)) from None

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
        for part, values in (("train", train | rates), ("test", test)):
            with self._writing(part):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
        if self._histograms:
            with self._writing("train"):
                for variable in self.model.trainable_variables:
                    tf.summary.histogram(variable.path, variable)

    def write_images(self, name: str, images: np.ndarray) -> None:
        """Sends one picture [height, width, channels] to TensorBoard."""
        with self._writing("test"):
            tf.summary.image(name, displayable(images)[None])

    def write_units(self, layers: tuple[Units, ...]) -> None:
        """Sends statistics of latent units to TensorBoard, layer by layer."""
        with self._writing("test"):
            for level, layer in enumerate(layers, 1):
                tf.summary.scalar(f"active_units/z{level}", layer.active.sum())
                activity = np.log10(np.maximum(layer.activity, 1e-6))
                tf.summary.histogram(f"log10_activity/z{level}", activity)
                if layer.kl is not None:
                    tf.summary.scalar(f"kl/z{level}", layer.kl.sum())
                    tf.summary.histogram(f"kl_per_unit/z{level}", layer.kl)

    def on_train_end(self, logs=None):
        """Writes everything to disk."""
        for part, writer in self._writers.items():
            with self._naming(part):
                writer.flush()
