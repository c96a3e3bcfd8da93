"""Tests of conditional models, of log p(x|y), throughout the package.

The main oracle is folding: for one context y, a layer that reads it beside h is one
without contexts whose bias is b + y K, where K are the kernel's rows of the context.
"""

import functools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import IMAGE_SHAPE, build, dense, mlp
from eager import eagerly

from iwae_tf import data, randomness
from iwae_tf.data.observations import Images
from iwae_tf.errors import UsageError
from iwae_tf.estimators import value_and_gradients
from iwae_tf.measures import annealing, inspection
from iwae_tf.measures.gradients import gradient_statistics
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.measures.units import WithoutUnits, statistics
from iwae_tf.models import zoo
from iwae_tf.objectives import table

SEED = randomness.seed_of(5)
N_CONTEXT = 3
KINDS = pytest.mark.parametrize(
    ("stochastic_layers", "conditional_prior"),
    [(1, False), (1, True), (2, False), (2, True)],
)
LAYERS = pytest.mark.parametrize("stochastic_layers", [1, 2])
pytestmark = pytest.mark.filterwarnings("ignore:embed")


@functools.cache
def _built(stochastic_layers, conditional_prior, n_latent):
    model = zoo.burda(
        IMAGE_SHAPE,
        stochastic_layers,
        n_latent=n_latent or tuple(range(stochastic_layers + 1, 1, -1)),
        n_hidden=tuple(range(stochastic_layers + 3, 3, -1)),
        seed=1,
        n_context=N_CONTEXT,
        conditional_prior=conditional_prior,
    )
    rng = np.random.default_rng(1)
    return model, [
        v.numpy() + rng.normal(scale=0.3, size=v.shape)
        for v in model.trainable_variables
    ]


def conditional(stochastic_layers=1, conditional_prior=False, n_latent=None):
    """A small, wiggled model of log p(x|y), its weights as new."""
    model, weights = _built(stochastic_layers, conditional_prior, n_latent)
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    model.seed = 1
    return model


def contexts(n, seed=6):
    return np.random.default_rng(seed).normal(size=(n, N_CONTEXT)).astype(np.float32)


def first_dense(loc_scale):
    return loc_scale.mlp.hidden[0]


def readers(model):
    """The layers that read a context beside something else."""
    q, p = model.posterior, model.generator
    nets = [*q.conditionals, *p.conditionals]
    return [*(first_dense(net) for net in nets), p.pixels.hidden[0]]


@functools.cache
def _plain(stochastic_layers, n_latent):
    return build(stochastic_layers, IMAGE_SHAPE, n_latent, 1)[0]


def folded(model, y):
    """The same model for the one context y [c], without contexts."""
    q, p = model.posterior, model.generator
    plain = _plain(len(q.n_latent), q.n_latent)
    top = set(map(id, [] if p.top is None else p.top.trainable_variables))
    rest = [v for v in model.trainable_variables if id(v) not in top]
    for to, v in zip(plain.trainable_variables, rest, strict=True):
        to.assign(v[: to.shape[0]])
    for to, layer in zip(readers(plain), readers(model), strict=True):
        rows = layer.kernel.numpy()[-N_CONTEXT:]
        to.bias.assign(layer.bias.numpy() + y @ rows)
    plain.generator.top = None
    if p.top is not None:
        parts = [tf.constant(part, tf.float32) for part in numpy_loc_scale(p.top, y)]
        plain.generator.top = lambda context: parts
    plain.seed = model.seed
    return plain


def numpy_loc_scale(layer, inputs):
    features = mlp(layer.mlp, inputs)
    return dense(layer.loc, features), np.exp(dense(layer.log_scale, features))


def with_context(features, y):
    """Features [..., b, d] beside y [b, c], in NumPy."""
    y = np.broadcast_to(y, (*np.shape(features)[:-1], y.shape[-1]))
    return np.concatenate([features, y], axis=-1)


def assert_close(got, want, rtol=1e-5, atol=1e-5):
    """Whether two structures hold the same numbers."""
    got, want = tf.nest.flatten(got), tf.nest.flatten(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def calls(model, x, y, zs):
    return {
        "draw": lambda: model.draw(x, 2, SEED, y)[:4],
        "weigh": lambda: model.weigh(x, zs, y)[:4],
        "log_joint": lambda: model.log_joint(x, zs, y),
        "kl": lambda: model.kl(x, y),
        "reconstruct": lambda: model.reconstruct(x, SEED, y),
        "sample": lambda: model.sample(len(x), SEED, y)[1],
    }


# Densities ---------------------------------------------------------------------------


@KINDS
def test_densities_equal_numpy_float64_with_the_context_concatenated(
    stochastic_layers, conditional_prior, binary, pixel_logits
):
    # As many samples as images: neither may take the other's context.
    model, x = conditional(stochastic_layers, conditional_prior), binary(4)
    y = contexts(4)
    q, p = model.posterior, model.generator
    draws = model.draw(x, 4, SEED, y)
    zs = [np.float64(z) for z in draws.zs]
    rows = x.reshape(4, -1)
    logpdf = scipy.stats.norm.logpdf
    log_qz = sum(
        logpdf(z, *numpy_loc_scale(net, with_context(below, y))).sum(axis=-1)
        for net, z, below in zip(q.conditionals, zs, [rows, *zs[:-1]], strict=True)
    )
    prior = numpy_loc_scale(p.top, y) if conditional_prior else (0, 1)
    log_pz = logpdf(zs[-1], *prior).sum(axis=-1) + sum(
        logpdf(z, *numpy_loc_scale(net, with_context(above, y))).sum(axis=-1)
        for net, z, above in zip(p.conditionals, zs[:-1], zs[1:], strict=True)
    )
    logits = pixel_logits(p, with_context(zs[0], y))
    log_px = np.sum(rows * logits - np.logaddexp(0, logits), axis=-1)
    for got in (draws, model.weigh(x, draws.zs, y)):
        assert_close(got[1:4], (log_px, log_pz, log_qz), rtol=1e-4, atol=1e-4)
    log_joint = model.log_joint(x, draws.zs, y)
    np.testing.assert_allclose(log_joint, log_px + log_pz, rtol=1e-4)


@LAYERS
@eagerly()
def test_kernels_without_context_rows_make_the_unconditional_model(
    stochastic_layers, binary
):
    model, x = conditional(stochastic_layers, conditional_prior=True), binary(4)
    for layer in readers(model):
        rows = np.arange(layer.kernel.shape[0])[:, None]
        kept = rows < layer.kernel.shape[0] - N_CONTEXT
        layer.kernel.assign(np.where(kept, layer.kernel, 0))
    top = model.generator.top  # loc 0 and log scale 0
    for variable in (*top.loc.variables, *top.log_scale.variables):
        variable.assign(tf.zeros_like(variable))
    plain = folded(model, np.zeros(N_CONTEXT))
    plain.generator.top = None
    want = plain.draw(x, 5, SEED)
    want_log_px = log_likelihood(plain, x, 6, 4, 3, jit_compile=False)
    for seed in (1, 2):
        y = 3 * contexts(4, seed)
        assert_close(model.draw(x, 5, SEED, y)[:4], want[:4])
        got = log_likelihood(model, x, 6, 4, 3, jit_compile=False, context=y)
        assert_close(got, want_log_px, rtol=1e-4)


def asked(model, x, y, seed=SEED):
    """What one may ask of a model; [b] of each is axis 1, of the second part axis 0."""
    n_latent = model.posterior.n_latent
    draws = model.draw(x, 5, seed, y)
    kept = [np.arange(d) > 0 for d in n_latent]
    held = WithoutUnits(model, kept, [np.full(d, 0.5) for d in n_latent])
    latents = tuple(z[0] for z in draws.zs)
    by_sample = {
        "draw": draws[:4],
        "weigh": model.weigh(x, tuple(z + 0.1 for z in draws.zs), y)[:4],
        "log_joint": model.log_joint(x, draws.zs, y),
        "without_units": held.draw(x, 5, seed, y)[:4],
        "traverse": inspection.traverse(model, latents, 1, [-1.0, 2.0], y),
    }
    by_image = {
        "reconstruct": model.reconstruct(x, seed, y),
        "sample": model.sample(len(x), seed, y)[1],
        "latents": model.generator.sample_latents(len(x), seed, y),
    }
    if len(n_latent) == 1:
        by_image["kl"] = model.kl(x, y)
        by_image["draw_kl"] = model.draw(x, 5, seed, y, with_kl=True).kl
    return by_sample, by_image


def scored(model, x, y):
    """Log-likelihoods and posterior means, [b] first; the last batch is not full."""
    options = {"context": y, "batch_size": 3, "jit_compile": False}
    scores = log_likelihood(model, x, 6, chunk=4, **options)
    return (
        scores._replace(quarters=scores.quarters.T),
        model.embed(x, 6, **options),
    )


@KINDS
@eagerly()
def test_one_context_is_the_unconditional_model_with_it_in_the_biases(
    stochastic_layers, conditional_prior, binary
):
    model, x = conditional(stochastic_layers, conditional_prior), binary(4)
    y = contexts(1)
    plain, ys = folded(model, y[0]), np.repeat(y, 4, axis=0)
    for ask in (asked, scored):
        assert_close(ask(model, x, ys), ask(plain, x, None), rtol=2e-4, atol=2e-5)
    options = {"n_samples": 4, "batch_size": 3}
    got = statistics(model, x, **options, context=ys)
    assert_close(got, statistics(plain, x, **options), rtol=2e-4, atol=2e-5)


@LAYERS
@eagerly()
def test_each_image_has_its_own_context(stochastic_layers, binary):
    # In one batch; each image is as in the model with its context in the biases. With
    # the conditional prior every network reads it; without one there is no more.
    model, x = conditional(stochastic_layers, conditional_prior=True), binary(4)
    y = contexts(4)
    by_sample, by_image = asked(model, x, y)
    scores = scored(model, x, y)
    for image in (1, 3):  # of the first batch, and of the last
        plain = folded(model, y[image])
        want_by_sample, want_by_image = asked(plain, x, None)
        of_samples, of_images = (
            [np.take(part, image, axis) for part in tf.nest.flatten(parts)]
            for parts, axis in ((by_sample, 1), ([by_image, scores], 0))
        )
        want_of_samples, want_of_images = (
            [np.take(part, image, axis) for part in tf.nest.flatten(parts)]
            for parts, axis in (
                (want_by_sample, 1),
                ([want_by_image, scored(plain, x, None)], 0),
            )
        )
        assert_close(of_samples, want_of_samples, rtol=2e-4, atol=2e-5)
        assert_close(of_images, want_of_images, rtol=2e-4, atol=2e-5)


@eagerly()
def test_statistics_of_batches_take_the_contexts_of_their_images(binary):
    model, x, y = conditional(), binary(5), contexts(5)
    want = statistics(model, x, context=y)
    got = statistics(model, x, context=y, batch_size=2)
    assert_close(got, want)
    # Closed forms of one layer, image by image.
    (net,) = model.posterior.conditionals
    loc, scale = numpy_loc_scale(net, with_context(x.reshape(5, -1), y))
    kl = (scale**2 + loc**2 - 1) / 2 - np.log(scale)
    parts = (loc.mean(axis=0), loc.var(axis=0, ddof=1), (scale**2).mean(axis=0))
    assert_close(want[0], (*parts, kl.mean(axis=0)), rtol=1e-4)


def test_compiled_functions_take_contexts(binary):
    model, x, y = conditional(1, conditional_prior=True), binary(3), contexts(1)
    plain, ys = folded(model, y[0]), np.repeat(y, 3, axis=0)

    def of(model, y, compiled):
        groups = {"pixels": [model.generator.pixel_logits.bias]}
        options = {"jit_compile": compiled, "context": y}
        return (
            log_likelihood(model, x, 4, **options),
            model.embed(x, 4, **options),
            gradient_statistics(model, x, "dreg", 3, 2, groups, **options),
        )

    got = of(model, ys, compiled=True)
    with eagerly():
        want = of(plain, None, compiled=False)
    assert_close(got, want, rtol=1e-3, atol=1e-4)
    got = statistics(model, x, context=ys)  # traced
    assert_close(got, statistics(plain, x), rtol=1e-4)


@KINDS
def test_a_permutation_of_the_columns_and_their_kernel_rows_changes_nothing(
    stochastic_layers, conditional_prior, binary
):
    model, x = conditional(stochastic_layers, conditional_prior), binary(4)
    y = np.eye(N_CONTEXT, dtype=np.float32)[[2, 0, 1, 1]]
    want = asked(model, x, y)
    order = np.array([1, 2, 0])
    layers = readers(model)
    if conditional_prior:
        layers.append(first_dense(model.generator.top))
    for layer in layers:
        kernel = layer.kernel.numpy()
        kernel[-N_CONTEXT:] = kernel[-N_CONTEXT:][order]
        layer.kernel.assign(kernel)
    assert_close(asked(model, x, y[:, order]), want, rtol=1e-4)
    # The columns alone do change something.
    other = model.draw(x, 5, SEED, y)
    assert not np.any(np.isclose(other.log_px, want[0]["draw"][1], rtol=1e-4))


@KINDS
def test_another_context_changes_every_density_that_reads_it(
    stochastic_layers, conditional_prior, binary
):
    model, x = conditional(stochastic_layers, conditional_prior), binary(4)
    y, other = contexts(4), contexts(4, seed=7)
    draws = model.draw(x, 5, SEED, y)
    again = model.weigh(x, draws.zs, other)  # the latents are the same
    assert not np.any(np.isclose(draws.log_px, again.log_px, rtol=1e-4))
    assert not np.any(np.isclose(draws.log_qz, again.log_qz, rtol=1e-4))
    # With one layer and the standard normal prior, p(z) reads no context.
    is_read = conditional_prior or stochastic_layers == 2
    assert np.any(np.isclose(draws.log_pz, again.log_pz, rtol=1e-4)) != is_read
    _, mean = model.sample(4, SEED, y)
    _, other_mean = model.sample(4, SEED, other)
    assert not np.any(np.isclose(mean, other_mean, rtol=1e-4))


@LAYERS
def test_top_latents_read_the_context_with_a_conditional_prior_only(stochastic_layers):
    tops = [
        [
            model.generator.sample_latents(4, SEED, y)[-1].numpy()
            for y in (contexts(4), contexts(4, seed=7))
        ]
        for model in (
            conditional(stochastic_layers),
            conditional(stochastic_layers, conditional_prior=True),
        )
    ]
    np.testing.assert_array_equal(*tops[0])
    assert not np.any(np.isclose(*tops[1], rtol=1e-4))


def test_kl_to_the_conditional_prior_is_the_sampled_one_within_5_standard_errors(
    binary,
):
    k = 20_000
    model, x, y = conditional(conditional_prior=True), binary(4), contexts(4)
    got = model.kl(x, y).numpy()
    zs, _ = model.posterior.draw(x, k, SEED, tf.constant(y))
    z = np.float64(zs[0])
    logpdf = scipy.stats.norm.logpdf
    (net,) = model.posterior.conditionals
    q = numpy_loc_scale(net, with_context(x.reshape(4, -1), y))
    of_q = logpdf(z, *q).sum(axis=-1)
    ratios = of_q - logpdf(z, *numpy_loc_scale(model.generator.top, y)).sum(axis=-1)
    se = np.std(ratios, axis=0, ddof=1) / k**0.5
    assert np.all(np.abs(ratios.mean(axis=0) - got) < 5 * se)
    # The KL to N(0, I) is another.
    ratios = of_q - logpdf(z).sum(axis=-1)
    se = np.std(ratios, axis=0, ddof=1) / k**0.5
    assert np.all(np.abs(ratios.mean(axis=0) - got) > 10 * se)


# Gradients ---------------------------------------------------------------------------

OBJECTIVES = pytest.mark.parametrize(
    ("name", "stochastic_layers"),
    [(name, 1 if name == "vae_elbo_kl" else 2) for name in table()],
)


def gradients_of(name, model, x, y, k=4):
    loss, gradients, _ = value_and_gradients(
        table(n_groups=2)[name], model, tf.constant(x), k, SEED, 1.0, y
    )
    variables = [
        *model.posterior.trainable_variables,
        *model.generator.trainable_variables,
    ]
    assert all(g is not None for g in gradients)
    assert all(np.all(np.isfinite(g)) for g in gradients)
    of = {v.path: (v, g.numpy()) for v, g in zip(variables, gradients, strict=True)}
    return float(loss), of


@OBJECTIVES
def test_every_variable_of_a_conditional_model_has_a_gradient(
    name, stochastic_layers, binary
):
    model = conditional(stochastic_layers, conditional_prior=True)
    _, of = gradients_of(name, model, binary(4), contexts(4))
    assert len(of) == len(model.trainable_variables)
    for variable, gradient in of.values():
        assert gradient.shape == variable.shape and np.any(gradient)
    for layer in readers(model):  # the rows of the context too
        assert np.all(np.any(of[layer.kernel.path][1][-N_CONTEXT:], axis=1))


@OBJECTIVES
def test_gradients_equal_those_of_the_model_with_the_context_in_the_biases(
    name, stochastic_layers, binary
):
    # A bias is a kernel row whose input is 1: rows of y have y times its gradient.
    model, x, y = conditional(stochastic_layers), binary(4), contexts(1)
    plain = folded(model, y[0])
    want_loss, want = gradients_of(name, plain, x, None)
    loss, got = gradients_of(name, model, x, np.repeat(y, 4, axis=0))
    assert loss == pytest.approx(want_loss, rel=1e-5)
    kernels = {layer.kernel.path for layer in readers(model)}
    for (path, (_, a)), (_, b) in zip(got.items(), want.values(), strict=True):
        tolerance = 1e-4 * np.abs(b).max() + 1e-6
        np.testing.assert_allclose(a[: len(b)], b, rtol=1e-3, atol=tolerance)
        assert (len(a) > len(b)) == (path in kernels)
    for layer in readers(model):
        of_bias = got[layer.bias.path][1]
        rows = got[layer.kernel.path][1][-N_CONTEXT:]
        tolerance = 1e-4 * np.abs(rows).max() + 1e-6
        np.testing.assert_allclose(
            rows, np.outer(y[0], of_bias), rtol=1e-3, atol=tolerance
        )


@pytest.mark.parametrize("name", ["stl", "dreg", "rws_dreg"])
@KINDS
def test_path_gradients_of_every_variable_change_with_the_context(
    name, stochastic_layers, conditional_prior, binary
):
    model, x = conditional(stochastic_layers, conditional_prior), binary(4)
    _, one = gradients_of(name, model, x, contexts(4))
    _, other = gradients_of(name, model, x, contexts(4, seed=7))
    assert one.keys() == other.keys()
    for path in one:
        a, b = one[path][1], other[path][1]
        assert np.abs(a - b).max() > 0.01 * np.abs(a).max()


@eagerly()
def test_gradient_statistics_are_the_moments_of_gradients_with_the_context(binary):
    model, x, y = conditional(conditional_prior=True), binary(4), contexts(4)
    got = gradient_statistics(
        model, x, "dreg", n_samples=3, n_draws=4, jit_compile=False, context=y
    )
    draws = []
    for i in range(4):
        seed = randomness.seed_of(123, randomness.GRADIENT, i)
        _, gradients, _ = value_and_gradients(
            table()["dreg"], model, tf.constant(x), 3, seed, 1.0, tf.constant(y)
        )
        draws.append(np.concatenate([np.ravel(np.float64(g)) for g in gradients]))
    moments = got["posterior"], got["generator"]
    mean = np.concatenate([part.mean for part in moments])
    variance = np.concatenate([part.variance for part in moments])
    np.testing.assert_allclose(mean, np.mean(draws, axis=0), rtol=1e-3, atol=1e-5)
    want = np.var(draws, axis=0, ddof=1)
    np.testing.assert_allclose(variance, want, rtol=1e-3, atol=1e-6)


# On a grid ---------------------------------------------------------------------------


@pytest.mark.parametrize("conditional_prior", [False, True])
def test_posterior_on_a_grid_is_that_of_the_model_with_the_context_in_the_biases(
    conditional_prior, binary
):
    model, (x,) = conditional(1, conditional_prior, n_latent=(2,)), binary(1)
    y, other = contexts(2)
    plain = folded(model, y)
    limits = inspection.limits_of_mass(model, x, y)
    want = inspection.limits_of_mass(plain, x)
    np.testing.assert_allclose(limits, want, rtol=1e-4, atol=1e-3)
    grid = inspection.posterior_on_grid(model, x, limits, 40, y)
    want = inspection.posterior_on_grid(plain, x, limits, 40)
    assert_close(grid, want, rtol=1e-4, atol=1e-4)
    another = inspection.posterior_on_grid(model, x, limits, 40, other)
    assert np.abs(another.log_density - grid.log_density).max() > 0.01


# Keras -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stochastic_layers", "conditional_prior"), [(1, False), (2, True)]
)
def test_general_vectors_go_through_fit_evaluate_and_predict(
    stochastic_layers, conditional_prior, binary
):
    model, x = conditional(stochastic_layers, conditional_prior), binary(12)
    y = 10 * contexts(12)  # float vectors, no one-hot
    before = [v.numpy() for v in model.trainable_variables]
    # One layer in a graph.
    mode = {"jit_compile": False, "run_eagerly": stochastic_layers == 2}
    model.compile("sgd", "iwae_elbo", n_samples=3, **mode)
    scores = model.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)
    # The noise of the first batch is that of its place.
    draws = model.draw(x, 3, randomness.seed_of(1, randomness.TEST, 0), y)
    log_w = np.float64(draws.log_w())
    want = np.mean(np.logaddexp.reduce(log_w, axis=0) - np.log(3))
    assert scores["iwae_elbo"] == pytest.approx(want, rel=1e-5)

    predicted = model.predict((x, y), batch_size=12, verbose=0)
    loc = model.posterior.conditional(0, x.reshape(12, -1), y).mean()
    mean = model.generator.mean((loc,), y)
    np.testing.assert_allclose(predicted, mean, rtol=1e-5)

    history = model.fit(x, y, batch_size=12, verbose=0, shuffle=False)
    seed = randomness.seed_of(1, randomness.TRAIN, 0)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(variable, value)
        variable.assign(value)
    loss, gradients, _ = value_and_gradients(
        table()["iwae_elbo"], model, tf.constant(x), 3, seed, 1.0, tf.constant(y)
    )
    assert history.history["loss"][0] == pytest.approx(float(loss), rel=1e-5)
    model.fit(x, y, batch_size=12, verbose=0, shuffle=False)  # step 1, other noise


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8])
def test_contexts_may_be_of_any_number_type(dtype, binary):
    model, x = conditional(conditional_prior=True), binary(3)
    y = np.array([[0, 1, 0], [2, 0, 0], [0, 0, 3]])
    zs = model.draw(x, 5, SEED, y.astype(np.float32)).zs
    got, want = (
        [call() for call in calls(model, x, y.astype(of), zs).values()]
        for of in (dtype, np.float32)
    )
    assert_close(got, want)


@eagerly()
def test_contexts_of_looks_at_a_model_may_be_of_any_number_type(binary, monkeypatch):
    monkeypatch.setattr(annealing, "_WARM_UP", 1)
    model, x = conditional(2, conditional_prior=True), binary(3)
    whole = WithoutUnits(
        model, [np.ones(3, bool), np.ones(2, bool)], [[0.0] * 3, [0.0] * 2]
    )
    annealer = annealing.Annealer(model, 2, 2, 1, jit_compile=False)
    want, *others = (
        [
            whole.draw(x, 2, SEED, y)[:4],
            inspection.traverse(model, (tf.ones([3, 3]),), 0, [0.5], y),
            annealing.certify(annealer, 3, context=y).reverse.log_w,
        ]
        for y in (np.eye(3, dtype=of) for of in (np.float32, np.float64, np.int64))
    )
    for got in others:
        assert_close(got, want)


# What is refused ---------------------------------------------------------------------


METHODS = pytest.mark.parametrize("method", list(calls(None, None, None, None)))


def refused(call):
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@METHODS
@pytest.mark.parametrize("shape", [None, (2, 2), (2, 4), (3,), (1, 3)])
def test_a_missing_context_and_one_of_another_size_are_refused(method, shape, binary):
    model, zs = conditional(), (tf.zeros([2, 2, 2]),)
    y = None if shape is None else np.zeros(shape, np.float32)
    message = refused(calls(model, binary(2), y, zs)[method])
    assert message.startswith("context: must be of shape [2, 3] for this model, got ")
    assert message.endswith(str(shape))


@pytest.mark.parametrize("objective", ["iwae_elbo", "dreg"])
def test_fit_without_the_context_is_refused(objective, binary):
    model = conditional(conditional_prior=True)
    model.compile(objective=objective, jit_compile=False)
    message = refused(lambda: model.fit(binary(2), verbose=0))
    assert message == "context: must be of shape [b, 3] for this model, got None"


@METHODS
def test_a_context_for_an_unconditional_model_is_refused(method, tiny, binary):
    zs = (tf.zeros([2, 2, 2]),)
    message = refused(calls(tiny(), binary(2), contexts(2), zs)[method])
    assert message == "context: must be None for this model, got (2, 3)"


def test_a_conditional_prior_without_contexts_is_refused():
    message = refused(lambda: zoo.burda(IMAGE_SHAPE, conditional_prior=True))
    assert message.startswith("n_context: must be at least 1 for a conditional prior")


# Labels ------------------------------------------------------------------------------


def test_labels_with_gaps_have_one_column_each_in_rising_order():
    y_train, y_test = np.array([42, 3, 7, 42, 3]), np.array([7, 42])
    train, test = data.contexts_of(y_train, y_test)
    assert train.dtype == test.dtype == np.float32
    want = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    np.testing.assert_array_equal(train, want)
    np.testing.assert_array_equal(test, [[0, 1, 0], [0, 0, 1]])


def test_letters_have_26_columns_even_if_few_are_tested():
    rng = np.random.default_rng(0)
    y_train = rng.permutation(np.repeat(np.arange(1, 27), 3))
    train, test = data.contexts_of(y_train, np.array([26, 1]))
    assert train.shape == (78, 26) and test.shape == (2, 26)
    np.testing.assert_array_equal(train.argmax(axis=1) + 1, y_train)
    np.testing.assert_array_equal(train.sum(axis=1), 1)
    np.testing.assert_array_equal(test.argmax(axis=1), [25, 0])


def test_missing_labels_and_unseen_test_labels_are_refused():
    y = np.array([3, 7])
    for pair in ((None, y), (y, None), (None, None)):
        message = refused(lambda pair=pair: data.contexts_of(*pair))
        assert message == "conditional: needs a data set with labels, got one without"
    message = refused(lambda: data.contexts_of(y, np.array([7, 9, 8, 9])))
    assert message == "y_test: must have labels of y_train only, got 8, 9"


def test_sets_have_contexts_if_the_run_is_conditional():
    x = np.zeros((3, *IMAGE_SHAPE), np.uint8)
    images = Images("some", x, x[:2], np.array([7, 3, 7]), np.array([3, 7]))
    sets = data.sets_of(images, "threshold", conditional=True)
    assert sets.n_context == 2
    np.testing.assert_array_equal(sets.context_train, [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(sets.context_test, [[1, 0], [0, 1]])
    plain = data.sets_of(images._replace(y_test=None), "threshold")
    assert plain.n_context == 0
    assert plain.context_train is None and plain.context_test is None
    refused(lambda: data.sets_of(images._replace(y_test=None), "none", True))


def test_strings_are_labels_in_alphabetical_order():
    train, test = data.contexts_of(np.array(["b", "a"]), np.array(["a", "b", "a"]))
    np.testing.assert_array_equal(train, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(test, [[1, 0], [0, 1], [1, 0]])
    message = refused(lambda: data.contexts_of(np.array(["b"]), np.array(["bc"])))
    assert message == "y_test: must have labels of y_train only, got bc"


def test_contexts_shown_are_of_every_class_or_of_test_data():
    x, y = np.zeros((3, *IMAGE_SHAPE), np.uint8), np.array([7, 3, 7])
    images = Images("some", x, x, y, y)
    sets = data.sets_of(images, "none", conditional=True)
    np.testing.assert_array_equal(sets.classes, [3, 7])
    shown = sets.contexts_shown(5)
    np.testing.assert_array_equal(shown.argmax(axis=1), [0, 0, 0, 1, 1])
    vectors = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
    images = images._replace(y_train=vectors - 1, y_test=vectors)
    sets = data.sets_of(images, "none", conditional=True)
    assert sets.classes is None and sets.n_context == 3
    np.testing.assert_array_equal(sets.context_train, vectors - 1)
    np.testing.assert_array_equal(sets.contexts_shown(5), vectors[[0, 0, 1, 1, 2]])
    assert data.sets_of(images, "none").contexts_shown(5) is None


def test_data_without_test_images_need_some_held_out():
    x = np.arange(7 * 6, dtype=np.uint8).reshape(7, *IMAGE_SHAPE)
    images = Images("some", x, None, np.arange(7) % 2, None)
    message = refused(lambda: data.sets_of(images, "none"))
    assert message.startswith("validation: must be at least 2 for a data set without ")
    sets = data.sets_of(images, "none", conditional=True, validation=3)
    np.testing.assert_array_equal(sets.x_train, x[:4])
    np.testing.assert_array_equal(sets.x_test, x[4:] / np.float32(255))
    np.testing.assert_array_equal(sets.context_test.argmax(axis=1), [0, 1, 0])


# Training batches --------------------------------------------------------------------


@pytest.mark.parametrize("first_step", [0, 4])
def test_every_image_keeps_its_context_through_epochs(first_step):
    n, steps = 11, 15  # five epochs of three batches of three
    x = (np.arange(n, dtype=np.float32) / n).reshape(n, 1, 1, 1)
    y = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    batches = data.training_batches(x, 3, 8, first_step, "none", context=y)
    orders = []
    for images, context in batches.take(steps):
        number = np.rint(images.numpy().ravel() * n).astype(int)
        np.testing.assert_array_equal(context, y[number])
        orders.append(tuple(number))
    assert len(set(orders)) == steps  # shuffled anew


def test_images_are_those_of_batches_without_context():
    x = np.random.default_rng(0).random((11, *IMAGE_SHAPE)).astype(np.float32)
    plain = data.training_batches(x, 3, 8, first_step=2)
    beside = data.training_batches(x, 3, 8, first_step=2, context=contexts(11))
    for want, (got, y) in zip(plain.take(9), beside.take(9), strict=True):
        np.testing.assert_array_equal(got, want)
        assert y.shape == (3, N_CONTEXT) and y.dtype == tf.float32


def test_dreams_have_the_contexts_of_the_batch(binary):
    model, y = conditional(2, conditional_prior=True), contexts(4)
    _, got = gradients_of("rws_sleep", model, binary(4), y)
    seeds = (randomness.seed_of(SEED, place) for place in (-3, -4))
    zs = model.generator.sample_latents(4, next(seeds), tf.constant(y))
    zs = tuple(z[tf.newaxis] for z in zs)
    (x,), _ = model.generator.sample(zs, next(seeds), tf.constant(y))
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(model.posterior.log_prob(zs, x, tf.constant(y)))
    phi = model.posterior.trainable_variables
    for variable, want in zip(phi, tape.gradient(loss, phi), strict=True):
        np.testing.assert_allclose(got[variable.path][1], want, rtol=1e-4, atol=1e-6)
