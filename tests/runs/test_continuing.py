"""Tests of runs that go on: a loaded model, more epochs, another run's state."""

import dataclasses
import hashlib
import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from small_runs import Stop, assert_same, contents, images_of, small, state

import iwae_tf
from iwae_tf import data
from iwae_tf.errors import UsageError
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.runs import experiment, names, rows, scoring, training
from iwae_tf.runs.checkpoints import Checkpoints, step_of, steps_done
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import Metrics
from iwae_tf.runs.rows import SCALARS
from iwae_tf.runs.run import Run
from iwae_tf.runs.schedules import Stage, learning_rate_at

IMAGES = images_of(60, 20)
N_STEPS = 6  # in an epoch of 60 images in batches of 10


def constant(run_dir, epochs, **options):
    """A run of six steps an epoch, whose schedule does not depend on its epochs."""
    options = {"schedule": "constant", "learning_rate": 0.01} | options
    config = small(epochs=epochs, batch_size=10, run_dir=str(run_dir), **options)
    return dataclasses.replace(config, eval_samples=7, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function from a number of epochs to a run that has them from the start."""
    directory, made = tmp_path_factory.mktemp("finished"), {}

    def make(epochs):
        if epochs not in made:
            config = constant(directory / str(epochs), epochs)
            made[epochs] = config, experiment.run(config, IMAGES)
        return made[epochs]

    return make


def sets_of(config):
    return data.sets_of(IMAGES, **config.of_sets())


# A loaded model ----------------------------------------------------------------------


def test_loaded_model_trains_on_bit_for_bit_as_its_run_would_have(finished):
    (two, _), (four, _) = finished(2), finished(4)
    model = iwae_tf.load(two.run_dir)
    training.fit(
        model,
        sets_of(two),
        stages=[Stage(0, 4, two.n_samples)],
        batch_size=10,
        binarization="dynamic",
        first_step=2 * N_STEPS,
        callbacks=[],
    )
    assert_same(state(model), state(iwae_tf.load(four.run_dir)))


def test_loaded_model_is_compiled_with_the_options_of_its_run(tmp_path):
    options = {"objective": "combination", "combination_beta": 0.25, "n_samples": 3}
    config = small(
        epochs=1,
        batch_size=10,
        run_dir=str(tmp_path / "run"),
        beta=0.5,
        warmup_steps=4,
        eval_samples=3,
        schedule="fast",
        **options,
    )
    experiment.run(config, IMAGES)
    model, want = (
        iwae_tf.load(tmp_path / "run"),
        experiment.build(config, sets_of(config)),
    )
    one, other = (m.get_compile_config() for m in (model, want))
    for compiled in (one, other):  # an execution, and Keras' number of the optimizer
        compiled.pop("steps_per_execution", None)
        del compiled["optimizer"]["config"]["name"]
    assert one == other
    assert int(model.optimizer.iterations) == N_STEPS
    x = np.round(IMAGES.x_test)
    assert np.isfinite(model.evaluate(x, verbose=0)).all()
    history = model.fit(x, batch_size=7, epochs=1, verbose=0).history
    assert np.isfinite(history["bound"]).all()
    assert int(model.optimizer.iterations) == N_STEPS + 3


def test_loaded_weights_without_an_optimizer_get_a_new_one(finished, tmp_path):
    config, _ = finished(2)
    run = Run(config.run_dir)
    (tmp_path / "checkpoints").mkdir()
    run.model.save_weights(tmp_path / "checkpoints" / run.checkpoint.name)
    for name in ("config.json", "report.json"):
        (tmp_path / name).write_bytes((run.directory / name).read_bytes())
    model = iwae_tf.load(tmp_path)
    assert_same(model.get_weights(), run.model.get_weights())
    assert int(model.optimizer.iterations) == 0
    before = model.get_weights()
    model.fit(np.round(IMAGES.x_test), epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 1
    assert any(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))


# More epochs -------------------------------------------------------------------------


def assert_same_run(one, other):
    """Two runs: the same bits of weights, scores, metrics, report and pictures."""
    assert_same(*(state(iwae_tf.load(run)) for run in (one, other)))
    runs = [Run(run) for run in (one, other)]
    scores = [run.scores for run in runs]
    assert scores[0].keys() == scores[1].keys()
    for name in scores[0]:
        np.testing.assert_array_equal(scores[0][name], scores[1][name])
    tables = [run.metrics() for run in runs]
    for table in tables:
        for row in table:
            del row["seconds"], row["images_per_second"]
    assert tables[0] == tables[1]
    reports = [run.report for run in runs]
    for report in reports:
        del report["train_seconds"], report["score_seconds"]
    assert reports[0] == reports[1] and runs[0].record == runs[1].record
    pages = [sorted(p.name for p in run.directory.glob("figures/*")) for run in runs]
    assert pages[0] == pages[1]
    for name in (*(f"figures/{page}" for page in pages[0]), "samples.gif"):
        of_both = [run.directory.joinpath(name).read_bytes() for run in runs]
        assert of_both[0] == of_both[1], name


def copied(finished, epochs, tmp_path):
    """A copy of a finished run, and what its command was."""
    config, report = finished(epochs)
    copy = tmp_path / "run"
    shutil.copytree(config.run_dir, copy)
    return dataclasses.replace(config, run_dir=str(copy)), report


def stop(*_, **__):
    raise Stop


def test_finished_run_goes_on_to_more_epochs_as_if_it_had_them_from_the_start(
    finished, tmp_path, monkeypatch
):
    config, report = copied(finished, 3, tmp_path)
    run, scores = Run(config.run_dir), Run(config.run_dir).scores
    longer = dataclasses.replace(config, epochs=12)
    for place in (
        (training.Display, "on_epoch_end"),
        (scoring, "log_likelihood"),
        (scoring, "write_arrays"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*place, stop)
            with pytest.raises(Stop):
                experiment.run(longer, IMAGES)
        assert not run.is_finished and run.config.epochs == 12
        assert run.report == json.loads(json.dumps(report))
        for name, values in run.scores.items():
            np.testing.assert_array_equal(values, scores[name])
    assert Run(config.run_dir).checkpoint == run.checkpoints().paths()[-1]
    experiment.run(longer, IMAGES)
    assert run.is_finished and (run.directory / "figures/samples-08.png").exists()
    assert_same_run(run.directory, finished(12)[0].run_dir)
    before = contents(run.directory)
    experiment.run(longer, IMAGES)
    assert contents(run.directory) == before


def test_interrupted_run_goes_on_to_more_epochs(finished, tmp_path):
    config = constant(tmp_path / "run", 3)

    def watch(model, epoch, run):
        if epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        experiment.run(config, IMAGES, watch)
    experiment.run(dataclasses.replace(config, epochs=4), IMAGES)
    assert_same_run(config.run_dir, finished(4)[0].run_dir)


def test_interrupted_run_with_binary_latents_goes_on_to_the_bit(tmp_path):
    whole, broken = (
        dataclasses.replace(
            constant(tmp_path / name, 3),
            model="sbn",
            objective="rws_sleep",
            stochastic_layers=2,
            n_latent=(3, 2),
            n_hidden=None,
        )
        for name in ("whole", "broken")
    )
    experiment.run(whole, IMAGES)

    def watch(model, epoch, run):
        if epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        experiment.run(broken, IMAGES, watch)
    experiment.run(broken, IMAGES)
    assert_same_run(broken.run_dir, whole.run_dir)


def test_fewer_epochs_are_refused_and_nothing_changes(finished, tmp_path):
    config, _ = copied(finished, 3, tmp_path)
    before = contents(Run(config.run_dir).directory)
    fewer = dataclasses.replace(config, epochs=2)
    with pytest.raises(UsageError, match=r"^epochs: must be 3 to continue .* got 2;"):
        experiment.run(fewer, IMAGES)
    assert contents(Run(config.run_dir).directory) == before


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "burda", "learning_rate": None},
        {"schedule": "fast", "grow_samples": False, "optimizer": "adam"},
        {"grow_samples": True},
    ],
    ids=["burda", "fast", "growing k"],
)
def test_epochs_that_all_steps_depend_on_cannot_grow(tmp_path, options):
    config = constant(tmp_path / "run", 2, **options)

    def watch(*_):
        raise Stop

    with pytest.raises(Stop):
        experiment.run(config, IMAGES, watch)
    longer = dataclasses.replace(config, epochs=3)
    with pytest.raises(UsageError, match=r"^epochs: must be 2 to continue .* got 3;"):
        experiment.run(longer, IMAGES)
    with pytest.raises(UsageError, match="^seed: must be 5 to continue .* got 6;"):
        experiment.run(dataclasses.replace(config, seed=6), IMAGES)


# Stopping early ----------------------------------------------------------------------


def table_of(*bounds):
    return [
        {"epoch": str(epoch), "step": str(6 * epoch), "test_bound": bound}
        for epoch, bound in enumerate(bounds, 1)
    ]


@pytest.mark.parametrize(
    ("bounds", "best", "since"),
    [
        (("-3.0",), 1, 0),
        (("-3.0", "-2.0", "-2.5"), 2, 1),
        (("-3.0", "-2.0", "-2.0", "-2.0"), 2, 2),  # an equal bound is not better
        (("-10.0", "-9.0"), 2, 0),  # as numbers, not as texts
        (("nan", "-9.0", "nan", "nan"), 2, 2),
        (("nan", "", "nan"), 1, 2),
        (("-2.0", "inf", "-1.0"), 2, 1),
    ],
)
def test_best_epoch_and_the_end_are_functions_of_the_rows(bounds, best, since):
    table = table_of(*bounds)
    assert rows.best_of(table)["epoch"] == str(best)
    for patience in range(1, 5):
        assert rows.stops(table, patience) == (since >= patience)
    assert not rows.stops(table, None) and not rows.stops([], 1)


def stopping(run_dir, **options):
    """A run that stops early: on 40 images, with 20 held out."""
    options = {"epochs": 40, "validation": 20, "early_stopping": 2} | options
    return constant(run_dir, **{"learning_rate": 0.05} | options)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped early, its report, and the weights after every epoch."""
    config, weights = stopping(tmp_path_factory.mktemp("stopped") / "run"), {}

    class Note(training.Display):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            weights[epoch + 1] = self.model.get_weights()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Display", Note)
        report = experiment.run(config, IMAGES)
    return config, report, weights


def test_run_stops_after_the_epochs_without_a_better_bound(stopped):
    config, report, weights = stopped
    bounds = [float(row["test_bound"]) for row in Run(config.run_dir).metrics()]
    n, best = len(bounds), int(np.argmax(bounds)) + 1
    assert 2 < n < 40 and best == n - 2
    assert (report["epochs"], report["best_epoch"], report["steps"]) == (n, best, 4 * n)
    # No earlier epoch had been as long without a better one.
    for end in range(1, n):
        assert end - (int(np.argmax(bounds[:end])) + 1) < 2
    assert len(weights) == n


def test_best_epoch_is_kept_scored_and_given_back(stopped):
    config, report, weights = stopped
    run, want = Run(config.run_dir), weights[report["best_epoch"]]
    for model in (run.model, iwae_tf.load(config.run_dir)):
        assert_same(model.get_weights(), want)
    assert int(iwae_tf.load(config.run_dir).optimizer.iterations) == (
        4 * report["best_epoch"]
    )
    x = sets_of(config).x_test
    again = log_likelihood(run.model, x, 7, seed=config.seed, jit_compile=False)
    np.testing.assert_array_equal(np.float32(again.log_px), run.scores["log_px"])
    assert f"epoch {report['best_epoch']} of {report['epochs']}" in run.title
    pages = {int(p.stem[8:]) for p in run.directory.glob("figures/*")}
    assert report["best_epoch"] in pages
    with Image.open(run.directory / "samples.gif") as gif:
        assert gif.n_frames == sum(page <= report["best_epoch"] for page in pages)


def test_run_that_was_killed_stops_at_the_same_epoch_with_the_same_bits(
    stopped, tmp_path, capsys
):
    config, report, _ = stopped
    config = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    best, n = report["best_epoch"], report["epochs"]
    for place, epoch in (
        ((Metrics, "on_epoch_end"), best),  # before the row of the best epoch
        ((Checkpoints, "on_epoch_end"), best),  # before its checkpoint
        ((Checkpoints, "on_epoch_end"), best + 1),
        ((training.StopEarly, "on_epoch_end"), n),
        ((experiment, "take_best"), None),
        ((scoring, "log_likelihood"), None),
    ):
        real = getattr(*place)

        def kill(self, *args, real=real, epoch=epoch, **kwargs):
            if epoch is None or int(steps_done(self.model)) == 4 * epoch:
                raise Stop
            return real(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*place, kill)
            with pytest.raises(Stop):
                experiment.run(config, IMAGES)
        assert not Run(config.run_dir).is_finished
    assert_same(Run(config.run_dir).model.get_weights(), stopped[2][best])
    experiment.run(config, IMAGES)
    assert_same_run(config.run_dir, stopped[0].run_dir)
    said = capsys.readouterr().out
    assert (
        f"stopped early after epoch {n}: no validation bound since epoch {best} "
        in (said)
    )


def test_limit_of_epochs_counts_and_may_grow_until_the_run_stops_early(
    stopped, tmp_path
):
    _, report, weights = stopped
    n = report["epochs"]
    config = stopping(tmp_path / "run", epochs=n - 1)
    config = dataclasses.replace(config, checkpoint_seconds=1e6)
    short = experiment.run(config, IMAGES)
    assert (short["epochs"], short["best_epoch"]) == (n - 1, report["best_epoch"])
    assert_same(Run(config.run_dir).model.get_weights(), weights[report["best_epoch"]])
    experiment.run(dataclasses.replace(config, epochs=40), IMAGES)
    assert_same_run(config.run_dir, stopped[0].run_dir)


def test_damaged_newest_checkpoint_of_the_best_epoch_costs_only_time(stopped, tmp_path):
    config, report, _ = stopped
    config = dataclasses.replace(config, run_dir=str(tmp_path / "run"))

    real = Checkpoints.on_epoch_end

    def kill(self, epoch, logs=None):
        real(self, epoch, logs)
        if epoch + 1 == report["best_epoch"]:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "on_epoch_end", kill)
        with pytest.raises(Stop):
            experiment.run(config, IMAGES)
    newest = Run(config.run_dir).checkpoints().paths()[-1]
    assert step_of(newest) == 4 * report["best_epoch"]
    newest.write_bytes(newest.read_bytes()[:100])
    experiment.run(config, IMAGES)
    assert_same_run(config.run_dir, stopped[0].run_dir)


def test_lost_best_checkpoint_and_lost_rows_are_told_in_one_line(stopped, tmp_path):
    config, report, _ = stopped
    copy = tmp_path / "run"
    shutil.copytree(config.run_dir, copy)
    again = dataclasses.replace(config, run_dir=str(copy), rescore=True)
    run = Run(copy)
    run.checkpoint.unlink()
    with pytest.raises(UsageError, match="^run_dir: the best checkpoint must be"):
        experiment.run(again, IMAGES)
    (copy / "metrics.csv").unlink()
    for path in copy.glob("checkpoints/*.json"):
        path.unlink()
    with pytest.raises(UsageError, match="^early_stopping: must have the metrics of"):
        experiment.run(again, IMAGES)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bound_that_stops_is_that_of_all_held_out_images(tmp_path, jit):
    images = images_of(170, 5)
    config = stopping(tmp_path / "run", epochs=1, validation=130)
    config = dataclasses.replace(config, jit=jit)
    experiment.run(config, images)
    x = data.sets_of(images, **config.of_sets()).x_test
    assert len(x) == 130
    logs = iwae_tf.load(config.run_dir).evaluate(
        x, batch_size=100, verbose=0, return_dict=True
    )
    (row,) = Run(config.run_dir).metrics()
    for name in SCALARS:
        assert float(row[f"test_{name}"]) == pytest.approx(logs[name], abs=1e-3)


def test_early_stopping_needs_held_out_images():
    with pytest.raises(UsageError, match="^early_stopping: goes with validation only"):
        Config(early_stopping=3)


# Another run's state -----------------------------------------------------------------


def after(run_dir, other, epochs, **options):
    return constant(run_dir, epochs, continue_from=str(other), **options)


def test_epochs_that_continue_others_are_those_of_one_run(finished, tmp_path):
    two, four = (finished(n)[0].run_dir for n in (2, 4))
    third, fourth = tmp_path / "third", tmp_path / "fourth"
    report = experiment.run(after(third, two, 1), IMAGES)
    assert (report["epochs"], report["steps"]) == (1, N_STEPS)
    newest = Run(two).checkpoint
    assert (
        report["init"]
        == Run(third).record["init"]
        == {
            "run": "2",
            "objective": "iwae_elbo",
            "n_samples": 2,
            "step": 2 * N_STEPS,
            "iterations": 2 * N_STEPS,
            "weights_sha256": hashlib.sha256(newest.read_bytes()).hexdigest(),
        }
    )
    report = experiment.run(after(fourth, third, 1), IMAGES)
    assert report["init"]["step"] == N_STEPS
    assert report["init"]["iterations"] == 3 * N_STEPS
    assert_same(*(state(iwae_tf.load(run)) for run in (fourth, four)))
    own, whole = (Run(run).metrics() for run in (fourth, four))
    assert [row["epoch"] for row in own] == ["1"]
    for name in SCALARS:
        for part in ("train", "test"):
            assert own[-1][f"{part}_{name}"] == whole[-1][f"{part}_{name}"]
    for name, values in Run(fourth).scores.items():
        np.testing.assert_array_equal(values, Run(four).scores[name])
    assert names.run_name(after(third, two, 1)).endswith("-s5-after-2")


def test_interrupted_continuation_resumes_to_the_bit(finished, tmp_path):
    two, four = (finished(n)[0].run_dir for n in (2, 4))
    config = after(tmp_path / "run", two, 2)
    for place in ((Metrics, "on_epoch_end"), (Checkpoints, "on_epoch_end")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*place, stop)
            with pytest.raises(Stop):
                experiment.run(config, IMAGES)
    seen = []

    def watch(model, epoch, run):
        seen.append((epoch, steps_done(model), int(model.optimizer.iterations)))
        if epoch == 1:
            raise Stop

    with pytest.raises(Stop):
        experiment.run(config, IMAGES, watch)
    assert seen == [(0, 0, 12), (1, 6, 18)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Display, "on_epoch_end", interrupt_at(2))
        with pytest.raises(Stop):
            experiment.run(config, IMAGES)
    assert Run(config.run_dir).checkpoints().newest_step() == N_STEPS
    experiment.run(config, IMAGES)
    assert_same(*(state(iwae_tf.load(run)) for run in (config.run_dir, four)))
    without = dataclasses.replace(config, continue_from=None)
    says = "^continue_from: must be '2 at step 12, weights .*' to continue .* got None;"
    with pytest.raises(UsageError, match=says):
        experiment.run(without, IMAGES)
    started = dataclasses.replace(without, init_from=str(two))
    with pytest.raises(UsageError, match=says):
        experiment.run(started, IMAGES)


def interrupt_at(epoch):
    def update(self, number, logs=None):
        if number + 1 == epoch:
            raise Stop

    return update


@pytest.mark.parametrize(
    ("optimizer", "first", "then"),
    [("muon", "constant", "fast"), ("adam", "fast", "constant")],
)
def test_schedule_begins_anew_and_the_optimizer_goes_on(
    tmp_path, optimizer, first, then
):
    options = {"optimizer": optimizer, "grow_samples": False, "learning_rate": 0.01}
    one, two, fresh = (tmp_path / name for name in ("one", "two", "fresh"))
    experiment.run(constant(one, 2, schedule=first, **options), IMAGES)
    source = iwae_tf.load(one)
    seen = {}

    def watch(model, epoch, run):
        seen[epoch] = model.get_weights(), slots(model)

    config = constant(two, 3, schedule=then, continue_from=str(one), **options)
    experiment.run(config, IMAGES, watch)
    weights, own = seen[0]
    assert_same(weights, source.get_weights())
    assert own.keys() == slots(source).keys() and len(own) > 10
    assert own["iteration"] == 2 * N_STEPS
    for name, value in slots(source).items():
        np.testing.assert_array_equal(own[name], value, err_msg=name)
    config = dataclasses.replace(config, run_dir=str(fresh), continue_from=None)
    experiment.run(config, IMAGES)
    for column in ("epoch", "step", "learning_rate"):
        assert [row[column] for row in Run(two).metrics()] == [
            row[column] for row in Run(fresh).metrics()
        ]
    loaded = iwae_tf.load(two).optimizer
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(loaded))
    new = iwae_tf.load(fresh).optimizer
    for iteration in range(2 * N_STEPS, 5 * N_STEPS):
        rates = [learning_rate_at(o, iteration) for o in (loaded, copy)]
        rates.append(learning_rate_at(new, iteration - 2 * N_STEPS))
        assert rates[0] == rates[1] == rates[2]


def slots(model):
    """The state of an optimizer by name, but for the learning rate."""
    return {
        variable.path.partition("/")[2]: variable.numpy()
        for variable in model.optimizer.variables
        if "learning_rate" not in variable.path
    }


def test_images_come_in_the_order_of_the_next_whole_epoch(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    config = dataclasses.replace(constant(one, 2), batch_size=7)
    experiment.run(config, IMAGES)  # eight steps an epoch
    experiment.run(after(two, one, 1), IMAGES)
    model = iwae_tf.load(one)
    assert int(model.optimizer.iterations) == 16
    # The first epoch of six steps that begins at step 16 or later begins at step 18.
    batches = data.training_batches(IMAGES.x_train, 10, model.seed, 18)
    model.fit(batches, steps_per_epoch=6, shuffle=False, verbose=0)
    assert_same(state(model), state(iwae_tf.load(two)))


def test_what_cannot_be_continued_is_refused_in_one_line(finished, tmp_path):
    two = finished(2)[0].run_dir
    run, bare = Run(two), tmp_path / "bare"
    (bare / "checkpoints").mkdir(parents=True)
    run.model.save_weights(bare / "checkpoints" / run.checkpoint.name)
    for name in ("config.json", "report.json"):
        shutil.copy(run.directory / name, bare)
    for other, options, says in (
        (tmp_path, {}, "must hold a run.*config"),
        (two, {"optimizer": "muon"}, "must be .* same optimizer, .* adam for muon"),
        (two, {"n_latent": (3,)}, "must be a run with the same networks .* latents"),
        (bare, {}, "must be a run with the state of its optimizer, .* weights only"),
    ):
        config = dataclasses.replace(after(tmp_path / "run", other, 1), **options)
        with pytest.raises(UsageError, match=f"^continue_from: {says}") as info:
            experiment.run(config, IMAGES)
        assert "\n" not in str(info.value) and not (tmp_path / "run").exists()
    for name in ("init_from", "pretrained"):
        says = f"^continue_from: must not be given with {name}, got 'a' with 'b'"
        with pytest.raises(UsageError, match=says):
            Config(continue_from="a", **{name: "b"})
