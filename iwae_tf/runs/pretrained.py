"""Trained models that come with the package.

Each is the directory of a finished run, with its report and a checkpoint of only the
weights. `python -m iwae_tf.runs.pretrained RUN_DIR NAME` makes one from a run and
prints its line for `SHA256`.
"""

import dataclasses
import hashlib
import shutil
import sys
from pathlib import Path

from iwae_tf.errors import UsageError, check_one_of, told_in_one_line
from iwae_tf.files import sha256_of_file
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run

DIRECTORY = Path(__file__).parents[1] / "trained"
# SHA-256 of all files of each trained model, see `_sha256_of`.
SHA256 = {
    "mnist_iwae_1l_k50": (
        "366931cf903495ca24947e6d24ed1c8e9bb78a74dd8fb405eda3726f4d1a9f73"
    ),
    "mnist_iwae_1l_z2_k50": (
        "e424391d0a4bcd978285cb10f79be9b0b8a8a3ad077a5aa06269347b0ff94741"
    ),
    "mnist_iwae_2l_k50": (
        "5ba5ba8087419eda7db0190be4bab7a08afd51b4d020f620d2db40e2fa0a2bad"
    ),
    "mnist_iwae_2l_z42_k5": (
        "10d442c14ad9ff85c0a5a26e7ed7332a1f2c585470330ba52cd041b19827b094"
    ),
    "mnist_iwae_tvae_affine_k5": (
        "0e6ed913ab37bbc82e0746ecca7d995434a68d3244066c967066b7fda4d4fb0c"
    ),
    "mnist_iwae_1l_z100_k5_given_y": (
        "c5ac1367162260c59fc3000fbb34fb35c562962b01eb4795b268afd0d448da07"
    ),
    "mnist_vae_1l_f4_k1": (
        "436bc595f80f4c9dd60cafeca409df4021f20251e15f22e90cef02aeff850f64"
    ),
    "mnist_dreg_1l_z100_k5": (
        "c733b3d621125c4e3a5d5e410089bbf9840f0fcd8cbf64f4ac986ad7dfdbbda7"
    ),
}


def run_of(name: str) -> Run:
    """The run of a trained model, after its files are checked.

    Args:
      name: a key of `SHA256`.

    Raises:
      UsageError: if the name is unknown, or the files are not those of the run.
    """
    check_one_of(tuple(SHA256), pretrained=name)
    path = DIRECTORY / name
    found = _sha256_of(path)
    if found != SHA256[name]:
        raise UsageError(
            f"pretrained: {name} must have files with SHA-256 {SHA256[name][:8]}, got "
            f"{found[:8] if path.exists() else 'no file'}; install the package again"
        )
    return Run(path)


def find(name: str | Path) -> Run:
    """The run of a trained model if it has this name, else the run in a directory."""
    return run_of(name) if name in SHA256 else Run(name)


def _sha256_of(directory):
    """The SHA-256 of a list of all files of a directory with the SHA-256 of each."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    lines = (
        f"{sha256_of_file(path)}  {path.relative_to(directory).as_posix()}\n"
        for path in paths
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def with_options(config: Config) -> Config:
    """Replaces the options of model and training by those of the trained model."""
    source = run_of(config.pretrained)
    return dataclasses.replace(config, **source.config.of_run())


def add(run_dir: str | Path, name: str) -> str:
    """Makes a trained model from a finished run.

    Args:
      run_dir: the directory of the run.
      name: the name of the trained model.

    Returns:
      line: the line of the model for `SHA256`.

    Raises:
      UsageError: if the run is not finished.
    """
    run, target = Run(run_dir), DIRECTORY / name
    run.report  # noqa: B018  It must exist.
    shutil.rmtree(target, ignore_errors=True)
    path = target / "checkpoints" / run.checkpoint.name
    path.parent.mkdir(parents=True)
    run.model.save_weights(path)
    for file in ("config.json", "report.json", "metrics.csv"):
        shutil.copy(run.directory / file, target)
    return f'    "{name}": ("{_sha256_of(target)}"),'


if __name__ == "__main__":
    with told_in_one_line():
        if len(sys.argv) != 3:
            raise UsageError(
                f"arguments: must be RUN_DIR and NAME, got {' '.join(sys.argv[1:])!r}"
            )
        print(add(*sys.argv[1:]))
