"""Tests of runs that go on: a loaded model, more epochs, another run's state."""

import dataclasses

import numpy as np
import pytest
from small_runs import assert_same, images_of, small, state

import iwae_tf
from iwae_tf import data
from iwae_tf.runs import experiment, training
from iwae_tf.runs.run import Run
from iwae_tf.runs.schedules import Stage

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
