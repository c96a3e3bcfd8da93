"""Random damage to the files of a run: refused, made again, or harmless."""

import collections
import contextlib
import dataclasses
import functools
import io
import json
import random
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from eager import eagerly
from matplotlib.figure import Figure
from small_runs import Stop, images_of, small

from iwae_tf.errors import UsageError
from iwae_tf.runs import experiment, scoring
from iwae_tf.runs.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:Even though the:UserWarning")
IMAGES = images_of(60, 45)
CONFIG = small(
    epochs=3,
    batch_size=20,
    eval_samples=6,
    eval_chunk=3,
    checkpoint_seconds=0.0,
    scorer="ais",
    ais_images=45,
    ais_chains=2,
    ais_temperatures=1,
    ais_leapfrog=1,
)
N_TRIALS = 15
STATES = ("finished", "training", "scoring", "annealing")


@pytest.fixture(scope="module")
def quick():
    """Empty figures, because most of the time would go into them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sample_sheet", "reconstruction_sheet", "training_curves"):
            patch.setattr(f"iwae_tf.plots.{name}", lambda *_: Figure((0.5, 0.5)))
        yield


def go_on(directory, **options):
    config = dataclasses.replace(CONFIG, run_dir=str(directory), **options)
    with eagerly():
        return experiment.run(config, IMAGES)


def stop_at(monkeypatch, holder, name, count):
    """Stops at the given call of a function."""
    function, calls = getattr(holder, name), []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            raise Stop
        return function(*args, **kwargs)

    monkeypatch.setattr(holder, name, stop)


@pytest.fixture(scope="module")
def state_of(quick, tmp_path_factory):
    """A function to the run in one of `STATES`: finished, or stopped in a phase."""

    @functools.cache
    def make(name):
        place = tmp_path_factory.mktemp(name) / "run"
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            if name == "training":
                stop_at(patch, experiment.figures.plots, "montage", 9)
            elif name == "scoring":
                stop_at(patch, scoring.log_likelihood.__globals__["batches"], "at", 3)
            elif name == "annealing":
                stop_at(patch, scoring.annealing, "_anneal_batch", 2)
            if name != "finished":
                stack.enter_context(pytest.raises(Stop))
            go_on(place)
        return place

    return make


def numbers_of(directory):
    """All numbers of a finished run that a user can get at."""
    run = Run(directory)
    report = run.report
    weights = [weight.numpy() for weight in run.model.weights]
    rows = [
        [row[name] for name in row if name.startswith(("epoch", "step", "test"))]
        for row in run.metrics()
    ]
    parts = ("config", "data", "test", "units", "ais", "epochs", "steps")
    return {
        "report": json.dumps([report.get(part) for part in parts]),
        "scores": {name: v.tobytes() for name, v in run.scores.items()},
        "weights": [w.tobytes() for w in weights],
        "metrics": rows,
    }


def flip_a_bit(path, rng, _):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def change_a_digit(path, rng, _):
    content = bytearray(path.read_bytes())
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()] or [0]
    content[rng.choice(digits)] = ord(rng.choice("0123456789"))
    path.write_bytes(content)


def cut(path, rng, _):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def clear_a_block(path, rng, _):
    content = bytearray(path.read_bytes())
    first = rng.randrange(len(content))
    content[first : first + 64] = bytes(len(content[first : first + 64]))
    path.write_bytes(content)


def append(path, rng, _):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 99)))


def remove(path, rng, _):
    path.unlink()


def replace_by_a_folder(path, rng, _):
    path.unlink()
    path.mkdir()


def replace_by_another(path, rng, others):
    others = [other for other in others if other != path]
    alike = [other for other in others if other.suffix == path.suffix]
    shutil.copy(rng.choice(alike or others), path)


def replace_by_other_json(path, rng, _):
    texts = ("null", "[]", '"a"', "{}", "[" * 100_000, '{"config": [], "test": null}')
    path.write_text(rng.choice(texts))


def repeat_a_line(path, rng, _):
    lines = path.read_bytes().splitlines(keepends=True)
    place = rng.randrange(len(lines))
    path.write_bytes(b"".join([*lines[:place], lines[place], *lines[place:]]))


DAMAGES = (
    flip_a_bit,
    change_a_digit,
    cut,
    clear_a_block,
    append,
    remove,
    replace_by_a_folder,
    replace_by_another,
    replace_by_other_json,
    repeat_a_line,
)


def outcome_of(directory, truth):
    """What becomes of a damaged run: the same numbers, or an error in one line."""
    result = "the same"
    for options in ({}, {"rescore": True}):
        try:
            go_on(directory, **options)
            assert numbers_of(directory) == truth
            return result
        except (UsageError, OSError) as error:
            assert "\n" not in str(error)
            result = "refused, then the same"
    return "refused"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("state", STATES)
def test_random_damage_changes_no_number_in_silence(state_of, state, number, tmp_path):
    truth = numbers_of(state_of("finished"))
    seed = random.SystemRandom().randrange(10**6)
    rng, table = random.Random(seed), collections.Counter()
    print(f"seed {seed}")
    for trial in range(N_TRIALS):
        copy = tmp_path / str(trial)
        shutil.copytree(state_of(state), copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file() and p.stat().st_size)
        path, damage = rng.choice(files), rng.choice(DAMAGES)
        print(f"{state}: {damage.__name__} {path.relative_to(copy)}", flush=True)
        damage(path, rng, files)
        outcome = outcome_of(copy, truth)
        table[outcome] += 1
        print(f"{state}: {outcome}")
        shutil.rmtree(copy)
    print(f"table of {state}: {json.dumps(table)}")


@contextlib.contextmanager
def no_larger_files_than(n_bytes):
    """What a full disk does: the system refuses to write on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pytest has a file for it
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "state",
    ["finished", *(pytest.param(s, marks=pytest.mark.slow) for s in STATES[1:])],
)
def test_full_disk_is_an_error_that_names_the_file_and_loses_nothing(
    state_of, state, tmp_path
):
    truth, copy = numbers_of(state_of("finished")), tmp_path / "run"
    shutil.copytree(state_of(state), copy)
    options = {"rescore": True} if state == "finished" else {}
    sizes = {path.stat().st_size for path in state_of("finished").rglob("*.*")} - {0}
    refused = set()
    for size in sorted(sizes)[:: 4 if state == "training" else 1]:
        with no_larger_files_than(size - 1), contextlib.suppress(OSError):
            try:
                go_on(copy, **options)
            except OSError as error:
                refused.add(Path(error.filename).relative_to(copy).parts[-1])
                raise
            break
    assert refused
    print(sorted(refused))
    go_on(copy, **options)
    assert numbers_of(copy) == truth


@pytest.mark.slow
def test_full_disk_of_tensorboard_is_an_error_that_names_it(state_of, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(state_of("training"), copy)
    place = copy / "tensorboard"
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(OSError, match="No space left") as info:
            go_on(copy)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
    assert info.value.filename.startswith(str(place))
    go_on(copy)
    assert numbers_of(copy) == numbers_of(state_of("finished"))


def test_damage_is_found_by_the_comparison(state_of, tmp_path):
    shutil.copytree(state_of("finished"), tmp_path / "run")
    truth = numbers_of(tmp_path / "run")
    path = tmp_path / "run" / "scores.npz"
    with np.load(path) as arrays:
        values = dict(arrays)
    values["ess"] += 1
    np.savez(path, **values)
    with pytest.raises(UsageError, match=r"^run_dir: must have the scores\.npz of its"):
        numbers_of(tmp_path / "run")
    assert truth == numbers_of(state_of("finished"))
