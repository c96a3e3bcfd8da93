"""What tests of training and of checkpoints share: a run of a few tiny images."""

import json

import numpy as np

from iwae_tf import data
from iwae_tf.runs.config import Config


def images(n_train=60, shape=(3, 2, 1), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n_train + 10, *shape)).astype(np.float32)
    return data.Sets(x[:n_train], np.round(x[n_train:]))


def images_of(n_train, n_test, shape=(3, 2, 1), seed=0):
    """A data set of random images, for `experiment.run`."""
    x = np.random.default_rng(seed).random((n_train + n_test, *shape))
    x = x.astype(np.float32)
    return data.Images("tiny", x[:n_train], x[n_train:], None, None)


def small(**options):
    """A run of two executions an epoch: 60 images, one a step, 30 an execution."""
    options = {"epochs": 3, "batch_size": 1, "n_samples": 2} | options
    return Config(n_latent=(2,), n_hidden=(3,), jit=False, seed=5, **options)


class Stop(BaseException):
    """Ends work where it stands, as a kill does; nobody catches it."""


def state(model):
    """Weights and optimizer slots, the step among them."""
    variables = [*model.weights, *model.optimizer.variables]
    return [variable.numpy() for variable in variables]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def contents(run_dir):
    """The bytes of every file of a run, by its path."""
    return {
        path.relative_to(run_dir): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file()
    }


def rewrite(path, change):
    """Changes a JSON file by hand; it has no checksum then, as in older versions."""
    value = json.loads(path.read_text())
    value.pop("checksum", None)
    change(value)
    path.write_text(json.dumps(value))
