"""Tests of iwae_tf.models.batches."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from conftest import build

from iwae_tf.errors import UsageError
from iwae_tf.measures import annealing, gradients, units
from iwae_tf.measures import likelihood as evaluation
from iwae_tf.models import batches, zoo
from iwae_tf.models.iwae import IWAE

# Measures that compile a function of the model.
COMPILED = {
    "likelihood": partial(
        evaluation.log_likelihood, n_samples=4, chunk=2, batch_size=2, jit_compile=False
    ),
    "embed": partial(IWAE.embed, k=4, batch_size=2, jit_compile=False),
    "encode": partial(IWAE.encode, batch_size=2),
    "units": partial(units.statistics, batch_size=2),
    "gradients": partial(
        gradients.gradient_statistics, n_samples=2, n_draws=2, jit_compile=False
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore:embed")
each_compiled = pytest.mark.parametrize("look", COMPILED.values(), ids=COMPILED)


def numbers_in(result):
    return [np.asarray(leaf) for leaf in tf.nest.flatten(result)]


def differ(a, b):
    pairs = zip(numbers_in(a), numbers_in(b), strict=True)
    return not all(np.array_equal(*pair, equal_nan=True) for pair in pairs)


class Squares:
    """Squares of observations, in two rows; counts the batches, and stops at one."""

    def __init__(self, stop_at=None):
        self.begun = []
        self.stop_at = stop_at

    def __call__(self, batch):
        if batch.first == self.stop_at:
            raise KeyboardInterrupt
        x = batch.x.numpy()[:, 0]
        self.begun.append((batch.first, batch.n_own, x.tolist()))
        np.testing.assert_array_equal(batch.places, x)
        return {"square": x.astype(np.float64) ** 2, "rows": tf.stack([x, -x])}


def counted(n, batch_size=2, by=None):
    """The observations 0, 1, ..., n - 1 in batches, from an array or a dataset."""
    x = np.arange(n, dtype=np.float32)[:, np.newaxis]
    if by is not None:
        x = tf.data.Dataset.from_tensor_slices(x).batch(by)
    return batches.batches_of(None, x, None, batch_size)


@pytest.mark.parametrize("by", [None, 1, 2, 3, 9])
@pytest.mark.parametrize("is_kept", [False, True])
def test_values_are_those_of_every_observation_once(is_kept, by, tmp_path):
    squares = Squares()
    directory = tmp_path / "a" / "b" if is_kept else None
    values = batches.run(counted(5, by=by), squares, directory)
    assert squares.begun == [(0, 2, [0, 1]), (2, 2, [2, 3]), (4, 1, [4, 4])]
    np.testing.assert_array_equal(values["square"], [0, 1, 4, 9, 16])
    np.testing.assert_array_equal(values["rows"], [range(5), range(0, -5, -1)])
    assert values["rows"].dtype == np.float32
    assert len(list(tmp_path.rglob("*.npz"))) == (3 if is_kept else 0)


@pytest.mark.parametrize("by", [None, 2])
def test_one_batch_is_as_large_as_the_data(by):
    (batch,) = counted(3, 20, by)
    assert (batch.first, batch.n_own, len(batch.x)) == (0, 3, 3)


def test_stopped_run_goes_on_with_the_batch_it_stopped_in(tmp_path):
    stopped, again = Squares(stop_at=4), Squares()
    with pytest.raises(KeyboardInterrupt):
        batches.run(counted(7), stopped, tmp_path)
    # What a kill leaves of a file does not count.
    (tmp_path / ".part.npz").write_bytes(b"half")
    values = batches.run(counted(7), again, tmp_path)
    assert [first for first, *_ in stopped.begun] == [0, 2]
    assert [first for first, *_ in again.begun] == [4, 6]
    for name, want in batches.run(counted(7), Squares()).items():
        np.testing.assert_array_equal(values[name], want, strict=True)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}


def test_kept_batch_of_other_observations_or_another_identity_is_not_taken(tmp_path):
    batches.run(counted(4), Squares(), tmp_path, "a")
    other = batches.batches_of(None, np.array([[0.0], [1], [7], [3]]), None, 2)
    begun = []

    def doubled(batch):
        begun.append(batch.first)
        x = 2 * batch.x[:, 0]
        return {"square": x, "rows": tf.stack([x, x])}

    batches.run(other, doubled, tmp_path, "a")
    assert begun == [2]
    batches.run(counted(2), doubled, tmp_path, "b")
    assert begun == [2, 0]


@pytest.mark.parametrize("damage", [b"", b"noise", None], ids=str)
def test_damaged_batch_is_computed_again(damage, tmp_path):
    want = batches.run(counted(5), Squares(), tmp_path)
    path = tmp_path / "000002.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = Squares()
    values = batches.run(counted(5), again, tmp_path)
    assert [first for first, *_ in again.begun] == [2]
    for name in want:
        np.testing.assert_array_equal(values[name], want[name], strict=True)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "look",
    [
        evaluation.log_likelihood,
        IWAE.embed,
        IWAE.encode,
        units.statistics,
        lambda model, x, context: annealing.log_likelihood(
            annealing.Annealer(model), x, context=context
        ),
    ],
    ids=["evaluation", "embed", "encode", "units", "annealing"],
)
@pytest.mark.parametrize(
    ("value", "n_contexts", "rule"),
    [
        (255, 3, r"x: must be in 0\.\.1, got 0 to 255"),
        (-1, 3, r"x: must be in 0\.\.1, got -1 to 0"),
        (np.nan, 3, r"x: must be in 0\.\.1, got nan to nan"),
        (1, 4, "context: must be one for each of 3 observations, got 4"),
        (1, 2, "context: must be one for each of 3 observations, got 2"),
    ],
)
def test_images_out_of_range_and_contexts_of_others_are_refused(
    look, value, n_contexts, rule, tiny
):
    x = np.zeros([3, *tiny().generator.event_shape])
    x[2, 0, 0, 0] = value
    with pytest.raises(UsageError, match=f"^{rule}$"):
        look(tiny(), x, context=np.zeros([n_contexts, 2]))


@each_compiled
def test_a_second_call_compiles_nothing_and_reads_the_weights_anew(
    look, binary, monkeypatch
):
    model, _ = build(1, (3, 2, 1), None, seed=1)
    traced, entries = [], model.posterior.entries
    monkeypatch.setattr(
        model.posterior, "entries", lambda x: traced.append(x) or entries(x)
    )
    x = binary(3)
    first = look(model, x)
    n_traced = len(traced)
    assert n_traced
    assert not differ(look(model, x), first)
    other, values = build(1, (3, 2, 1), None, seed=5)
    for m in (model, other):
        for variable, value in zip(m.trainable_variables, values, strict=True):
            variable.assign(value)
    assert not differ(look(model, x), look(other, x))
    assert differ(look(model, x), first)
    assert len(traced) == n_traced
    look(model, binary(5, seed=3))  # another number of images, not of batches
    assert len(traced) == (n_traced if "batch_size" in look.keywords else 2 * n_traced)


def test_gradients_are_compiled_anew_for_other_trainable_variables(tiny, binary):
    model, x = tiny(), binary(3)
    look = COMPILED["gradients"]
    n = len(look(model, x)["generator"].mean)
    generator = model.generator
    n_frozen = sum(np.prod(v.shape) for v in generator.trainable_variables[:1])
    generator.trainable_variables[0].trainable = False
    try:
        assert len(look(model, x)["generator"].mean) == n - n_frozen
    finally:
        generator.variables[0].trainable = True
    assert len(look(model, x)["generator"].mean) == n


@each_compiled
def test_what_is_compiled_is_freed_with_the_model(look, binary):
    gc.collect()  # models of other tests
    n = len(batches._COMPILED)
    model, _ = build(1, (3, 2, 1), None, seed=1)
    look(model, binary(3))
    assert len(batches._COMPILED) == n + 1
    weak = weakref.ref(model)
    del model
    gc.collect()
    assert weak() is None
    assert len(batches._COMPILED) == n


def test_functions_are_those_of_one_model_with_one_set_of_options(tiny):
    model, other = tiny(1), tiny(2)

    def function(model, *, k):
        return tf.constant(k)

    compiled = partial(batches.compiled, model, function)
    assert compiled(k=2) is compiled(k=2)
    for another in (
        compiled(k=3),
        compiled(True, k=2),
        batches.compiled(other, function, k=2),
        batches.compiled(model, lambda model, k: tf.constant(k), k=2),
    ):
        assert another is not compiled(k=2)


ALL = COMPILED | {
    "annealing": lambda model, x, context=None: annealing.log_likelihood(
        annealing.Annealer(model), x, context=context
    )
}


@pytest.mark.parametrize("look", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    ("x", "context", "rule"),
    [
        (np.zeros([3, 6]), None, r"x: must be of shape \['b', 3, 2, 1\], got \(3, 6\)"),
        (np.zeros([3, 2, 1]), None, r"x: must be of shape .*, got \(3, 2, 1\)"),
        (np.zeros([3, 2, 3, 1]), None, r"x: must be of shape .*, got \(3, 2, 3, 1\)"),
        (np.float32(0), None, "x: must be an array of numbers, got float32"),
        ([["a"]], None, "x: must be an array of numbers, got list of <U1"),
        ([[1], [1, 2]], None, "x: must be an array of numbers, got list"),
        (
            tf.data.Dataset.range(2),
            None,
            "x: must be (a dataset of batches|an array of numbers).*",
        ),
        (None, None, "x: must be an array of numbers, got NoneType"),
        (np.zeros([3, 3, 2, 1]), np.zeros([3, 2]), "context: must be None for this .*"),
        (np.zeros([3, 3, 2, 1]), 1.0, "context: must be an array of numbers, got .*"),
    ],
    ids=range(10),
)
def test_shapes_and_kinds_that_do_not_fit_are_one_line(look, x, context, rule, tiny):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        look(tiny(), x, context=context)


@pytest.mark.parametrize("look", ALL.values(), ids=ALL)
def test_no_images_are_refused(look, tiny):
    with pytest.raises(UsageError, match="^number of observations: must be at"):
        look(tiny(), np.zeros([0, 3, 2, 1]))


STREAMED = {
    name: look
    for name, look in ALL.items()
    if name != "gradients"  # of one batch as a whole
}


@pytest.mark.parametrize("look", STREAMED.values(), ids=STREAMED)
@pytest.mark.parametrize("by", [2, 3])
def test_datasets_give_the_values_of_arrays(look, by, tiny, binary):
    model, x = tiny(2), binary(5)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(by)
    want = look(model, x)
    assert not differ(look(model, dataset), want)
    assert differ(look(model, dataset.take(1)), want)


def test_dataset_of_a_conditional_model_has_pairs(binary):
    model = zoo.burda((3, 2, 1), n_latent=[2], n_hidden=[4], n_context=2, seed=1)
    x, y = binary(5), np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1]]
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    for look in STREAMED.values():
        assert not differ(look(model, pairs), look(model, x, context=y))
    with pytest.raises(UsageError, match="^context: must be in the dataset, beside x"):
        model.encode(pairs, y)
    with pytest.raises(UsageError, match=r"^context: must be of shape \[5, 2\]"):
        model.encode(pairs.map(lambda x, y: x))
    with pytest.raises(UsageError, match="^context: must be None for this model"):
        zoo.burda((3, 2, 1), n_latent=[2], n_hidden=[4]).encode(pairs)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: d.repeat(), "x: must be a dataset that ends, got one that does not"),
        (lambda d: d.take(0), "number of observations: must be at least 1, got 0"),
        (lambda d: d.map(lambda x: 3 * x), r"x: must be in 0\.\.1, got 0 to 3"),
        (lambda d: d.unbatch(), "x: must be of shape .*"),
        (lambda d: d.map(lambda x: (x, x, x)), "x: must be a dataset of batches .*"),
        (lambda d: d.map(lambda x: {"image": x}), "x: must be a dataset of batches .*"),
        (
            lambda d: d.map(lambda x: tf.as_string(x)),
            "x: must be an array of numbers.*",
        ),
    ],
    ids=range(7),
)
def test_datasets_that_do_not_fit_are_one_line(change, rule, tiny, binary):
    dataset = change(tf.data.Dataset.from_tensor_slices(binary(4)).batch(2))
    with pytest.raises(UsageError, match=f"^{rule}$"):
        tiny().encode(dataset, batch_size=2)
