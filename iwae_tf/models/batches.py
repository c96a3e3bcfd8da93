"""Values of images, computed batch by batch; each batch can be kept on disk.

What computes a batch is compiled once for a model, and not once for a call.
"""

import contextlib
import hashlib
import itertools
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.files import read_arrays, write_arrays
from iwae_tf.models.values import check_values

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
        weak = weakref.ref(model)  # A function that held the model would keep it alive.

        @tf.function(jit_compile=jit_compile)
        def of_tensors(*tensors):
            return function(weak(), *tensors, **options)

        functions[key] = of_tensors
    return functions[key]


def run(
    n: int,
    batch_size: int,
    compute: Callable[[int, int, np.ndarray], dict[str, np.ndarray]],
    directory: Path | None = None,
    identity: str = "",
) -> dict[str, np.ndarray]:
    """Computes the values of n images, or reads those that an earlier call kept.

    Args:
      n: number of images.
      batch_size: number of images in one batch; it becomes n if it is larger.
      compute: function (first, n_own, places) -> named values [..., n_own]. `first` is
        the place of the first image of the batch, `places` [batch_size] are the places
        of all its images, and only the first `n_own` of them count. The last batch is
        filled up with the last image, so that only one shape is compiled.
      directory: directory where a file is kept for each batch. A file that is damaged,
        or of another batch or identity, counts as missing. If it is None, nothing is
        kept.
      identity: what the values depend on, see `identity_of`.

    Returns:
      values: named, [..., n].

    Raises:
      UsageError: if batch_size is less than 1.
    """
    check_at_least(1, batch_size=batch_size)
    batch_size = min(batch_size, n)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, n, batch_size):
        path = directory and directory / f"{first:06}.npz"
        own = f"{identity} {first} of {n} by {batch_size}"
        if path:
            with contextlib.suppress(UsageError):
                part = read_arrays(path, "identity")
                if str(part.pop("identity")) == own:
                    parts.append(part)
                    continue
        places = np.minimum(np.arange(first, first + batch_size), n - 1)
        part = compute(first, min(batch_size, n - first), places)
        parts.append(part)
        if path:
            write_arrays(path, identity=np.array(own), **part)
    return {
        name: np.concatenate([part[name] for part in parts], axis=-1)
        for name in parts[0]
    }


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
    model, x: np.ndarray, context: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Checks images and their contexts, and returns them as arrays.

    Args:
      model: if its generator has a likelihood, this must have the values of x. If it
        has a method `inputs`, this must accept the shapes; see `iwae_tf.IWAE`.
      x: observations [n, *event_shape].
      context: y of every image, [n, c], or None.

    Raises:
      UsageError: for values out of range, for something other than an array of
        numbers, for shapes that are not the model's, if there is no image, or if there
        is not one context per image.
    """
    x = numbers("x", x)
    check_at_least(1, **{"number of images": len(x)})
    check_values(getattr(model, "generator", None), x)
    if context is not None:
        context = numbers("context", context)
        if len(context) != len(x):
            raise UsageError(
                f"context: must be one for each of {len(x)} images, got {len(context)}"
            )
    if callable(getattr(model, "inputs", None)):
        shapes = (a if a is None else tf.TensorSpec(a.shape) for a in (x, context))
        # Tracing takes no memory for the images. AutoGraph would hide a UsageError.
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
    places: np.ndarray | slice, *arrays: np.ndarray | None
) -> tuple[tf.Tensor | None, ...]:
    """The rows of arrays at the given places, as float32; None stays None."""
    return tuple(
        None if whole is None else tf.constant(np.asarray(whole)[places], tf.float32)
        for whole in arrays
    )
