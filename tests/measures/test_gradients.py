"""Tests of iwae_tf.measures.gradients."""

import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly
from linear_gaussian import LinearGaussian, exact_posterior

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.estimators import value_and_gradients
from iwae_tf.measures.gradients import GradientMoments, gradient_statistics
from iwae_tf.models.iwae import IWAE
from iwae_tf.objectives import table


@pytest.mark.parametrize("name", ["dreg", "piwae", "vimco", "rws_sleep"])
@eagerly()
def test_moments_equal_numpy_on_the_gradients_of_the_documented_seeds(
    name, tiny, binary
):
    model, x, k, n = tiny(2), binary(3), 2, 6
    before, done = [v.numpy() for v in model.trainable_variables], []
    row = table(n_groups=2)[name]
    got = gradient_statistics(
        model, x, row, k, n, seed=8, jit_compile=False, on_progress=done.append
    )
    gradients = [
        [
            g.numpy().astype(np.float64)
            for g in value_and_gradients(
                row,
                model,
                x,
                k,
                randomness.seed_of(8, randomness.GRADIENT, i),
                1.0,
            )[1]
        ]
        for i in range(n)
    ]
    n_phi = len(model.posterior.trainable_variables)
    parts = {"posterior": slice(None, n_phi), "generator": slice(n_phi, None)}
    assert set(got) == set(parts)
    for group, part in parts.items():
        flat = np.array(
            [np.concatenate([v.ravel() for v in g[part]]) for g in gradients]
        )
        np.testing.assert_allclose(got[group].mean, flat.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(
            got[group].variance, flat.var(axis=0, ddof=1), rtol=1e-3, atol=1e-10
        )
        assert got[group].n_draws == n
    assert done == [1, 2, 3, 4, 5, 6]
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@eagerly()
def test_groups_are_parts_of_the_whole_in_the_order_of_their_variables(tiny, binary):
    model, x = tiny(), binary(3)
    phi = model.posterior.trainable_variables
    options = {"n_samples": 2, "n_draws": 3, "jit_compile": False}
    whole = gradient_statistics(model, x, "dreg", **options)["posterior"]
    groups = {"last": phi[-1:], "first two": phi[:2]}
    parts = gradient_statistics(model, x, "dreg", groups=groups, **options)
    assert list(parts) == ["last", "first two"]
    n_last, n_first = (sum(int(tf.size(v)) for v in g) for g in groups.values())
    np.testing.assert_allclose(parts["last"].mean, whole.mean[-n_last:])
    np.testing.assert_allclose(parts["first two"].variance, whole.variance[:n_first])


def test_signal_to_noise_by_hand():
    # 3^2 + 4^2 less a hundredth of the noise, which is 4 + 12.
    got = GradientMoments(np.array([3.0, -4.0]), np.array([4.0, 12.0]), 100)
    assert got.signal_to_noise == pytest.approx(((25 - 0.16) / 16) ** 0.5)
    assert GradientMoments(np.zeros(2), np.ones(2), 9).signal_to_noise == 0
    assert np.isnan(GradientMoments(np.ones(2), np.zeros(2), 9).signal_to_noise)


def test_one_parameter_has_the_ratio_of_its_own_draws():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.5, 2.0, size=(200_000, 1))
    got = GradientMoments(draws.mean(axis=0), draws.var(axis=0, ddof=1), len(draws))
    assert got.signal_to_noise == pytest.approx(0.25, abs=0.01)


RATES = {  # of the encoder's and the decoder's signal-to-noise ratio in k
    "iwae_elbo": (-0.5, 0.5),
    "dreg": (0.5, 0.5),
    "miwae": (-0.5, 0.5),
}


@pytest.mark.parametrize("name", RATES)
def test_signal_to_noise_has_the_rates_of_the_papers_near_the_optimum(name):
    # Rainforth et al. 2018, theorem 1; Tucker et al. 2018. The generator is off the
    # data, so that its gradient does not vanish; the posterior is nearly exact.
    generator = LinearGaussian(n_latent=(2,))
    model = IWAE(exact_posterior(generator, shift=0.1, stretch=1.1), generator)
    x = np.repeat(generator.images(1) + 0.5, 50, axis=0)
    ks = (4, 64)
    ratios = {"posterior": [], "generator": []}
    for k in ks:
        row = table(n_groups=2)[name]
        moments = gradient_statistics(model, x, row, k, 250, jit_compile=False)
        for network, values in ratios.items():
            values.append(moments[network].signal_to_noise)
    slopes = [np.polyfit(np.log(ks), np.log(v), 1)[0] for v in ratios.values()]
    np.testing.assert_allclose(slopes, RATES[name], atol=0.15)


def test_variance_of_dreg_is_below_that_of_iwae_near_the_optimum_only():
    generator = LinearGaussian(n_latent=(3, 2))
    x = generator.images(4)
    ratios = []
    for shift, stretch in ((0.05, 1.05), (3.0, 0.4)):
        model = IWAE(exact_posterior(generator, shift, stretch), generator)
        iwae, dreg = (
            gradient_statistics(model, x, name, 10, 60, jit_compile=False)[
                "posterior"
            ].variance.sum()
            for name in ("iwae_elbo", "dreg")
        )
        ratios.append(dreg / iwae)
    near, far = ratios
    assert near < 0.05
    assert far > 1


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"objective": "elbow"},
            "objective: must be one of vae_elbo, .* 'elbow'; .*",
        ),
        ({"n_samples": 0}, "n_samples: must be at least 1, got 0"),
        ({"n_draws": 1}, "n_draws: must be at least 2, got 1"),
    ],
)
def test_gradient_statistics_refuse_in_one_line(options, rule):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        gradient_statistics(None, np.zeros((1, 1, 1, 1)), **options)


def test_gradient_statistics_refuse_bytes(tiny, binary):
    with pytest.raises(UsageError, match="^x: must be in 0..1, got 0 to 255$"):
        gradient_statistics(tiny(), 255 * binary(2), n_samples=2, n_draws=2)
