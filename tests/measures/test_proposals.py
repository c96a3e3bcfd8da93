"""Tests of iwae_tf.measures.proposals."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly
from linear_gaussian import LinearGaussian, exact_posterior, pair

from iwae_tf import randomness, weights
from iwae_tf.errors import UsageError
from iwae_tf.measures import proposals
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.measures.proposals import Defensive, Inflated, Proposal, Refined
from iwae_tf.models import batches, zoo
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.posteriors import Posterior

EVERY = (Proposal(), Defensive(0.5), Inflated(1.3), Refined(2, 8))
LAYERS = [(3,), (3, 2)]
SMALL = {"chunk": 7, "batch_size": 2, "jit_compile": False}


def of_many(proposal, n_latent, n=50_000, k=2):
    """exp(log w) / p(x) of k draws for each of n copies of one x, [k, n].

    Each copy has a fit of its own.
    """
    generator, model = pair(n_latent, 0.3, 1.2)
    x = np.repeat(generator.images(1), n, axis=0)
    (batch,) = batches.batches_of(model, x, batch_size=n)
    seed = randomness.seed_of(7)
    with eagerly():
        fitted = proposal.fit(model, batch, seed, jit_compile=False)
        own = randomness.seed_of(seed, 0)
        draws = proposal.draw(model, batch.x, k, own, None, fitted)
    return np.exp(np.float64(draws.log_w()) - generator.log_evidence(x[:1]))


def standard_errors_from_1(w):
    """How far the mean of w is from 1; copies are independent and draws may not be."""
    per_copy = w.mean(axis=0)
    return (per_copy.mean() - 1) / (per_copy.std() / len(per_copy) ** 0.5)


@pytest.mark.parametrize("n_latent", LAYERS)
@pytest.mark.parametrize("proposal", EVERY, ids=lambda p: p.name)
def test_weights_are_unbiased_for_the_closed_form(proposal, n_latent):
    assert abs(standard_errors_from_1(of_many(proposal, n_latent))) < 5


def test_a_mixture_without_one_of_its_parts_would_be_biased(monkeypatch):
    monkeypatch.setattr(weights, "log_mixture", lambda first, second, share: first)
    for proposal in (Defensive(0.5), Refined(2, 8)):
        assert abs(standard_errors_from_1(of_many(proposal, (3,)))) > 5


@dataclasses.dataclass(frozen=True)
class Reused(Refined):
    """A fit on the very noise of the draws that are weighed."""

    def fit(self, model, batch, seed, jit_compile):
        noise = proposals._noise
        own = randomness.seed_of(seed, 0)
        proposals._noise = lambda model, k, x, seed: noise(model, k, x, own)
        try:
            return super().fit(model, batch, seed, jit_compile)
        finally:
            proposals._noise = noise


def test_a_fit_on_the_draws_that_are_weighed_would_be_biased():
    proposal = Reused(n_rounds=2, n_draws=2)
    assert abs(standard_errors_from_1(of_many(proposal, (3, 2)))) > 5
    honest = Refined(n_rounds=2, n_draws=2)
    assert abs(standard_errors_from_1(of_many(honest, (3, 2)))) < 5


@eagerly()
@pytest.mark.parametrize("n_latent", LAYERS)
@pytest.mark.parametrize("proposal", [Defensive(1), Inflated(1)], ids=lambda p: p.name)
def test_a_proposal_with_nothing_of_its_own_is_the_posterior(proposal, n_latent):
    generator, model = pair(n_latent, 0.3, 1.2)
    x = generator.images(5)
    plain, own = (
        log_likelihood(model, x, 30, proposal=p, **SMALL).arrays()
        for p in (Proposal(), proposal)
    )
    for name, values in plain.items():
        np.testing.assert_array_equal(own[name], values, err_msg=name)


@eagerly()
@pytest.mark.parametrize("n_latent", LAYERS)
def test_defensive_weights_are_bounded(n_latent):
    generator, model = pair(n_latent, 0.0, 0.8)
    x = generator.images(3)
    seed = randomness.seed_of(1)
    for alpha in (0.5, 0.9):
        draws = Defensive(alpha).draw(model, tf.constant(x), 5000, seed)
        bound = draws.log_px - np.log(1 - alpha)
        assert np.all(draws.log_w() <= bound + 1e-4)
    plain = model.draw(x, 5000, 1)
    assert np.any(plain.log_w() > plain.log_px + np.log(10))


@pytest.mark.parametrize("n_latent", LAYERS)
def test_pareto_k_falls_if_a_narrow_posterior_is_inflated(n_latent):
    generator, model = pair(n_latent, 0.0, 0.6)
    x = generator.images(4)
    narrow, wide = (
        log_likelihood(
            model, x, 2000, 500, jit_compile=False, proposal=proposal
        ).pareto_k
        for proposal in (Proposal(), Inflated(1.6))
    )
    assert np.all(narrow > 0.4)
    assert np.all(wide < narrow - 0.3)


@pytest.mark.parametrize("n_latent", LAYERS)
def test_refined_finds_the_exact_posterior(n_latent):
    generator, model = pair(n_latent, 0.8, 1.7)
    x, k = generator.images(4), 500
    options = {"chunk": 250, "jit_compile": False}
    plain = log_likelihood(model, x, k, **options)
    refined = log_likelihood(model, x, k, proposal=Refined(12, 64), **options)
    assert np.all(plain.ess < k / 5)
    assert np.all(refined.ess > 0.8 * k)  # the rest is the share of q(z|x)
    np.testing.assert_allclose(refined.log_px, generator.log_evidence(x), atol=0.1)


@eagerly()
@pytest.mark.parametrize("n_latent", LAYERS)
def test_the_fit_of_a_gaussian_is_its_moments(n_latent):
    generator, model = pair(n_latent, 0.5, 1.4)
    (batch,) = batches.batches_of(model, generator.images(3))
    fitted = Refined(40, 64).fit(model, batch, randomness.seed_of(1), False)
    mean, factor, inverse, log_det = (part.numpy() for part in fitted)
    unit = np.broadcast_to(np.eye(mean.shape[1]), factor.shape)
    np.testing.assert_allclose(factor @ inverse, unit, atol=1e-5)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(factor)[1], atol=1e-4)
    # z of the lowest layer is an affine function of its own noise.
    d = n_latent[0]
    (first, *_) = model.posterior.factors(model.posterior.mean(batch.x), batch.x)
    scale = first.stddev().numpy()
    want, covariance = generator.posterior_moments(batch.x)
    got = first.mean().numpy() + scale * mean[:, :d]
    np.testing.assert_allclose(got, want, atol=2e-3)
    own = (factor @ factor.swapaxes(1, 2))[:, :d, :d] / proposals._STRETCH**2
    own = own * scale[:, :, None] * scale[:, None]
    np.testing.assert_allclose(own, np.broadcast_to(covariance, own.shape), atol=2e-3)


def test_a_round_stays_where_a_gradient_is_not_finite():
    rng = np.random.default_rng(0)
    u, residuals = rng.normal(size=(2, 20, 3, 2))
    residuals[3, 1, 0] = np.nan
    mean, factor = np.zeros((3, 2)), np.tile(np.eye(2), [3, 1, 1])
    parts = map(tf.constant, (mean, factor, u, residuals))
    moved, changed = (part.numpy() for part in proposals._moved(*parts))
    np.testing.assert_allclose(moved[1], 0)
    np.testing.assert_allclose(changed[1] @ changed[1].T, np.eye(2), atol=1e-12)
    assert np.all(moved[[0, 2]] != 0)


@pytest.mark.parametrize("proposal", EVERY[1:], ids=lambda p: p.name)
def test_scores_repeat_and_shares_and_kept_batches_join(proposal, tmp_path):
    generator, model = pair((3, 2), 0.3, 1.2)
    x = generator.images(5)
    options = SMALL | {"proposal": proposal}
    whole = log_likelihood(model, x, 30, **options)
    again = log_likelihood(model, x, 30, **options)
    np.testing.assert_array_equal(whole.log_px, again.log_px)
    assert np.all(whole.log_px != log_likelihood(model, x, 30, **SMALL).log_px)
    for i in (1, 0):
        share = batches.Share(i, 2)
        log_likelihood(model, x, 30, directory=tmp_path, share=share, **options)
    kept = sorted(tmp_path.glob("*.npz"))
    assert len(kept) == 3
    times = [path.stat().st_mtime_ns for path in kept]
    joined = log_likelihood(model, x, 30, directory=tmp_path, **options)
    np.testing.assert_array_equal(joined.arrays()["ess"], whole.ess)
    np.testing.assert_array_equal(joined.log_px, whole.log_px)
    assert [path.stat().st_mtime_ns for path in kept] == times
    plain = log_likelihood(model, x, 30, directory=tmp_path, **SMALL)
    np.testing.assert_array_equal(
        plain.log_px, log_likelihood(model, x, 30, **SMALL).log_px
    )


@pytest.mark.parametrize("proposal", EVERY[1:], ids=lambda p: p.name)
def test_xla_changes_rounding_only(proposal):
    generator, model = pair((3,), 0.3, 1.2)
    x = generator.images(2)
    one, other = (
        log_likelihood(model, x, 40, 20, jit_compile=jit, proposal=proposal).log_px
        for jit in (False, True)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.fixture(scope="module")
def with_flow():
    model = zoo.deep(
        "dense", (2, 2, 1), n_latent=(2,), n_hidden=(8,), n_flows=2, seed=1
    )
    x = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    model.posterior.initialise(x, randomness.seed_of(1))
    return model


def test_noise_goes_through_flows_as_that_of_the_posterior_does(with_flow):
    x = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    with eagerly():
        plain, own = (
            p.draw(with_flow, x, 5, randomness.seed_of(1))
            for p in (Proposal(), Inflated(1))
        )
    for one, other in zip(plain[1:4], own[1:4], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("proposal", [Inflated(1.2), Refined(2, 16)])
def test_flows_are_gone_through(with_flow, proposal):
    x = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    options = {"jit_compile": False, "batch_size": 4, "chunk": 1000, "seed": 1}
    plain, own = (
        log_likelihood(with_flow, x, 4000, proposal=p, **options)
        for p in (Proposal(), proposal)
    )
    assert np.all(own.log_px != plain.log_px)
    np.testing.assert_allclose(own.log_px, plain.log_px, atol=0.05)


def test_contexts_are_those_of_their_observations():
    model = zoo.burda(
        (2, 2, 1), n_latent=(3,), n_hidden=(4,), n_context=2, conditional_prior=True
    )
    x = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    context = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    n, want = 20_000, []  # by draws from the prior of each label
    for one, label in zip(x, context, strict=True):
        each = np.repeat(label[None], n, axis=0)
        zs = model.generator.sample_latents(n, randomness.seed_of(3), each)
        zs = tuple(z[:, tf.newaxis] for z in zs)
        log_px, _ = model.generator.log_joint(one[None], zs, label[None])
        want.append(weights.log_mean_exp(log_px).numpy()[0])
    options = {"jit_compile": False, "chunk": 1000, "context": context}
    for proposal in (Defensive(0.5), Refined(4, 32)):
        own = log_likelihood(model, x, 8000, proposal=proposal, **options).log_px
        np.testing.assert_allclose(own, want, atol=0.04)


class Plain(Posterior):
    """A posterior of one's own, with what `Posterior` asks for only."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.n_latent = inner, inner.n_latent

    def build(self, input_shape):
        self.built = True

    def draw(self, x, k, seed, context=None):
        return self.inner.draw(x, k, seed, context)

    def mean(self, x, context=None):
        return self.inner.mean(x, context)


def test_models_that_a_proposal_does_not_go_with_are_refused(with_flow):
    generator = LinearGaussian()
    own = IWAE(Plain(exact_posterior(generator)), generator)
    x = generator.images(1)
    line = r"^proposal: {} goes with .* only, got Plain$"
    for proposal in EVERY[1:]:
        with pytest.raises(UsageError, match=line.format(proposal.name)):
            log_likelihood(own, x, 2, proposal=proposal)
    with pytest.raises(UsageError, match="got FlowPosterior with 2 flows$"):
        log_likelihood(with_flow, np.zeros((1, 2, 2, 1)), 2, proposal=Defensive())


@pytest.mark.parametrize("name", ["posterior", "defensive", "inflated", "refined"])
def test_proposals_have_names(name):
    assert proposals.by_name(name).name == name


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Defensive(0), "alpha: must be above 0 and at most 1, got 0"),
        (lambda: Defensive(1.1), "alpha: .*, got 1.1"),
        (lambda: Inflated(0), "scale: must be positive and finite, got 0"),
        (lambda: Inflated(float("nan")), "scale: .*, got nan"),
        (lambda: Refined(n_rounds=0), "n_rounds: must be at least 1, got 0"),
        (lambda: Refined(n_draws=1), "n_draws: must be at least 2, got 1"),
        (
            lambda: proposals.by_name("prior"),
            "proposal: must be one of .*, got 'prior'",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(make, line):
    with pytest.raises(UsageError, match=f"^{line}"):
        make()
