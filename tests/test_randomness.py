import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from iwae_tf import randomness

PURPOSES = ("TRAIN", "TEST", "SCORE", "FIGURES", "ORDER", "BINARIZE")


def bits(seed):
    return tuple(seed.numpy().tolist())


def test_purposes_are_distinct():
    assert len({getattr(randomness, name) for name in PURPOSES}) == len(PURPOSES)


def test_no_two_seeds_purposes_and_steps_share_a_seed():
    keys = list(itertools.product(range(3), range(len(PURPOSES)), range(25)))
    seed_of = tf.function(lambda key: randomness.seed_of(*tf.unstack(key)))
    assert len({bits(seed_of(tf.constant(key))) for key in keys}) == len(keys)


def test_order_of_the_folded_numbers_matters():
    assert bits(randomness.seed_of(1, 2, 3)) != bits(randomness.seed_of(1, 3, 2))


def test_seed_is_int32_of_two_and_folding_in_turn_is_folding_at_once():
    once, seed = randomness.seed_of(5, 1, 2), randomness.seed_of(5)
    assert once.shape == seed.shape == (2,) and once.dtype == tf.int32
    assert bits(randomness.seed_of(randomness.seed_of(seed, 1), 2)) == bits(once)


def test_folding_is_the_seed_of_one_integer_more():
    fold = randomness.folding(3, randomness.ORDER)
    for value in (0, 1, 2**31 - 1):
        assert bits(fold(value)) == bits(randomness.seed_of(3, randomness.ORDER, value))


@pytest.mark.parametrize("draw", [randomness.normal, randomness.uniform])
def test_number_is_a_function_of_its_seed_alone(draw):
    seed = randomness.seed_of(3, randomness.TRAIN, 7)
    first = draw([4, 5], seed).numpy()
    tf.random.set_seed(1)
    draw([9], randomness.seed_of(8))
    np.testing.assert_array_equal(draw([4, 5], seed), first)
    in_graph = tf.function(draw)(tf.constant([4, 5]), seed)
    np.testing.assert_array_equal(in_graph, first)
    assert not np.array_equal(draw([4, 5], randomness.seed_of(4)), first)


@pytest.mark.parametrize(
    ("draw", "cdf"),
    [(randomness.normal, stats.norm.cdf), (randomness.uniform, stats.uniform.cdf)],
)
def test_distribution_by_kolmogorov_smirnov(draw, cdf):
    # One number from each of many steps: neighbouring seeds must not correlate.
    @tf.function
    def draw_at(step):
        return draw([100], randomness.seed_of(1, randomness.TRAIN, step))

    values = np.concatenate([draw_at(tf.constant(i)).numpy() for i in range(200)])
    assert values.dtype == np.float32
    assert stats.kstest(values, cdf).pvalue > 1e-6
    firsts = values[::100].astype(np.float64)
    assert abs(np.corrcoef(firsts[1:], firsts[:-1])[0, 1]) < 5 / len(firsts) ** 0.5


def test_normal_numbers_are_the_same_with_and_without_xla():
    seed = randomness.seed_of(4)
    z = randomness.normal([10**5], seed).numpy()
    compiled = tf.function(lambda: randomness.normal([10**5], seed), jit_compile=True)
    # A quantile is as exact as its probability, which is near 1 in the tails.
    density = np.exp(-np.square(z) / 2)
    np.testing.assert_array_less(density * np.abs(compiled() - z), 1e-6)


def test_normal_numbers_have_tails():
    z = randomness.normal([10**6], randomness.seed_of(2)).numpy()
    for threshold in (-4.5, -4, -3, 3, 4, 4.5):
        beyond = np.sum(np.sign(threshold) * z > abs(threshold))
        expected = stats.norm.sf(abs(threshold)) * len(z)
        assert abs(beyond - expected) < 5 * expected**0.5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_normal_numbers_are_finite_whatever_the_bits(jit_compile, monkeypatch):
    ends = tf.constant([tf.int64.min, 0, tf.int64.max])
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *_, **__: ends)
    normal = tf.function(randomness.normal, jit_compile=jit_compile)
    low, middle, high = normal([3], randomness.seed_of(2)).numpy()
    assert -6 < low < -5 and middle == 0 and 5 < high < 6


def test_uniform_is_from_0_to_below_1():
    values = randomness.uniform([10**6], randomness.seed_of(2)).numpy()
    assert 0 <= values.min() and values.max() < 1


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("draw", [randomness.normal, randomness.uniform])
def test_shares_of_a_batch_have_the_noise_of_their_places(draw, jit_compile):
    seed = randomness.seed_of(3)
    all_of_it = tf.function(lambda: draw([4, 10, 3], seed), jit_compile=jit_compile)
    whole = all_of_it()
    shares = []
    for first, end in ((0, 3), (3, 3), (3, 10)):

        @tf.function(jit_compile=jit_compile)
        def own(size, first=first):
            with randomness.of_share(first, 10):
                return draw([4, size.shape[0], 3], seed)

        shares.append(own(tf.zeros(end - first)))
    assert [share.shape[1] for share in shares] == [3, 0, 7]
    np.testing.assert_allclose(np.concatenate(shares, axis=1), whole, 1e-5, 1e-6)
    # Other noise beside it, and the whole batch again after it.
    assert np.abs(shares[2][:, :3] - shares[0]).max() > 0.1
    np.testing.assert_array_equal(all_of_it(), whole)
