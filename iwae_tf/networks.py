"""Keras layers without probability."""

from collections.abc import Sequence

import keras


class MLP(keras.layers.Layer):
    """Fully connected layers; with no widths it is the identity."""

    def __init__(self, widths: Sequence[int], activation: str = "tanh"):
        """Makes the layers.

        Args:
          widths: units of each layer, from input to output.
          activation: nonlinearity after every layer.
        """
        super().__init__()
        self.hidden = [keras.layers.Dense(n, activation=activation) for n in widths]

    def call(self, inputs):
        """Maps [..., d_in] to [..., widths[-1]]."""
        for layer in self.hidden:
            inputs = layer(inputs)
        return inputs


class LocScale(keras.layers.Layer):
    """The parameters of a diagonal Gaussian: an MLP and two linear heads.

    The second head is the log of the scale.
    """

    def __init__(
        self,
        widths: Sequence[int],
        d: int,
        activation: str = "tanh",
        n_bounded: int = 0,
    ):
        """Makes the layers.

        Args:
          widths: units of the hidden layers.
          d: size of the Gaussian.
          activation: nonlinearity after every hidden layer.
          n_bounded: so many means, the last, go through tanh.
        """
        super().__init__()
        self.mlp = MLP(widths, activation)
        self.n_bounded = n_bounded
        self.loc = keras.layers.Dense(d)
        self.log_scale = keras.layers.Dense(d)

    def call(self, inputs):
        """Maps [..., d_in] to a pair (loc, scale), each [..., d]."""
        features = self.mlp(inputs)
        loc, scale = self.loc(features), keras.ops.exp(self.log_scale(features))
        if self.n_bounded:
            free, bounded = loc[..., : -self.n_bounded], loc[..., -self.n_bounded :]
            loc = keras.ops.concatenate([free, keras.ops.tanh(bounded)], axis=-1)
        return loc, scale
