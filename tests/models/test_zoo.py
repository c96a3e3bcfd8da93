"""Tests of iwae_tf.models.zoo."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import estimators, objectives
from iwae_tf.errors import UsageError
from iwae_tf.models import zoo
from iwae_tf.randomness import seed_of
from iwae_tf.runs.config import Config


def dense(d_in, d_out):
    return d_in * d_out + d_out


# Burda et al. 2016, section 5, by hand. "x-200-200-50" is two tanh layers, then two
# linear heads, mean and log scale.
ONE_LAYER = (
    dense(784, 200) + dense(200, 200) + 2 * dense(200, 50),
    dense(50, 200) + dense(200, 200) + dense(200, 784),
)
TWO_LAYERS = (
    (dense(784, 200) + dense(200, 200) + 2 * dense(200, 100))
    + (dense(100, 100) + dense(100, 100) + 2 * dense(100, 50)),
    (dense(50, 100) + dense(100, 100) + 2 * dense(100, 100))
    + (dense(100, 200) + dense(200, 200) + dense(200, 784)),
)


@pytest.mark.parametrize(
    ("stochastic_layers", "parts", "total"),
    [(1, ONE_LAYER, 425_284), (2, TWO_LAYERS, 521_084)],
)
def test_paper_networks_have_the_parameter_count_by_hand(
    stochastic_layers, parts, total
):
    model = zoo.burda((28, 28, 1), stochastic_layers)
    both = (model.posterior, model.generator)
    got = tuple(
        sum(math.prod(v.shape) for v in part.trainable_variables) for part in both
    )
    assert got == parts
    assert tuple(part.count_params() for part in both) == parts  # of `summary()`
    assert model.count_params() == sum(parts) == total
    assert model.posterior.n_latent == [(50,), (100, 50)][stochastic_layers - 1]


@pytest.mark.parametrize(
    ("stochastic_layers", "latents", "hidden"),
    [
        (1, (50,), (200,)),
        (2, (100, 50), (200, 100)),
        (3, (100, 50, 25), (200, 100, 50)),
        (9, (100, 50, 25, 12, 6, 3, 1, 1, 1), (200, 100, 50, 25, 12, 6, 3, 1, 1)),
    ],
)
def test_default_sizes_halve(stochastic_layers, latents, hidden):
    assert zoo.default_latents(stochastic_layers) == latents
    assert zoo.default_hidden(stochastic_layers) == hidden


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (5, 3, 3)])
def test_layers_are_connected_as_the_sizes_say(image_shape):
    pixels = math.prod(image_shape)
    model = zoo.burda(image_shape, 2, n_latent=(4, 3), n_hidden=(6, 5))

    def kernels(part):
        shapes = [tuple(v.shape) for v in part.trainable_variables]
        return sorted(shape for shape in shapes if len(shape) > 1)

    up = [(pixels, 6), (6, 6), (6, 4), (6, 4), (4, 5), (5, 5), (5, 3), (5, 3)]
    assert kernels(model.posterior) == sorted(up)
    down = [(3, 5), (5, 5), (5, 4), (5, 4), (4, 6), (6, 6), (6, pixels)]
    assert kernels(model.generator) == sorted(down)


def test_initial_kernels_fill_the_glorot_uniform_limits_and_biases_are_zero():
    model = zoo.burda((28, 28, 1), 2)
    for variable in model.trainable_variables:
        values = variable.numpy()
        if values.ndim == 1:
            assert not np.any(values), variable.path
            continue
        limit = math.sqrt(6 / sum(values.shape))
        assert np.abs(values).max() <= limit, variable.path
        # 5,000 entries or more: the largest is within 1 % of the limit, and the
        # standard deviation that of a uniform.
        assert np.abs(values).max() > 0.99 * limit, variable.path
        assert values.std() == pytest.approx(limit / math.sqrt(3), rel=0.03)


def test_output_bias_gives_the_training_mean():
    rng = np.random.default_rng(0)
    mean = rng.random((4, 3, 1))
    mean[0, 0, 0], mean[1, 1, 0] = 0.0, 1.0  # pixels that are always off or on
    model = zoo.burda((4, 3, 1), n_latent=(2,), n_hidden=(5,), mean=mean)
    model.generator.pixel_logits.kernel.assign(np.zeros((5, 12)))
    _, got = model.sample(3, seed_of(0))
    want = np.clip(mean, 0.001, 0.999)
    np.testing.assert_allclose(got, np.broadcast_to(want, (3, 4, 3, 1)), rtol=1e-5)


@pytest.mark.parametrize("name", ["vae60", "tvae_affine", "dense", "gated", "resnet"])
def test_other_networks_do_not_start_from_the_training_mean(name):
    mean_image = np.full((4, 4, 1), 0.1)
    maps = {"feature_maps": 4} if name in ("gated", "resnet") else {}
    model = zoo.build((4, 4, 1), mean=mean_image, model=name, n_flows=0, **maps)
    np.testing.assert_array_equal(model.generator.pixel_logits.bias, np.zeros(16))


def test_same_seed_same_weights_other_seed_other_weights():
    def weights(seed):
        model = zoo.burda((2, 2, 1), 2, n_latent=(3, 2), n_hidden=(4, 3), seed=seed)
        assert model.seed == seed
        return [v.numpy() for v in model.trainable_variables]

    for a, b, c in zip(weights(1), weights(1), weights(2), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.ndim == 1 or not np.any(a == c)


def gradients(model, x):
    """The gradients of a model, compiled without XLA."""

    @tf.function
    def compute(x):
        row = objectives.row("iwae_elbo")
        return estimators.value_and_gradients(row, model, x, 5, seed_of(1), 1.0)[1]

    return [gradient.numpy() for gradient in compute(x)]


def test_layers_made_before_change_no_bit_of_a_gradient(binary):
    # The features of an image have three gradients: two of heads, one of the flow.
    x, options = binary(20, (3, 4, 1)), {"n_latent": (2,), "n_hidden": (30,)}
    one = zoo.burda((3, 4, 1), n_flows=1, **options)
    while not re.fullmatch("dense_9+6", keras.layers.Dense(1).name):
        pass  # two more, and the heads would be the 99th, 100th and 101st
    other = zoo.burda((3, 4, 1), n_flows=1, **options)
    assert [v.path for v in one.variables] == [v.path for v in other.variables]
    for a, b in zip(gradients(one, x), gradients(other, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_have_other_names_after_a_model():
    names = [keras.layers.Dense(1).name]
    zoo.burda((3, 4, 1))
    names.append(keras.layers.Dense(1).name)
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"n_latent": (3,)}, "n_latent: must be 2 positive sizes.*got 3$"),
        ({"n_hidden": (3, 0)}, "n_hidden: must be 2 positive sizes.*got 3,0$"),
        ({"n_flows": 4}, "n_flows: goes with one .* layer only, got 4 with 2 layers$"),
    ],
)
def test_options_that_do_not_fit_the_layers_are_refused(options, rule):
    with pytest.raises(UsageError, match=rule) as info:
        zoo.burda((2, 2, 1), 2, **options)
    assert "\n" not in str(info.value)


def n_parameters(part):
    return sum(math.prod(v.shape) for v in part.trainable_variables)


def made(d, width, n_context):
    """Weight-normalised: two hidden layers that see the context, then m and s."""
    hidden = [dense(d_in, width) + n_context * width + width for d_in in (d, width)]
    return sum(hidden) + dense(width, 2 * d)


def test_dense_networks_have_the_parameter_count_by_hand():
    model = zoo.build((28, 28, 1), **Config(model="dense").of_networks())
    flow = dense(300, 64) + 8 * made(64, 256, 64)
    of_q = dense(784, 300) + dense(300 + 784, 300) + 2 * dense(300, 64)
    of_p = dense(64, 300) + dense(300 + 64, 300) + dense(300, 784)
    assert n_parameters(model.posterior) == of_q + flow
    assert n_parameters(model.generator) == of_p
    plain = zoo.build((28, 28, 1), **Config(model="dense", n_flows=0).of_networks())
    assert n_parameters(plain.posterior) == of_q


def test_residual_networks_have_the_parameter_count_by_hand():
    maps, kernel = 5, 9
    options = {"model": "resnet", "feature_maps": maps, "n_flows": 0}
    model = zoo.build((28, 20, 3), **Config(**options).of_networks())
    inner, first = dense(kernel * maps, maps), dense(kernel * 3, maps)
    # Of six blocks three have a convolution beside their two: where sizes change.
    of_q = 2 * first + inner + 5 * 2 * inner + 2 * inner
    of_q += dense(7 * 5 * maps, 450) + 2 * dense(450, 64)
    of_p = dense(64, 450) + dense(450, 7 * 5 * maps) + 6 * 2 * inner + 3 * inner
    of_p += kernel * maps * 3 + 28 * 20 * 3
    assert n_parameters(model.posterior) == of_q
    assert n_parameters(model.generator) == of_p


@pytest.mark.parametrize("name", ["gated", "resnet"])
def test_convolutions_have_every_pixel_of_every_sample_in_its_place(name):
    options = Config(model=name, feature_maps=6, n_flows=1).of_networks()
    model = zoo.build((12, 8, 2), **options)
    x = np.random.default_rng(0).integers(0, 2, (3, 12, 8, 2)).astype("f4")
    draws = model.draw(x, 4, seed_of(1))
    assert draws.log_w().shape == (4, 3)
    (z,) = draws.zs
    means = model.generator.mean((z,)).numpy()
    assert means.shape == (4, 3, 12, 8, 2)
    alone = model.generator.mean((z[2:3, 1:2],)).numpy()
    np.testing.assert_allclose(means[2, 1], alone[0, 0], rtol=1e-5)
    q = model.posterior.conditional(0, x.reshape(3, -1)).mean()
    one = model.posterior.conditional(0, x[1:2].reshape(1, -1)).mean()
    np.testing.assert_allclose(q[1:2], one, rtol=1e-4, atol=1e-6)
    assert abs(q.numpy() - q.numpy()[0]).max() > 1e-3


def test_images_that_convolutions_cannot_halve_twice_are_refused():
    with pytest.raises(UsageError, match="^dataset: .* multiples of 4 .* got 17x24$"):
        zoo.build((17, 24, 1), **Config(model="gated").of_networks())
    zoo.build((17, 23, 1), **Config(model="dense", n_flows=0).of_networks())


@pytest.mark.parametrize("name", ["burda", "vae60", "tvae_affine"])
def test_flow_goes_before_any_generator_of_one_layer(name):
    model = zoo.build((4, 4, 1), model=name, n_flows=2, flow_hidden=(9,))
    (d,) = model.generator.n_latent
    assert model.posterior.n_flows == 2 and len(model.posterior.flow.steps) == 2
    x = np.ones((3, 4, 4, 1), np.float32)
    assert model.draw(x, 5, seed_of(1)).zs[0].shape == (5, 3, d)


def test_no_more_means_are_bounded_than_there_are():
    with pytest.raises(UsageError, match="^n_bounded: must be from 0 to 60, .* got 61"):
        zoo.build((4, 4, 1), model="tvae_affine", n_bounded=61)
