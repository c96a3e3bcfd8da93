"""The directory of a run: what it holds, and who may write there."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import numpy as np

from iwae_tf import __version__
from iwae_tf.errors import UsageError, place_for_directory
from iwae_tf.files import (
    read_arrays,
    read_json,
    sha256_of_file,
    write_json,
    written_whole,
)
from iwae_tf.runs import names, records
from iwae_tf.runs.config import Config
from iwae_tf.runs.progress import say
from iwae_tf.runs.rows import best_of, by_epoch, lines_of, lost_epochs, parsed

if TYPE_CHECKING:
    import tensorflow as tf

    from iwae_tf.models.iwae import IWAE
    from iwae_tf.runs.checkpoints import Checkpoints
    from iwae_tf.runs.devices import Devices

_FOLDERS = ("checkpoints", "tensorboard", "figures", "scoring", "annealing")
_FILES = (
    "config.json",
    "report.json",
    "metrics.csv",
    "scores.npz",
    "reconstructions.png",
    "curves.png",
    "samples.gif",
)
_RESCORE = "the command of the run, with --rescore, writes it again"
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
                self.check(record)
            else:
                self._check_new()
            if not path.exists() or self.config.epochs != record["config"]["epochs"]:
                devices = self.record.get("devices") if path.exists() else None
                write_json(path, record | ({"devices": devices} if devices else {}))
            yield

    def check(self, record: dict) -> None:
        """Checks that the directory holds the run of a record.

        Raises:
          UsageError: if it holds no run, or another one.
        """
        self._check_kinds()
        self._check_same(record)

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

    def _check_kinds(self):
        for name in (*_FOLDERS, *_FILES):
            path, kinds = self.directory / name, ("file", "folder")
            if path.exists() and path.is_dir() != (name in _FOLDERS):
                raise UsageError(
                    f"run_dir: must have a {kinds[name in _FOLDERS]} {name}, got a "
                    f"{kinds[path.is_dir()]} at {str(path)!r}; remove it"
                )

    def _check_same(self, record):
        old, new = self.record, json.loads(json.dumps(record))
        # An option that is newer than the run has its default value in it.
        old["config"] = records.of_run(old)
        new["config"] = records.before_growth(new["config"], old)
        old["start"], new["start"] = map(_start, (old, new))
        for part in ("config", "data", "start"):
            was, now = old[part], new[part]
            for name in sorted({*was, *now}):
                if was.get(name) != now.get(name):
                    raise UsageError(
                        f"{name}: must be {was.get(name)!r} to continue {self}, got "
                        f"{now.get(name)!r}; another run needs another --run_dir, in a "
                        "task another --task_dir"
                    )

    def note_devices(self, step: int, n: int) -> None:
        """Notes in `config.json` how many devices train from a step on.

        There is a note if they are several, or have been before.

        Args:
          step: number of steps done.
          n: number of devices of all workers together.
        """
        record = self.record
        before = [note for note in record.get("devices", []) if note["step"] < step]
        if n != (before[-1]["n"] if before else 1):
            before.append({"step": step, "n": n})
        if before != record.get("devices", []):
            write_json(self.directory / "config.json", record | {"devices": before})

    @property
    def record(self) -> dict:
        """The content of `config.json`.

        Raises:
          UsageError: if there is no such file, or it is damaged or has options that are
            unknown here.
        """
        remedy = "another run needs another --run_dir"
        return records.read(
            self.directory / "config.json", records.RECORD, "a run", remedy
        )

    @property
    def config(self) -> Config:
        """The options of the run; see `record`."""
        return records.config_of(self.record)

    @property
    def is_finished(self) -> bool:
        """Whether the run has a report, and its epochs have not grown since."""
        with contextlib.suppress(UsageError):  # of a damaged file, or no config.json
            return records.config_of(self.report).epochs == self.config.epochs
        return (self.directory / "report.json").exists()

    @property
    def report(self) -> dict:
        """The content of `report.json`.

        If the epochs have grown since, it is that of the earlier ones until the run has
        been scored again.

        Raises:
          UsageError: if there is no such file, or it is damaged or of another run than
            `config.json`.
        """
        path, what = self.directory / "report.json", "a finished run"
        report = records.read(path, records.REPORT, what, _RESCORE)
        if (self.directory / "config.json").exists():
            record = self.record
            options = records.before_growth(records.of_run(record), report)
            own, other = (
                (options, record["data"]),
                (records.of_run(report), report["data"]),
            )
            if own != other:
                raise UsageError(
                    f"run_dir: must hold the report of the run of its config.json, got "
                    f"that of another run in {str(self)!r}; {_RESCORE}"
                )
        return report

    def write_report(self, report: dict) -> None:
        """Writes `report.json`, whole or not at all."""
        write_json(self.directory / "report.json", report)

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The content of `scores.npz`: arrays with one value for each scored image.

        They are in nats, except for `ess`, the effective sample size, and the
        shape `pareto_k`.

        Raises:
          UsageError: if there is no such file, it is damaged, or it is not that of the
            report.
        """
        path, report = self.directory / "scores.npz", self.report
        scores = read_arrays(path, "log_px", remedy=_RESCORE)
        found = sha256_of_file(path)
        shapes = {values.shape for values in scores.values()}
        mean = report["test"]["log_likelihood"]
        if (
            report.get("scores_sha256", found) != found
            or shapes != {(report["test"]["n_images"],)}
            or abs(np.mean(scores["log_px"], dtype=np.float64) - mean) > 1e-4
        ):
            raise UsageError(
                f"run_dir: must have the scores.npz of its report.json, got another in "
                f"{str(self)!r}; {_RESCORE}"
            )
        return scores

    def metrics(self, epochs: int | None = None) -> list[dict[str, str]]:
        """The rows of `metrics.csv`, one for each epoch from the first.

        Args:
          epochs: the epoch that the rows must reach, by default that of the report if
            there is one.

        Raises:
          UsageError: if rows are missing.
        """
        if epochs is None:
            epochs = self.report["epochs"] if self.is_finished else 0
        rows = self.rows()
        lost = lost_epochs(rows, epochs)
        if lost:
            raise UsageError(
                f"run_dir: must hold a metrics.csv of {epochs} epochs, got none of "
                f"epochs {lost} in {str(self)!r}; train it again in another --run_dir"
            )
        return rows

    def curve(self, column: str) -> tuple[list[int], list[float]]:
        """A column of `metrics.csv` against epochs, for a `plots.Panel`.

        Raises:
          UsageError: if rows are missing.
        """
        rows = self.metrics()
        return [int(row["epoch"]) for row in rows], [float(row[column]) for row in rows]

    def rows(self, last_step: int | None = None) -> list[dict[str, str]]:
        """The rows of `metrics.csv` that are whole.

        The newest checkpoint keeps those of its time. They count, and the file adds
        those of later epochs.

        Args:
          last_step: the last step whose row is wanted, by default that of the last row.
        """
        rows = []
        for path in sorted(self.directory.glob("checkpoints/*.json"), reverse=True):
            with contextlib.suppress(UsageError):
                kept = read_json(path, {"metrics": [str]})["metrics"]
                rows = parsed(f"{line}\n" for line in kept)
                break
        with contextlib.suppress(OSError):
            text = (self.directory / "metrics.csv").read_text("utf-8", "replace")
            rows = by_epoch([*rows, *parsed(text.splitlines(keepends=True))])
        if last_step is None:
            return rows
        return [row for row in rows if int(row["step"]) <= last_step]

    def write_rows(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Writes `metrics.csv`, whole or not at all."""
        with written_whole(self.directory / "metrics.csv") as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in lines_of(rows)))

    def kept(
        self, pattern: str, read: Callable[[Path], Mapping]
    ) -> dict[Path, Mapping]:
        """The contents of those files of the directory that are whole, in order.

        Args:
          pattern: a pattern of their names, such as `score-*.json`.
          read: `iwae_tf.files.read_json` or `read_arrays`.
        """
        found = {}
        for path in sorted(self.directory.glob(pattern)):
            try:
                found[path] = read(path)
            except UsageError:
                say(f"{path}: is damaged, and is left out")
        return found

    def checkpoints(
        self,
        seconds: float = 0.0,
        steps_per_epoch: int = 1,
        keeps_best: bool = False,
        devices: Devices | None = None,
    ) -> Checkpoints:
        """The checkpoints of the run; see `iwae_tf.runs.checkpoints.Checkpoints`."""
        from iwae_tf.runs.checkpoints import Checkpoints

        return Checkpoints(
            self.directory / "checkpoints",
            seconds,
            steps_per_epoch,
            keeps_best,
            self.steps_before,
            devices,
        )

    @property
    def steps_before(self) -> int:
        """The optimizer's iterations before the run, in those that it continues."""
        with contextlib.suppress(UsageError):  # there is no config.json
            return self.record.get("init", {}).get("iterations", 0)
        return 0

    @functools.cached_property
    def model(self) -> IWAE:
        """The model with the weights of `checkpoint`, not compiled.

        Raises:
          UsageError: if there is no run, or its newest checkpoint cannot be read.
        """
        from iwae_tf.models import zoo

        record = self.record
        facts = record["data"]
        model = zoo.build(
            facts["image_shape"],
            facts.get("n_context", len(facts.get("classes", ()))),
            n_levels=facts.get("n_levels"),
            **records.config_of(record).of_networks(),
        )
        self.restore(model)
        return model

    @property
    def checkpoint(self) -> Path:
        """The path of the newest checkpoint; if the run is finished, of its last step.

        With early stopping, it is that of the best epoch so far.

        Raises:
          UsageError: if there is no checkpoint.
        """
        return self.checkpoints().path_at(self._step)

    @property
    def _step(self):
        """The step of the model; None is that of the newest checkpoint."""
        with contextlib.suppress(UsageError):  # no report, or a damaged one
            report = self.report
            if self.is_finished:
                n_epochs = report["epochs"]
                best = report.get("best_epoch", n_epochs)
                return report["steps"] // n_epochs * best
        if self.config.early_stopping:
            rows = self.rows(self.checkpoints().newest_step())
            if rows:
                return int(best_of(rows)["step"])
        return None

    def restore(self, model: IWAE) -> None:
        """Gives a model the weights of `checkpoint`, and its optimizer the state.

        Raises:
          UsageError: if there is no checkpoint, or it cannot be read.
        """
        self.checkpoints().restore_newest(model, self._step)

    def figure_seed(self, number: int) -> tf.Tensor:
        """The seed of the noise in one figure, the same for all runs with one seed."""
        from iwae_tf import randomness

        return randomness.seed_of(self.config.seed, randomness.FIGURES, number)

    @property
    def title(self) -> str:
        """A description of the finished run, for titles."""
        report = self.report
        epochs = names.epochs(report["epochs"], report.get("best_epoch"))
        return f"{names.caption(records.config_of(report))} · {epochs}"

    @property
    def traits(self) -> tuple[str, ...]:
        """Short texts that distinguish a finished run, the most important first."""
        report = self.report
        config, init = records.config_of(report), report.get("init")
        return (
            names.trained_as(report["config"])
            + (f", after {names.trained_as(init)}" if init else ""),
            names.networks(config),
            names.epochs(report["epochs"], report.get("best_epoch")),
            names.schedule(config) or "the paper's schedule",
            f"seed {config.seed}",
            str(self),
        )


def _start(record):
    """What a run has started from, under the name of the option."""
    init = record.get("init")
    if init is None:
        return {}
    return {
        "continue_from" if "iterations" in init else "init_from": (
            f"{init['run']} at step {init['step']}, weights "
            f"{init['weights_sha256'][:8]}"
        )
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the numbers depend on."""
    packages = ("tensorflow", "keras", "tensorflow-probability", "numpy")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "iwae_tf": __version__,
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
