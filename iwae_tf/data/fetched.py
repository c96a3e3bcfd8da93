"""Data sets whose files the user fetches: two that the code of the IWAE paper reads.

`omniglot_burda` is Omniglot with the split of the paper, in a MATLAB file.
`binarized_mnist` is MNIST as Larochelle has binarised it, in three text files. Nothing
is downloaded. Importing this module imports only NumPy.

Reference: Burda, Grosse, Salakhutdinov 2016, arXiv:1509.00519, section 5.
"""

import os

import numpy as np

from iwae_tf.data.memory import aligned
from iwae_tf.data.observations import Images
from iwae_tf.errors import UsageError, brief

# Number of images of each part; the last one has the test images.
N_IMAGES = {
    "omniglot_burda": {"data": 24_345, "testdata": 8_070},
    "binarized_mnist": {"train": 50_000, "valid": 10_000, "test": 10_000},
}
NAMES = tuple(N_IMAGES)
_FILES = {
    "omniglot_burda": ("chardata.mat",),
    "binarized_mnist": tuple(
        f"binarized_mnist_{part}.amat" for part in N_IMAGES["binarized_mnist"]
    ),
}
_SOURCES = {
    "omniglot_burda": "the repository https://github.com/yburda/iwae as "
    "datasets/OMNIGLOT/chardata.mat",
    "binarized_mnist": "http://www.cs.toronto.edu/~larocheh/public/datasets/"
    "binarized_mnist/",
}
_SIDE = 28  # pixels of the height and the width of an image
_N_PIXELS = _SIDE * _SIDE
_LABELS = {"data": "target", "testdata": "testtarget"}
_ORDER_SEED = 123  # of the authors' order of training images
_PIECE = 1000  # number of lines that are read at once
_ZERO, _ONE = b"01"
_ENDS = np.frombuffer(b" " * (_N_PIXELS - 1) + b"\n", np.uint8)  # of a line's values


def sizes(name: str) -> tuple[int, int]:
    """The numbers of training and test images of one of `NAMES`."""
    *train, test = N_IMAGES[name].values()
    return sum(train), test


def check(name: str, data_dir: str | None) -> None:
    """Checks that the files of a data set are there, without reading them.

    Args:
      name: one of `NAMES`.
      data_dir: as for `load`.

    Raises:
      UsageError: if a file is absent.
    """
    _paths(name, data_dir)


def load(name: str, data_dir: str | None) -> Images:
    """Reads and checks a data set.

    Args:
      name: one of `NAMES`.
      data_dir: the folder of the files, or one with a folder `name` that has them. None
        stands for `TFDS_DATA_DIR` or, if that is not set, `~/tensorflow_datasets`.

    Returns:
      images: `[n, 28, 28, 1]`. Those of `omniglot_burda` are float32 in 0..1, in the
        order of which the paper's code holds out the last 1,345; their labels are the
        places of alphabets in the file, if it has them. Those of `binarized_mnist` are
        uint8, 0 or 255, with those of the validation file at the end, without labels.

    Raises:
      UsageError: if a file is absent, or is not what its authors publish. The error
        names the path, the rule and what was found.
    """
    read = {"omniglot_burda": _read_omniglot, "binarized_mnist": _read_mnist}[name]
    return Images(name, *read(_paths(name, data_dir), N_IMAGES[name]))


def _paths(name, data_dir):
    """The paths of the files of a data set."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    folder = os.path.expanduser(data_dir or default)
    paths = []
    for file in _FILES[name]:
        places = [os.path.join(folder, name, file), os.path.join(folder, file)]
        path = next(filter(os.path.isfile, places), None)
        if path is None:
            raise UsageError(
                f"data_dir: must hold {file}, or a folder {name} with it, got none in "
                f"{folder!r}; its authors publish it in {_SOURCES[name]}"
            )
        paths.append(path)
    return paths


# Omniglot ----------------------------------------------------------------------------


def _read_omniglot(paths, n_images):
    """Reads the MATLAB file of the paper's authors."""
    from scipy.io import loadmat

    (path,) = paths
    try:
        held = loadmat(path, variable_names=[*_LABELS, *_LABELS.values()])
    # A damaged file raises errors of SciPy, zlib, struct, the OS, ...
    except Exception as error:
        rule = "must be readable as a MATLAB file of version 5"
        raise UsageError(f"{path!r}: {rule}, got {brief(error)}") from error
    x = [_images_of(path, held, part, n) for part, n in n_images.items()]
    order = np.random.RandomState(_ORDER_SEED).permutation(len(x[0]))
    x_train, x_test = (aligned((len(part), _SIDE, _SIDE, 1), np.float32) for part in x)
    # MATLAB stores an image column by column.
    x_train[..., 0] = x[0][order].swapaxes(1, 2)
    x_test[..., 0] = x[1].swapaxes(1, 2)
    y_train = y_test = None
    if held.keys() >= set(_LABELS.values()):
        y_train, y_test = (
            _labels_of(path, held, _LABELS[part], n) for part, n in n_images.items()
        )
        y_train = y_train[order]
    return x_train, x_test, y_train, y_test


def _images_of(path, held, name, n):
    """Grey images [n, 28, 28] as they are stored, float32."""
    columns = held.pop(name, None)  # which frees it
    if not _is_numeric(columns) or columns.shape != (_N_PIXELS, n):
        rule = f"must be numbers of shape {(_N_PIXELS, n)}"
        raise UsageError(f"{path!r}: {name} {rule}, got {_described(columns)}")
    with np.errstate(over="ignore"):
        images = columns.T.astype(np.float32).reshape(n, _SIDE, _SIDE)
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # nor NaN
        rule = "must have grey values in 0..1"
        raise UsageError(f"{path!r}: {name} {rule}, got {low:g} to {high:g}")
    return images


def _labels_of(path, held, name, n):
    """The places [n] of the ones in one-hot columns, int64."""
    columns = held[name]
    if not _is_numeric(columns) or columns.ndim != 2 or columns.shape[1] != n:
        rule = f"must be numbers of shape (number of alphabets, {n})"
        raise UsageError(f"{path!r}: {name} {rule}, got {_described(columns)}")
    n_ones = np.count_nonzero(columns == 1, axis=0)
    is_one_hot = (n_ones == 1) & (np.count_nonzero(columns, axis=0) == 1)
    if not is_one_hot.all():
        n_others = n - np.count_nonzero(is_one_hot)
        rule = "must have one entry 1 in each column and 0 elsewhere"
        raise UsageError(f"{path!r}: {name} {rule}, got {n_others} other columns")
    return columns.argmax(axis=0).astype(np.int64)


def _is_numeric(x):
    return isinstance(x, np.ndarray) and x.dtype.kind in "biuf"


def _described(x):
    """What a variable of a MATLAB file is, for a message."""
    if isinstance(x, np.ndarray):
        return f"{x.dtype} of shape {x.shape}"
    return "none" if x is None else type(x).__name__


# MNIST, binarised --------------------------------------------------------------------


def _read_mnist(paths, n_images):
    """Reads the text files, which have no labels."""
    n_train, n_test = sizes("binarized_mnist")
    x_train, x_test = (
        aligned((n, _SIDE, _SIDE, 1), np.uint8) for n in (n_train, n_test)
    )
    bounds = np.cumsum(list(n_images.values())[:-2])
    parts = [*np.split(x_train, bounds), x_test]
    for path, part in zip(paths, parts, strict=True):
        _read_lines(path, part.reshape(-1, _N_PIXELS))
    return x_train, x_test, None, None


def _read_lines(path, x):
    """Fills x [n, 784] with 255 where the file has 1, and with 0 where it has 0."""
    rule = (
        f"{path!r}: must be {len(x):,} lines of {_N_PIXELS} values 0 or 1, each with a "
        f"space or the end of its line after it, {2 * x.size:,} bytes"
    )
    try:
        n_bytes = os.path.getsize(path)
        if n_bytes != 2 * x.size:
            raise UsageError(f"{rule}, got {n_bytes:,} bytes")
        with open(path, "rb") as file:
            for first in range(0, len(x), _PIECE):
                piece = x[first : first + _PIECE]
                text = np.fromfile(file, np.uint8, 2 * piece.size)
                pairs = text.reshape(*piece.shape, 2)
                is_one = pairs[..., 0] == _ONE
                is_right = is_one | (pairs[..., 0] == _ZERO)
                is_right &= pairs[..., 1] == _ENDS
                if not is_right.all():
                    line, place = np.argwhere(~is_right)[0]
                    where = f"value {place + 1} of line {first + line + 1}"
                    found = bytes(pairs[line, place])
                    raise UsageError(f"{rule}, got {found} for {where}")
                np.multiply(is_one, np.uint8(255), out=piece)
    except OSError as error:
        raise UsageError(f"{rule}, got {brief(error)}") from error
