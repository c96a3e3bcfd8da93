"""The data sets: digits, those of tensorflow-datasets and others, files and folders.

Importing this module imports only NumPy. The functions that need scikit-learn or
tensorflow-datasets import them. TensorFlow is imported only when there is something to
read with it, so that a missing data set is reported at once.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import re
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import logging

from iwae_tf.data import fetched
from iwae_tf.data.memory import aligned, aligned_copy
from iwae_tf.errors import UsageError, brief, closest

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

NAMES = ("mnist", "digits", "fashion_mnist", "omniglot", *fetched.NAMES)

# One file of each data set that tensorflow-datasets downloads; it is requested first.
_URLS = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/"
    "train-images-idx3-ubyte.gz",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    "train-images-idx3-ubyte.gz",
    "omniglot": "https://github.com/brendenlake/omniglot/raw/master/python/"
    "images_background.zip",
}
_PROBE_SECONDS = 4.0  # time limit for reaching the host
_STALL_SECONDS = 20.0  # time limit without a byte during a download
_N_DIGITS = 1437, 360  # numbers of training and test images
_NAME = re.compile(r"[a-z]\w*(/[\w.+-]+){0,2}(:[\d.*]+)?")  # of tensorflow-datasets
_ARRAYS = ("x_train", "x_test", "y_train", "y_test")


_PIECE = 2**20  # number of values of a `Mapped` that are read at once


class Mapped:
    """Observations on disk, of which only the rows that are asked for are in memory.

    A slice of it is another one. An array of places gives these rows, and `np.asarray`
    gives all rows.

    Attributes:
      shape: `[n, height, width, channels]` of images, or `[n, ...]`.
      dtype: the type of the rows that are read, whatever the file has.
    """

    def __init__(
        self,
        on_disk: np.ndarray,
        memory: mmap.mmap,
        dtype: np.dtype | type | None = None,
        standard: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        """Takes an array of `np.load(path, mmap_mode="r")`, or a slice of its rows.

        Args:
          on_disk: the array.
          memory: what it lies in.
          dtype: the type of the rows that are read, by default that of the file.
          standard: what is subtracted from the rows, and what they are divided by.
        """
        self._on_disk, self._memory, self._standard = on_disk, memory, standard
        channels = (1,) if on_disk.ndim == 3 else ()
        self.shape = (*on_disk.shape, *channels)
        self.dtype = np.dtype(dtype or on_disk.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        """The number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> Mapped | np.ndarray:
        """A slice, which reads nothing, or the rows at an array of places."""
        if isinstance(rows, slice):
            return self._with(self._on_disk[rows], self.dtype, self._standard)
        return self._read(rows, "MADV_RANDOM")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """All rows in memory."""
        return self._read(slice(None), "MADV_NORMAL").astype(dtype or self.dtype)

    def astype(self, dtype: np.dtype | type) -> Mapped:
        """The same rows, read as another type."""
        return self._with(self._on_disk, dtype, self._standard)

    def standardised(self, mean: np.ndarray, scale: np.ndarray) -> Mapped:
        """The same rows after subtraction of a mean and division by a scale."""
        return self._with(self._on_disk, self.dtype, (mean, scale))

    def _with(self, on_disk, dtype, standard):
        return Mapped(on_disk, self._memory, dtype, standard)

    def _read(self, rows, order):
        self._advise(order)
        x = np.array(self._on_disk[rows], self.dtype).reshape(-1, *self.shape[1:])
        # Pages that were read count as memory of the process until they are released.
        self._advise("MADV_DONTNEED")
        if self._standard is None:
            return x
        mean, scale = self._standard
        return (x - mean) / scale

    def _advise(self, advice):
        if hasattr(mmap, advice):  # not on Windows
            self._memory.madvise(getattr(mmap, advice))


def pieces(x: np.ndarray | Mapped) -> Iterator[np.ndarray]:
    """The arrays that make up observations: an array itself, or slices of a `Mapped`.

    The sum over single numbers that are in memory does not go from row to row, so they
    are one piece too.
    """
    n_values = math.prod(x.shape[1:])
    if isinstance(x, np.ndarray) or n_values == 1:
        yield np.asarray(x)
        return
    n = max(1, _PIECE // n_values)
    for first in range(0, len(x), n):
        yield np.asarray(x[first : first + n])


class Images(NamedTuple):
    """A data set, in memory or on disk.

    Attributes:
      name: letters, digits, `-` and `_` only, fit for a directory name.
      x_train: images `[n, height, width, channels]`, uint8 0..255 or float32, or
        others `[n, ...]`, float32; NaN where an entry is missing.
      x_test: `[m, ...]`, same type as `x_train`; None if there are only training data,
        of which some are then held out.
      y_train: labels `[n]`, int64 or strings, or contexts `[n, c]`, float32, or None.
      y_test: the same of the test data, `[m]` or `[m, c]`.
    """

    name: str
    x_train: np.ndarray | Mapped
    x_test: np.ndarray | Mapped | None
    y_train: np.ndarray | None
    y_test: np.ndarray | None

    @property
    def test_labels(self) -> np.ndarray | None:
        """The labels `[m]` of the test data; None if there are none, but contexts."""
        return self.y_test if has_labels(self.y_test) else None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one observation: `(height, width, channels)` of an image."""
        return self.x_train.shape[1:]


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
        return Images(dataset, *fetched.load(dataset, data_dir))
    if _is_npz(dataset) or _is_folder(dataset):
        return _load_files(os.path.expanduser(dataset))
    return _load_tfds(dataset, data_dir, offline)


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
    if _is_npz(dataset):
        path = os.path.expanduser(dataset)
        if not os.path.isfile(path):
            raise UsageError(f"dataset: must be an existing .npz file, got {path!r}")
        return dataset
    if dataset in fetched.NAMES:
        fetched.check(dataset, data_dir)
        return dataset
    if dataset == "digits" or _is_folder(dataset):
        return dataset
    if dataset != "auto":
        _prepare(dataset, data_dir, offline)
        return dataset
    try:
        _prepare("mnist", data_dir, offline)
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
    if not (_is_npz(dataset) or _is_folder(dataset)):
        with _builder(dataset, data_dir, offline) as builder:
            splits = builder.info.splits
            return tuple(
                splits[part].num_examples if part in splits else 0
                for part in ("train", "test")
            )
    path = os.path.expanduser(dataset)
    read = _read_npz if _is_npz(dataset) else _read_folder
    heads = read(path, _read_header)
    shapes = {name: heads[name][0] for name in _ARRAYS[:2] if name in heads}
    for name, shape in shapes.items():
        _check_shape(f"{path!r}: {name}", shape)
    return shapes["x_train"][0], shapes.get("x_test", (0,))[0]


def has_labels(y: np.ndarray | None) -> bool:
    """Whether `y` is one label for each image, not a context, nor None."""
    return y is not None and y.ndim == 1


def _is_npz(dataset: str) -> bool:
    return dataset.lower().endswith(".npz")


def _is_folder(dataset: str) -> bool:
    """Whether a data set is a folder; a name stays one unless a folder has its data."""
    if dataset in ("auto", *NAMES):
        return False
    path = os.path.expanduser(dataset)
    if os.path.isfile(os.path.join(path, "x_train.npy")):
        return True
    return os.path.isdir(path) and not _NAME.fullmatch(dataset)


def _load_digits() -> Images:
    """The 1,797 digits of scikit-learn; every fifth one is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images / 16.0).astype(np.float32)[..., np.newaxis]
    y = bunch.target.astype(np.int64)
    test = np.arange(len(x)) % 5 == 0
    return Images("digits", x[~test], x[test], y[~test], y[test])


# tensorflow-datasets -----------------------------------------------------------------


def _load_tfds(name: str, data_dir: str | None, offline: bool) -> Images:
    """Reads a data set of tensorflow-datasets.

    Raises:
      UsageError: if it is neither prepared nor available, or cannot be read.
    """
    with _builder(name, data_dir, offline) as builder:
        x_train, y_train = _read_split(builder, "train")
        x_test, y_test = None, None
        if "test" in builder.info.splits:
            x_test, y_test = _read_split(builder, "test")
            _check_agreement(name, "x", "image shape", [x_train, x_test])
    return Images(_fit_for_a_directory(name), x_train, x_test, y_train, y_test)


@contextlib.contextmanager
def _builder(
    name: str, data_dir: str | None, offline: bool
) -> Iterator[tfds.core.DatasetBuilder]:
    """The context in which a prepared data set is read.

    Raises:
      UsageError: if it is neither prepared nor available, or cannot be read.
    """
    builder = _prepare(name, data_dir, offline)
    try:
        yield builder
    except UsageError:
        raise
    # Damaged files raise errors of protobuf, TensorFlow, the OS, ...
    except Exception as error:
        problem = f"reading failed ({brief(error)}), delete its files if damaged"
        raise _not_ready(name, builder.data_dir, problem) from error


def _prepare(
    name: str, data_dir: str | None, offline: bool
) -> tfds.core.DatasetBuilder:
    """Makes sure that a data set is on disk, and downloads it if it is absent.

    Raises:
      UsageError: if it is unknown, has no image or no split `train`, or is neither
        prepared nor available.
    """
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(data_dir) if data_dir else None
    if not _NAME.fullmatch(name):
        raise _unknown(name)
    try:
        builder = tfds.builder(name, data_dir=folder)
        _features_of(builder)
        problem = None if _is_prepared(builder) else _fetch(builder, offline)
        splits = () if problem else list(builder.info.splits)
    except tfds.core.registered.DatasetNotFoundError:
        raise _unknown(name) from None
    except UsageError:
        raise
    except Exception as error:  # a damaged dataset_info.json, missing rights, ...
        problem = f"reading failed ({brief(error)}), delete its files if damaged"
        raise _not_ready(name, folder or "the default folder", problem) from error
    if problem is not None:
        raise _not_ready(name, builder.data_dir, problem)
    if "train" not in splits:
        raise UsageError(
            f"dataset: must have the splits train and test, got {', '.join(splits)} in "
            f"{name}"
        )
    return builder


def _unknown(name: str) -> UsageError:
    import tensorflow_datasets as tfds

    choices = ("auto", *NAMES)
    others = tfds.list_builders(with_community_datasets=False)
    return UsageError(
        f"dataset: must be one of {', '.join(choices)}, another image data set of "
        "tensorflow-datasets, a folder with x_train.npy, or a path ending in .npz, "
        f"got {name!r}{closest(name.lower(), (*choices, *others))}"
    )


def _features_of(builder: tfds.core.DatasetBuilder) -> tuple[str, str | None]:
    """The names of the features that are the image and its label, which may be None.

    Raises:
      UsageError: if there is no image, or more than one and none is called `image`.
    """
    from tensorflow_datasets import features

    held = dict(builder.info.features.items())
    images = [name for name, part in held.items() if isinstance(part, features.Image)]
    if "image" not in images and len(images) != 1:
        raise UsageError(
            "dataset: must have one feature that is an image, got "
            f"{', '.join(sorted(images)) or 'none'} in {builder.name}"
        )
    image = "image" if "image" in images else images[0]
    has_label = isinstance(held.get("label"), features.ClassLabel)
    return image, "label" if has_label else None


def _not_ready(name: str, folder: str, problem: str) -> UsageError:
    return UsageError(
        f"{name} is not ready in {str(folder)!r}: {problem}. Connect to the network "
        "and run again, point --data_dir (or TFDS_DATA_DIR) at a folder in which it is "
        "prepared, or use --dataset digits or an .npz file"
    )


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether the data set is on disk; an interrupted download does not count."""
    # Checked first, because `is_prepared` logs a warning if the file is absent.
    info = builder.data_path / "dataset_info.json"
    return info.exists() and builder.is_prepared()


def _fetch(builder: tfds.core.DatasetBuilder, offline: bool) -> str | None:
    """Downloads and prepares a data set; returns what prevented it, or None."""
    if builder.data_path.exists():
        return "that folder is incomplete and must be deleted"
    if offline:
        return "it is absent, and offline forbids a download"
    url = _URLS.get(builder.name) or next(iter(builder.url_infos), None)
    problem = _probe(url) if url else None
    if problem is not None:
        return f"it is absent, and {problem}"
    try:
        with _impatient_downloads():
            builder.download_and_prepare()
    # A download may fail in requests or zipfile, by a checksum, on a full disk, ...
    except Exception as error:
        return f"it is absent, and its download failed ({brief(error)})"
    return None


def _probe(url: str) -> str | None:
    """Sends a HEAD request; returns why the host cannot be reached, or None.

    The request runs in a thread, because a name look-up that hangs ignores time limits.
    It uses `requests`, because the download uses that too, with the same proxies and
    certificates.
    """
    import requests

    host = urllib.parse.urlsplit(url).hostname
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            reply = requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=True)
            status = f"{host} answered with status {reply.status_code}"
            outcome.append(None if reply.ok else status)
        except Exception as error:
            outcome.append(f"{host} cannot be reached ({type(error).__name__})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    silence = f"{host} did not answer within {_PROBE_SECONDS:g} s"
    return outcome[0] if outcome else silence


@contextlib.contextmanager
def _impatient_downloads() -> Iterator[None]:
    """Allows downloads one retry, not ten (204 s), and limits time without data.

    This patches private names: `tfds.download.DownloadConfig` has no option for either.
    """
    from tensorflow_datasets.core.download import downloader

    retries, open_url = downloader.MAX_RETRIES, downloader._open_url
    downloader.MAX_RETRIES = 1
    downloader._open_url = functools.partial(open_url, timeout=_STALL_SECONDS)
    try:
        yield
    finally:
        downloader.MAX_RETRIES, downloader._open_url = retries, open_url


def _read_split(
    builder: tfds.core.DatasetBuilder, split: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads images and labels in stored order, as `Images` has them.

    Raises:
      UsageError: if the images have several sizes, or other values than images have.
    """
    import tensorflow_datasets as tfds

    image, label = _features_of(builder)
    has_one_size = None not in builder.info.features[image].shape
    # In batches, as Omniglot has 640 MB before it is shrunk. A cache would double that.
    # One by one if their sizes may differ.
    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    chosen = examples.map(lambda example: (example[image], example.get(label, 0)))
    batches = chosen.batch(1000 if has_one_size else 1)
    images, labels = [], []
    for x, y in tfds.as_numpy(batches):
        images.append(_shrink(x) if builder.name == "omniglot" else x)
        if images[0].shape[1:] != images[-1].shape[1:]:
            sizes = ("x".join(map(str, images[i].shape[1:])) for i in (0, -1))
            raise UsageError(
                f"dataset: must have images of one size, got {' and '.join(sizes)} in "
                f"{builder.name}"
            )
        labels.append(y.astype(np.int64))
    x = _check_images(f"{builder.name}: x_{split}", np.concatenate(images))
    return x, np.concatenate(labels) if label else None


def _shrink(images: np.ndarray, size: int = 28) -> np.ndarray:
    """Turns Omniglot's drawings into MNIST's format: white ink on black, 28x28.

    Every new pixel is the mean of the area it covers, rounded. The split of
    tensorflow-datasets (19,280 / 13,180) is not that of Burda et al. 2016.

    Args:
      images: `[n, s, s, 3]` uint8, black ink on white, the channels equal.
      size: height and width of the new images.

    Returns:
      images: `[n, size, size, 1]` uint8.
    """
    old = images.shape[1]
    # In units of 1/size old pixels, edges are integers and sums are exact in float32.
    new_edge, old_edge = old * np.arange(size)[:, np.newaxis], size * np.arange(old)
    overlap = np.minimum(new_edge + old, old_edge + size) - np.maximum(
        new_edge, old_edge
    )
    area = np.maximum(overlap, 0).astype(np.float32)  # [size, old], rows sum to old
    ink = 255.0 - images[..., 0].astype(np.float32)
    means = area @ ink @ area.T / np.float32(old * old)
    return np.rint(means).astype(np.uint8)[..., np.newaxis]


# npz files and folders ---------------------------------------------------------------


def _load_files(path: str) -> Images:
    """Reads and checks `x_train` and those of the other three arrays that it holds.

    Raises:
      UsageError: if a file breaks a rule. The error names the path, the array, the
        rule and what was found.
    """
    is_npz = _is_npz(path)
    held = _read_npz(path, _read_array) if is_npz else _read_folder(path, _map_array)
    parts = ("train", "test") if "x_test" in held else ("train",)
    given = {name for name in held if name.startswith("y_")}
    if given and given != {f"y_{part}" for part in parts}:
        rule = "must be given for all of the images or for none"
        raise UsageError(
            f"{path!r}: y_train and y_test {rule}, got only {', '.join(held)}"
        )
    x = [_check_images(f"{path!r}: x_{part}", held[f"x_{part}"]) for part in parts]
    _check_agreement(path, "x", "image shape", x)
    y = [
        _check_labels(f"{path!r}: y_{part}", held.get(f"y_{part}"), len(x[place]))
        for place, part in enumerate(parts)
    ]
    _check_agreement(path, "y", "shape", y)
    arrays = [*x, None][:2] + [*y, None][:2]
    stem = os.path.basename(os.path.abspath(path))
    name = _fit_for_a_directory(os.path.splitext(stem)[0] if is_npz else stem)
    # A file must not be mistaken for the data set of the same name.
    if name in NAMES:
        name += "-npz" if is_npz else "-npy"
    return Images(name, *arrays)


def _read_npz(path: str, read: Callable[[IO[bytes]], Any]) -> dict[str, Any]:
    """Reads those of the four arrays that the file holds; never unpickles."""
    arrays, name = {}, "the archive"
    try:
        with zipfile.ZipFile(path) as archive:
            held = [member.removesuffix(".npy") for member in archive.namelist()]
            for name in (name for name in _ARRAYS if name in held):
                with archive.open(f"{name}.npy") as file:
                    arrays[name] = read(file)
    # A damaged file raises errors of zipfile, zlib, NumPy, the tokenizer, ...
    except Exception as error:
        rule = f"{name} must be readable as .npz without pickles"
        raise UsageError(f"{path!r}: {rule}, got {brief(error)}") from error
    if "x_train" not in arrays:
        raise UsageError(f"{path!r}: array x_train must be present, got {held}")
    return arrays


def _read_folder(path: str, read: Callable[[IO[bytes]], Any]) -> dict[str, Any]:
    """Reads those of the four arrays that a folder holds; never unpickles."""
    arrays, name = {}, "the folder"
    try:
        held = sorted(os.listdir(path))
        for name in (name for name in _ARRAYS if f"{name}.npy" in held):
            with open(os.path.join(path, f"{name}.npy"), "rb") as file:
                arrays[name] = read(file)
    except UsageError:
        raise
    except Exception as error:
        rule = f"{name} must be readable as .npy without pickles"
        raise UsageError(f"{path!r}: {rule}, got {brief(error)}") from error
    if "x_train" not in arrays:
        raise UsageError(f"{path!r}: x_train.npy must be present, got {held}")
    return arrays


def _map_array(file: IO[bytes]) -> np.ndarray | Mapped:
    """Maps an .npy file of observations, and reads one of labels."""
    name = os.path.splitext(os.path.basename(file.name))[0]
    if name.startswith("y_"):
        return np.load(file, allow_pickle=False)
    shape, is_transposed, _ = _read_header(file)
    where = f"{os.path.dirname(file.name)!r}: {name}"
    _check_shape(where, shape)
    if is_transposed:
        raise UsageError(f"{where} must be saved in C order, got Fortran order")
    on_disk = np.load(file.name, mmap_mode="r", allow_pickle=False)
    return Mapped(on_disk.view(np.ndarray), on_disk.base)


def _read_array(file: IO[bytes]) -> np.ndarray:
    """Reads an .npy file into aligned memory; `np.load` does not align it."""
    shape, is_transposed, dtype = _read_header(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    array = aligned(shape[::-1] if is_transposed else shape, dtype)
    rest = array.reshape(-1).view(np.uint8)
    while len(rest):
        n_read = file.readinto(rest[: 2**20])
        if not n_read:
            raise EOFError(f"{len(rest)} bytes of the array are missing")
        rest = rest[n_read:]
    file.read(1)  # the archive compares its checksum at the end
    return array.T if is_transposed else array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the head of an .npy file: shape, whether transposed, and type."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _check_images(where: str, x: np.ndarray | Mapped) -> np.ndarray | Mapped:
    """Returns images as `[n, h, w, c]` and others as they are, or raises.

    Integers of images are uint8 0..255. All else becomes float32, and must be finite or
    NaN, which is for missing entries.
    """
    _check_shape(where, x.shape)
    if x.dtype.kind not in "biuf":
        raise UsageError(f"{where} must be integer, float or bool, got {x.dtype}")
    low, high = limits_of(x)
    if np.isinf([low, high]).any():
        count = sum(np.count_nonzero(np.isinf(piece)) for piece in pieces(x))
        raise UsageError(f"{where} must be finite or NaN, got {count} inf of {x.size}")
    is_grey = x.dtype.kind in "iu" and x.ndim > 2
    if is_grey and (low < 0 or high > 255):
        rule = f"must lie in 0..255 for {x.dtype}"
        raise UsageError(f"{where} {rule}, got values {low}..{high}")
    if is_grey and high <= 1:
        logging.warning(
            "%s has only values 0 and 1 of 0..255; save binary images as bool", where
        )
    dtype = np.uint8 if is_grey else np.float32
    if isinstance(x, Mapped):
        return x.astype(dtype)
    x = x[..., np.newaxis] if x.ndim == 3 else x
    return x if x.dtype == dtype else aligned_copy(x, dtype)


def limits_of(x: np.ndarray | Mapped) -> tuple[np.generic, np.generic]:
    """The least and the greatest value; NaN only if all are."""
    ends = [
        (np.fmin.reduce(piece, axis=None), np.fmax.reduce(piece, axis=None))
        for piece in pieces(x)
    ]
    lows, highs = zip(*ends, strict=True)
    return np.fmin.reduce(lows), np.fmax.reduce(highs)


def _fit_for_a_directory(name: str) -> str:
    return re.sub("[^A-Za-z0-9_-]", "-", name)


def _check_shape(where: str, shape: tuple[int, ...]) -> None:
    """Raises if an array cannot hold observations."""
    if len(shape) < 2:
        rule = "must have rank 2 [n, d] or more, such as images [n, h, w, c]"
        raise UsageError(f"{where} {rule}, got shape {shape}")
    if 0 in shape:
        rule = "must hold at least one observation of at least one entry"
        raise UsageError(f"{where} {rule}, got shape {shape}")


def _check_labels(where: str, y: np.ndarray | None, count: int) -> np.ndarray | None:
    """Returns labels or contexts as `Images` has them, None for None, or raises."""
    if y is None:
        return None
    is_context = y.ndim == 2 and y.dtype.kind == "f" and y.shape[1] > 0
    if y.shape[:1] != (count,) or not (
        is_context or (y.ndim == 1 and y.dtype.kind in "iuU")
    ):
        rule = (
            f"must be labels, integers or strings of shape {(count,)}, or contexts, "
            f"floats of shape ({count}, c)"
        )
        raise UsageError(f"{where} {rule}, got {y.dtype} of shape {y.shape}")
    if not is_context:
        return y if y.dtype.kind == "U" else y.astype(np.int64, copy=False)
    with np.errstate(over="ignore"):
        context = y.astype(np.float32, copy=False)
    n_bad = np.count_nonzero(~np.isfinite(context))
    if n_bad:
        rule = "must be finite as float32"
        raise UsageError(f"{where} {rule}, got {n_bad} of {y.size} that are not")
    return context


def _check_agreement(where: str, letter: str, what: str, arrays: list) -> None:
    """Raises if arrays of training and test data differ in shape or type."""
    kinds = {(x.shape[1:], x.dtype.kind) for x in arrays if x is not None}
    if len(kinds) > 1:
        rule = f"{letter}_train and {letter}_test must agree in {what} and type"
        found = " and ".join(f"{x.shape[1:]} {x.dtype}" for x in arrays)
        raise UsageError(f"{where!r}: {rule}, got {found}")
