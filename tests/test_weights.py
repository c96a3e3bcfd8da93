"""Tests of iwae_tf.weights."""

import itertools
import re
from decimal import Decimal, localcontext
from math import comb, factorial
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

import iwae_tf
from iwae_tf import weights

SHIFTS = (0.0, 1e4, -1e4)
REDUCTIONS = (weights.log_mean_exp, weights.effective_sample_size)


def draw_log_w(k, b, scale=3.0, seed=0):
    return np.random.default_rng(seed).normal(scale=scale, size=(k, b))


def scipy_log_mean_exp(log_w):
    return scipy.special.logsumexp(log_w, axis=0) - np.log(len(log_w))


@pytest.mark.parametrize("shift", SHIFTS)
# A square input tells a wrong axis by its values, the others by their shape.
@pytest.mark.parametrize("shape", [(5, 5), (7, 2), (1, 3), (4, 1)])
def test_log_mean_exp_equals_scipy(shape, shift):
    log_w = draw_log_w(*shape) + shift
    got = weights.log_mean_exp(log_w)
    np.testing.assert_allclose(got, scipy_log_mean_exp(log_w), rtol=1e-13)


@pytest.mark.parametrize("shift", SHIFTS)
def test_log_mean_exp_equals_scipy_in_float32(shift):
    log_w = (draw_log_w(5, 5) + shift).astype(np.float32)
    got = weights.log_mean_exp(log_w)
    assert got.dtype == tf.float32
    want = scipy_log_mean_exp(log_w.astype(np.float64))
    # Two roundings of a result of this size.
    np.testing.assert_allclose(got, want, rtol=2.5e-7, atol=1e-6)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("shape", [(5, 5), (7, 2), (1, 3)])
def test_normalise_equals_numpy_weights(shape, shift):
    log_w = draw_log_w(*shape)
    w = np.exp(log_w)
    got = weights.normalise(log_w + shift)
    # The shift itself rounds log_w at 1e4 times the eps of float64.
    np.testing.assert_allclose(got, w / w.sum(axis=0), rtol=1e-11)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("shape", [(5, 5), (7, 2), (1, 3)])
def test_effective_sample_size_equals_numpy(shape, shift):
    log_w = draw_log_w(*shape)
    w = np.exp(log_w)
    got = weights.effective_sample_size(log_w + shift)
    want = w.sum(axis=0) ** 2 / (w**2).sum(axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("level", [0.0, -95.0, 1e4, -1e4])
def test_effective_sample_size_is_k_for_equal_weights_and_1_for_one_hot(level):
    equal = np.full((6, 6), level, np.float32)
    one_hot = equal + 1000 * np.eye(6, dtype=np.float32)
    # In float32, where 2 log w at 1e4 would be rounded by 2e-3 nats.
    np.testing.assert_allclose(weights.effective_sample_size(equal), 6, rtol=1e-6)
    np.testing.assert_allclose(weights.effective_sample_size(one_hot), 1, rtol=1e-6)


@pytest.mark.parametrize("function", REDUCTIONS)
def test_reductions_do_not_see_the_order_of_samples(function):
    log_w = draw_log_w(6, 6)
    shuffled = np.random.default_rng(1).permutation(log_w, axis=0)
    np.testing.assert_allclose(function(shuffled), function(log_w), rtol=1e-13)


@pytest.mark.parametrize("function", (*REDUCTIONS, weights.normalise))
def test_images_do_not_mix(function):
    log_w = draw_log_w(6, 6)
    order = np.random.default_rng(1).permutation(6)
    got = function(log_w[:, order])
    np.testing.assert_allclose(got, tf.gather(function(log_w), order, axis=-1))


def test_normalise_moves_with_the_order_of_samples():
    log_w = draw_log_w(6, 6)
    order = np.random.default_rng(1).permutation(6)
    got, want = weights.normalise(log_w[order]), weights.normalise(log_w)
    np.testing.assert_allclose(got, want.numpy()[order], rtol=1e-13)


@pytest.mark.parametrize("shift", [1e4, -1e4, 0.25])
def test_log_mean_exp_moves_with_a_shift_and_the_others_do_not(shift):
    log_w = draw_log_w(6, 6)
    # A shift per image: one for all would not tell the axes apart.
    shifts = shift * np.arange(6)
    moved = log_w + shifts
    np.testing.assert_allclose(
        weights.log_mean_exp(moved), weights.log_mean_exp(log_w) + shifts, rtol=1e-12
    )
    for function in (weights.normalise, weights.effective_sample_size):
        np.testing.assert_allclose(function(moved), function(log_w), rtol=1e-9)


def test_gradient_of_log_mean_exp_is_numpy_softmax():
    log_w = tf.constant(draw_log_w(5, 5) - 1e4)
    with tf.GradientTape() as tape:
        tape.watch(log_w)
        total = tf.reduce_sum(weights.log_mean_exp(log_w))
    w = np.exp(log_w.numpy() + 1e4)
    np.testing.assert_allclose(
        tape.gradient(total, log_w), w / w.sum(axis=0), rtol=1e-11
    )


@pytest.mark.parametrize(
    ("log_w", "got"),
    [
        (np.zeros(3), r"got float64 of shape \(3,\)"),
        (np.zeros((3, 2, 1), np.float32), r"got float32 of shape \(3, 2, 1\)"),
        (np.zeros((3, 2), np.int32), r"got int32 of shape \(3, 2\)"),
    ],
)
@pytest.mark.parametrize(
    "function",
    [*REDUCTIONS, weights.normalise, lambda w: weights.StreamingLogMeanExp(2).add(w)],
)
def test_other_shapes_and_dtypes_are_refused(function, log_w, got):
    rule = r"log_w: must be a float tensor of shape \[k, b\], " + got
    with pytest.raises(ValueError, match=rule) as info:
        function(log_w)
    assert "\n" not in str(info.value)


def stream(log_w, group_size, chunk):
    streaming = weights.StreamingLogMeanExp(group_size)
    for first in range(0, len(log_w), chunk):
        streaming.add(log_w[first : first + chunk])
    return streaming.mean()


@pytest.mark.parametrize("level", SHIFTS)
@pytest.mark.parametrize("chunk", [1, 7, 24])
# 24: one group; 5: 4 complete groups and 4 samples over; 23: 1 over; 8, 3: none over.
@pytest.mark.parametrize("group_size", [1, 3, 5, 8, 23, 24])
def test_streaming_equals_numpy_over_complete_groups(group_size, chunk, level):
    log_w = (draw_log_w(24, 3) + level).astype(np.float32)
    got = stream(log_w, group_size, chunk)
    assert got.dtype == tf.float64
    n_groups = 24 // group_size
    groups = log_w[: n_groups * group_size].astype(np.float64)
    groups = groups.reshape(n_groups, group_size, 3)
    want = np.mean([scipy_log_mean_exp(group) for group in groups], axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_streaming_equals_numpy_for_chunks_of_changing_size():
    log_w = draw_log_w(40, 2)
    streaming = weights.StreamingLogMeanExp(6)
    sizes = (1, 5, 6, 2, 13, 4, 7, 2)  # ends on, before and behind a group's end
    for first, size in zip(np.cumsum((0, *sizes)), sizes, strict=False):
        streaming.add(log_w[first : first + size])
    groups = log_w[:36].reshape(6, 6, 2)
    want = np.mean([scipy_log_mean_exp(group) for group in groups], axis=0)
    np.testing.assert_allclose(streaming.mean(), want, rtol=1e-12)


def test_streaming_counts_samples_of_no_weight():
    log_w = np.array([[-np.inf, 0.0, -np.inf], [-np.inf, -np.inf, -3.0]])
    expected = [-np.inf, -np.log(2), -3 - np.log(2)]
    for chunk in (1, 2):
        np.testing.assert_allclose(stream(log_w, 2, chunk), expected, rtol=1e-12)


def test_streaming_without_a_complete_group_is_refused():
    streaming = weights.StreamingLogMeanExp(5)
    rule = "group_size: 5 samples are needed for a group, got "
    with pytest.raises(ValueError, match=rule + "0"):
        streaming.mean()
    streaming.add(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=rule + "4"):
        streaming.mean()


def test_only_functions_of_weights_sum_or_normalise_exponentials():
    package = Path(iwae_tf.__file__).parent
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search("log_?sum_?exp|logaddexp|softmax", path.read_text(), re.IGNORECASE)
    }
    assert users == {"pareto.py", "weights.py"}


# Groups ------------------------------------------------------------------------------


def test_sample_i_is_in_group_i_modulo_m():
    log_w = np.arange(12.0).reshape(6, 2)  # samples 0..5 of images 0 and 1
    got = weights.in_groups(log_w, 3).numpy()
    for group, image in itertools.product(range(3), range(2)):
        want = log_w[group::3, image]
        np.testing.assert_array_equal(got[:, 2 * group + image], want)


def test_groups_must_be_of_one_size():
    with pytest.raises(ValueError, match="^n_groups: .* number of samples, 6, got 4$"):
        weights.in_groups(np.zeros((6, 2)), 4)


# Jackknife ---------------------------------------------------------------------------


def jackknife_by_definition(log_w, order):
    """All subsets of the samples of one image, with 60 digits."""
    k = len(log_w)
    with localcontext() as context:
        context.prec = 60
        w = [Decimal(float(value)).exp() for value in log_w]
        total = Decimal(0)
        for j in range(order + 1):
            logs = [
                (sum(w[i] for i in range(k) if i not in left_out) / (k - j)).ln()
                for left_out in itertools.combinations(range(k), j)
            ]
            scale = factorial(order - j) * factorial(j)
            total += (
                Decimal((-1) ** j * (k - j) ** order) / scale * sum(logs) / comb(k, j)
            )
        return float(total)


# Fewer, as many and more samples than are left out one by one.
@pytest.mark.parametrize("k", [3, 8, 9, 30])
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
@pytest.mark.parametrize("shift", SHIFTS)
def test_jackknife_equals_its_definition(k, scale, shift):
    log_w = draw_log_w(k, 2, scale) + shift
    for order in (1, 2):
        want = [jackknife_by_definition(column, order) for column in log_w.T]
        # log_w itself is rounded to 2e-12 at 1e4, and its error grows with k.
        np.testing.assert_allclose(
            weights.jackknife(log_w, order), want, rtol=1e-12, atol=1e-10
        )


@pytest.mark.parametrize("n_dominating", [1, 2, 9])
def test_jackknife_of_dominating_weights_equals_its_definition(n_dominating):
    log_w = np.where(np.arange(20) < n_dominating, 1e4, -1e4)[:, None]
    log_w += draw_log_w(20, 1, 0.1)
    for order in (1, 2):
        want = jackknife_by_definition(log_w[:, 0], order)
        np.testing.assert_allclose(weights.jackknife(log_w, order), want, rtol=1e-12)


def test_jackknife_of_equal_weights_is_their_log():
    for k, order in itertools.product((3, 5, 5000), (1, 2)):
        got = weights.jackknife(np.full((k, 2), -1e4), order)
        np.testing.assert_allclose(got, -1e4, rtol=1e-12)


def test_bias_of_the_jackknife_falls_by_one_more_power_of_k_with_each_order():
    # Weights 1/2 and 3/2 with equal odds: log E w = 0, and the expectation over k
    # samples is a sum over the number of large ones, without noise.
    ks, values = (8, 16, 32, 64), np.log([0.5, 1.5])
    estimates = {
        0: lambda log_w: weights.log_mean_exp(log_w)[0],
        1: lambda log_w: weights.jackknife(log_w, 1)[0],
        2: lambda log_w: weights.jackknife(log_w, 2)[0],
    }
    for order, estimate in estimates.items():
        biases = [
            sum(
                comb(k, n)
                / 2**k
                * estimate(values[(np.arange(k) < n).astype(int)][:, None])
                for n in range(k + 1)
            )
            for k in ks
        ]
        slope = np.polyfit(np.log(ks), np.log(np.abs(biases)), 1)[0]
        assert slope == pytest.approx(-(order + 1), abs=0.15)


@pytest.mark.parametrize(
    ("k", "order", "rule"),
    [
        (5, 0, "order: must be 1 or 2, got 0"),
        (5, 3, "order: must be 1 or 2, got 3"),
        (1, 1, "log_w: must have more than 1 samples, got 1"),
        (2, 2, "log_w: must have more than 2 samples, got 2"),
    ],
)
def test_jackknife_refuses(k, order, rule):
    with pytest.raises(ValueError, match=f"^{rule}$"):
        weights.jackknife(np.zeros((k, 2)), order)


def without_each(log_w):
    """VIMCO's bounds without a weight each, by a loop."""
    found = np.empty_like(log_w)
    for i in range(len(log_w)):
        replaced = log_w.copy()
        replaced[i] = np.delete(log_w, i, axis=0).mean(axis=0)
        found[i] = scipy_log_mean_exp(replaced)
    return found


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("shape", [(5, 5), (7, 2), (2, 3), (2, 1)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_log_mean_exp_without_each_equals_a_loop(scale, shape, shift):
    log_w = draw_log_w(*shape, scale) + shift
    got = weights.log_mean_exp_without_each(log_w)
    np.testing.assert_allclose(got, without_each(log_w), rtol=1e-12, atol=1e-12)
    got = weights.log_sum_without_each(log_w)
    others = [np.delete(log_w, i, axis=0) for i in range(len(log_w))]
    want = [scipy.special.logsumexp(part, axis=0) for part in others]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "column",
    [
        [0, 1e4, 0, 1],  # one weight dominates
        [1e4, 1e4, 0, 1],  # two do
        [0, 30, 1, 2],  # 1 - w~ is below the unit of float32
        [5, 5, 5, 5],
        [-1e4, 0, 0, 0],
        [3, -1e4],
        [2, 2],
    ],
)
def test_log_mean_exp_without_each_keeps_its_digits(column, dtype):
    log_w = np.array(column, dtype)[:, np.newaxis]
    want = without_each(log_w.astype(np.float64))
    got = weights.log_mean_exp_without_each(log_w)
    assert got.dtype == dtype
    rtol = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
