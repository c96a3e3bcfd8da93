"""Seconds of scoring, beside the matrix products that it needs.

With one stochastic layer, one sample in the decoder of Burda et al. 2016 needs three
products, or 0.41 MFLOP; 5,000 samples for each of 10,000 images need 20.7 TFLOP. The
products alone are timed on matrices of the same shapes and in the same rounds.
"""

import functools

import numpy as np

from benchmarks import products
from benchmarks.turns import head, medians, row
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models import zoo

N_IMAGES, N_SAMPLES, CHUNK, BATCH = 40, 5000, 250, 20


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the seconds by name."""
    found = {}
    head("layers", "TFLOP", "products, s", "GFLOP/s", "scoring, s", "ratio")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (N_IMAGES, 28, 28, 1)).astype(np.float32)
    n_chunks = N_IMAGES * N_SAMPLES // (CHUNK * BATCH)
    for n_layers in (1, 2):
        model = zoo.burda((28, 28, 1), n_layers)
        score = functools.partial(
            log_likelihood, model, x, N_SAMPLES, CHUNK, batch_size=BATCH
        )
        score()  # compiles
        multiply = products.of_scoring(n_layers, CHUNK * BATCH)
        seconds = medians(
            {
                "products": lambda f=multiply: [f() for _ in range(n_chunks)],
                "scoring": score,
            },
            rounds=7,
        )
        of_products, of_scoring = seconds["products"], seconds["scoring"]
        flop = n_chunks * products.flop_of_scoring(n_layers, CHUNK * BATCH)
        row(
            n_layers,
            flop / 1e12,
            of_products,
            flop / of_products / 1e9,
            of_scoring,
            of_scoring / of_products,
        )
        for name, value in seconds.items():
            found[f"{n_layers} layers, {N_IMAGES} images, {name}, s"] = value
    return found
