"""Tests of models whose observations have missing entries, and of mask models."""

import functools

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from eager import eagerly
from factor_analysis import FactorAnalysis

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.estimators import value_and_gradients
from iwae_tf.measures import annealing, gradients, inspection
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models import likelihoods, zoo
from iwae_tf.models.generators import Chain, seed_of_missing
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.masks import MaskModel, NetworkMasking, SelfMasking
from iwae_tf.models.networks import ConvolutionalDecoder
from iwae_tf.models.posteriors import GaussianChain
from iwae_tf.objectives import row, table

SEED = randomness.seed_of(4)
EAGER = {"jit_compile": False, "run_eagerly": True}
GRAPH = {"jit_compile": False, "run_eagerly": False}
LIKELIHOODS = {
    "bernoulli": likelihoods.Bernoulli,
    "gaussian": likelihoods.Gaussian,
    "gaussian feature": functools.partial(likelihoods.Gaussian, "feature"),
    "student": likelihoods.StudentT,
    "discretized": functools.partial(likelihoods.DiscretizedLogistic, 5),
}
EVERY = pytest.mark.parametrize("name", LIKELIHOODS)


def small(name="gaussian", n=4, seed=3, **options):
    """A model of n features with weights that are not those of a new one.

    Keras takes a third of a second to build one, so tests share it, its weights as new.
    """
    model, weights = _made(name, n, seed, tuple(options.items()))
    model.set_weights(weights)
    return model


@functools.cache
def _made(name, n, seed, options):
    options = {"missing": True, "n_latent": (2,), "n_hidden": (5,)} | dict(options)
    if "mask_model" in options:
        options["mask_model"] = options["mask_model"]()
    model = zoo.burda((n,), likelihood=LIKELIHOODS[name](), seed=seed, **options)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(scale=0.3, size=variable.shape))
    return model, model.get_weights()


def values(b=6, n=4, seed=1):
    """Observations that every likelihood of these tests can have, float32 [b, n]."""
    return np.random.default_rng(seed).integers(0, 2, size=(b, n)).astype(np.float32)


def with_holes(x, share=0.4, seed=2):
    """The same with NaN in random places, but one row of all and one of no NaN."""
    holes = np.random.default_rng(seed).random(x.shape) < share
    holes[0], holes[1] = True, False
    return np.where(holes, np.float32(np.nan), x)


def fit(model, x, objective="iwae_elbo", epochs=2, **options):
    sgd = keras.optimizers.SGD(0.05)
    model.compile(sgd, objective, n_samples=3, **(EAGER | options))
    return model.fit(x, batch_size=3, epochs=epochs, verbose=0, shuffle=False).history


# Missing entries leave the rest as it was --------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, EAGER) for name in LIKELIHOODS), ("gaussian", GRAPH)],
    ids=[*LIKELIHOODS, "graph"],
)
def test_a_model_that_may_have_missing_entries_is_bit_for_bit_the_other(name, mode):
    pair, x = [small(name, missing=missing) for missing in (False, True)], values()
    for part in zip(*(model.draw(x, 5, SEED)[1:4] for model in pair), strict=True):
        np.testing.assert_array_equal(*part)
    before = [v.numpy() for v in pair[0].trainable_variables]
    for model in pair:
        fit(model, x, **mode)
    weights = [model.get_weights() for model in pair]
    assert len(weights[0]) == len(before)
    for one, two, old in zip(*weights, before, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.any(one != old)
    with eagerly():
        scores = [log_likelihood(model, x, 7, jit_compile=False) for model in pair]
    np.testing.assert_array_equal(scores[0].log_px, scores[1].log_px)


@pytest.mark.parametrize("event_shape", [(5,), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("observed", [(0, 1, 2, 3, 4), (0, 3), (2,), ()], ids=str)
def test_every_weight_of_the_exact_posterior_is_the_closed_form(event_shape, observed):
    model = FactorAnalysis(event_shape, d=1)
    seen = np.isin(np.arange(model.n), observed)
    model.set_posterior(seen)
    x = model.rows(np.tile(seen, (3, 1)))
    want = model.log_evidence(x)
    log_w = model.model.draw(x, 7, SEED).log_w()
    np.testing.assert_allclose(log_w, np.tile(want, (7, 1)), rtol=1e-5, atol=1e-4)
    # Of given latents, too.
    draws = model.model.draw(x, 7, SEED)
    weighed = model.model.weigh(x, draws.zs)
    np.testing.assert_allclose(weighed.log_w(), log_w, rtol=1e-5, atol=1e-4)


@EVERY
def test_without_any_entry_the_weight_is_that_of_the_latent(name):
    model = small(name, mask_input=True)
    draws = model.draw(np.full((3, 4), np.nan), 5, SEED)
    np.testing.assert_array_equal(draws.log_px, np.zeros((5, 3)))
    np.testing.assert_array_equal(draws.log_w(), draws.log_pz - draws.log_qz)
    assert np.all(np.isfinite(draws.log_w()))


def parts_of_a_model_without_a_column(model, j, n=4):
    """The variables' places that stay if column j goes: a tuple of indices for each."""
    n_parameters = model.generator.likelihood.n_parameters
    first = model.posterior.conditionals[0].mlp.hidden[0].kernel
    last = model.generator.pixel_logits
    kept = np.arange(n) != j
    outputs = np.tile(kept, n_parameters)
    own = {
        id(first): kept,
        id(last.kernel): (slice(None), outputs),
        id(last.bias): outputs,
        id(getattr(model.generator.likelihood, "raw_scale", None)): kept,
    }
    return [own.get(id(v), slice(None)) for v in model.trainable_variables]


@EVERY
@pytest.mark.parametrize("objective", ["iwae_elbo", "dreg", "vae_elbo_kl"])
def test_gradients_are_those_of_a_model_without_the_missing_column(name, objective):
    j, model = 2, small(name)
    smaller = small(name, n=3)
    places = parts_of_a_model_without_a_column(model, j)
    variables = model.trainable_variables
    for v, other, place in zip(
        variables, smaller.trainable_variables, places, strict=True
    ):
        other.assign(v.numpy()[place])
    x = values()
    x[:, j] = np.nan
    got, want = (
        value_and_gradients(row(objective), m, tf.constant(data), 3, SEED, 1.0)
        for m, data in ((model, x), (smaller, np.delete(x, j, axis=1)))
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    n_zero = 0
    for gradient, other, place in zip(got[1], want[1], places, strict=True):
        np.testing.assert_allclose(gradient.numpy()[place], other, 1e-4, 1e-5)
        rest = gradient.numpy()
        rest[place] = 0
        np.testing.assert_array_equal(rest, 0)
        n_zero += np.size(gradient) - np.size(other)
    assert n_zero > 0


def test_dreams_miss_the_entries_that_observations_miss():
    model, x = small(), values()
    holed = x.copy()
    holed[:, 2] = np.nan
    for data, is_missing in ((x, False), (holed, True)):
        own, data = row("rws_sleep"), tf.constant(data)
        gradient = value_and_gradients(own, model, data, 3, SEED, 1.0)[1][0].numpy()
        assert gradient.shape == (4, 5)  # the kernel that reads the entries
        reached = np.any(gradient, axis=1)
        np.testing.assert_array_equal(reached, [True, True, not is_missing, True])


@pytest.mark.parametrize("objective", table())
def test_every_objective_trains_with_missing_entries(objective):
    model = small()
    weights = model.get_weights()
    history = fit(model, with_holes(values()), objective)
    assert np.all(np.isfinite(list(history.values())))
    for variable, before in zip(model.weights, weights, strict=True):
        assert np.all(np.isfinite(variable)) and np.any(variable != before)


def test_training_of_a_graph_with_missing_entries_raises_the_bound():
    model = small(n_latent=(1,))
    z = np.random.default_rng(0).normal(size=(60, 1))
    x = with_holes(np.float32(z * [1.0, -1.0, 2.0, 0.5]))
    adam = keras.optimizers.Adam(0.02)
    model.compile(adam, n_samples=5, **GRAPH)
    bounds = model.fit(x, batch_size=30, epochs=30, verbose=0).history["bound"]
    assert np.mean(bounds[-3:]) > np.mean(bounds[:3]) + 0.5


# What q sees -------------------------------------------------------------------------


def q_of(model, x):
    q = model.posterior.conditional(0, model.posterior.entries(tf.constant(x)))
    return np.concatenate([q.mean(), q.stddev()], axis=-1)


ZERO = np.float32([[0.0, 1.0, 0.5, -1.0]])
HOLE = np.float32([[np.nan, 1.0, 0.5, -1.0]])


def test_q_tells_a_missing_entry_from_a_zero_only_with_the_mask():
    without, with_mask = small(), small(mask_input=True)
    np.testing.assert_array_equal(q_of(without, ZERO), q_of(without, HOLE))
    assert np.all(np.abs(q_of(with_mask, ZERO) - q_of(with_mask, HOLE)) > 1e-3)
    kernel = with_mask.posterior.conditionals[0].mlp.hidden[0].kernel
    assert kernel.shape == (8, 5)
    np.testing.assert_array_equal(
        with_mask.posterior.entries(tf.constant(HOLE)),
        [[0.0, 1.0, 0.5, -1.0, 0.0, 1.0, 1.0, 1.0]],
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_mask_of_an_image_is_beside_its_channels(channels):
    shape = (2, 2, channels)
    model = zoo.burda(
        shape, n_latent=(2,), n_hidden=(3,), missing=True, mask_input=True
    )
    x = with_holes(values(3, 4 * channels)).reshape(-1, *shape)
    got = np.reshape(model.posterior.entries(tf.constant(x)), (3, 2, 2, 2 * channels))
    np.testing.assert_array_equal(got[..., :channels], np.nan_to_num(x))
    np.testing.assert_array_equal(got[..., channels:], ~np.isnan(x))


def test_fill_is_what_q_sees_and_is_kept_with_the_weights(tmp_path):
    fill = (2.0, -1.0, 0.5, 3.0)
    model, other = small(fill=fill), small(fill=(0.0,) * 4, seed=8)
    fill = np.float32(fill)
    x = with_holes(values())
    np.testing.assert_array_equal(
        q_of(model, x), q_of(model, np.where(np.isnan(x), fill, x))
    )
    assert np.any(q_of(model, x) != q_of(model, np.nan_to_num(x)))
    kept = [w.numpy() for w in model.weights if np.array_equal(w, fill)]
    assert len(kept) == 1
    assert len(model.trainable_variables) == len(model.weights) - 1
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(q_of(other, x), q_of(model, x))
    # Training leaves it alone.
    fit(model, x)
    np.testing.assert_array_equal(model.posterior.inputs.fill, fill)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"missing": False, "mask_input": True},
            "mask_input: goes with missing entries only, got none missing",
        ),
        (
            {"missing": False, "fill": (0,) * 4},
            "fill: goes with missing entries only, got none missing",
        ),
        ({"fill": (0, 0, 0)}, r"fill: must be of shape \(4,\), got \(3,\)"),
        ({"fill": (0, 0, np.nan, 0)}, "fill: must be finite, got nan to nan"),
        ({"mean": (0, np.nan, 0, 0)}, "mean: must be finite, got nan to nan"),
    ],
)
def test_what_does_not_go_with_missing_entries_is_refused(options, rule):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        small(**options)


# Mask models -------------------------------------------------------------------------


def random_mask(k=3, b=4, n=5, seed=6):
    rng = np.random.default_rng(seed)
    return rng.random((b, n)) < 0.5, rng.normal(size=(k, b, n)).astype(np.float32)


@pytest.mark.parametrize("sign", [0, 1, -1])
def test_self_masking_equals_scipy(sign):
    observed, x = random_mask()
    model = SelfMasking(sign)
    model.build((5,))
    rng = np.random.default_rng(3)
    raw, bias = rng.normal(size=(2, 5))
    model.slope.assign(raw)
    model.bias.assign(bias)
    slope = sign * np.logaddexp(0, raw) if sign else raw
    p = scipy.special.expit(slope * np.float64(x) + bias)
    want = np.log(np.where(observed, p, 1 - p)).sum(axis=-1)
    np.testing.assert_allclose(model.log_prob(observed, x), want, rtol=1e-5)


@pytest.mark.parametrize("widths", [(), (4, 3)], ids=str)
def test_network_masking_equals_scipy(widths):
    observed, x = random_mask()
    model = NetworkMasking(widths)
    model.build((5,))
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    features = np.float64(x)
    for layer in model.hidden.hidden:
        features = np.tanh(features @ layer.kernel.numpy() + layer.bias.numpy())
    logits = features @ model.last.kernel.numpy() + model.last.bias.numpy()
    p = scipy.special.expit(logits)
    want = np.log(np.where(observed, p, 1 - p)).sum(axis=-1)
    np.testing.assert_allclose(model.log_prob(observed, x), want, rtol=1e-5)


def masked(kind=SelfMasking, name="gaussian", **options):
    return small(name, mask_model=kind, **options)


@pytest.mark.parametrize("kind", [SelfMasking, functools.partial(NetworkMasking, (3,))])
@pytest.mark.parametrize(
    "objective",
    ["vae_elbo", "vae_elbo_kl", "iwae_elbo", "iwae_eq14", "miwae", "piwae"],
)
def test_gradient_of_a_mask_model_reaches_all_weights(kind, objective):
    model, x = masked(kind), with_holes(values())
    before = [v.numpy() for v in model.trainable_variables]
    assert all(
        any(v is w for w in model.trainable_variables)
        for v in model.generator.mask_model.trainable_variables
    )
    history = fit(model, x, objective)
    assert np.all(np.isfinite(list(history.values())))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.all(np.isfinite(variable)) and np.any(variable != old), variable.path


@pytest.mark.parametrize("name", ["gaussian", "student"])
def test_gradients_through_drawn_entries_are_finite_differences(name):
    model, x = masked(NetworkMasking, name), tf.constant(with_holes(values()))
    objective, variables = row("iwae_elbo"), model.trainable_variables
    rng = np.random.default_rng(1)
    directions = [rng.normal(size=v.shape) for v in variables]
    start = [v.numpy() for v in variables]
    of_mask = len(model.generator.mask_model.trainable_variables)
    # Along the weights of the networks alone, and along those of the mask model too.
    for kept in (slice(len(variables) - of_mask), slice(None)):
        _, of_all, _ = value_and_gradients(objective, model, x, 4, SEED, 1.0)
        chosen = [np.zeros_like(d) for d in directions]
        chosen[kept] = directions[kept]
        want = sum(np.sum(g * d) for g, d in zip(of_all, chosen, strict=True))
        losses = []
        for step in (-2e-3, 2e-3):
            for v, value, d in zip(variables, start, chosen, strict=True):
                v.assign(value + step * d)
            losses.append(value_and_gradients(objective, model, x, 4, SEED, 1.0)[0])
        for v, value in zip(variables, start, strict=True):
            v.assign(value)
        slope = float(losses[1] - losses[0]) / 4e-3
        assert slope == pytest.approx(float(want), rel=0.01, abs=0.01)
        assert abs(want) > 0.1


@pytest.mark.parametrize("n_latent", [(4,), (4, 4)], ids=str)
def test_noise_of_missing_entries_is_not_that_of_the_latents(n_latent):
    k, layers = 20_000, len(n_latent)
    options = {"stochastic_layers": layers, "n_latent": n_latent}
    model = masked(**options, n_hidden=(5,) * layers)
    x, own = np.full((1, 4), np.float32(np.nan)), seed_of_missing(SEED)
    zs = model.draw(x, k, SEED).zs
    loc, raw = model.generator.parameters(zs)
    noise = (model.generator.complete(x, zs, own) - loc) / (0.01 + tf.nn.softplus(raw))
    for q, z in zip(model.posterior.factors(zs, x), zs, strict=True):
        of_latent = (z - q.mean()) / q.stddev()
        both = np.concatenate([noise[:, 0], of_latent[:, 0]], axis=-1)
        correlations = np.corrcoef(both.T) - np.eye(8)
        assert np.abs(correlations).max() < 5 / k**0.5


def refused_with_a_mask_model(model, x):
    zs = model.draw(x, 2, SEED).zs
    return {
        "weigh": lambda: model.weigh(x, zs),
        "log_joint": lambda: model.log_joint(x, zs),
        "stl": lambda: model.compile("sgd", "stl"),
        "dreg": lambda: model.compile("sgd", "dreg"),
        "rws_dreg": lambda: model.compile("sgd", "rws_dreg"),
        "vimco": lambda: model.compile("sgd", "vimco"),
        "rws_sleep": lambda: model.compile("sgd", "rws_sleep"),
        "own row": lambda: model.compile("sgd", table()["dreg"]),
        "gradients": lambda: gradients.gradient_statistics(model, x, "stl", 2, 2),
        "annealing": lambda: annealing.Annealer(model, 2, 2, jit_compile=False),
        "prior": lambda: annealing.Annealer(model, 2, 2, start="prior"),
    }


def test_what_weighs_given_latents_is_refused_with_a_mask_model():
    model, x = masked(), with_holes(values())
    for name, door in refused_with_a_mask_model(model, x).items():
        with pytest.raises(UsageError, match="mask.model") as error:
            door()
        assert "\n" not in str(error.value), name
    # What needs no density of given latents is not.
    gradients.gradient_statistics(model, x, "iwae_elbo", 2, 2, jit_compile=False)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"missing": False},
            "mask_model: goes with missing entries only, got none missing",
        ),
        (
            {"name": "bernoulli"},
            "mask_model: needs a likelihood whose draws have a gradient, got Bernoulli",
        ),
        ({"name": "discretized"}, "mask_model: needs a .*, got DiscretizedLogistic"),
    ],
)
def test_mask_models_that_cannot_be_are_refused(options, rule):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        masked(**options)


def test_other_signs_are_refused():
    with pytest.raises(UsageError, match="^sign: must be -1, 0 or 1, got 2$"):
        SelfMasking(2)


def test_a_mask_model_without_logits_says_so():
    with pytest.raises(NotImplementedError):
        MaskModel().logits(tf.zeros([1, 1, 2]))


# Other networks ----------------------------------------------------------------------


FLOWS = {"n_flows": 2, "flow_hidden": (6,), "flow_features": 3}
DEEP = FLOWS | {"n_latent": (2,)}
CONVOLUTIONAL = DEEP | {"feature_maps": 2}
MODELS = {
    "two layers": ((5,), {"stochastic_layers": 2, "n_latent": (3, 2)}),
    "conditional": ((5,), {"n_context": 2, "conditional_prior": True}),
    "flows": ((5,), FLOWS | {"n_latent": (3,)}),
    "image": ((3, 2, 2), {"n_latent": (2,)}),
    "dense": ((8, 8, 3), DEEP | {"model": "dense", "n_hidden": (6,)}),
    "resnet": ((8, 8, 3), CONVOLUTIONAL | {"model": "resnet"}),
    "resnet grey": ((8, 8, 1), CONVOLUTIONAL | {"model": "resnet"}),
    "gated": ((8, 8, 3), CONVOLUTIONAL | {"model": "gated"}),
    "gated grey": ((8, 8, 1), CONVOLUTIONAL | {"model": "gated", "n_flows": 0}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_logistic"])
@eagerly()
def test_every_model_draws_samples_scores_and_imputes(name, likelihood):
    shape, options = MODELS[name]
    if likelihood == "discretized_logistic":
        options = options | {"n_levels": 2}
    model = zoo.build(
        shape, likelihood=likelihood, missing=True, mask_input=True, **options
    )
    x = with_holes(values(3, int(np.prod(shape)))).reshape(-1, *shape)
    context = values(3, 2) if model.n_context else None
    draws = model.draw(x, 4, SEED, context)
    assert np.all(np.isfinite(draws.log_w())) and draws.log_px.shape == (4, 3)
    np.testing.assert_array_equal(draws.log_px[:, 0], 0)
    for part in model.sample(3, SEED, context):
        assert part.shape == x.shape and np.all(np.isfinite(part))
    own = {"context": context, "jit_compile": False}
    assert np.all(np.isfinite(log_likelihood(model, x, 5, **own).log_px))
    imputed = inspection.impute(model, x, 5, **own)
    assert all(np.all(np.isfinite(part)) for part in imputed)
    samples = inspection.impute_samples(model, x, 5, 2, **own)
    assert samples.shape == (2, *x.shape) and np.all(np.isfinite(samples))
    seen = ~np.isnan(x)
    for complete in (imputed.mean, *samples):
        np.testing.assert_array_equal(complete[seen], x[seen])
    if likelihood == "discretized_logistic":
        assert set(np.unique(samples)) == {0, 1}


@pytest.mark.parametrize("kind", ["resnet", "gated"])
def test_maps_of_a_decoder_are_those_of_one_parameter_after_another(kind):
    decoder = ConvolutionalDecoder((8, 8, 3), kind, 2, 4, 2)
    generator = Chain(
        (8, 8, 3),
        n_latent=[2],
        networks=[decoder],
        head=keras.layers.Identity(),
        likelihood=likelihoods.DiscretizedLogistic(),
    )
    zs = (tf.ones([1, 1, 2]),)
    generator.parameters(zs)
    kernel = decoder.last.kernel.numpy()
    for parameter in range(2):
        for channel in range(3):
            only = np.zeros_like(kernel)
            place = 3 * parameter + channel
            only[..., place] = kernel[..., place]
            decoder.last.kernel.assign(only)
            found = np.reshape(generator.parameters(zs), (2, 64, 3))
            where = np.argwhere(np.any(found != 0, axis=1))
            np.testing.assert_array_equal(where, [[parameter, channel]])


@pytest.mark.parametrize("name", ["tvae_affine", "tvae_tps"])
def test_warped_image_counts_the_pixels_that_were_observed(name):
    model = zoo.build((5, 4, 1), model=name, missing=True, mask_input=True)
    rng = np.random.default_rng(1)
    kernel = model.generator.placing.kernel
    kernel.assign(rng.normal(scale=0.1, size=kernel.shape))
    x = with_holes(values(3, 20)).reshape(3, 5, 4, 1)
    draws = model.draw(x, 6, SEED)
    mean = np.float64(model.generator.mean(draws.zs))
    terms = np.log(np.where(np.nan_to_num(x) == 1, mean, 1 - mean))
    want = np.where(np.isnan(x), 0, terms).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(draws.log_px, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(draws.log_px[:, 0], 0)
    _, found, _ = value_and_gradients(
        row("iwae_elbo"), model, tf.constant(x), 3, SEED, 1.0
    )
    assert all(np.all(np.isfinite(g)) for g in found)
    # Without missing entries, and with the right to have them, it is the same.
    full = np.nan_to_num(x)
    twin = zoo.build((5, 4, 1), model=name)
    for v, other in zip(twin.generator.weights, model.generator.weights, strict=True):
        v.assign(other)
    np.testing.assert_array_equal(
        model.generator.log_px(full, draws.zs), twin.generator.log_px(full, draws.zs)
    )


# Draws of x --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["burda", "vae60", "tvae_affine"])
def test_binary_samples_are_where_uniform_numbers_are_below_the_mean(name):
    model = zoo.build((4, 3, 1), model=name)
    for seed in (5, SEED):
        samples, mean = model.sample(7, seed)
        u = randomness.uniform([1, 7, 12], randomness.seed_of(seed, -1))
        want = np.reshape(u, mean.shape) < mean
        np.testing.assert_array_equal(samples, want)
        zs = model.generator.sample_latents(7, randomness.seed_of(seed))
        np.testing.assert_array_equal(mean, model.generator.mean(zs))


@pytest.mark.parametrize("event_shape", [(5,), (2, 3, 1)], ids=str)
def test_real_samples_have_the_closed_form_moments_within_5_errors(event_shape):
    model, n = FactorAnalysis(event_shape), 40_000
    samples, mean = (np.float64(part) for part in model.model.sample(n, SEED))
    assert samples.shape == mean.shape == (n, *event_shape)
    want, covariance = model.moments()
    for part, wanted in (
        (samples, covariance),
        (mean, covariance - model.scale**2 * np.eye(model.n)),
    ):
        away = part.reshape(n, -1) - want
        variance = np.diag(wanted)
        assert np.all(np.abs(away.mean(axis=0)) < 5 * np.sqrt(variance / n))
        error = np.sqrt((wanted**2 + np.outer(variance, variance)) / n)
        assert np.all(np.abs(away.T @ away / n - wanted) < 5 * error)
    noise = (samples - mean).reshape(n, -1) / model.scale
    correlations = noise.T @ noise / n - np.eye(model.n)
    assert np.all(np.abs(correlations) < 5 * np.sqrt((1 + np.eye(model.n)) / n))


def test_posterior_that_cannot_take_missing_entries_is_refused():
    generator = Chain((3,), [(4,)], (2,), missing=True)
    with pytest.raises(UsageError, match="^posterior: must take missing entries, such"):
        IWAE(GaussianChain([(4,)], (2,)), generator)
