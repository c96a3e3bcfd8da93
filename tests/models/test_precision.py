"""Tests of models whose networks compute in 16 bits, and of float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.measures import annealing, units
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models import likelihoods, zoo
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.parts import precision

SHAPE = (8, 8, 1)
SEED = randomness.seed_of(4)
SIZES = {"n_latent": [3], "n_hidden": [9]}
MODELS = {
    "one layer": lambda: zoo.burda(SHAPE, **SIZES),
    "two layers": lambda: zoo.burda(SHAPE, 2, [4, 3], [9, 8]),
    "conditional": lambda: zoo.burda(
        SHAPE, n_context=2, conditional_prior=True, **SIZES
    ),
    "flows": lambda: zoo.burda(SHAPE, n_flows=2, **SIZES),
    "missing": lambda: zoo.burda(
        SHAPE,
        missing=True,
        mask_input=True,
        fill=np.full(SHAPE, 0.5),
        likelihood=likelihoods.Gaussian(),
        **SIZES,
    ),
    "warped": lambda: zoo.spatial("tvae_affine", SHAPE),
    "dense": lambda: zoo.deep("dense", SHAPE, [3], [9], n_flows=0),
    "gated": lambda: zoo.deep("gated", SHAPE, [3], feature_maps=4, n_flows=0),
}
PAIRS = [("mixed_bfloat16", 2**-7), ("mixed_float16", 2**-10)]


def data_of(model, n=6):
    rng = np.random.default_rng(0)
    x = (rng.random((n, *SHAPE)) < 0.5).astype(np.float32)
    if model.generator.missing:
        x[0, :4] = np.nan
    y = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1, 0]] if model.n_context else None
    return x, y


@pytest.mark.parametrize(("policy", "unit"), PAIRS)
@pytest.mark.parametrize("name", MODELS)
@eagerly()
def test_16_bits_are_those_of_networks_alone(name, policy, unit):
    want = MODELS[name]()
    with precision(policy):
        model = MODELS[name]()
    model.set_weights(want.get_weights())
    x, y = data_of(model)
    got, exact = (m.draw(x, 4, SEED, y) for m in (model, want))
    assert {part.dtype for part in (*got.zs, *got[1:4])} == {tf.float32}
    for part, whole in zip((*got.zs, *got[1:4]), (*exact.zs, *exact[1:4]), strict=True):
        scale = np.abs(whole).max()
        error = np.abs(part - whole).max() / scale
        assert 0 <= error < 8 * unit
    assert np.abs(got.log_px - exact.log_px).max() > 0
    rest = np.float32(got.log_px).view(np.int32) & 0x1FFF  # what 16 bits could not hold
    assert rest.any()


@pytest.mark.parametrize("policy", [policy for policy, _ in PAIRS])
@pytest.mark.parametrize(
    "objective", ["iwae_elbo", "dreg", "vae_elbo_kl", "vimco", "rws_sleep"]
)
def test_16_bits_train(policy, objective):
    with precision(policy):
        model = MODELS["one layer"]()
    x, _ = data_of(model)
    model.compile(keras.optimizers.Adam(0.02), objective, 3, jit_compile=False)
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    bounds = model.fit(x, batch_size=6, epochs=40, verbose=0).history["bound"]
    assert bounds[-1] > bounds[0] + 10
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert log_likelihood(model, x, 10, jit_compile=False).mean > bounds[0] + 10


@pytest.mark.parametrize(
    "objective", ["iwae_elbo", "iwae_eq14", "piwae", "dreg", "tvo", "rws_sleep"]
)
def test_scaled_losses_give_the_steps_of_plain_ones(objective):
    """A power of two changes no bit of a float, so weights are the same bit for bit."""
    ends = []
    for factor in (None, 1024.0):
        model = MODELS["two layers"]()
        for layer in model.generator.pixels.hidden:
            layer.kernel.regularizer = keras.regularizers.L2(0.1)
        x, _ = data_of(model)
        optimizer = keras.optimizers.SGD(0.01, loss_scale_factor=factor)
        model.compile(optimizer, objective, 3, jit_compile=False)
        losses = model.fit(x, batch_size=3, epochs=2, verbose=0).history["loss"]
        ends.append([losses, *model.get_weights()])
    for plain, scaled in zip(*ends, strict=True):
        np.testing.assert_array_equal(plain, scaled)


@pytest.mark.parametrize("name", ["one layer", "two layers", "conditional", "missing"])
def test_float64_has_the_precision_of_float64(name):
    with precision("float64"):
        model = MODELS[name]()
    x, y = data_of(model)
    draws = model.draw(x, 4, SEED, y)
    assert {part.dtype for part in (*draws.zs, *draws[1:4])} == {tf.float64}

    # log p(z) of the top layer in NumPy; of the others, float32 would differ too.
    again = model.weigh(x, draws.zs, y)
    np.testing.assert_allclose(again.log_w(), draws.log_w(), rtol=1e-12)
    plain = MODELS[name]()
    plain.set_weights(model.get_weights())
    log_w = plain.weigh(x, [tf.cast(z, tf.float32) for z in draws.zs], y).log_w()
    np.testing.assert_allclose(log_w, draws.log_w(), rtol=1e-4)
    assert not np.allclose(log_w, draws.log_w(), rtol=1e-9)
    if name == "one layer":
        z = draws.zs[0].numpy()
        want = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=-1)
        np.testing.assert_allclose(draws.log_pz, want, rtol=1e-13)

    model.compile("adam", "iwae_elbo", 3, warmup_steps=3, jit_compile=False)
    model.fit(x, y, batch_size=3, verbose=0)
    score = log_likelihood(model, x, 5, jit_compile=False, context=y)
    assert np.all(np.isfinite(score.log_px))
    units.statistics(model, x, context=y)
    annealer = annealing.Annealer(model, 2, 3, jit_compile=False)
    annealing.log_likelihood(annealer, x, context=y)
    samples, means = model.sample(6, 1, y)
    assert samples.dtype == means.dtype == tf.float64


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_saved_models_keep_their_policy(policy, tmp_path):
    with precision(policy):
        model = MODELS["two layers"]()
    model.compile("adam", n_samples=2, jit_compile=False)
    x, _ = data_of(model)
    model.fit(x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.dtype_policy.name == policy
    assert keras.config.dtype_policy().name == "float32"
    a, b = (m.draw(x, 3, SEED).log_w() for m in (model, again))
    np.testing.assert_array_equal(a, b)


def test_parts_of_two_policies_are_refused():
    with precision("mixed_bfloat16"):
        other = MODELS["one layer"]()
    plain = MODELS["one layer"]()
    rule = "^dtype_policy: must be the same .*, got float32, mixed_bfloat16$"
    with pytest.raises(UsageError, match=rule):
        IWAE(plain.posterior, other.generator)
    rule = "^dtype_policy: must be .* keep variables in .*, got bfloat16$"
    with precision("bfloat16"), pytest.raises(UsageError, match=rule):
        MODELS["one layer"]()


def test_build_takes_a_precision_and_leaves_the_policy_of_keras():
    model = zoo.build(SHAPE, precision="float16", **SIZES)
    assert model.dtype_policy.name == "mixed_float16"
    assert keras.config.dtype_policy().name == "float32"
    with precision("mixed_bfloat16"):
        assert zoo.build(SHAPE, **SIZES).dtype_policy.name == "mixed_bfloat16"
    with pytest.raises(UsageError, match="^precision: must be one of float32"):
        zoo.build(SHAPE, precision="float8", **SIZES)
