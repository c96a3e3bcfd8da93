"""Tests of iwae_tf.data.datasets: names, and digits."""

import numpy as np
import pytest
from refusals import refusal

from iwae_tf.data import datasets


@pytest.mark.parametrize("name", ["cifar", "", "MNIST", "x.npy", "two\nlines"])
def test_unknown_name_lists_the_choices(name):
    line = refusal(name)
    for choice in ("auto", *datasets.NAMES, ".npz"):
        assert choice in line
    assert repr(name) in line


def test_digits_is_every_fifth_image_of_sklearn():
    from sklearn.datasets import load_digits

    images = datasets.load("digits")
    x, y = load_digits(return_X_y=True)
    assert images.name == "digits" and images.image_shape == (8, 8, 1)
    assert images.x_train.shape == (1437, 8, 8, 1)
    assert images.x_test.shape == (360, 8, 8, 1)
    assert images.x_train.dtype == images.x_test.dtype == np.float32
    assert images.x_train.min() == 0.0 and images.x_train.max() == 1.0
    test = [i for i in range(1797) if i % 5 == 0]
    train = [i for i in range(1797) if i % 5 != 0]
    np.testing.assert_array_equal(images.x_test.reshape(360, 64) * 16, x[test])
    np.testing.assert_array_equal(images.x_train.reshape(1437, 64) * 16, x[train])
    np.testing.assert_array_equal(images.y_test, y[test])
    np.testing.assert_array_equal(images.y_train, y[train])
    assert np.issubdtype(images.y_train.dtype, np.integer)
