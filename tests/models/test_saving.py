"""Tests of whole models in files of Keras, by Keras' own tools."""

import copy
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import objectives
from iwae_tf.models import likelihoods, masks, zoo
from iwae_tf.models.generators import Chain
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.posteriors import GaussianChain

SMALL = {"n_latent": (3,), "n_hidden": (5,)}
TWO = {"stochastic_layers": 2, "n_latent": (3, 2), "n_hidden": (5, 4)}
FLOW = {"n_flows": 2, "flow_hidden": (6,), "flow_features": 3}
ZOO = {
    "one layer": SMALL,
    "two layers": TWO,
    "flow": SMALL | FLOW,
    "vae60": {"model": "vae60"},
    "affine": {"model": "tvae_affine", "n_bounded": 6},
    "spline": {"model": "tvae_tps"},
    "dense": {"model": "dense", "n_latent": (3,), "n_hidden": (5,)} | FLOW,
    "gated": {"model": "gated", "feature_maps": 2, "n_latent": (3,)} | FLOW,
    "resnet": {"model": "resnet", "feature_maps": 2, "n_latent": (3,), "n_flows": 0},
    "gaussian": SMALL | {"likelihood": "gaussian", "likelihood_scale": "feature"},
    "missing": SMALL | {"missing": True, "mask_input": True},
    "conditional": SMALL | {"n_context": 2, "conditional_prior": True},
    "binary": {"model": "sbn", "stochastic_layers": 2, "n_latent": (4, 3)},
    "binary given y": {"model": "sbn", "n_latent": (4,), "mask_input": True}
    | {"missing": True, "n_context": 2, "conditional_prior": True},
}


def images(n=20):
    return (np.random.default_rng(0).random((n, 8, 8, 1)) < 0.4).astype(np.float32)


def contexts(model, n):
    return np.eye(2, dtype=np.float32)[np.arange(n) % 2] if model.n_context else None


def built(name):
    options = dict(ZOO[name])
    return zoo.build(
        (8, 8, 1), options.pop("n_context", 0), images().mean(0), **options
    )


def fit(model, epochs=1):
    x = images()
    model.fit(x, contexts(model, len(x)), 10, epochs=epochs, shuffle=False, verbose=0)
    return model


def compiled(model, objective="iwae_elbo", **options):
    adam = keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.5)
    )
    model.compile(adam, objective, n_samples=3, jit_compile=False, **options)
    return model


def assert_same(a, b):
    """Same weights, same optimizer, same noise, and the same outputs by it."""
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    if a.compiled:
        for one, other in zip(
            a.optimizer.variables, b.optimizer.variables, strict=True
        ):
            np.testing.assert_array_equal(one, other)
    x = images(4)
    draws = (model.draw(x, 3, 1, contexts(model, 4)) for model in (a, b))
    for one, other in zip(*(tf.nest.flatten(d._asdict()) for d in draws), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_comes_back_from_a_file_and_trains_on(name, tmp_path):
    objective = "vimco" if name.startswith("binary") else "iwae_elbo"
    model = fit(compiled(built(name), objective, beta=0.5, warmup_steps=3))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is IWAE
    assert_same(loaded, model)
    assert (loaded.n_samples, loaded.beta, loaded.warmup_steps) == (3, 0.5, 3)
    assert_same(fit(loaded), fit(model))


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "clone", "config"])
def test_copies_of_a_model_are_models_of_their_own(way):
    model = fit(compiled(built("two layers")))
    before = [w.copy() for w in model.get_weights()]
    if way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif way == "deepcopy":
        other = copy.deepcopy(model)
    else:
        other = (
            keras.models.clone_model(model)
            if way == "clone"
            else IWAE.from_config(model.get_config())
        )
        assert not np.array_equal(other.get_weights()[0], before[0])
        other.set_weights(model.get_weights())
        compiled(other)
        other.optimizer.build(other.trainable_variables)
        for one, its in zip(
            other.optimizer.variables, model.optimizer.variables, strict=True
        ):
            one.assign(its)
    assert_same(other, model)
    fit(other)
    for w, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(w, was)


def test_what_was_frozen_or_assigned_is_saved(tmp_path):
    model = built("one layer")
    model.posterior.trainable = False
    compiled(model)
    model.beta, model.n_samples, model.seed = 0.25, 4, 77
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert (loaded.beta, loaded.n_samples, loaded.seed) == (0.25, 4, 77)
    assert not loaded.posterior.trainable and loaded.generator.trainable


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("miwae", {"n_groups": 2}),
        ("combination", {"combination_beta": 0.25}),
        ("dreg", {}),
        ("renyi", {"renyi_alpha": 0.25}),
        ("tvo", {"temperatures": (0.0, 0.25)}),
    ],
)
def test_objectives_of_the_table_come_back_with_their_options(
    objective, options, tmp_path
):
    model = compiled(built("one layer"), objective, **options)
    model.save(tmp_path / "m.keras")
    assert_same(fit(keras.saving.load_model(tmp_path / "m.keras")), fit(model))


@keras.saving.register_keras_serializable(package="tests")
def half_of_the_elbo(draws, beta=1.0):
    return 0.5 * objectives.vae_elbo(draws, beta)


@keras.saving.register_keras_serializable(package="tests")
class Squeezed(keras.layers.Layer):
    def __init__(self, n, **kwargs):
        super().__init__(**kwargs)
        self.n, self.dense = n, keras.layers.Dense(n, activation="relu")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(tf.tanh(inputs))

    def get_config(self):
        return super().get_config() | {"n": self.n}


@keras.saving.register_keras_serializable(package="tests")
class Laplace(likelihoods.Likelihood):
    def entry_log_prob(self, x, parameters):
        return -tf.abs(x - parameters[0]) - tf.math.log(2.0)

    def mean(self, parameters):
        return parameters[0]

    def sample(self, parameters, seed):
        return parameters[0]


def test_parts_of_ones_own_come_back_once_they_are_registered(tmp_path):
    posterior = GaussianChain(n_latent=(3,), networks=[Squeezed(6)])
    generator = Chain(
        (8, 8, 1), n_latent=(3,), networks=[Squeezed(7)], likelihood=Laplace()
    )
    row = objectives.Objective(half_of_the_elbo)
    model = fit(compiled(IWAE(posterior, generator, seed=5), row))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.generator.likelihood, Laplace)
    assert loaded.objective == row
    assert_same(fit(loaded), fit(model))


@pytest.mark.parametrize(
    "mask_model", [masks.SelfMasking(-1), masks.NetworkMasking((4,), "relu")]
)
def test_mask_models_and_values_to_fill_in_come_back(mask_model, tmp_path):
    model = zoo.burda(
        (64,),
        likelihood=likelihoods.Gaussian(),
        missing=True,
        mask_model=mask_model,
        fill=np.arange(64.0),
        **SMALL,
    )
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    x = np.where(np.arange(64) % 3, images(4).reshape(4, 64), np.nan)
    one, other = (m.draw(x, 3, 1).log_w() for m in (model, loaded))
    np.testing.assert_array_equal(one, other)


def test_checkpoints_of_keras_keep_the_best_model(tmp_path):
    model, x = compiled(built("one layer")), images()
    callback = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", "val_loss", save_best_only=True
    )
    model.fit(x, validation_data=x, epochs=2, verbose=0, callbacks=[callback])
    assert_same(keras.saving.load_model(tmp_path / "best.keras"), model)


def test_new_process_loads_a_file_in_safe_mode(tmp_path):
    model = fit(compiled(built("one layer")))
    model.save(tmp_path / "m.keras")
    code = (
        "from iwae_tf import IWAE\n"
        "import keras, numpy as np, sys\n"
        "model = keras.saving.load_model(sys.argv[1], safe_mode=True)\n"
        "x = np.load(sys.argv[2])\n"
        "np.save(sys.argv[3], model.draw(x, 3, 1).log_w())\n"
    )
    paths = [tmp_path / name for name in ("m.keras", "x.npy", "log_w.npy")]
    np.save(paths[1], images(4))
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    want = model.draw(images(4), 3, 1).log_w()
    np.testing.assert_allclose(np.load(paths[2]), want, rtol=1e-6)
