"""The matrix products of the networks of Burda et al. 2016, without the rest."""

from collections.abc import Callable

import tensorflow as tf

# Number of inputs and outputs of each product, bottom-up: those of q(z1|x) have a row
# for each image, and the others one for each sample.
ENCODER = {n: [(784, 200), (200, 200), *[(200, 50 * n)] * 2] for n in (1, 2)}
DECODER = {
    1: [(50, 200), (200, 200), (200, 784)],
    2: [
        *[(100, 100), (100, 100), (100, 50), (100, 50)],  # q(z2|z1)
        *[(50, 100), (100, 100), (100, 100), (100, 100)],  # p(z1|z2)
        *[(100, 200), (200, 200), (200, 784)],  # p(x|z1)
    ],
}


def of_step(n_layers: int, batch: int, k: int) -> Callable[[], object]:
    """The products of a training step: forwards, and to both factors backwards.

    TensorFlow makes them one after another, by oneDNN on a CPU that it suits.

    Args:
      n_layers: number of stochastic layers, 1 or 2.
      batch: number of images.
      k: number of samples per image.

    Returns:
      multiply: a function without arguments, called once already.
    """
    shapes = [
        *[(batch, *pair) for pair in ENCODER[n_layers]],
        *[(batch * k, *pair) for pair in DECODER[n_layers]],
    ]
    factors = [
        (
            tf.random.normal([rows, n_in]),
            tf.random.normal([n_in, n_out]),
            tf.random.normal([rows, n_out]),
        )
        for rows, n_in, n_out in shapes
    ]

    @tf.function(autograph=False)
    def multiply():
        # Only a corner of each product leaves the graph, so nothing is copied.
        corners = []
        for i, (inputs, kernel, upstream) in enumerate(factors):
            corners += [
                tf.matmul(inputs, kernel)[:1, :1],
                tf.matmul(inputs, upstream, transpose_a=True)[:1, :1],
            ]
            if i:  # no gradient goes to the images
                corners.append(tf.matmul(upstream, kernel, transpose_b=True)[:1, :1])
        return corners

    multiply()
    return multiply


def of_scoring(n_layers: int, rows: int) -> Callable[[], object]:
    """The products that the samples of one chunk need in scoring.

    Args:
      n_layers: number of stochastic layers, 1 or 2.
      rows: number of samples, of all images together.

    Returns:
      multiply: a function without arguments, called once already.
    """
    factors = [
        (tf.random.normal([rows, n_in]), tf.random.normal([n_in, n_out]))
        for n_in, n_out in DECODER[n_layers]
    ]

    @tf.function(autograph=False)
    def multiply():
        return [tf.matmul(a, b)[:1, :1] for a, b in factors]

    multiply()
    return multiply


def flop_of_scoring(n_layers: int, rows: int) -> int:
    """Number of floating-point operations of `of_scoring`."""
    return 2 * rows * sum(a * b for a, b in DECODER[n_layers])
