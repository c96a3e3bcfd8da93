"""Trained models that come with the package.

Each is the directory of a finished run, with its report and a checkpoint of only the
weights. `python -m iwae_tf.runs.pretrained RUN_DIR NAME` makes one from a run and
prints its line for `SHA256`.
"""

import dataclasses
import shutil
import sys
from pathlib import Path

from iwae_tf.errors import UsageError, check_one_of, told_in_one_line
from iwae_tf.files import sha256_of_file
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run

DIRECTORY = Path(__file__).parents[1] / "trained"
# SHA-256 of the file with the weights of each trained model.
SHA256 = {
    "mnist_iwae_1l_k50": (
        "0477d2f27e5f62e58de43ddd4e3de6f2b06346a01beb04871ea7d5f70e4cf1b0"
    ),
    "mnist_iwae_1l_z2_k50": (
        "077ad366535e03254985da2281f99641201d4cf122709cb574120c3cba0d25b4"
    ),
    "mnist_iwae_2l_k50": (
        "92a2ebcfff5bd223fb5e53cad41b96f38e04813d61b7a138771ddaa9ac3235ac"
    ),
    "mnist_iwae_2l_z42_k5": (
        "283879cb522d372de942a2e1e7623081c56180364e06d31c4b1ec818d76cbed5"
    ),
}


def run_of(name: str) -> Run:
    """The run of a trained model, after its weights are checked.

    Args:
      name: a key of `SHA256`.

    Raises:
      UsageError: if the name is unknown, or the weights are not those of the run.
    """
    check_one_of(tuple(SHA256), pretrained=name)
    path = DIRECTORY / name
    found = [sha256_of_file(p) for p in path.glob("checkpoints/*.weights.h5")]
    if found != [SHA256[name]]:
        raise UsageError(
            f"pretrained: {name} must have weights with SHA-256 {SHA256[name][:8]}, "
            f"got {found[0][:8] if found else 'no file'}; install the package again"
        )
    return Run(path)


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
    newest = run.checkpoints().paths()[-1]
    shutil.rmtree(target, ignore_errors=True)
    path = target / "checkpoints" / newest.name
    path.parent.mkdir(parents=True)
    run.model.save_weights(path)
    for file in ("config.json", "report.json", "metrics.csv"):
        shutil.copy(run.directory / file, target)
    return f'    "{name}": ("{sha256_of_file(path)}"),'


if __name__ == "__main__":
    with told_in_one_line():
        if len(sys.argv) != 3:
            raise UsageError(
                f"arguments: must be RUN_DIR and NAME, got {' '.join(sys.argv[1:])!r}"
            )
        print(add(*sys.argv[1:]))
