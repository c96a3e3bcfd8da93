"""Tests of `gdreg`, the path from the parameters of p(z) to the latents."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from linear_gaussian import LinearGaussian, exact_posterior, pair
from row_gradients import (
    assert_same_gradients,
    flat,
    gradients_of,
    mean_and_error,
    split,
)

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.estimators import value_and_gradients
from iwae_tf.measures.gradients import gradient_statistics
from iwae_tf.models import zoo
from iwae_tf.models.generators import Chain, Generator
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.networks import MLP
from iwae_tf.models.parts import precision
from iwae_tf.models.posteriors import GaussianChain
from iwae_tf.objectives import table

SEED = randomness.seed_of(3)
ROWS = table()
EAGER = {"jit_compile": False, "run_eagerly": True}
K = 5


def by_hand(model, x, k, seed, beta, context=None, with_weights=True):
    """The generator's gradient from its definition, sample by sample.

    E_q[w~ grad log p(z_l|z_l+1)] is the gradient of E_p[h] in the parameters of p,
    where h = q(z|x) w~ / p(z_l|z_l+1) is held, and E_p[h] is reparameterised.
    `with_weights=False` leaves out the path through w~, which is wrong.
    """
    theta = model.generator.trainable_variables
    zs, _ = model.posterior.draw(x, k, seed, context)
    with tf.GradientTape(persistent=True) as tape:
        samples = [[z[i] for z in zs] for i in range(k)]
        tape.watch(samples)
        draws = model.weigh(
            x, tuple(map(tf.stack, zip(*samples, strict=True))), context
        )
        log_w_norm = tf.nn.log_softmax(draws.log_w(beta), axis=0)
        held, loss, log_hs = tf.stop_gradient(tf.exp(log_w_norm)), 0.0, []
        loss -= tf.reduce_mean(tf.reduce_sum(held * draws.log_px, axis=0))
        for level in range(len(zs)):
            # Not stopped: the gradient in z_l alone is taken, and z_l+1 is a leaf.
            zs_now = tuple(map(tf.stack, zip(*samples, strict=True)))
            own = model.generator.factors(zs_now, context)[level]
            log_h = draws.log_qz - own.log_prob(zs_now[level])
            if with_weights:
                log_h += log_w_norm
            log_hs.append(tf.unstack(log_h))
    slopes = [
        tf.stack([tape.gradient(log_hs[level][i], samples[i][level]) for i in range(k)])
        for level in range(len(zs))
    ]
    with tf.GradientTape() as tape_of_paths:
        paths = 0.0
        for level, (slope, z) in enumerate(zip(slopes, zs, strict=True)):
            p = model.generator.factors(zs, context)[level]
            noise = tf.stop_gradient((z - p.mean()) / p.stddev())
            moved = p.mean() + p.stddev() * noise
            along = tf.reduce_sum(slope * moved, axis=-1)
            paths -= beta * tf.reduce_mean(tf.reduce_sum(held * along, axis=0))
    parts = tape.gradient(loss, theta), tape_of_paths.gradient(paths, theta)
    return [
        sum(part for part in pair if part is not None)
        for pair in zip(*parts, strict=True)
    ]


def of_prior(model, gradients, level=1):
    """The gradients in the parameters of p(z1|z2) of a linear-Gaussian model."""
    of_theta = split(gradients, model)[1]
    generator = model.generator
    own = [part[level] for part in (generator.maps, generator.shifts)]
    own.append(generator.log_scales[level])
    places = {id(v): i for i, v in enumerate(generator.trainable_variables)}
    return [of_theta[places[id(v)]] for v in own]


def near(n_latent):
    """A linear-Gaussian model whose q(z|x) is wrong and wide."""
    return pair(n_latent, 0.3, 1.3)[1]


# Each draw ---------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("stochastic_layers", [1, 2, 3])
def test_gradient_is_that_of_its_definition(stochastic_layers, beta, tiny, binary):
    model, x = tiny(stochastic_layers), binary(3)
    _, got, _ = gradients_of("gdreg", model, x, 4, beta=beta)
    of_phi, of_theta = split(got, model)
    assert_same_gradients(of_theta, by_hand(model, x, 4, SEED, beta), 2e-5)
    _, dreg, _ = gradients_of("dreg", model, x, 4, beta=beta)
    assert_same_gradients(of_phi, split(dreg, model)[0])


def test_with_a_standard_normal_prior_it_is_dreg(tiny, binary):
    model, x = tiny(1), binary(4)
    loss, got, _ = gradients_of("gdreg", model, x, 5, beta=0.7)
    want_loss, want, _ = gradients_of("dreg", model, x, 5, beta=0.7)
    assert loss == want_loss
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("k", [1, 5])
def test_exact_posterior_leaves_the_slope_of_what_is_below(k):
    # w~ is 1 / k, log w is constant, and log q(z|x) - log p(z1|z2) has the slope of
    # log p(x|z1) in z1.
    generator = LinearGaussian(n_latent=(3, 2))
    model = IWAE(exact_posterior(generator), generator)
    x = generator.images(4)
    _, got, draws = gradients_of("gdreg", model, x, k)
    z1, z2 = (np.float64(z) for z in draws.zs)
    w_map, w_shift, w_log_scale = generator._float64(0)
    rest = np.float64(x).reshape(4, -1) - z1 @ w_map.T - w_shift
    slope = rest @ w_map / np.exp(2 * w_log_scale)
    a_map, a_shift, _ = generator._float64(1)
    want = [
        -np.einsum("kbi,kbj->ij", slope, z2) / (4 * k),
        -slope.sum(axis=(0, 1)) / (4 * k),
        -np.sum(slope * (z1 - z2 @ a_map.T - a_shift)) / (4 * k),
    ]
    got = of_prior(model, got)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(want[0]).max())


@pytest.mark.parametrize("n_latent", [(3,), (3, 2), (3, 2, 2)])
def test_one_weight_above_all_by_1e4_nats_gives_finite_gradients(n_latent):
    generator = LinearGaussian(n_latent=n_latent)
    model = IWAE(exact_posterior(generator), generator)
    generator.log_scales[0].assign(np.log(0.003))
    loss, got, draws = gradients_of("gdreg", model, generator.images(3), K)
    last, first = np.sort(draws.log_w().numpy(), axis=0)[-2:]
    assert np.max(first - last) > 1e4
    assert np.isfinite(loss)
    assert all(np.isfinite(part).all() for part in got)
    assert all(np.any(part) for part in split(got, model)[1])


def test_scale_multiplies_the_gradients(tiny, binary):
    model, x = tiny(2), binary(4)
    options = (ROWS["gdreg"], model, x, 5, SEED, 0.5)
    _, want, _ = value_and_gradients(*options)
    _, got, _ = value_and_gradients(*options, scale=lambda loss: 1024 * loss)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, 1024 * b)


def test_xla_equals_eager(tiny, binary):
    model, x = tiny(2), tf.constant(binary(4))

    def compute(x):
        return value_and_gradients(ROWS["gdreg"], model, x, 5, SEED, 0.5)[:2]

    loss, got = tf.function(compute, jit_compile=True)(x)
    want_loss, want = compute(x)
    assert float(loss) == pytest.approx(float(want_loss), rel=1e-5)
    assert_same_gradients([g.numpy() for g in got], [g.numpy() for g in want], 1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits_give_nearly_the_same_gradients(policy, binary):
    x, models = binary(6), []
    for name in ("float32", policy):
        with precision(name):
            models.append(zoo.burda((3, 2, 1), 2, [4, 3], [9, 8]))
    models[1].set_weights(models[0].get_weights())
    (_, want, _), (_, got, _) = (gradients_of("gdreg", m, x, K) for m in models)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=0.05 * np.abs(b).max() + 1e-3)
    models[1].compile(keras.optimizers.Adam(0.05), "gdreg", 3, **EAGER)
    bounds = models[1].fit(x, batch_size=6, epochs=10, verbose=0).history["bound"]
    assert np.mean(bounds[-2:]) > np.mean(bounds[:2]) + 0.1


class Counting(keras.layers.Layer):
    """Multiplies by the number of its calls so far, and adds to the loss."""

    def __init__(self):
        super().__init__()
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seen = []

    def call(self, inputs):
        self.count.assign_add(1.0)
        self.add_loss(0.5 * tf.reduce_mean(inputs))
        self.seen.append(self.count.value)
        return inputs * self.count / self.count


def test_layer_of_the_prior_with_a_state_acts_once_and_its_loss_counts_once(binary):
    losses, layer = {}, Counting()
    networks = [MLP([4]), keras.Sequential([layer, keras.layers.Dense(4)])]
    generator = Chain((3, 2, 1), n_latent=(3, 2), networks=networks)
    model = IWAE(GaussianChain([[4], [4]], (3, 2)), generator)
    for name in ("dreg", "gdreg"):
        layer.count.assign(0.0)
        layer.seen.clear()
        losses[name] = model.call(
            binary(4),
            compute=lambda x, _, name=name: gradients_of(name, model, x, K)[0],
        )
        assert float(layer.count.value) == 1
        assert set(map(float, layer.seen)) == {1.0}
    assert losses["gdreg"] == losses["dreg"]


# Expectations ------------------------------------------------------------------------


def repeated(model, x, names, beta, context=None, n_repeats=60):
    """By name, estimates of all gradients [n_repeats, n], means over a batch."""
    functions = {
        name: tf.function(
            lambda seed, row=row: value_and_gradients(
                row, model, x, K, seed, beta, context
            )[1],
            autograph=False,
        )
        for name, row in names.items()
    }
    seeds = [randomness.seed_of(i) for i in range(n_repeats)]
    return {
        name: np.array([flat(function(seed)) for seed in seeds])
        for name, function in functions.items()
    }


def assert_unbiased(estimates):
    total = estimates["iwae_elbo"]
    difference, error = mean_and_error(estimates["gdreg"] - total)
    assert np.all(np.abs(difference) <= 5 * error + 1e-7 * np.abs(total).max())
    assert np.abs(total.mean(axis=0)).max() > 20 * error.max()
    # In the generator, too, they are two estimators.
    return difference, error


TWO = {name: ROWS[name] for name in ("iwae_elbo", "gdreg")}


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("n_latent", [(3, 2), (3, 2, 2)])
def test_expectation_is_that_of_the_total_gradient(n_latent, beta):
    model = near(n_latent)
    x = tf.repeat(model.generator.images(1), 2000, axis=0)
    squared = ROWS["gdreg"]._replace(theta_weights=ROWS["dreg"].phi_weights)
    estimates = repeated(model, x, TWO | {"squared": squared}, beta)
    assert_unbiased(estimates)
    # Weights for theta that are those of phi are wrong, and are seen.
    wrong = estimates["squared"] - estimates["iwae_elbo"]
    difference, error = mean_and_error(wrong)
    assert np.max(np.abs(difference) / np.maximum(error, 1e-12)) > 10


def test_without_the_path_through_the_weights_the_gradient_is_biased():
    model = near((3, 2))
    x = tf.repeat(model.generator.images(1), 2000, axis=0)
    places = {id(v): i for i, v in enumerate(model.generator.trainable_variables)}
    own = places[id(model.generator.shifts[1])]
    n_phi = len(model.posterior.trainable_variables)

    @tf.function(autograph=False)
    def estimates(seed):
        row = ROWS["iwae_elbo"]
        total = value_and_gradients(row, model, x, K, seed, 1.0)[1][n_phi + own]
        both = (by_hand(model, x, K, seed, 1.0, with_weights=w) for w in (True, False))
        return [gradients[own] - total for gradients in both]

    repeats = np.float64([estimates(randomness.seed_of(i)) for i in range(30)])
    (right, right_error), (wrong, wrong_error) = (
        mean_and_error(repeats[:, i]) for i in range(2)
    )
    assert np.all(np.abs(right) < 5 * right_error)
    assert np.any(np.abs(wrong) > 10 * wrong_error)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_expectation_of_a_chain_of_networks(beta, tiny, binary):
    model, x = tiny(2), tf.repeat(binary(1), 2000, axis=0)
    assert_unbiased(repeated(model, x, TWO, beta))


def test_expectation_of_a_learnt_prior_of_labels(binary):
    model = zoo.burda(
        (3, 2, 1), n_latent=[2], n_hidden=[4], n_context=2, conditional_prior=True
    )
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(scale=0.3, size=variable.shape))
    x, y = tf.repeat(binary(1), 2000, axis=0), tf.tile([[1.0, 0.0]], [2000, 1])
    estimates = repeated(model, x, TWO, 1.0, y)
    difference, _ = assert_unbiased(estimates)
    assert np.abs(difference).max() > 1e-5  # of which p(z|y) has a part
    _, got, _ = value_and_gradients(ROWS["gdreg"], model, x[:3], 4, SEED, 0.5, y[:3])
    got = [g.numpy() for g in got[len(model.posterior.trainable_variables) :]]
    assert_same_gradients(got, by_hand(model, x[:3], 4, SEED, 0.5, y[:3]), 2e-5)


# Variance ----------------------------------------------------------------------------


def test_variance_in_the_prior_is_lower_where_x_says_less_than_the_prior():
    # At an exact posterior both are slopes in z1: of log p(z1|z2), and of log p(x|z1).
    variances = {}
    for log_scale in (np.log(2.0), np.log(0.3)):
        generator = LinearGaussian(n_latent=(3, 2))
        generator.log_scales[0].assign(log_scale)
        model = IWAE(exact_posterior(generator), generator)
        x = np.repeat(generator.images(1), 500, axis=0)
        own = [generator.maps[1], generator.shifts[1], generator.log_scales[1]]
        for name in ("dreg", "gdreg"):
            moments = gradient_statistics(
                model, x, name, K, 20, {"prior": own}, jit_compile=False
            )
            variances[name, log_scale > 0] = moments["prior"].variance.sum()
    assert variances["gdreg", True] < 0.3 * variances["dreg", True]
    assert variances["gdreg", False] > 3 * variances["dreg", False]


# Refusals ----------------------------------------------------------------------------


class WithoutFactors(Chain):
    """A generator with what it must have, and no more."""

    factors = Generator.factors

    def log_joint(self, x, zs, context=None):
        return self.log_px(x, zs), self.prior().log_prob(zs[0])


class OfLaplace(Chain):
    """A generator whose top layer is no Gaussian."""

    def prior(self, context=None):
        zeros = tf.zeros(self.n_latent[-1])
        return tfp.distributions.Independent(tfp.distributions.Laplace(zeros, 1.0), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: WithoutFactors((3, 2, 1), [[4]], [2]),
            "^generator: must have a method factors .*WithoutFactors",
        ),
        (
            lambda: OfLaplace((3, 2, 1), [[4]], [2]),
            "^generator: must have factors of independent Gaussians .*Laplace",
        ),
    ],
)
def test_generator_without_gaussian_factors_is_refused(make, message, binary):
    model = IWAE(GaussianChain([[4]], [2]), make())
    gradients_of("dreg", model, binary(2), 3)
    with pytest.raises(UsageError, match=message) as error:
        gradients_of("gdreg", model, binary(2), 3)
    assert "\n" not in str(error.value)
