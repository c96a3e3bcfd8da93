"""How the time of a step and the memory of training grow with each size.

One size changes at a time: the others are one layer, 28x28 pixels, 6,000 images,
batches of 100 and k = 5. Each row is a process of its own, whose peak of memory counts
from what TensorFlow and an idle model take. The exponent e of a row says that time or
memory has grown as size^e since the row above.
"""

import json
import math
import resource
import subprocess
import sys
import time

from benchmarks.turns import head, row

BASE = {"batch": 100, "k": 5, "layers": 1, "side": 28, "images": 6000}
SIZES = {
    "batch": (20, 100, 500, 2000),
    "k": (1, 5, 50, 200),
    "layers": (1, 2, 3),
    "side": (8, 28, 64, 128),
    "images": (6_000, 60_000, 600_000),
}
N_STEPS, ROUNDS = 20, 3


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns milliseconds and MiB by name."""
    found = {}
    head("size", "value", "ms per step", "exponent", "MiB", "exponent")
    for name, values in SIZES.items():
        before = None
        for value in values:
            sizes = json.dumps(BASE | {name: value})
            command = [sys.executable, "-m", "benchmarks.growth", sizes]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            ms, mib = json.loads(done.stdout.splitlines()[-1])
            exponents = ["", ""]
            if before:
                steps = math.log(value / before[0])
                exponents = [
                    round(math.log(now / then) / steps, 2)
                    for now, then in ((ms, before[1]), (mib, before[2]))
                ]
            row(name, value, ms, exponents[0], mib, exponents[1])
            before = value, ms, mib
            found[f"{name} {value}, ms"], found[f"{name} {value}, MiB"] = ms, mib
    return found


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux has KiB


def _one(batch, k, layers, side, images):
    """Milliseconds per step, and the MiB that data and training add."""
    import keras
    import numpy as np

    from iwae_tf import data
    from iwae_tf.models import zoo

    shape = (side, side, 1)
    model = zoo.burda(shape, layers)
    model.compile(
        keras.optimizers.Adam(1e-3, epsilon=1e-4),
        n_samples=k,
        steps_per_execution=N_STEPS,
    )
    before = _peak()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, *shape), dtype=np.uint8)
    batches = data.training_batches(x, batch, seed=0)
    times = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        model.fit(batches, steps_per_epoch=N_STEPS, shuffle=False, verbose=0)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times[1:]) / N_STEPS, _peak() - before


if __name__ == "__main__":
    print(json.dumps(_one(**json.loads(sys.argv[1]))))
