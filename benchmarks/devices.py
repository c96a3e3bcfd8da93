"""Milliseconds and CPU time of a training step on one and two devices, and two workers.

One layer, batches of 800 images, k = 5, compiled. All devices are parts of one CPU, so
this shows what sharing a batch costs, not what it gains. Each number of devices has
processes of its own. "CPU" is the time of all cores of one process.
"""

import json
import os
import socket
import subprocess
import sys
import time

from benchmarks.turns import head, row

N_STEPS, ROUNDS = 20, 5
CASES = {"1 device": (1, 1), "2 devices": (2, 1), "2 workers": (1, 2)}


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the milliseconds by name."""
    found = {}
    head("devices", "ms per step", "CPU ms per step", "ms / 1 device")
    for name, (n_devices, n_workers) in CASES.items():
        ms, cpu = _measured(n_devices, n_workers)
        found[f"{name}, ms"], found[f"{name}, CPU ms"] = ms, cpu
        row(name, ms, cpu, ms / found["1 device, ms"])
    return found


def _measured(n_devices, n_workers):
    """Milliseconds of a step, and of CPU in the first worker."""
    addresses = [f"127.0.0.1:{_free_port()}" for _ in range(n_workers)]
    started = []
    for i in range(n_workers):
        place = {"type": "worker", "index": i}
        told = json.dumps({"cluster": {"worker": addresses}, "task": place})
        environment = os.environ | ({"TF_CONFIG": told} if n_workers > 1 else {})
        command = [sys.executable, "-m", "benchmarks.devices", str(n_devices)]
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    texts = [process.communicate()[0] for process in started]
    return json.loads(texts[0].splitlines()[-1])


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _one(n_devices):
    """Milliseconds of a step, and CPU milliseconds of this process."""
    import keras
    import numpy as np

    from iwae_tf import data
    from iwae_tf.models import zoo
    from iwae_tf.runs import devices

    with devices.use("cpu", n_devices).scope():
        model = zoo.burda((28, 28, 1))
        optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-4)
        model.compile(optimizer, n_samples=5, steps_per_execution=N_STEPS)
    x = np.random.default_rng(0).integers(0, 256, (8000, 28, 28, 1), dtype=np.uint8)
    batches = data.training_batches(x, 800, seed=0)
    times = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter(), time.process_time()
        model.fit(batches, steps_per_epoch=N_STEPS, shuffle=False, verbose=0)
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [
        1e3 * sorted(kind)[ROUNDS // 2] / N_STEPS
        for kind in zip(*times[1:], strict=True)
    ]


if __name__ == "__main__":
    print(json.dumps(_one(int(sys.argv[1]))))
