"""Tests of generators with a spatial transformer, and of their zoo."""

import itertools

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from test_warps import scipy_warp

from iwae_tf import estimators, objectives, randomness
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError
from iwae_tf.models import warps, zoo
from iwae_tf.models.generators import Chain, WarpedBernoulli
from iwae_tf.models.posteriors import flatten
from iwae_tf.runs.config import Config

WARPS = {"affine": 6, "spline": 18}
SHAPE = (5, 4, 3)


@pytest.fixture(scope="module", params=WARPS)
def generator(request):
    return wiggled(request.param)


def wiggled(warp, image_shape=SHAPE, scale=1.0, n_placing=2):
    """A generator of 3 latents for the image and 2 to place it, its weights not 0."""
    made = WarpedBernoulli(image_shape, [7], 3 + n_placing, n_placing, warp)
    made.log_px(tf.zeros([1, *image_shape]), latents(1, 1, 3 + n_placing))
    rng = np.random.default_rng(0)
    for variable in made.trainable_variables:
        variable.assign_add(scale * rng.normal(scale=0.4, size=variable.shape))
    return made


def latents(k, b, d=5, seed=0):
    z = np.random.default_rng(seed).normal(size=(k, b, d))
    return (tf.constant(z, tf.float32),)


def images(b, shape=SHAPE, seed=1):
    x = np.random.default_rng(seed).integers(0, 2, size=(b, *shape))
    return x.astype(np.float32)


def test_log_px_equals_scipys_warp_of_the_probabilities(generator):
    x, zs = images(4), latents(3, 4)
    got = generator.log_px(x, zs).numpy()
    logits = (
        tf.reshape(generator.parameters(zs)[0], [3, 4, *SHAPE]).numpy().astype(float)
    )
    grid = generator.grid(zs).numpy().astype(float)
    mean = generator.mean(zs).numpy()
    for i, j in np.ndindex(3, 4):
        p = scipy_warp(scipy.special.expit(logits[i, j]), grid[i, j])
        want = x[j] * np.log(p) + (1 - x[j]) * np.log1p(-p)
        np.testing.assert_allclose(got[i, j], want.sum(), rtol=2e-5)
        np.testing.assert_allclose(mean[i, j], p, atol=1e-5)


def test_grey_images_have_no_likelihood_and_are_refused_as_an_option(generator):
    x = images(4)
    x[2, 1, 1, 1] = 0.5
    assert np.isnan(generator.log_px(x, latents(3, 4))).all()
    with pytest.raises(UsageError, match="^binarization: must be .* got none with "):
        Config(model="tvae_tps", binarization="none")
    assert Config(model="vae60", binarization="none").model == "vae60"


def test_warp_moves_the_pixels_of_these_tests(generator):
    moved = generator.grid(latents(3, 4)).numpy()
    still = warps.affine_grid(tf.eye(2, 3), *SHAPE[:2]).numpy()
    assert np.abs(moved - still).max() > 0.3


def test_probabilities_of_all_images_sum_to_one(generator):
    made = wiggled("affine", (2, 3, 1))
    every = np.array(list(itertools.product((0, 1), repeat=6)), np.float32)
    x = every.reshape(64, 2, 3, 1)
    log_px = made.log_px(x, (tf.repeat(latents(5, 1)[0], 64, axis=1),))
    np.testing.assert_allclose(np.exp(log_px).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("warp", WARPS)
def test_new_generator_does_not_warp(warp):
    n_placing = WARPS[warp]
    made = WarpedBernoulli(SHAPE, [7], 3 + n_placing, n_placing, warp)
    plain = Chain(SHAPE, [[7]], [3])
    x, zs = images(4), latents(3, 4, 3 + n_placing)
    upright = (zs[0][..., :3],)
    for part in (made, plain):
        part.log_px(x, zs if part is made else upright)
    for own, other in zip(
        plain.trainable_variables, made.trainable_variables, strict=False
    ):
        own.assign(other + 0.3 * tf.range(tf.size(other), dtype=tf.float32)[0])
        other.assign(own)
    np.testing.assert_allclose(made.log_px(x, zs), plain.log_px(x, upright), rtol=1e-5)
    np.testing.assert_array_equal(made.mean(zs), plain.mean(upright))
    np.testing.assert_array_equal(made.upright_image(zs), plain.mean(upright))


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_values_and_gradients_at_large_logits_are_finite(warp, jit_compile):
    made = wiggled(warp)
    # A chequerboard: neighbours are as sure of on as they are of off.
    board = np.indices(SHAPE).sum(axis=0) % 2
    made.pixel_logits.kernel.assign(tf.zeros_like(made.pixel_logits.kernel))
    x, zs = images(4), latents(2, 4)

    def value_and_gradients():
        with tf.GradientTape() as tape:
            tape.watch(zs)
            log_px = made.log_px(x, zs)
        return log_px, tape.gradient(log_px, [*zs, *made.trainable_variables])

    if jit_compile:
        value_and_gradients = tf.function(value_and_gradients, jit_compile=True)
    for moved, logit in itertools.product((True, False), (40.0, -40.0, 300.0)):
        made.pixel_logits.bias.assign((logit * (2 * board - 1)).ravel())
        if not moved:  # every position is that of a pixel
            made.placing.kernel.assign(tf.zeros_like(made.placing.kernel))
            identity = np.eye(2, 3) if warp == "affine" else warps.control_points()
            made.placing.bias.assign(identity.ravel())
        log_px, gradients = value_and_gradients()
        assert np.isfinite(log_px).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        if moved:
            continue
        # Unwarped, a pixel is as sure as its logit.
        wrong = (x != (board if logit > 0 else 1 - board)).sum((1, 2, 3))
        np.testing.assert_allclose(log_px[0], -abs(logit) * wrong, rtol=1e-5)


@pytest.mark.parametrize("name", ["tvae_affine", "tvae_tps"])
def test_likelihood_has_a_gradient_in_the_placing_from_the_start(name):
    model = zoo.spatial(name, (6, 6, 1))
    x = images(8, (6, 6, 1))
    with tf.GradientTape() as tape:
        log_px = model.draw(x, 2, randomness.seed_of(1)).log_px
    of_kernel, of_bias = tape.gradient(
        log_px, [model.generator.placing.kernel, model.generator.placing.bias]
    )
    assert (abs(of_kernel.numpy()).max(axis=0) > 1e-4).all()
    assert (abs(of_bias.numpy()) > 1e-4).all()


def test_latents_of_the_placing_move_the_image_and_not_what_it_shows(generator):
    zs = latents(1, 6)
    placed = tf.concat([tf.repeat(zs[0][:, :1, :3], 6, axis=1), zs[0][..., 3:]], -1)
    upright = generator.upright_image((placed,)).numpy()
    np.testing.assert_allclose(upright, upright[:, :1].repeat(6, 1), rtol=1e-6)
    assert np.ptp(generator.grid((placed,)).numpy(), axis=1).max() > 0.1
    shown = tf.concat([zs[0][..., :3], tf.repeat(zs[0][:, :1, 3:], 6, axis=1)], -1)
    grid = generator.grid((shown,)).numpy()
    np.testing.assert_allclose(grid, grid[:, :1].repeat(6, 1), atol=1e-6)


# Zoo ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        # 784-256-256-(60, 60) and 60-256-256-784; W and b of the placing.
        ("vae60", 297_592 + 282_896),
        ("tvae_affine", 297_592 + 281_360 + 6 * 6 + 6),
        ("tvae_tps", 297_592 + 278_288 + 18 * 18 + 18),
    ],
)
def test_networks_have_the_published_sizes(name, n_parameters):
    model = zoo.build((28, 28, 1), **Config(model=name).of_networks())
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == n_parameters
    assert model.posterior.n_latent == model.generator.n_latent == (60,)
    relu = [layer.activation.__name__ for layer in model.generator.pixels.hidden]
    assert relu == ["relu", "relu"]


@pytest.mark.slow
def test_plain_model_leaves_the_mean_image():
    """With the logits of the mean image as its output bias the KL ends below 0.01."""
    digits = datasets.load("digits").x_train[..., 0]
    mean = np.pad(np.kron(digits, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))[..., None]
    x = (np.random.default_rng(0).random(mean.shape) < mean).astype(np.float32)
    options = Config(model="vae60").of_networks()
    model = zoo.build(x.shape[1:], mean=mean.mean(axis=0), **options)
    model.compile(keras.optimizers.Adam(1e-3), "vae_elbo", n_samples=1)
    model.fit(x, batch_size=128, epochs=12, verbose=0)
    assert np.mean(model.kl(x[:500])) > 0.5


@pytest.mark.parametrize(("name", "n_placing"), [("tvae_affine", 6), ("tvae_tps", 18)])
def test_posterior_means_of_the_placing_are_within_one_if_asked(name, n_placing):
    model = zoo.spatial(name, (4, 4, 1), n_bounded=n_placing)
    (head,) = model.posterior.conditionals
    rng = np.random.default_rng(0)
    head.loc.kernel.assign(20 * rng.normal(size=head.loc.kernel.shape))
    x = images(9, (4, 4, 1))
    mean = model.posterior.conditional(0, flatten(x)).mean().numpy()
    free = head.loc(head.mlp(flatten(x))).numpy()
    np.testing.assert_allclose(mean[:, :-n_placing], free[:, :-n_placing], rtol=1e-6)
    want = np.tanh(free[:, -n_placing:])
    np.testing.assert_allclose(mean[:, -n_placing:], want, rtol=1e-4, atol=1e-6)
    assert abs(free[:, -n_placing:]).max() > 1
    (head,) = zoo.spatial(name, (4, 4, 1)).posterior.conditionals
    assert head.n_bounded == 0


@pytest.fixture(scope="module")
def spline_model():
    return zoo.spatial("tvae_tps", (4, 4, 1))


@pytest.mark.parametrize("name", ["iwae_elbo", "vae_elbo_kl", "dreg", "miwae"])
def test_objectives_train_a_warped_model(name, spline_model):
    row = objectives.row(name, n_groups=2 if name == "miwae" else 1)
    loss, gradients, _ = estimators.value_and_gradients(
        row, spline_model, images(3, (4, 4, 1)), 2, randomness.seed_of(1), 1.0
    )
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    "options",
    [
        {"stochastic_layers": 2},
        {"n_latent": (50,)},
        {"n_hidden": (200,)},
        {"conditional": True},
    ],
)
def test_options_of_the_papers_networks_are_refused_with_others(options):
    (name,) = options
    with pytest.raises(
        UsageError, match=f"^{name}: goes with model burda.* only, got "
    ):
        Config(model="tvae_affine", **options)
