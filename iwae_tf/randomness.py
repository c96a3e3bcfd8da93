"""Stateless randomness: a number is a function of its seed, not of what came before.

XLA turns the same bits into slightly other floats, so compiled and plain runs differ.
A seed is an int32 tensor of shape [2]. `alg="philox"` is explicit everywhere: the
default gives the same bits and is about 25 times slower under XLA on a CPU.
"""

import math

import tensorflow as tf

# Purposes that are folded into a run's seed, so that no two uses share numbers.
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
      *data: integers, each folded in in turn: purpose, step, layer, ...

    Returns:
      seed: int32 [2].
    """
    seed = tf.cast(seed, tf.int32)
    if seed.shape.rank == 0:
        seed = tf.stack([seed, tf.zeros_like(seed)])
    for value in data:
        seed = tf.random.fold_in(seed, tf.cast(value, tf.int32), alg="philox")
    return seed


def normal(shape, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal float32 numbers of the given shape.

    They are quantiles, of random integers of 64 bits: XLA makes these in a third of the
    time of as many of 32 bits on a CPU, and they are the same without it, where
    TensorFlow's own normal numbers are others (tensorflow#117644).
    """
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.int64, alg="philox"
    )
    # Between -1 and 1, whose quantiles are infinite, after rounding too.
    centred = tf.cast(bits, tf.float32) * (1 - 2**-23) * 2**-63
    return math.sqrt(2) * tf.math.erfinv(centred)


def uniform(shape, seed: tf.Tensor) -> tf.Tensor:
    """Float32 numbers of the given shape, uniform on [0, 1)."""
    return tf.random.stateless_uniform(shape, seed, alg="philox")
