"""The runs of a task as jobs of a Ray cluster."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from iwae_tf.errors import UsageError
from iwae_tf.runs.progress import Progress, say

_N_TRIES = 3  # for a job whose machine or process was lost


def submit(
    command: Sequence[str],
    n: int,
    address: str,
    n_cpus: float,
    n_gpus: float,
    directory: Path,
) -> None:
    """Has Ray do all shares of a command, and waits for them.

    A job is a process of its own, with as many threads as it has cores. All machines
    must have the package and, under the same path, the directory that this process is
    in.

    Args:
      command: the command without `--only`, which each share adds.
      n: number of shares.
      address: address of a cluster, or `local` for this machine.
      n_cpus: number of cores of each job; less than 1 for a part of one.
      n_gpus: number of GPUs of each job.
      directory: gets a file with the output of each share.

    Raises:
      UsageError: if Ray is not installed, or a share has ended with an error.
    """
    try:
        import ray
    except ImportError:
        raise UsageError(
            "ray: needs the package Ray, which `pip install 'iwae_tf[ray]'` installs, "
            "got none"
        ) from None
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        why = str(error).strip().split("\n")[0]
        raise UsageError(
            f"ray: must be local or the address of a cluster, got {address!r}: {why}"
        ) from None
    job = ray.remote(num_cpus=n_cpus, num_gpus=n_gpus, max_retries=_N_TRIES)(_share)
    say(f"{n} runs on Ray, each with {n_cpus:g} cores and {n_gpus:g} GPUs")
    progress = Progress(n, "runs")
    threads = str(max(1, int(n_cpus)))
    place = os.getcwd(), str(directory.resolve())
    try:
        left = {
            job.remote([*command, f"--only={i}/{n}"], *place, i, threads): i
            for i in range(1, n + 1)
        }
        while left:
            (done,), _ = ray.wait([*left])
            number = left.pop(done)
            code, last = ray.get(done)
            if code:
                raise UsageError(
                    f"ray: all runs must end well, got exit status {code} of share "
                    f"{number}: {last}"
                )
            progress.update(n - len(left))
    finally:
        progress.close()
        ray.shutdown()


def _share(command, cwd, directory, number, threads):
    """Runs one share; returns its exit status and the last line of its output."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    path = Path(directory) / f"share-{number}.log"
    with path.open("w") as log:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | dict.fromkeys(names, threads),
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return done.returncode, lines[-1] if lines else ""
