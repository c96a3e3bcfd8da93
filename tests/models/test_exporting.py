"""Tests of iwae_tf.models.exporting."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf.errors import UsageError
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models import likelihoods, zoo

SIZES = {"n_hidden": [5], "n_latent": [2]}
MODELS = {
    "one layer": lambda: zoo.burda((3, 2, 1), **SIZES),
    "two layers": lambda: zoo.burda((3, 2, 1), 2, [3, 2], [5, 4]),
    "vectors": lambda: zoo.burda((4,), likelihood=likelihoods.Gaussian(), **SIZES),
    "flows": lambda: zoo.burda((3, 2, 1), n_flows=2, **SIZES),
    "missing": lambda: zoo.burda((3, 2, 1), missing=True, mask_input=True, **SIZES),
    "conditional": lambda: zoo.burda(
        (3, 2, 1), n_context=2, conditional_prior=True, **SIZES
    ),
    "warped": lambda: zoo.spatial("tvae_tps", (4, 4, 1)),
    "binary": lambda: zoo.sbn((3, 2, 1), 2, (3, 2)),
    "levels": lambda: zoo.burda(
        (3, 2, 1), likelihood=likelihoods.DiscretizedLogistic(5), **SIZES
    ),
}
# Calls every signature of a SavedModel; it is a process without this package.
BARE = """
import json, sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
with np.load(sys.argv[2]) as arrays:
    given = dict(arrays)
got = {}
for call in json.loads(sys.argv[3]):
    name, *arguments = call
    function = model.signatures[name]
    inputs = {a: tf.constant(given[a]) for a in arguments}
    got |= {f"{name} {key}": value.numpy() for key, value in function(**inputs).items()}
assert not {m for m in sys.modules if m.split(".")[0] == "iwae_tf"}
np.savez(sys.argv[4], **got)
"""


def inputs_of(model, n=3):
    rng = np.random.default_rng(0)
    x = (rng.random((n, *model.generator.event_shape)) < 0.5).astype(np.float32)
    if getattr(model.generator, "missing", False):
        x[0, 0, 0] = np.nan
    y = np.eye(2, dtype=np.float32)[[0, 1, 1]] if model.n_context else None
    zs = [rng.normal(size=(n, d)).astype("f4") for d in model.posterior.n_latent]
    return x, y, zs


@pytest.mark.parametrize("name", MODELS)
def test_exported_functions_equal_the_methods(name, tmp_path):
    model = MODELS[name]()
    x, y, zs = inputs_of(model)
    model.export(tmp_path / "exported", k=60)
    there = tf.saved_model.load(str(tmp_path / "exported"))
    context = () if y is None else (y,)
    want = model(x if y is None else (x, y))
    np.testing.assert_allclose(there.serve(x, *context), want, rtol=1e-5, atol=1e-6)

    encoded, (means, scales) = there.encode(x, *context), model.encode(x, y)
    layers = {f"mean_z{i}": mean for i, mean in enumerate(means, 1)}
    layers |= {f"scale_z{i}": scale for i, scale in enumerate(scales or (), 1)}
    assert set(encoded) == set(layers)
    for key, values in layers.items():
        np.testing.assert_allclose(encoded[key], values, rtol=1e-5, atol=1e-6)

    decoded = there.decode(*zs, *context)
    np.testing.assert_allclose(decoded, model.decode(zs, y), rtol=1e-5, atol=1e-6)

    drawn = there.sample(*(context or (3,)), 7)
    samples, mean = model.sample(3, 7, y)
    np.testing.assert_allclose(drawn["samples"], samples, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drawn["mean"], mean, rtol=1e-5, atol=1e-6)

    # By another route: streamed over samples in NumPy.
    scores = there.log_likelihood(x, *context, 5)
    want = log_likelihood(model, x, 60, 50, seed=5, jit_compile=False, context=y)
    np.testing.assert_allclose(scores["log_px"], want.log_px, rtol=1e-5)
    np.testing.assert_allclose(scores["ess"], want.ess, rtol=1e-3)


def test_signatures_work_in_a_process_without_this_package(tmp_path):
    model = MODELS["two layers"]()
    x, _, (z1, z2) = inputs_of(model)
    model.export(str(tmp_path / "exported"), k=10)
    given = {"x": x, "z1": z1, "z2": z2, "n": np.int32(2), "seed": np.int32(7)}
    np.savez(tmp_path / "given.npz", **given)
    calls = [
        ("serve", "x"),
        ("encode", "x"),
        ("decode", "z1", "z2"),
        ("sample", "n", "seed"),
        ("log_likelihood", "x", "seed"),
    ]
    places = (tmp_path / "exported", tmp_path / "given.npz")
    arguments = (*map(str, places), json.dumps(calls), str(tmp_path / "got.npz"))
    subprocess.run([sys.executable, "-c", BARE, *arguments], check=True, cwd=tmp_path)
    with np.load(tmp_path / "got.npz") as got:
        shapes = {name: got[name].shape for name in got}
        assert shapes == {
            "serve output_0": (3, 3, 2, 1),
            "encode mean_z1": (3, 3),
            "encode mean_z2": (3, 2),
            "encode scale_z1": (3, 3),
            "encode scale_z2": (3, 2),
            "decode output_0": (3, 3, 2, 1),
            "sample samples": (2, 3, 2, 1),
            "sample mean": (2, 3, 2, 1),
            "log_likelihood log_px": (3,),
            "log_likelihood ess": (3,),
        }
        np.testing.assert_allclose(got["serve output_0"], model(x), rtol=1e-5)
        np.testing.assert_allclose(got["sample mean"], model.sample(2, 7)[1], rtol=1e-5)


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(UsageError, match="^k: must be at least 1, got 0$"):
        MODELS["one layer"]().export(tmp_path, k=0)
