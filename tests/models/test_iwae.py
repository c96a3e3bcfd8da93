"""Tests of iwae_tf.models.iwae."""

import itertools

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.estimators import value_and_gradients
from iwae_tf.measures import annealing, gradients, units
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models import likelihoods, zoo
from iwae_tf.models.generators import Chain
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.posteriors import GaussianChain
from iwae_tf.objectives import TEMPERATURES, Objective, table, vae_elbo

SEED = randomness.seed_of(5)
SHAPE = (3, 2, 1)
ZERO = tf.UnconnectedGradients.ZERO
LOGS = {"loss", "bound", "vae_elbo", "iwae_elbo", "log_px", "log_pz", "log_qz"}


# A graph takes longer to trace than to run twice, and Adam's eager updates longer than
# the gradient: where nothing else is said, fit in eager mode by SGD.
EAGER = {"jit_compile": False, "run_eagerly": True}
GRAPH = {"jit_compile": False, "run_eagerly": False}
XLA = {"jit_compile": True, "run_eagerly": False}


def fit(model, x, epochs=1, batch_size=5, shuffle=True, **options):
    model.compile(**({"optimizer": "sgd", "n_samples": 3} | EAGER | options))
    history = model.fit(
        x, batch_size=batch_size, epochs=epochs, shuffle=shuffle, verbose=0
    )
    return history.history


def evaluate(model, x, batch_size=5):
    return model.evaluate(x, batch_size=batch_size, verbose=0, return_dict=True)


# Draws and the KL --------------------------------------------------------------------


@pytest.mark.parametrize("stochastic_layers", [1, 2, 3])
def test_draw_weighs_the_latents_that_it_drew(stochastic_layers, tiny, binary):
    model, x = tiny(stochastic_layers), binary(4)
    draws = model.draw(x, 5, SEED)
    assert [z.shape for z in draws.zs] == [(5, 4, d) for d in model.posterior.n_latent]
    log_px, log_pz = model.generator.log_joint(x, draws.zs)
    np.testing.assert_allclose(draws.log_px, log_px)
    np.testing.assert_allclose(draws.log_pz, log_pz)
    log_qz = model.posterior.log_prob(draws.zs, x)
    np.testing.assert_allclose(draws.log_qz, log_qz, rtol=1e-5, atol=1e-5)
    assert draws.kl is None


def test_kl_equals_the_formula_in_numpy(tiny, binary, loc_scale):
    model, x = tiny(), binary(4)
    loc, scale = loc_scale(model.posterior.conditionals[0], x.reshape(4, -1))
    want = np.sum(loc**2 + scale**2 - 1 - 2 * np.log(scale), axis=-1) / 2
    np.testing.assert_allclose(model.kl(x), want, rtol=1e-5)
    draws = model.draw(x, 3, SEED, with_kl=True)
    np.testing.assert_allclose(draws.kl, want, rtol=1e-5)


def test_kl_equals_the_sampled_one(tiny, binary):
    model, x, k = tiny(), binary(4), 20000
    draws = model.draw(x, k, SEED)
    sampled = draws.log_qz.numpy().astype(np.float64) - draws.log_pz.numpy()
    error = sampled.mean(axis=0) - model.kl(x).numpy()
    assert np.all(np.abs(error) < 5 * sampled.std(axis=0) / k**0.5)


def test_images_of_any_number_type_are_the_same_images(tiny, binary):
    model, x = tiny(), binary(4)
    want = model.draw(x, 3, SEED).log_w()
    for dtype in (np.uint8, bool, np.float64):
        np.testing.assert_array_equal(
            model.draw(x.astype(dtype), 3, SEED).log_w(), want
        )


# fit, evaluate, predict --------------------------------------------------------------


def test_fit_evaluate_and_predict_take_numpy_images(tiny, binary):
    model, x = tiny(2, (2, 5, 3)), binary(10, (2, 5, 3))
    before = [v.numpy() for v in model.trainable_variables]
    history = fit(model, x, epochs=2, optimizer="adam")
    assert set(history) == LOGS
    assert np.all(np.isfinite(list(history.values())))
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(variable.numpy(), value), variable.path
    assert model.optimizer.iterations == 4
    assert model.first_bad_step == -1
    logs = evaluate(model, x)
    assert set(logs) == LOGS and np.all(np.isfinite(list(logs.values())))
    predicted = model.predict(x, batch_size=5, verbose=0)
    assert predicted.shape == x.shape
    assert np.all((predicted > 0) & (predicted < 1))


def test_compiled_training_raises_the_bound_but_not_above_the_entropy(tiny):
    # Two images, each half of the data: no model has E log p(x) above -log 2.
    patterns = np.stack([np.eye(4), 1 - np.eye(4)])[..., None]
    x = np.tile(patterns, [20, 1, 1, 1])
    model = zoo.burda((4, 4, 1), n_latent=(2,), n_hidden=(8,))
    options = {"optimizer": keras.optimizers.Adam(0.02), "n_samples": 20} | XLA
    history = fit(model, x, epochs=25, batch_size=10, **options)
    after = evaluate(model, x, batch_size=10)
    assert set(history) == set(after) == LOGS
    assert history["bound"][0] < -5
    assert -2 < after["bound"] < -np.log(2)
    predicted = model.predict(x, batch_size=10, verbose=0)
    np.testing.assert_allclose(predicted[:10], model(x[:10]), rtol=1e-4, atol=1e-5)
    # XLA keeps watch as the graph does, with steps of one execution before it tells.
    batches = tf.data.Dataset.from_tensor_slices(255 * x).batch(10)
    with pytest.raises(UsageError, match=r"^x: must be in 0\.\.1, got 0 to 255$"):
        model.fit(batches, shuffle=False, verbose=0)


def test_predict_is_a_function_of_the_row_and_decodes_the_means_of_q(tiny, binary):
    model, x = tiny(2), binary(7)
    model.compile("sgd", n_samples=3, jit_compile=False)
    one_by_one, at_once = (
        model.predict(x, batch_size=b, verbose=0) for b in (1, len(x))
    )
    np.testing.assert_allclose(one_by_one, at_once, rtol=1e-6)
    loc = model.posterior.conditional(0, x.reshape(7, -1)).mean()
    mean = scipy.special.expit(
        model.generator.parameters((loc,))[0].numpy().reshape(x.shape)
    )
    np.testing.assert_allclose(at_once, mean, rtol=1e-5)
    np.testing.assert_allclose(model(x), mean, rtol=1e-5)


# What a person hands to Keras --------------------------------------------------------


class Spy(keras.layers.Layer):
    """Notes whether it is told to train, and passes its input on."""

    def __init__(self):
        super().__init__()
        self.told = []

    def call(self, inputs, training=None):
        self.told.append(bool(training))
        return inputs


def with_networks(below, above, rate=0.01):
    """A model of 3x2 pixels and 2 latents with these networks, and its compile."""
    model = IWAE(
        GaussianChain(n_latent=[2], networks=[below]),
        Chain(SHAPE, n_latent=[2], networks=[above]),
        seed=1,
    )

    def compiled(objective, **options):
        sgd = keras.optimizers.SGD(rate)
        model.compile(sgd, objective, n_samples=3, **(EAGER | options))
        return model

    return compiled


@pytest.mark.parametrize("objective", ["iwae_elbo", "dreg", "vae_elbo_kl"])
def test_layers_are_told_to_train_in_fit_and_nowhere_else(objective, binary):
    spies = Spy(), Spy()
    model, x = with_networks(*spies)(objective), binary(10)

    def told(call, *args, **options):
        for spy in spies:
            spy.told.clear()
        call(*args, **options)
        assert all(spy.told for spy in spies)
        return set(spies[0].told + spies[1].told)

    assert told(model.fit, x, batch_size=5, verbose=0) == {True}
    assert told(model.evaluate, x, verbose=0) == {False}
    assert told(model.predict, x, verbose=0) == {False}
    assert told(model.draw, x, 3, SEED) == {False}


@pytest.mark.parametrize("objective", ["iwae_elbo", "dreg", "vae_elbo_kl"])
@pytest.mark.parametrize("mode", [EAGER, {"run_eagerly": False, "jit_compile": False}])
def test_moving_averages_move_once_in_a_step(objective, mode, binary):
    networks = [keras.layers.BatchNormalization(momentum=0.9) for _ in range(2)]
    model, x = with_networks(*networks)(objective, **mode), binary(5)
    below, above = networks
    seed = randomness.seed_of(1, randomness.TRAIN, 0)
    with keras.StatelessScope():
        # q of the batch, with its statistics, and not the moving ones.
        flat = x.reshape(5, 6)
        features = below(tf.constant(flat), training=True)
        loc, scale = model.posterior.conditionals[0].of_features(features)
    z = loc + scale * randomness.normal([3, 5, 2], randomness.seed_of(seed, 0))
    model.fit(x, batch_size=5, shuffle=False, verbose=0)
    np.testing.assert_allclose(below.moving_mean, 0.1 * flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        above.moving_mean, 0.1 * z.numpy().mean(axis=(0, 1)), rtol=1e-5
    )
    after = [value.numpy() for value in model.non_trainable_variables]
    model.evaluate(x, verbose=0)
    for variable, value in zip(model.non_trainable_variables, after, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_dropout_is_the_same_where_a_latent_is_drawn_and_weighed(binary):
    dropout = keras.layers.Dropout(0.5)
    model, x = with_networks(dropout, keras.layers.Dense(4))("dreg"), binary(5)
    log_qz, states = [], []
    for name in ("iwae_elbo", "dreg"):
        dropout.seed_generator.state.assign([3, 4])
        rows = {"objective": table()[name], "model": model, "k": 3, "beta": 1.0}

        def compute(x, context, rows=rows):
            return value_and_gradients(x=x, seed=SEED, context=context, **rows)

        log_qz.append(model(x, compute=compute, training=True)[2].log_qz)
        states.append(dropout.seed_generator.state.numpy())
    np.testing.assert_allclose(*log_qz, rtol=1e-5)
    np.testing.assert_array_equal(*states)
    assert not np.array_equal(states[0], [3, 4])
    assert abs(log_qz[0] - model.draw(x, 3, SEED).log_qz).numpy().max() > 0.1


@pytest.mark.parametrize(
    "name",
    ["iwae_elbo", "iwae_eq14", "piwae", "dreg", "stl", "gdreg", "vimco", "rws_sleep"],
)
def test_regularisers_add_to_the_loss_and_to_the_gradient(name, binary):
    def dense(n, **regularisers):
        return keras.layers.Dense(n, "tanh", **regularisers)

    below = dense(4, kernel_regularizer=keras.regularizers.L2(0.3))
    above = dense(4, activity_regularizer=keras.regularizers.L1(0.2))
    model, x = with_networks(below, above, rate=0.1)(name), binary(5)
    variables = model.trainable_variables
    before = [v.numpy() for v in variables]
    seed = randomness.seed_of(1, randomness.TRAIN, 0)
    with tf.GradientTape() as tape:
        z = model.posterior.draw(tf.constant(x), 3, seed)[0][0]
        if table()[name].phi_gradient in ("score", "sleep"):
            z = tf.stop_gradient(z)
        features = tf.tanh(z @ above.kernel + above.bias)
        # Keras takes the mean of an activity over the first axis, here the rows of 3
        # samples of 5 images.
        penalty = 0.3 * tf.reduce_sum(below.kernel**2)
        penalty += 0.2 * tf.reduce_sum(abs(features)) / 15
    sources = [v.value for v in variables]
    more = tape.gradient(penalty, sources, unconnected_gradients=ZERO)
    bare = copied_without_regularisers(model)
    _, plain, draws = value_and_gradients(table()[name], bare, x, 3, seed, 1.0)
    logs = model.fit(x, batch_size=5, shuffle=False, verbose=0).history
    assert logs["regularization"][0] == pytest.approx(float(penalty), rel=1e-5)
    bound = float(tf.reduce_mean(table()[name].bound(draws, 1.0)))
    assert logs["loss"][0] == pytest.approx(float(penalty) - bound, rel=1e-5)
    assert logs["bound"][0] == pytest.approx(bound, rel=1e-5)
    for variable, value, one, two in zip(variables, before, plain, more, strict=True):
        np.testing.assert_allclose(
            variable, value - 0.1 * (one + two), rtol=1e-4, atol=1e-6
        )
    logs = evaluate(model, x)
    assert logs["loss"] == pytest.approx(logs["regularization"] - logs["bound"])


def copied_without_regularisers(model):
    bare = with_networks(keras.layers.Dense(4, "tanh"), keras.layers.Dense(4, "tanh"))(
        "iwae_elbo"
    )
    bare.set_weights(model.get_weights())
    return bare


def test_options_of_compile_count_from_the_next_step_on(tiny, binary):
    graph = {"run_eagerly": False, "jit_compile": False}
    model, x = tiny(), binary(5)
    sgd = keras.optimizers.SGD(0.0)
    model.compile(sgd, "vae_elbo", n_samples=3, **graph)

    def loss():
        model.optimizer.iterations.assign(0)
        return model.fit(x, verbose=0, shuffle=False).history["loss"][0]

    def fresh(**options):
        now = {"objective": "vae_elbo", "n_samples": 3} | options
        model.compile(sgd, **now, **graph)
        return loss()

    for name, value, given in (
        ("beta", 0.5, {"beta": 0.5}),
        ("warmup_steps", 2, {"warmup_steps": 2}),
        ("objective", table()["iwae_elbo"], {"objective": "iwae_elbo"}),
        ("train_samples", 7, {"n_samples": 7}),
    ):
        first = fresh()
        setattr(model, name, value)
        later = loss()
        assert later == fresh(**given), name
        assert later != first, name
    first = fresh()
    model.seed = 2
    assert loss() != first
    evaluated = evaluate(model, x)["iwae_elbo"]
    model.n_samples = 7
    assert evaluate(model, x)["iwae_elbo"] != evaluated


def test_beta_may_change_within_fit(tiny, binary):
    model, x = tiny(), binary(10)
    sgd = keras.optimizers.SGD(0.0)
    model.compile(sgd, "vae_elbo", n_samples=3, jit_compile=False)

    class Anneal(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.beta = epoch / 2

    logs = model.fit(x, epochs=3, verbose=0, callbacks=[Anneal()]).history
    for epoch in range(3):
        log_px, log_pz, log_qz, loss = (
            logs[name][epoch] for name in ("log_px", "log_pz", "log_qz", "loss")
        )
        want = -log_px - epoch / 2 * (log_pz - log_qz)
        assert loss == pytest.approx(want, rel=1e-5)


def test_one_step_of_sgd_goes_up_the_gradient_of_the_bound(tiny, binary):
    model, x, rate = tiny(2), binary(5), 0.01
    # Before fit, so that the model is the one that the step starts from.
    before = [v.numpy() for v in model.trainable_variables]
    seed = randomness.seed_of(model.seed, randomness.TRAIN, 0)
    with tf.GradientTape() as tape:
        log_w = model.draw(x, 3, seed).log_w()
        bound = tf.reduce_mean(tf.math.log(tf.reduce_mean(tf.exp(log_w), axis=0)))
    gradients = tape.gradient(bound, model.trainable_variables)
    # One batch of all images: shuffling would pair them with other noise.
    fit(model, x, shuffle=False, optimizer=keras.optimizers.SGD(rate))
    for variable, value, gradient in zip(
        model.trainable_variables, before, gradients, strict=True
    ):
        np.testing.assert_allclose(
            variable.numpy(), value + rate * gradient.numpy(), atol=1e-6
        )


def test_each_step_has_its_own_noise(tiny, binary):
    model, x = tiny(), binary(5)
    x = np.repeat(x[:1], 5, axis=0)
    logs = fit(model, x, epochs=3, optimizer=keras.optimizers.SGD(0.0))
    assert len(set(logs["bound"])) == 3


def test_fit_is_a_function_of_the_seed(tiny, binary):
    model, x = tiny(), binary(5)
    before = [v.numpy() for v in model.trainable_variables]

    def bounds(seed):
        for variable, value in zip(model.trainable_variables, before, strict=True):
            variable.assign(value)
        model.seed = seed
        return fit(model, x, epochs=2, shuffle=False)["bound"]

    first, again, other = bounds(1), bounds(1), bounds(2)
    assert first == again
    assert first != other


def test_evaluate_twice_gives_identical_values(tiny, binary):
    model, x = tiny(), binary(10)
    fit(model, x)
    logs = evaluate(model, x)
    assert evaluate(model, x) == logs
    # Nor does the noise repeat from batch to batch: equal images, unequal bounds.
    same = np.repeat(x[:1], 10, axis=0)
    assert evaluate(model, same)["bound"] != evaluate(model, same[:5])["bound"]


def test_logs_are_means_over_the_images_of_unequal_batches(tiny, binary):
    # 7 = 5 + 2: a mean over batches would weigh the last two images more.
    model, x = tiny(), binary(7)
    model.compile(n_samples=3, **EAGER)
    logs = evaluate(model, x)
    parts = [
        model.draw(x[first:last], 3, randomness.seed_of(1, randomness.TEST, first))
        for first, last in ((0, 5), (5, 7))
    ]
    log_w = np.concatenate([part.log_w() for part in parts], axis=1)
    want = {
        "bound": np.log(np.exp(log_w).mean(axis=0)).mean(),
        "iwae_elbo": np.log(np.exp(log_w).mean(axis=0)).mean(),
        "vae_elbo": log_w.mean(),
    }
    for name in ("log_px", "log_pz", "log_qz"):
        want[name] = np.mean(np.concatenate([getattr(p, name) for p in parts], axis=1))
    for name, value in want.items():
        assert logs[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("objective", table())
def test_bound_in_the_logs_is_at_beta_one_while_the_loss_is_not(
    objective, tiny, binary
):
    model, x, beta = tiny(), binary(5), 0.5
    sgd = keras.optimizers.SGD(0.0)
    options = {"objective": objective, "beta": beta, "optimizer": sgd}
    logs = fit(model, x, shuffle=False, **options)
    logs = {name: values[0] for name, values in logs.items()}
    check_logs(logs, objective, model, x, beta, randomness.TRAIN)
    check_logs(evaluate(model, x), objective, model, x, beta, randomness.TEST)


def check_logs(logs, objective, model, x, beta, purpose):
    latent = logs["log_pz"] - logs["log_qz"]
    assert logs["vae_elbo"] == pytest.approx(logs["log_px"] + latent, rel=1e-5)
    if objective == "vae_elbo":
        assert logs["bound"] == logs["vae_elbo"]
        want = -(logs["log_px"] + beta * latent)
        assert logs["loss"] == pytest.approx(want, rel=1e-5)
    elif objective == "vae_elbo_kl":
        kl = np.mean(model.kl(x))
        assert logs["bound"] == pytest.approx(logs["log_px"] - kl, rel=1e-5)
        assert logs["loss"] == pytest.approx(-logs["log_px"] + beta * kl, rel=1e-5)
    elif objective == "combination":
        half = (logs["vae_elbo"] + logs["iwae_elbo"]) / 2
        assert logs["bound"] == pytest.approx(half, rel=1e-5)
        assert logs["loss"] != pytest.approx(-half, rel=1e-3)
    else:
        draws = model.draw(x, 3, randomness.seed_of(model.seed, purpose, 0))
        log_px, log_pz, log_qz = (part.numpy() for part in draws[1:4])
        want = np.mean(bound_of(objective, log_px + log_pz - log_qz))
        assert logs["bound"] == pytest.approx(want, rel=1e-5)
        want = -np.mean(bound_of(objective, log_px + beta * (log_pz - log_qz)))
        assert logs["loss"] == pytest.approx(want, rel=1e-5)


def bound_of(objective, log_w):
    """The bound of a row, [b], by NumPy."""
    if objective in ("renyi", "renyi_dreg"):
        return 2 * np.log(np.exp(log_w / 2).mean(axis=0))
    if objective in ("tvo", "tvo_total"):
        return sum(
            (end - t) * (scipy.special.softmax(t * log_w, axis=0) * log_w).sum(axis=0)
            for t, end in itertools.pairwise([*TEMPERATURES, 1.0])
        )
    return np.log(np.exp(log_w).mean(axis=0))


def test_with_one_sample_iwae_and_vae_bounds_are_equal_in_the_logs(tiny, binary):
    model = tiny(2)
    logs = fit(model, binary(5), n_samples=1)
    assert logs["iwae_elbo"][0] == pytest.approx(logs["vae_elbo"][0], rel=1e-6)
    assert logs["bound"][0] == pytest.approx(logs["vae_elbo"][0], rel=1e-6)
    logs = fit(model, binary(5), n_samples=5)
    assert logs["iwae_elbo"][0] > logs["vae_elbo"][0] + 0.01


def test_row_of_ones_own_needs_no_change_to_the_train_step(tiny, binary):
    equal = Objective(vae_elbo, lambda w, beta: tf.ones_like(w) / w.shape[0])
    models = []
    for objective in (equal, "vae_elbo"):
        models.append(tiny(2))
        options = {"objective": objective, "beta": 0.5}
        fit(models[-1], binary(5), shuffle=False, **options)
    for a, b in zip(*(m.trainable_variables for m in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("beta", "warmup_steps", "want"),
    [(1.0, 4, [0, 0.25, 0.5, 0.75, 1, 1, 1]), (0.5, 2, [0, 0.25, 0.5, 0.5])],
)
def test_beta_rises_linearly_during_warm_up(beta, warmup_steps, want, tiny):
    model = tiny()
    model.compile(beta=beta, warmup_steps=warmup_steps)
    got = [float(model.beta_at(tf.constant(step))) for step in range(len(want))]
    np.testing.assert_allclose(got, want)


def test_beta_without_warm_up_is_constant(tiny):
    model = tiny()
    model.compile(beta=0.3)
    assert model.beta_at(tf.constant(0)) == model.beta_at(tf.constant(99)) == 0.3


def test_warm_up_reaches_the_loss(tiny, binary):
    # At step 0 the loss is the reconstruction alone; at step 1 it has half the rest.
    model, x = tiny(), binary(5)
    sgd = keras.optimizers.SGD(0.0)
    logs = fit(model, x, epochs=2, objective="vae_elbo", warmup_steps=2, optimizer=sgd)
    for epoch, beta in enumerate((0.0, 0.5)):
        log_px, log_pz, log_qz, loss = (
            logs[name][epoch] for name in ("log_px", "log_pz", "log_qz", "loss")
        )
        assert loss == pytest.approx(-log_px - beta * (log_pz - log_qz), rel=1e-5)


def test_first_bad_step_is_the_first_one_without_a_finite_loss(
    tiny, binary, monkeypatch
):
    model, x = tiny(), binary(15)
    model.checks_values = False
    x[5:10] = np.nan  # the second of three batches
    model.compile(keras.optimizers.SGD(0.0), n_samples=3, **EAGER)
    model.fit(tf.data.Dataset.from_tensor_slices(x).batch(5), shuffle=False, verbose=0)
    assert model.first_bad_step == 1


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"objective": "elbow"},
            "objective: must be .*rws_sleep, got 'elbow'; did you mean vae_elbo.*",
        ),
        ({"n_samples": 0}, "n_samples: must be at least 1, got 0"),
        ({"warmup_steps": -1}, "warmup_steps: must be at least 0, got -1"),
        (
            {"objective": "vae_elbo_kl"},
            "objective: vae_elbo_kl .*one stochastic layer.* 2 layers; use vae_elbo",
        ),
        ({"objective": "miwae", "n_groups": 0}, "n_groups: must be at least 1, got 0"),
        ({"n_groups": 2}, "n_groups: goes with .* got 2 with objective iwae_elbo"),
        (
            {"objective": "combination", "combination_beta": 1.5},
            "combination_beta: must be from 0 to 1, got 1.5",
        ),
        (
            {"objective": "dreg", "combination_beta": 0.5},
            "combination_beta: goes with .* got 0.5 with objective dreg",
        ),
        (
            {"objective": "renyi_dreg", "renyi_alpha": 1.0},
            "renyi_alpha: must be at least 0 and less than 1, got 1.0",
        ),
        (
            {"objective": "tvo", "temperatures": (0.1,)},
            "temperatures: must start with 0 and rise, all below 1, got 0.1",
        ),
        (
            {"objective": "vimco", "n_samples": 1},
            "n_samples: must be at least 2 for this objective, got 1",
        ),
    ],
)
def test_compile_refuses_in_one_line(options, rule, tiny):
    with pytest.raises(UsageError, match=f"^{rule}$") as info:
        tiny(2).compile(**options)
    assert "\n" not in str(info.value)


def test_row_of_ones_own_has_its_own_groups(tiny):
    for options in (
        {"n_groups": 2},
        {"combination_beta": 0.5},
        {"renyi_alpha": 0.5},
        {"temperatures": (0, 0.5)},
    ):
        (name,) = options
        with pytest.raises(UsageError, match=f"^objective: must be a name if {name}"):
            tiny().compile(objective=table()["vae_elbo"], **options)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda x: x.swapaxes(1, 2), r"x: must be of shape \['b', 3, 2, 1\], got"),
        (lambda x: x[0], r"x: must be of shape \['b', 3, 2, 1\], got \(3, 2, 1\)"),
    ],
)
def test_images_of_another_shape_are_refused(change, rule, tiny, binary):
    model, x = tiny(), binary(4)
    zs = model.draw(x, 2, SEED).zs
    for look in (
        lambda x: model.draw(x, 2, SEED),
        lambda x: model.log_joint(x, zs),
        lambda x: model.weigh(x, zs),
        lambda x: model.reconstruct(x, SEED),
        model.kl,
    ):
        with pytest.raises(UsageError, match=f"^{rule}"):
            look(change(x))


def doors(model, x):
    """Every way by which images reach the model, as functions."""

    def stream(steps):
        return tf.data.Dataset.from_tensor_slices(x).batch(2).repeat(steps)

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, place):
            return (x[:2],)

    good = np.zeros_like(x)
    return {
        "fit": lambda: model.fit(x, verbose=0),
        "fit dataset": lambda: model.fit(stream(1), shuffle=False, verbose=0),
        "fit generator": lambda: model.fit(
            ((x[:2],) for _ in range(9)), steps_per_epoch=4, shuffle=False, verbose=0
        ),
        "fit PyDataset": lambda: model.fit(Sequence(), verbose=0),
        "validation": lambda: model.fit(good, validation_data=(x, None), verbose=0),
        "validation dataset": lambda: model.fit(
            good, validation_data=stream(1), verbose=0
        ),
        "train_on_batch": lambda: model.train_on_batch(x),
        "test_on_batch": lambda: model.test_on_batch(x),
        "predict_on_batch": lambda: model.predict_on_batch(x),
        "evaluate": lambda: model.evaluate(x, verbose=0),
        "evaluate dataset": lambda: model.evaluate(stream(1), verbose=0),
        "predict": lambda: model.predict(x, verbose=0),
        "predict dataset": lambda: model.predict(stream(1), verbose=0),
        "call": lambda: model(x),
        "draw": lambda: model.draw(x, 2, SEED),
        "weigh": lambda: model.weigh(x, model.draw(good, 2, SEED).zs),
        "log_joint": lambda: model.log_joint(x, model.draw(good, 2, SEED).zs),
        "kl": lambda: model.kl(x),
        "reconstruct": lambda: model.reconstruct(x, SEED),
        "log_likelihood": lambda: log_likelihood(model, x, 2, jit_compile=False),
        "embed": lambda: model.embed(x, 2, jit_compile=False),
        "encode": lambda: model.encode(x),
        "units": lambda: units.statistics(model, x, 2),
        "annealing": lambda: annealing.log_likelihood(
            annealing.Annealer(model, 2, 1, jit_compile=False), x
        ),
        "gradients": lambda: gradients.gradient_statistics(model, x, "stl", 2, 2),
    }


@pytest.mark.parametrize(
    ("wrong", "got", "eager"),
    [
        (lambda x: 255 * x, "0 to 255", True),
        (lambda x: (255 * x).astype("uint8"), "0 to 255", True),
        (lambda x: x - 1, "-1 to 0", True),
        (lambda x: np.where(x > 0, np.float32(np.nan), x), "nan to nan", False),
    ],
)
def test_values_out_of_range_are_refused_at_every_door(tiny, binary, wrong, got, eager):
    model, x = tiny(), binary(4)
    x[0, 0, 0], x[0, 1, 0] = 0, 1
    model.compile("sgd", n_samples=3, jit_compile=False, run_eagerly=eager)
    for name, door in doors(model, wrong(x)).items():
        with pytest.raises(UsageError) as error:
            door()
        assert str(error.value) == f"x: must be in 0..1, got {got}", name
    # Nothing is left of them: the right values pass.
    batches = tf.data.Dataset.from_tensor_slices(x).batch(2)
    model.fit(batches, shuffle=False, verbose=0)
    model.evaluate(x, verbose=0)


class Counts(likelihoods.Likelihood):
    """Poisson counts, which have no greatest value."""

    limits = (0, np.inf)
    step = 1.0

    def entry_log_prob(self, x, parameters):
        return x * parameters[0] - tf.exp(parameters[0]) - tf.math.lgamma(x + 1.0)

    def mean(self, parameters):
        return tf.exp(parameters[0])


@pytest.mark.parametrize(
    ("likelihood", "missing", "value", "rule", "mode"),
    [
        (likelihoods.Gaussian, False, np.nan, "finite", GRAPH),
        (likelihoods.Gaussian, False, np.inf, "finite", EAGER),
        (likelihoods.Gaussian, True, -np.inf, "finite", GRAPH),
        (
            lambda: likelihoods.DiscretizedLogistic(5),
            True,
            0.3,
            "one of the 5 levels from 0 to 1",
            GRAPH,
        ),
        (
            lambda: likelihoods.Categorical(3),
            False,
            1.5,
            "one of the 3 levels from 0 to 2",
            EAGER,
        ),
        (Counts, True, -1, "finite and at least 0", EAGER),
    ],
    ids=["NaN", "inf", "-inf", "levels", "codes", "counts"],
)
def test_values_that_a_likelihood_cannot_have_are_refused_at_every_door(
    likelihood, missing, value, rule, mode
):
    options = {"n_latent": (2,), "n_hidden": (3,), "missing": missing}
    model = zoo.burda(SHAPE, likelihood=likelihood(), **options)
    model.compile("sgd", n_samples=3, **mode)
    x = np.zeros((4, *SHAPE), np.float32)
    # Beside values that it can have, below and above, if all four are seen at once.
    x[:3, 0, 0, 0] = 0, value, 1
    if missing:
        x[0, 2, 1] = np.nan
    for name, door in doors(model, x).items():
        with pytest.raises(UsageError, match=f"^x: must be {rule}, got ") as error:
            door()
        assert "\n" not in str(error.value), name
    # What a graph has seen does not stay.
    model.fit(np.zeros_like(x), verbose=0)


def test_executions_do_not_look_at_values_that_a_caller_has_checked(tiny, binary):
    model, x = tiny(), binary(4)
    batches = tf.data.Dataset.from_tensor_slices(2 * x).batch(2)
    model.compile("sgd", n_samples=3, jit_compile=False)
    model.checks_values = False
    model.fit(batches, shuffle=False, verbose=0)
    model.checks_values = True
    with pytest.raises(UsageError, match=r"^x: must be in 0\.\.1, got 0 to 2$"):
        model.fit(batches, shuffle=False, verbose=0)


def test_weights_of_images_are_refused(tiny, binary):
    model, x = tiny(), binary(4)
    model.compile("sgd", n_samples=3, **EAGER)
    for y in (None, np.ones((4, 1))):
        for door in (model.fit, model.evaluate):
            with pytest.raises(UsageError, match="^sample_weight: must be None, got "):
                door(x, y, sample_weight=np.ones(4), verbose=0)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"loss": "mse"}, "loss: must be None, because .*, got 'mse'"),
        ({"metrics": ["mae"]}, r"metrics: must be None, because .*, got \['mae'\]"),
        ({"weighted_metrics": ["mae"]}, "weighted_metrics: must be None, .*"),
        (
            {"objective": vae_elbo},
            "objective: must be a name or an iwae_tf.Objective.*",
        ),
        ({"objective": None}, "objective: must be a name .*, got None"),
        ({"n_samples": "5"}, "n_samples: must be at least 1, got 5"),
        ({"n_samples": np.nan}, "n_samples: must be at least 1, got nan"),
    ],
)
def test_what_compile_would_ignore_is_refused(tiny, given, rule):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        tiny().compile("sgd", **given)


def test_replicas_that_are_not_copies_are_refused(monkeypatch):
    strategy = tf.distribute.get_strategy()
    monkeypatch.setattr(type(strategy.extended), "_num_replicas_in_sync", 2)
    with pytest.raises(
        UsageError, match="^strategy: must be a MirroredStrategy or .*, got a _Default"
    ):
        zoo.burda(SHAPE, n_latent=(2,), n_hidden=(4,))


def test_loss_is_a_mean_over_images_not_batches(tiny, binary):
    model = tiny()
    model.compile("sgd", "iwae_elbo", 3, **EAGER)
    logs = evaluate(model, binary(7))
    assert logs["loss"] == pytest.approx(-logs["bound"], rel=1e-6)


# Images ------------------------------------------------------------------------------


@pytest.mark.parametrize("image_shape", [(3, 2, 1), (2, 5, 3)])
def test_samples_are_binary_draws_from_their_mean(image_shape, tiny):
    model, n = tiny(2, image_shape), 4000
    samples, mean = (part.numpy() for part in model.sample(n, SEED))
    assert samples.shape == mean.shape == (n, *image_shape)
    assert set(np.unique(samples)) == {0, 1}
    assert mean.min() >= 0 and mean.max() <= 1
    # Residuals of Bernoulli pixels, pixel by pixel and all together.
    variance = np.mean(mean * (1 - mean), axis=0)
    error = np.mean(samples - mean, axis=0)
    assert np.all(np.abs(error) < 5 * np.sqrt(variance / n))
    residuals = ((samples - mean) / np.sqrt(mean * (1 - mean))).reshape(n, -1)
    correlations = np.corrcoef(residuals.T) - np.eye(residuals.shape[1])
    assert np.abs(correlations).max() < 5 / n**0.5


def test_same_seed_same_samples_and_same_latents_whatever_the_weights(tiny, loc_scale):
    model = tiny(2)
    a, b, c = (model.sample(6, randomness.seed_of(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)
    # The mean is that of the latents with this seed.
    zs = model.generator.sample_latents(6, SEED)
    _, mean = model.sample(6, SEED)
    np.testing.assert_allclose(model.generator.mean(zs), mean, rtol=1e-6)

    def noise(model):
        zs = model.generator.sample_latents(6, SEED)
        loc, scale = loc_scale(model.generator.conditionals[0], zs[1])
        return zs[1].numpy(), (zs[0] - loc) / scale

    for got, want in zip(noise(tiny(2, seed=9)), noise(model), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stochastic_layers", [1, 2])
def test_reconstruction_is_the_mean_image_of_a_posterior_draw(
    stochastic_layers, tiny, binary, pixel_logits
):
    model, x = tiny(stochastic_layers), binary(4)
    zs, _ = model.posterior.draw(x, 1, SEED)
    want = scipy.special.expit(pixel_logits(model.generator, zs[0][0]))
    got = model.reconstruct(x, SEED)
    np.testing.assert_allclose(got, want.reshape(x.shape), rtol=1e-5)
    np.testing.assert_array_equal(model(x), model(x))


@pytest.mark.parametrize(
    "options",
    [
        {"stochastic_layers": 2, "n_latent": (3, 2), "n_hidden": (4, 4)},
        {"n_context": 2, "conditional_prior": True, "n_hidden": (4,)},
        {"n_flows": 1, "flow_hidden": (9,), "n_latent": (3,), "n_hidden": (4,)},
    ],
    ids=str,
)
def test_keras_can_summarise_and_export_a_model_that_was_only_built(
    options, tmp_path, capsys
):
    model = zoo.burda(SHAPE, **options)
    assert model.built and model.posterior.built and model.generator.built
    model.summary(expand_nested=True)
    out = capsys.readouterr().out
    assert f"Total params: {model.count_params():,}" in out and "unbuilt" not in out
    model.export(tmp_path, verbose=False)
    served = tf.saved_model.load(tmp_path)
    x = np.zeros((1, *SHAPE), np.float32)
    inputs = (x, np.ones((1, 2), np.float32)) if model.n_context else x
    given = inputs if model.n_context else (x,)
    np.testing.assert_allclose(served.serve(*given), model(inputs), rtol=1e-5)


# A larger bound is better ------------------------------------------------------------


@pytest.mark.parametrize("name", ["bound", "vae_elbo", "iwae_elbo", "log_px"])
def test_callbacks_of_keras_know_that_a_larger_bound_is_better(
    name, tiny, binary, tmp_path
):
    model = tiny()
    model.compile("sgd", n_samples=2, **EAGER)
    monitor = f"val_{name}"
    stop = keras.callbacks.EarlyStopping(monitor, patience=2)
    keep = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"),
        monitor,
        save_best_only=True,
        save_weights_only=True,
    )
    slow = keras.callbacks.ReduceLROnPlateau(monitor, factor=0.5, patience=1)
    scripted = (-9.0, -7.0, -8.0, -6.0, -6.5, -6.1)
    rates = []
    for callback in (stop, keep, slow):
        callback.set_model(model)
        callback.on_train_begin()
    for epoch, value in enumerate(scripted):
        assert not model.stop_training
        for callback in (stop, keep, slow):
            callback.on_epoch_end(epoch, {monitor: value})
        rates.append(round(float(model.optimizer.learning_rate), 6))
    assert model.stop_training and stop.stopped_epoch == 5 and stop.best == -6.0
    kept = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert kept == {"1", "2", "4"}
    assert rates == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.00125]


def test_early_stopping_of_keras_gives_back_the_epoch_of_the_best_bound(tiny, binary):
    model, x = tiny(), binary(10)
    model.compile(keras.optimizers.SGD(0.3), n_samples=2, **EAGER)
    weights = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: weights.append(model.get_weights())
    )
    stop = keras.callbacks.EarlyStopping(
        "val_bound", patience=100, restore_best_weights=True
    )
    options = {"validation_data": x, "callbacks": [note, stop], "epochs": 6}
    bounds = model.fit(x, **options, verbose=0).history["val_bound"]
    best = int(np.argmax(bounds))
    assert best != int(np.argmin(bounds))
    for one, other in zip(model.get_weights(), weights[best], strict=True):
        np.testing.assert_array_equal(one, other)


def test_metrics_have_each_value_once(tiny, binary):
    model, x = tiny(), binary(10)
    logs = fit(model, x)
    assert set(logs) == LOGS
    values = evaluate(model, x)
    listed = model.evaluate(x, batch_size=5, verbose=0)
    names = [m.name for m in model.metrics if m.name in values]
    assert listed == [values[name] for name in names] and names[0] == "loss"
    assert len(model.get_state_tree()["metrics_variables"]) == len(model.metrics) - 1
