"""Milliseconds per training step, beside its matrix products alone.

"Compiled" is what a run does: XLA, and up to 50 steps per execution. "Plain" is Keras
without either. "DReG" is compiled, for comparison with the compiled IWAE. The networks
are those of Burda et al. 2016, on 28x28 noise; the kind of image does not change the
work. See `products.of_step` for the products.
"""

import functools

import keras
import numpy as np

from benchmarks import products
from benchmarks.turns import head, medians, row
from iwae_tf import data
from iwae_tf.models import zoo

COMPILED = {"jit_compile": True, "steps_per_execution": 50}
MODES = {
    "compiled": {"objective": "iwae_elbo", **COMPILED},
    "plain": {"objective": "iwae_elbo", "jit_compile": False},
    "dreg": {"objective": "dreg", **COMPILED},
}


def training(model, batches, n_steps: int):
    """A function that trains a model for some steps; it has been called once."""
    fit = functools.partial(
        model.fit, batches, steps_per_epoch=n_steps, shuffle=False, verbose=0
    )
    fit()
    return fit


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the milliseconds by name."""
    x = np.random.default_rng(0).integers(0, 256, (6000, 28, 28, 1), dtype=np.uint8)
    found = {}
    columns = ["compiled, ms", "products, ms", "plain, ms", "DReG, ms"]
    ratios = ["compiled / products", "plain / compiled", "DReG / compiled"]
    head("layers", "batch", "k", *columns, *ratios)
    for n_layers in (1, 2):
        for batch_size, k in (
            *[(20, 1), (20, 5), (20, 50), (100, 1), (100, 5), (100, 50)],
            *[(800, 1), (800, 5)],
        ):
            n_steps = 50 if batch_size * k > 1000 else 200
            batches = data.training_batches(x, batch_size, seed=0)
            functions = {}
            for name, options in MODES.items():
                model = zoo.burda((28, 28, 1), n_layers)
                optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-4)
                model.compile(optimizer, n_samples=k, **options)
                functions[name] = training(model, batches, n_steps)
            multiply = products.of_step(n_layers, batch_size, k)
            functions["products"] = lambda f=multiply, n=n_steps: [
                f() for _ in range(n)
            ]
            seconds = medians(functions)
            ms = {name: 1e3 * value / n_steps for name, value in seconds.items()}
            row(
                n_layers,
                batch_size,
                k,
                *(ms[name] for name in ("compiled", "products", "plain", "dreg")),
                ms["compiled"] / ms["products"],
                ms["plain"] / ms["compiled"],
                ms["dreg"] / ms["compiled"],
            )
            for name, value in ms.items():
                found[f"{n_layers} layers, batch {batch_size}, k {k}, {name}, ms"] = (
                    value
                )
    return found
