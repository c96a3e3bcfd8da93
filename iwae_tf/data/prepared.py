"""Data sets of tensorflow-datasets, prepared on disk or downloaded.

Importing this module imports only NumPy. tensorflow-datasets is imported when it is
needed, and TensorFlow only when there is something to read with it, so that a missing
data set is reported at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from iwae_tf.data.names import NAMES, for_a_directory, is_name
from iwae_tf.data.observations import Images, check_agreement, check_images
from iwae_tf.errors import UsageError, brief, closest

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

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


def load(name: str, data_dir: str | None, offline: bool) -> Images:
    """Reads a data set of tensorflow-datasets.

    Raises:
      UsageError: if it is neither prepared nor available, or cannot be read.
    """
    with _opened(name, data_dir, offline) as builder:
        x_train, y_train = _read_split(builder, "train")
        x_test, y_test = None, None
        if "test" in builder.info.splits:
            x_test, y_test = _read_split(builder, "test")
            check_agreement(name, "x", "image shape", [x_train, x_test])
    return Images(for_a_directory(name), x_train, x_test, y_train, y_test)


def sizes(name: str, data_dir: str | None, offline: bool) -> tuple[int, int]:
    """The numbers of training and test images, without the images.

    Raises:
      UsageError: if it is neither prepared nor available, or cannot be read.
    """
    with _opened(name, data_dir, offline) as builder:
        splits = builder.info.splits
        return tuple(
            splits[part].num_examples if part in splits else 0
            for part in ("train", "test")
        )


@contextlib.contextmanager
def _opened(
    name: str, data_dir: str | None, offline: bool
) -> Iterator[tfds.core.DatasetBuilder]:
    """The context in which a prepared data set is read.

    Raises:
      UsageError: if it is neither prepared nor available, or cannot be read.
    """
    builder = prepare(name, data_dir, offline)
    try:
        yield builder
    except UsageError:
        raise
    # Damaged files raise errors of protobuf, TensorFlow, the OS, ...
    except Exception as error:
        problem = f"reading failed ({brief(error)}), delete its files if damaged"
        raise _not_ready(name, builder.data_dir, problem) from error


def prepare(name: str, data_dir: str | None, offline: bool) -> tfds.core.DatasetBuilder:
    """Makes sure that a data set is on disk, and downloads it if it is absent.

    Raises:
      UsageError: if it is unknown, has no image or no split `train`, or is neither
        prepared nor available.
    """
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(data_dir) if data_dir else None
    if not is_name(name):
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
    x = check_images(f"{builder.name}: x_{split}", np.concatenate(images))
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
