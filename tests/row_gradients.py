"""Loss and gradients of rows of the table of objectives, as NumPy arrays."""

import numpy as np

from iwae_tf import randomness
from iwae_tf.estimators import value_and_gradients
from iwae_tf.objectives import Objective, table

SEED = randomness.seed_of(3)


def gradients_of(name, model, x, k, seed=SEED, beta=1.0, **options):
    """Loss, gradients (the posterior's first) and draws of a row or its name."""
    row = name if isinstance(name, Objective) else table(**options)[name]
    loss, gradients, draws = value_and_gradients(row, model, x, k, seed, beta)
    return float(loss), [g.numpy() for g in gradients], draws


def split(gradients, model):
    """Gradients in phi and gradients in theta."""
    n = len(model.posterior.trainable_variables)
    return gradients[:n], gradients[n:]


def flat(gradients):
    """All entries in one vector, float64."""
    return np.concatenate([np.ravel(np.float64(g)) for g in gradients])


def assert_same_gradients(got, want, rtol=1e-5):
    # Rounding is relative to the sum over samples and images that makes an entry, so
    # to the largest entry rather than to each.
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())
    assert any(np.any(b) for b in want)


def mean_and_error(estimates):
    """Mean and standard error of estimates [n_repeats, n]."""
    return (
        np.mean(estimates, axis=0),
        np.std(estimates, axis=0, ddof=1) / len(estimates) ** 0.5,
    )
