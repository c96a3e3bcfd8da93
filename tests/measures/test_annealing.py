"""Tests of iwae_tf.measures.annealing."""

import functools
import types

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp
from eager import eagerly
from linear_gaussian import LinearGaussian, exact_posterior

from iwae_tf import randomness, weights
from iwae_tf.errors import UsageError
from iwae_tf.measures import annealing
from iwae_tf.measures import likelihood as evaluation
from iwae_tf.measures.annealing import Annealer, certify, log_likelihood, temperatures
from iwae_tf.models import zoo
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.networks import MLP
from iwae_tf.models.posteriors import FlowPosterior, GaussianChain
from iwae_tf.rules import AIS_SCHEDULES, AIS_STARTS

SEED = randomness.seed_of(5)


def plain(*args, **kwargs):
    """An annealer that is not compiled, which would take longer than the chains."""
    return Annealer(*args, jit_compile=False, **kwargs)


def anneal(annealer, x, context=None):
    """Chains forward, with step sizes of their own."""
    sizes = annealer.step_sizes(x, randomness.seed_of(SEED, 0), context)
    return annealer.forward(x, sizes, randomness.seed_of(SEED, 1), context)


def both_directions(annealer, x, zs):
    """Chains forward, and in reverse from zs, with the same step sizes."""
    sizes = annealer.step_sizes(x, randomness.seed_of(SEED, 4))
    forward = annealer.forward(x, sizes, randomness.seed_of(SEED, 5))
    reverse = annealer.reverse(x, zs, sizes, randomness.seed_of(SEED, 6))
    return forward, reverse


def deviation(ratios):
    """How many standard errors the mean of independent ratios is away from 1."""
    return abs(np.mean(ratios) - 1) / (np.std(ratios, ddof=1) / len(ratios) ** 0.5)


def linear_gaussian(n_latent=(3,), shift=0.3, stretch=1.2):
    """A model with a posterior near the exact one."""
    generator = LinearGaussian(n_latent=n_latent)
    return IWAE(exact_posterior(generator, shift, stretch), generator)


def joint_draws(generator, n):
    """Latents from the prior, and images from p(x|z)."""
    zs = generator.sample_latents(n, randomness.seed_of(SEED, 2))
    mean, scale = generator.mean(zs), np.exp(generator.log_scales[0])
    noise = randomness.normal(mean.shape, randomness.seed_of(SEED, 3))
    return (mean + scale * noise).numpy(), zs


# Temperatures ------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", AIS_SCHEDULES)
@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_temperatures_rise_from_0_to_1_and_are_symmetric(n, schedule):
    betas = temperatures(n, schedule)
    assert betas.shape == (n + 1,) and betas[0] == 0 and betas[-1] == 1
    assert np.all(np.diff(betas) > 0)
    np.testing.assert_allclose(betas + betas[::-1], 1, atol=1e-12)


def test_linear_temperatures_are_even_and_sigmoidal_ones_slow_at_both_ends():
    np.testing.assert_allclose(np.diff(temperatures(10, "linear")), 0.1)
    betas = temperatures(100, "sigmoidal")
    steps = np.diff(betas)
    assert np.argmax(steps) in (49, 50) and np.argmin(steps) in (0, 99)
    # The derivative of the logistic function falls by this much from 0 to 4.
    end = scipy.special.expit(4)
    assert steps[50] / steps[0] == pytest.approx(0.25 / (end * (1 - end)), rel=0.1)


# Exact normalisers -------------------------------------------------------------------


class Unnormalised:
    """log_px is that of a Gaussian in z without its normaliser; log_pz is N(0, I)'s."""

    event_shape = (1, 1, 1)

    def __init__(self, mean, scale):
        self.mean, self.scale = (np.asarray(v, np.float32) for v in (mean, scale))

    def log_joint(self, x, zs, context=None):
        prior = tfp.distributions.MultivariateNormalDiag(tf.zeros(len(self.mean)))
        squares = tf.square((zs[0] - self.mean) / self.scale)
        return -tf.reduce_sum(squares, axis=-1) / 2, prior.log_prob(zs[0])

    def sample_latents(self, n, seed, context=None):
        return (randomness.normal([n, len(self.mean)], seed),)

    def log_normaliser(self):
        """Log of the integral of exp(log_px + log_pz), in float64."""
        mean, scale = (np.float64(v) for v in (self.mean, self.scale))
        total = 1 + scale**2
        return np.sum(np.log(scale**2 / total) - mean**2 / total) / 2


def gaussian_model():
    """An unnormalised Gaussian target, and a start that is another Gaussian."""
    posterior = GaussianChain([()], [2])
    model = types.SimpleNamespace(
        posterior=posterior, generator=Unnormalised([1.5, -0.5], [0.5, 1.0])
    )
    posterior.draw(tf.zeros([1, 1, 1, 1]), 1, SEED)
    (layer,) = posterior.conditionals
    layer.loc.bias.assign([0.7, 0.2])
    layer.log_scale.bias.assign([-0.3, 0.1])
    return model


def with_temperatures(annealer, n, schedule="linear"):
    """The same annealer, compiled already, with other temperatures."""
    annealer.betas = temperatures(n, schedule).astype(np.float32)
    return annealer


@pytest.mark.parametrize("start", AIS_STARTS)
def test_mean_weight_is_the_normaliser_of_a_gaussian(start):
    model = gaussian_model()
    annealer = plain(model, 2000, 1, 3, start=start)
    for n in (1, 10, 50):
        annealed = anneal(
            with_temperatures(annealer, n), np.zeros([2, 1, 1, 1], np.float32)
        )
        ratios = np.exp(annealed.log_w - model.generator.log_normaliser())
        assert annealed.log_w.shape == (2000, 2)
        assert deviation(ratios.ravel()) < 5
        # The test would see a normaliser that is wrong by a sixth.
        assert 5 * np.std(ratios) / 4000**0.5 < 1 / 6


@pytest.mark.parametrize(
    ("schedule", "start"), [("linear", "posterior"), ("sigmoidal", "prior")]
)
def test_mean_weight_is_the_evidence_of_a_linear_gaussian_model(start, schedule):
    model = linear_gaussian((3, 2))
    x = model.generator.images(4)
    exact = model.generator.log_evidence(x)
    annealer = plain(model, 400, 10, 3, start=start)
    for n in (10, 200):
        annealed = anneal(with_temperatures(annealer, n, schedule), x)
        assert max(map(deviation, np.exp(annealed.log_w - exact).T)) < 5
        assert np.all((1 < annealed.ess) & (annealed.ess <= 400))
    # And it is close, not only right on average.
    np.testing.assert_allclose(annealed.lower, exact, atol=0.05)


class Stale(Annealer):
    """Kernel results are those of the temperature before."""

    def _transition(self, z, x, context, beta, size, seed, t):
        densities = self._densities(x, context)

        def kernel_at(beta):
            def log_density(z):
                start, ratio = densities(z)
                return start + beta * ratio

            step = size[:, tf.newaxis] * self._scale(x, context, beta)
            return tfp.mcmc.HamiltonianMonteCarlo(log_density, step, self.n_leapfrog)

        before = tf.gather(self.betas, tf.minimum(t, len(self.betas)) - 1)
        results = kernel_at(before).bootstrap_results(z)
        seed = randomness.seed_of(seed, t)
        z, results = kernel_at(beta).one_step(z, results, seed=seed)
        share = tf.reduce_mean(tf.cast(results.is_accepted, tf.float32), axis=0)
        return z, densities(z)[1], share


def test_results_of_the_temperature_before_give_another_normaliser():
    model = gaussian_model()
    x = np.zeros([2, 1, 1, 1], np.float32)
    ratios = {}
    for kind in (Annealer, Stale):
        annealed = anneal(kind(model, 20_000, 10, 3, jit_compile=False), x)
        ratios[kind] = np.exp(annealed.log_w - model.generator.log_normaliser())
    assert deviation(ratios[Annealer].ravel()) < 5
    assert deviation(ratios[Stale].ravel()) > 5


@eagerly()
def test_one_temperature_is_importance_sampling():
    model = linear_gaussian()
    x = model.generator.images(4)
    annealed = anneal(plain(model, 8, 1), x)
    draws = model.draw(x, 8, randomness.seed_of(SEED, 1, 0))
    np.testing.assert_allclose(annealed.log_w, draws.log_w(), atol=1e-4)
    assert np.isnan(annealed.acceptance).all()


def flow_model():
    """A model with a posterior near the exact one before a flow that is no identity."""
    generator = LinearGaussian(n_latent=(3,))
    keras.utils.set_random_seed(0)
    posterior = FlowPosterior(MLP(()), 3, 2, (8,), 4)
    posterior.draw(generator.images(1), 1, SEED)
    (exact,) = exact_posterior(generator, stretch=1.5).conditionals
    posterior.conditionals[0].set_weights(exact.get_weights())
    for step in posterior.flow.steps:
        step.outputs.kernel.assign(0.5 * tf.sign(step.outputs.kernel))
    posterior.flow.forget_bias = 2.0
    return IWAE(posterior, generator)


@eagerly()
def test_one_temperature_from_a_flow_is_importance_sampling():
    model = flow_model()
    x = model.generator.images(4)
    annealer = plain(model, 8, 1)
    draws = model.draw(x, 8, randomness.seed_of(SEED, 1, 0))
    np.testing.assert_allclose(anneal(annealer, x).log_w, draws.log_w(), atol=1e-4)
    # In reverse the flow is undone, whatever latents are given.
    last = annealer.reverse(x, [z[-1] for z in draws.zs], None, SEED)
    want = np.tile(draws.log_w()[-1], [8, 1])
    np.testing.assert_allclose(last.log_w, want, atol=1e-4)
    (z,), _ = GaussianChain.draw(model.posterior, x, 8, SEED)
    assert np.abs(model.posterior.draw(x, 8, SEED)[0][0] - z).mean() > 0.2


@pytest.mark.parametrize("start", AIS_STARTS)
def test_chains_of_a_flow_estimate_the_evidence_in_both_directions(start):
    model = flow_model()
    x, zs = joint_draws(model.generator, 500)
    exact = model.generator.log_evidence(x)
    forward, reverse = both_directions(plain(model, 4, 30, 3, start=start), x, zs)
    assert deviation(np.exp(exact - reverse.log_w).mean(axis=0)) < 5
    assert deviation(np.exp(forward.log_w - exact).mean(axis=0)) < 5


# Both directions ---------------------------------------------------------------------


# Compiled once: every function of an annealer is called here.
@pytest.mark.parametrize(
    ("n_latent", "start", "jit_compile"),
    [((3,), "posterior", True), ((3,), "prior", False), ((3, 2), "posterior", False)],
)
def test_reverse_chains_estimate_the_inverse_of_the_evidence(
    n_latent, start, jit_compile
):
    model = linear_gaussian(n_latent)
    x, zs = joint_draws(model.generator, 1000)
    exact = model.generator.log_evidence(x)
    annealer = Annealer(model, 2, 30, 3, start=start, jit_compile=jit_compile)
    forward, reverse = both_directions(annealer, x, zs)
    # Both chains of an image start at one draw: images are independent, they are not.
    assert deviation(np.exp(exact - reverse.log_w).mean(axis=0)) < 5
    assert deviation(np.exp(forward.log_w - exact).mean(axis=0)) < 5
    for below in (exact - forward.lower, reverse.upper - exact):
        assert below.mean() > 3 * evaluation.standard_error(below)
        assert below.mean() < 1


def test_more_temperatures_close_the_gap_between_the_bounds():
    model = zoo.burda((3, 2, 1), n_latent=(2,), n_hidden=(6,), seed=3)
    gaps = {}
    annealer = plain(model, 4, 2, 3)
    for n in (2, 10, 50):
        certificate = certify(with_temperatures(annealer, n), 200, batch_size=200)
        gaps[n] = certificate.gap
        assert certificate.forward.log_w.shape == (4, 200)
        assert certificate.reverse.log_w.shape == (4, 200)
        assert gaps[n].mean() > -3 * evaluation.standard_error(gaps[n])
    assert gaps[50].mean() < gaps[10].mean() / 2 < gaps[2].mean() / 4


def log_evidence(model, x, context=None):
    """Log p(x), or log p(x|y), of a model with two latents: a sum over a grid."""
    line = np.linspace(-16, 16, 321, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 1, 2)
    zs = (tf.broadcast_to(grid, [len(grid), len(x), 2]),)
    values = np.asarray(model.log_joint(x, zs, context), np.float64)
    return scipy.special.logsumexp(values, axis=0) + 2 * np.log(line[1] - line[0])


def assert_agrees(annealed, log_px):
    """Within five standard errors of the mean weight."""
    error = np.sqrt(1 / annealed.ess - 1 / len(annealed.log_w))
    assert np.all(np.abs(annealed.lower - log_px) < 5 * error + 1e-4)
    assert np.all(error < 0.1)


def test_annealing_finds_the_likelihood_of_pixels(tiny, binary):
    model, x = tiny(), binary(6)
    exact = log_evidence(model, x)
    for start in AIS_STARTS:
        annealed = log_likelihood(plain(model, 500, 40, 3, start=start), x)
        assert_agrees(annealed, exact)


def test_annealing_agrees_with_many_draws_of_the_prior(tiny, binary):
    model, x = tiny(2), binary(6)
    zs = model.generator.sample_latents(200_000, SEED)
    zs = [tf.repeat(z[:, tf.newaxis], len(x), axis=1) for z in zs]
    log_px = np.asarray(model.generator.log_px(x, zs), np.float64)
    assert weights.effective_sample_size(log_px).numpy().min() > 20_000
    annealed = log_likelihood(plain(model, 500, 40, 3), x)
    assert_agrees(annealed, weights.log_mean_exp(log_px))


@pytest.mark.parametrize("start", AIS_STARTS)
def test_every_chain_of_a_conditional_model_has_the_context_of_its_image(start):
    model = zoo.burda(
        (3, 2, 1), n_latent=(2,), n_hidden=(4,), n_context=3, conditional_prior=True
    )
    kernel = model.generator.top.loc.kernel
    kernel.assign(1.5 * np.ones(kernel.shape))
    x = np.ones([3, 3, 2, 1], np.float32)
    context = np.eye(3, dtype=np.float32)
    exact = log_evidence(model, x, context)
    assert np.ptp(exact) > 0.5
    # More temperatures from the prior would mend what begins wrong.
    n_chains, n = {"prior": (20_000, 1), "posterior": (500, 100)}[start]
    annealer = plain(model, n_chains, n, 3, start=start)
    annealed = log_likelihood(annealer, x, context=context)
    assert_agrees(annealed, exact)
    if start == "posterior":
        annealer = plain(model, 8, 50, 3)
        gap = certify(annealer, 60, 60, context=np.tile(context, [20, 1])).gap
        assert -3 * evaluation.standard_error(gap) < gap.mean() < 0.5


# Step sizes --------------------------------------------------------------------------


def test_step_sizes_lead_to_the_wanted_acceptance():
    model = linear_gaussian()
    x = model.generator.images(4)
    annealer = plain(model, 64, 100, 3, acceptance=0.5)
    for acceptance in (0.5, 0.9):
        annealer.acceptance = acceptance  # traced once
        sizes = annealer.step_sizes(x, SEED)
        assert sizes.shape == (99, 4) and annealer.n_transitions == (119, 99)
        annealed = annealer.forward(x, sizes, randomness.seed_of(SEED, 1))
        np.testing.assert_allclose(annealed.acceptance, acceptance, atol=0.05)


def test_step_sizes_are_those_of_each_image(tiny, binary):
    model, x = tiny(), binary(3)
    annealer = plain(model, 64, 60, 3)
    sizes = annealer.step_sizes(x, SEED)
    other = annealer.step_sizes(np.concatenate([x[:2], 1 - x[2:]]), SEED)
    np.testing.assert_allclose(sizes[:, :2], other[:, :2], rtol=1e-5)
    assert np.abs(sizes[:, 2] / other[:, 2] - 1).max() > 0.1


# Streams -----------------------------------------------------------------------------


def test_batches_make_no_image_twice_and_leave_none_out():
    model = linear_gaussian()
    x = model.generator.images(5)
    done = []
    annealed = log_likelihood(
        plain(model, 300, 20, 3), x, batch_size=2, on_progress=done.append
    )
    assert annealed.log_w.shape == (300, 5) and annealed.acceptance.shape == (5,)
    np.testing.assert_allclose(
        annealed.lower, model.generator.log_evidence(x), atol=0.2
    )
    assert done == sorted(done) and done[-1] == 5 and len(set(done)) > 50


class Stop(Exception):
    pass


@functools.cache
def small_annealer():
    model = zoo.burda((3, 2, 1), n_latent=(2,), n_hidden=(6,), seed=3)
    return plain(model, 3, 6, 2)


@pytest.mark.parametrize("function", ["images", "simulated"])
def test_stopped_stream_goes_on_after_its_last_batch(function, tmp_path, monkeypatch):
    x, annealer = np.ones([5, 3, 2, 1], np.float32), small_annealer()

    def call(directory, on_progress=lambda n: None):
        options = {"directory": directory, "batch_size": 2, "on_progress": on_progress}
        if function == "images":
            return [log_likelihood(annealer, x, **options)]
        return certify(annealer, 5, **options)

    def stop(done):
        if done >= 4.5:
            raise Stop

    whole = call(None)
    with pytest.raises(Stop):
        call(tmp_path, stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.npz", "000002.npz"]
    begun = []
    transition = annealing._anneal_batch
    monkeypatch.setattr(
        annealing,
        "_anneal_batch",
        lambda *args: begun.append(args) or transition(*args),
    )
    for n_begun in (1, 1):  # the second call finds all of it
        for one, other in zip(whole, call(tmp_path), strict=True):
            np.testing.assert_array_equal(one.log_w, other.log_w)
            np.testing.assert_array_equal(one.acceptance, other.acceptance)
        assert len(begun) == n_begun


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"start": "q"}, "start: must be one of posterior, prior, got 'q'"),
        (
            {"schedule": "cosine"},
            "schedule: must be one of linear, sigmoidal, got 'cosine'",
        ),
        ({"n_chains": 0}, "n_chains: must be at least 1, got 0"),
        ({"n_leapfrog": 0}, "n_leapfrog: must be at least 1, got 0"),
        ({"n_temperatures": 0}, "n_temperatures: must be at least 1, got 0"),
        ({"acceptance": 1.0}, "acceptance: must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_option_is_refused_in_one_line(options, line):
    with pytest.raises(UsageError) as info:
        Annealer(linear_gaussian(), **options)
    assert str(info.value) == line


def test_no_images_are_refused():
    annealer = plain(linear_gaussian(), 2, 2)
    x = np.zeros([0, 2, 4, 1])
    with pytest.raises(UsageError, match="^number of observations: must be at"):
        log_likelihood(annealer, x)
    with pytest.raises(UsageError, match="^n_images: must be at least 1, got 0$"):
        certify(annealer, 0)
    with pytest.raises(UsageError, match="^batch_size: must be at least 1, got 0$"):
        log_likelihood(annealer, np.zeros([1, 2, 4, 1]), batch_size=0)
