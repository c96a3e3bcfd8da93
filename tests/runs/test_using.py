"""Tests of iwae_tf.runs.using and of the commands that use a trained model."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import iwae_tf
from iwae_tf import data
from iwae_tf.errors import UsageError
from iwae_tf.runs import using
from iwae_tf.runs.run import Run

OPTIONS = {
    "n_hidden": (8,),
    "n_latent": (2,),
    "epochs": 1,
    "batch_size": 100,
    "n_samples": 2,
    "schedule": "constant",
    "eval_samples": 20,
    "eval_images": 20,
    "jit": False,
}


def trained(directory, **options):
    iwae_tf.run(iwae_tf.Config(run_dir=str(directory), **(OPTIONS | options)))
    return Run(directory)


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    place = tmp_path_factory.mktemp("digits") / "run"
    return trained(place, dataset="digits", conditional=True, validation=200)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal([1, -50, 0], [1, 20, 0.1], size=(260, 3)).astype(np.float32)
    path = tmp_path_factory.mktemp("table") / "table.npz"
    np.savez(path, x_train=x[:200], x_test=x[200:])
    return path


@pytest.fixture(scope="module")
def of_table(table):
    options = {"likelihood": "gaussian", "standardize": True}
    return trained(table.parent / "run", dataset=str(table), **options)


def command(*words, cwd):
    code = "from iwae_tf.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_scores_of_the_test_set_are_those_of_the_run(of_digits, of_table, table):
    for run, dataset in ((of_digits, None), (of_table, str(table))):
        given = using.observations(run, dataset, "test", None, True)
        config = iwae_tf.Config(eval_samples=20, eval_images=20, jit=False)
        using.score(run, given, config, run.directory / "again.npz")
        with np.load(run.directory / "again.npz") as again:
            for name, want in run.scores.items():
                np.testing.assert_array_equal(np.float32(again[name]), want)


def test_other_data_are_standardised_by_the_run(of_table, table, tmp_path):
    with np.load(table) as arrays:
        x = arrays["x_test"]
    arrays = {"x_train": x[:30], "x_test": x[30:]}
    np.savez(tmp_path / "other.npz", **arrays)
    (tmp_path / "other").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "other" / f"{name}.npy", array)
    own = using.observations(of_table, str(table), "test", None, True)
    for name in ("other.npz", "other"):
        for split, rows in (("train", slice(30)), ("test", slice(30, None))):
            other = str(tmp_path / name)
            given = using.observations(of_table, other, split, None, True)
            np.testing.assert_array_equal(given.x, own.x[rows])
            np.testing.assert_array_equal(given.log_jacobian, own.log_jacobian[rows])


def test_train_and_held_out_images_are_those_of_the_run(of_digits):
    given = using.observations(of_digits, None, "train", None, True)
    assert len(given.x) == of_digits.report["data"]["n_train"]
    held_out = using.observations(of_digits, None, "test", None, True)
    assert len(held_out.x) == 200
    digest = of_digits.report["data"]["binarized_test_sha256"]
    assert data.sha256(held_out.x) == digest
    assert given.context.shape == (len(given.x), 10)
    np.testing.assert_array_equal(given.context.argmax(axis=1), given.labels)


def test_embedding_has_encodings_labels_and_scores(of_digits, tmp_path, capsys):
    given = using.observations(of_digits, None, "test", None, True)
    config = iwae_tf.Config(eval_samples=20, eval_images=5, jit=False)
    using.embed(of_digits, given, config, tmp_path / "e.npz")
    assert "warning: embed: " in capsys.readouterr().out
    places = data.spread(200, 5)
    x, y = given.x[places], given.context[places]
    model = of_digits.model
    with np.load(tmp_path / "e.npz") as got:
        means, scales = model.encode(x, y)
        np.testing.assert_array_equal(got["mean_z1"], means[0])
        np.testing.assert_array_equal(got["scale_z1"], scales[0])
        np.testing.assert_array_equal(got["labels"], given.labels[places])
        options = {"context": y, "jit_compile": False, "batch_size": 20}
        with pytest.warns(UserWarning, match="embed"):
            embedded = model.embed(x, 20, **options)
        np.testing.assert_array_equal(got["posterior_mean_z1"], embedded.means[0])
        errors = embedded.standard_errors[0]
        np.testing.assert_array_equal(got["posterior_error_z1"], errors)
        np.testing.assert_array_equal(got["ess"], embedded.ess)
        score = iwae_tf.log_likelihood(model, x, 20, **options)
        np.testing.assert_array_equal(got["log_px"], score.log_px)


def test_samples_take_labels_in_turn_or_one(of_digits, tmp_path):
    config = iwae_tf.Config(seed=3)
    using.sample(of_digits, 12, None, config, tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as got:
        np.testing.assert_array_equal(got["labels"], np.arange(12) % 10)
        context = np.eye(10, dtype=np.float32)[got["labels"]]
        samples, means = of_digits.model.sample(12, 3, context)
        np.testing.assert_array_equal(got["samples"], samples)
        np.testing.assert_array_equal(got["means"], means)
    using.sample(of_digits, 4, "7", config, tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as got:
        np.testing.assert_array_equal(got["labels"], [7] * 4)
    with pytest.raises(UsageError, match="^label: must be one of 0, .*, got cat$"):
        using.sample(of_digits, 4, "cat", config, tmp_path / "s.npz")
    using.sample(of_digits, 12, None, config, tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert image.size[0] > 500


def test_samples_of_standardised_data_are_in_units_of_the_data(of_table, tmp_path):
    using.sample(of_table, 500, None, iwae_tf.Config(), tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as got:
        mean = got["samples"].mean(axis=0)
        assert np.all(np.abs(mean - [1, -50, 0]) < np.array([1, 20, 0.1]))
    with pytest.raises(UsageError, match="^out: must be an .npz file for vectors"):
        using.sample(of_table, 5, None, iwae_tf.Config(), tmp_path / "s.png")
    with pytest.raises(UsageError, match="^label: must be given for conditional runs"):
        using.sample(of_table, 5, "1", iwae_tf.Config(), tmp_path / "s.npz")


def test_data_that_do_not_fit_are_one_line(of_digits, of_table, table):
    for run, dataset, rule in (
        (
            of_table,
            None,
            "dataset: must be given for a run on 'table', .*",
        ),
        (of_table, "digits", r"dataset: must have observations of shape \(3,\), .*"),
        (
            of_digits,
            str(table),
            r"dataset: must have obs.* of shape \(8, 8, 1\).*",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{rule}$"):
            using.observations(run, dataset, "test", None, True)
    with pytest.raises(UsageError, match="^dataset: must have labels for this run"):
        using.contexts_of(None, {"classes": [0, 1]})


def test_commands_work_from_another_directory(of_digits, tmp_path):
    run = of_digits.directory
    options = ("--eval_samples=5", "--eval_images=5", "--nojit", "--offline")
    done = command("score", run, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "digits, test: Likelihood: -" in done.stdout
    done = command("score", run, *options, "--proposal=inflated", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "digits, test by the proposal inflated: Likelihood: -" in done.stdout
    done = command("embed", *options, "--out", "a/e.npz", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "e.npz").exists()
    done = command("sample", run, "--out=s.npz", "--n=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "s.npz") as got:
        assert got["samples"].shape == (3, 8, 8, 1)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("sample", "RUN"), "out: must be a .npz or .png file, got none"),
        (("embed", "RUN", "--out=a.txt"), "out: must be a .npz file, got 'a.txt'"),
        (("score",), "arguments: must be one RUN, its directory or name, got []"),
        (("score", "RUN", "b"), "arguments: must be one RUN, its directory or name"),
        (("score", "no_such_run"), "run_dir: must hold a run, got 'no_such_run'"),
        (("sample", "RUN", "--n=0", "--out=a.npz"), "flag --n=0"),
        (("score", "RUN", "--eval_samples=0"), "eval_samples: must be at least 1"),
        (("score", "RUN", "--split=all"), "flag --split=all"),
        (("embed", "RUN", "--epochs=3", "--out=a.npz"), "Unknown command line flag"),
    ],
    ids=range(9),
)
def test_wrong_words_are_one_line_and_status_2(words, rule, of_digits, tmp_path):
    words = [str(of_digits) if word == "RUN" else word for word in words]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and rule in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout
    assert not list(tmp_path.iterdir())


def test_help_lists_the_flags_of_a_command(tmp_path):
    done = command("sample", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for flag in ("--out", "--n ", "--label", "--seed", "--device"):
        assert flag in done.stdout
    assert "--epochs" not in done.stdout
