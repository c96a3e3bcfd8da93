"""Mask models p(s|x): which entries are observed, if that depends on their values.

A mask model has `log_prob(observed, x) -> [k, b]`, where x is complete: missing entries
are drawn from p(x|z). Its term joins log p(x|z), so every log-weight contains it.

Reference:
  Ipsen, Mattei and Frellsen 2021, not-MIWAE: Deep generative modelling with missing not
  at random data, arXiv:2006.12871.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from iwae_tf.errors import UsageError
from iwae_tf.models.bernoulli import bernoulli_log_prob
from iwae_tf.models.networks import MLP
from iwae_tf.models.parts import Part


class MaskModel(Part):
    """Entries are observed independently given x; a subclass defines `logits`."""

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """The logits of the probability that each entry of x [..., n] is observed."""
        raise NotImplementedError

    def log_prob(self, observed: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The log-probability of a mask given complete data: log p(s|x).

        Args:
          observed: which entries are observed, bool [b, n].
          x: complete data, [k, b, n].

        Returns:
          log_ps: [k, b], nats, summed over entries.
        """
        return bernoulli_log_prob(tf.cast(observed, x.dtype), self.logits(x))


@keras.saving.register_keras_serializable(package="iwae_tf")
class SelfMasking(MaskModel):
    """An entry is observed with a logit of a x + b, with a and b for each feature.

    With a sign, a is that sign times a positive number: it says whether large values
    are more likely to be observed or to be missing.
    """

    def __init__(self, sign: int = 0):
        """Takes what is known beforehand.

        Args:
          sign: 1 if large values are observed more often, -1 if they are missing more
            often, 0 if that is not known.

        Raises:
          UsageError: for another sign.
        """
        super().__init__()
        if sign not in (-1, 0, 1):
            raise UsageError(f"sign: must be -1, 0 or 1, got {sign!r}")
        self.sign = sign

    def build(self, input_shape):
        """Makes a and b for the last axis of x."""
        n = input_shape[-1:]
        self.slope = self.add_weight(shape=n, initializer="zeros", name="slope")
        self.bias = self.add_weight(shape=n, initializer="zeros", name="bias")

    def logits(self, x):
        """See `MaskModel.logits`."""
        if self.sign:
            return self.sign * tf.math.softplus(self.slope) * x + self.bias
        return self.slope * x + self.bias


@keras.saving.register_keras_serializable(package="iwae_tf")
class NetworkMasking(MaskModel):
    """The logits are a function of all entries: linear, or a network.

    Without hidden layers, the function is linear.
    """

    def __init__(self, widths: Sequence[int] = (), activation: str = "tanh"):
        """Makes the hidden layers.

        Args:
          widths: numbers of hidden units.
          activation: nonlinearity after every hidden layer.
        """
        super().__init__()
        self.hidden = MLP(widths, activation)

    def build(self, input_shape):
        """Makes the last layer for the last axis of x."""
        self.last = keras.layers.Dense(input_shape[-1])
        self.last(self.hidden(tf.zeros([1, input_shape[-1]])))

    def logits(self, x):
        """See `MaskModel.logits`."""
        return tf.cast(self.last(self.hidden(x)), x.dtype)
