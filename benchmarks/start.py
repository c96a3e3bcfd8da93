"""Seconds from a command to its help, to the begin of training and to its first epoch.

Every start is a process of its own, and the median of three is taken. The run is one
epoch of `digits`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.turns import head, row

ROUNDS = 3
MAIN = Path(__file__).resolve().parents[1] / "main.py"
_RUN = """
import os, time
from iwae_tf import Config, cli
start = float(os.environ["STARTED"])
cli.import_tensorflow()
import iwae_tf
def watch(model, epoch, run):
    print("seconds", time.time() - start)
options = {"dataset": "digits", "epochs": 1, "eval_samples": 1, "jit": JIT}
iwae_tf.run(Config(**options), watch=watch)
"""


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the seconds by name."""
    times = {}
    for _ in range(ROUNDS):
        times.setdefault("--help", []).append(_seconds_of_help())
        for jit, name in ((False, "without XLA"), (True, "with XLA")):
            first, last = _seconds_of_run(jit)
            times.setdefault(f"training begins, {name}", []).append(first)
            times.setdefault(f"first epoch, {name}", []).append(last)
    head("start", "s")
    found = {f"{name}, s": statistics.median(v) for name, v in times.items()}
    for name, value in found.items():
        row(name.removesuffix(", s"), value)
    return found


def _seconds_of_help():
    start = time.perf_counter()
    command = [sys.executable, str(MAIN), "--help"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def _seconds_of_run(jit):
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-c", _RUN.replace("JIT", str(jit))],
            check=True,
            capture_output=True,
            text=True,
            cwd=directory,
            env=os.environ | {"STARTED": str(time.time())},
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
    return tuple(float(line.split()[1]) for line in (lines[0], lines[-1]))
