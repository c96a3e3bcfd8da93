"""Checkpoints of a run: its last two states, each written whole or not at all."""

import contextlib
import hashlib
import io
import time
from pathlib import Path

import h5py
import keras
import numpy as np
from absl import logging

from iwae_tf import signals
from iwae_tf.errors import UsageError
from iwae_tf.files import read_json, write_json, written_whole
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs.devices import Devices
from iwae_tf.runs.rows import best_of, lines_of

_STEPS = "optimizer/vars/0"  # the optimizer's iterations in a checkpoint


class Checkpoints(keras.callbacks.Callback):
    """Keeps the last two states of a run, each written whole or not at all.

    The state consists of the weights, the optimizer slots and the step. Everything else
    is a function of these. A JSON file beside each checkpoint has its SHA-256, so that
    damage is noticed, and the lines of `metrics.csv` until then. Checkpoints of older
    versions have none.

    With early stopping, the best state until each of them is kept too.

    Attributes:
      rows: the rows of the metrics, to be kept beside the next checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        seconds: float = 0.0,
        steps_per_epoch: int = 1,
        keeps_best: bool = False,
        steps_before: int = 0,
        devices: Devices | None = None,
    ):
        """Takes the directory and the intervals.

        Args:
          directory: the directory of the checkpoints; created when first needed.
          seconds: minimum number of seconds between two checkpoints.
          steps_per_epoch: number of optimizer steps in an epoch.
          keeps_best: whether to keep the state after the epoch with the best row.
          steps_before: see `iwae_tf.IWAE`; the steps of checkpoints are without them.
          devices: those of the worker; only the first one writes, and all of them stop
            if one gets a signal.
        """
        super().__init__()
        self._devices = devices
        self._steps_before = steps_before
        self._keeps_best = keeps_best
        self.directory = Path(directory)
        self.rows = []
        self._seconds, self._steps_per_epoch = seconds, steps_per_epoch
        self._signal = None  # one that asked to stop
        self._last = time.monotonic()
        self._whole = None  # the checkpoint that was read or written last

    def paths(self) -> list[Path]:
        """The paths of all checkpoints, oldest first."""
        return sorted(self.directory.glob("step-*.weights.h5"))

    def _path_of(self, step):
        return self.directory / f"step-{step:010}.weights.h5"

    def newest_step(self) -> int:
        """The step of the newest checkpoint, 0 if there is none."""
        return max(map(step_of, self.paths()), default=0)

    def restore(self, model: IWAE) -> int:
        """Loads the newest checkpoint that can be read.

        Args:
          model: gets the weights, and the state of its optimizer if it has one.

        Returns:
          step: number of optimizer steps done; 0 if there is no checkpoint.

        Raises:
          UsageError: if there are checkpoints but none can be read.
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

    def path_at(self, step: int | None = None) -> Path:
        """The path of a checkpoint, which need not be there.

        Args:
          step: the step that it is of; by default that of the newest there is.

        Raises:
          UsageError: if there is no checkpoint at all.
        """
        paths = self.paths()
        if not paths:
            raise UsageError(
                "run_dir: must hold a run with a checkpoint, got "
                f"{str(self.directory.parent)!r}"
            )
        return paths[-1] if step is None else self._path_of(step)

    def restore_newest(self, model: IWAE, step: int | None = None) -> Path:
        """Loads the newest checkpoint and no other.

        Args:
          model: see `restore`.
          step: see `path_at`.

        Returns:
          path: the path of the checkpoint.

        Raises:
          UsageError: if there is none, or it cannot be read.
        """
        path = self.path_at(step)
        if self._read(model, path) is not None:
            which = "newest"
            remedy = "the command of the run, with --rescore, writes it again"
            if path < self.paths()[-1]:
                which, remedy = "best", "train it again in another --run_dir"
            raise UsageError(
                f"run_dir: the {which} checkpoint must be readable, got {str(path)!r}; "
                f"{remedy}"
            )
        return path

    def _read(self, model, path):
        """Loads a checkpoint; returns the error if it is not whole, else None."""
        try:
            with signals.none_lost():
                content = path.read_bytes()
                self._check(model, path, content)
                model.load_weights(_Memory(content))
        except Exception as error:  # HDF5, zlib, Keras, ...: many kinds
            return error
        self._whole = path
        return None

    def _check(self, model, path, content):
        """Raises an error unless the content is what was saved under this name."""
        beside = _beside(path)
        if beside.exists():
            saved = read_json(beside, {"sha256": str})["sha256"]
            if saved != hashlib.sha256(content).hexdigest():
                raise ValueError(f"its SHA-256 must be that in {beside.name}")
        with h5py.File(io.BytesIO(content)) as file:
            steps = file.get(_STEPS)
            if steps is not None:
                step = int(steps[()]) - self._steps_before
                if step != step_of(path):
                    raise ValueError(f"it is of step {step}")
            if steps is None and model.compiled:
                raise ValueError("it has no state of the optimizer")

    def save(self) -> None:
        """Writes the present state, unless it is on disk already or not finite."""
        if self._devices is not None and self._devices.worker:
            return
        variables = [*self.model.weights, *self.model.optimizer.variables]
        if not all(np.isfinite(variable.numpy()).all() for variable in variables):
            return
        path = self._path_of(steps_done(self.model))
        self._last = time.monotonic()
        if path == self._whole:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        # HDF5 may crash the process if it meets a full disk.
        memory = _Memory()
        self.model.save_weights(memory)
        content = memory.getvalue()
        beside = {"sha256": hashlib.sha256(content).hexdigest()}
        write_json(_beside(path), beside | {"metrics": lines_of(self.rows)})
        with written_whole(path) as unfinished:
            unfinished.write_bytes(content)
        self._whole = path
        before = [other for other in self.paths() if other < path]
        kept = {*before[-1:], path}
        if self._keeps_best:
            kept |= {self._best_until(step_of(last)) for last in kept}
        kept |= set(map(_beside, kept))
        for other in self.directory.glob("step-*"):
            if other not in kept:  # older ones, and damaged ones of later steps
                other.unlink()

    def _best_until(self, step):
        """The checkpoint of the best epoch until a step, or of the step if none is."""
        rows = [row for row in self.rows if int(row["step"]) <= step]
        return self._path_of(int(best_of(rows)["step"]) if rows else step)

    @contextlib.contextmanager
    def guard(self):
        """Delays Ctrl-C, SIGTERM and SIGHUP until the state is complete and saved.

        Within an epoch, the state is complete when the steps of the current execution
        are done; at the end of an epoch, after its metrics and figures. A second signal
        stops at once.
        """

        def note(signum, frame):
            if self._signal is not None:
                signals.interrupt(signum, frame)
            self._signal = signum

        with signals.handled_by(note):
            yield

    def _save_if_due(self, is_best=False):
        if self._devices is not None:
            self._signal = max(self._devices.all(self._signal or 0)) or None
        is_due = is_best or time.monotonic() - self._last >= self._seconds
        if is_due or self._signal is not None:
            self.save()
        if self._signal is not None:
            signals.interrupt(self._signal)

    def on_train_batch_end(self, batch, logs=None):
        """Saves within a long epoch.

        It does not save at the end of an epoch, whose metrics and figures are still to
        come.
        """
        if steps_done(self.model) % self._steps_per_epoch:
            self._save_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Saves between epochs; this must be the last callback to see the epoch."""
        is_last = self.rows and best_of(self.rows) is self.rows[-1]
        self._save_if_due(is_best=self._keeps_best and bool(is_last))


class _Memory(io.BytesIO):
    """A file in memory whose name is one that Keras takes for weights."""

    def __str__(self):
        return "memory.weights.h5"


def _beside(path):
    """The path of the file that holds the SHA-256 of a checkpoint."""
    return path.with_name(path.name.partition(".")[0] + ".json")


def has_optimizer(path: Path) -> bool:
    """Whether a checkpoint has the state of the optimizer beside the weights."""
    with h5py.File(path) as file:
        return _STEPS in file


def step_of(path: Path) -> int:
    """The number of optimizer steps that the name of a checkpoint states."""
    return int(path.name.removeprefix("step-").partition(".")[0])


def steps_done(model: IWAE) -> int:
    """The number of optimizer steps that a compiled model has done in its run."""
    return int(model.optimizer.iterations.numpy()) - model.steps_before
