"""Stateless randomness: a number depends on its seed only, not on earlier numbers.

XLA turns the same bits into slightly different floats, so compiled and uncompiled runs
differ. A seed is an int32 tensor of shape [2]. `alg="philox"` is explicit everywhere:
the default gives the same bits, but is about 25 times slower under XLA on a CPU.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import tensorflow as tf

# Each purpose is folded into a run's seed, so that no two uses share random numbers.
(
    TRAIN,
    TEST,
    SCORE,
    FIGURES,
    ORDER,
    BINARIZE,
    GRADIENT,
    UNITS,
    INSPECT,
    ANNEAL,
) = range(10)


# The place of a share of a batch, and the size of the batch; None for a whole batch.
_share = contextvars.ContextVar("share", default=None)


@contextlib.contextmanager
def of_share(first: int | tf.Tensor, n: int | tf.Tensor) -> Iterator[None]:
    """The context in which a replica works on its share of a batch.

    In it, the noise of an observation is that of its place in the whole batch, so that
    it does not depend on the number of replicas: where a shape [k, b, ...] is asked
    for, numbers [k, n, ...] are drawn, and those of the share are taken.

    Args:
      first: place of the first observation of the share in the whole batch.
      n: number of observations in the whole batch.
    """
    token = _share.set((first, n))
    try:
        yield
    finally:
        _share.reset(token)


def share() -> tuple[int | tf.Tensor, int | tf.Tensor] | None:
    """What `of_share` was given, or None outside of it."""
    return _share.get()


def seed_of(seed: int | tf.Tensor, *data: int | tf.Tensor) -> tf.Tensor:
    """Folds integers into a seed.

    Args:
      seed: an integer, or a seed of shape [2].
      *data: integers to fold in, one after another: purpose, step, layer, ...

    Returns:
      seed: the new seed, int32 [2].
    """
    seed = tf.cast(seed, tf.int32)
    if seed.shape.rank == 0:
        seed = tf.stack([seed, tf.zeros_like(seed)])
    for value in data:
        seed = tf.random.fold_in(seed, tf.cast(value, tf.int32), alg="philox")
    return seed


def folding(seed: int | tf.Tensor, *data: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The function from an integer to `seed_of(seed, *data, integer)`.

    The hash of the seed, which a folded seed has beside the integer, is computed now.
    """
    hashed, _ = seed_of(seed, *data, 0)
    return lambda value: tf.stack([hashed, tf.cast(value, tf.int32)])


def integers(shape, seed: tf.Tensor) -> tf.Tensor:
    """Random int64 numbers of the given shape, over all of their range."""

    def draw(shape):
        return tf.random.stateless_uniform(
            shape, seed, minval=None, maxval=None, dtype=tf.int64, alg="philox"
        )

    return _drawn(draw, shape)


def normal(shape, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal float32 numbers of the given shape.

    They are the normal quantiles of random 64-bit integers. On a CPU, XLA makes these
    in a third of the time that as many 32-bit integers take. The integers are the same
    without XLA, while TensorFlow's own normal numbers differ (tensorflow#117644).
    """
    # Strictly inside -1..1, even after rounding: quantiles of the ends are infinite.
    centred = tf.cast(integers(shape, seed), tf.float32) * (1 - 2**-23) * 2**-63
    return math.sqrt(2) * tf.math.erfinv(centred)


def uniform(shape, seed: tf.Tensor, first: int | None = None) -> tf.Tensor:
    """Float32 numbers of the given shape, uniform on [0, 1).

    Args:
      shape: the shape.
      seed: the seed.
      first: place of the first number among all numbers of the seed, a multiple of 4,
        so that slices of a large array can be made one after another. Only without XLA;
        it takes few operations, which a pipeline optimises whenever it starts.
    """
    if first is None:
        return _drawn(
            lambda shape: tf.random.stateless_uniform(shape, seed, alg="philox"), shape
        )
    # Philox makes four numbers of each value of its counter.
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    counter += tf.constant([first // 4, 0], tf.uint64)
    return tf.raw_ops.StatelessRandomUniformV2(
        shape=shape, key=key, counter=counter, alg=1
    )


def _drawn(draw, shape):
    """Numbers of a shape, or of a share of it; see `of_share`."""
    if share() is None:
        return draw(shape)
    first, n = share()
    k, b, *event = tf.unstack(shape) if tf.is_tensor(shape) else shape
    begin = tf.stack([0, first, *(0 for _ in event)])
    return tf.slice(draw([k, n, *event]), begin, tf.stack([k, b, *event]))
