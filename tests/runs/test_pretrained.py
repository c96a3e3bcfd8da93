import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iwae_tf import data, files
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError
from iwae_tf.measures import likelihood as evaluation
from iwae_tf.models import zoo
from iwae_tf.runs import experiment, pretrained
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = dict(pretrained.SHA256)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on noise, its images and its report."""
    directory = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    x = {name: rng.random((n, 4, 3)) for name, n in (("x_train", 40), ("x_test", 12))}
    np.savez(directory / "noise.npz", **{n: v.astype(np.float32) for n, v in x.items()})
    config = Config(
        dataset=str(directory / "noise.npz"),
        n_latent=(2,),
        n_hidden=(3,),
        epochs=2,
        jit=False,
        eval_samples=20,
        run_dir=str(directory / "run"),
    )
    return directory, experiment.run(config)


@pytest.fixture
def added(finished, tmp_path, monkeypatch):
    """The same as a trained model."""
    monkeypatch.setattr(pretrained, "DIRECTORY", tmp_path / "trained")
    line = pretrained.add(finished[0] / "run", "noise")
    monkeypatch.setattr(pretrained, "SHA256", eval(f"{{{line}}}"))
    return tmp_path / "trained" / "noise"


def test_trained_model_has_the_weights_of_its_run(finished, added):
    run = experiment.load(finished[0] / "run")
    for got, want in zip(experiment.load("noise").weights, run.weights, strict=True):
        np.testing.assert_array_equal(got, want)
    copied = files.read_json(added / "report.json")
    assert copied == json.loads(json.dumps(finished[1]))


def test_trained_model_is_scored_and_pictured_as_its_run_without_training(
    finished, added, tmp_path
):
    directory, report = finished
    run_dir = tmp_path / "again"
    config = Config(pretrained="noise", run_dir=str(run_dir), eval_samples=20)
    images = datasets.load(str(directory / "noise.npz"))
    got = experiment.run(config, images)
    for name in ("test", "units", "config", "data", "epochs", "steps"):
        assert got[name] == report[name]
    (weights,) = added.glob("checkpoints/*")
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert got["pretrained"]["weights_sha256"] == sha256
    assert got["pretrained"]["commit"] == report["commit"]
    made = {path.name for path in run_dir.iterdir()}
    assert {"reconstructions.png", "curves.png", "samples.gif", "scores.npz"} <= made
    assert "checkpoints" not in made


def test_other_images_than_those_of_its_training_are_refused(finished, added, tmp_path):
    images = datasets.load(str(finished[0] / "noise.npz"))
    other = images._replace(x_test=images.x_test[::-1])
    config = Config(pretrained="noise", run_dir=str(tmp_path / "again"))
    with pytest.raises(UsageError, match="^pretrained: noise must have the data it "):
        experiment.run(config, other)
    assert not (tmp_path / "again").exists()


def test_damaged_exchanged_or_missing_files_are_refused(finished, added):
    run, refusal = finished[0] / "run", "^pretrained: noise must have files with "
    newest = sorted((run / "checkpoints").glob("*.h5"))[-1]
    (weights,) = added.glob("checkpoints/*")
    report = finished[1] | {"config": finished[1]["config"] | {"n_latent": [3]}}
    others = {
        weights: newest.read_bytes(),
        added / "report.json": json.dumps(report).encode(),
        added / "config.json": (run / "report.json").read_bytes(),
        added / "metrics.csv": b"",
    }
    for path, other in others.items():
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for damaged in (flipped, whole[:-1], b"", other):
            path.write_bytes(damaged)
            with pytest.raises(UsageError, match=refusal):
                experiment.load("noise")
        path.write_bytes(whole)
        experiment.load("noise")
    shutil.copy(weights, weights.with_name("step-9999999999.weights.h5"))
    with pytest.raises(UsageError, match=refusal):
        experiment.load("noise")
    shutil.rmtree(added)
    with pytest.raises(UsageError, match="got no file; install the package again$"):
        experiment.load("noise")


def test_weights_that_do_not_fit_are_refused(finished, added, tmp_path, monkeypatch):
    images = datasets.load(str(finished[0] / "noise.npz"))
    config = Config(pretrained="noise", run_dir=str(tmp_path / "again"))
    larger = zoo.build((4, 3, 1), n_latent=(2,), n_hidden=(4,))
    monkeypatch.setattr(Run, "model", larger)
    with pytest.raises(UsageError, match="^pretrained: must be a run with the same "):
        experiment.run(config, images)


def test_unknown_name_is_refused_with_those_there_are(added):
    with pytest.raises(UsageError, match="^pretrained: must be one of noise, got 'no'"):
        pretrained.run_of("no")


def test_run_that_is_not_finished_makes_no_trained_model(added, tmp_path):
    with pytest.raises(UsageError, match="^run_dir: must hold a finished run"):
        pretrained.add(tmp_path, "noise")
    assert added.exists()


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("main.py", ["--pretrained=no"], "pretrained: must be one of "),
        ("tasks/task03.py", ["--pretrained=no"], "pretrained: must be one of "),
        (
            "main.py",
            [f"--pretrained={next(iter(BUNDLED))}", "--n_samples=3"],
            "n_samples: must not be given with --pretrained, which has its own "
            "options, got 3\n",
        ),
    ],
)
def test_command_refuses_in_one_line_at_once(script, arguments, says, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# Those that come with the package ----------------------------------------------------


def test_every_trained_model_is_named_and_small():
    there = {path.name for path in pretrained.DIRECTORY.iterdir()}
    assert there == set(BUNDLED)
    sizes = [path.stat().st_size for path in pretrained.DIRECTORY.rglob("*.h5")]
    assert len(sizes) == len(BUNDLED) and max(sizes) < 3e6


@pytest.mark.slow  # on real MNIST
@pytest.mark.parametrize("name", BUNDLED)
def test_trained_model_scores_on_its_test_images_as_its_report_says(name):
    run = pretrained.run_of(name)
    report = run.report
    try:
        images = datasets.load(report["data"]["name"], offline=True)
    except UsageError:
        pytest.skip(f"{report['data']['name']} is not prepared on this machine")
    sets = data.sets_of(images, **run.config.of_sets())
    context = sets.context_test[::20] if run.config.conditional else None
    got = evaluation.log_likelihood(run.model, sets.x_test[::20], 50, context=context)
    error = got.mean - report["test"]["bounds"]["50"]
    assert abs(error) < 5 * got.standard_error
