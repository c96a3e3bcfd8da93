"""Tests of `iwae sweep`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "--dataset=digits --nojit --epochs=1 --eval_samples=10 --n_hidden=5 --n_latent=3 "
    "--task_dir=sweep"
).split()
GRID = ["--grid=n_samples=1,2", "--grid=objective=iwae_elbo,dreg", "--seeds=2"]


def sweep(*flags, cwd):
    command = [sys.executable, ROOT / "main.py", "sweep", *SMALL, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--grid=nonsense=1"], "grid: must be an option of networks, objective or tr"),
        (["--grid=dataset=mnist"], "grid: must be an option of networks, objective"),
        (["--grid=seed=1,2"], "grid: must be an option of networks, objective"),
        (["--grid=n_samples"], "grid: must be an option of networks, objective"),
        (["--grid=n_samples=1,x"], "grid: must have values of the kind of n_samples"),
        (["--grid=conditional=maybe"], "grid: must have values of the kind of cond"),
        (["--grid=n_samples=0"], "n_samples: must be at least 1, got 0"),
        (
            ["--objective=tvo", "--grid=temperatures=0+0.1,0.5+0.75"],
            "temperatures: must start with 0 and rise, all below 1, got 0.5,0.75",
        ),
        (["--grid=objective=elbo"], "objective: must be one of"),
        (["--seeds=0"], "flag --seeds=0: 0 is not a positive integer"),
        (["--only=0/2"], "only: must be i/n with i from 1 to n, got '0/2'"),
        (["--only=1/2", "--ray=local"], "ray: must be without --only"),
    ],
)
def test_grid_that_cannot_be_had_is_refused_at_once(flags, says, tmp_path):
    done = sweep(*flags, cwd=tmp_path)
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"error: {says}"), line
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.xdist_group("workers")
def test_sweep_trains_every_combination_by_shares_and_joins_them(tmp_path):
    for share in ("1/2", "2/2"):
        done = sweep(*GRID, f"--only={share}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("the command without --only joins all\n")
        assert done.stdout.count("test log p(x) = ") == 4
    done = sweep(*GRID, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished earlier") == 8
    check_table(tmp_path)


def check_table(cwd):
    table = (cwd / "sweep" / "sweep.md").read_text()
    for objective in ("iwae_elbo", "dreg"):
        for k in (1, 2):
            own = f"| digits | `{objective}` z 3 | 1 | {k} | 1 | "
            for seed in (123, 124):
                assert table.count(f"{own}burda | {seed} | -2") == 1, table
            assert table.count(f"{own}123, 124 | ") == 1, table


@pytest.mark.slow
@pytest.mark.xdist_group("workers")
def test_value_that_is_filled_in_is_that_of_the_combination(tmp_path):
    flags = "--grid=schedule=constant,fast", "--only=2/2"
    done = sweep(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "sweep").glob("*/config.json")
    config = json.loads(path.read_text())["config"]
    assert config["schedule"] == "fast" and config["batch_size"] == 800


@pytest.mark.slow
@pytest.mark.xdist_group("workers")
def test_sweep_on_ray_has_the_table_of_one_process(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    done = sweep("--grid=n_samples=1,2", "--ray=local", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished earlier") == 2
    assert len([*(tmp_path / "sweep").glob("share-*.log")]) == 2
