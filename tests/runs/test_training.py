"""Tests of iwae_tf.runs.training."""

import shutil

import keras
import numpy as np
import pytest
from small_runs import assert_same, images, small, state

from iwae_tf import data
from iwae_tf.errors import Diverged
from iwae_tf.runs import experiment, schedules, training
from iwae_tf.runs.checkpoints import Checkpoints


@pytest.fixture
def model():
    return experiment.build(small(), images())


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


@pytest.mark.parametrize("stop", [60, 90])
def test_fit_from_a_step_on_ends_bit_for_bit_as_the_whole(whole, stop, tmp_path):
    end, _, directory = whole
    shutil.copy(directory / f"step-{stop:010}.weights.h5", tmp_path)
    model, record = experiment.build(small(), images()), Record()
    assert Checkpoints(tmp_path).restore(model) == stop
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


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """A run whose samples grow: its end, the samples of each execution, its states."""
    directory, drawn = tmp_path_factory.mktemp("growing"), []
    config = small(schedule="fast", n_samples=4, epochs=4)
    model = experiment.build(config, images())
    draw = model.draw

    def count(x, k, *options):
        drawn.append((k, x.shape[0]))
        return draw(x, k, *options)

    model.draw = count
    kept = Kept(directory)
    end = state(fit(config, images(), [kept], model=model))
    # Batches of training have one image, those that are watched ten.
    assert {k for k, n in drawn if n == 1} == {1, 4}
    assert {k for k, n in drawn if n == 10} == {4}
    assert kept.samples == 4 * [1] + 4 * [4]
    return config, end, kept


# In the middle of an epoch, and just before the samples grow.
@pytest.mark.parametrize("stop", [30, 120])
def test_fit_with_growing_samples_goes_on_with_those_of_its_epoch(
    growing, stop, tmp_path
):
    config, end, kept = growing
    (tmp_path / "from").mkdir()
    shutil.copy(kept.directory / f"step-{stop:010}.weights.h5", tmp_path / "from")
    again, rest = experiment.build(config, images()), Kept(tmp_path)
    assert Checkpoints(tmp_path / "from").restore(again) == stop
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
    checkpoints = Checkpoints(directory, 0.0, 60)
    callbacks = [*record, training.StopWhenDiverged(checkpoints), checkpoints]
    model = experiment.build(config, images())
    model.steps_per_execution = steps_per_execution
    with pytest.raises(Diverged) as info:
        fit(config, sets, callbacks, model=model)
    line = str(info.value)
    assert "\n" not in line
    return line, checkpoints.paths()


@pytest.mark.parametrize("place", [29, 44])
def test_planted_nan_is_named_at_its_very_step(tmp_path, place, monkeypatch):
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
