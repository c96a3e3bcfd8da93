"""Device, checkpoints and callbacks: what a resumable `fit` needs."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from iwae_tf import data
from iwae_tf.errors import Diverged, UsageError
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs.progress import Progress
from iwae_tf.runs.run import written_whole
from iwae_tf.runs.schedules import Stage, learning_rate_at


def use_device(name: str) -> str:
    """Chooses the device; a GPU's memory grows as it is needed.

    Must be called before TensorFlow makes its first tensor.

    Args:
      name: auto, cpu, gpu or gpu:N.

    Returns:
      description: for people.

    Raises:
      UsageError: if there is no such device.
    """
    gpus = tf.config.list_physical_devices("GPU")
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "gpu") or (
        index and not (kind == "gpu" and index.isdecimal())
    ):
        raise UsageError(f"device: must be auto, cpu, gpu or gpu:N, got {name!r}")
    if kind == "gpu" and int(index or 0) >= len(gpus):
        raise UsageError(
            f"device: TensorFlow must see the GPU, got {name!r} with "
            f"{len(gpus)} GPUs seen"
        )
    if kind == "cpu" or not gpus:
        tf.config.set_visible_devices([], "GPU")
        return f"CPU with {_own_cores()}"
    gpu = gpus[int(index or 0)]
    tf.config.set_visible_devices([gpu], "GPU")
    tf.config.experimental.set_memory_growth(gpu, True)
    return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)


def _own_cores():
    """The cores that this process may use; only Linux tells if not all."""
    is_told = hasattr(os, "sched_getaffinity")
    n = len(os.sched_getaffinity(0)) if is_told else os.cpu_count()
    return f"{n} {'core' if n == 1 else 'cores'}"


class Checkpoints(keras.callbacks.Callback):
    """Keeps the last two states of a run, each written whole or not at all.

    The state is weights, optimizer slots and the step: everything else is a function
    of them.
    """

    def __init__(self, directory: Path, seconds: float = 0.0, steps_per_epoch: int = 1):
        """Names the place.

        Args:
          directory: made when first needed.
          seconds: least time between two checkpoints.
          steps_per_epoch: optimizer steps.
        """
        super().__init__()
        self.directory = Path(directory)
        self._seconds, self._steps_per_epoch = seconds, steps_per_epoch
        self._is_interrupted = False
        self._last = time.monotonic()
        self._whole = None  # the checkpoint that was read or written last

    def paths(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        return sorted(self.directory.glob("step-*.weights.h5"))

    def newest_step(self) -> int:
        """The step of the newest checkpoint, 0 if there is none."""
        return max(map(step_of, self.paths()), default=0)

    def restore(self, model: IWAE) -> int:
        """Loads the newest checkpoint that can be read.

        Args:
          model: its optimizer's state is loaded too if it has one.

        Returns:
          step: optimizer steps done; 0 if there is no checkpoint.

        Raises:
          UsageError: if there are checkpoints and none can be read.
        """
        paths = self.paths()
        for path in reversed(paths):
            error = self._read(model, path)
            if error is None:
                return step_of(path)
            logging.warning("%s cannot be read: %s", path, str(error).split("\n")[0])
        if paths:
            raise UsageError(
                f"run_dir: a checkpoint must be readable, got {len(paths)} damaged "
                f"ones in {self.directory}; remove the folder to start over"
            )
        return 0

    def restore_newest(self, model: IWAE) -> Path:
        """Loads the newest checkpoint and no other.

        Args:
          model: see `restore`.

        Returns:
          path: of the checkpoint.

        Raises:
          UsageError: if there is none, or it cannot be read.
        """
        path = max(self.paths(), default=None)
        if path is None:
            raise UsageError(
                "run_dir: must hold a run with a checkpoint, got "
                f"{str(self.directory.parent)!r}"
            )
        if self._read(model, path) is not None:
            raise UsageError(
                f"run_dir: the newest checkpoint must be readable, got {str(path)!r}; "
                "the command of the run, with --rescore, makes it anew"
            )
        return path

    def _read(self, model, path):
        """What is wrong with a checkpoint, if anything."""
        try:
            model.load_weights(path)
        except Exception as error:  # of HDF5, zlib, Keras, ..., whatever the damage
            return error
        self._whole = path
        return None

    def save(self) -> None:
        """Writes the present state, unless there or not finite."""
        variables = [*self.model.weights, *self.model.optimizer.variables]
        if not all(np.isfinite(variable.numpy()).all() for variable in variables):
            return
        step = steps_done(self.model)
        path = self.directory / f"step-{step:010}.weights.h5"
        self._last = time.monotonic()
        if path == self._whole:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            self.model.save_weights(unfinished)
        self._whole = path
        before = [other for other in self.paths() if other < path]
        after = [other for other in self.paths() if other > path]  # not readable
        for other in before[:-1] + after:
            other.unlink()

    @contextlib.contextmanager
    def guard(self):
        """Makes Ctrl-C wait until the state is whole, and saves it then.

        Within an epoch that is after the present execution; at the end of an epoch,
        after its metrics and figures. A second Ctrl-C does not wait.
        """
        # Only the main thread gets signals; a shell's background job ignores Ctrl-C.
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield
            return

        def note(signum, frame):
            if self._is_interrupted:
                raise KeyboardInterrupt
            self._is_interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _save_if_due(self):
        is_due = time.monotonic() - self._last >= self._seconds
        if is_due or self._is_interrupted:
            self.save()
        if self._is_interrupted:
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        """Saves within a long epoch.

        Not at its end: the metrics and the figures of the epoch are still to come.
        """
        if steps_done(self.model) % self._steps_per_epoch:
            self._save_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Saves between epochs; must be the last callback to see the epoch."""
        self._save_if_due()


def step_of(path: Path) -> int:
    """The optimizer steps that a checkpoint has done, by its name."""
    return int(path.name.removeprefix("step-").partition(".")[0])


class StopWhenDiverged(keras.callbacks.Callback):
    """Stops at the first loss that is not finite, before anything of it is saved."""

    def __init__(self, checkpoints: Checkpoints):
        """Takes the checkpoints that the message names."""
        super().__init__()
        self._checkpoints = checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the step that the model noted.

        Raises:
          Diverged: if there is one.
        """
        step = int(self.model.first_bad_step.numpy())
        if step < 0:
            return
        paths = self._checkpoints.paths()
        raise Diverged(
            f"the loss was not finite at step {step} (counted from 0), learning rate "
            f"{learning_rate_at(self.model.optimizer, step):.3g}; "
            f"last good checkpoint: {paths[-1] if paths else 'none'}"
        )


class Display(keras.callbacks.Callback):
    """The progress of the whole run."""

    def __init__(
        self,
        stages: list[Stage],
        steps_per_epoch: int,
        first_step: int,
    ):
        """Takes the size of the run.

        Args:
          stages: of the whole run.
          steps_per_epoch: optimizer steps.
          first_step: steps done by an earlier start.
        """
        super().__init__()
        self._stages, self._steps_per_epoch = stages, steps_per_epoch
        self._epochs = stages[-1].end
        self._progress = Progress(self._epochs * steps_per_epoch, "steps", first_step)
        self._timed = None  # the samples of the steps that are timed
        self._test = ""

    def on_train_batch_end(self, batch, logs=None):
        """Shows epoch, rate, bounds and the time to go."""
        step, k = steps_done(self.model), self.model.train_samples
        if self._timed != k:  # what went before compiled, or had other samples
            self._progress.restart_clock(step)
            self._timed = k
        epoch = min((step - 1) // self._steps_per_epoch + 1, self._epochs)
        self._progress.update(
            step,
            f"epoch {epoch}/{self._epochs}  k {k}  "
            f"train {logs['bound']:.2f}{self._test}",
            self._left(step, k),
        )

    def _left(self, step, k):
        """The steps to come, in steps of k samples: one costs as much as k + 2."""
        n = self._steps_per_epoch
        costs = (
            max(0, end * n - max(step, first * n)) * (n_samples + 2)
            for first, end, n_samples in self._stages
        )
        return sum(costs) / (k + 2)

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the bound on the test batch for display."""
        self._test = f"  test {logs['val_bound']:.2f}"

    def on_train_end(self, logs=None):
        """Ends the line."""
        self._progress.close()


class AtEpochs(keras.callbacks.Callback):
    """Calls a function at epochs 0, 1, 2, 4, 8, ... and at the last."""

    def __init__(self, epochs: int, function: Callable[[int], None]):
        """Takes the function.

        Args:
          epochs: the last.
          function: of the number of epochs done.
        """
        super().__init__()
        self._epochs, self._function = epochs, function

    def on_train_begin(self, logs=None):
        """Epoch 0, unless an earlier start had it."""
        if steps_done(self.model) == 0:
            self._function(0)

    def on_epoch_end(self, epoch, logs=None):
        """The other epochs."""
        done = epoch + 1
        if done & (done - 1) == 0 or done == self._epochs:
            self._function(done)


def fit(
    model: IWAE,
    sets: data.Sets,
    *,
    stages: list[Stage],
    batch_size: int,
    binarization: str,
    first_step: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Trains from a step on to the end of the last epoch.

    Args:
      model: compiled, with `first_step` steps done.
      sets: training and test images; the first 500 of these at most are watched.
      stages: of the whole run.
      batch_size: images per step.
      binarization: see `iwae_tf.data.binarize`.
      first_step: where to go on.
      callbacks: get epochs counted over the whole run.
    """
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), batch_size)
    first_epoch, n_done = divmod(first_step, steps_per_epoch)
    test_batch = min(len(sets.x_test), 100)
    n_watched = min(len(sets.x_test), 500) // test_batch * test_batch
    watched = sets.x_test[:n_watched]
    if sets.context_test is not None:
        watched = (watched, sets.context_test[:n_watched])
    spans = [
        (max(first, first_epoch), end, steps_per_epoch, k)
        for first, end, k in stages
        if end > first_epoch
    ]
    if n_done and spans:  # the rest of the epoch in which an earlier start stopped
        (first, end, n_steps, k), *others = spans
        rest = (first, first + 1, n_steps - n_done, k)
        spans = [rest, (first + 1, end, n_steps, k), *others]
    for first, last, n_steps, k in spans:
        if first == last:
            continue
        model.train_with(k)
        model.fit(
            data.training_batches(
                sets.x_train,
                batch_size,
                model.seed,
                first * steps_per_epoch + steps_per_epoch - n_steps,
                binarization,
                sets.context_train,
            ),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=n_steps,
            shuffle=False,
            validation_data=watched,
            validation_batch_size=test_batch,
            callbacks=callbacks,
            verbose=0,
        )


def steps_done(model: IWAE) -> int:
    """The optimizer steps that a compiled model has done."""
    return int(model.optimizer.iterations.numpy())
