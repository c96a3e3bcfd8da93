"""Starts that are killed at random moments, in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOOP = Path(__file__).with_name("kill_loop.py")


@pytest.mark.slow
def test_starts_killed_at_random_moments_end_bit_for_bit_the_same(tmp_path):
    command = [sys.executable, LOOP, tmp_path, "20", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    stopped = json.loads(done.stdout.splitlines()[-1])
    assert sum(stopped.values()) == 30
