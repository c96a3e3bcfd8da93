"""Fixtures shared by the tests of the models."""

import signal

import numpy as np
import pytest

import iwae_tf  # noqa: F401  Chooses Keras' backend before a test imports Keras.

IMAGE_SHAPE = (3, 2, 1)

# A shell's background job ignores Ctrl-C, one of nohup a closed terminal too, and so do
# the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def _pool():
    return {}


@pytest.fixture
def tiny(_pool):
    """A function from the number of stochastic layers to a small, wiggled model.

    Keras takes a third of a second to build one, so a test gets models that another
    test has done with, their weights and seed as new.
    """
    lent = []

    def make(stochastic_layers=1, image_shape=IMAGE_SHAPE, n_latent=None, seed=1):
        sizes = (stochastic_layers, image_shape, n_latent, seed)
        idle = _pool.setdefault(sizes, [])
        model, weights = idle.pop() if idle else build(*sizes)
        lent.append((idle, model, weights))
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)
        model.seed = seed
        return model

    yield make
    for idle, *pair in lent:
        idle.append(pair)


def build(stochastic_layers, image_shape, n_latent, seed):
    # Here, so that tests which do without TensorFlow do not wait for it.
    from iwae_tf.models import zoo

    model = zoo.burda(
        image_shape,
        stochastic_layers,
        n_latent=n_latent or tuple(range(stochastic_layers + 1, 1, -1)),
        n_hidden=tuple(range(stochastic_layers + 3, 3, -1)),
        seed=seed,
    )
    # Biases start at zero, and would hide a mistake.
    rng = np.random.default_rng(seed)
    return model, [
        v.numpy() + rng.normal(scale=0.3, size=v.shape)
        for v in model.trainable_variables
    ]


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
    """The pixel network of a `Chain` again, in NumPy float64."""

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
