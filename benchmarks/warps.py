"""Milliseconds per training step with and without a spatial transformer.

All models have the same widths and are compiled, with k = 5 and batches of 100 images.
"""

import keras
import numpy as np

from benchmarks.steps import COMPILED, training
from benchmarks.turns import head, medians, row
from iwae_tf import data
from iwae_tf.models import zoo

N_STEPS = 50


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the milliseconds by name."""
    x = np.random.default_rng(0).integers(0, 256, (6000, 28, 28, 1), dtype=np.uint8)
    batches = data.training_batches(x, 100, seed=0)
    functions = {}
    for name in zoo.SPATIAL:
        model = zoo.spatial(name, (28, 28, 1))
        optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-4)
        model.compile(optimizer, n_samples=5, objective="iwae_elbo", **COMPILED)
        functions[name] = training(model, batches, N_STEPS)
    ms = {name: 1e3 * s / N_STEPS for name, s in medians(functions).items()}
    head("model", "ms", "/ vae60")
    for name, value in ms.items():
        row(f"`{name}`", value, value / ms["vae60"])
    return {f"{name}, ms": value for name, value in ms.items()}
