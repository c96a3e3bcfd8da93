"""What names of data sets mean: ours, those of others, files and folders."""

import os
import re

from iwae_tf.data import fetched

NAMES = ("mnist", "digits", "fashion_mnist", "omniglot", *fetched.NAMES)
_NAME = re.compile(r"[a-z]\w*(/[\w.+-]+){0,2}(:[\d.*]+)?")  # of tensorflow-datasets


def is_name(dataset: str) -> bool:
    """Whether a data set of tensorflow-datasets could have this name."""
    return bool(_NAME.fullmatch(dataset))


def is_npz(dataset: str) -> bool:
    """Whether a data set is an .npz file."""
    return dataset.lower().endswith(".npz")


def is_folder(dataset: str) -> bool:
    """Whether a data set is a folder; a name stays one unless a folder has its data."""
    if dataset in ("auto", *NAMES):
        return False
    path = os.path.expanduser(dataset)
    if os.path.isfile(os.path.join(path, "x_train.npy")):
        return True
    return os.path.isdir(path) and not is_name(dataset)


def for_a_directory(name: str) -> str:
    """A name without the characters that the name of a directory should not have."""
    return re.sub("[^A-Za-z0-9_-]", "-", name)
