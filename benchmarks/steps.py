"""Milliseconds per training step, for three ways of training.

"Compiled" is what `main.py` does: XLA, and 50 steps per execution. "Plain" is Keras
without either. "DReG" is compiled, for comparison with the compiled IWAE. The networks
are those of Burda et al. 2016, on 28x28 noise; the kind of image does not change the
work. The models take turns, so that a drift in the machine's speed affects all of them.
The median of the rounds is printed.

    python benchmarks/steps.py [stochastic_layers]
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from iwae_tf import data  # noqa: E402  isort: skip
from iwae_tf.models import zoo  # noqa: E402  isort: skip
import keras  # noqa: E402
import numpy as np  # noqa: E402

ROUNDS = 5
COMPILED = {"jit_compile": True, "steps_per_execution": 50}
MODES = {
    "compiled": {"objective": "iwae_elbo", **COMPILED},
    "plain": {"objective": "iwae_elbo", "jit_compile": False},
    "dreg": {"objective": "dreg", **COMPILED},
}


def milliseconds_per_step(model, batches, n_steps: int) -> float:
    """Wall time per step in one `fit` of `n_steps` steps."""
    start = time.perf_counter()
    model.fit(batches, steps_per_epoch=n_steps, shuffle=False, verbose=0)
    return 1e3 * (time.perf_counter() - start) / n_steps


def main(stochastic_layers: int) -> None:
    """Prints a Markdown table."""
    x = np.random.default_rng(0).integers(0, 256, (6000, 28, 28, 1), dtype=np.uint8)
    print(f"{stochastic_layers} stochastic layers, {os.cpu_count()} cores\n")
    print(
        "| batch | k | compiled, ms | plain, ms | plain / compiled | DReG, ms "
        "| DReG / compiled |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for batch_size in (20, 100):
        batches = data.training_batches(x, batch_size, seed=0)
        for k in (1, 5, 50):
            models = {}
            for name, options in MODES.items():
                models[name] = zoo.burda((28, 28, 1), stochastic_layers)
                optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-4)
                models[name].compile(optimizer, n_samples=k, **options)
                milliseconds_per_step(models[name], batches, 50)
            n_steps = 50 if batch_size * k > 1000 else 200
            times = {name: [] for name in MODES}
            for _ in range(ROUNDS):
                for name, model in models.items():
                    times[name].append(milliseconds_per_step(model, batches, n_steps))
            compiled, plain, dreg = (statistics.median(times[name]) for name in MODES)
            print(
                f"| {batch_size} | {k} | {compiled:.1f} | {plain:.1f} | "
                f"{plain / compiled:.2f} | {dreg:.1f} | {dreg / compiled:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
