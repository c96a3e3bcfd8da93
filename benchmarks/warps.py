"""Milliseconds per training step with and without a spatial transformer.

All models have the same widths and are compiled, with k = 5 and batches of 100 images.
They take turns, and the median of the rounds is printed.

    python benchmarks/warps.py
"""

import statistics

from steps import COMPILED, ROUNDS, milliseconds_per_step  # isort: skip
import keras
import numpy as np

from iwae_tf import data
from iwae_tf.models import zoo


def main() -> None:
    """Prints a Markdown table."""
    x = np.random.default_rng(0).integers(0, 256, (6000, 28, 28, 1), dtype=np.uint8)
    batches = data.training_batches(x, 100, seed=0)
    models = {name: zoo.spatial(name, (28, 28, 1)) for name in zoo.SPATIAL}
    for model in models.values():
        optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-4)
        model.compile(optimizer, n_samples=5, objective="iwae_elbo", **COMPILED)
        milliseconds_per_step(model, batches, 50)
    times = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            times[name].append(milliseconds_per_step(model, batches, 50))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print("| model | ms | / vae60 |\n|---|--:|--:|")
    for name, value in medians.items():
        print(f"| `{name}` | {value:.1f} | {value / medians['vae60']:.2f} |")


if __name__ == "__main__":
    main()
