"""Tests of iwae_tf.models.bernoulli."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from iwae_tf.models.bernoulli import (
    bernoulli_log_prob,
    linear_bernoulli_log_prob,
    log_average_sigmoid,
)
from iwae_tf.models.likelihoods import Bernoulli


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 64, 790])
def test_bernoulli_log_prob_equals_scipy(n, scale):
    rng = np.random.default_rng(n)
    logits = (scale * rng.normal(size=(4, 3, n))).astype(np.float32)
    x = rng.uniform(size=(3, n)).astype(np.float32)
    got = bernoulli_log_prob(tf.constant(x), tf.constant(logits))
    parts = x.astype(np.float64) * logits - np.logaddexp(0, logits.astype(np.float64))
    # Rounding in float32, of terms as large as these.
    size = np.abs(x * logits).sum(-1) + np.logaddexp(0, logits).sum(-1)
    error = np.abs(got - parts.sum(-1)) / np.maximum(size, 1e-30)
    assert got.shape == (4, 3) and error.max() < 1e-6


@pytest.mark.parametrize("logit", [60.0, -60.0])
def test_bernoulli_log_prob_of_certain_pixels_is_as_small_as_it_is(logit):
    logits = tf.fill([1, 160], logit)
    right, wrong = float(logit > 0), float(logit < 0)
    assert bernoulli_log_prob(tf.fill([1, 160], right), logits) == 0.0
    assert bernoulli_log_prob(tf.fill([1, 160], wrong), logits) == -160 * 60.0


# Compiled where both are broadcast.
@pytest.mark.parametrize(
    ("of_x", "of_logits", "jit_compile"),
    [
        ((3, 37), (5, 3, 37), False),
        ((5, 3, 37), (5, 3, 37), False),
        ((1, 37), (3, 37), False),
        ((5, 3, 37), (3, 37), False),
        ((5, 3, 37), (5, 1, 37), False),
        ((3, 37), (5, 1, 37), True),
    ],
)
def test_gradients_of_bernoulli_log_prob_equal_those_of_its_definition(
    of_x, of_logits, jit_compile
):
    rng = np.random.default_rng(1)
    x = tf.constant(rng.uniform(size=of_x), tf.float64)
    logits = tf.constant(20 * rng.normal(size=of_logits), tf.float64)

    def definition(x, logits):
        return tf.reduce_sum(x * logits - tf.math.softplus(logits), axis=-1)

    @tf.function(jit_compile=jit_compile)
    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch((x, logits))
            value = function(x, logits)
            loss = tf.reduce_sum(tf.sin(value))
        return value, tape.gradient(loss, (x, logits))

    got, want = gradients(bernoulli_log_prob), gradients(definition)
    for ours, reference in zip(
        tf.nest.flatten(got), tf.nest.flatten(want), strict=True
    ):
        np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("with_missing", [False, True])
@pytest.mark.parametrize(("scale", "jit_compile"), [(1.0, False), (30.0, True)])
def test_linear_bernoulli_has_the_value_and_gradients_of_its_two_parts(
    scale, jit_compile, with_missing
):
    rng = np.random.default_rng(2)
    shapes = {"x": (3, 37), "features": (5, 3, 4), "kernel": (4, 37), "bias": (37,)}
    arguments = [tf.constant(rng.normal(size=shape)) for shape in shapes.values()]
    arguments[0] = tf.constant(rng.random((3, 37)))
    arguments[2] *= scale
    upstream = tf.constant(rng.normal(size=(5, 3)))

    observed = rng.random((3, 37)) < 0.7 if with_missing else None
    if with_missing:
        arguments[0] = tf.where(observed, arguments[0], np.nan)

    def two_parts(x, features, kernel, bias):
        return Bernoulli().log_prob(x, (features @ kernel + bias,), observed)

    def one_part(*arguments):
        return linear_bernoulli_log_prob(*arguments, observed)

    def values(function):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            log_px = function(*arguments)
            total = tf.reduce_sum(upstream * log_px)
        return [log_px, *tape.gradient(total, arguments)]

    got, want = (
        tf.function(values, jit_compile=jit_compile, autograph=False)(function)
        for function in (one_part, two_parts)
    )
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_bernoulli_log_prob_can_be_differentiated_twice():
    logits = tf.constant([[-2.0, 0.5, 3.0] * 11], tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(logits)
        with tf.GradientTape() as inner:
            inner.watch(logits)
            log_px = bernoulli_log_prob(tf.ones_like(logits), logits)
        (gradient,) = inner.gradient(log_px, [logits])
    p = scipy.special.expit(logits.numpy())
    np.testing.assert_allclose(outer.gradient(gradient, logits), -p * (1 - p))


@pytest.mark.parametrize("scale", [1.0, 50.0, 500.0])
def test_log_average_sigmoid_equals_scipy_where_some_weights_are_zero(scale):
    rng = np.random.default_rng(0)
    logits = scale * rng.normal(size=(4, 200))
    w = rng.dirichlet(np.ones(4), size=200).T * rng.integers(0, 2, size=(4, 200))
    w[0] += 1 - w.sum(axis=0)
    got = log_average_sigmoid(*(tuple(map(tf.constant, v)) for v in (w, logits)))
    want = scipy.special.logsumexp(scipy.special.log_expit(logits), b=w, axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_of_log_average_sigmoid_equal_those_of_its_definition(jit_compile):
    rng = np.random.default_rng(0)
    w = rng.dirichlet(np.ones(4), size=(3, 5, 1)).transpose(3, 0, 1, 2)
    w = tuple(map(tf.constant, w))
    logits = tuple(map(tf.constant, 5 * rng.normal(size=(4, 5, 2))))

    def definition(w, logits):
        return tf.math.log(
            tf.add_n([a * tf.sigmoid(b) for a, b in zip(w, logits, strict=True)])
        )

    @tf.function(jit_compile=jit_compile)
    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch((w, logits))
            loss = tf.reduce_sum(tf.sin(function(w, logits)))
        return tape.gradient(loss, (w, logits))

    ours, theirs = (
        tf.nest.flatten(gradients(f)) for f in (log_average_sigmoid, definition)
    )
    for got, want in zip(ours, theirs, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


# Likelihoods -------------------------------------------------------------------------
