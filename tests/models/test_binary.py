"""Tests of iwae_tf.models.binary: what is exact is summed over all latents in NumPy."""

import itertools
from functools import partial

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from eager import eagerly

import iwae_tf
from iwae_tf import inspection, randomness, weights
from iwae_tf.errors import UsageError
from iwae_tf.measures import units
from iwae_tf.measures.annealing import Annealer
from iwae_tf.measures.gradients import gradient_statistics
from iwae_tf.models import likelihoods, parts, zoo
from iwae_tf.models.binary import BeliefNetwork, BernoulliChain
from iwae_tf.models.iwae import IWAE
from iwae_tf.objectives import Objective, iwae_elbo, normalised
from iwae_tf.rules import OBJECTIVES, WITHOUT_REPARAMETERISATION
from iwae_tf.runs.config import Config

SHAPE = (2, 2, 1)
SEED = randomness.seed_of(3)
LAYERS = pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
REFUSED = [name for name in OBJECTIVES if name not in WITHOUT_REPARAMETERISATION]
X = np.array([[0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 1]], np.float32).reshape(3, *SHAPE)


def network(n_latent=(3,), shape=SHAPE, **options):
    """A sigmoid belief network whose weights are not near zero."""
    model = zoo.sbn(shape, len(n_latent), n_latent, **options)
    rng = np.random.default_rng(len(n_latent))
    for v in model.trainable_variables:
        v.assign(rng.normal(scale=0.8, size=v.shape))
    return model


def values(part):
    """The variables of q or p in NumPy float64."""
    return [np.asarray(v, np.float64) for v in part.trainable_variables]


def states(n_latent):
    """All values of all latents, bottom-up: each [2^(d1 + d2 + ...), 1, d]."""
    whole = np.array(list(itertools.product((0.0, 1.0), repeat=sum(n_latent))))
    return np.split(whole[:, np.newaxis], np.cumsum(n_latent)[:-1], axis=-1)


def bernoulli(x, logits):
    """Log-probability of binary x, summed over the last axis."""
    return -np.logaddexp(0, (1 - 2 * x) * logits).sum(axis=-1)


def log_q_of(phi, x, zs):
    """log q(z|x) of latents, each [k, b or 1, d]: [k, b]."""
    belows = [x.reshape(1, len(x), -1), *zs[:-1]]
    return sum(
        bernoulli(z, below @ kernel + bias)
        for z, below, kernel, bias in zip(zs, belows, phi[::2], phi[1::2], strict=True)
    )


def log_p_of(theta, x, zs):
    """log p(x, z): [k, b]. The variables of p are the top logits, and then pairs."""
    top, *pairs = theta
    belows = [x.reshape(1, len(x), -1), *zs[:-1]]
    return bernoulli(zs[-1], top) + sum(
        bernoulli(below, z @ kernel + bias)
        for z, below, kernel, bias in zip(
            zs, belows, pairs[::2], pairs[1::2], strict=True
        )
    )


def log_densities(phi, theta, n_latent, x=X):
    """log q(z|x) and log p(x, z) of every z, each [2^..., b]."""
    zs = states(n_latent)
    return log_q_of(phi, x, zs), log_p_of(theta, x, zs)


def log_evidence(phi, theta, n_latent):
    """log p(x), averaged over the images."""
    return scipy.special.logsumexp(log_p_of(theta, X, states(n_latent)), axis=0).mean()


def bound_of_two(phi, theta, n_latent):
    """E log((w_1 + w_2) / 2), summed over all pairs, averaged over the images."""
    log_q, log_p = log_densities(phi, theta, n_latent)
    log_w = log_p - log_q
    log_mean = np.logaddexp(log_w[:, np.newaxis], log_w) - np.log(2)
    q = np.exp(log_q)
    return np.einsum("ib,jb,ijb->b", q, q, log_mean).mean()


def wake(phi, theta, n_latent, posterior):
    """E log q(z|x) under given probabilities of all z, averaged over the images."""
    return np.sum(posterior * log_q_of(phi, X, states(n_latent)), axis=0).mean()


def asleep(phi, theta, n_latent):
    """E log q(z|x) under p(x, z), summed over all x too; p is held by the caller."""
    x = states((4,))[0].reshape(16, 4)
    log_q = log_q_of(phi, x, states(n_latent))
    log_p = log_p_of(theta, x, states(n_latent))
    return np.sum(np.exp(log_p) * log_q)


def differences(function, parameters, step=1e-5):
    """The gradient of a function of a list of arrays, by central differences."""
    gradient = []
    for i, array in enumerate(parameters):
        for place in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in parameters]
                moved[i][place] += sign * step
                ends.append(function(moved))
            gradient.append((ends[0] - ends[1]) / (2 * step))
    return np.array(gradient)


def in_phi(function, model):
    theta, n_latent = values(model.generator), model.posterior.n_latent
    return differences(lambda v: function(v, theta, n_latent), values(model.posterior))


def in_theta(function, model):
    phi, n_latent = values(model.posterior), model.posterior.n_latent
    return differences(lambda v: function(phi, v, n_latent), values(model.generator))


def estimated(model, objective, k, n_copies, n_draws):
    """Mean gradient of the bound and its standard error, of phi and of theta."""
    found = gradient_statistics(
        model,
        np.tile(X, (n_copies, 1, 1, 1)),
        objective,
        n_samples=k,
        n_draws=n_draws,
        jit_compile=False,
    )
    return {
        name: (-m.mean, np.sqrt(m.variance / m.n_draws)) for name, m in found.items()
    }


def deviation(found, want):
    """The largest difference in standard errors."""
    mean, error = found
    return np.max(np.abs(mean - want) / (error + 1e-7))


# Densities and draws -----------------------------------------------------------------


@LAYERS
def test_densities_equal_those_of_numpy(n_latent):
    model = network(n_latent)
    zs = states(n_latent)
    log_q, log_p = log_densities(
        *map(values, (model.posterior, model.generator)), n_latent
    )
    tiled = tuple(tf.constant(np.tile(z, (1, 3, 1)), tf.float32) for z in zs)
    draws = model.weigh(X, tiled)
    np.testing.assert_allclose(draws.log_qz, log_q, rtol=1e-5)
    np.testing.assert_allclose(draws.log_px + draws.log_pz, log_p, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_q).sum(axis=0), 1)


@LAYERS
def test_draws_have_the_probabilities_of_all_latents(n_latent):
    model, n = network(n_latent), 40_000
    zs, log_qz = model.posterior.draw(tf.constant(X), n, SEED)
    log_q, log_p = log_densities(
        *map(values, (model.posterior, model.generator)), n_latent
    )
    for i in range(len(X)):
        check_frequencies([z[:, i] for z in zs], np.exp(log_q[:, i]))
    np.testing.assert_allclose(log_qz, model.posterior.log_prob(zs, X), rtol=1e-5)
    of_prior = model.generator.sample_latents(n, SEED)
    # p(z) is the sum of p(x, z) over all 16 x.
    x = states((4,))[0].reshape(16, 4)
    log_p = log_p_of(values(model.generator), x, states(n_latent))
    check_frequencies(of_prior, np.exp(log_p).sum(axis=1))
    samples, _ = model.sample(n, 4)
    evidence = np.exp(log_p).sum(axis=0)
    check_frequencies([tf.reshape(samples, [n, 4])], evidence)


def check_frequencies(zs, probabilities):
    """Compares draws, each [n, d], with the probabilities of all states."""
    whole = np.concatenate([np.asarray(z) for z in zs], axis=-1)
    assert set(np.unique(whole)) <= {0.0, 1.0}
    number = whole @ 2.0 ** np.arange(whole.shape[-1])[::-1]
    counts = np.bincount(number.astype(int), minlength=len(probabilities))
    expected = probabilities / probabilities.sum() * len(whole)
    assert probabilities.sum() == pytest.approx(1)
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4


def test_layers_and_images_share_no_noise():
    q = BernoulliChain([(), ()], (50, 50))
    zs, _ = q.draw(tf.zeros([2, 4]), 400, SEED)
    for v in q.trainable_variables:  # all are fair coins
        v.assign(tf.zeros_like(v))
    zs, _ = q.draw(tf.zeros([2, 4]), 400, SEED)
    columns = np.stack([z[:, i].numpy().ravel() for z in zs for i in range(2)])
    correlations = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlations).max() < 5 / columns.shape[1] ** 0.5


@LAYERS
def test_log_likelihood_tends_to_the_sum_over_all_latents(n_latent):
    model, k = network(n_latent), 20_000
    log_q, log_p = log_densities(
        *map(values, (model.posterior, model.generator)), n_latent
    )
    want = scipy.special.logsumexp(log_p, axis=0)
    found = iwae_tf.log_likelihood(model, X, k, jit_compile=False)
    variance = np.exp(2 * log_p - log_q).sum(axis=0) - np.exp(2 * want)
    error = np.sqrt(variance / k) / np.exp(want)
    assert np.all(np.abs(found.log_px - want) < 5 * error)
    assert np.all(error < 0.1)


def test_posterior_that_is_exact_gives_every_sample_the_same_weight():
    # Each x_i depends on z_i alone, so that p(z|x) is a product of logits linear in x.
    model = network((4,))
    top, kernel, bias = model.generator.trainable_variables
    slope = np.diag([1.0, -2.0, 0.5, 3.0])
    kernel.assign(slope)
    on, off = np.diag(slope) + bias.numpy(), bias.numpy()
    model.posterior.trainable_variables[0].assign(slope)
    model.posterior.trainable_variables[1].assign(
        top.numpy() - np.logaddexp(0, on) + np.logaddexp(0, off)
    )
    log_w = model.draw(X, 50, 1).log_w().numpy()
    want = scipy.special.logsumexp(
        log_p_of(values(model.generator), X, states((4,))), axis=0
    )
    np.testing.assert_allclose(log_w, np.tile(want, (50, 1)), rtol=1e-5)


# Gradients ---------------------------------------------------------------------------


@LAYERS
def test_vimco_has_the_gradient_of_the_bound_of_two_samples(n_latent):
    model = network(n_latent)
    found = estimated(model, "vimco", 2, 1000, 100)  # 10^5 draws of each image
    of_phi, of_theta = in_phi(bound_of_two, model), in_theta(bound_of_two, model)
    assert deviation(found["posterior"], of_phi) < 5
    assert deviation(found["generator"], of_theta) < 5
    assert np.max(found["posterior"][1]) < 0.02 * np.max(np.abs(of_phi))


def without_weights(log_w, beta=1.0):
    return weights.log_mean_exp(log_w) - weights.log_mean_exp_without_each(log_w)


def with_plain_weights(log_w, beta=1.0):
    return -normalised(log_w)


@pytest.mark.parametrize("phi_weights", [without_weights, with_plain_weights])
def test_the_gradient_is_another_without_a_term_of_vimco(phi_weights):
    model = network((3, 2))
    wrong = Objective(iwae_elbo, normalised, phi_weights, "score", min_samples=2)
    found = estimated(model, wrong, 2, 1000, 100)
    assert deviation(found["posterior"], in_phi(bound_of_two, model)) > 20


@LAYERS
def test_wake_sleep_tends_to_the_gradients_of_the_evidence_and_of_wake(n_latent):
    model = network(n_latent)
    log_p = log_p_of(values(model.generator), X, states(n_latent))
    posterior = scipy.special.softmax(log_p, axis=0)
    of_theta = in_theta(log_evidence, model)
    of_phi = in_phi(partial(wake, posterior=posterior), model)
    many = estimated(model, "rws", 2000, 5, 20)
    assert deviation(many["generator"], of_theta) < 5
    assert deviation(many["posterior"], of_phi) < 5
    few = estimated(model, "rws", 2, 200, 20)
    assert np.linalg.norm(few["generator"][0] - of_theta) > 5 * np.linalg.norm(
        many["generator"][0] - of_theta
    )


@LAYERS
def test_sleep_has_the_gradient_of_the_expectation_over_x_and_z(n_latent):
    model = network(n_latent)
    found = estimated(model, "rws_sleep", 2, 1000, 30)
    assert deviation(found["posterior"], in_phi(asleep, model)) < 5


@pytest.mark.parametrize(
    ("objective", "jit_compile"),
    [(name, name == "vimco") for name in WITHOUT_REPARAMETERISATION],
)
def test_every_objective_that_can_be_trains_a_model(objective, jit_compile):
    patterns = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]], np.float32)
    x = patterns[np.random.default_rng(0).integers(0, 3, 200)].reshape(200, *SHAPE)
    model = zoo.sbn(SHAPE, 1, (3,), x.mean(axis=0))
    adam = keras.optimizers.Adam(0.05)
    model.compile(adam, objective, n_samples=10, jit_compile=jit_compile)
    history = model.fit(x, batch_size=25, epochs=20, verbose=0).history
    # No model has more than -log 3 = -1.1 nats, and that of the means has -2.7.
    assert history["iwae_elbo"][0] < -2.4 and history["iwae_elbo"][-1] > -1.6


# Measures ----------------------------------------------------------------------------


@LAYERS
def test_statistics_of_units_are_those_of_the_sums(n_latent):
    model = network(n_latent)
    with eagerly():
        found = units.statistics(model, X, 20_000)
    phi, theta = map(values, (model.posterior, model.generator))
    log_q, log_p = log_densities(phi, theta, n_latent)
    q, zs = np.exp(log_q), states(n_latent)
    log_px = bernoulli(X.reshape(1, 3, 4), zs[0] @ theta[1] + theta[2])
    kl = np.sum(q * (log_q - log_p + log_px), axis=0).mean()
    assert sum(layer.kl.sum() for layer in found) == pytest.approx(kl, rel=0.03)
    for layer, z in zip(found, zs, strict=True):
        mean = np.einsum("nb,nbd->bd", q, np.broadcast_to(z, (*q.shape, z.shape[-1])))
        np.testing.assert_allclose(layer.mean, mean.mean(axis=0), atol=0.01)
        want = (mean * (1 - mean)).mean(axis=0)
        np.testing.assert_allclose(layer.variance, want, atol=0.01)
        want = mean.var(axis=0, ddof=1)
        np.testing.assert_allclose(layer.activity, want, atol=0.01)


def test_a_unit_that_is_taken_out_leaves_the_evidence_of_the_others():
    model, k = network((3,)), 4000
    kept, held = np.array([True, False, True]), np.array([0.0, 1.0, 0.0])
    without = units.WithoutUnits(model, [kept], [held])
    found = iwae_tf.log_likelihood(without, X, k, jit_compile=False).log_px
    (zs,) = states((3,))
    zs = zs[zs[:, 0, 1] == 1]
    top, kernel, bias = values(model.generator)
    log_p = bernoulli(zs[..., kept], top[kept]) + bernoulli(
        X.reshape(1, 3, 4), zs @ kernel + bias
    )
    want = scipy.special.logsumexp(log_p, axis=0)
    np.testing.assert_allclose(found, want, atol=0.05)


@LAYERS
def test_weighted_draws_have_the_moments_of_the_exact_posterior(n_latent):
    model = network(n_latent)
    log_p = log_p_of(values(model.generator), X, states(n_latent))
    posterior = scipy.special.softmax(log_p, axis=0)
    draws = model.draw(X, 20_000, 5)
    embedded = model.embed(X, 20_000, jit_compile=False)
    resampled = inspection.sir(draws, 20_000, 6)
    for level, z in enumerate(states(n_latent)):
        want = np.einsum("nb,nd->bd", posterior, z[:, 0])
        error = inspection.snis_standard_error(draws)[level].numpy()
        mean = inspection.snis_mean(draws)[level].numpy()
        assert np.all(np.abs(mean - want) < 5 * error)
        assert np.all(np.abs(embedded.means[level] - want) < 5 * error)
        error = np.sqrt(error**2 + want * (1 - want) / 20_000)
        assert np.all(np.abs(np.mean(resampled[level], axis=0) - want) < 5 * error)


@LAYERS
def test_encodings_are_probabilities_and_standard_deviations(n_latent):
    model = network(n_latent)
    encoded = model.encode(X)
    below = X.reshape(3, 4).astype(np.float64)
    phi = values(model.posterior)
    for level in range(len(n_latent)):
        p = scipy.special.expit(below @ phi[2 * level] + phi[2 * level + 1])
        np.testing.assert_allclose(encoded.means[level], p, rtol=1e-5)
        np.testing.assert_allclose(
            encoded.scales[level], np.sqrt(p * (1 - p)), rtol=1e-5
        )
        below = p
    # E[x|z] at the probabilities of z1.
    _, kernel, bias = values(model.generator)[:3]
    want = scipy.special.expit(encoded.means[0] @ kernel + bias).reshape(X.shape)
    np.testing.assert_allclose(model.predict(X, verbose=0), want, rtol=1e-5)
    np.testing.assert_allclose(model.decode(encoded.means), want, rtol=1e-5)


def test_closed_form_kl_is_that_of_the_sum():
    model = network((3,))
    log_q = log_q_of(values(model.posterior), X, states((3,)))
    log_pz = bernoulli(states((3,))[0], values(model.generator)[0])
    want = np.sum(np.exp(log_q) * (log_q - log_pz), axis=0)
    np.testing.assert_allclose(model.kl(X), want, rtol=1e-5)


# Kinds of models ---------------------------------------------------------------------


def test_contexts_reach_every_layer_and_the_top_only_if_asked():
    y = np.eye(2, dtype=np.float32)[[0, 1, 1]]
    for prior in (False, True):
        model = network((3, 2), n_context=2, conditional_prior=prior)
        zs, _ = model.posterior.draw(tf.constant(X), 2, SEED, y)
        for other in (False, True):
            factors = [
                *model.posterior.factors(zs, X, y[::-1] if other else y),
                *model.generator.factors(zs, y[::-1] if other else y),
            ]
            means = [factor.mean().numpy() for factor in factors]
            if not other:
                before = means
        moved = [not np.allclose(a, b) for a, b in zip(before, means, strict=True)]
        assert moved == [True, True, True, prior]
        samples, _ = model.sample(3, 1, y)
        assert samples.shape == X.shape


def test_missing_entries_are_left_out():
    model = network((3,), missing=True, mask_input=True)
    x = X.copy()
    x[:, 0, 0] = np.nan
    zs = tuple(tf.constant(np.tile(z, (1, 3, 1)), tf.float32) for z in states((3,)))
    _, kernel, bias = values(model.generator)
    seen = X.reshape(3, 4)[np.newaxis, :, 1:]
    want = bernoulli(seen, states((3,))[0] @ kernel[:, 1:] + bias[1:])
    np.testing.assert_allclose(model.weigh(x, zs).log_px, want, rtol=1e-5)
    assert np.all(np.isfinite(inspection.impute(model, x, 50, jit_compile=False).mean))


def test_other_likelihoods_and_hidden_units():
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    model = IWAE(
        BernoulliChain([(6,), (4,)], (3, 2)),
        BeliefNetwork((5,), [(6,), (4,)], (3, 2), likelihood=likelihoods.Gaussian()),
    )
    model.compile("adam", "rws", n_samples=3, jit_compile=False)
    assert np.isfinite(model.fit(x, verbose=0).history["loss"][0])


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16"])
def test_densities_are_of_the_type_of_the_variables(policy):
    with parts.precision(policy):
        model = network((3, 2))
    kept = tf.float64 if policy == "float64" else tf.float32
    draws = model.draw(X, 2, 1)
    for part in (*draws.zs, draws.log_px, draws.log_pz, draws.log_qz):
        assert part.dtype == kept
    assert model.sample(2, 1)[0].dtype == kept


def test_noise_of_a_share_is_that_of_the_whole_batch():
    q = network((3, 2)).posterior
    zs, _ = q.draw(tf.constant(X), 5, SEED)
    with randomness.of_share(1, 3):
        of_share, _ = q.draw(tf.constant(X[1:]), 5, SEED)
    for z, own in zip(zs, of_share, strict=True):
        np.testing.assert_array_equal(z[:, 1:], own)


def test_default_sizes_are_200_units_in_each_layer():
    model = zoo.build((8, 8, 1), model="sbn", stochastic_layers=3)
    assert model.posterior.n_latent == (200, 200, 200)
    mean = np.full((8, 8, 1), 0.2)
    bias = zoo.sbn((8, 8, 1), mean=mean).generator.pixel_logits.bias.numpy()
    np.testing.assert_allclose(bias, np.log(0.25), rtol=1e-5)


# Refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", REFUSED)
def test_objectives_that_need_a_reparameterisation_are_refused(objective):
    with pytest.raises(UsageError, match="vimco, ovis, rws, rws_sleep or tvo"):
        network().compile("adam", objective, n_samples=3)
    with pytest.raises(
        UsageError,
        match="^objective: must be vimco, ovis, rws, rws_sleep or tvo for model",
    ):
        Config(model="sbn", objective=objective)


def test_the_default_objective_is_refused_and_not_replaced():
    with pytest.raises(UsageError, match="^objective: .*got iwae_elbo$"):
        Config(model="sbn")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"scorer": "ais"}, "^scorer: must be importance for model sbn"),
        ({"n_flows": 2}, "^n_flows: goes with continuous latents only, got 2"),
        ({"n_hidden": (5,)}, "^n_hidden: goes with model burda or dense only"),
        ({"n_latent": (5, 4)}, "^n_latent: must be 1 positive sizes"),
        ({"n_bounded": 1}, "^n_bounded: goes with model"),
        ({"n_samples": 1}, "^n_samples: must be at least 2 for objective vimco, got 1"),
    ],
)
def test_options_that_go_with_continuous_latents_are_refused(options, rule):
    with pytest.raises(UsageError, match=rule):
        Config(model="sbn", objective="vimco", **options)


def test_measures_that_need_continuous_latents_are_refused():
    model = network((2,))
    with pytest.raises(UsageError, match="^model: must have continuous latents for an"):
        Annealer(model)
    with pytest.raises(UsageError, match="^model: must have continuous latents for in"):
        model.interpolate(X, X, 3)
    with pytest.raises(UsageError, match="^model: must have continuous latents for a "):
        inspection.posterior_on_grid(model, X[0], ((0, 1), (0, 1)))
    with pytest.raises(UsageError, match="^n_flows: goes with continuous latents only"):
        zoo.build(SHAPE, model="sbn", n_flows=2)
    with pytest.raises(UsageError, match="^n_context: must be at least 1"):
        zoo.sbn(SHAPE, conditional_prior=True)
