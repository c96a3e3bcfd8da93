"""Bernoulli log-likelihoods as operations with gradients of their own.

They are what a training step spends its time on beside its matrix products, so they
pass over the logits as few times as they can.
"""

import functools
import math

import tensorflow as tf

_LANES = 16  # float32 numbers in a vector register
_FACTORS = 64  # most factors in a product, which is then at most 2^64


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def bernoulli_log_prob(x: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The log-likelihood of pixels: sum_j x_j l_j - log(1 + exp(l_j)).

    log(1 + exp(l)) is max(l, 0) + log(1 + exp(-|l|)). The factors 1 + exp(-|l|) are at
    most 2, so one logarithm is taken of the product of many: of 49 for 28x28 pixels.

    Args:
      x: pixels in 0..1, [..., n].
      logits: l, [..., n].

    Returns:
      log_px: [...], nats.
    """

    def gradients(upstream):
        upstream = upstream[..., tf.newaxis]
        of_x, of_logits = upstream * logits, upstream * (x - tf.sigmoid(logits))
        return _summed_like(of_x, x), _summed_like(of_logits, logits)

    return _bernoulli(x, lambda part: logits[..., part], logits.shape[-1]), gradients


def linear_bernoulli_log_prob(
    x: tf.Tensor,
    features: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    observed: tf.Tensor | None = None,
) -> tf.Tensor:
    """The log-likelihood of pixels whose logits are linear: l = features kernel + bias.

    The logits are many numbers, so the time goes into passing over them. Beside the
    three matrix products, this passes over them twice: forwards, and backwards to make
    x - sigmoid(l). What comes from above multiplies the smaller factors or results of
    the products, and the gradient of the bias is one more row of that of the kernel.

    Args:
      x: pixels in 0..1, broadcast against the logits, [..., n].
      features: [..., m].
      kernel: [m, n].
      bias: [n].
      observed: which pixels are observed, bool, broadcast against x. By default all
        are. The others can be anything, and have no term and no gradient.

    Returns:
      log_px: [...], nats.
    """
    m, n = kernel.shape
    if observed is not None:
        x = tf.where(observed, x, 0.0)

    def logits_of(products, bias, part=slice(None)):
        logits = products[..., part] + bias[part]
        return logits if observed is None else masked(logits, observed[..., part])

    @tf.autograph.experimental.do_not_convert
    @tf.custom_gradient
    def log_prob(x, features, kernel, bias):
        rows = tf.reshape(features, [-1, m])
        shape = tf.concat([tf.shape(features)[:-1], [n]], axis=0)
        products = tf.reshape(tf.matmul(rows, kernel), shape)

        def gradients(upstream):
            logits = logits_of(products, bias)
            rest = tf.reshape(x - tf.sigmoid(logits), [-1, n])
            of_rows = tf.reshape(upstream, [-1, 1])
            beside_ones = tf.concat([of_rows * rows, of_rows], axis=-1)
            of_kernel = tf.matmul(beside_ones, rest, transpose_a=True)
            of_features = of_rows * tf.matmul(rest, kernel, transpose_b=True)
            return (
                _summed_like(upstream[..., tf.newaxis] * logits, x),
                tf.reshape(of_features, tf.shape(features)),
                of_kernel[:-1],
                of_kernel[-1],
            )

        of_part = functools.partial(logits_of, products, bias)
        return _bernoulli(x, of_part, n), gradients

    return log_prob(x, features, kernel, bias)


def masked(logits: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
    """Logits with which a pixel that is 0 and not observed has exactly no term."""
    return tf.where(observed, logits, -1e4)  # exp(-1e4) is 0


def _bernoulli(x, logits_of, n):
    """`bernoulli_log_prob`, with logits [..., n] that are made for a slice at a time.

    A slice that is made anew for each use costs XLA no pass over all of them.
    """
    width = _LANES * math.ceil(n / (_LANES * _FACTORS))
    n_factors = n // width
    product, linear = 1.0, 0.0
    for i in range(n_factors):
        part = slice(i * width, (i + 1) * width)
        x_part, l_part = x[..., part], logits_of(part)
        product *= 1.0 + tf.exp(-tf.abs(l_part))
        linear += x_part * l_part - tf.nn.relu(l_part)
    rest = slice(n_factors * width, n)
    x_rest, l_rest = x[..., rest], logits_of(rest)
    log_px = tf.reduce_sum(x_rest * l_rest - tf.nn.softplus(l_rest), axis=-1)
    if n_factors:
        log_px += tf.reduce_sum(linear - tf.math.log(product), axis=-1)
    return log_px


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def log_average_sigmoid(
    weights: tuple[tf.Tensor, ...], logits: tuple[tf.Tensor, ...]
) -> tf.Tensor:
    """The log of an average probability: log sum_c w_c sigmoid(l_c).

    The average is computed times e^s, so that it never underflows. If the largest logit
    with a positive weight is negative, s is minus that logit; otherwise s is 0.

    Args:
      weights: w, each [...]; they sum to one.
      logits: l, as many as weights, broadcast against them.

    Returns:
      log_p: [...], nats.
    """
    present = [
        tf.where(w > 0, logit, logit.dtype.min)
        for w, logit in zip(weights, logits, strict=True)
    ]
    shift = tf.nn.relu(-functools.reduce(tf.maximum, present))
    # If w_c is 0 and the other logits are far below l_c, the term is capped at e^60.
    scaled = [
        tf.exp(tf.minimum(tf.minimum(logit, 0.0) + shift, 60.0))
        / (1.0 + tf.exp(-tf.abs(logit)))
        for logit in logits
    ]
    average = tf.add_n([w * s for w, s in zip(weights, scaled, strict=True)])

    def gradients(upstream):
        upstream = upstream / average
        terms = list(zip(weights, logits, scaled, strict=True))
        of_weights = [_summed_like(upstream * s, w) for w, _, s in terms]
        of_logits = [
            _summed_like(upstream * w * s * tf.sigmoid(-logit), logit)
            for w, logit, s in terms
        ]
        return *of_weights, *of_logits

    return tf.math.log(average) - shift, gradients


def _summed_like(gradient, operand):
    _, axes = tf.raw_ops.BroadcastGradientArgs(
        s0=tf.shape(gradient), s1=tf.shape(operand)
    )
    return tf.reshape(tf.reduce_sum(gradient, axes), tf.shape(operand))
