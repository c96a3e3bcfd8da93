"""The values of observations, at every door of a model."""

import numpy as np
import tensorflow as tf

from iwae_tf import data
from iwae_tf.errors import UsageError


def check_values(generator, x: np.ndarray) -> None:
    """Checks that the likelihood of a generator can have the values of x.

    Args:
      generator: its `likelihood` and `missing` count, if it has them.
      x: observations, any shape.

    Raises:
      UsageError: if a value is out of range or between two levels, or if it is NaN and
        not missing.
    """
    likelihood = getattr(generator, "likelihood", None)
    if likelihood is not None:
        missing = getattr(generator, "missing", False)
        data.check_range(x, likelihood.limits, likelihood.step, missing)


class Seen:
    """What compiled executions have seen of x, so that wrong values are told after one.

    There is nothing to see if a generator has no likelihood.
    """

    def __init__(self, generator):
        """Begins without having seen anything.

        Args:
          generator: its `likelihood`, `missing` and `event_shape` count.
        """
        self._generator = generator
        self._likelihood = getattr(generator, "likelihood", None)
        if self._likelihood is not None:
            # Of each entry: the least and the greatest value; 0, or NaN if a value was
            # not finite and none are missing; a value between two levels.
            self._seen = tf.Variable(self._nothing(), trainable=False)

    def _nothing(self):
        zeros = tf.zeros(self._generator.event_shape)
        usual = zeros + self._likelihood.usual
        return tf.stack([zeros + np.inf, zeros - np.inf, zeros, usual])

    def add(self, x: tf.Tensor) -> None:
        """Looks at a batch, inside a compiled step."""
        if self._likelihood is None:
            return
        least, greatest, zero, between = tf.unstack(self._seen)
        usual, step = self._likelihood.usual, self._likelihood.step
        x = tf.cast(x, least.dtype)
        if self._generator.missing:
            x = tf.where(tf.math.is_nan(x), usual, x)
        else:
            zero += 0.0 * tf.reduce_sum(x, axis=0)
        if step is not None:
            levels = (x - self._likelihood.limits[0]) / step
            is_between = tf.abs(levels - tf.round(levels)) > data.LEVEL_WIDTH
            off = tf.where(is_between, x, usual)
            between = tf.maximum(between, tf.reduce_max(off, axis=0))
        # XLA makes these reductions fast, and slow if they are over other axes or of
        # something computed. Its minimum and maximum pass over a NaN; `zero` does not.
        least = tf.minimum(least, tf.reduce_min(x, axis=0))
        greatest = tf.maximum(greatest, tf.reduce_max(x, axis=0))
        self._seen.assign(tf.stack([least, greatest, zero, between]))

    def check(self) -> None:
        """Checks what was seen, and begins anew if it was wrong.

        Raises:
          UsageError: see `check_values`.
        """
        if self._likelihood is None:
            return
        least, greatest, zero, between = self._seen.numpy()
        try:
            for values in (np.stack([least, greatest]) + zero, between):
                check_values(self._generator, values)
        except UsageError:
            self._seen.assign(self._nothing())
            raise
