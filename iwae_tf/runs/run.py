"""The directory of a run: what it holds, and who may write there."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import numpy as np

from iwae_tf.errors import UsageError, place_for_directory
from iwae_tf.files import read_arrays, read_json, unreadable, write_json
from iwae_tf.runs import names
from iwae_tf.runs.config import Config

if TYPE_CHECKING:
    import tensorflow as tf

    from iwae_tf.models.iwae import IWAE
    from iwae_tf.runs.checkpoints import Checkpoints

# Keys that every report has, and those of its part `test`; newer reports have more.
_REPORTED = ("test", "epochs", "train_seconds", "score_seconds", "commit")
_SCORED = (
    "n_images",
    "n_samples",
    "log_likelihood",
    "standard_error",
    "elbo",
    "log_px_given_z",
    "kl",
    "bounds",
    "ess_median",
    "ess_min",
)
_LOCK = ".lock"
# Files of a process that was killed before it had claimed the run.
_LEFT_BEHIND = {_LOCK, ".part.json"}


class Run:
    """One run on disk.

    `config.json` holds its record: the options, the data and the initial weights, which
    determine its numbers. `checkpoints/` and `metrics.csv` grow during training.
    `scores.npz` holds the scores of every image. `report.json` holds the results and is
    written last.

    TensorFlow is imported only when a model is needed.

    Attributes:
      directory: the directory of the run.
    """

    def __init__(self, directory: str | Path):
        """Takes the directory, which need not exist.

        Args:
          directory: the directory of the run.
        """
        self.directory = Path(directory)

    def __str__(self) -> str:
        """The path of the directory."""
        return str(self.directory)

    @contextlib.contextmanager
    def claimed(self, record: dict) -> Iterator[None]:
        """Creates the directory or continues in it, and keeps other processes out.

        The lock is taken before anything else is written or compared.

        Args:
          record: the options, data and initial weights of the run, for `config.json`.

        Raises:
          UsageError: if the directory holds other files or another run, or if another
            process uses it.
        """
        with self._locked():
            path = self.directory / "config.json"
            if path.exists():
                self._check_same(record)
            else:
                self._check_new()
                write_json(path, record)
            yield

    @contextlib.contextmanager
    def _locked(self):
        lock = filelock.FileLock(self.directory / _LOCK, blocking=False)
        with place_for_directory("run_dir", self.directory):
            if not self.directory.exists():
                self.directory.mkdir(parents=True, exist_ok=True)
            elif not (self.directory / "config.json").exists():
                self._check_new()  # before a lock is left there
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UsageError(
                f"run_dir: must be used by one process at a time, got {str(self)!r} in "
                "use"
            ) from None
        except OSError:  # the file system has no locks
            pass
        try:
            yield
        finally:
            lock.release()

    def _check_new(self):
        if {path.name for path in self.directory.iterdir()} - _LEFT_BEHIND:
            raise UsageError(f"run_dir: must be new, empty or a run, got {str(self)!r}")

    def _check_same(self, record):
        old, new = self.record, json.loads(json.dumps(record))
        # An option that is newer than the run has its default value in it.
        old["config"] = json.loads(json.dumps(config_of(old).of_run()))
        old["start"], new["start"] = ({"init_from": _start(r)} for r in (old, new))
        for part in ("config", "data", "start"):
            was, now = old[part], new[part]
            for name in sorted({*was, *now}):
                if was.get(name) != now.get(name):
                    raise UsageError(
                        f"{name}: must be {was.get(name)!r} to continue {self}, got "
                        f"{now.get(name)!r}; another run needs another --run_dir, in a "
                        "task another --task_dir"
                    )

    @property
    def record(self) -> dict:
        """The content of `config.json`.

        Raises:
          UsageError: if there is no such file, or its options are unknown here.
        """
        return _with_options(self.directory / "config.json", "a run")

    @property
    def config(self) -> Config:
        """The options of the run; see `record`."""
        return config_of(self.record)

    @property
    def is_finished(self) -> bool:
        """Whether the run has a report."""
        return (self.directory / "report.json").exists()

    @property
    def report(self) -> dict:
        """The content of `report.json`.

        Raises:
          UsageError: if there is no such file, or it lacks a key that every report has.
        """
        path, what = self.directory / "report.json", "a finished run"
        report = _with_options(path, what, *_REPORTED)
        test = report["test"]
        if not isinstance(test, dict) or not test.keys() >= set(_SCORED):
            raise unreadable(path, what)
        return report

    def write_report(self, report: dict) -> None:
        """Writes `report.json`, whole or not at all."""
        write_json(self.directory / "report.json", report)

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The content of `scores.npz`: arrays with one value for each scored image.

        They are in nats, except for `ess`, the effective sample size.

        Raises:
          UsageError: if there is no such file, or it is damaged.
        """
        return read_arrays(self.directory / "scores.npz", "log_px")

    def metrics(self, epochs: int | None = None) -> list[dict[str, str]]:
        """The complete rows of `metrics.csv`; no rows if there is no such file.

        Args:
          epochs: the epoch that the rows must reach: by default that of the report, if
            there is one; 0 for no such check.

        Raises:
          UsageError: if the rows do not reach that epoch.
        """
        if epochs is None:
            epochs = self.report["epochs"] if self.is_finished else 0
        path, rows = self.directory / "metrics.csv", []
        if path.exists():
            with path.open(newline="", errors="replace") as file:
                rows = [row for row in csv.DictReader(file) if _is_complete(row)]
        last = int(rows[-1]["epoch"]) if rows else 0
        if last < epochs:
            raise UsageError(
                f"run_dir: must hold a metrics.csv of {epochs} epochs, got {last} in "
                f"{str(path)!r}"
            )
        return rows

    def checkpoints(
        self, seconds: float = 0.0, steps_per_epoch: int = 1
    ) -> Checkpoints:
        """The checkpoints of the run; see `iwae_tf.runs.checkpoints.Checkpoints`."""
        from iwae_tf.runs.checkpoints import Checkpoints

        return Checkpoints(self.directory / "checkpoints", seconds, steps_per_epoch)

    @functools.cached_property
    def model(self) -> IWAE:
        """The model with the weights of the newest checkpoint, not compiled.

        Raises:
          UsageError: if there is no run, or its newest checkpoint cannot be read.
        """
        from iwae_tf.models import zoo

        record = self.record
        model = zoo.build(
            record["data"]["image_shape"],
            len(record["data"].get("classes", ())),
            **config_of(record).of_networks(),
        )
        self.checkpoints().restore_newest(model)
        return model

    def figure_seed(self, number: int) -> tf.Tensor:
        """The seed of the noise in one figure, the same for all runs with one seed."""
        from iwae_tf import randomness

        return randomness.seed_of(self.config.seed, randomness.FIGURES, number)

    @property
    def title(self) -> str:
        """A description of the finished run, for titles."""
        return f"{names.caption(self.config)} · {names.epochs(self.report['epochs'])}"

    @property
    def traits(self) -> tuple[str, ...]:
        """Short texts that distinguish a finished run, the most important first."""
        report = self.report
        config, init = config_of(report), report.get("init")
        return (
            names.trained_as(report["config"])
            + (f" after {names.trained_as(init)}" if init else ""),
            f"m = {config.n_groups}",
            names.networks(config),
            names.epochs(report["epochs"]),
            names.schedule(config) or "the paper's schedule",
            f"seed {config.seed}",
            str(self),
        )


def _with_options(path, what, *parts):
    """Reads a JSON file whose `config` must be options that this version knows."""
    record = read_json(path, "config", "data", *parts, what=what)
    try:
        config_of(record)
    except (AttributeError, TypeError, ValueError):
        raise unreadable(path, what) from None
    return record


def config_of(record: Mapping) -> Config:
    """The options in a record; options newer than the record have their defaults."""
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["config"].items()
    }
    return Config(**options)


def _start(record):
    init = record.get("init")
    if init is None:
        return None
    return f"{init['run']} at step {init['step']}, weights {init['weights_sha256'][:8]}"


def _is_complete(row):
    try:
        values = {name: float(value) for name, value in row.items()}
    except (TypeError, ValueError):  # the line has too few or too many cells
        return False
    return values.keys() >= {"epoch", "step", "seconds"}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the numbers depend on."""
    packages = ("tensorflow", "keras", "tensorflow-probability", "numpy", "iwae_tf")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in packages
    }


def commit() -> str | None:
    """The commit of this code, with a + if it has changed since; None if unknown."""
    here = Path(__file__).parents[1]

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).relative_to(here))
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
