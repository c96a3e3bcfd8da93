"""Stateless randomness: a number depends on its seed only, not on earlier numbers.

XLA turns the same bits into slightly different floats, so compiled and uncompiled runs
differ. A seed is an int32 tensor of shape [2]. `alg="philox"` is explicit everywhere:
the default gives the same bits, but is about 25 times slower under XLA on a CPU.
"""

import math
from collections.abc import Callable

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


def normal(shape, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal float32 numbers of the given shape.

    They are the normal quantiles of random 64-bit integers. On a CPU, XLA makes these
    in a third of the time that as many 32-bit integers take. The integers are the same
    without XLA, while TensorFlow's own normal numbers differ (tensorflow#117644).
    """
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.int64, alg="philox"
    )
    # Strictly inside -1..1, even after rounding: quantiles of the ends are infinite.
    centred = tf.cast(bits, tf.float32) * (1 - 2**-23) * 2**-63
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
        return tf.random.stateless_uniform(shape, seed, alg="philox")
    # Philox makes four numbers of each value of its counter.
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    counter += tf.constant([first // 4, 0], tf.uint64)
    return tf.raw_ops.StatelessRandomUniformV2(
        shape=shape, key=key, counter=counter, alg=1
    )
