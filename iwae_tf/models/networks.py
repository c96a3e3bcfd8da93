"""Deterministic Keras layers."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.models.parts import Part


@keras.saving.register_keras_serializable(package="iwae_tf")
class MLP(Part):
    """Fully connected layers; without any, the network is the identity."""

    def __init__(self, widths: Sequence[int], activation: str = "tanh"):
        """Makes the layers.

        Args:
          widths: number of units in each layer, from input to output.
          activation: nonlinearity after every layer.
        """
        super().__init__()
        self.hidden = [keras.layers.Dense(n, activation=activation) for n in widths]

    def call(self, inputs):
        """Maps [..., d_in] to [..., widths[-1]]."""
        for layer in self.hidden:
            inputs = layer(inputs)
        return inputs


@keras.saving.register_keras_serializable(package="iwae_tf")
class Filled(Part):
    """x as rows, with its missing entries filled in, and the mask beside it if asked.

    Reference:
      Mattei and Frellsen 2019, section 3, arXiv:1812.02633.
    """

    def __init__(self, fill: np.ndarray | None = None, with_mask: bool = False):
        """Takes the values to fill in.

        Args:
          fill: values for missing entries, of the shape of one x; by default 0.
          with_mask: whether the last axis of x gets a mask beside its entries, which is
            1 where an entry was observed.
        """
        super().__init__()
        self.with_mask = with_mask
        self.fill = None
        if fill is not None:
            self.fill = self.add_weight(
                shape=np.shape(fill), initializer="zeros", trainable=False, name="fill"
            )
            self.fill.assign(fill)

    def call(self, inputs):
        """Maps [b, ..., c] with NaN for missing entries to rows [b, n] or [b, 2 n]."""
        is_missing = tf.math.is_nan(inputs)
        fill = tf.cast(0.0 if self.fill is None else self.fill, inputs.dtype)
        x = tf.where(is_missing, fill, inputs)
        if self.with_mask:
            x = tf.concat([x, tf.cast(~is_missing, x.dtype)], axis=-1)
        return tf.reshape(x, [tf.shape(x)[0], math.prod(x.shape[1:])])


@keras.saving.register_keras_serializable(package="iwae_tf")
class DenseNet(MLP):
    """Fully connected layers, each of which also sees the input of the network."""

    def call(self, inputs):
        """Maps [..., d_in] to [..., widths[-1]]."""
        first, *rest = self.hidden
        features = first(inputs)
        for layer in rest:
            features = layer(tf.concat([features, inputs], axis=-1))
        return features


class OnRows(keras.layers.Layer):
    """A network that maps rows [n, d_in] to [n, ...], for inputs with more axes."""

    def __init__(self, network: keras.layers.Layer):
        """Takes the network; what it gives is flattened, row by row."""
        super().__init__()
        self.network = network

    def call(self, inputs):
        """Maps [..., d_in] to [..., d_out]."""
        outputs = self.network(tf.reshape(inputs, [-1, inputs.shape[-1]]))
        d_out = math.prod(outputs.shape[1:])
        shape = tf.concat([tf.shape(inputs)[:-1], [d_out]], axis=0)
        return tf.ensure_shape(tf.reshape(outputs, shape), [*inputs.shape[:-1], d_out])


def on_rows(network: keras.layers.Layer) -> keras.layers.Layer:
    """A network for inputs [..., d]: one of ours as it is, one of Keras on rows."""
    return network if isinstance(network, Part) else OnRows(network)


class LocScale(keras.layers.Layer):
    """The parameters of a diagonal Gaussian: a network and two linear heads.

    The second head gives the log of the scale.
    """

    def __init__(self, network: keras.layers.Layer, d: int, n_bounded: int = 0):
        """Makes the heads.

        Args:
          network: maps [..., d_in], or rows [n, d_in], to features.
          d: size of the Gaussian.
          n_bounded: number of means, counted from the last, that go through tanh.
        """
        super().__init__()
        self.mlp = on_rows(network)
        self.n_bounded = n_bounded
        self.loc = keras.layers.Dense(d)
        self.log_scale = keras.layers.Dense(d)

    def call(self, inputs):
        """Maps [..., d_in] to a pair (loc, scale), each [..., d]."""
        return self.of_features(self.mlp(inputs))

    def of_features(self, features):
        """Maps features [..., n] to a pair (loc, scale), each [..., d]."""
        loc, log_scale = (
            keras.ops.cast(head(features), self.variable_dtype)
            for head in (self.loc, self.log_scale)
        )
        scale = keras.ops.exp(log_scale)
        if self.n_bounded:
            free, bounded = loc[..., : -self.n_bounded], loc[..., -self.n_bounded :]
            loc = keras.ops.concatenate([free, keras.ops.tanh(bounded)], axis=-1)
        return loc, scale


@keras.saving.register_keras_serializable(package="iwae_tf")
class Bias(Part):
    """Adds a trainable vector that starts at 0."""

    def __init__(self, n: int):
        """Makes the vector of n entries."""
        super().__init__()
        self.bias = self.add_weight(shape=(n,), initializer="zeros", name="bias")

    def call(self, inputs):
        """Maps [..., n] to [..., n]."""
        return inputs + self.bias


class MaskedDense(keras.layers.Layer):
    """A linear layer with a mask that sets weights to 0, and an optional context.

    With normalisation `weight`, a column v of the weights becomes g v / |v| with a
    trainable g. With `batch`, the outputs are normalised before they are scaled and
    shifted: by the mean and variance of the batch in training, and by moving averages
    of both otherwise.

    Reference:
      Salimans and Kingma 2016, Weight normalization, arXiv:1602.07868; Ioffe and
      Szegedy 2015, Batch normalization, arXiv:1502.03167.
    """

    def __init__(
        self,
        mask: np.ndarray,
        n_context: int = 0,
        normalisation: str = "none",
        initializer: str | keras.initializers.Initializer = "glorot_uniform",
    ):
        """Makes the weights.

        Args:
          mask: 1 where there is a weight and 0 where there is none, [d_in, d_out].
          n_context: size of the context; 0 for no context.
          normalisation: `none`, `weight` or `batch`.
          initializer: initializer of the weights before they are masked.
        """
        super().__init__()
        self.mask = np.asarray(mask, self.dtype)
        self.normalisation = normalisation
        d_in, d_out = self.mask.shape
        self.kernel = self.add_weight(
            shape=(d_in, d_out), initializer=initializer, name="kernel"
        )
        self.bias = self.add_weight(shape=(d_out,), initializer="zeros", name="bias")
        self.of_context = (
            self.add_weight(shape=(n_context, d_out), name="of_context")
            if n_context
            else None
        )
        if normalisation == "weight":
            self.length = self.add_weight(shape=(d_out,), name="length")
            self.length.assign(self._norms())
        if normalisation == "batch":
            self.batch = keras.layers.BatchNormalization(center=False)
            self.batch.build((None, d_out))

    def _norms(self):
        masked = self.kernel * self.mask
        return tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(masked), axis=0), 1e-12))

    def _linear(self, inputs, context):
        kernel = self.kernel * self.mask
        if self.normalisation == "weight":
            kernel *= self.length / self._norms()
        outputs = tf.linalg.matmul(inputs, kernel)
        if context is not None:
            outputs += tf.linalg.matmul(context, self.of_context)
        return outputs

    def call(self, inputs, context=None, training=None):
        """Maps [..., d_in], with a context [..., n_context], to [..., d_out]."""
        outputs = self._linear(inputs, context)
        if self.normalisation == "batch":
            rows = tf.reshape(outputs, [-1, self.mask.shape[1]])
            rows = self.batch(rows, training=training)
            outputs = tf.reshape(rows, tf.shape(outputs))
        return outputs + self.bias

    def initialise(self, inputs: tf.Tensor, context: tf.Tensor | None = None) -> None:
        """With weight normalisation, gives outputs mean 0 and variance 1 over a batch.

        Args:
          inputs: inputs of the batch, [..., d_in].
          context: [..., n_context].
        """
        if self.normalisation != "weight":
            return
        outputs = self._linear(inputs, context)
        axes = list(range(outputs.shape.rank - 1))
        mean, variance = tf.nn.moments(outputs, axes)
        scale = tf.where(variance > 1e-10, tf.math.rsqrt(variance + 1e-10), 1.0)
        self.length.assign(self.length * scale)
        if self.of_context is not None:
            self.of_context.assign(self.of_context * scale)
        self.bias.assign(-mean * scale)


class Gated(keras.layers.Layer):
    """One 5x5 convolution times the sigmoid of another."""

    def __init__(self, maps: int, stride: int, convolution: type, is_first: bool):
        """Makes both convolutions; `convolution` is a Keras layer class."""
        super().__init__()
        self.value, self.gate = (
            convolution(maps, 5, strides=stride, padding="same") for _ in range(2)
        )

    def call(self, inputs):
        """Maps [b, height, width, channels] to [b, height, width, maps]."""
        return self.value(inputs) * tf.sigmoid(self.gate(inputs))


class Residual(keras.layers.Layer):
    """x + f(x), f being two 3x3 convolutions; x is convolved if the shape changes."""

    def __init__(self, maps: int, stride: int, convolution: type, is_first: bool):
        """Makes the convolutions; `convolution` is a Keras layer class."""
        super().__init__()
        self.one = convolution(maps, 3, strides=stride, padding="same")
        self.two = keras.layers.Conv2D(maps, 3, padding="same")
        self.skip = None
        if is_first or stride > 1:
            self.skip = convolution(maps, 3, strides=stride, padding="same")

    def call(self, inputs):
        """Maps [b, height, width, channels] to [b, height, width, maps]."""
        features = self.two(tf.nn.elu(self.one(tf.nn.elu(inputs))))
        return features + (inputs if self.skip is None else self.skip(inputs))


# The class of the blocks in an encoder, their strides, and their shares of `n_maps`.
_BLOCKS = {
    "resnet": (Residual, (1, 2, 1, 1, 2, 1), (1, 1, 1, 1, 1, 1)),
    "gated": (Gated, (1, 2, 1, 2, 1), (0.5, 0.5, 1, 1, 1)),
}


def _blocks(kind, n_maps, convolution, step):
    block, strides, parts = _BLOCKS[kind]
    pairs = list(zip(strides, parts, strict=True))[::step]
    return [
        block(max(1, int(part * n_maps)), stride, convolution, i == 0)
        for i, (stride, part) in enumerate(pairs)
    ]


@keras.saving.register_keras_serializable(package="iwae_tf")
class ConvolutionalEncoder(Part):
    """Convolutions that reduce height and width to a quarter, and one dense layer.

    `resnet` has six residual blocks of two 3x3 convolutions. `gated` has five gated 5x5
    convolutions. In both, two of the blocks have stride 2.

    Reference:
      Kingma et al. 2016, appendix, arXiv:1606.04934; van den Berg et al. 2018,
      appendix, arXiv:1803.05649.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], kind: str, n_maps: int, n_features: int
    ):
        """Makes the layers.

        Args:
          image_shape: height and width, which are multiples of 4, and channels.
          kind: `resnet` or `gated`.
          n_maps: number of feature maps.
          n_features: number of units in the dense layer.
        """
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.blocks = _blocks(kind, n_maps, keras.layers.Conv2D, 1)
        self.dense = keras.layers.Dense(n_features, activation="elu")

    def call(self, inputs):
        """Maps flattened images [b, n_pixels] to features [b, n_features]."""
        features = 2.0 * tf.reshape(inputs, [-1, *self.image_shape]) - 1.0
        for block in self.blocks:
            features = block(features)
        features = tf.nn.elu(features)
        n = math.prod(features.shape[1:])
        return self.dense(tf.reshape(features, [-1, n]))


@keras.saving.register_keras_serializable(package="iwae_tf")
class ConvolutionalDecoder(Part):
    """The mirror image of `ConvolutionalEncoder`, with transposed convolutions."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        kind: str,
        n_maps: int,
        n_features: int,
        n_parameters: int = 1,
    ):
        """Makes the layers; see `ConvolutionalEncoder`.

        Args:
          image_shape: height and width, which are multiples of 4, and channels.
          kind: `resnet` or `gated`.
          n_maps: number of feature maps.
          n_features: number of units in the dense layer.
          n_parameters: number of outputs for each entry of an image.
        """
        super().__init__()
        self.image_shape = tuple(image_shape)
        height, width, channels = self.image_shape
        self.start = (height // 4, width // 4, n_maps)
        self.hidden = keras.layers.Dense(n_features, activation="elu")
        self.dense = keras.layers.Dense(math.prod(self.start))
        self.blocks = _blocks(kind, n_maps, keras.layers.Conv2DTranspose, -1)
        self.n_parameters = n_parameters
        self.last = keras.layers.Conv2D(
            n_parameters * channels, 3, padding="same", use_bias=False
        )

    def call(self, inputs):
        """Maps latents [..., d] to [..., n_parameters n], which still lack a bias."""
        leading = tf.shape(inputs)[:-1]
        features = self.dense(self.hidden(tf.reshape(inputs, [-1, inputs.shape[-1]])))
        features = tf.reshape(features, [-1, *self.start])
        for block in self.blocks:
            features = block(features)
        maps = self.last(tf.nn.elu(features))
        # All entries of the first parameter come first.
        maps = tf.concat(tf.split(maps, self.n_parameters, axis=-1), axis=1)
        n = self.n_parameters * math.prod(self.image_shape)
        return tf.reshape(maps, tf.concat([leading, [n]], axis=0))
