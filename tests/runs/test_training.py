"""Tests of iwae_tf.training."""

import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import data
from iwae_tf.errors import Diverged, UsageError
from iwae_tf.runs import experiment, schedules, training
from iwae_tf.runs.config import Config


def images(n_train=60, shape=(3, 2, 1), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n_train + 10, *shape)).astype(np.float32)
    return data.Sets(x[:n_train], np.round(x[n_train:]))


def small(**options):
    """A run of two executions an epoch: 60 images, one a step, 30 an execution."""
    options = {"epochs": 3, "batch_size": 1, "n_samples": 2} | options
    return Config(n_latent=(2,), n_hidden=(3,), jit=False, seed=5, **options)


# Device ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "tpu", "GPU", "gpu:x", "gpu:-1", "nonsense", "cpu:3", "auto:0"]
)
def test_unknown_device_is_refused(name):
    with pytest.raises(UsageError, match=f"^device: must be auto, cpu.*'{name}'"):
        training.use_device(name)


def test_gpu_that_is_not_there_is_refused():
    seen = len(tf.config.list_physical_devices("GPU"))
    with pytest.raises(UsageError, match=f"^device: .*'gpu:{seen}' with {seen} GPUs"):
        training.use_device(f"gpu:{seen}")


@pytest.mark.parametrize(("own", "says"), [({1}, "1 core"), ({0, 3, 5}, "3 cores")])
def test_cores_are_those_that_the_process_may_use(own, says, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: own, raising=False)
    assert training.use_device("cpu") == f"CPU with {says}"


def test_cores_are_all_where_nobody_tells(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert training.use_device("cpu") == "CPU with 7 cores"


class Stop(BaseException):
    """Ends work where it stands, as a kill does; nobody catches it."""


# Checkpoints -------------------------------------------------------------------------


@pytest.fixture
def model():
    return experiment.build(small(), images())


def state(model):
    """Weights and optimizer slots, the step among them."""
    variables = [*model.weights, *model.optimizer.variables]
    return [variable.numpy() for variable in variables]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def go_to(model, step):
    """Makes up a state at a step."""
    rng = np.random.default_rng(step)
    for variable in [*model.weights, *model.optimizer.variables]:
        if variable.dtype == "float32" and "learning_rate" not in variable.path:
            variable.assign(rng.random(variable.shape, np.float32))
    model.optimizer.iterations.assign(step)


@pytest.fixture
def saved(model, tmp_path):
    """Three states that were saved, of which the last two are kept."""
    checkpoints = training.Checkpoints(tmp_path / "checkpoints")
    checkpoints.set_model(model)
    states = {}
    for step in (7, 60, 120):
        go_to(model, step)
        checkpoints.save()
        states[step] = state(model)
    go_to(model, 999)
    return checkpoints, states


def test_two_newest_checkpoints_are_kept_and_nothing_else(saved):
    checkpoints, _ = saved
    names = ["step-0000000060.weights.h5", "step-0000000120.weights.h5"]
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == names
    assert [path.name for path in checkpoints.paths()] == names


def test_restore_gives_back_weights_slots_and_step(saved, model):
    checkpoints, states = saved
    assert checkpoints.restore(model) == 120
    assert_same(state(model), states[120])
    assert int(model.optimizer.iterations) == 120


def test_restore_into_another_process_model(saved):
    checkpoints, states = saved
    fresh = experiment.build(small(), images())
    assert checkpoints.restore(fresh) == 120
    assert_same(state(fresh), states[120])


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.9, -1])
def test_truncated_newest_checkpoint_costs_the_step_to_the_one_before(
    saved, model, kept
):
    checkpoints, states = saved
    newest = checkpoints.paths()[-1]
    whole = newest.read_bytes()
    length = int(kept * len(whole)) if isinstance(kept, float) else kept
    newest.write_bytes(whole[:length])
    assert checkpoints.restore(model) == 60
    assert_same(state(model), states[60])


@pytest.mark.parametrize("first", range(0, 16384, 2048))
@pytest.mark.parametrize("length", [512, None], ids=["block", "tail"])
def test_zeroed_newest_checkpoint_costs_the_step_to_the_one_before(
    saved, model, first, length
):
    checkpoints, states = saved
    newest = checkpoints.paths()[-1]
    whole = bytearray(newest.read_bytes())
    assert len(whole) > 16384
    zeroed = slice(first, first + length if length else None)
    whole[zeroed] = bytes(len(whole[zeroed]))
    newest.write_bytes(whole)
    step = checkpoints.restore(model)
    if length is None:  # a block of numbers can be zeroed and nobody sees
        assert step == 60
    if step == 60:
        assert_same(state(model), states[60])
        with pytest.raises(UsageError, match="^run_dir: the newest checkpoint must be"):
            checkpoints.restore_newest(model)


@pytest.mark.parametrize("step", [90, 120])
def test_damaged_newest_checkpoint_is_replaced(saved, model, step):
    checkpoints, _ = saved
    newest = checkpoints.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:3000])
    again = training.Checkpoints(checkpoints.directory)
    again.set_model(model)
    assert again.restore(model) == 60
    go_to(model, step)
    again.save()
    assert [training.step_of(path) for path in again.paths()] == [60, step]
    want = state(model)
    go_to(model, 999)
    assert training.step_of(again.restore_newest(model)) == step
    assert_same(state(model), want)


def test_only_damaged_checkpoints_are_refused(saved, model):
    checkpoints, _ = saved
    for path in checkpoints.paths():
        path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UsageError, match="^run_dir: .* 2 damaged .*remove the folder"):
        checkpoints.restore(model)


def test_part_that_was_left_over_is_ignored(saved, model):
    checkpoints, states = saved
    checkpoints.directory.joinpath(".part.weights.h5").write_bytes(b"half")
    assert checkpoints.restore(model) == 120
    go_to(model, 180)
    checkpoints.save()
    assert checkpoints.restore(model) == 180
    assert [path.name[5:15] for path in checkpoints.paths()] == [
        "0000000120",
        "0000000180",
    ]


def test_no_checkpoint_is_step_0(model, tmp_path):
    before = state(model)
    assert training.Checkpoints(tmp_path / "none").restore(model) == 0
    assert_same(state(model), before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("of", ["weights", "slots"])
def test_state_that_is_not_finite_is_never_saved(saved, model, value, of):
    checkpoints, _ = saved
    variable = model.weights[-1] if of == "weights" else model.optimizer.variables[-1]
    variable.assign(np.full(variable.shape, value))
    checkpoints.save()
    assert [path.name[5:15] for path in checkpoints.paths()] == [
        "0000000060",
        "0000000120",
    ]


def test_checkpoint_is_whole_or_absent_whenever_saving_stops(saved, model, monkeypatch):
    def kill(*_, **__):
        raise Stop

    checkpoints, states = saved
    for room, name in (
        (type(model), "save_weights"),
        (training.os, "fsync"),
        (training.Path, "replace"),
    ):
        go_to(model, 180)
        with monkeypatch.context() as patch:
            patch.setattr(room, name, kill)
            with pytest.raises(Stop):
                checkpoints.save()
        assert checkpoints.restore(model) == 120
        assert_same(state(model), states[120])


# Fit ---------------------------------------------------------------------------------


class Record(keras.callbacks.Callback):
    """Notes the step, the mean loss so far, and the state after each execution."""

    def __init__(self):
        super().__init__()
        self.steps, self.losses, self.epochs = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(int(self.model.optimizer.iterations))
        self.losses.append(logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, int(self.model.optimizer.iterations)))


def fit(config, sets, callbacks, first_step=0, model=None):
    model = model or experiment.build(config, sets)
    training.fit(
        model,
        sets,
        stages=schedules.stages(config),
        batch_size=config.batch_size,
        binarization=config.binarization,
        first_step=first_step,
        callbacks=callbacks,
    )
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that never stopped: its end, its record, its state at every execution."""
    directory = tmp_path_factory.mktemp("whole")

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            step = int(self.model.optimizer.iterations)
            self.model.save_weights(directory / f"step-{step:010}.weights.h5")

    record = Record()
    return state(fit(small(), images(), [record, Keep()])), record, directory


def test_fit_runs_every_epoch_in_executions_of_one_size(whole):
    _, record, _ = whole
    assert record.steps == [30, 60, 90, 120, 150, 180]
    assert record.epochs == [(0, 60), (1, 120), (2, 180)]


@pytest.mark.parametrize("stop", [60, 90, 150])
def test_fit_from_a_step_on_ends_bit_for_bit_as_the_whole(whole, stop, tmp_path):
    end, _, directory = whole
    shutil.copy(directory / f"step-{stop:010}.weights.h5", tmp_path)
    model, record = experiment.build(small(), images()), Record()
    assert training.Checkpoints(tmp_path).restore(model) == stop
    fit(small(), images(), [record], stop, model)
    assert record.steps == list(range(stop + 30, 181, 30))
    assert record.epochs == [(e, 60 * e + 60) for e in range(stop // 60, 3)]
    assert_same(state(model), end)


class Kept(keras.callbacks.Callback):
    """Notes the samples of training after each execution and keeps its state."""

    def __init__(self, directory):
        super().__init__()
        self.directory, self.samples = directory, []

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        self.samples.append(self.model.train_samples)
        self.model.save_weights(self.directory / f"step-{step:010}.weights.h5")


@pytest.mark.parametrize("stop", [30, 60, 90])
def test_fit_with_growing_samples_goes_on_with_those_of_its_epoch(stop, tmp_path):
    config = small(schedule="fast", n_samples=4, epochs=4)
    model, drawn = experiment.build(config, images()), []
    draw = model.draw

    def count(x, k, *options):
        drawn.append((k, x.shape[0]))
        return draw(x, k, *options)

    model.draw = count
    kept = Kept(tmp_path)
    (tmp_path / "from").mkdir()
    end = state(fit(config, images(), [kept], model=model))
    assert kept.samples == 4 * [1] + 4 * [4]
    # Batches of training have one image, those that are watched ten.
    assert {k for k, n in drawn if n == 1} == {1, 4}
    assert {k for k, n in drawn if n == 10} == {4}
    shutil.copy(tmp_path / f"step-{stop:010}.weights.h5", tmp_path / "from")
    again, rest = experiment.build(config, images()), Kept(tmp_path)
    assert training.Checkpoints(tmp_path / "from").restore(again) == stop
    fit(config, images(), [rest], stop, again)
    assert rest.samples == kept.samples[stop // 30 :]
    assert_same(state(again), end)


def test_noise_of_training_is_fresh_at_every_step_and_a_function_of_it(model):
    x, bounds = images().x_test, {}
    for step in (0, 1, 60, 0):  # the weights stay: nothing is applied
        model.optimizer.apply_gradients = lambda _: None
        model.optimizer.iterations.assign(step)
        model.reset_metrics()
        bound = float(model.train_step(x)["bound"])
        assert bounds.setdefault(step, bound) == bound
    assert len(set(bounds.values())) == 3


# Divergence --------------------------------------------------------------------------


def diverge(directory, config, sets, record=(), steps_per_execution=30):
    """Trains until it diverges; gives the message and the checkpoints."""
    checkpoints = training.Checkpoints(directory, 0.0, 60)
    callbacks = [*record, training.StopWhenDiverged(checkpoints), checkpoints]
    model = experiment.build(config, images())
    model.steps_per_execution = steps_per_execution
    with pytest.raises(Diverged) as info:
        fit(config, sets, callbacks, model=model)
    line = str(info.value)
    assert "\n" not in line
    return line, checkpoints.paths()


@pytest.mark.parametrize("place", [29, 30, 44])
def test_planted_nan_is_named_at_its_very_step(tmp_path, place, monkeypatch):
    monkeypatch.setattr(data, "_white", lambda x: 1.0)  # it would refuse the image
    config, sets = small(binarization="none"), images()
    numbers = np.arange(60, dtype=np.float32).reshape(60, 1, 1, 1) / 64
    order = data.training_batches(numbers, 1, config.seed, 0, "none").take(60)
    image = int(64 * [batch.numpy().item() for batch in order][place])
    sets.x_train[image, 1, 1, 0] = np.nan
    line, paths = diverge(tmp_path, config, sets)
    assert f"not finite at step {place} (counted from 0)" in line
    assert f"learning rate {schedules.burda(180)(place):.3g};" in line
    assert [int(path.name[5:15]) for path in paths] == ([30] if place >= 30 else [])
    assert line.endswith(f"checkpoint: {paths[-1] if paths else 'none'}")


def test_step_of_divergence_is_that_of_a_run_step_by_step(tmp_path):
    rate = 1e10
    config, record = small(schedule="constant", learning_rate=rate), Record()
    line, _ = diverge(tmp_path / "a", config, images())
    _, paths = diverge(tmp_path / "b", config, images(), [record], 1)
    bad = next(i for i, loss in enumerate(record.losses) if not np.isfinite(loss))
    assert f"at step {bad} (counted from 0), learning rate {rate:.3g};" in line
    model = experiment.build(config, images())
    for path in paths:
        model.load_weights(path)
        assert all(np.isfinite(value).all() for value in state(model))


# Figures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 3]),
        (8, [0, 1, 2, 4, 8]),
        (11, [0, 1, 2, 4, 8, 11]),
    ],
)
def test_figures_are_due_at_epochs_0_1_2_4_and_the_last(model, epochs, expected):
    seen = []
    at = training.AtEpochs(epochs, seen.append)
    at.set_model(model)
    at.on_train_begin()
    for epoch in range(epochs):
        at.on_epoch_end(epoch)
    assert seen == expected
    model.optimizer.iterations.assign(60)
    at.on_train_begin()
    assert seen == expected


def test_guard_leaves_an_ignored_ctrl_c_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with training.Checkpoints(tmp_path).guard():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    with training.Checkpoints(tmp_path).guard():
        assert callable(signal.getsignal(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
