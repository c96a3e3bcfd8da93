"""Tests of iwae_tf.measures.likelihood."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from eager import eagerly
from linear_gaussian import LinearGaussian, exact_posterior

from iwae_tf import pareto, randomness, weights
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError
from iwae_tf.measures.likelihood import (
    LADDER,
    Likelihood,
    log_likelihood,
)
from iwae_tf.models.iwae import IWAE

ROOT = Path(__file__).resolve().parents[2]


class Table:
    """A model without noise: its parts of log w are rows of tables.

    An image is a number, the column. Every batch of images starts again at row 0, so
    the sample with index i of an image always has the entry [i, image].
    """

    def __init__(self, n_rows, n_images, scale=2.0):
        rng = np.random.default_rng(0)
        self.log_px, self.log_pz, self.log_qz = (
            rng.normal(level, scale, size=(n_rows, n_images)).astype(np.float32)
            for level in (-80.0, -9.0, -7.0)
        )
        self.n_rows = n_rows
        self.next_row = tf.Variable(0)
        self.shapes = []

    def images(self):
        n = self.log_px.shape[1]
        return np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)

    def draw(self, x, k, seed, context=None):
        self.shapes.append((k, x.shape[0]))
        rows = (self.next_row + tf.range(k)) % self.n_rows
        self.next_row.assign_add(k)
        columns = tf.cast(x[:, 0, 0, 0], tf.int32)
        parts = (
            tf.gather(tf.gather(part, rows), columns, axis=1)
            for part in (self.log_px, self.log_pz, self.log_qz)
        )
        return Draws((), *parts)


def table_for(n_samples, chunk, n_images=5):
    return Table(-(-n_samples // chunk) * chunk, n_images)


# chunk: one sample; not a divisor; a divisor; all; more than all.
@pytest.mark.parametrize("chunk", [1, 7, 10, 30, 100])
@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_every_image_has_exactly_k_samples_of_its_own(chunk, batch_size):
    n_samples = 30
    model = table_for(n_samples, min(chunk, n_samples))
    got = log_likelihood(
        model, model.images(), n_samples, chunk, batch_size, jit_compile=False
    )
    parts = (model.log_px, model.log_pz, model.log_qz)
    log_px, log_pz, log_qz = (part[:n_samples].astype(np.float64) for part in parts)
    log_w = log_px + log_pz - log_qz
    want = scipy.special.logsumexp(log_w, axis=0) - np.log(n_samples)
    # float32 rounds log w, of size 80, by 4e-6; the sums are in float64.
    np.testing.assert_allclose(got.log_px, want, rtol=0, atol=1e-5)
    w = np.exp(log_w - log_w.max(axis=0))
    ess = w.sum(axis=0) ** 2 / (w**2).sum(axis=0)
    np.testing.assert_allclose(got.ess, ess, rtol=1e-4)
    np.testing.assert_allclose(got.log_px_given_z, log_px.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(got.kl, (log_qz - log_pz).mean(axis=0), atol=1e-5)
    # One shape is compiled, whatever is left over.
    assert set(model.shapes) == {(min(chunk, n_samples), min(batch_size, 5))}


@pytest.mark.parametrize(
    ("n_samples", "ladder"),
    [
        (1, [1]),
        (3, [1, 3]),
        (5, [1, 5]),
        (60, [1, 5, 50, 60]),
        (1234, [1, 5, 50, 500, 1000, 1234]),
    ],
)
def test_ladder_of_bounds_equals_numpy_over_complete_groups(n_samples, ladder):
    model = table_for(n_samples, 7, n_images=2)
    got = log_likelihood(
        model, model.images(), n_samples, chunk=7, batch_size=2, jit_compile=False
    )
    assert list(got.bounds) == ladder
    log_w = (model.log_px + model.log_pz - model.log_qz).astype(np.float64)
    for k, bound in got.bounds.items():
        n_groups = n_samples // k
        groups = log_w[: n_groups * k].reshape(n_groups, k, 2)
        want = scipy.special.logsumexp(groups, axis=1).mean(axis=0) - np.log(k)
        np.testing.assert_allclose(bound, want, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(got.bounds[n_samples], got.log_px)
    # The elbo is the reconstruction minus the KL.
    np.testing.assert_allclose(got.bounds[1], got.log_px_given_z - got.kl, rtol=1e-12)


def test_ladder_is_the_papers():
    assert LADDER == (1, 5, 50, 500, 1000, 5000)


def test_ladder_of_ones_own_has_the_first_and_the_last_step_too():
    model = table_for(20, 7)
    got = log_likelihood(
        model, model.images(), 20, 7, jit_compile=False, ladder=(4, 3, 20, 64)
    )
    assert list(got.bounds) == [1, 3, 4, 20]


@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_jackknife_is_that_of_all_samples_of_an_image(chunk):
    model = table_for(30, chunk)
    got = log_likelihood(
        model, model.images(), 30, chunk, 2, jit_compile=False, with_jackknife=True
    )
    log_w = (model.log_px + model.log_pz - model.log_qz)[:30]
    assert set(got.jackknife) == {1, 2}
    for order, values in got.jackknife.items():
        want = weights.jackknife(log_w, order)
        # log w in float32, and leaving out magnifies its rounding.
        np.testing.assert_allclose(values, want, rtol=0, atol=1e-3)
        assert np.all(np.abs(values - got.log_px) > 0.01)
    plain = log_likelihood(model, model.images(), 30, chunk, 2, jit_compile=False)
    assert plain.jackknife == {}


@eagerly()
def test_jackknife_comes_closer_to_the_closed_form_log_px():
    generator = LinearGaussian(n_latent=(3, 2))
    model = IWAE(exact_posterior(generator, shift=0.3, stretch=1.3), generator)
    n = 8000
    x = np.repeat(generator.images(1), n, axis=0)
    options = {"batch_size": n, "jit_compile": False, "with_jackknife": True}
    got = log_likelihood(model, x, 20, 20, **options)
    log_px = generator.log_evidence(x[:1])[0]
    plain, first, second = (
        (np.mean(v) - log_px, np.std(v) / n**0.5)
        for v in (got.log_px, got.jackknife[1], got.jackknife[2])
    )
    assert plain[0] < -10 * plain[1]
    for error, standard_error in (first, second):
        assert abs(error) < abs(plain[0]) / 3
        assert abs(error) < 5 * standard_error


@pytest.mark.parametrize("level", [1e4, -1e4])
def test_extreme_weights_stay_finite(level):
    model = table_for(20, 7)
    model.log_px += np.float32(level)
    got = log_likelihood(model, model.images(), 20, 7, jit_compile=False)
    log_w = (model.log_px + model.log_pz - model.log_qz)[:20].astype(np.float64)
    want = scipy.special.logsumexp(log_w, axis=0) - np.log(20)
    np.testing.assert_allclose(got.log_px, want, rtol=1e-6)
    assert np.all((got.ess >= 1) & (got.ess <= 20))


def of_parts(**parts):
    """Results of scoring that only have some parts."""
    return Likelihood(**dict.fromkeys(Likelihood._fields) | parts)


def test_mean_and_standard_error_by_hand():
    # Deviations from 4: -3, -1, 1, 3; their squares sum to 20.
    got = of_parts(log_px=np.array([1.0, 3.0, 5.0, 7.0]))
    assert got.mean == 4
    assert got.standard_error == pytest.approx((20 / 3 / 4) ** 0.5)
    one = of_parts(log_px=np.array([1.0]))
    assert one.mean == 1 and np.isnan(one.standard_error)


@eagerly()
def test_last_batch_is_filled_up_without_a_trace(tiny, binary):
    # 5 images in batches of 2 score as the first 5 of 6 do.
    model, x = tiny(), binary(6)
    options = {
        "n_samples": 27,
        "chunk": 4,
        "batch_size": 2,
        "jit_compile": False,
        "with_jackknife": True,
    }
    want, done = log_likelihood(model, x, **options), []
    got = log_likelihood(model, x[:5], **options, on_progress=done.append)
    for a, b in zip(
        tf.nest.flatten(got._asdict()), tf.nest.flatten(want._asdict()), strict=True
    ):
        assert a.shape[-1] == 5
        np.testing.assert_array_equal(a, b[..., :5])
    assert done == [2, 4, 5]


@eagerly()
def test_stopped_scoring_goes_on_after_its_last_batch(tiny, binary, tmp_path):
    model, x, begun = tiny(), binary(6), []
    options = {"batch_size": 2, "jit_compile": False, "with_jackknife": True}

    def stop(done):
        if done == 6:
            raise KeyboardInterrupt

    want = log_likelihood(model, x, 27, 4, **options)
    with pytest.raises(KeyboardInterrupt):
        log_likelihood(model, x, 27, 4, **options, directory=tmp_path, on_progress=stop)
    options |= {"directory": tmp_path, "on_progress": begun.append}
    got = log_likelihood(model, x, 27, 4, **options)
    assert begun == [6]
    for a, b in zip(
        tf.nest.flatten(got._asdict()), tf.nest.flatten(want._asdict()), strict=True
    ):
        np.testing.assert_array_equal(a, b, strict=True)


@eagerly()
def test_likelihood_equals_numpy_on_the_draws_of_the_documented_seeds(tiny, binary):
    model, x = tiny(2), binary(4)
    got = log_likelihood(model, x, 10, chunk=4, batch_size=2, seed=8, jit_compile=False)
    for first in (0, 2):
        batch_seed = randomness.seed_of(8, randomness.SCORE, first)
        chunks = [
            model.draw(x[first : first + 2], 4, randomness.seed_of(batch_seed, start))
            for start in (0, 4, 8)
        ]
        log_w = np.concatenate([chunk.log_w() for chunk in chunks])[:10]
        want = scipy.special.logsumexp(log_w.astype(np.float64), axis=0) - np.log(10)
        # A log-weight is a difference of terms that are larger, each in float32.
        terms = [
            np.abs(part) for c in chunks for part in (c.log_px, c.log_pz, c.log_qz)
        ]
        rounding = 4 * np.finfo(np.float32).eps * np.max(terms)
        np.testing.assert_allclose(
            got.log_px[first : first + 2], want, rtol=0, atol=rounding
        )


@eagerly()
def test_scoring_is_a_function_of_its_seed_and_no_two_images_share_noise(tiny, binary):
    model, x = tiny(), np.repeat(binary(1), 4, axis=0)
    options = {"n_samples": 6, "chunk": 3, "batch_size": 2, "jit_compile": False}
    first, again, other = (
        log_likelihood(model, x, seed=seed, **options).log_px for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert len({*first, *other}) == 8


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
@eagerly()
def test_inexact_posterior_estimates_the_closed_form_log_px(n_latent):
    generator = LinearGaussian(n_latent=n_latent)
    model = IWAE(exact_posterior(generator, shift=0.2, stretch=1.2), generator)
    x, n_samples = generator.images(6), 20000
    got = log_likelihood(model, x, n_samples, 5000, batch_size=4, jit_compile=False)
    # By the delta method, with w of mean 1: var(log mean w) = var(w) / n.
    standard_error = np.sqrt(1 / got.ess - 1 / n_samples)
    error = got.log_px - generator.log_evidence(x)
    assert np.all(np.abs(error) < 5 * standard_error)
    assert np.all(got.ess < 0.95 * n_samples)
    # All of them at once: the mean over images is more exact than any of them.
    assert abs(error.mean()) < 5 * np.sqrt(np.mean(standard_error**2) / 6)
    assert np.all(got.bounds[1] < got.bounds[50])
    assert np.all(got.bounds[1] < generator.log_evidence(x) - 0.01)


@eagerly()
def test_scoring_error_is_the_spread_of_the_mean_over_repetitions():
    generator = LinearGaussian(n_latent=(3,))
    model = IWAE(exact_posterior(generator, shift=0.2, stretch=1.2), generator)
    # 40 batches of the same 20 images: each has noise of its own.
    x = np.tile(generator.images(20), [40, 1, 1, 1])
    whole = log_likelihood(model, x, 500, 500, batch_size=20, jit_compile=False)
    scores = [
        Likelihood(
            *tf.nest.map_structure(lambda v, i=i: v[..., i : i + 20], tuple(whole))
        )
        for i in range(0, 800, 20)
    ]
    spread = np.std([score.mean for score in scores], ddof=1)
    got = np.mean([score.scoring_error for score in scores])
    # The standard deviation of 40 has a relative error of 1 / sqrt(78).
    assert abs(got / spread - 1) < 5 / np.sqrt(78)
    assert spread < 0.1 * scores[0].standard_error


def of_quarters(log_w):
    """The results of scoring that only have the quarters of log-weights [k, n]."""
    parts = np.array_split(log_w, 4)
    quarters = scipy.special.logsumexp(parts, axis=1) - np.log(len(parts[0]))
    return of_parts(quarters=quarters)


@pytest.mark.parametrize(
    ("scale", "k", "tolerance"),
    # Log-normal weights: nearly equal; and of an effective sample size of a few, whose
    # noise was told too small by a factor of two by the size alone.
    [(0.1, 4, 0.05), (0.1, 200, 0.05), (1.0, 1000, 0.05), (3.0, 1000, 0.1)],
)
def test_scoring_error_covers_light_and_heavy_tails(scale, k, tolerance):
    rng = np.random.default_rng(k)
    log_w = rng.normal(scale=scale, size=(k, 4000))
    log_px = scipy.special.logsumexp(log_w, axis=0) - np.log(k)
    spread = np.std(log_px) / 4000**0.5  # over images that only differ in their noise
    assert abs(of_quarters(log_w).scoring_error / spread - 1) < tolerance


def test_scoring_error_of_equal_weights_is_0():
    assert of_quarters(np.ones([8, 3])).scoring_error == 0


def test_scoring_error_of_fewer_than_four_samples_is_not_known():
    model = Table(3, 3)
    got = log_likelihood(model, model.images(), 3, jit_compile=False)
    assert np.isnan(got.scoring_error)


@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_quarters_are_those_of_the_samples_in_order(chunk):
    model = table_for(30, chunk)
    got = log_likelihood(model, model.images(), 30, chunk, 2, jit_compile=False)
    log_w = (model.log_px + model.log_pz - model.log_qz)[:28].astype(np.float64)
    want = scipy.special.logsumexp(log_w.reshape(4, 7, 5), axis=1) - np.log(7)
    np.testing.assert_allclose(got.quarters, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_latent", [(3,), (3, 2)])
@eagerly()
def test_exact_posterior_scores_the_closed_form_with_one_sample(n_latent):
    generator = LinearGaussian(n_latent=n_latent)
    model = IWAE(exact_posterior(generator), generator)
    x = generator.images(3)
    got = log_likelihood(model, x, 7, chunk=3, batch_size=2, jit_compile=False)
    want = generator.log_evidence(x)
    # About 30 terms of up to 10 nats, each rounded by 6e-8 of itself.
    for bound in got.bounds.values():
        np.testing.assert_allclose(bound, want, rtol=0, atol=30 * 10 * 6e-8)
    np.testing.assert_allclose(got.ess, 7, rtol=1e-5)
    assert got.scoring_error < 1e-3


class Noise:
    """A model whose parts of log w are noise."""

    def draw(self, x, k, seed, context=None):
        return Draws((), *tf.unstack(randomness.normal([3, k, x.shape[0]], seed)))


def peak_of_arrays(n_samples, **options):
    """Bytes of NumPy arrays that scoring holds at most."""
    x, options = np.zeros([50, 1, 1, 1]), {"jit_compile": False, **options}
    tracemalloc.start()
    try:
        log_likelihood(Noise(), x, n_samples, 100, 50, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_arrays_grow_with_the_tail_of_the_weights_but_for_the_jackknife():
    # Held at once, the log-weights of 50 images take 200 bytes a sample. The tail of
    # 10,000 samples has 206 more than that of 1,000. The fit has up to 12 arrays.
    few, many = (peak_of_arrays(n, ladder=()) for n in (1000, 10_000))
    assert many < few + 12 * 400 * 206
    # Which the jackknife does: what is measured here is what is held.
    few, many = (
        peak_of_arrays(n, ladder=(), with_jackknife=True) for n in (1000, 10_000)
    )
    assert many > few + 200 * 9000


MEMORY = """
import re
import numpy as np
from iwae_tf import log_likelihood, zoo

def peak():  # kB
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])

model = zoo.burda((4, 4, 1), n_latent=(8,), n_hidden=(100,))
x = np.ones((5, 4, 4, 1), np.float32)
for n_samples in (5_000, 50_000):
    log_likelihood(model, x, n_samples, batch_size=5, jit_compile=False)
    print(peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_at_ten_times_the_samples_is_the_same_within_a_tenth():
    # Held at once, the hidden layers of 50,000 samples of 5 images are 100 MB each.
    # The peak is that of a process of its own; `ru_maxrss` would be no lower than the
    # test runner's, which a child inherits.
    lines = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    few, many = map(int, lines)
    assert many < 1.1 * few


def test_compiled_scoring_equals_eager(tiny, binary):
    model, x = tiny(2), binary(2)
    got = log_likelihood(model, x, 5, 5, 2, seed=4, jit_compile=True)
    seed = randomness.seed_of(randomness.seed_of(4, randomness.SCORE, 0), 0)
    log_w = model.draw(x, 5, seed).log_w().numpy().astype(np.float64)
    want = scipy.special.logsumexp(log_w, axis=0) - np.log(5)
    np.testing.assert_allclose(got.log_px, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "n_images", "rule"),
    [
        ({"n_samples": 0}, 2, "n_samples: must be at least 1, got 0"),
        ({"chunk": -1}, 2, "chunk: must be at least 1, got -1"),
        ({"batch_size": 0}, 2, "batch_size: must be at least 1, got 0"),
        ({"ladder": (5, 0)}, 2, "ladder: must be at least 1, got 0"),
        ({}, 0, "number of observations: must be at least 1, got 0"),
        (
            {"n_samples": 2, "with_jackknife": True},
            2,
            "n_samples: must be at least 3 for the jackknife, got 2",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_in_one_line(options, n_images, rule):
    with pytest.raises(UsageError, match=f"^{rule}$"):
        log_likelihood(None, np.zeros((n_images, 1, 1, 1)), **options)


def test_results_print_themselves_in_one_line():
    values = np.array([-80.0, -90.0])
    found = of_parts(
        log_px=values,
        ess=np.array([2.0, 3.0]),
        bounds={1: values, 5000: values},
        pareto_k=np.array([0.71, 0.2]),
    )
    line = (
        "Likelihood: -85.00 ± 5.00 nats, mean of log p(x) over 2 observations by 5,000 "
        "samples each, median ESS 2.5"
    )
    assert repr(found) == f"{line}, Pareto k-hat above 0.7 for 50.0%"
    assert repr(found._replace(pareto_k=np.full(2, np.nan))) == line


@pytest.mark.parametrize(
    ("n_samples", "pareto_k", "share"),
    [
        (5000, [0.69, 0.71, np.inf, -np.inf], 0.5),
        (100, [0.49, 0.51, 0.69, 0.71], 0.75),  # the threshold is 0.5
        (5000, [np.nan, 0.1], 0.5),  # a weight is NaN
        (24, [np.nan, np.nan], np.nan),
    ],
)
def test_share_with_long_tails_counts_images_above_the_threshold(
    n_samples, pareto_k, share
):
    found = of_parts(bounds={n_samples: None}, pareto_k=np.array(pareto_k))
    np.testing.assert_equal(found.share_with_long_tails, share)


# 30 samples have a tail of 6; a chunk of them is smaller and larger than that.
@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_tail_is_that_of_all_samples_of_an_image(chunk):
    model = table_for(30, chunk)
    got = log_likelihood(model, model.images(), 30, chunk, 2, jit_compile=False)
    log_w = (model.log_px + model.log_pz - model.log_qz)[:30].astype(np.float64)
    # In float32, log w of size 80 is rounded by 4e-6.
    np.testing.assert_allclose(got.pareto_k, pareto.pareto_k(log_w), atol=1e-4)
    want = pareto.smoothed_log_mean_exp(log_w)
    np.testing.assert_allclose(got.smoothed, want, rtol=0, atol=1e-4)
    assert np.all(np.abs(got.smoothed - got.log_px) > 1e-3)
    moved = got.shifted(np.arange(5.0))
    np.testing.assert_array_equal(moved.smoothed, got.smoothed + np.arange(5.0))
    np.testing.assert_array_equal(moved.pareto_k, got.pareto_k)


def test_too_few_samples_have_no_tail():
    model = table_for(24, 7)
    got = log_likelihood(model, model.images(), 24, 7, jit_compile=False)
    assert np.all(np.isnan(got.pareto_k)) and np.isnan(got.share_with_long_tails)
    np.testing.assert_allclose(got.smoothed, got.log_px, rtol=1e-12)
