"""Tests of iwae_tf.runs.run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import contents

from iwae_tf import files
from iwae_tf.errors import UsageError
from iwae_tf.runs import records
from iwae_tf.runs import run as run_module
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run


def claim(run_dir, record):
    with Run(run_dir).claimed(record):
        pass


RECORD = {
    "config": Config(n_latent=(2,)).of_run(),
    "data": {
        "name": "x",
        "image_shape": [8, 8, 1],
        "n_train": 3,
        "n_test": 2,
        "train_sha256": "a",
        "binarized_test_sha256": "b",
    },
}
OTHER = {
    "dataset": "digits",
    "binarization": "none",
    "conditional": True,
    "conditional_prior": True,
    "stochastic_layers": 2,
    "n_latent": None,
    "n_hidden": (3,),
    "objective": "vae_elbo",
    "n_samples": 6,
    "n_groups": 2,
    "combination_beta": 0.5,
    "renyi_alpha": 0.25,
    "temperatures": (0.0, 0.5),
    "beta": 0.5,
    "warmup_steps": 7,
    "schedule": "constant",
    "epochs": 30,
    "batch_size": 21,
    "optimizer": "muon",
    "learning_rate": 0.1,
    "grow_samples": True,
    "validation": 7,
    "early_stopping": 3,
    "model": "vae60",
    "feature_maps": 8,
    "n_bounded": 3,
    "likelihood": "gaussian",
    "likelihood_scale": "shared",
    "standardize": True,
    "missing": True,
    "mask_input": True,
    "precision": "bfloat16",
    "n_flows": 2,
    "flow_hidden": (4,),
    "flow_features": 3,
    "flow_normalisation": "batch",
    "seed": 1,
    "jit": False,
}


@pytest.mark.parametrize("name", OTHER)
def test_other_configuration_is_refused_and_its_flag_named(tmp_path, name):
    assert set(OTHER) == set(RECORD["config"])
    claim(tmp_path / "run", RECORD)
    before = contents(tmp_path)
    other = RECORD | {"config": RECORD["config"] | {name: OTHER[name]}}
    with pytest.raises(UsageError, match=f"^{name}: .*--run_dir") as info:
        claim(tmp_path / "run", other)
    was = json.loads(json.dumps(RECORD["config"][name]))
    assert repr(was) in str(info.value) and "\n" not in str(info.value)
    assert contents(tmp_path) == before


def test_run_from_before_an_option_existed_has_its_default(tmp_path):
    claim(tmp_path, RECORD)
    path = tmp_path / "config.json"
    record = files.read_json(path)
    del record["config"]["n_groups"], record["config"]["combination_beta"]
    path.write_text(json.dumps(record))
    claim(tmp_path, RECORD)
    other = RECORD | {"config": RECORD["config"] | {"n_groups": 2}}
    with pytest.raises(UsageError, match="^n_groups: must be 1 to continue "):
        claim(tmp_path, other)


@pytest.mark.parametrize(("model", "n"), [("tvae_tps", 18), ("vae60", 0)])
def test_transformer_from_before_the_option_has_its_tanh(model, n):
    older = Config(model=model).of_run()
    del older["n_bounded"]
    assert records.config_of({"config": older}).n_bounded == n
    newer = {"config": Config(model=model).of_run()}
    assert records.config_of(newer).n_bounded == 0


@pytest.mark.parametrize("rate", [None, 0.5])
def test_run_from_before_schedules_had_defaults_has_what_they_were(tmp_path, rate):
    config = Config(schedule="constant", learning_rate=rate, batch_size=20, epochs=9)
    record = RECORD | {"config": config.of_run()}
    claim(tmp_path, record)
    path = tmp_path / "config.json"
    old = files.read_json(path)
    del old["config"]["optimizer"], old["config"]["grow_samples"]
    old["config"]["learning_rate"] = rate
    path.write_text(json.dumps(old))
    claim(tmp_path, record)
    other = record | {"config": record["config"] | {"learning_rate": 0.25}}
    with pytest.raises(UsageError, match=f"^learning_rate: must be {rate or 0.001} "):
        claim(tmp_path, other)


@pytest.mark.parametrize("name", RECORD["data"])
def test_other_data_are_refused(tmp_path, name):
    claim(tmp_path / "run", RECORD)
    with pytest.raises(UsageError, match=f"^{name}: .*--run_dir"):
        claim(tmp_path / "run", RECORD | {"data": RECORD["data"] | {name: 9}})


def test_same_run_may_go_on_and_empty_directory_be_taken(tmp_path):
    claim(tmp_path, RECORD)
    before = contents(tmp_path)
    claim(tmp_path, RECORD)
    assert contents(tmp_path) == before
    record = files.read_json(tmp_path / "config.json")
    assert record == json.loads(json.dumps(RECORD))


def test_foreign_directory_is_refused_and_left_alone(tmp_path):
    tmp_path.joinpath("thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="^run_dir: must be new, empty or a run"):
        claim(tmp_path, RECORD)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_claim_that_was_killed_can_be_made_again(tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            claim(tmp_path / "run", RECORD)
    (tmp_path / "run" / ".part.json").write_text("half")
    claim(tmp_path / "run", RECORD)
    assert (tmp_path / "run" / "config.json").exists()


def test_second_start_in_a_new_directory_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    """Two commands in one new directory used to swap each other's `config.json`."""
    other = RECORD | {"config": RECORD["config"] | {"n_groups": 2}}
    write, refused = run_module.write_json, []

    def start_another(path, record):
        with pytest.raises(UsageError, match="^run_dir: must be used by one process"):
            claim(tmp_path / "run", other)
        refused.append(path)
        write(path, record)

    monkeypatch.setattr(run_module, "write_json", start_another)
    claim(tmp_path / "run", RECORD)
    assert refused == [tmp_path / "run" / "config.json"]
    record = files.read_json(refused[0])
    assert record == json.loads(json.dumps(RECORD))


def test_directory_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError):
        with Run(tmp_path / "run").claimed(RECORD):
            raise KeyError
    claim(tmp_path / "run", RECORD)


def test_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no locks here")

    monkeypatch.setattr(run_module.filelock.FileLock, "acquire", fail)
    claim(tmp_path / "run", RECORD)
    assert (tmp_path / "run" / "config.json").exists()


def test_run_tells_what_it_is_without_tensorflow(tmp_path):
    claim(tmp_path / "run", RECORD)
    code = (
        "import sys; from iwae_tf import Run; run = Run(sys.argv[1]);"
        "assert not run.is_finished and run.config.n_latent == (2,);"
        "assert run.metrics() == [] and 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
