"""Tests of iwae_tf.runs.checkpoints."""

import signal

import h5py
import numpy as np
import pytest
from small_runs import Stop, assert_same, images, small, state

from iwae_tf import files, signals
from iwae_tf.errors import UsageError
from iwae_tf.models import zoo
from iwae_tf.runs import experiment
from iwae_tf.runs.checkpoints import Checkpoints, step_of


@pytest.fixture
def model():
    return experiment.build(small(), images())


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
    checkpoints = Checkpoints(tmp_path / "checkpoints")
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
    assert [path.name for path in checkpoints.paths()] == names
    names += ["step-0000000060.json", "step-0000000120.json"]
    assert {path.name for path in checkpoints.directory.iterdir()} == {*names}


def test_restore_gives_back_weights_slots_and_step(saved, model):
    checkpoints, states = saved
    assert checkpoints.restore(model) == 120
    assert_same(state(model), states[120])
    assert int(model.optimizer.iterations) == 120


def test_signal_while_a_checkpoint_is_read_does_not_count_as_damage(
    saved, model, monkeypatch
):
    def load_weights(path):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise SystemError from None  # as a library does that calls Python from C

    checkpoints, _ = saved
    monkeypatch.setattr(model, "load_weights", load_weights)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with signals.handled_by(signals.interrupt), pytest.raises(signals.Interrupted):
            checkpoints.restore(model)
    finally:
        signal.signal(signal.SIGTERM, former)


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
    is_same = bytes(whole) == newest.read_bytes()
    newest.write_bytes(whole)
    step = 120 if is_same else 60
    assert checkpoints.restore(model) == step
    assert_same(state(model), states[step])
    if step == 60:
        with pytest.raises(UsageError, match="^run_dir: the newest checkpoint must be"):
            checkpoints.restore_newest(model)


def test_every_flipped_bit_is_noticed(saved, model):
    checkpoints, states = saved
    newest = checkpoints.paths()[-1]
    whole = newest.read_bytes()
    rng = np.random.default_rng(0)
    for place, bit in zip(
        rng.integers(0, len(whole), 40), rng.integers(0, 8, 40), strict=True
    ):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        newest.write_bytes(flipped)
        assert checkpoints.restore(model) == 60
    assert_same(state(model), states[60])
    newest.write_bytes(whole)
    beside = newest.with_name("step-0000000120.json")
    beside.write_bytes(beside.read_bytes().replace(b"a", b"b"))
    assert checkpoints.restore(model) == 60


def test_checkpoint_of_an_older_version_has_no_sha256_and_is_taken(saved, model):
    checkpoints, states = saved
    for beside in checkpoints.directory.glob("*.json"):
        beside.unlink()
    assert checkpoints.restore(model) == 120
    assert_same(state(model), states[120])


@pytest.mark.parametrize("with_sha256", [True, False])
def test_renamed_checkpoint_is_noticed(saved, model, with_sha256):
    checkpoints, states = saved
    for path in checkpoints.directory.glob("step-0000000120*"):
        if with_sha256 or path.suffix == ".h5":
            path.rename(path.with_name(path.name.replace("120", "180")))
    assert checkpoints.restore(model) == 60
    assert_same(state(model), states[60])
    bare = zoo_model()
    with pytest.raises(UsageError, match="^run_dir: the newest checkpoint must be"):
        checkpoints.restore_newest(bare)


def test_checkpoint_without_an_optimizer_is_noticed(saved, model):
    checkpoints, states = saved
    newest = checkpoints.paths()[-1]
    newest.with_name("step-0000000120.json").unlink()
    with h5py.File(newest, "a") as file:
        del file["optimizer"]
    assert checkpoints.restore(model) == 60
    assert_same(state(model), states[60])
    # Weights alone are enough for a model that is not trained.
    assert checkpoints.restore_newest(zoo_model()) == newest


def zoo_model():
    return zoo.build(images().x_train.shape[1:], 0, **small().of_networks())


@pytest.mark.parametrize("step", [90, 120])
def test_damaged_newest_checkpoint_is_replaced(saved, model, step):
    checkpoints, _ = saved
    newest = checkpoints.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:3000])
    again = Checkpoints(checkpoints.directory)
    again.set_model(model)
    assert again.restore(model) == 60
    go_to(model, step)
    again.save()
    assert [step_of(path) for path in again.paths()] == [60, step]
    want = state(model)
    go_to(model, 999)
    assert step_of(again.restore_newest(model)) == step
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
    assert Checkpoints(tmp_path / "none").restore(model) == 0
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
        (files.os, "fsync"),
        (files.Path, "replace"),
    ):
        go_to(model, 180)
        with monkeypatch.context() as patch:
            patch.setattr(room, name, kill)
            with pytest.raises(Stop):
                checkpoints.save()
        assert checkpoints.restore(model) == 120
        assert_same(state(model), states[120])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_guard_leaves_an_ignored_signal_ignored(tmp_path, signum):
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with Checkpoints(tmp_path).guard():
            assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, before)
    with Checkpoints(tmp_path).guard():
        assert callable(signal.getsignal(signum))
        assert signal.getsignal(signum) is not before
    assert signal.getsignal(signum) is before
