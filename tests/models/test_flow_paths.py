"""Tests of path gradients through inverse autoregressive flow.

The oracle inverts the flow entry by entry, which training does not, and differentiates
the density of the latents that this gives.
"""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness, rules
from iwae_tf.errors import UsageError
from iwae_tf.estimators import value_and_gradients
from iwae_tf.models.flows import InverseAutoregressiveFlow
from iwae_tf.models.generators import Chain
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.networks import MLP
from iwae_tf.models.parts import precision
from iwae_tf.models.posteriors import FlowPosterior
from iwae_tf.objectives import table

SEED = randomness.seed_of(3)
ROWS = table()
EAGER = {"jit_compile": False, "run_eagerly": True}


def wiggle(layer, scale, seed=0):
    """Gives every weight a value far from its first."""
    rng = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        variable.assign_add(scale * rng.normal(size=variable.shape))
    return layer


def made_model(policy="float64", normalisation="weight", n_flows=3, layer=None):
    """A small model with a flow that is far from the identity."""
    keras.utils.set_random_seed(0)
    network = MLP((6,)) if layer is None else keras.Sequential([layer, MLP((6,))])
    with precision(policy):
        posterior = FlowPosterior(network, 4, n_flows, (9, 8), 5, normalisation)
        model = IWAE(posterior, Chain((3, 2, 1), [(7,)], [4]))
    posterior.flow.forget_bias = 1.0
    return wiggle(model, 0.3)


def images(b):
    rng = np.random.default_rng(2)
    return tf.constant(rng.integers(0, 2, size=(b, 3, 2, 1)), tf.float64)


def density(posterior, z, x):
    """log q(z|x) of any z, by the inverse of the flow."""
    loc, scale, features = posterior._head(x, None)
    z0 = posterior.flow.inverse(z, features)
    _, log_det = posterior.flow.forward_and_log_det(z0, features)
    q = tfp.distributions.MultivariateNormalDiag(loc, scale)
    return q.log_prob(z0) - log_det


def flat(gradients):
    return np.concatenate([np.ravel(np.float64(g)) for g in gradients])


# The slope of the density ------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["none", "weight"])
@pytest.mark.parametrize(("d", "n_steps"), [(1, 2), (3, 1), (5, 4)])
def test_slope_is_that_of_the_density_through_the_inverse(d, n_steps, normalisation):
    with precision("float64"):
        flow = InverseAutoregressiveFlow(d, n_steps, (9, 8), 3, normalisation, 0.5)
    wiggle(flow, 0.5)
    rng = np.random.default_rng(1)
    z0, context = (tf.constant(rng.normal(size=(2, 6, n))) for n in (d, 3))
    z, want_log_det = flow.forward_and_log_det(z0, context)
    with tf.GradientTape() as tape:
        tape.watch(z)
        before = flow.inverse(z, context)
        _, log_det = flow.forward_and_log_det(before, context)
        log_q = -0.5 * tf.reduce_sum(tf.square(before), axis=-1) - log_det
    want = tape.gradient(log_q, z)
    log_det, slope = flow.log_det_and_slope(z0, -z0, context)
    np.testing.assert_allclose(log_det, want_log_det, rtol=1e-12)
    np.testing.assert_allclose(slope, want, rtol=1e-9, atol=1e-9)
    assert np.abs(want + z).max() > 0.5  # far from that of a standard normal


def test_solution_is_exact_after_d_rounds_however_large_the_off_diagonal():
    with precision("float64"):
        flow = InverseAutoregressiveFlow(6, 1, (16,), forget_bias=-3.0)
    wiggle(flow, 2.0)
    z0 = tf.constant(np.random.default_rng(1).normal(size=(1, 20, 6)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z0)
        z, log_det = flow.forward_and_log_det(z0)
        entries = tf.unstack(z, axis=-1)
    jacobian = np.stack([tape.gradient(entry, z0) for entry in entries], axis=-2)
    right = -z0 - tape.gradient(log_det, z0)
    transposed = np.swapaxes(jacobian, -1, -2)
    want = np.linalg.solve(transposed, right.numpy()[..., np.newaxis])[..., 0]
    _, slope = flow.log_det_and_slope(z0, -z0)
    diagonal = np.einsum("...ii->...i", jacobian)
    rest = transposed / diagonal[..., np.newaxis] - np.eye(6)
    assert np.linalg.norm(rest, axis=(-2, -1)).max() > 5
    np.testing.assert_allclose(slope, want, rtol=1e-7, atol=1e-7 * np.abs(want).max())


# Gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("name", ["stl", "dreg", "rws_dreg", "gdreg"])
def test_gradient_equals_weights_of_numpy_times_paths_past_a_twin(name, beta):
    model, twin, x, k = made_model(), made_model(), images(2), 3
    phi = model.posterior.trainable_variables
    _, got, draws = value_and_gradients(ROWS[name], model, x, k, SEED, beta)
    w = scipy.special.softmax(draws.log_w(beta).numpy(), axis=0)
    v = {
        "stl": w,
        "dreg": (1 - beta) * w + beta * w**2,
        "gdreg": (1 - beta) * w + beta * w**2,
        "rws_dreg": w * (1 - w),
    }[name]
    with tf.GradientTape() as tape:
        (z,), _ = model.posterior.draw(x, k, SEED)
        log_px, log_pz = twin.generator.log_joint(x, (z,))
        log_qz = density(twin.posterior, z, x)
        log_w = log_px + beta * (log_pz - log_qz)
        loss = -tf.reduce_mean(tf.reduce_sum(v * log_w, axis=0))
    np.testing.assert_allclose(draws.log_qz, log_qz, rtol=1e-10)
    want = flat(tape.gradient(loss, phi))
    np.testing.assert_allclose(
        flat(got[: len(phi)]), want, rtol=1e-7, atol=1e-8 * np.abs(want).max()
    )
    assert np.abs(want).max() > 1e-3
    _, iwae, _ = value_and_gradients(ROWS["iwae_eq14"], model, x, k, SEED, beta)
    np.testing.assert_allclose(flat(got[len(phi) :]), flat(iwae[len(phi) :]))


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_dreg_has_the_expectation_of_the_total_gradient(beta):
    model = made_model("float32", n_flows=2)
    x = tf.repeat(images(1), 2000, axis=0)
    n = len(model.posterior.trainable_variables)

    def of_phi(name, seed):
        gradients = value_and_gradients(ROWS[name], model, x, 5, seed, beta)[1]
        return tf.concat([tf.reshape(g, [-1]) for g in gradients[:n]], axis=0)

    names = ("iwae_elbo", "dreg", "stl")
    estimates = tf.function(lambda seed: [of_phi(name, seed) for name in names])
    repeats = np.float64([estimates(randomness.seed_of(i)) for i in range(60)])
    total, dreg, stl = np.swapaxes(repeats, 0, 1)
    errors = []
    for path in (dreg, stl):
        difference = path - total
        error = difference.std(axis=0, ddof=1) / 60**0.5
        errors.append(np.abs(difference.mean(axis=0)) / np.maximum(error, 1e-9))
    assert errors[0].max() < 5
    assert errors[1].max() > 10  # biased: the test would see it


@pytest.mark.parametrize("name", ["stl", "dreg", "rws_dreg"])
def test_exact_posterior_makes_path_gradients_zero(name):
    model, twin, x = made_model(), made_model(), images(3)
    exact = SimpleNamespace(
        inputs=lambda x, context: (x, context),
        posterior=model.posterior,
        generator=SimpleNamespace(
            trainable_variables=[],
            log_joint=lambda x, zs, _: (0.0, density(twin.posterior, zs[0], x)),
        ),
    )
    loss, got, draws = value_and_gradients(ROWS[name], exact, x, 4, SEED, 1.0)
    np.testing.assert_allclose(draws.log_w(), 0, atol=1e-10)
    assert float(loss) == pytest.approx(0, abs=1e-10)
    assert np.abs(flat(got)).max() < 1e-9
    other = value_and_gradients(ROWS[name], model, x, 4, SEED, 1.0)[1]
    assert np.abs(flat(other[: len(got)])).max() > 1e-3


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_equals_eager(jit_compile):
    model, x = made_model("float32"), images(4)

    def compute(x):
        return value_and_gradients(ROWS["dreg"], model, x, 5, SEED, 0.5)[:2]

    loss, got = tf.function(compute, jit_compile=jit_compile)(x)
    want_loss, want = compute(x)
    assert float(loss) == pytest.approx(float(want_loss), rel=1e-5)
    np.testing.assert_allclose(
        flat(got), flat(want), rtol=1e-4, atol=1e-4 * np.abs(flat(want)).max()
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_it_trains(policy):
    model, x = made_model(policy), images(20)
    model.compile(keras.optimizers.Adam(0.05), "dreg", 3, **EAGER)
    bounds = model.fit(x, batch_size=20, epochs=8, verbose=0).history["bound"]
    assert np.mean(bounds[-2:]) > np.mean(bounds[:2]) + 0.1


def test_layer_with_a_state_acts_as_often_as_with_a_total_gradient():
    layer = keras.layers.BatchNormalization(momentum=0.9)
    model, x = made_model("float32", layer=layer), tf.cast(images(8), tf.float32)
    states = []
    for name in ("iwae_elbo", "dreg"):
        layer.moving_mean.assign(tf.zeros_like(layer.moving_mean))

        def compute(x, context, name=name):
            return value_and_gradients(ROWS[name], model, x, 3, SEED, 1.0)

        states.append(
            (model(x, compute=compute, training=True)[0], layer.moving_mean.numpy())
        )
    np.testing.assert_allclose(states[1][0], states[0][0], rtol=1e-5)
    np.testing.assert_array_equal(states[1][1], states[0][1])
    assert np.any(states[0][1])


# Refusals ----------------------------------------------------------------------------


def test_batch_normalisation_in_the_flow_is_refused_in_one_line():
    model = made_model("float32", "batch")
    message = "^flow_normalisation: must be none or weight for .* got batch$"
    for refused in (
        lambda: model.compile(objective="dreg", n_samples=2),
        lambda: value_and_gradients(ROWS["dreg"], model, images(2), 2, SEED, 1.0),
    ):
        with pytest.raises(UsageError, match=message):
            refused()
    model.compile(objective="iwae_elbo", n_samples=2)


def test_rules_know_the_rows_of_paths():
    of_paths = {name for name, row in ROWS.items() if row.phi_gradient == "path"}
    assert set(rules.OF_PATHS) == of_paths
