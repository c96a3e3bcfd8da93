"""Normalising flows: inverse autoregressive flow and its masked networks.

A flow has `forward_and_log_det(z, context) -> (z, log_det)` and
`inverse(z, context) -> z`.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.models.networks import MaskedDense


class MADE(keras.layers.Layer):
    """A masked network: output i sees a context and the entries of z before entry i.

    A hidden unit has a degree from 0 to d - 1. It sees the entries whose place, and the
    hidden units whose degree, is at most its own degree. An output sees the hidden
    units whose degree is less than its place.

    Reference:
      Germain et al. 2015, MADE, arXiv:1502.03509.
    """

    def __init__(
        self,
        order: Sequence[int],
        widths: Sequence[int],
        n_outputs: int,
        n_context: int = 0,
        normalisation: str = "none",
    ):
        """Makes the layers.

        Args:
          order: place of each entry, from 1 to d.
          widths: number of units in each hidden layer. With fewer than d units, some
            entries are not seen.
          n_outputs: number of outputs for each entry.
          n_context: size of the context; 0 for no context.
          normalisation: how hidden layers are normalised, see `networks.MaskedDense`.
        """
        super().__init__()
        self.n_outputs = n_outputs
        self.order = np.asarray(order)
        degrees = [self.order, *(np.arange(width) % len(order) for width in widths)]
        self.hidden = [
            MaskedDense(below[:, None] <= above, n_context, normalisation)
            for below, above in zip(degrees, degrees[1:], strict=False)
        ]
        small = keras.initializers.RandomNormal(stddev=0.01)
        is_seen = degrees[-1][:, None] < np.tile(self.order, n_outputs)
        self.outputs = MaskedDense(is_seen, initializer=small)

    def call(self, z, context=None):
        """Maps z [..., d] and a context [..., c] to n_outputs tensors [..., d]."""
        for layer in self.hidden:
            z = tf.nn.elu(layer(z, context))
        return tf.split(self.outputs(z), self.n_outputs, axis=-1)

    def initialise(self, z: tf.Tensor, context: tf.Tensor | None = None) -> None:
        """Initialises the layers by a batch, see `networks.MaskedDense.initialise`."""
        for layer in self.hidden:
            layer.initialise(z, context)
            z = tf.nn.elu(layer(z, context))


class InverseAutoregressiveFlow(keras.layers.Layer):
    """Steps z' = g z + (1 - g) m with g = sigmoid(s); a `MADE` of z gives m and s.

    Each step reverses the order of the entries. Initially g is near 0.99.

    Reference:
      Kingma et al. 2016, eq. 13 and 14, arXiv:1606.04934.
    """

    def __init__(
        self,
        d: int,
        n_steps: int,
        widths: Sequence[int],
        n_context: int = 0,
        normalisation: str = "none",
        forget_bias: float = 5.0,
    ):
        """Makes one network per step.

        Args:
          d: size of z.
          n_steps: number of steps.
          widths: number of units in each hidden layer of a network.
          n_context: size of the context; 0 for no context.
          normalisation: how hidden layers are normalised, see `networks.MaskedDense`.
          forget_bias: constant that is added to s.
        """
        super().__init__()
        self.forget_bias = forget_bias
        orders = np.arange(1, d + 1), np.arange(d, 0, -1)
        self.steps = [
            MADE(orders[step % 2], widths, 2, n_context, normalisation)
            for step in range(n_steps)
        ]

    def forward_and_log_det(
        self, z: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Transforms z.

        Args:
          z: [..., d].
          context: [..., c], broadcast against z.

        Returns:
          z: the transformed latents, [..., d].
          log_det: log-determinant of the Jacobian, [...], nats.
        """
        log_det = tf.zeros(tf.shape(z)[:-1], z.dtype)
        for step in self.steps:
            z, log_g = self._step(step, z, context)
            log_det += tf.reduce_sum(log_g, axis=-1)
        return z, log_det

    def log_det_and_slope(
        self, z: tf.Tensor, slope: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The slope of a log density after the flow, from that before it.

        A step z' = f(z) has a triangular Jacobian J = D + N, where D is its diagonal.
        As log q'(z') = log q(z) - log det J, its slope u' solves J^T u' = r with
        r = u - d log det J / dz. The rounds u' <- D^-1 (r - N^T u') end when nothing
        changes but rounding, and after d of them at most, because N is nilpotent. With
        batch normalisation in training, rows depend on other rows, and this is wrong.

        Args:
          z: [..., d].
          slope: gradient in z of its log density, [..., d].
          context: [..., c], broadcast against z.

        Returns:
          log_det: log-determinant of the Jacobian, [...], nats.
          slope: gradient in the transformed latents of their log density, [..., d].

        Reference:
          Vaitl et al. 2022, arXiv:2207.08219, for the recursion over steps.
        """
        log_det = tf.zeros(tf.shape(z)[:-1], z.dtype)
        for step in self.steps:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(z)
                after, log_g = self._step(step, z, context)
                of_step = tf.reduce_sum(log_g, axis=-1)
            right = slope - tape.gradient(of_step, z)
            slope = _solved(
                lambda u, tape=tape, y=after, z=z: tape.gradient(y, z, u),
                tf.exp(log_g),
                right,
            )
            z = after
            log_det += of_step
        return log_det, slope

    def inverse(self, z: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """Inverts `forward_and_log_det` entry by entry, in d passes of each network.

        Args:
          z: the transformed latents, [..., d].
          context: [..., c], broadcast against z.

        Returns:
          z: the latents before the flow, [..., d].
        """
        for step in reversed(self.steps):
            z = self._undo(step, z, context)
        return z

    def _step(self, step, z, context):
        m, s = step(z, context)
        s += self.forget_bias
        g = tf.sigmoid(s)
        return g * z + tf.sigmoid(-s) * m, tf.math.log_sigmoid(s)

    def _undo(self, step, z, context):
        def find_entry(place, before):
            m, s = step(before, context)
            s += self.forget_bias
            entry = (z - tf.sigmoid(-s) * m) / tf.sigmoid(s)
            return place + 1, tf.where(step.order == place, entry, before)

        _, before = tf.while_loop(
            lambda place, _: place <= len(step.order), find_entry, [1, tf.zeros_like(z)]
        )
        return before

    def initialise(self, z: tf.Tensor, context: tf.Tensor | None = None) -> None:
        """Initialises weight-normalised layers by a batch, one after another.

        Args:
          z: latents of the batch, [..., d].
          context: [..., c], broadcast against z.
        """
        for step in self.steps:
            step.initialise(z, context)
            z, _ = self._step(step, z, context)


def _solved(transposed, diagonal, right):
    """The u for which transposed(u) is the right side; see `log_det_and_slope`."""
    tolerance = 10 * np.finfo(right.dtype.as_numpy_dtype).eps

    def is_moving(u, before):
        change, size = (
            tf.reduce_max(tf.abs(part), axis=-1) for part in (u - before, u)
        )
        return tf.reduce_any(change > tolerance * size)

    def closer(u, _):
        return [u + (right - transposed(u)) / diagonal, u]

    first = right / diagonal
    u, _ = tf.while_loop(
        is_moving,
        closer,
        [first, tf.zeros_like(first)],
        maximum_iterations=right.shape[-1] - 1,
    )
    return u
