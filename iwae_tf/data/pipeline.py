"""The pipeline of training batches, whose only state is the step."""

import functools
import math

import numpy as np
import tensorflow as tf

from iwae_tf import randomness, rules
from iwae_tf.data import observations
from iwae_tf.data.memory import aligned_copy, is_aligned
from iwae_tf.data.values import binarize_rows, check_unit
from iwae_tf.errors import check_one_of
from iwae_tf.rules import BINARIZATIONS

_WAITING = 2**24  # number of bytes of batches that wait for their steps


def training_batches(
    x: np.ndarray,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    binarization: str = "dynamic",
    context: np.ndarray | None = None,
) -> tf.data.Dataset:
    """An endless stream of training batches, each of which depends only on its step.

    Every epoch has its own order, and an image is binarised anew each time it is seen.
    The images at the end of the order that do not fit into the steps of the epoch (see
    `steps_of_epoch`) are left out of that epoch.

    Args:
      x: images, uint8 0..255 or float 0..1, or other floats, [n, ...]. They are used in
        place if `memory.is_aligned`, so they must not change. Of a `Mapped`, only the
        rows of each batch are read.
      batch_size: b, the number of images in a batch.
      seed: random seed for the order and the binarisation.
      first_step: the step of the first batch, counted from 0 at the start of the
        first epoch.
      binarization: see `binarize`.
      context: y of every image, [n, c], for a conditional model.

    Returns:
      batches: each float32 [b, ...], with its context [b, c] if there is one.

    Raises:
      UsageError: if there are fewer images than a batch, or for an unknown mode; see
        `grey` too.
    """
    # Checked here, because TensorFlow would wrap errors that are raised inside `map`.
    check_one_of(BINARIZATIONS, binarization=binarization)
    if binarization != "none":
        check_unit(x)
    steps_per_epoch, _ = steps_of_epoch(len(x), batch_size)
    first_epoch, n_skipped = divmod(first_step, steps_per_epoch)
    gather = _gather_of(x)
    contexts = None if context is None else _in_place(context)
    # What is computed here need not be optimised when an iterator is made.
    seed_of_order = randomness.folding(seed, randomness.ORDER)
    seed_of_values = randomness.folding(seed, randomness.BINARIZE)

    def order(epoch):
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(len(x)), seed_of_order(epoch), alg="philox"
        )[: steps_per_epoch * batch_size]
        return tf.data.Dataset.from_tensor_slices(
            tf.reshape(shuffled, [steps_per_epoch, batch_size])
        )

    def batch(step, indices):
        seed = seed_of_values(step)
        binary = binarize_rows(gather(indices), binarization, seed, first=0)
        return binary if contexts is None else (binary, tf.gather(contexts, indices))

    # The autotuning thread sleeps ever longer, and closing an iterator waits for it.
    options = tf.data.Options()
    options.autotune.enabled = False
    # Optimizations rewrite the graph, and copy the images for that.
    options.experimental_optimization.apply_default_optimizations = False
    return (
        tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
        .flat_map(order)
        .skip(n_skipped)
        .enumerate(first_step)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(max(2, n_waiting(4 * batch_size * math.prod(x.shape[1:]))))
        .with_options(options)
    )


def steps_of_epoch(n_images: int, batch_size: int) -> tuple[int, int]:
    """Chooses the numbers of optimizer steps in an epoch and in an execution.

    All executions of an epoch must have the same number of steps. An epoch of at most
    50 batches is one execution. Otherwise the epoch has the largest possible number of
    steps with a divisor from 25 to 50, and an execution has as many steps as the
    largest such divisor.

    Args:
      n_images: number of images in the training set.
      batch_size: b, the number of images in a batch.

    Returns:
      steps_per_epoch: number of optimizer steps in an epoch.
      steps_per_execution: number of steps in an execution, a divisor of the former.

    Raises:
      UsageError: if there are fewer images than a batch.
    """
    rules.check_batch_size(batch_size, n_images)
    most = n_images // batch_size
    if most <= 50:
        return most, most
    return next(
        (steps, size)
        for steps in range(most, 0, -1)
        for size in range(50, 24, -1)
        if steps % size == 0
    )


def n_waiting(n_bytes: int) -> int:
    """How many batches of a size may wait for their steps: from 1 to 50."""
    return min(max(1, _WAITING // n_bytes), 50)


def _gather_of(x):
    """A function from places [b] to the rows of x there, as a tensor."""
    if not isinstance(x, observations.Mapped):
        return functools.partial(tf.gather, _in_place(x))

    def gather(places):
        rows = tf.numpy_function(x.__getitem__, [places], x.dtype)
        return tf.ensure_shape(rows, [*places.shape, *x.shape[1:]])

    return gather


def _in_place(x):
    """A tensor in the memory of an array, or of a copy if that is not aligned.

    `tf.constant` copies an array twice.
    """
    if not is_aligned(x):
        x = aligned_copy(x, x.dtype.newbyteorder("="))
    return tf.experimental.dlpack.from_dlpack(x.__dlpack__())
