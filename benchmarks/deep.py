"""Milliseconds per training step of the deep models, with XLA and without it.

Batches have 100 images of 28x28 pixels, and k is 1.
"""

import keras
import numpy as np

from benchmarks.steps import training
from benchmarks.turns import head, medians, row
from iwae_tf import data
from iwae_tf.models import zoo

N_STEPS = 10
MODELS = {
    "resnet, 16 maps": ("resnet", 16, 0),
    "gated, 16 maps": ("gated", 16, 0),
    "dense": ("dense", None, 0),
    "dense, 8 flows": ("dense", None, 8),
}


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the milliseconds by name."""
    x = np.random.default_rng(0).integers(0, 256, (2000, 28, 28, 1), dtype=np.uint8)
    batches = data.training_batches(x, 100, seed=0)
    found = {}
    head("model", "XLA, ms", "without, ms", "XLA / without")
    for name, (kind, n_maps, n_flows) in MODELS.items():
        functions = {}
        for jit_compile in (True, False):
            model = zoo.deep(kind, (28, 28, 1), feature_maps=n_maps, n_flows=n_flows)
            optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-4)
            model.compile(
                optimizer,
                n_samples=1,
                jit_compile=jit_compile,
                steps_per_execution=N_STEPS,
            )
            functions[jit_compile] = training(model, batches, N_STEPS)
        ms = {jit: 1e3 * s / N_STEPS for jit, s in medians(functions).items()}
        row(name, ms[True], ms[False], ms[True] / ms[False])
        found[f"{name}, XLA, ms"], found[f"{name}, without XLA, ms"] = ms.values()
    return found
