"""Tests of iwae_tf.models.flows and of the posterior made of them."""

import functools
import itertools

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from iwae_tf import estimators, objectives, randomness, rules
from iwae_tf.errors import UsageError
from iwae_tf.measures import units
from iwae_tf.models.flows import MADE, InverseAutoregressiveFlow
from iwae_tf.models.generators import Chain
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.networks import MLP, MaskedDense
from iwae_tf.models.posteriors import FlowPosterior, GaussianChain

SEED = randomness.seed_of(3)
XLA = {"jit_compile": True, "run_eagerly": False}
EAGER = {"jit_compile": False, "run_eagerly": True}


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def wiggle(layer, scale=0.5, seed=0):
    """Gives every weight a value far from its first."""
    rng = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        variable.assign_add(scale * rng.normal(size=variable.shape))
    return layer


def numbers(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def jacobian(function, z):
    """Of a function of rows [n, d], for each row: [n, d_out, d]."""
    # A gradient for each output: one of all of them would be traced, for longer.
    z = tf.constant(z)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        outputs = tf.unstack(function(z), axis=-1)
    return np.stack([tape.gradient(output, z) for output in outputs], axis=1)


# MADE --------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", rules.NORMALISATIONS)
@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_output_depends_on_what_is_before_it_and_on_nothing_else(order, normalisation):
    made = wiggle(MADE(order, (7, 9), 2, 4, normalisation))
    rows = numbers(5, 3 + 4).astype("f4")  # z and its context
    is_before = np.array([[i < o for i in order] for o in order])
    got = jacobian(lambda rows: tf.concat(made(rows[:, :3], rows[:, 3:]), -1), rows)
    assert got.shape == (5, 6, 7)
    for of_output in np.split(got, 2, axis=1):
        np.testing.assert_array_equal((of_output[..., :3] != 0).any(axis=0), is_before)
        assert (abs(of_output[..., 3:]).max(axis=0) > 0).all()


@pytest.mark.parametrize("widths", [(), (5,), (9, 8, 11)])
def test_product_of_masks_connects_an_output_to_what_is_before_it(widths):
    order = np.array([3, 1, 4, 2])
    made = MADE(order, widths, 2)
    paths = np.eye(4)
    for layer in (*made.hidden, made.outputs):
        paths = paths @ layer.mask
    want = np.tile(order[:, None] < order, 2)
    np.testing.assert_array_equal(paths > 0, want)


# Flow --------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("normalisation", rules.NORMALISATIONS)
@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_log_det_equals_slogdet_of_the_jacobian(n_steps, normalisation):
    flow = InverseAutoregressiveFlow(4, n_steps, (9, 8), 3, normalisation, 1.0)
    wiggle(flow, 0.25)
    z, context = numbers(6, 4), numbers(6, 3, seed=2)
    _, log_det = flow.forward_and_log_det(tf.constant(z), context)
    got = jacobian(lambda z: flow.forward_and_log_det(z, context)[0], z)
    assert np.linalg.cond(got).max() < 1e4  # or slogdet is no oracle
    sign, want = np.linalg.slogdet(got)
    assert (sign == 1).all() and np.abs(want).min() > 0.1
    np.testing.assert_allclose(log_det, want, rtol=1e-10)


def test_order_is_reversed_from_step_to_step():
    z = numbers(6, 4).astype("f4")
    flow = wiggle(InverseAutoregressiveFlow(4, 3, (9,)))
    for step, triangle in zip(flow.steps, (np.tril, np.triu, np.tril), strict=True):
        got = jacobian(lambda z, step=step: tf.concat(step(z), axis=-1), z)
        for part in np.split(got, 2, axis=1):  # of m and of s
            np.testing.assert_array_equal(part, triangle(part))
            assert (part != 0).any(axis=0).sum() == 6  # all but the diagonal


def test_new_flow_is_near_the_identity():
    flow = InverseAutoregressiveFlow(4, 8, (16, 16), 3)
    z = numbers(50, 4).astype("f4")
    got, log_det = flow.forward_and_log_det(tf.constant(z), numbers(50, 3).astype("f4"))
    assert np.abs(got - z).max() < 0.3 and np.abs(log_det).max() < 0.5


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("n_steps", "normalisation", "jit_compile"),
    [*((n, way, False) for n in (1, 4) for way in rules.NORMALISATIONS)]
    + [(4, "batch", True)],
)
def test_inverse_undoes_the_flow(n_steps, normalisation, jit_compile):
    flow = InverseAutoregressiveFlow(5, n_steps, (9, 8), 3, normalisation, 1.0)
    wiggle(flow, 0.25)
    z, context = numbers(2, 6, 5), numbers(6, 3, seed=2)
    there, _ = flow.forward_and_log_det(tf.constant(z), context)
    assert np.abs(there - z).max() > 0.5
    inverse = flow.inverse
    if jit_compile:
        inverse = tf.function(inverse, jit_compile=True)
    back = inverse(there, context)
    np.testing.assert_allclose(back, z, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("d", [1, 2])
def test_density_integrates_to_one_and_has_the_moments_of_its_samples(d):
    flow = wiggle(InverseAutoregressiveFlow(d, 3, (8, 8), forget_bias=1.0), 0.3)
    axis, n = np.linspace(-5, 5, 4001 if d == 1 else 701), 200_000
    z = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), axis=-1).reshape(-1, d)
    z0 = flow.inverse(tf.constant(z)).numpy()
    again, log_det = flow.forward_and_log_det(tf.constant(z0))
    np.testing.assert_allclose(again, z, atol=1e-9)
    density = np.exp(scipy.stats.norm.logpdf(z0).sum(axis=-1) - log_det.numpy())
    weight = density * (axis[1] - axis[0]) ** d
    assert weight.sum() == pytest.approx(1, abs=1e-6)
    samples, _ = flow.forward_and_log_det(tf.constant(numbers(n, d, seed=4)))
    assert abs(samples.numpy().std(axis=0) - 1).max() > 0.1  # it does something
    for power in (1, 2, 3):
        powers = samples.numpy() ** power
        error = powers.std(axis=0) / n**0.5
        assert (abs(weight @ z**power - powers.mean(axis=0)) < 5 * error).all()


# Layers ------------------------------------------------------------------------------


def test_weight_normalisation_starts_with_the_weights_as_they_are():
    mask = np.tril(np.ones((4, 6)))
    plain, normed = (MaskedDense(mask, 3, way) for way in ("none", "weight"))
    normed.set_weights([*plain.get_weights(), normed.length.numpy()])
    normed.length.assign(np.linalg.norm(mask * plain.kernel.numpy(), axis=0))
    inputs, context = numbers(5, 4).astype("f4"), numbers(5, 3).astype("f4")
    np.testing.assert_allclose(
        normed(inputs, context), plain(inputs, context), rtol=1e-5, atol=1e-6
    )
    longer = [v * (7 if v is normed.kernel else 1) for v in normed.weights]
    before = normed(inputs, context).numpy()
    normed.set_weights(longer)
    np.testing.assert_allclose(normed(inputs, context), before, rtol=1e-5, atol=1e-6)


def test_weight_normalisation_is_set_by_a_batch():
    made = MADE((1, 2, 3, 4), (9, 8), 2, 3, "weight")
    z, context = 3 + 2 * numbers(2, 50, 4), numbers(50, 3, seed=2)
    z, context = z.astype("f4"), context.astype("f4")
    made.initialise(tf.constant(z), tf.constant(context))
    for layer in made.hidden:
        z = layer(z, context).numpy()
        np.testing.assert_allclose(z.mean(axis=(0, 1)), 0, atol=1e-5)
        np.testing.assert_allclose(z.std(axis=(0, 1)), 1, rtol=1e-3)
        z = tf.nn.elu(z)


def test_batch_normalisation_has_statistics_of_a_batch_in_training_only():
    layer = MaskedDense(np.ones((4, 6)), 0, "batch")
    inputs = (3 + 2 * numbers(2, 500, 4)).astype("f4")
    plain = layer(inputs).numpy()
    outputs = layer(inputs, training=True).numpy()
    np.testing.assert_allclose(outputs.mean(axis=(0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(outputs.std(axis=(0, 1)), 1, rtol=2e-2)
    assert abs(plain.mean(axis=(0, 1))).max() > 0.5
    step = tf.function(lambda: layer(inputs, training=True))
    for _ in range(1000):
        step()
    np.testing.assert_allclose(layer(inputs), outputs, atol=1e-2)


# Posterior ---------------------------------------------------------------------------


@functools.cache
def _built(normalisation, n_bounded, n_flows, number):
    posterior = FlowPosterior(
        MLP((12,)), 4, n_flows, (9, 8), 5, normalisation, n_bounded
    )
    model = IWAE(posterior, Chain((4, 3, 1), [(7,)], [4]))
    return model, model.get_weights()


def made_model(normalisation="weight", n_bounded=0, n_flows=3, number=0):
    """A model with its weights as new; each number has another one."""
    model, weights = _built(normalisation, n_bounded, n_flows, number)
    model.set_weights(weights)
    return model


def images(b, seed=0):
    x = np.random.default_rng(seed).integers(0, 2, size=(b, 4, 3, 1))
    return x.astype(np.float32)


@pytest.mark.parametrize("n_bounded", [0, 2])
def test_identity_flow_draws_what_the_gaussian_draws_exactly(n_bounded):
    model = made_model(n_bounded=n_bounded)
    posterior = model.posterior
    gaussian = GaussianChain((), [4], n_bounded=n_bounded, networks=[MLP((12,))])
    gaussian.draw(images(1), 1, SEED)
    wiggle(posterior.conditionals[0])
    gaussian.set_weights(posterior.conditionals[0].get_weights())
    for step in posterior.flow.steps:
        step.outputs.kernel.assign(tf.zeros_like(step.outputs.kernel))
        step.outputs.bias.assign([0.0] * 4 + [40.0] * 4)  # g = 1
    (got,), log_qz = posterior.draw(images(6), 5, SEED)
    (want,), want_log_qz = gaussian.draw(images(6), 5, SEED)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(log_qz, want_log_qz)


def test_mean_is_the_draw_without_its_noise():
    posterior = made_model().posterior
    wiggle(posterior)
    (head,) = posterior.conditionals
    head.log_scale.bias.assign([-30.0] * 4)
    (drawn,), _ = posterior.draw(images(6), 1, SEED)
    (mean,) = posterior.mean(images(6))
    np.testing.assert_allclose(mean, drawn, rtol=1e-5, atol=1e-6)


def test_log_qz_is_that_of_the_gaussian_less_the_log_det():
    posterior = wiggle(made_model().posterior, 0.3)
    (z,), log_qz = posterior.draw(images(6), 5, SEED)
    (head,) = posterior.conditionals
    features = head.mlp(images(6).reshape(6, -1))
    loc, scale = head.of_features(features)
    z0 = loc + scale * randomness.normal([5, 6, 4], randomness.seed_of(SEED, 0))
    again, log_det = posterior.flow.forward_and_log_det(
        z0, posterior.features(features)
    )
    np.testing.assert_array_equal(z, again)
    want = scipy.stats.norm.logpdf(z0, loc, scale).sum(axis=-1) - log_det
    np.testing.assert_allclose(log_qz, want, rtol=1e-4)


@pytest.mark.parametrize("normalisation", rules.NORMALISATIONS)
def test_every_parameter_has_a_gradient_and_survives_saving(normalisation, tmp_path):
    model = made_model(normalisation)
    wiggle(model, 0.3)
    model.compile(keras.optimizers.SGD(0.1), "iwae_elbo", n_samples=5, **EAGER)
    x = images(40)
    row = objectives.row("iwae_elbo")
    _, gradients, _ = estimators.value_and_gradients(row, model, x, 5, SEED, 1.0)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, variable.path
    before = model.get_weights()
    model.fit(x, batch_size=20, verbose=0)
    for variable, value in zip(model.weights, before, strict=True):
        assert (variable.numpy() != value).any(), variable.path
    model.save_weights(tmp_path / "a.weights.h5")
    other = made_model(normalisation, number=1)
    other.load_weights(tmp_path / "a.weights.h5")
    for name in ("zs", "log_px", "log_qz"):
        np.testing.assert_array_equal(
            *(getattr(m.draw(x, 3, SEED), name) for m in (model, other))
        )


def test_a_compiled_step_has_the_weights_of_an_eager_one():
    # Batch normalisation: it has variables of its own that a step assigns.
    x, weights = images(20), []
    for mode in (EAGER, XLA):
        model = wiggle(made_model("batch", n_flows=1), 0.3)
        before = model.get_weights()
        model.compile(keras.optimizers.SGD(0.1), "iwae_elbo", n_samples=2, **mode)
        model.fit(x, batch_size=20, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for eager, compiled, old in zip(*weights, before, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)
        assert (eager != old).any()


@pytest.mark.parametrize("name", objectives.table())
def test_objectives_train_or_are_refused_in_one_line(name):
    model, x = made_model(), images(10)
    if name not in (*rules.WITHOUT_GIVEN_LATENTS, *rules.OF_PATHS):
        with pytest.raises(UsageError, match=f"^objective: .* got {name} with 3 flows"):
            model.compile(objective=name, n_samples=2)
        row = objectives.table()[name]
        with pytest.raises(UsageError, match="^(kl|posterior): .* without flows"):
            estimators.value_and_gradients(row, model, x, 2, SEED, 1.0)
        return
    n_groups = 2 if name in ("miwae", "piwae") else 1
    model.compile("sgd", objective=name, n_samples=2, n_groups=n_groups, **EAGER)
    history = model.fit(x, batch_size=5, verbose=0).history
    assert np.isfinite(history["bound"]).all()


def test_units_are_measured_by_samples():
    model = wiggle(made_model(), 0.3)
    x = images(30)
    (layer,) = units.statistics(model, x, n_samples=400)
    (z,) = model.draw(x, 4000, SEED).zs
    np.testing.assert_allclose(layer.mean, z.numpy().mean((0, 1)), atol=0.05)
    want = z.numpy().mean(axis=0).var(axis=0, ddof=1)
    np.testing.assert_allclose(layer.activity, want, rtol=0.1, atol=0.01)
    np.testing.assert_allclose(layer.variance, z.numpy().var(0).mean(0), rtol=0.1)
    assert layer.kl is None
    for act, rule in (
        (lambda: model.posterior.factors((z,), x), "posterior: must be without flows"),
        (lambda: model.kl(x), "kl: has a closed form for one"),
        (
            lambda: units.WithoutUnits(model, [layer.active], [layer.mean]),
            "model: must be without flows",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{rule}"):
            act()
