import dataclasses
import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf.runs import schedules
from iwae_tf.runs.config import Config

# The paper's -------------------------------------------------------------------------


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def test_burda_at_the_first_and_last_step_of_the_papers_stages():
    # 60,000 images in batches of 20: an epoch is 3,000 steps.
    schedule = schedules.burda(3280 * 3000)
    first = 0
    for stage in range(8):
        last = first + 3**stage * 3000 - 1
        expected = 1e-3 * 10 ** (-stage / 7)
        np.testing.assert_allclose(
            rates(schedule, [first, (first + last) // 2, last]), expected, rtol=1e-6
        )
        first = last + 1
    assert first == 9_840_000
    np.testing.assert_allclose(rates(schedule, [0, first - 1]), [1e-3, 1e-4], rtol=1e-6)


@pytest.mark.parametrize("epochs", [1, 2, 30, 1000])
@pytest.mark.parametrize("steps_per_epoch", [70, 600])
def test_burda_keeps_its_shape_by_the_inverse_formula(epochs, steps_per_epoch):
    # u in 0..3280 runs over the paper's epochs; stage i is from (3^i - 1) / 2 on.
    total = epochs * steps_per_epoch
    steps = sorted(
        {0, total - 1, *np.random.default_rng(epochs).integers(0, total, 30)}
    )
    stages = [
        math.floor(math.log(1 + 2 * 3280 * (step + 0.5) / total, 3)) for step in steps
    ]
    got = rates(schedules.burda(total), steps)
    np.testing.assert_allclose(got, [1e-3 * 10 ** (-i / 7) for i in stages], rtol=1e-6)
    assert (np.diff(got) <= 0).all()


@pytest.mark.parametrize("total", [7, 70, 300])
def test_burda_stages_are_3_to_the_i_parts_to_the_nearest_step(total):
    got = rates(schedules.burda(total), range(total))
    stages = np.rint(7 * np.log10(1e-3 / got)).astype(int)
    ends = np.cumsum(np.bincount(stages, minlength=8))
    assert ends[-1] == total
    for i, end in enumerate(ends):
        assert abs(int(end) - Fraction(3 ** (i + 1) - 1, 2 * 3280) * total) <= 0.5


def test_default_optimizer_is_the_papers():
    optimizer = schedules.optimizer(Config(), 3280)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert (optimizer.epsilon, optimizer.beta_1, optimizer.beta_2) == (1e-4, 0.9, 0.999)
    assert schedules.learning_rate_at(optimizer, 0) == pytest.approx(1e-3)
    assert schedules.learning_rate_at(optimizer, 3279) == pytest.approx(1e-4)


def test_constant_schedule_is_constant():
    for given, expected in ((None, 1e-3), (0.25, 0.25)):
        config = Config(schedule="constant", learning_rate=given, epochs=3)
        optimizer = schedules.optimizer(config, 180)
        for step in (0, 1, 179):
            rate = schedules.learning_rate_at(optimizer, step)
            assert rate == pytest.approx(expected)


# The fast recipe ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["muon", "adam"])
def test_rate_of_fast_falls_on_a_line_to_zero(name):
    config = Config(schedule="fast", optimizer=name, learning_rate=0.5)
    optimizer = schedules.optimizer(config, 400)
    got = [schedules.learning_rate_at(optimizer, step) for step in (0, 100, 200, 400)]
    want = [0.5, 0.375, 0.25, 0.0]
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_muon_moves_matrices_along_orthogonal_ones_and_the_rest_as_adam_does():
    rng = np.random.default_rng(0)
    config = Config(schedule="fast", learning_rate=1e-3)
    optimizer = schedules.optimizer(config, 10**6)  # the rate hardly falls
    matrix, bias = (keras.Variable(tf.zeros(shape)) for shape in ((30, 50), (50,)))
    gradients = [rng.normal(size=v.shape).astype(np.float32) for v in (matrix, bias)]
    optimizer.apply([tf.constant(g) for g in gradients], [matrix, bias])
    # Adam's first step, at half the rate: g / |g|, but for epsilon.
    epsilon = 1e-7 / math.sqrt(1 - 0.999)
    half = -0.5e-3 * gradients[1] / (abs(gradients[1]) + epsilon)
    np.testing.assert_allclose(bias.numpy(), half, rtol=1e-4)
    u, s, vt = np.linalg.svd(gradients[0], full_matrices=False)
    moved = -u.T @ matrix.numpy() @ vt.T
    # Five iterations of degree 5 leave singular values between 0.7 and 1.2 of it.
    scale = 1e-3 * 0.2 * math.sqrt(50)
    np.testing.assert_allclose(moved - np.diag(np.diag(moved)), 0, atol=1e-4 * scale)
    assert (abs(np.diag(moved) / scale - 0.95) < 0.3).all() and s[0] > 2 * s[-1]


def test_weights_do_not_decay():
    for shape in ((3, 4), (4,)):
        variable = keras.Variable(tf.ones(shape))
        optimizer = schedules.optimizer(Config(schedule="fast"), 100)
        optimizer.apply([tf.zeros(shape)], [variable])
        np.testing.assert_array_equal(variable, 1.0)


@pytest.mark.parametrize(
    ("k", "epochs", "want"),
    [
        (1, 200, [(0, 200, 1)]),
        (5, 200, [(0, 100, 1), (100, 200, 5)]),
        (50, 200, [(0, 100, 1), (100, 170, 5), (170, 200, 50)]),
        (7, 10, [(0, 5, 1), (5, 8, 5), (8, 10, 7)]),
        (50, 2, [(0, 1, 1), (1, 2, 50)]),
        (50, 1, [(0, 1, 50)]),
        (5, 1, [(0, 1, 5)]),
    ],
)
def test_samples_grow_to_k_in_stages_of_whole_epochs(k, epochs, want):
    config = Config(schedule="fast", n_samples=k, epochs=epochs)
    assert schedules.stages(config) == want


def test_samples_grow_from_as_many_as_the_objective_needs():
    config = Config(schedule="fast", objective="vimco", n_samples=50, epochs=10)
    assert schedules.stages(config) == [(0, 5, 5), (5, 10, 50)]


@pytest.mark.parametrize("schedule", ["burda", "constant", "fast"])
def test_samples_stay_where_they_do_not_grow(schedule):
    config = Config(schedule=schedule, n_samples=50, epochs=9, grow_samples=False)
    assert schedules.stages(config) == [(0, 9, 50)]
    grown = Config(schedule=schedule, n_samples=50)
    assert (len(schedules.stages(grown)) == 3) == (schedule == "fast")


MNIST, DIGITS = (60_000, 10_000, 784), (1_437, 360, 64)


@pytest.mark.parametrize(
    ("options", "sizes", "pays"),
    [
        ({}, MNIST, True),
        ({"epochs": 1}, MNIST, True),  # for the 10,000 images that are scored
        ({"epochs": 1, "eval_images": 100, "eval_samples": 10}, MNIST, False),
        ({"epochs": 10, "eval_images": 100, "eval_samples": 10}, MNIST, True),
        ({"epochs": 1}, DIGITS, False),
        ({"epochs": 40, "n_samples": 50}, DIGITS, False),
        ({"epochs": 3280}, DIGITS, True),
        ({"model": "resnet"}, MNIST, False),
        ({"model": "gated"}, MNIST, False),
        ({"model": "dense"}, MNIST, True),
    ],
)
def test_xla_compiles_what_is_long_enough_and_has_no_convolutions(options, sizes, pays):
    assert schedules.compiling_pays(Config(**options), *sizes) == pays


def test_each_stage_of_samples_is_a_program_that_must_pay():
    options = {"epochs": 110, "eval_images": 10, "eval_samples": 10}
    one = Config(**options, n_samples=50)
    three = dataclasses.replace(one, grow_samples=True)
    assert schedules.compiling_pays(one, *DIGITS)
    assert not schedules.compiling_pays(three, *DIGITS)
