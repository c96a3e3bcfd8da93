import csv
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_runs import contents, rewrite

import iwae_tf
from iwae_tf import data, files
from iwae_tf.data import datasets
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.runs import experiment, progress, scoring, training
from iwae_tf.runs.checkpoints import steps_done
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import Metrics
from iwae_tf.runs.run import Run, commit

ROOT = Path(__file__).resolve().parents[2]
SCALARS = ("bound", "vae_elbo", "iwae_elbo", "log_px", "log_pz", "log_qz")
# 1,437 digits in batches of 10: 141 steps an epoch, in three executions of 47.
DIGITS = (
    "--n_hidden=8 --n_latent=2 --n_samples=2 --batch_size=10 --epochs=6 "
    "--eval_samples=10 --eval_chunk=4 --checkpoint_seconds=0 --nojit"
).split()
EPOCH, EPOCHS = 141, 6
NAME = "digits-iwae_elbo-1l-n_latent_2-n_hidden_8-batch_size_10-nojit-k2-s123"


class Command:
    """`main.py` in a process of its own; its output goes to files."""

    def __init__(self, directory, *arguments):
        directory.mkdir(exist_ok=True)
        count = len(list(directory.glob("*.out")))
        self.out, self.err = (directory / f"{count}.{part}" for part in ("out", "err"))
        environment = os.environ | {"TFDS_DATA_DIR": str(directory / "no_data")}
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
                stdout=out,
                stderr=err,
                cwd=directory,
                env=environment,
            )

    def stop_when(self, is_time, number):
        """Sends a signal, 0..0.3 s after it is time."""
        deadline = time.monotonic() + 120
        while not is_time():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay := random.SystemRandom().uniform(0, 0.3))
        print(f"signal {number} after {delay:.4f} s")
        self.process.send_signal(number)
        return self.process.wait(timeout=120)

    def end(self):
        """Waits; gives status, standard output and standard error."""
        status = self.process.wait(timeout=200)
        return status, self.out.read_text(), self.err.read_text()


def steps(run_dir):
    paths = sorted(run_dir.glob("checkpoints/step-*.h5"))
    return [int(path.name[5:15]) for path in paths]


def rows(run_dir):
    if not run_dir.joinpath("metrics.csv").exists():
        return []
    with run_dir.joinpath("metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def arrays(path):
    """Every array of a checkpoint: weights, optimizer slots, the step."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.__setitem__(name, item[()])
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


def assert_same_end(a, b):
    """Two runs: the same bits where they must not depend on stops."""
    assert steps(a)[-1] == steps(b)[-1]
    newest = [sorted(run.glob("checkpoints/step-*.h5"))[-1] for run in (a, b)]
    one, other = map(arrays, newest)
    assert set(one) == set(other) and len(one) > 20
    assert any("optimizer" in name for name in one)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert len(rows(a)) == len(rows(b))
    columns = ["epoch", "step", "learning_rate", *(f"test_{name}" for name in SCALARS)]
    for x, y in zip(rows(a), rows(b), strict=True):
        assert [x[column] for column in columns] == [y[column] for column in columns]
    for name in ("samples.gif", "reconstructions.png"):
        assert a.joinpath(name).read_bytes() == b.joinpath(name).read_bytes()
    with np.load(a / "scores.npz") as x, np.load(b / "scores.npz") as y:
        assert set(x) == set(y)
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])
    one, other = (files.read_json(run / "report.json") for run in (a, b))
    for name in ("config", "data", "test", "units", "epochs", "steps"):
        assert one[name] == other[name]
    assert one.get("init") == other.get("init")


# Killed and never stopped ------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run on digits that nothing stopped."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    experiment.run(of_digits(run_dir, histograms=True))
    return run_dir


def of_digits(run_dir, **options):
    """The configuration that `DIGITS` gives on the command line."""
    return Config(
        dataset="digits",
        n_hidden=(8,),
        n_latent=(2,),
        n_samples=2,
        batch_size=10,
        epochs=EPOCHS,
        eval_samples=10,
        eval_chunk=4,
        checkpoint_seconds=0.0,
        jit=False,
        run_dir=str(run_dir),
        **options,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs by commands, of which one was killed twice.

    The other ran as `--dataset auto --offline` where there is no MNIST.
    """
    whole = tmp_path_factory.mktemp("whole")
    killed = tmp_path_factory.mktemp("killed") / "run"
    command = Command(whole, "--dataset=auto", "--offline", "--histograms", *DIGITS)
    again = ("--dataset=digits", f"--run_dir={killed}", *DIGITS)
    first = Command(killed.parent, *again)
    assert first.stop_when(lambda: steps(killed), signal.SIGKILL) == -signal.SIGKILL
    assert len(rows(killed)) < EPOCHS
    second = Command(killed.parent, *again)
    has_two = len(rows(killed)) + 1
    status = second.stop_when(lambda: len(rows(killed)) > has_two, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not killed.joinpath("report.json").exists()
    at = steps(killed)[-1]
    third = Command(killed.parent, *again)
    ends = {"whole": command.end(), "killed": third.end()}
    return {
        "ends": ends,
        "whole": whole / "runs" / NAME,
        "killed": killed,
        "killed_at": at,
    }


@pytest.fixture(scope="module")
def report(whole):
    return files.read_json(whole / "report.json")


@pytest.mark.slow
@pytest.mark.xdist_group("killed")
def test_run_killed_twice_ends_bit_for_bit_as_one_that_never_stopped(runs, whole):
    assert [runs["ends"][name][0] for name in ("whole", "killed")] == [0, 0]
    assert f"goes on at step {runs['killed_at']} of 846\n" in runs["ends"]["killed"][1]
    assert steps(runs["killed"])[-1] == EPOCH * EPOCHS
    assert_same_end(runs["whole"], runs["killed"])
    assert_same_end(runs["whole"], whole)


@pytest.mark.slow
@pytest.mark.xdist_group("killed")
def test_auto_without_mnist_is_digits_in_warning_name_and_report(runs):
    report = files.read_json(runs["whole"] / "report.json")
    _, stdout, stderr = runs["ends"]["whole"]
    (warning,) = (line for line in stderr.splitlines() if "auto uses digits" in line)
    assert "instead of MNIST" in warning and "absent" in warning
    assert stdout.startswith("digits · ")
    assert report["config"]["dataset"] == report["data"]["name"] == "digits"
    assert os.listdir(runs["whole"].parent) == [NAME]
    assert "Traceback" not in stderr


def test_run_directory_holds_every_file_and_no_part(whole):
    names = {
        str(path.relative_to(whole))
        for path in whole.rglob("*")
        if path.is_file() and path.parts[-3] != "tensorboard"
    }
    assert names == {
        ".lock",
        "config.json",
        "metrics.csv",
        "report.json",
        "scores.npz",
        "samples.gif",
        "reconstructions.png",
        "curves.png",
        *(f"figures/samples-{epoch}.png" for epoch in (0, 1, 2, 4, 6)),
        *(f"checkpoints/step-{s:010}.weights.h5" for s in (799, 846)),
        *(f"checkpoints/step-{s:010}.json" for s in (799, 846)),
    }
    with Image.open(whole / "samples.gif") as gif:
        assert gif.n_frames == 5


def test_metrics_have_a_row_for_every_epoch(whole):
    table = rows(whole)
    assert [int(row["epoch"]) for row in table] == list(range(1, EPOCHS + 1))
    assert [int(row["step"]) for row in table] == [EPOCH * e for e in range(1, 7)]
    columns = [f"{part}_{name}" for part in ("train", "test") for name in SCALARS]
    assert list(table[0]) == [
        *("epoch", "step", "seconds", "learning_rate", "images_per_second"),
        "train_samples",
        *columns,
    ]
    values = np.array([[float(row[column]) for column in columns] for row in table])
    assert np.isfinite(values).all()
    row = table[-1]
    for part in ("train", "test"):
        # log w = log p(x|z) + log p(z) - log q(z|x), whose mean is the ELBO.
        mean = sum(
            sign * float(row[f"{part}_{name}"])
            for sign, name in ((1, "log_px"), (1, "log_pz"), (-1, "log_qz"))
        )
        assert mean == pytest.approx(float(row[f"{part}_vae_elbo"]), abs=2e-3)
        assert float(row[f"{part}_iwae_elbo"]) > float(row[f"{part}_vae_elbo"])
        assert row[f"{part}_bound"] == row[f"{part}_iwae_elbo"]
    assert float(row["learning_rate"]) == pytest.approx(1e-4)


def events(run_dir, part):
    """What TensorBoard reads: {tag: {step: value}}."""
    from tensorboard.backend.event_processing import event_accumulator

    files = event_accumulator.EventAccumulator(
        str(run_dir / "tensorboard" / part), size_guidance={"tensors": 0}
    )
    files.Reload()
    return {
        tag: {
            event.step: tf.make_ndarray(event.tensor_proto)
            for event in files.Tensors(tag)
        }
        for tag in files.Tags()["tensors"]
    }


@pytest.mark.parametrize("part", ["train", "test"])
def test_tensorboard_has_the_scalars_of_metrics(whole, part):
    logged = events(whole, part)
    for name in SCALARS:
        tag = f"{'bound' if name in SCALARS[:3] else 'parts'}/{name}"
        assert list(logged[tag]) == [EPOCH * e for e in range(1, 7)]
        for row in rows(whole):
            value = logged[tag][int(row["step"])]
            assert float(value) == pytest.approx(float(row[f"{part}_{name}"]), abs=1e-4)
    for name in ("learning_rate", "images_per_second"):
        assert (f"speed/{name}" in logged) == (part == "train")
    if part == "train":
        for row in rows(whole):
            value = float(logged["speed/learning_rate"][int(row["step"])])
            assert value == pytest.approx(float(row["learning_rate"]), rel=1e-5)


def test_tensorboard_has_images_and_histograms(whole, undisturbed):
    logged = events(whole, "test")
    for name, n_rows in (("samples", 4), ("means", 4), ("reconstructions", 10)):
        tag = f"images/{name}"
        assert list(logged[tag]) == [EPOCH * epoch for epoch in (0, 1, 2, 4, 6)]
        width, height, png = logged[tag][EPOCH].tolist()
        assert (int(width), int(height)) == (7 * (10 * 9 - 1), 7 * (n_rows * 9 - 1))
        assert tf.io.decode_png(png).shape[:2] == (int(height), int(width))
    histograms = [name for name in events(whole, "train") if "kernel" in name]
    assert len(histograms) == 7  # q: two hidden, loc, scale; p: two hidden, logits
    assert not any("kernel" in name for name in events(undisturbed, "train"))


def test_units_in_report_and_tensorboard_are_those_of_the_posterior_means(
    whole, report
):
    model = iwae_tf.load(whole)
    x = data.binarize(datasets.load("digits").x_test, "dynamic", data.TEST_SEED)
    q = model.posterior.conditional(0, tf.reshape(x, [360, 64]))
    loc, scale = q.mean().numpy().astype(float), q.stddev().numpy().astype(float)
    activity = np.mean((loc - loc.mean(axis=0)) ** 2, axis=0) * 360 / 359
    kl = np.mean(0.5 * (scale**2 + loc**2 - 1) - np.log(scale), axis=0)
    (layer,) = report["units"]
    assert layer["n_active"] == (activity > 0.01).sum()
    for name, values in (
        ("activity", activity),
        ("variance", np.mean(scale**2, axis=0)),
        ("kl", kl),
    ):
        np.testing.assert_allclose(layer[name], values, rtol=1e-3)
    logged = events(whole, "test")  # of the first 500 test images: all 360
    scalars = (("units/active/z1", layer["n_active"]), ("units/kl/z1", kl.sum()))
    for name, value in scalars:
        assert list(logged[name]) == [EPOCH * epoch for epoch in (0, 1, 2, 4, 6)]
        assert logged[name][EPOCH * EPOCHS] == pytest.approx(value, rel=1e-3)
    assert {"units/log10_activity/z1", "units/kl_per_unit/z1"} < set(logged)
    text = (whole / "report.json").read_text()
    assert re.search(r'"activity": \[ ?[-\d.e, ]+ ?\]', text)  # on one line


def test_scores_in_tensorboard_are_those_of_the_report(whole, report):
    logged = events(whole, "score")
    for name, value in (
        ("log_px", report["test"]["log_likelihood"]),
        ("elbo", report["test"]["elbo"]),
        ("active_units", report["units"][0]["n_active"]),
        ("training_seconds", report["train_seconds"]),
    ):
        ((step, found),) = logged[f"score/{name}"].items()
        assert step == report["steps"] and found == pytest.approx(value, rel=1e-6)


def test_report_is_what_scores_and_metrics_give(whole, report):
    test = report["test"]
    with np.load(whole / "scores.npz") as scores:
        values = {name: scores[name].astype(np.float64) for name in scores}
    n = len(values["log_px"])
    assert n == test["n_images"] == report["data"]["n_test"] == 360
    assert test["log_likelihood"] == pytest.approx(values["log_px"].mean(), abs=1e-4)
    deviation = ((values["log_px"] - values["log_px"].mean()) ** 2).sum() / (n - 1)
    assert test["standard_error"] == pytest.approx((deviation / n) ** 0.5, abs=1e-4)
    assert set(test["bounds"]) == {"1", "2", "5", "10"}  # 2 is the run's own k
    for k, bound in test["bounds"].items():
        assert bound == pytest.approx(values[f"bound_{k}"].mean(), abs=1e-4)
    assert test["bounds"]["10"] == test["log_likelihood"]
    assert test["elbo"] == pytest.approx(test["log_px_given_z"] - test["kl"], abs=3e-4)
    assert test["elbo"] == pytest.approx(test["bounds"]["1"], abs=2e-4)
    assert test["kl"] == pytest.approx(values["kl"].mean(), abs=1e-4)
    assert test["ess_median"] == round(np.median(values["ess"]), 2)
    assert test["ess_min"] == round(values["ess"].min(), 2)
    assert (test["n_samples"], test["chunk"]) == (10, 4)
    assert "pareto_k" not in test  # 10 samples are too few
    assert np.all(np.isnan(values["pareto_k"]))
    assert (report["epochs"], report["steps"]) == (EPOCHS, EPOCH * EPOCHS)
    assert report["train_seconds"] == float(rows(whole)[-1]["seconds"]) > 0
    assert report["score_seconds"] > 0


def test_report_has_configuration_versions_commit_and_hashes(whole, report):
    assert report["config"] == json.loads(
        json.dumps(
            Config(
                dataset="digits",
                n_hidden=(8,),
                n_latent=(2,),
                n_samples=2,
                batch_size=10,
                epochs=6,
                jit=False,
            ).of_run()
        )
    )
    record = files.read_json(whole / "config.json")
    assert {"config": report["config"], "data": report["data"]} == record
    images = datasets.load("digits")
    binary = data.binarize(images.x_test, "dynamic", data.TEST_SEED)
    assert report["data"]["train_sha256"] == data.sha256(images.x_train)
    assert report["data"]["binarized_test_sha256"] == data.sha256(binary)
    assert report["versions"]["tensorflow"] == tf.__version__
    assert report["versions"]["numpy"] == np.__version__
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["versions"]["iwae_tf"] == iwae_tf.__version__
    assert report["device"]


def test_commit_is_that_of_git(report):
    git = ["git", "-C", str(ROOT), "rev-parse", "--verify", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode:
        assert report["commit"] is None
        pytest.skip("the tests do not run in a git checkout")
    assert re.fullmatch("[0-9a-f]{40}[+]?", report["commit"])
    # Read again: other hands may have committed since the run.
    assert commit().removesuffix("+") == done.stdout.strip()


def test_loaded_model_scores_as_the_report_says(whole, report):
    model = iwae_tf.load(whole)
    x_test = data.binarize(datasets.load("digits").x_test, "dynamic", data.TEST_SEED)
    again = log_likelihood(
        model, x_test.numpy(), 10, chunk=4, seed=123, jit_compile=False
    )
    assert round(again.mean, 4) == report["test"]["log_likelihood"]
    with np.load(whole / "scores.npz") as scores:
        for name in ("log_px", "ess"):
            np.testing.assert_array_equal(
                np.float32(getattr(again, name)), scores[name]
            )


@pytest.mark.parametrize(
    ("n_samples", "pareto_k", "want"),
    [
        (
            5000,
            [0.5, 0.8, 0.6],
            {"median": 0.6, "threshold": 0.7, "share_above": 0.3333},
        ),
        (
            100,
            [0.4, 0.6, np.inf],
            {"median": 0.6, "threshold": 0.5, "share_above": 0.6667},
        ),
        (
            5000,
            [-np.inf, np.inf],
            {"median": None, "threshold": 0.7, "share_above": 0.5},
        ),
        (5000, [np.nan, 0.1], {"median": None, "threshold": 0.7, "share_above": 0.5}),
    ],
)
def test_report_tells_the_tails_of_the_weights(n_samples, pareto_k, want):
    n = len(pareto_k)
    model = type("Flat", (), {"draw": lambda *_: Draws((), *[tf.zeros([25, n])] * 3)})
    x = np.zeros([n, 1, 1, 1])
    found = log_likelihood(model(), x, 25, 25, jit_compile=False)
    assert scoring.summarise(found)["pareto_k"] == {
        "median": None,
        "threshold": 0.2847,
        "share_above": 0.0,
    }
    bounds = {n_samples: found.log_px}
    found = found._replace(pareto_k=np.array(pareto_k), bounds=bounds)
    test = scoring.summarise(found)
    assert test["pareto_k"] == want
    json.dumps(test, allow_nan=False)
    np.testing.assert_array_equal(found.arrays()["pareto_k"], pareto_k)


@pytest.mark.parametrize("what", ["nothing", "config.json"])
def test_what_holds_no_checkpoint_is_not_loaded(tmp_path, whole, what):
    if what != "nothing":
        shutil.copy(whole / what, tmp_path)
    with pytest.raises(UsageError, match="^run_dir: must hold a run"):
        experiment.load(tmp_path)


# Once finished -----------------------------------------------------------------------


def finished(whole, tmp_path):
    """A copy of the finished run, and what its command was."""
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    return copy, of_digits(copy)


def no_work(*_, **__):
    raise AssertionError("must not be done again")


def test_finished_run_is_told_and_not_touched(whole, tmp_path, capsys, monkeypatch):
    copy, config = finished(whole, tmp_path)
    before = contents(copy)
    monkeypatch.setattr(experiment, "train", no_work)
    monkeypatch.setattr(scoring, "score", no_work)
    report = experiment.run(config)
    assert report == files.read_json(copy / "report.json")
    out = capsys.readouterr().out
    assert "--rescore" in out
    assert f"{report['test']['log_likelihood']:.2f} ± " in out
    assert out.splitlines()[-3:] == [
        f"figures: samples.gif, reconstructions.png, curves.png in {copy}",
        f"TensorBoard: tensorboard --logdir {copy}",
        f"new samples: iwae sample {copy} --out samples.png",
    ]
    experiment.run(config, is_one_of_many=True)
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("trained in ")
    assert contents(copy) == before


def test_rescore_scores_again_and_does_not_train(whole, tmp_path, monkeypatch):
    copy, config = finished(whole, tmp_path)
    before = contents(copy)
    old = files.read_json(copy / "report.json")
    monkeypatch.setattr(training, "fit", no_work)
    report = experiment.run(dataclasses.replace(config, rescore=True, eval_samples=20))
    assert report["test"]["n_samples"] == 20
    assert report["test"]["log_likelihood"] > old["test"]["log_likelihood"]
    new = files.read_json(copy / "report.json")
    assert json.loads(json.dumps(report)) == new
    for name in ("config", "data", "epochs", "steps", "train_seconds"):
        assert new[name] == old[name]
    changed = {str(p) for p, value in contents(copy).items() if before.get(p) != value}
    (scored,) = map(str, (copy / "tensorboard" / "score").iterdir())
    assert changed == {"report.json", "scores.npz", os.path.relpath(scored, copy)}


def test_interrupted_scoring_goes_on_after_its_last_batch(
    whole, tmp_path, capsys, monkeypatch
):
    copy, config = finished(whole, tmp_path)
    report = files.read_json(copy / "report.json")
    want = contents(copy)
    for name in ("report.json", "scores.npz"):
        (copy / name).unlink()
    seen = []

    def interrupt(self, done, *_):
        seen.append(done)
        if done > 100:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
        assert "goes on after the last batch" in capsys.readouterr().out
        assert not (copy / "scores.npz").exists() and len(seen) == 6
        del seen[:]
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
        assert seen == [120]
        # Other samples are another score.
        del seen[:]
        with pytest.raises(KeyboardInterrupt):
            experiment.run(dataclasses.replace(config, eval_samples=20))
        assert seen == [20, 40, 60, 80, 100, 120]
    again = experiment.run(config)
    assert again["test"] == report["test"]
    changed = {str(p) for p, value in contents(copy).items() if want.get(p) != value}
    (scored,) = map(str, (copy / "tensorboard" / "score").iterdir())
    assert changed == {"report.json", os.path.relpath(scored, copy)}
    assert not (copy / "scoring").exists()


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("config.json", {}),
        ("report.json", {}),
        ("report.json", {"scorer": "ais"}),
        ("scores.npz", {"scorer": "ais"}),
    ],
)
def test_damaged_file_of_a_run_is_refused_in_one_line(whole, tmp_path, file, options):
    copy, config = finished(whole, tmp_path)
    run, half = Run(copy), (copy / file).read_bytes()
    read = {
        "config.json": lambda: run.record,
        "report.json": lambda: run.report,
        "scores.npz": lambda: run.scores,
    }[file]
    for damaged in (b"{}", b"\xff\x00", half[: len(half) // 2]):
        (copy / file).write_bytes(damaged)
        with pytest.raises(UsageError, match=rf"^run_dir: must hold .*{file}"):
            read()
    with pytest.raises(UsageError, match=rf"^run_dir: must hold .*{file}") as refused:
        experiment.run(dataclasses.replace(config, **options))
    assert str(copy) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("inside", [".", "a"])
def test_file_in_place_of_a_run_directory_is_refused(whole, tmp_path, inside):
    _, config = finished(whole, tmp_path)
    (tmp_path / "file").touch()
    place = dataclasses.replace(config, run_dir=str(tmp_path / "file" / inside))
    with pytest.raises(UsageError, match="^run_dir: must be a directory or a place"):
        experiment.run(place)


@pytest.mark.parametrize("file", ["config.json", "report.json"])
def test_options_of_another_version_are_refused(whole, tmp_path, file):
    for name in ("config.json", "report.json"):
        shutil.copy(whole / name, tmp_path)
    value, run = files.read_json(tmp_path / file), Run(tmp_path)
    for config in ([], {"newer": 1}, {"n_samples": "5"}, {"n_samples": -5}):
        (tmp_path / file).write_text(json.dumps(value | {"config": config}))
        with pytest.raises(UsageError, match=rf"^run_dir: .* readable {file}; "):
            _ = run.record if file == "config.json" else run.report


def test_report_without_a_part_is_refused(whole, tmp_path):
    for part in ("epochs", "test", "ess_min"):
        report = files.read_json(whole / "report.json")
        (report if part in report else report["test"]).pop(part)
        (tmp_path / "report.json").write_text(json.dumps(report))
        with pytest.raises(UsageError, match=r"^run_dir: .* readable report"):
            _ = Run(tmp_path).report


PARTS = ("config", "data", "test", "units", "epochs", "train_seconds", "commit")


@pytest.mark.parametrize("other", [[], "a", {}, {"a": None}, True], ids=str)
def test_report_with_a_part_of_another_type_is_refused(whole, tmp_path, other):
    for name in ("config.json", "report.json"):
        shutil.copy(whole / name, tmp_path)
    value, run = files.read_json(tmp_path / "report.json"), Run(tmp_path)
    test = value["test"]
    changes = [value | {part: other} for part in PARTS]
    changes += [value | {"test": test | {part: other}} for part in test]
    fitting = (
        value | {"units": []},
        value | {"commit": "a"},
        value | {"test": test | {"bounds": {}}},
    )
    for change in changes:
        if change not in fitting:
            (tmp_path / "report.json").write_text(json.dumps(change))
            with pytest.raises(UsageError, match=r"^run_dir: .*--rescore, writes it"):
                _ = run.report
    (tmp_path / "report.json").write_text(json.dumps(value))
    assert run.report == value


def test_report_of_another_run_is_refused(whole, tmp_path):
    for name in ("config.json", "report.json"):
        shutil.copy(whole / name, tmp_path)
    for part, change in (("config", {"seed": 4}), ("data", {"train_sha256": "a"})):
        rewrite(tmp_path / "report.json", lambda v, p=part, c=change: v[p].update(c))
        with pytest.raises(UsageError, match=r"^run_dir: .* of the run of its config"):
            _ = Run(tmp_path).report
        shutil.copy(whole / "report.json", tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_file_or_folder_in_place_of_the_other_is_refused(whole, tmp_path, kind):
    copy, config = finished(whole, tmp_path)
    config = dataclasses.replace(config, rescore=True)
    names = {
        "file": ("checkpoints", "tensorboard", "figures", "scoring", "annealing"),
        "folder": ("report.json", "metrics.csv", "scores.npz", "samples.gif"),
    }[kind]
    for name in names:
        path, aside = copy / name, tmp_path / "aside"
        if path.exists():
            path.rename(aside)
        path.touch() if kind == "file" else path.mkdir()
        with pytest.raises(UsageError, match=f"^run_dir: must have a .* {name}, got a"):
            experiment.run(config)
        path.unlink() if kind == "file" else path.rmdir()
        if aside.exists():
            aside.rename(path)


def test_damaged_metrics_lose_nothing_when_training_goes_on(
    whole, tmp_path, monkeypatch
):
    config = of_digits(tmp_path / "run", histograms=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
    path = tmp_path / "run" / "metrics.csv"
    path.write_bytes(b"\xff" + path.read_bytes().replace(b"1,141", b'1,"141'))
    experiment.run(config)
    assert_same_end(whole, tmp_path / "run")


def stop_after(patch, epoch):
    """Stops a run with Ctrl-C after the given epoch is saved."""
    update = training.Display.on_epoch_begin

    def stop(self, number, logs=None):
        if number == epoch:
            raise KeyboardInterrupt
        return update(self, number, logs)

    patch.setattr(training.Display, "on_epoch_begin", stop)


@pytest.mark.parametrize("is_old", [False, True])
def test_finished_training_without_metrics_is_scored_and_the_loss_is_told(
    whole, tmp_path, capsys, is_old
):
    copy, config = finished(whole, tmp_path)
    before = files.read_json(copy / "report.json")
    for name in ("metrics.csv", "report.json", "curves.png"):
        (copy / name).unlink()
    if is_old:  # no rows beside the checkpoints
        for path in copy.glob("checkpoints/*.json"):
            path.unlink()
    report = experiment.run(config)
    out = capsys.readouterr().out
    for name in ("test", "units", "epochs", "steps", "data"):
        assert report[name] == before[name]
    if is_old:
        assert f"{copy}: the metrics of epochs 1-6 are lost\n" in out
        assert "trained in unknown, " in out and report["train_seconds"] is None
        assert not (copy / "curves.png").exists()
        with pytest.raises(UsageError, match="^run_dir: .* got none of epochs 1-6 in"):
            Run(copy).metrics()
    else:
        assert "lost" not in out and report["train_seconds"] == before["train_seconds"]
        assert rows(copy) == rows(whole)
        assert contents(copy)[Path("curves.png")] == contents(whole)[Path("curves.png")]


def test_damaged_page_is_left_out_of_the_gif_and_told(whole, tmp_path, capsys):
    copy, config = finished(whole, tmp_path)
    page = copy / "figures" / "samples-2.png"
    page.write_bytes(page.read_bytes()[:3000])
    report = experiment.run(dataclasses.replace(config, rescore=True))
    assert f"{page}: is damaged, and is left out\n" in capsys.readouterr().out
    with Image.open(copy / "samples.gif") as gif:
        assert gif.n_frames == 4
    assert report["test"] == files.read_json(whole / "report.json")["test"]


def test_run_without_its_pictures_is_scored_again(whole, tmp_path, capsys):
    copy, config = finished(whole, tmp_path)
    before = files.read_json(copy / "report.json")["test"]
    shutil.rmtree(copy / "figures")
    report = experiment.run(dataclasses.replace(config, rescore=True))
    assert report["test"] == before
    assert "goes on at step" not in capsys.readouterr().out


def test_run_directory_is_for_one_process_at_a_time(whole, tmp_path):
    copy, config = finished(whole, tmp_path)
    with Run(copy).claimed(Run(copy).record):
        for options in ({}, {"rescore": True}):
            with pytest.raises(
                UsageError, match="^run_dir: must be used by one process at a time"
            ):
                experiment.run(dataclasses.replace(config, **options))
    experiment.run(config)


def test_damaged_newest_checkpoint_of_a_finished_run_is_told_and_made_anew(
    whole, tmp_path
):
    copy, config = finished(whole, tmp_path)
    weights = [w.numpy() for w in experiment.load(copy).weights]
    (*_, newest) = sorted(copy.glob("checkpoints/*"))
    newest.write_bytes(newest.read_bytes()[:3000])
    for look in (
        lambda: experiment.load(copy),
        lambda: experiment.run(dataclasses.replace(config, **AIS)),
    ):
        with pytest.raises(
            UsageError, match="^run_dir: the newest .* --rescore, writes"
        ):
            look()
    experiment.run(dataclasses.replace(config, rescore=True))
    for own, other in zip(experiment.load(copy).weights, weights, strict=True):
        np.testing.assert_array_equal(own, other)


def test_finished_run_without_its_last_checkpoint_is_not_read_from_an_older_one(
    whole, tmp_path
):
    copy, config = finished(whole, tmp_path)
    weights = [w.numpy() for w in experiment.load(copy).weights]
    for suffix in (".weights.h5", ".json"):
        max(copy.glob(f"checkpoints/*{suffix}")).unlink()
        for look in (
            lambda: experiment.load(copy),
            lambda: experiment.run(dataclasses.replace(config, **AIS)),
        ):
            with pytest.raises(UsageError, match=r"^run_dir: the newest .*-0000000846"):
                look()
    experiment.run(dataclasses.replace(config, rescore=True))
    for own, other in zip(experiment.load(copy).weights, weights, strict=True):
        np.testing.assert_array_equal(own, other)


def test_scores_of_another_scoring_than_the_reports_are_not_annealed(whole, tmp_path):
    copy, config = finished(whole, tmp_path)
    with np.load(copy / "scores.npz") as scores:
        np.savez(copy / "scores.npz", log_px=scores["log_px"][:50])
    with pytest.raises(UsageError, match=r"^run_dir: must have the scores\.npz of its"):
        experiment.run(dataclasses.replace(config, **AIS))


@pytest.mark.parametrize("kept", [{}, {"log_px": np.ones(20)}, None], ids=str)
def test_batches_that_another_call_kept_are_scored_again(whole, tmp_path, kept):
    copy, config = finished(whole, tmp_path)
    report = files.read_json(copy / "report.json")
    (copy / "scoring").mkdir()
    path = copy / "scoring" / "000000.npz"
    np.savez(path, **kept) if kept is not None else path.write_bytes(b"")
    again = experiment.run(dataclasses.replace(config, rescore=True))
    assert again["test"] == report["test"]


AIS = {
    "scorer": "ais",
    "ais_images": 60,
    "ais_chains": 3,
    "ais_temperatures": 5,
    "ais_leapfrog": 2,
}


def test_finished_run_is_annealed_too_and_goes_on_after_its_last_batch(
    whole, tmp_path, capsys, monkeypatch
):
    copy, config = finished(whole, tmp_path)
    config = dataclasses.replace(config, **AIS)
    before = contents(copy)
    monkeypatch.setattr(experiment, "train", no_work)
    monkeypatch.setattr(scoring, "score", no_work)
    seconds = []

    def interrupt(self, done, *_):
        if done > 55:
            seconds.append(done)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
    assert "goes on after the last batch" in capsys.readouterr().out
    (batch,) = copy.glob("annealing/images/*.npz")
    kept = batch.stat()
    report = experiment.run(config)
    assert seconds and batch.stat().st_mtime_ns == kept.st_mtime_ns
    assert report == files.read_json(copy / "report.json")
    old = files.read_json(whole / "report.json")
    ais = report.pop("ais")
    assert report == old
    changed = {str(p) for p, value in contents(copy).items() if before.get(p) != value}
    batches = ("000000.npz", "000050.npz")
    assert changed == {
        "report.json",
        *(f"annealing/{part}/{b}" for part in ("images", "simulated") for b in batches),
    }
    # The numbers again, from the files.
    kept = {
        part: [np.load(copy / f"annealing/{part}/{b}") for b in batches]
        for part in ("images", "simulated")
    }
    log_w = {
        part: np.concatenate([f["log_w"] for f in of], axis=-1).astype(np.float64)
        for part, of in kept.items()
    }
    assert log_w["images"].shape == (1, 3, 60)
    assert log_w["simulated"].shape == (2, 3, 60)
    log_px = np.log(np.exp(log_w["images"][0]).mean(axis=0))
    lower = np.log(np.exp(log_w["simulated"][0]).mean(axis=0))
    upper = -np.log(np.exp(-log_w["simulated"][1]).mean(axis=0))
    by_importance = np.load(copy / "scores.npz")["log_px"]
    by_importance = by_importance[data.spread(len(by_importance), 60)]
    for got, values in (
        ((ais["log_likelihood"], ais["standard_error"]), log_px),
        ((ais["importance"], ais["importance_error"]), by_importance),
        ((ais["difference"], ais["difference_error"]), log_px - by_importance),
        *(
            ((ais["certificate"][name], ais["certificate"][f"{name}_error"]), values)
            for name, values in (
                ("lower", lower),
                ("upper", upper),
                ("gap", upper - lower),
            )
        ),
    ):
        want = values.mean(), values.std(ddof=1) / 60**0.5
        np.testing.assert_allclose(got, want, atol=2e-4)
    assert 1 <= ais["ess_min"] <= ais["ess_median"] <= 3
    assert 0 < ais["acceptance"] < 1
    out = capsys.readouterr().out
    assert f"gap {ais['certificate']['gap']:.3f} ± " in out
    assert "by annealing (3 chains, 5 temperatures), 60 images: " in out
    again = contents(copy)
    experiment.run(config)
    assert contents(copy) == again
    other = experiment.run(dataclasses.replace(config, ais_chains=2))
    assert other["ais"]["options"]["ais_chains"] == 2
    assert other["ais"]["log_likelihood"] != ais["log_likelihood"]


def test_some_images_are_scored_as_they_are_among_all(whole, tmp_path):
    copy, config = finished(whole, tmp_path)
    x = data.sets_of(datasets.load("digits"), "dynamic").x_test
    report = experiment.run(dataclasses.replace(config, rescore=True, eval_images=7))
    assert report["test"]["n_images"] == 7
    places = data.spread(len(x), 7)
    want = log_likelihood(
        experiment.load(copy), x[places], 10, chunk=4, jit_compile=False
    )
    with np.load(copy / "scores.npz") as scores:
        np.testing.assert_array_equal(scores["log_px"], np.float32(want.log_px))
    many = dataclasses.replace(config, rescore=True, eval_images=10**6)
    assert experiment.run(many)["test"]["n_images"] == len(x)


@pytest.mark.parametrize("found", ["none", "other"])
def test_annealing_needs_the_scores_of_its_run(whole, tmp_path, found):
    copy, config = finished(whole, tmp_path)
    copy.joinpath("scores.npz").unlink()
    if found == "other":
        np.savez(copy / "scores.npz", x=np.ones(3))
    with pytest.raises(UsageError, match=r"^run_dir: .*scores\.npz; .* --rescore"):
        experiment.run(dataclasses.replace(config, **AIS))


# An own .npz, compiled, with Ctrl-C --------------------------------------------------


def rgb(seed=0, n=60):
    x = np.random.default_rng(seed).integers(0, 256, (n + 9, 5, 7, 3), dtype=np.uint8)
    return {"x_train": x[:n], "x_test": x[n:]}


# 60 images, one a step: two executions an epoch. Before the end only Ctrl-C saves.
RGB = (
    "--n_hidden=3 --n_latent=2 --n_samples=2 --batch_size=1 --epochs=40 "
    "--eval_samples=7 --checkpoint_seconds=1000 --run_dir=run --dataset=own-set.npz"
).split()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Two compiled runs on own colour images, of which one met Ctrl-C."""
    folders = [tmp_path_factory.mktemp(name) for name in ("whole", "interrupted")]
    for folder in folders:
        np.savez(folder / "own-set.npz", **rgb())
    a, b = folders
    never = Command(a, *RGB)
    first = Command(b, *RGB)
    status = first.stop_when(lambda: len(rows(b / "run")) >= 3, signal.SIGINT)
    stopped = (status, first.out.read_text(), first.err.read_text(), steps(b / "run"))
    second = Command(b, *RGB)
    ends = [never.end(), second.end()]
    return {"whole": a / "run", "stopped": stopped, "ends": ends, "again": b / "run"}


@pytest.mark.slow
@pytest.mark.xdist_group("interrupted")
def test_ctrl_c_saves_tells_how_to_go_on_and_leaves_with_130(interrupted):
    status, stdout, stderr, saved = interrupted["stopped"]
    assert status == 130 and "Traceback" not in stderr
    (step,) = re.findall(r"saved at step (\d+); the same command goes on", stdout)
    assert saved == [int(step)] and 180 <= int(step) < 2400


@pytest.mark.slow
@pytest.mark.xdist_group("interrupted")
def test_run_after_ctrl_c_ends_bit_for_bit_as_one_that_never_stopped(interrupted):
    assert [end[0] for end in interrupted["ends"]] == [0, 0]
    step = interrupted["stopped"][3][0]
    assert f"goes on at step {step} of 2400\n" in interrupted["ends"][1][1]
    assert_same_end(interrupted["whole"], interrupted["again"])


@pytest.mark.slow
@pytest.mark.xdist_group("interrupted")
def test_own_images_of_5_by_7_in_colour_run_from_end_to_end(interrupted):
    run_dir = interrupted["whole"]
    report = files.read_json(run_dir / "report.json")
    assert report["data"]["name"] == report["config"]["dataset"] == "own-set"
    assert report["data"]["image_shape"] == [5, 7, 3]
    assert (report["data"]["n_train"], report["data"]["n_test"]) == (60, 9)
    frames = {path.name for path in (run_dir / "figures").iterdir()}
    assert frames == {
        f"samples-{epoch:02}.png" for epoch in (0, 1, 2, 4, 8, 16, 32, 40)
    }
    with Image.open(run_dir / "samples.gif") as gif:
        assert gif.n_frames == 8
    for name in ("curves.png", "reconstructions.png", "scores.npz"):
        assert (run_dir / name).stat().st_size > 0
    # Better than independent coin flips: 105 log 2 of noise cannot be beaten by much.
    assert -1.2 < report["test"]["log_likelihood"] / (105 * np.log(2)) < -0.5
    model = experiment.load(run_dir)
    samples, means = model.sample(3, tf.constant([1, 2]))
    assert samples.shape == means.shape == (3, 5, 7, 3)


@pytest.mark.slow
@pytest.mark.xdist_group("interrupted")
def test_changed_file_is_refused_for_its_run(interrupted, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(interrupted["whole"], copy)
    changed = rgb()
    changed["x_train"][7, 1, 2, 0] ^= 1
    np.savez(tmp_path / "own-set.npz", **changed)
    before = contents(copy)
    monkeypatch.setattr(experiment, "train", no_work)
    config = Config(
        dataset=str(tmp_path / "own-set.npz"),
        n_hidden=(3,),
        n_latent=(2,),
        n_samples=2,
        batch_size=1,
        epochs=40,
        run_dir=str(copy),
    )
    with pytest.raises(UsageError, match="^train_sha256: .*--run_dir"):
        experiment.run(config)
    assert contents(copy) == before


@pytest.mark.slow
@pytest.mark.xdist_group("interrupted")
def test_command_refuses_in_one_line_or_tells_the_end_it_had(interrupted):
    folder = interrupted["whole"].parent
    before = contents(interrupted["whole"])
    # One after the other: two at once would refuse each other.
    status, stdout, stderr = Command(folder, *RGB, "--epochs=41").end()
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith("error: epochs: must be 40 ")
    assert status == 2 and stdout == "" and "Traceback" not in stderr
    status, stdout, _ = Command(folder, *RGB).end()
    assert status == 0 and "finished earlier" in stdout and "test log p(x) = " in stdout
    assert "scoring" not in stdout and contents(interrupted["whole"]) == before


@pytest.mark.slow
def test_divergence_is_one_line_and_status_1(tmp_path):
    np.savez(tmp_path / "own-set.npz", **rgb())
    command = Command(
        tmp_path, *RGB, "--nojit", "--schedule=constant", "--learning_rate=1e30"
    )
    status, _, stderr = command.end()
    lines = [
        line for line in stderr.splitlines() if not re.match("WARN|[IWE]0000 ", line)
    ]
    assert status == 1 and len(lines) == 1, stderr
    assert re.fullmatch(
        r"error: the loss was not finite at step \d+ \(counted from 0\), "
        r"learning rate 1e\+30; last good checkpoint: none",
        lines[0],
    )
    assert steps(tmp_path / "run") == []


# Stopped at every kind of moment -----------------------------------------------------


def tiny(run_dir, **options):
    options = {"epochs": 3, "batch_size": 1, "checkpoint_seconds": 0.0} | options
    return Config(
        n_latent=(2,),
        n_hidden=(3,),
        n_samples=2,
        jit=False,
        eval_samples=7,
        run_dir=str(run_dir),
        **options,
    )


@pytest.fixture(scope="module")
def noise():
    x = np.random.default_rng(1).random((65, 3, 4, 1)).astype(np.float32)
    return data.Images("noise", x[:60], x[60:], None, None)


@pytest.fixture(scope="module")
def watched(tmp_path_factory, noise):
    """A run, and what was watched: its directory, the epoch and the step."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    seen = []

    def watch(model, epoch, run):
        seen.append((run.directory, epoch, steps_done(model)))

    experiment.run(tiny(run_dir), noise, watch)
    return run_dir, seen


@pytest.fixture(scope="module")
def undisturbed(watched):
    return watched[0]


class Killed(BaseException):
    """Like SIGKILL: nothing of ours catches it."""


def kill():
    raise Killed


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def hang_up():
    signal.raise_signal(signal.SIGHUP)


def terminate():
    signal.raise_signal(signal.SIGTERM)


AFTER_A_FIGURE = (Metrics, "write_image")
BEFORE_A_ROW = (Metrics, "on_epoch_end")
IN_VALIDATION = (experiment.IWAE, "evaluate")
AFTER_AN_EXECUTION = (training.StopWhenDiverged, "on_train_batch_end")
WHILE_SAVING = (files.os, "fsync")


# In this order each comes up in one start after the other, before the end.
@pytest.mark.parametrize(
    ("stop", "moments"),
    [
        (kill, (BEFORE_A_ROW, AFTER_A_FIGURE, WHILE_SAVING)),
        (ctrl_c, (BEFORE_A_ROW, AFTER_AN_EXECUTION)),
        (terminate, (AFTER_AN_EXECUTION,)),
        pytest.param(hang_up, (BEFORE_A_ROW,), marks=pytest.mark.slow),
        pytest.param(ctrl_c, (IN_VALIDATION, WHILE_SAVING), marks=pytest.mark.slow),
    ],
)
def test_stopped_at_every_kind_of_moment_ends_bit_for_bit_the_same(
    undisturbed, noise, tmp_path, monkeypatch, stop, moments
):
    # Other signals save by themselves; a kill must live with what was saved before.
    seconds = 0.0 if stop is kill else 1e6
    config = tiny(tmp_path / "run", checkpoint_seconds=seconds)
    for room, name in moments:
        calls, real = [], getattr(room, name)

        def first(*args, calls=calls, real=real, **kwargs):
            calls.append(None)
            if len(calls) == 1:
                stop()
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(room, name, first)
            with pytest.raises((Killed, KeyboardInterrupt)):
                experiment.run(config, noise)
        assert calls
        print("stopped", name, steps(tmp_path / "run"))
    experiment.run(config, noise)
    assert_same_end(undisturbed, tmp_path / "run")


# Models and data ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "objective"),
    [
        (1, "vae_elbo_kl"),
        pytest.param(2, "dreg", marks=pytest.mark.slow),
        pytest.param(2, "vae_elbo", marks=pytest.mark.slow),
        pytest.param(3, "iwae_eq14", marks=pytest.mark.slow),
    ],
)
def test_layers_and_objectives_run(tmp_path, noise, layers, objective):
    config = dataclasses.replace(
        tiny(tmp_path / "run", epochs=1, batch_size=20),
        stochastic_layers=layers,
        n_latent=(3, 2, 2)[:layers],
        n_hidden=(4, 4, 3)[:layers],
        objective=objective,
    )
    report = experiment.run(config, noise)
    assert np.isfinite(report["test"]["log_likelihood"])
    (row,) = rows(tmp_path / "run")
    part = "vae_elbo" if objective == "vae_elbo" else "iwae_elbo"
    if objective == "vae_elbo_kl":
        # Another estimate of the ELBO, with less noise.
        assert row["test_bound"] not in (row["test_vae_elbo"], row["test_iwae_elbo"])
        assert float(row["test_bound"]) == pytest.approx(
            float(row["test_vae_elbo"]), abs=2
        )
    else:
        assert row["test_bound"] == row[f"test_{part}"]
    assert len(experiment.load(tmp_path / "run").posterior.n_latent) == layers


@pytest.fixture(scope="module")
def labelled(noise):
    y = np.arange(65) % 3 * 10  # labels 0, 10, 20
    return noise._replace(y_train=y[:60], y_test=y[60:])


@pytest.fixture(scope="module")
def given_labels(tmp_path_factory, labelled):
    run_dir = tmp_path_factory.mktemp("labelled") / "run"
    config = tiny(run_dir, conditional=True, conditional_prior=True)
    return run_dir, config, experiment.run(config, labelled)


def test_conditional_run_is_loaded_and_scores_log_p_of_x_given_y(
    given_labels, labelled
):
    run_dir, _, report = given_labels
    assert report["data"]["classes"] == [0, 10, 20]
    model = experiment.load(run_dir)
    assert model.n_context == 3 and model.generator.top is not None
    context = (labelled.y_test[:, None] == [0, 10, 20]).astype(np.float32)
    x = data.binarize(labelled.x_test, "dynamic", data.TEST_SEED).numpy()
    options = {"n_samples": 7, "seed": 123, "jit_compile": False}
    again = log_likelihood(model, x, context=context, **options)
    assert round(again.mean, 4) == report["test"]["log_likelihood"]
    other = log_likelihood(model, x, context=context[:, ::-1].copy(), **options)
    assert round(other.mean, 4) != report["test"]["log_likelihood"]


def test_conditional_run_that_was_killed_ends_bit_for_bit_the_same(
    given_labels, labelled, tmp_path, monkeypatch
):
    run_dir, config, _ = given_labels
    config = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write_units", lambda *_: kill())
        with pytest.raises(Killed):
            experiment.run(config, labelled)
    experiment.run(config, labelled)
    assert_same_end(run_dir, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["weight", "batch"])
def test_run_with_flows_that_was_killed_ends_bit_for_bit_the_same(
    noise, tmp_path, monkeypatch, normalisation
):
    whole, again = (
        tiny(
            tmp_path / name,
            n_flows=1,
            flow_hidden=(4,),
            flow_features=3,
            flow_normalisation=normalisation,
        )
        for name in ("whole", "again")
    )
    report = experiment.run(whole, noise)
    assert "kl" not in report["units"][0]
    calls, real = [], Metrics.write_units

    def third(*args):
        calls.append(None)
        real(*args)
        if len(calls) == 3:
            kill()

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write_units", third)
        with pytest.raises(Killed):
            experiment.run(again, noise)
    assert steps(tmp_path / "again")[-1] > 0
    experiment.run(again, noise)
    assert_same_end(tmp_path / "whole", tmp_path / "again")


@pytest.mark.parametrize("kind", ["strings", "vectors"])
def test_contexts_of_strings_and_vectors_are_of_the_record_and_the_model(
    kind, tmp_path, labelled, given_labels
):
    names = np.array(["a", "b", "c"])  # in the order of the labels 0, 10, 20
    of_labels = {"strings": names, "vectors": np.eye(3, dtype=np.float32)}[kind]
    images = labelled._replace(
        y_train=of_labels[labelled.y_train // 10],
        y_test=of_labels[labelled.y_test // 10],
    )
    options = {"conditional": True, "conditional_prior": True}
    report = experiment.run(tiny(tmp_path / "run", **options), images)
    facts = {"strings": {"classes": ["a", "b", "c"]}, "vectors": {"n_context": 3}}
    assert facts[kind].items() <= report["data"].items()
    assert ("classes" in report["data"]) is (kind == "strings")
    # The contexts are those of the labels, so the numbers are too.
    assert report["test"] == given_labels[2]["test"]
    loaded = experiment.load(tmp_path / "run")
    whole = experiment.load(given_labels[0])
    assert loaded.n_context == 3
    for one, other in zip(loaded.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_run_of_a_folder_that_was_killed_ends_as_one_of_an_npz_file(
    tmp_path, noise, monkeypatch
):
    (tmp_path / "noise").mkdir()
    arrays = {"x_train": noise.x_train, "x_test": noise.x_test}
    np.savez(tmp_path / "noise.npz", **arrays)
    for name, array in arrays.items():
        np.save(tmp_path / "noise" / f"{name}.npy", array)
    whole = tiny(tmp_path / "whole", dataset=str(tmp_path / "noise.npz"))
    again = tiny(tmp_path / "again", dataset=str(tmp_path / "noise"))
    experiment.run(whole)
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write_units", lambda *_: kill())
        with pytest.raises(Killed):
            experiment.run(again)
    experiment.run(again)
    assert_same_end(tmp_path / "whole", tmp_path / "again")


def test_other_labels_are_refused_for_a_run(given_labels, labelled):
    run_dir, config, _ = given_labels
    other = labelled._replace(y_test=labelled.y_test[::-1].copy())
    with pytest.raises(UsageError, match="^labels_sha256: .*--run_dir"):
        experiment.run(config, other)


def test_conditional_run_without_labels_is_refused(tmp_path, noise):
    config = tiny(tmp_path / "run", conditional=True)
    with pytest.raises(UsageError, match="^conditional: needs a data set with labels"):
        experiment.run(config, noise)
    assert not (tmp_path / "run").exists()


def test_run_starts_from_the_weights_of_another_and_a_new_optimizer(
    tmp_path, noise, undisturbed
):
    seen = {}

    def watch(model, epoch, run):
        if epoch == 0:
            seen["weights"] = [w.numpy() for w in model.weights]
            seen["slots"] = [v.numpy() for v in model.optimizer.variables]

    options = {"objective": "vae_elbo", "init_from": str(undisturbed)}
    config = tiny(tmp_path / "run", epochs=2, **options)
    report = experiment.run(config, noise, watch)
    source = experiment.load(undisturbed).weights
    for own, other in zip(seen["weights"], source, strict=True):
        np.testing.assert_array_equal(own, other)
    _, rate, *moments = seen["slots"]  # the step is the first
    assert not any(np.any(slot) for slot in moments) and seen["slots"][0] == 0
    (newest,) = sorted(undisturbed.glob("checkpoints/*"))[-1:]
    assert report["init"] == {
        "run": "run",
        "objective": "iwae_elbo",
        "n_samples": 2,
        "step": 180,
        "weights_sha256": hashlib.sha256(newest.read_bytes()).hexdigest(),
    }
    killed = dataclasses.replace(config, run_dir=str(tmp_path / "killed"))

    def kill_at_one(model, epoch, run):
        if epoch == 1:
            kill()

    with pytest.raises(Killed):
        experiment.run(killed, noise, kill_at_one)
    experiment.run(killed, noise)
    assert_same_end(tmp_path / "run", tmp_path / "killed")
    without = dataclasses.replace(config, init_from=None)
    with pytest.raises(
        UsageError, match="^init_from: must be 'run at step 180, .* got None;"
    ):
        experiment.run(without, noise)


def test_start_from_what_does_not_fit_is_refused(tmp_path, noise, undisturbed):
    unstarted = tmp_path / "unstarted"
    unstarted.mkdir()
    shutil.copy(undisturbed / "config.json", unstarted)
    for options, says in (
        (
            {"init_from": str(tmp_path)},
            r"init_from: .* without a readable config\.json",
        ),
        ({"init_from": str(unstarted)}, "init_from: must hold a run with a checkpoint"),
        (
            {"init_from": str(undisturbed), "n_latent": (3,)},
            r"init_from: must be a run with the same networks .* with latents \(2,\), "
            r"data \(3, 4, 1\), [\d,]+ parameters for latents \(3,\), ",
        ),
    ):
        config = dataclasses.replace(tiny(tmp_path / "run"), **options)
        with pytest.raises(UsageError, match=f"^{says}"):
            experiment.run(config, noise)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        # 450 units are more than the pixels of these images, and more than n_hidden.
        ({"n_samples": 48_000}, "n_samples: .* got 48000 with .* 45000 elements for"),
        ({"n_hidden": (46_000,), "n_samples": 500}, "n_samples: .* 4600000 elements"),
        (
            {
                "model": "gated",
                "n_hidden": None,
                "feature_maps": 4096,
                "n_samples": 110,
            },
            "n_samples: .* 19660800 elements for each",
        ),
    ],
)
def test_tensor_that_is_too_large_is_told_before_the_model_is_built(
    options, says, monkeypatch
):
    monkeypatch.setattr("iwae_tf.models.zoo.build", lambda *_, **__: pytest.fail())
    x = np.zeros((20, 6, 8, 1), np.float32)
    config = Config(**{"batch_size": 1} | options)
    with pytest.raises(UsageError, match=f"^{says}"):
        experiment.build(config, data.Sets(x, x))


def test_matrix_of_pixels_and_units_that_is_too_large_is_told():
    x = np.broadcast_to(np.float32(0), (20, 2000, 2000, 1))
    config = Config(batch_size=1, n_samples=1, n_hidden=(600,), eval_samples=7)
    with pytest.raises(UsageError, match="^n_hidden: .* got 600 with 4000000 elements"):
        experiment.build(config, data.Sets(x, x))


def test_options_of_objectives_arrive_in_the_model(noise):
    log_w = tf.constant(np.random.default_rng(0).normal(size=(6, 2)))
    draws = Draws((), log_w, tf.zeros_like(log_w), tf.zeros_like(log_w))
    w = np.exp(log_w)
    groups = [np.log(w[group::3].mean(axis=0)) for group in range(3)]
    renyi = 4 * np.log((w**0.25).mean(axis=0))
    mixture = 0.25 * np.mean(log_w, axis=0) + 0.75 * np.log(w.mean(axis=0))
    for options, n_groups, want in (
        ({"objective": "piwae", "n_groups": 3}, 3, np.mean(groups, axis=0)),
        ({"objective": "combination", "combination_beta": 0.25}, 1, mixture),
        ({"objective": "renyi", "renyi_alpha": 0.75}, 1, renyi),
        ({"objective": "tvo", "temperatures": (0.0,)}, 1, np.mean(log_w, axis=0)),
    ):
        model = experiment.build(tiny(None, **options), data.sets_of(noise, "none"))
        assert model.objective.n_groups == n_groups
        np.testing.assert_allclose(model.objective.bound(draws, 1.0), want)


def test_watch_sees_the_model_at_epochs_that_are_powers_of_two_and_the_last(
    watched, noise
):
    run_dir, seen = watched
    assert seen == [(run_dir, epoch, 60 * epoch) for epoch in (0, 1, 2, 3)]
    experiment.run(tiny(run_dir), noise, no_work)


@pytest.mark.slow
def test_mnist_is_learnt_within_an_epoch(tmp_path):
    import tensorflow_datasets as tfds

    if not tfds.builder("mnist").is_prepared():
        pytest.skip("MNIST is not prepared under TFDS_DATA_DIR or the default folder")
    config = Config(
        dataset="mnist",
        offline=True,
        n_hidden=(20,),
        n_latent=(5,),
        n_samples=2,
        epochs=1,
        batch_size=100,
        jit=False,
        eval_samples=10,
        run_dir=str(tmp_path / "run"),
    )
    report = experiment.run(config)
    assert report["data"]["n_train"] == 60_000
    assert report["test"]["n_images"] == 10_000
    # 206.8 nats are what the mean image alone gives with independent pixels.
    assert -206.8 < report["test"]["log_likelihood"] < -82.9


# Vectors with missing entries --------------------------------------------------------


def test_run_of_vectors_with_missing_entries_scores_the_data_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    x = (100 + 10 * rng.normal(size=(70, 3))).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    vectors = data.Images("vectors", x[:60], x[60:], None, None)
    options = {
        "likelihood": "gaussian",
        "standardize": True,
        "missing": True,
        "mask_input": True,
        "scorer": "ais",
        "ais_images": 2,
        "ais_chains": 2,
        "ais_temperatures": 3,
        "ais_leapfrog": 1,
    }
    config = tiny(tmp_path / "run", **options)
    report = experiment.run(config, vectors)
    assert report["test"]["is_density"]
    run = Run(tmp_path / "run")
    sets = data.sets_of(vectors, **config.of_sets())
    own = log_likelihood(run.model, sets.x_test, 7, seed=123, jit_compile=False)
    want = own.log_px - np.sum(~np.isnan(x[60:]) * np.log(sets.scale), axis=1)
    np.testing.assert_allclose(run.scores["log_px"], want, rtol=1e-5)
    assert report["ais"]["difference"] < 10  # both are of the data as they were
    for name in ("reconstructions.png", "samples.gif", "curves.png"):
        assert (tmp_path / "run" / name).exists()
    with pytest.raises(UsageError, match="^mask_input: must be True to continue "):
        experiment.run(dataclasses.replace(config, mask_input=False), vectors)

    def stop(model, epoch, run):
        if epoch == 2:
            raise Killed

    other = dataclasses.replace(config, run_dir=str(tmp_path / "stopped"))
    with pytest.raises(Killed):
        experiment.run(other, vectors, stop)
    experiment.run(other, vectors)
    for name, values in run.scores.items():
        np.testing.assert_array_equal(values, Run(other.run_dir).scores[name])
