"""Tests of training on several devices. Each strategy needs a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from local_workers import places

HERE = Path(__file__).parent
# The largest difference of a weight after 50 steps, by the order of sums alone. It may
# also turn a pixel of a dream, which is binary.
TOLERANCES = {"muon": 1e-5, "flows": 1e-5, "binary": 1e-5, "sleep": 1e-4}
LOG_TOLERANCES = {"sleep": 1e-3}


def start(out, n_devices, *names, place=None):
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])} | (place or {})
    return subprocess.Popen(
        [sys.executable, HERE / "shared_training.py", out, str(n_devices), *names],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(*processes):
    for process in processes:
        text, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, text


def check_same(one, several):
    """Compares weights closely, and logs to 1e-4."""
    with np.load(one) as expected, np.load(several) as found:
        assert set(expected) == set(found)
        for name, value in expected.items():
            model = name.split(":")[0].split(",")[0]
            atol = LOG_TOLERANCES.get(model, 1e-4)
            if ":" in name:
                atol = TOLERANCES.get(model, 1e-6)
            np.testing.assert_allclose(found[name], value, 0, atol, err_msg=name)


def test_two_devices_train_as_one(tmp_path):
    one, two = tmp_path / "1.npz", tmp_path / "2.npz"
    names = "one layer", "xla", "vimco", "sleep"
    finished(start(one, 1, *names), start(two, 2, *names))
    check_same(one, two)


@pytest.mark.slow
@pytest.mark.xdist_group("workers")
def test_four_devices_and_two_workers_train_as_one(tmp_path):
    one, four, team = (tmp_path / f"{name}.npz" for name in ("1", "4", "team"))
    finished(start(one, 1), start(four, 4))
    finished(*(start(team, 1, place=place) for place in places(2)))
    check_same(one, four)
    check_same(one, team)
