"""Seconds and memory from the start of a run to its first training steps.

Writes an .npz file of random uint8 images, 1 in 50 of them a test image, and a folder
with the same arrays. Does with each, in a fresh process, what `main.py` does before and
at its first execution of training steps. The peak is the most memory that the process
has held so far, TensorFlow and the images included. It should stay below 1.5 times the
size of the data plus 1 GiB. With the folder, only four bytes for each pixel of a test
image should come to what TensorFlow takes.

    python benchmarks/startup.py [n_images]
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

N_IMAGES = 1_000_000  # 748 MiB of 28x28 pixels
SLICE = 10_000  # number of images written at once, so that this process stays small


def write(path: Path, n_images: int) -> None:
    """Writes the file; its numbers of training and test images add up to n_images."""
    rng = np.random.default_rng(0)
    n_test = n_images // 50
    with zipfile.ZipFile(path, "w") as archive:
        for name, n in (("x_train", n_images - n_test), ("x_test", n_test)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (n, 28, 28)}
                np.lib.format.write_array_header_1_0(file, header)
                for first in range(0, n, SLICE):
                    shape = (min(SLICE, n - first), 28, 28)
                    file.write(rng.integers(0, 256, shape, np.uint8).tobytes())


def main(path: str) -> None:
    """Prints a Markdown table, one row for each stage of the start."""
    files = Path(path).iterdir() if Path(path).is_dir() else [Path(path)]
    size = sum(file.stat().st_size for file in files) / 2**20
    start = time.perf_counter()
    print("| stage | seconds | peak, MiB | peak / data |\n|---|--:|--:|--:|")

    def tell(stage):
        nonlocal start
        seconds, start = time.perf_counter() - start, time.perf_counter()
        # Linux counts in KiB.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        ratio = peak / size
        print(f"| {stage} | {seconds:.1f} | {peak:.0f} | {ratio:.2f} |", flush=True)

    from iwae_tf import data
    from iwae_tf.data import datasets
    from iwae_tf.runs import experiment
    from iwae_tf.runs.config import Config

    config = Config(dataset=path)
    tell("import")
    images = datasets.load(config.dataset)
    tell("load")
    sets = data.sets_of(images, config.binarization)
    tell("binarise test images")
    experiment.describe(images, sets)
    tell("hash")
    model = experiment.build(config, sets)
    tell("build")
    batches = data.training_batches(sets.x_train, config.batch_size, config.seed)
    model.fit(batches, steps_per_epoch=50, shuffle=False, verbose=0)
    tell("first 50 steps")


if __name__ == "__main__":
    if len(sys.argv) > 1 and Path(sys.argv[1]).exists():
        main(sys.argv[1])
        sys.exit()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "startup.npz"
        write(file, int(sys.argv[1]) if len(sys.argv) > 1 else N_IMAGES)
        print(f"data: {file.stat().st_size / 2**20:.0f} MiB", flush=True)
        with zipfile.ZipFile(file) as archive:
            archive.extractall(file.with_suffix(""))
        for path in (file, file.with_suffix("")):
            print(f"\n{path.name}\n", flush=True)
            subprocess.run([sys.executable, __file__, str(path)], check=True)
