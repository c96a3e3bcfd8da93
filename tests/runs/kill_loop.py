"""Kills runs at random moments, and compares what they end with.

    python kill_loop.py DIRECTORY [KILLS [TERMS [SEED]]]

TensorFlow is imported once; every start is a fork of this process. A start is killed at
a random moment of a phase that is chosen at random: training, scoring, annealing or a
task. The same command is given again until it ends, and the ends are compared with that
of a start that nothing stopped. The last line is the number of starts that were stopped
in each phase, as JSON.
"""

import collections
import contextlib
import csv
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RUN = (
    "main.py --dataset digits --nojit --n_hidden 8 --n_latent 2 --n_samples 2 "
    "--batch_size 30 --epochs 4 --checkpoint_seconds 0 --eval_samples 200 "
    "--eval_chunk 10 --scorer ais --ais_images 60 --ais_chains 2 --ais_temperatures 20 "
    "--ais_leapfrog 1 --run_dir"
).split()
TASK = "tasks/task01.py --smoke --batch_size 30 --epochs 1 --task_dir".split()
# The command, and what there is once the phase has begun.
PHASES = {
    "training": (RUN, "config.json"),
    "scoring": (RUN, "scoring/*.npz"),
    "annealing": (RUN, "annealing/*/*.npz"),
    "task": (TASK, "*/config.json"),
}
MOST = 600  # seconds that a start may take


def start(command, directory):
    """A fork that runs the command, its output in files beside the directory."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number, part in ((1, "out"), (2, "err")):
            file = os.open(
                f"{directory}.{part}", os.O_CREAT | os.O_WRONLY | os.O_APPEND
            )
            os.dup2(file, number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        script, *arguments = command
        sys.argv = [str(ROOT / script), *arguments, str(directory)]
        code = compile((ROOT / script).read_text(), script, "exec")
        exec(code, {"__name__": "__main__", "__file__": str(ROOT / script)})
        status = 0
    except SystemExit as error:
        status = error.code or 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(child, until=lambda: False):
    """Waits for the end of a child, or until a moment; its status, or None."""
    deadline = time.monotonic() + MOST
    while not until():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < deadline, "a start takes too long"
        time.sleep(0.005)
    return None


def seconds_of_phases(command, directory):
    """Runs a command to its end; the seconds that each phase takes."""
    child, begun = start(command, directory), {}

    def note():
        for phase, (own, sign) in PHASES.items():
            if own is command and phase not in begun and any(directory.glob(sign)):
                begun[phase] = time.monotonic()

    assert wait(child, note) == 0, Path(f"{directory}.err").read_text()
    ends = [*begun.values(), time.monotonic()][1:]
    return {
        phase: end - first
        for (phase, first), end in zip(begun.items(), ends, strict=True)
    }


def end_of(directory):
    """What must not depend on stops, by the path of its file."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        # Which older checkpoint is kept depends on when the process was stopped.
        if path.suffix == ".h5" and path == max(path.parent.glob("*.h5")):
            with h5py.File(path) as file:
                parts = []
                file.visit(parts.append)
                for part in parts:
                    if isinstance(file[part], h5py.Dataset):
                        found[f"{name}/{part}"] = file[part][()].tobytes()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name}/{part}": arrays[part].tobytes() for part in arrays}
        elif path.name == "report.json":
            report = json.loads(path.read_bytes())
            for part in ("config", "data", "test", "units", "ais", "epochs", "steps"):
                found[f"{name}/{part}"] = json.dumps(report.get(part))
        elif path.name == "metrics.csv":
            with path.open() as file:
                rows = list(csv.DictReader(file))
            kept = [
                c for c in rows[0] if c in ("epoch", "step") or c.startswith("test")
            ]
            found[name] = [[row[column] for column in kept] for row in rows]
        elif path.suffix in (".png", ".gif") and path.name != "curves.png":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main(directory, kills=20, terms=10, seed=None):
    """Stops starts until the numbers of signals are reached; compares the ends."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    seed = int(seed) if seed else random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    print(f"seed {seed}", flush=True)
    signals = [signal.SIGKILL] * int(kills) + [signal.SIGTERM] * int(terms)
    rng.shuffle(signals)
    seconds, ends = {}, {}
    for command, name in ((RUN, "run"), (TASK, "task")):
        seconds |= seconds_of_phases(command, directory / f"whole-{name}")
        ends[command[0]] = end_of(directory / f"whole-{name}")
    assert seconds.keys() == PHASES.keys()
    stopped, number = collections.Counter(), 0
    while signals:
        phase = rng.choice([*PHASES])
        command, sign = PHASES[phase]
        own = directory / f"stopped-{number}"
        number += 1
        for _ in range(rng.randint(1, 3)):
            if not signals:
                break
            child = start(command, own)
            status = wait(child, lambda own=own, sign=sign: any(own.glob(sign)))
            if status is None:
                moment = time.monotonic() + rng.uniform(0, seconds[phase])
                status = wait(child, lambda at=moment: time.monotonic() > at)
            if status is not None:  # it had ended before
                assert status == 0, Path(f"{own}.err").read_text()
                break
            chosen = signals.pop()
            os.kill(child, chosen)
            status = wait(child)
            told = f"{own}, {status}: {Path(f'{own}.err').read_text()}"
            assert status in (-chosen, 128 + chosen, 0), told
            stopped[phase, chosen.name] += 1
        status = wait(start(command, own))
        errors = Path(f"{own}.err").read_text()
        assert status == 0 and "Traceback" not in errors, errors
        found, want = end_of(own), ends[command[0]]
        assert found.keys() == want.keys(), {*found} ^ {*want}
        others = [name for name in want if found[name] != want[name]]
        assert not others, f"{own}: {others}"
        print(f"{number}: {phase}, the same end", flush=True)
    table = {f"{phase}, {name}": n for (phase, name), n in sorted(stopped.items())}
    print(json.dumps(table))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(ROOT))
    with contextlib.redirect_stdout(sys.stderr):
        import tensorflow  # noqa: F401

        import iwae_tf.runs.task  # noqa: F401
    main(*sys.argv[1:])
