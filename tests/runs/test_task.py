"""What tasks share, on a few tiny images."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

from iwae_tf import data, rules
from iwae_tf.errors import UsageError
from iwae_tf.runs import names
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run
from iwae_tf.runs.task import ShareDone, Task


def of_noise(directory):
    """A function from options to a task on 65 images of noise, in a directory."""
    x = np.random.default_rng(1).random((65, 3, 4, 1)).astype(np.float32)
    np.savez(directory / "noise.npz", x_train=x[:60], x_test=x[60:])
    (directory / "task").mkdir()

    def build(given=(), only=None, **options):
        config = Config(
            dataset=str(directory / "noise.npz"),
            n_latent=(2,),
            n_hidden=(3,),
            n_samples=2,
            epochs=1,
            batch_size=20,
            jit=False,
            eval_samples=7,
            **options,
        )
        return Task("task00", config, directory / "task", given=given, only=only)

    return build


@pytest.fixture
def make(tmp_path):
    return of_noise(tmp_path)


PIWAE = {"objective": "piwae", "n_groups": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A task and its run."""
    task = of_noise(tmp_path_factory.mktemp("trained"))(jackknife=True)
    return task, task.run(**PIWAE)


def test_run_of_a_task_is_named_scored_at_its_own_k_and_found_again(trained, capsys):
    task, run = trained
    options = "n_latent_2-n_hidden_3-nojit"
    name = f"noise-piwae-1l-m3-{options}-k2-s123-e1"
    assert run.directory == task.directory / name
    test = run.report["test"]
    assert set(test["bounds"]) == {"1", "5", "6", "7"}
    with np.load(run.directory / "scores.npz") as scores:
        for order in ("1", "2"):
            values = scores[f"jackknife_{order}"].astype(np.float64)
            assert test["jackknife"][order] == {
                "log_likelihood": pytest.approx(values.mean(), abs=1e-4),
                "standard_error": pytest.approx(
                    values.std(ddof=1) / len(values) ** 0.5, abs=1e-4
                ),
            }
    assert test["jackknife"]["1"]["log_likelihood"] > test["log_likelihood"]
    again = task.run(**PIWAE)
    assert (again.directory, again.report) == (run.directory, run.report)
    out = capsys.readouterr().out
    assert "finished earlier" in out and "tensorboard" not in out
    caption = "noise · PIWAE, m = 3, k = 2 · 1 layer · seed 123"
    assert run.title == f"{caption} · 1 epoch"
    assert [row["epoch"] for row in run.metrics()] == ["1"]
    assert run.model.posterior.n_latent == (2,)
    changed = {"dataset": "noise", "jackknife": False, "eval_samples": 5000}
    assert run.config == dataclasses.replace(task.config, **PIWAE, **changed)


def test_names_of_runs_tell_labels_and_starts():
    config = Config(dataset="noise", conditional=True)
    assert names.run_name(config) == "noise-iwae_elbo-1l-y-k5-s123"
    assert names.caption(config).startswith("noise given y · IWAE, k = 5 · 1 layer")
    mixture = Config(objective="combination", combination_beta=0.25, dataset="noise")
    assert names.run_name(mixture) == "noise-combination-1l-b0.25-k5-s123"
    assert "noise · 0.25 ELBO + 0.75 IWAE, k = 5 · " in names.caption(mixture)
    config = dataclasses.replace(config, conditional_prior=True, init_from="a/b")
    assert names.run_name(config) == "noise-iwae_elbo-1l-yprior-k5-s123-from-b"


def test_titles_tell_a_schedule_that_is_not_the_papers(make):
    config = Config(dataset="noise", schedule="constant", learning_rate=0.01)
    assert names.caption(config).endswith("1 layer · constant rate 0.01 · seed 123")
    title = make(schedule="constant").title
    assert title == "noise · 1 epoch · constant rate 0.001 · seed 123"


def test_titles_have_words_in_place_of_the_names_of_options(make, trained):
    for field, known in (("objective", rules.OBJECTIVES), ("model", rules.MODELS)):
        words = [getattr(names, field)(name) for name in known]
        assert len({*words}) == len(words) and not any("_" in word for word in words)
    config = Config(dataset="fashion_mnist", model="tvae_affine", n_bounded=6)
    title = "Fashion-MNIST · IWAE, k = 5 · spatial transformer, affine, tanh on 6 means"
    assert names.caption(config) == f"{title} · seed 123"
    options = {"likelihood": "gaussian", "likelihood_scale": "feature"}
    config = Config(dataset="mnist", binarization="none", n_samples=1, **options)
    text = "MNIST · IWAE, k = 1 · 1 layer · Gaussian · a scale for each feature · "
    assert names.caption(config).startswith(text)
    run = trained[1]
    task = make(schedule="constant", init_from=str(run.directory))
    assert task.title.endswith(" · from the weights of one PIWAE, m = 3, k = 2")


def test_given_runs_are_taken_if_they_are_of_the_same_images(make, trained, tmp_path):
    _, run = trained
    task = make(given=[run])
    assert task.only_given().report == run.report
    assert task.title == f"{run.title}".replace(
        "1 layer · seed 123 · 1 epoch",
        "1 layer · 1 epoch · the paper's schedule · seed 123",
    )
    assert make().only_given() is None
    with pytest.raises(UsageError, match="^run_dir: must be one run .* got 2$"):
        make(given=2 * [run]).only_given()
    x = np.zeros((9, 3, 4, 1), np.float32)
    np.savez(tmp_path / "noise.npz", x_train=x, x_test=x)
    with pytest.raises(UsageError, match="^run_dir: must be of the test images of no"):
        make(given=[run])
    with pytest.raises(UsageError, match="^run_dir: must hold a finished run, got "):
        make(given=[Run(tmp_path)])


def test_labels_say_what_tells_runs_apart(tmp_path, monkeypatch):
    reports = {}
    of_run = property(lambda run: reports[run.directory])
    monkeypatch.setattr(Run, "report", of_run)

    def run(name, epochs=1, init=None, **options):
        report = {"config": Config(**options).of_run(), "epochs": epochs, "init": init}
        run = Run(tmp_path / name)
        reports[run.directory] = report
        return run

    constant = {"learning_rate": 0.01, "schedule": "constant"}
    runs = [
        run("a", objective="vae_elbo"),
        run("b"),
        run("c", n_samples=3),
        run("d", n_samples=3, epochs=2),
        run("e", n_samples=3, epochs=2, **constant),
        run("f", n_samples=3, epochs=2),
        run("g", init={"objective": "vae_elbo", "n_samples": 1}),
        run("h", objective="miwae", n_groups=2),
    ]
    alike = "IWAE, k = 3, 2 epochs, the paper's schedule"
    assert Task.labels(runs) == [
        "VAE, k = 5",
        "IWAE, k = 5",
        "IWAE, k = 3, 1 epoch",
        f"{alike}, {tmp_path / 'd'}",
        "IWAE, k = 3, 2 epochs, constant rate 0.01",
        f"{alike}, {tmp_path / 'f'}",
        "IWAE, k = 5, after VAE, k = 1",
        "MIWAE, m = 2, k = 5",
    ]
    groups = run("i", objective="miwae", n_groups=4)
    assert Task.labels([runs[-1], groups]) == [
        "MIWAE, m = 2, k = 5",
        "MIWAE, m = 4, k = 5",
    ]
    layers = [runs[1], run("j", stochastic_layers=2, seed=1)]
    assert Task.labels(layers) == ["IWAE, k = 5, 1 layer", "IWAE, k = 5, 2 layers"]


def test_task_asks_what_a_given_run_must_be(trained):
    _, run = trained
    Task.require(run, True, "anything")
    with pytest.raises(UsageError, match="^run_dir: must be deep, got '.*task/noise"):
        Task.require(run, False, "deep")


def test_test_images_are_those_of_runs(trained):
    task, run = trained
    binary = data.binarize(task.images.x_test, "dynamic", data.TEST_SEED).numpy()
    np.testing.assert_array_equal(task.x_test, binary)
    assert run.report["data"]["binarized_test_sha256"] == data.sha256(binary)


def test_finish_writes_table_and_figure_and_tells_where(make, capsys):
    task = make()
    task.finish("| a |", Figure())
    assert task.path(".md").read_text() == "noise · 1 epoch · seed 123\n\n| a |\n"
    assert task.path(".png").stat().st_size
    out = capsys.readouterr().out
    assert "| a |" in out and str(task.path(".png")) in out
    task.finish("| b |", title="other")
    assert task.path(".md").read_text() == "other\n\n| b |\n"
    task.finish("| c |", title="from a|b`c`")
    assert task.path(".md").read_text() == "from a\\|b\\`c\\`\n\n| c |\n"


def asked(task):
    """Asks for five runs, two of which start from others, and returns what it got."""
    runs = [task.run(n_samples=k) for k in (1, 2, 3)]
    starts = [str(runs[i].directory) for i in (0, 2)]
    return runs + [task.run(n_samples=4, init_from=start) for start in starts]


def test_shares_of_a_task_have_every_run_once_and_those_it_starts_from(
    make, monkeypatch
):
    done = []
    monkeypatch.setattr(
        "iwae_tf.runs.experiment.run",
        lambda config, *_, **__: done.append(config.run_dir),
    )
    task = make()
    every = [str(run.directory) for run in asked(task)]
    assert done == every and task.n_jobs == 3
    for n in (2, 3, 4):
        shares = []
        for first in range(n):
            done.clear()
            task = make(only=(first, n))
            assert [str(run.directory) for run in asked(task)] == every
            with pytest.raises(ShareDone):
                task.check_whole()
            shares.append({*done})
        assert sum(map(len, shares)) == 5 and set().union(*shares) == set(every)
        assert {every[0], every[3]} <= shares[0]
        assert {every[2], every[4]} <= shares[2 % n]


def test_run_of_a_share_is_not_looked_at_before_all_are_done(make):
    run = make(only=(1, 2)).run()
    with pytest.raises(ShareDone):
        run.report  # noqa: B018
    assert not run.directory.exists()
    make().check_whole()
