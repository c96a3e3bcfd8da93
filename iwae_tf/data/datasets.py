"""The data sets by name: digits, those of tensorflow-datasets, files and folders.

Importing this module imports only NumPy, and a missing data set is reported before
TensorFlow is imported.
"""

import os

import numpy as np
from absl import logging

from iwae_tf.data import fetched, prepared, stored
from iwae_tf.data.names import NAMES, is_folder, is_npz
from iwae_tf.data.observations import Images
from iwae_tf.errors import UsageError

__all__ = ["NAMES", "load", "resolve", "sizes"]

_N_DIGITS = 1437, 360  # numbers of training and test images


def load(
    dataset: str = "auto", data_dir: str | None = None, offline: bool = False
) -> Images:
    """Loads a data set by name, from an .npz file, or from a folder.

    "auto" is MNIST if it is prepared or can be downloaded. Otherwise it is digits, with
    a warning. Reading a data set of tensorflow-datasets starts TensorFlow, so its
    devices must be set up before.

    Args:
      dataset: "auto", one of `NAMES`, another image data set of tensorflow-datasets,
        such as cifar10 or emnist/letters, a path that ends in .npz, or a folder with
        x_train.npy, which stays on disk.
      data_dir: directory of tensorflow-datasets, and of files that the user fetched.
        None stands for `TFDS_DATA_DIR` or, if that is not set, for
        `~/tensorflow_datasets`.
      offline: whether to never open a connection.

    Returns:
      images: train and test images and labels, always in the same order.

    Raises:
      UsageError: if the name is unknown, or the data set is absent or malformed.
    """
    dataset = resolve(dataset, data_dir, offline)
    if dataset == "digits":
        return _load_digits()
    if dataset in fetched.NAMES:
        return fetched.load(dataset, data_dir)
    if is_npz(dataset) or is_folder(dataset):
        return stored.load(os.path.expanduser(dataset))
    return prepared.load(dataset, data_dir, offline)


def resolve(
    dataset: str = "auto", data_dir: str | None = None, offline: bool = False
) -> str:
    """Finds out which data set is meant and puts it on disk, without TensorFlow.

    Args:
      dataset: as for `load`.
      data_dir: as for `load`.
      offline: as for `load`.

    Returns:
      dataset: `dataset` itself, or the name that "auto" stands for.

    Raises:
      UsageError: if the name is unknown, or the data set is absent.
    """
    if is_npz(dataset):
        path = os.path.expanduser(dataset)
        if not os.path.isfile(path):
            raise UsageError(f"dataset: must be an existing .npz file, got {path!r}")
        return dataset
    if dataset in fetched.NAMES:
        fetched.check(dataset, data_dir)
        return dataset
    if dataset == "digits" or is_folder(dataset):
        return dataset
    if dataset != "auto":
        prepared.prepare(dataset, data_dir, offline)
        return dataset
    try:
        prepared.prepare("mnist", data_dir, offline)
        return "mnist"
    except UsageError as error:
        logging.warning("dataset auto uses digits (8x8) instead of MNIST: %s", error)
        return "digits"


def sizes(
    dataset: str, data_dir: str | None = None, offline: bool = False
) -> tuple[int, int]:
    """The numbers of images, without TensorFlow and without the images.

    Args:
      dataset: a name or path that `resolve` has returned.
      data_dir: as for `load`.
      offline: as for `load`.

    Returns:
      n_train: number of training images.
      n_test: number of test images; 0 if there are none.

    Raises:
      UsageError: if the data set is absent, or does not say its size.
    """
    if dataset == "digits":
        return _N_DIGITS
    if dataset in fetched.NAMES:
        return fetched.sizes(dataset)
    if is_npz(dataset) or is_folder(dataset):
        return stored.sizes(os.path.expanduser(dataset))
    return prepared.sizes(dataset, data_dir, offline)


def _load_digits() -> Images:
    """The 1,797 digits of scikit-learn; every fifth one is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images / 16.0).astype(np.float32)[..., np.newaxis]
    y = bunch.target.astype(np.int64)
    test = np.arange(len(x)) % 5 == 0
    return Images("digits", x[~test], x[test], y[~test], y[test])
