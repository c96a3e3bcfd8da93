"""Time of scoring, beside the time of the matrix products that it needs.

With one stochastic layer, one sample in the decoder of Burda et al. 2016 needs three
products, or 0.41 MFLOP; 5,000 samples for each of 10,000 images need 20.7 TFLOP. The
products alone are timed on matrices of the same shapes and in the same rounds. The
median of the rounds is printed.

    python benchmarks/scoring.py [stochastic_layers]
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from iwae_tf.measures import likelihood as evaluation  # noqa: E402  isort: skip
from iwae_tf.models import zoo  # noqa: E402  isort: skip
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

ROUNDS = 7
N_IMAGES, N_SAMPLES, CHUNK, BATCH = 40, 5000, 250, 20
# Number of inputs and outputs of each product that every sample needs.
PRODUCTS = {
    1: [(50, 200), (200, 200), (200, 784)],
    2: [
        *[(100, 100), (100, 100), (100, 50), (100, 50)],  # q(z2|z1)
        *[(50, 100), (100, 100), (100, 100), (100, 100)],  # p(z1|z2)
        *[(100, 200), (200, 200), (200, 784)],  # p(x|z1)
    ],
}


def main(stochastic_layers: int) -> None:
    """Prints both times and their ratio."""
    model = zoo.burda((28, 28, 1), stochastic_layers)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (BATCH + N_IMAGES, 28, 28, 1)).astype(np.float32)
    rows = CHUNK * BATCH
    n_chunks = N_IMAGES * N_SAMPLES // rows
    products = [
        (tf.random.normal([rows, n_in]), tf.random.normal([n_in, n_out]))
        for n_in, n_out in PRODUCTS[stochastic_layers]
    ]
    flop = 2 * n_chunks * rows * sum(a * b for a, b in PRODUCTS[stochastic_layers])

    @tf.function
    def multiply():
        # Only a corner of each product leaves the graph, so nothing is copied.
        return [tf.matmul(a, b)[:1, :1] for a, b in products]

    def seconds_of_products():
        start = time.perf_counter()
        for _ in range(n_chunks):
            multiply()
        return time.perf_counter() - start

    def seconds_of_scoring():
        ends = []  # times; the first batch compiles and is not counted
        evaluation.log_likelihood(
            model,
            x,
            N_SAMPLES,
            CHUNK,
            BATCH,
            on_progress=lambda n_images: ends.append(time.perf_counter()),
        )
        return ends[-1] - ends[0]

    multiply()
    times = [(seconds_of_products(), seconds_of_scoring()) for _ in range(ROUNDS)]
    of_products, of_scoring = map(statistics.median, zip(*times, strict=True))
    print(
        f"{stochastic_layers} stochastic layers, {os.cpu_count()} cores: "
        f"{N_IMAGES} images with {N_SAMPLES} samples, {flop / 1e12:.3f} TFLOP\n"
        f"matrix products {of_products:.2f} s, {flop / of_products / 1e9:.0f} GFLOP/s; "
        f"scoring {of_scoring:.2f} s; ratio {of_scoring / of_products:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
