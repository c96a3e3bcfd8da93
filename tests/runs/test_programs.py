"""Programs that XLA keeps for later starts."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from iwae_tf.runs import programs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    return tmp_path / "iwae_tf"


def directory():
    (found,) = re.findall("cache_directory=([^ ]+) ", os.environ["TF_XLA_FLAGS"])
    return Path(found)


def test_directory_is_of_flags_and_processor(cache, monkeypatch):
    def kept_in():
        monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
        programs.keep()
        return directory()

    first = kept_in()
    assert first.is_dir() and first.parent == cache and not list(first.iterdir())
    assert kept_in() == first
    monkeypatch.setenv("XLA_FLAGS", "--other")
    second = kept_in()
    monkeypatch.setattr(programs, "own_cores", lambda: 1000)
    assert len({first, second, kept_in()}) == 3


def test_flags_of_the_user_are_left_and_no_place_is_no_error(
    cache, monkeypatch, tmp_path
):
    monkeypatch.setenv("TF_XLA_FLAGS", "--mine")
    programs.keep()
    assert os.environ["TF_XLA_FLAGS"] == "--mine" and not cache.exists()
    monkeypatch.delenv("TF_XLA_FLAGS")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "with space"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        programs.keep()
        assert "TF_XLA_FLAGS" not in os.environ


def test_programs_are_removed_after_a_month(cache):
    old, new = (cache / "programs-other" / name for name in ("old.pb", "new.pb"))
    old.parent.mkdir(parents=True)
    for path, days in ((old, 31), (new, 29)):
        path.write_text("")
        then = time.time() - 86_400 * days
        os.utime(path, (then, then))
    programs.keep()
    assert new.exists() and not old.exists()


@pytest.mark.slow
def test_second_start_compiles_nothing_and_has_the_same_bits(cache, tmp_path):
    def scores(run_dir):
        command = [sys.executable, str(ROOT / "main.py"), "--dataset=digits", "--jit"]
        sizes = "--n_hidden=4 --n_latent=2 --n_samples=2 --epochs=1 --eval_samples=10"
        command += [*sizes.split(), f"--run_dir={tmp_path / run_dir}"]
        subprocess.run(command, check=True, capture_output=True, timeout=200)
        with np.load(tmp_path / run_dir / "scores.npz") as file:
            return file["log_px"]

    def kept():
        files = cache.glob("programs-*/*.pb")
        return {path.name: path.stat().st_mtime_ns for path in files}

    first, programs_of_first = scores("first"), kept()
    assert len(programs_of_first) >= 2  # for training and for scoring
    np.testing.assert_array_equal(scores("second"), first)
    assert kept() == programs_of_first
