"""Tests of iwae_tf.models.contracts, and of parts of one's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import objectives, randomness, weights
from iwae_tf.errors import UsageError
from iwae_tf.measures import units
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models.generators import Chain, Generator
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.likelihoods import Gaussian, Likelihood
from iwae_tf.models.posteriors import GaussianChain, Posterior

SHAPE = (8, 8, 1)
LAYERS = keras.layers


def encoder():
    return keras.Sequential(
        [
            LAYERS.Reshape(SHAPE),
            LAYERS.Conv2D(4, 3, strides=2, activation="relu"),
            LAYERS.Flatten(),
        ]
    )


def decoder(d=3, n=6):
    """A functional model, which takes rows only."""
    z = keras.Input((d,))
    return keras.Model(z, LAYERS.Dense(n, activation="relu")(z))


def q(**options):
    return GaussianChain(n_latent=(3,), **options)


def p(**options):
    return Chain(SHAPE, n_latent=(3,), **options)


class Own(Posterior):
    """q(z|x) = N(W x, 1), without `factors`."""

    def __init__(self, d, log_qz_of=lambda log_qz: log_qz):
        super().__init__()
        self.n_latent = (d,)
        self.dense = LAYERS.Dense(d)
        self.log_qz_of = log_qz_of

    def draw(self, x, k, seed, context=None):
        noise = randomness.normal([k, tf.shape(x)[0], *self.n_latent], seed)
        log_qz = -0.5 * tf.reduce_sum(noise**2 + np.log(2 * np.pi), axis=-1)
        return (self.dense(self.entries(x)) + noise,), self.log_qz_of(log_qz)

    def mean(self, x, context=None):
        return (self.dense(self.entries(x))[tf.newaxis],)


class Unit(Generator):
    """p(z) = N(0, 1), p(x|z) = N(W z, 1); complete, but for units."""

    def __init__(self, d):
        super().__init__()
        self.event_shape = (2,)
        self.n_latent = (d,)
        self.dense = LAYERS.Dense(2, use_bias=False)

    def log_joint(self, x, zs, context=None):
        def log_normal(error):
            return -0.5 * tf.reduce_sum(error**2 + np.log(2 * np.pi), axis=-1)

        return log_normal(x - self.dense(zs[0])), log_normal(zs[0])

    def sample_latents(self, n, seed, context=None):
        return (randomness.normal([n, *self.n_latent], seed),)

    def mean(self, zs, context=None):
        return self.dense(zs[0])

    def sample(self, zs, seed, context=None):
        mean = self.mean(zs)
        return mean + randomness.normal(tf.shape(mean), seed), mean


def test_networks_of_keras_that_take_rows_only_train_and_score():
    model = IWAE(
        q(networks=[encoder()]), p(networks=[decoder()], likelihood=Gaussian())
    )
    model.compile("adam", n_samples=4, jit_compile=False)
    x = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)
    before = log_likelihood(model, x, 50, jit_compile=False).mean
    model.fit(x, epochs=30, batch_size=6, verbose=0)
    after = log_likelihood(model, x, 50, jit_compile=False).mean
    assert after > before + 3


def test_a_network_on_rows_equals_one_on_all_axes():
    def chain(network):
        return Chain(SHAPE, n_latent=(3, 2), networks=[network, LAYERS.Dense(4)])

    rows, dense = decoder(), LAYERS.Dense(6, activation="relu")
    on_rows, on_all = chain(rows), chain(dense)
    for generator in (on_rows, on_all):
        IWAE(GaussianChain([(4,), (4,)], (3, 2)), generator)
    for one, other in zip(on_rows.weights, on_all.weights, strict=True):
        one.assign(np.random.default_rng(one.shape[0]).normal(size=one.shape))
        other.assign(one)
    zs = tuple(tf.random.stateless_normal([2, 5, d], [1, d]) for d in (3, 2))
    want = on_all.pixel_logits(dense(zs[0]))
    np.testing.assert_allclose(on_rows.parameters(zs)[0], want, rtol=1e-5)
    for one, other in zip(on_rows.factors(zs), on_all.factors(zs), strict=True):
        np.testing.assert_allclose(one.mean(), other.mean(), rtol=1e-5)


def test_a_decoder_may_give_the_parameters_itself():
    images = keras.Sequential([LAYERS.Dense(64), LAYERS.Reshape(SHAPE)])
    model = IWAE(q(networks=[encoder()]), p(networks=[images], head=LAYERS.Identity()))
    zs = (tf.random.stateless_normal([2, 5, 3], [1, 2]),)
    want = tf.sigmoid(tf.reshape(images(zs[0][1]), [5, *SHAPE]))
    np.testing.assert_allclose(model.generator.mean(zs)[1], want, rtol=1e-5)


def test_own_posterior_and_generator_are_exact_where_q_is():
    model = IWAE(Own(2), Unit(2))
    model.generator.dense.kernel.assign(np.zeros((2, 2)))
    model.posterior.dense.kernel.assign(np.zeros((2, 2)))
    x = np.array([[0.5, -1.0], [2.0, 0.0]], np.float32)  # q is p(z|x), so w is constant
    score = log_likelihood(model, x, 7, jit_compile=False)
    want = -0.5 * np.sum(x**2, axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(score.log_px, want, rtol=1e-5)
    np.testing.assert_allclose(score.ess, 7, rtol=1e-4)
    assert model.encode(x).scales is None
    samples, means = model.sample(4, 1)
    assert samples.shape == means.shape == (4, 2)
    with pytest.raises(UsageError, match="^posterior: must have a method factors"):
        units.statistics(model, x)
    model.compile("adam", "dreg", 2, jit_compile=False)
    with pytest.raises(UsageError, match="^posterior: must have a method factors"):
        model.fit(x, verbose=0)


class Wrong(Unit):
    """A generator with one method that is wrong."""

    def __init__(self, name, change):
        super().__init__(2)
        own = getattr(self, name)
        setattr(self, name, lambda *args: change(own(*args)))


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (
            lambda: IWAE(q(networks=[decoder(7)]), p(networks=[decoder()])),
            r"posterior.draw: must take x \(3, 8, 8, 1\) and k = 2, got ValueError: .*"
            r"\(3, 64\).*",
        ),
        (
            lambda: IWAE(q(networks=[encoder()]), p(networks=[decoder(7)])),
            r"generator.log_joint: must take .*, got ValueError: .*\(6, 3\)",
        ),
        (
            lambda: IWAE(
                q(widths=[()]), p(networks=[decoder()], head=LAYERS.Identity())
            ),
            "head: must give 64 numbers, 1 for each entry of x, got 6",
        ),
        (
            lambda: IWAE(GaussianChain([()], (2,)), p(widths=[()])),
            r"generator: must have the latents of the posterior, \(2,\), got \(3,\)",
        ),
        (
            lambda: IWAE(object(), p(widths=[()])),
            "posterior: must have n_latent, see iwae_tf.posteriors.Post.*, got object",
        ),
        (
            lambda: IWAE(q(widths=[()]), Generator()),
            "generator: must have event_shape, see iwae_tf.generators.Gen.*, got .*",
        ),
        (
            lambda: IWAE(Own(2, tf.reduce_sum), Unit(2)),
            r"posterior.draw: must return log_qz of shape \[2, 3\], got \[\]",
        ),
        (
            lambda: IWAE(Own(2), Wrong("log_joint", lambda r: (r[0][0], r[1]))),
            r"generator.log_joint: must return log_px of shape \[2, 3\], got \[3\]",
        ),
        (
            lambda: IWAE(Own(2), Wrong("mean", lambda mean: mean[..., :1])),
            r"generator.mean: must return mean of shape \[2, 3, 2\], got \[2, 3, 1\]",
        ),
        (
            lambda: IWAE(Own(2), Wrong("sample", lambda pair: (pair[0][0], pair[1]))),
            r"generator.sample: must return samples of shape \[2, 3, 2\], got \[3, 2\]",
        ),
        (
            lambda: IWAE(Own(2), Wrong("sample_latents", lambda zs: zs[0])),
            "generator.sample_latents: must return zs of 1 latents, got .*",
        ),
        (
            lambda: IWAE(
                GaussianChain([()], (2,)),
                Chain(SHAPE, [()], (2,), likelihood=Likelihood()),
            ),
            "generator.log_joint: must take .*, got NotImplementedError:.*",
        ),
        (lambda: q(), "networks: must be given, or else widths, got neither"),
        (
            lambda: q(widths=[()], networks=[encoder()]),
            "networks: must be given, or else widths, got both",
        ),
        (
            lambda: p(networks=[decoder(), decoder()]),
            "networks: must be one for each of 1 layers, got 2",
        ),
        (
            lambda: q(networks=encoder()),
            "networks: must be one for each of 1 layers, got Sequential",
        ),
        (
            lambda: q(networks=[np.tanh]),
            "networks: must be layers or models of Keras, got ufunc",
        ),
        (
            lambda: GaussianChain([()]),
            r"n_latent: must be the sizes of one latent or more, .*, got \(\)",
        ),
        (
            lambda: Chain(SHAPE, [()], 3),
            r"n_latent: must be the sizes of one latent or more, .*, got 3",
        ),
    ],
    ids=range(19),
)
def test_wrong_parts_are_told_in_one_line_at_construction(build, rule):
    with pytest.raises(UsageError, match=f"^{rule}$") as found:
        build()
    assert "\n" not in str(found.value)


def half(draws, beta=1.0):
    return 2 * weights.log_mean_exp(draws.log_w(beta) / 2)


def test_own_row_is_logged_as_the_bound_that_it_says():
    model = IWAE(Own(2), Unit(2))
    model.compile("adam", objectives.Objective(half), 3, jit_compile=False)
    x = np.array([[0.5, -1.0], [2.0, 0.0]], np.float32)
    got = model.evaluate(x, return_dict=True, verbose=0)
    draws = model.draw(x, 3, randomness.seed_of(model.seed, randomness.TEST, 0))
    log_w = np.float64(draws.log_w())
    want = np.mean(2 * np.log(np.mean(np.exp(log_w / 2), axis=0)))
    assert got["bound"] == pytest.approx(want, rel=1e-5)
    assert got["vae_elbo"] < got["bound"] < got["iwae_elbo"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (
            {"bound": lambda draws, beta: draws.log_w()},
            r"objective.bound: must return bound of shape \[3\], got \[2, 3\]",
        ),
        (
            {"bound": lambda draws: draws.log_px[0]},
            "objective.bound: must take draws .*, got TypeError: .*",
        ),
        (
            {"bound": half, "phi_weights": lambda log_w, beta: log_w[0]},
            r"objective.phi_weights: must return weights of shape \[2, 3\], got \[3\]",
        ),
    ],
    ids=range(3),
)
def test_wrong_rows_are_told_in_one_line_by_compile(row, rule):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        IWAE(Own(2), Unit(2)).compile("adam", objectives.Objective(**row))
