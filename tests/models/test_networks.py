"""Tests of iwae_tf.models.iwaes.networks."""

import numpy as np
import pytest

from iwae_tf.models.networks import MLP, LocScale


@pytest.mark.parametrize(
    ("activation", "function"), [("tanh", np.tanh), ("relu", lambda a: a * (a > 0))]
)
def test_mlp_equals_numpy_matrix_products(activation, function):
    rng = np.random.default_rng(0)
    network, inputs = MLP((4, 2), activation), rng.normal(size=(2, 3, 5))
    network(inputs)
    values = [rng.normal(size=v.shape) for v in network.trainable_variables]
    assert [v.shape for v in values] == [(5, 4), (4,), (4, 2), (2,)]
    network.set_weights(values)
    hidden = function(inputs @ values[0] + values[1])
    want = function(hidden @ values[2] + values[3])
    np.testing.assert_allclose(network(inputs), want, rtol=1e-5, atol=1e-6)


def test_mlp_without_widths_is_the_identity():
    inputs = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(MLP(())(inputs), inputs)


@pytest.mark.parametrize("level", [-20.0, 0.0, 5.0])
def test_loc_scale_heads_are_linear_and_exponential(level):
    rng = np.random.default_rng(0)
    network, inputs = LocScale(MLP(()), 2), rng.normal(size=(4, 3))
    network(inputs)
    a, b, c, d = (rng.normal(size=v.shape) for v in network.trainable_variables)
    network.set_weights([a, b, c, d + level])
    loc, scale = network(inputs)
    np.testing.assert_allclose(loc, inputs @ a + b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scale, np.exp(inputs @ c + d + level), rtol=1e-4)
    assert np.all(scale.numpy() > 0)
