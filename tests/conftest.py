"""Fixtures shared by the tests of the models."""

import numpy as np
import pytest

import iwae_tf  # noqa: F401  Chooses Keras' backend before a test imports Keras.

IMAGE_SHAPE = (3, 2, 1)


@pytest.fixture
def tiny():
    """A function from the number of stochastic layers to a small, wiggled model."""

    def make(stochastic_layers=1, image_shape=IMAGE_SHAPE, n_latent=None, seed=1):
        # Here, so that tests which do without TensorFlow do not wait for it.
        from iwae_tf import zoo

        model = zoo.burda(
            image_shape,
            stochastic_layers,
            n_latent=n_latent or tuple(range(stochastic_layers + 1, 1, -1)),
            n_hidden=tuple(range(stochastic_layers + 3, 3, -1)),
            seed=seed,
        )
        # Biases start at zero, and would hide a mistake.
        rng = np.random.default_rng(seed)
        for variable in model.trainable_variables:
            variable.assign(variable + rng.normal(scale=0.3, size=variable.shape))
        return model

    return make


@pytest.fixture
def binary():
    """A function from a number to that many binary images."""

    def make(n, image_shape=IMAGE_SHAPE, seed=2):
        rng = np.random.default_rng(seed)
        return (rng.random((n, *image_shape)) < 0.5).astype(np.float32)

    return make


@pytest.fixture
def loc_scale():
    """`LocScale` again, in NumPy float64, from its variables."""

    def compute(layer, inputs):
        features = mlp(layer.mlp, inputs)
        return dense(layer.loc, features), np.exp(dense(layer.log_scale, features))

    return compute


@pytest.fixture
def pixel_logits():
    """The pixel network of a `BernoulliChain` again, in NumPy float64."""

    def compute(generator, z):
        return dense(generator.pixel_logits, mlp(generator.pixels, z))

    return compute


def mlp(layer, inputs):
    inputs = np.asarray(inputs, np.float64)
    for hidden in layer.hidden:
        inputs = np.tanh(dense(hidden, inputs))
    return inputs


def dense(layer, inputs):
    kernel, bias = (np.asarray(v, np.float64) for v in (layer.kernel, layer.bias))
    return inputs @ kernel + bias
