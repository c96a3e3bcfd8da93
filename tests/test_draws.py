"""Tests of iwae_tf.draws."""

import numpy as np
import pytest

from iwae_tf.draws import Draws


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0, 2.0])
def test_log_w_equals_the_sum_by_hand(beta):
    rng = np.random.default_rng(0)
    log_px, log_pz, log_qz = rng.normal(size=(3, 4, 2))
    draws = Draws((), log_px, log_pz, log_qz)
    np.testing.assert_allclose(
        draws.log_w(beta), log_px + beta * log_pz - beta * log_qz, rtol=1e-14
    )


def test_log_w_has_weight_one_by_default_and_no_kl():
    draws = Draws((), np.array([[3.0]]), np.array([[-5.0]]), np.array([[-7.0]]))
    assert draws.log_w() == 3 - 5 + 7
    assert draws.kl is None
