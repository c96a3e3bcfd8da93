"""Log-likelihoods of observations, with gradients that stay finite."""

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
    n = logits.shape[-1]
    width = _LANES * math.ceil(n / (_LANES * _FACTORS))
    n_factors = n // width
    product, linear = 1.0, 0.0
    for i in range(n_factors):
        part = slice(i * width, (i + 1) * width)
        x_part, l_part = x[..., part], logits[..., part]
        product *= 1.0 + tf.exp(-tf.abs(l_part))
        linear += x_part * l_part - tf.nn.relu(l_part)
    x_rest, l_rest = x[..., n_factors * width :], logits[..., n_factors * width :]
    log_px = tf.reduce_sum(x_rest * l_rest - tf.nn.softplus(l_rest), axis=-1)
    if n_factors:
        log_px += tf.reduce_sum(linear - tf.math.log(product), axis=-1)

    def gradients(upstream):
        upstream = upstream[..., tf.newaxis]
        of_x, of_logits = upstream * logits, upstream * (x - tf.sigmoid(logits))
        return _summed_like(of_x, x), _summed_like(of_logits, logits)

    return log_px, gradients


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
