"""What a run leaves on record: its name, its configuration, its data, its code."""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from iwae_tf.errors import UsageError, place_for_directory
from iwae_tf.runs.config import Config

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

# What every report has said, beside what newer ones add, and its part on the score.
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


def run_name(config: Config) -> str:
    """What a run is, as the name of a directory."""
    options = f"-m{config.n_groups}" if config.n_groups > 1 else ""
    if config.combination_beta is not None:
        options += f"-b{config.combination_beta:g}"
    given = {0: "", 1: "-y", 2: "-yprior"}[
        config.conditional + config.conditional_prior
    ]
    if config.schedule == "fast":
        options += "-fast"
    if config.validation:
        options += f"-v{config.validation}"
    networks = f"{config.stochastic_layers}l"
    if config.model != "burda":
        networks = f"{config.model}{config.feature_maps or ''}"
    if config.n_flows:
        networks += f"-f{config.n_flows}"
    start = f"-from-{Path(config.init_from).name}" if config.init_from else ""
    return (
        f"{config.dataset}-{config.objective}-{networks}{given}"
        f"{options}-k{config.n_samples}-s{config.seed}{start}"
    )


def caption(config: Config) -> str:
    """What a run is, for people."""
    mixed = config.combination_beta is not None
    return line(
        f"{config.dataset}{' given y' if config.conditional else ''}",
        config.objective,
        networks(config),
        f"m = {config.n_groups}" if config.n_groups > 1 else "",
        f"ELBO × {config.combination_beta:g}" if mixed else "",
        "validation" if config.validation else "",
        f"k = {config.n_samples}",
        schedule(config),
        f"seed {config.seed}",
    )


def networks(config: Config) -> str:
    """What the model is made of, for people."""
    layers = config.stochastic_layers
    text = f"{layers} {'layer' if layers == 1 else 'layers'}"
    if config.model != "burda":
        text = config.model
    if config.feature_maps:
        text += f", {config.feature_maps} maps"
    if config.n_flows:
        text += f", {flows(config.n_flows, config.flow_normalisation)}"
    return text


def flows(n: int, normalisation: str | None) -> str:
    """Steps of flow and their normalisation where it is not the paper's, for people."""
    if normalisation in (None, "weight"):
        return f"{n} flows"
    return f"{n} flows with {normalisation.replace('none', 'no')} normalisation"


def epochs(n: int) -> str:
    """A number of epochs, for people."""
    return "1 epoch" if n == 1 else f"{n} epochs"


def schedule(config: Config) -> str:
    """The learning rate where it is not the paper's, for people."""
    if config.schedule == "burda":
        return ""
    return f"{config.schedule} rate {config.learning_rate:g}"


def line(*parts: str) -> str:
    """Parts that are not empty, as one line for people."""
    return " · ".join(filter(None, parts))


def config_of(record: Mapping) -> Config:
    """The options that a record holds; older records have newer ones' defaults."""
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["config"].items()
    }
    return Config(**options)


def read_report(run_dir: str | Path) -> dict:
    """What the `report.json` of a finished run holds.

    Raises:
      UsageError: if there is none, or one that lacks what reports say.
    """
    path = Path(run_dir) / "report.json"
    report = _with_options(path, *_REPORTED, what="a finished run")
    test = report["test"]
    if not isinstance(test, dict) or not test.keys() >= set(_SCORED):
        raise _unreadable(path, "a finished run")
    return report


def read_record(run_dir: str | Path) -> dict:
    """What the `config.json` of a run holds.

    Raises:
      UsageError: if there is none.
    """
    return _with_options(Path(run_dir) / "config.json")


def _with_options(path, *parts, what="a run"):
    """The object of a file whose `config` are options of this version."""
    record = read_json(path, "config", "data", *parts, what=what)
    try:
        config_of(record)
    except (AttributeError, TypeError, ValueError):
        raise _unreadable(path, what) from None
    return record


def claim(run_dir: Path, record: dict) -> None:
    """Makes a run directory, or makes sure that an old one is of the same run.

    Args:
      run_dir: the directory.
      record: configuration, data and what the run starts from, for `config.json`.

    Raises:
      UsageError: if the directory holds another run.
    """
    path = run_dir / "config.json"
    with place_for_directory("run_dir", run_dir):
        if not path.exists():
            run_dir.mkdir(parents=True, exist_ok=True)
            # A part of config.json is what a kill leaves.
            if {p.name for p in run_dir.iterdir()} - {".part.json"}:
                raise UsageError(
                    f"run_dir: must be new, empty or a run, got {str(run_dir)!r}"
                )
            write_json(path, record)
            return
    old, new = read_record(run_dir), json.loads(json.dumps(record))
    # A run that was started before an option existed has its default.
    old["config"] = json.loads(json.dumps(config_of(old).of_run()))
    old["start"], new["start"] = ({"init_from": _start(r)} for r in (old, new))
    for part in ("config", "data", "start"):
        was, now = old[part], new[part]
        for name in sorted({*was, *now}):
            if was.get(name) != now.get(name):
                raise UsageError(
                    f"{name}: must be {was.get(name)!r} to go on with {run_dir}, "
                    f"got {now.get(name)!r}; another run wants another --run_dir, of "
                    "a task --task_dir"
                )


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory, where the system has such locks.

    Raises:
      UsageError: if another process is at work in it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"run_dir: must be used by one process at a time, got {str(run_dir)!r} "
                "in use"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def _start(record):
    init = record.get("init")
    if init is None:
        return None
    return f"{init['run']} at step {init['step']}, weights {init['weights_sha256'][:8]}"


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def sha256_of_labels(*labels: np.ndarray) -> str:
    """The SHA-256 of arrays of labels, one after another, as int64."""
    data = b"".join(np.ascontiguousarray(y, dtype="<i8").tobytes() for y in labels)
    return hashlib.sha256(data).hexdigest()


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


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """A file beside `path` that takes its place once all of it is there."""
    path = Path(path)
    unfinished = path.with_name(".part" + "".join(path.suffixes))
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The named arrays of a file.

    Args:
      path: of the file.
      names: of arrays that it must have.

    Raises:
      UsageError: if there is no such file, or a damaged or another one.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in dict.fromkeys((*arrays, *names))}
    # A damaged file surfaces as errors of zipfile, zlib, NumPy, the tokenizer, ...
    except Exception:
        raise _unreadable(path, "a run") from None


def write_arrays(path: Path, /, **arrays: np.ndarray) -> None:
    """Writes a file of named arrays whole or not at all."""
    with written_whole(path) as unfinished:
        np.savez(unfinished, **arrays)


def read_json(path: Path, *parts: str, what: str = "a run") -> dict:
    """The object of a file.

    Args:
      path: of the file.
      parts: names that the object must have.
      what: of which this is a file, for people.

    Raises:
      UsageError: if there is no such file, or a damaged or another one.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict) or not value.keys() >= set(parts):
        raise _unreadable(path, what)
    return value


def write_json(path: Path, value: dict) -> None:
    """Writes a file whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(as_json(value))


def as_json(value: dict) -> str:
    """The text of a file, with lists of numbers on one line."""
    text = json.dumps(value, indent=2)
    text = re.sub(r'\[[^][{}"]*\]', lambda found: " ".join(found[0].split()), text)
    return text + "\n"


def _unreadable(path, what):
    return UsageError(
        f"run_dir: must hold {what}, got {str(path.parent)!r} without a readable "
        f"{path.name}"
    )
