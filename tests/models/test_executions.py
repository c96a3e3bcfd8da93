"""Executions of many steps, against steps that Keras compiles one by one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import data
from iwae_tf.models import executions
from iwae_tf.models.generators import Chain
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.posteriors import GaussianChain

SHAPE, BATCH = (3, 2, 1), 4


class OneByOne(IWAE):
    """Steps of one's own, which must be taken."""

    def train_step(self, data):
        return super().train_step(data)


def trained(kind, n_batches=12, spe=5):
    """A model with a state, regularisers and contexts after an epoch."""
    keras.utils.set_random_seed(1)
    with_state = keras.Sequential(
        [keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(3, activation="tanh")]
    )
    decoder = keras.Sequential(
        [keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))]
    )
    rng = np.random.default_rng(0)
    model = kind(
        GaussianChain(n_latent=(2,), networks=[with_state]),
        Chain(SHAPE, n_latent=(2,), networks=[decoder]),
        n_context=2,
    )
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 20)),
        n_samples=3,
        warmup_steps=4,
        jit_compile=True,
        steps_per_execution=spe,
    )
    x = rng.integers(0, 2, (n_batches, BATCH, *SHAPE)).astype(np.float32)
    context = rng.random((n_batches, BATCH, 2)).astype(np.float32)
    batches = tf.data.Dataset.from_tensor_slices((x, context))
    history = model.fit(batches, shuffle=False, verbose=0).history
    return [v.numpy() for v in model.variables], history, model


@pytest.fixture(scope="module")
def one_by_one():
    return trained(OneByOne)


def assert_same(a, b):
    (weights, history, model), (others, other_history, other) = a, b
    for ours, theirs in zip(weights, others, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert history == other_history and "regularization" in history
    assert int(model.optimizer.iterations) == int(other.optimizer.iterations) == 12


# 12 steps are executions of 5, 5 and 2: the last one ends with the data. Of batches of
# which only two may wait, an execution has programs of 2, 2 and 1.
@pytest.mark.parametrize("n_waiting", [50, 2])
def test_a_loop_within_xla_has_the_bits_of_single_steps(
    one_by_one, monkeypatch, n_waiting
):
    monkeypatch.setattr(data, "n_waiting", lambda n_bytes: n_waiting)
    sizes = []
    gather = executions._gather

    def watched(iterator, size, n_asked):
        sizes.append(size)
        return gather(iterator, size, n_asked)

    monkeypatch.setattr(executions, "_gather", watched)
    assert_same(trained(IWAE), one_by_one)
    assert sizes == [min(5, n_waiting)]  # traced once


def test_steps_of_ones_own_and_batches_of_any_size_go_one_by_one(
    one_by_one, monkeypatch
):
    def none(*_):
        raise AssertionError("gathered")

    monkeypatch.setattr(executions, "_gather", none)
    assert int(one_by_one[2].optimizer.iterations) == 12
    model = trained(OneByOne, n_batches=2, spe=2)[2]
    x = np.zeros((7, *SHAPE), np.float32)
    before = int(model.optimizer.iterations)
    model.fit(x, np.zeros((7, 2), np.float32), batch_size=3, verbose=0)
    assert int(model.optimizer.iterations) == before + 3


def test_convolutions_go_one_by_one(monkeypatch):
    monkeypatch.setattr(executions, "_gather", None)
    taken = []
    conv = keras.Sequential([keras.layers.Conv2D(2, 2), keras.layers.Flatten()])
    conv.build((None, *SHAPE))
    model = type("Model", (), {"trainable_variables": conv.trainable_variables})()
    model.steps_per_execution = 5
    batches = tf.data.Dataset.from_tensors(tf.zeros([BATCH, *SHAPE])).repeat()
    executions.of_whole_loops(model, taken.append)(iter(batches))
    assert len(taken) == 1


@pytest.mark.parametrize(
    ("n_bytes", "n"), [(1, 50), (2**24 // 50, 50), (2**23, 2), (2**24 + 1, 1)]
)
def test_at_most_50_batches_and_16_mib_wait(n_bytes, n):
    assert data.n_waiting(n_bytes) == n
