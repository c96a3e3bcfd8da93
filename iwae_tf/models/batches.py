"""Values of observations, computed batch by batch; each batch can be kept on disk.

What computes a batch is compiled once for a model, and not once for a call.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import randomness
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.files import read_arrays, write_arrays
from iwae_tf.models.values import check_values

Observations = np.ndarray | tf.data.Dataset

_COMPILED: dict[int, dict[tuple, Callable]] = {}  # by the id of the model


def compiled(
    model, function: Callable, jit_compile: bool = False, **options
) -> Callable:
    """Compiles a function of a model, or finds it again from an earlier call.

    The values of the model's variables are read whenever the compiled function runs.
    Everything else about the model is read when the function is traced, which happens
    once for each shape of the tensors.

    Args:
      model: the model. Its functions are freed with it.
      function: function (model, *tensors, **options) of a module -> tensors.
      jit_compile: whether XLA compiles the function.
      **options: hashable values that do not refer to the model.

    Returns:
      compiled: function (*tensors) -> tensors.
    """
    if id(model) not in _COMPILED:
        _COMPILED[id(model)] = {}
        weakref.finalize(model, _COMPILED.pop, id(model))
    functions = _COMPILED[id(model)]
    key = (function, jit_compile, *sorted(options.items()))
    if key not in functions:
        # A function that held the model would keep it alive. TensorFlow counts the
        # tracings of a `partial` by itself, and those of closures by their code.
        of_tensors = functools.partial(_call, weakref.ref(model), function, options)
        functions[key] = tf.function(
            of_tensors,
            jit_compile=jit_compile,
            autograph=False,  # as Keras does
        )
    return functions[key]


def _call(weak, function, options, *tensors):
    return function(weak(), *tensors, **options)


class Batch(NamedTuple):
    """The observations of one batch, the last of which may be there to fill it up.

    Attributes:
      first: the place of the first observation among all.
      n_own: number of observations that count. The last batch is filled up with its
        last observation, so that only one shape is compiled.
      x: observations, float32 [b, *event_shape].
      context: their contexts, float32 [b, c], or None.
    """

    first: int
    n_own: int
    x: tf.Tensor
    context: tf.Tensor | None

    @property
    def places(self) -> np.ndarray:
        """The places of the observations among all, int [b]."""
        last = self.first + self.n_own - 1
        return np.minimum(np.arange(self.first, self.first + len(self.x)), last)


class Share(NamedTuple):
    """Every n-th batch, beginning with that of number `first`, counted from 0."""

    first: int
    n: int

    def has_batches(self, n_observations: int, batch_size: int) -> bool:
        """Whether it has a batch of some observations."""
        return self.first * batch_size < n_observations


WHOLE = Share(0, 1)


def batches_of(
    model, x: Observations, context: np.ndarray | None = None, batch_size: int = 100
) -> Iterator[Batch]:
    """Takes observations batch by batch, after checking them.

    Arrays are checked as a whole before the first batch, and datasets batch by batch.

    Args:
      model: see `checked`.
      x: observations [n, *event_shape], or a dataset of batches of them that ends; its
        batches may have any sizes. For a conditional model it has pairs of observations
        and contexts.
      context: contexts [n, c] of an array, or None.
      batch_size: b, the number of observations in one batch; it becomes n if it is
        larger.

    Returns:
      batches: an iterator.

    Raises:
      UsageError: if batch_size is less than 1, the dataset does not end or is given
        with a context; see `checked` too.
    """
    check_at_least(1, batch_size=batch_size)
    if isinstance(x, tf.data.Dataset):
        return _of_dataset(model, x, context, batch_size)
    x, context = checked(model, x, context)
    rows = (slice(i, i + batch_size) for i in range(0, len(x), batch_size))
    parts = ((x[own], None if context is None else context[own]) for own in rows)
    return _filled(parts, batch_size, _dtype_of(model))


def _of_dataset(model, dataset, context, batch_size):
    if context is not None:
        raise UsageError(
            "context: must be in the dataset, beside x, if x is one, got "
            f"{type(context).__name__}"
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UsageError("x: must be a dataset that ends, got one that does not")
    spec = dataset.element_spec
    pair = spec if isinstance(spec, tuple) else (spec,)
    if len(pair) > 2 or not all(
        isinstance(part, tf.TensorSpec) and part.shape.rank != 0 for part in pair
    ):
        raise UsageError(
            "x: must be a dataset of batches of observations, or of pairs of these and "
            f"contexts, got {spec}"
        )

    def parts():
        for i, element in enumerate(dataset.rebatch(batch_size).as_numpy_iterator()):
            pair = element if isinstance(element, tuple) else (element, None)
            yield checked(model, *pair, with_shapes=i == 0)

    filled = _filled(parts(), batch_size, _dtype_of(model))
    first = next(filled, None)
    check_at_least(1, **{"number of observations": int(first is not None)})
    return itertools.chain([first], filled)


def _dtype_of(model):
    """The type of floats in which a model keeps what is not in 16 bits."""
    return getattr(model, "variable_dtype", tf.float32)


def _filled(parts, batch_size, dtype):
    """Batches of equal size; if there is one only, it is as large as it is."""
    first = 0
    for x, context in parts:
        n_own = len(x)
        size = batch_size if first else n_own
        places = np.minimum(np.arange(size), n_own - 1)
        yield Batch(first, n_own, *at(places, x, context, dtype=dtype))
        first += n_own


def run(
    batches: Iterable[Batch],
    compute: Callable[[Batch], dict[str, np.ndarray | tf.Tensor]],
    directory: Path | None = None,
    identity: str = "",
    share: Share = WHOLE,
) -> dict[str, np.ndarray]:
    """Computes the values of observations, or reads those that an earlier call kept.

    Args:
      batches: the observations, see `batches_of`.
      compute: function of a batch -> named values [..., b], of which those of the
        observations that count are taken.
      directory: directory where a file is kept for each batch. A file that is damaged,
        or of another batch or identity, counts as missing. If it is None, nothing is
        kept.
      identity: what the values depend on beside the batch, see `identity_of`.
      share: which of the batches to compute; n counts the observations of these.

    Returns:
      values: named, [..., n].

    Raises:
      UsageError: if the share has no batch.
    """
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    parts = []
    for batch in itertools.islice(batches, share.first, None, share.n):
        path = directory and directory / f"{batch.first:06}.npz"
        if path:
            of_batch = identity_of(None, batch.x, batch.context, n_own=batch.n_own)
            own = f"{identity} {batch.first} {of_batch}"
            with contextlib.suppress(UsageError):
                part = read_arrays(path, "identity")
                if str(part.pop("identity")) == own:
                    parts.append(part)
                    continue
        part = {
            name: np.asarray(values)[..., : batch.n_own]
            for name, values in compute(batch).items()
        }
        parts.append(part)
        if path:
            write_arrays(path, identity=np.array(own), **part)
    if not parts:
        raise UsageError(f"share: must have a batch, got {share}")
    return {
        name: np.concatenate([part[name] for part in parts], axis=-1)
        for name in parts[0]
    }


def with_noise(
    compute: Callable, seed: int, on_progress: Callable[[int], None]
) -> Callable[[Batch], dict[str, tf.Tensor]]:
    """A function of a batch for `run`, whose noise depends on the place of the batch.

    Args:
      compute: function (x, context, seed) -> named values [..., b].
      seed: random seed of all batches.
      on_progress: called with the number of observations done.
    """

    def of_batch(batch):
        own = randomness.seed_of(seed, randomness.INSPECT, batch.first)
        values = compute(batch.x, batch.context, own)
        on_progress(batch.first + batch.n_own)
        return values

    return of_batch


def identity_of(model, *arrays: np.ndarray | None, **settings) -> str:
    """The SHA-256 of what values depend on: weights, arrays and settings.

    Args:
      model: the model; its weights count, if it has any.
      *arrays: images, contexts, ...
      **settings: numbers, texts and lists of these.
    """
    text = json.dumps(settings, default=lambda v: np.asarray(v).tolist())
    digest = hashlib.sha256(text.encode())
    weights = (weight.numpy() for weight in getattr(model, "weights", ()))
    for array in itertools.chain(weights, arrays):
        if array is not None:
            array = np.ascontiguousarray(array)
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array.data)
        digest.update(b"next")
    return digest.hexdigest()


def checked(
    model,
    x: np.ndarray,
    context: np.ndarray | None = None,
    with_shapes: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Checks observations and their contexts, and returns them as arrays.

    Args:
      model: if its generator has a likelihood, this must have the values of x. If it
        has a method `inputs`, this must accept the shapes; see `iwae_tf.IWAE`.
      x: observations [n, *event_shape].
      context: y of every observation, [n, c], or None.
      with_shapes: whether to check the shapes too.

    Raises:
      UsageError: for values out of range, for something other than an array of
        numbers, for shapes that are not the model's, if there is no observation, or if
        there is not one context for each.
    """
    x = numbers("x", x)
    check_at_least(1, **{"number of observations": len(x)})
    check_values(getattr(model, "generator", None), x)
    if context is not None:
        context = numbers("context", context)
        if len(context) != len(x):
            raise UsageError(
                f"context: must be one for each of {len(x)} observations, got "
                f"{len(context)}"
            )
    if with_shapes and callable(getattr(model, "inputs", None)):
        shapes = (a if a is None else tf.TensorSpec(a.shape) for a in (x, context))
        # Tracing takes no memory for the data. AutoGraph would hide a UsageError.
        tf.function(model.inputs, autograph=False).get_concrete_function(*shapes)
    return x, context


def numbers(name: str, value) -> np.ndarray:
    """Returns what an argument holds as an array of numbers.

    Raises:
      UsageError: if it is something else, such as a `tf.data.Dataset`, strings or rows
        of several lengths. It names the argument.
    """
    found = type(value).__name__
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, NotImplementedError):  # ragged or symbolic
        raise UsageError(f"{name}: must be an array of numbers, got {found}") from None
    if not (array.ndim and np.can_cast(array.dtype, np.float64, "same_kind")):
        of = f" of {array.dtype}" if array.ndim else ""
        raise UsageError(f"{name}: must be an array of numbers, got {found}{of}")
    return array


def at(
    places: np.ndarray | slice, *arrays: np.ndarray | None, dtype=tf.float32
) -> tuple[tf.Tensor | None, ...]:
    """The rows of arrays at the given places, as floats; None stays None."""
    return tuple(
        None if whole is None else tf.constant(np.asarray(whole)[places], dtype)
        for whole in arrays
    )
