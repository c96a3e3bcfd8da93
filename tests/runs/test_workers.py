"""Runs on several devices and workers, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from local_workers import places

ROOT = Path(__file__).resolve().parents[2]
RUN = (
    "--dataset digits --nojit --n_hidden 8 --n_latent 2 --n_samples 2 --batch_size 20 "
    "--checkpoint_seconds 0 --eval_samples 20 --schedule constant"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workers")]


def start(run_dir, *flags, place=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (place or {})
    command = [sys.executable, ROOT / "main.py", *RUN, *flags, f"--run_dir={run_dir}"]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def team(run_dir, *flags):
    """Two workers on this machine; `run_dir` is one for both, or one for each."""
    directories = run_dir if isinstance(run_dir, tuple) else (run_dir, run_dir)
    return [
        start(directory, *flags, place=place)
        for directory, place in zip(directories, places(2), strict=True)
    ]


def ends(*processes):
    """The exit status and the errors of processes."""
    found = []
    for process in processes:
        _, errors = process.communicate(timeout=900)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in errors, errors
        found.append((process.returncode, lines))
    return found


def weights(run_dir):
    *_, newest = sorted((run_dir / "checkpoints").glob("*.h5"))
    found = {}
    with h5py.File(newest) as file:
        file.visititems(
            lambda name, part: (
                found.update({name: part[()]})
                if isinstance(part, h5py.Dataset)
                else None
            )
        )
    return found


def wait_for_a_checkpoint(run_dir, processes):
    """Waits until the processes have written one more."""
    before = {*run_dir.glob("checkpoints/*.h5")}
    end = time.monotonic() + 300
    while not {*run_dir.glob("checkpoints/*.h5")} - before:
        assert time.monotonic() < end, "it took too long"
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_run_goes_on_with_another_number_of_devices(tmp_path):
    one, several = tmp_path / "one", tmp_path / "several"
    assert ends(start(one, "--epochs=3")) == [(0, [])]
    for epochs, n in ((1, 2), (2, 1), (3, 2)):
        flags = f"--epochs={epochs}", f"--devices={n}"
        assert ends(start(several, *flags)) == [(0, [])]
    expected, found = weights(one), weights(several)
    assert set(expected) == set(found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, 0, 1e-6, err_msg=name)
    report = json.loads((several / "report.json").read_text())
    steps = report["steps"] // 3
    assert report["devices"] == [
        {"step": 0, "n": 2},
        {"step": steps, "n": 1},
        {"step": 2 * steps, "n": 2},
    ]
    assert "devices" not in json.loads((one / "report.json").read_text())


def test_workers_that_are_killed_end_bit_for_bit_as_those_that_nobody_killed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ends(*team(whole, "--epochs=30")) == [(0, []), (0, [])]
    for victims, signum in (
        ((1,), signal.SIGKILL),
        ((0,), signal.SIGKILL),
        ((0, 1), signal.SIGKILL),
        ((1,), signal.SIGTERM),
    ):
        processes = team(killed, "--epochs=30")
        wait_for_a_checkpoint(killed, processes)
        begin = time.monotonic()
        for i in victims:
            processes[i].send_signal(signum)
        found = ends(*processes)
        assert time.monotonic() - begin < 60
        for i, (status, lines) in enumerate(found):
            if signum == signal.SIGTERM:  # which all of them heed
                assert (status, lines) == (128 + signum, [])
            elif i in victims:
                assert status == -signum
            else:
                assert status == os.EX_TEMPFAIL
                (line,) = lines
                assert line.startswith("error: another worker was lost; the same")
    assert ends(*team(killed, "--epochs=30")) == [(0, []), (0, [])]
    expected, found = weights(whole), weights(killed)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert (killed / "scores.npz").read_bytes() == (whole / "scores.npz").read_bytes()
    report = json.loads((killed / "report.json").read_text())
    assert report["workers"] == 2 and report["devices"] == [{"step": 0, "n": 2}]


def test_worker_with_other_checkpoints_is_refused(tmp_path):
    assert ends(start(tmp_path / "own", "--epochs=1")) == [(0, [])]
    directories = tmp_path / "own", tmp_path / "other"
    found = ends(*team(directories, "--epochs=2"))
    for status, (line,) in found:
        assert status == 2
        assert line.startswith("error: run_dir: must be the same directory for all")
        assert line.endswith("of steps 70, 0")


def test_divergence_is_told_once(tmp_path):
    first, second = ends(*team(tmp_path / "run", "--epochs=1", "--learning_rate=1e30"))
    status, (line,) = first
    assert status == 1 and line.startswith("error: the loss was not finite at step ")
    assert second == (1, [])
    alone = start(tmp_path / "alone", "--epochs=1", "--learning_rate=1e30")
    ((status, (other,)),) = ends(alone)
    assert status == 1 and line.split(",")[0] == other.split(",")[0]


def test_run_that_the_first_worker_cannot_have_ends_both(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    for status, (line,) in ends(*team(tmp_path / "run", "--epochs=1")):
        assert status == 2 and line.startswith("error: run_dir: must be ")
