"""A training step by every objective, with one and two stochastic layers.

The networks and the options are those of task 16: 8 samples for each image, in 2 groups
of 4 where the objective has groups, batches of 800. Times are in steps by `iwae_elbo`
with as many layers.
"""

import keras
import numpy as np

from benchmarks.steps import training
from benchmarks.turns import head, medians, row
from iwae_tf import data, rules
from iwae_tf.models import zoo

BATCH = 800
BUDGET = 8
GROUPS = 2
N_STEPS = 10


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the milliseconds by name."""
    x = np.random.default_rng(0).integers(0, 256, (8000, 28, 28, 1), dtype=np.uint8)
    batches = data.training_batches(x, BATCH, seed=0)
    found, ratios = {}, {}
    for n_layers in (1, 2):
        functions = {}
        for name in rules.OBJECTIVES:
            if name == "vae_elbo_kl" and n_layers == 2:  # a closed form of one layer
                continue
            groups = GROUPS if name in rules.OBJECTIVE_OPTIONS["n_groups"] else 1
            model = zoo.burda((28, 28, 1), n_layers)
            model.compile(
                keras.optimizers.Adam(1e-3),
                name,
                n_samples=BUDGET // groups,
                n_groups=groups,
                steps_per_execution=N_STEPS,
            )
            functions[name] = training(model, batches, N_STEPS)
        seconds = medians(functions)
        for name, value in seconds.items():
            found[f"{n_layers} layers, {name}, ms"] = 1e3 * value / N_STEPS
            ratios[name, n_layers] = value / seconds["iwae_elbo"]
    head("objective", "one layer", "two layers")
    for name in rules.OBJECTIVES:
        row(f"`{name}`", *(ratios.get((name, n), "") for n in (1, 2)))
    return found
