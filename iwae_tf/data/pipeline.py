"""Binarisation, and the input pipeline, whose only state is the step."""

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import randomness, rules
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError, check_one_of
from iwae_tf.rules import BINARIZATIONS

TEST_SEED = 20160509  # every run binarises the test images once, with this seed
LEVEL_WIDTH = 1e-3  # how far from a level a value may be, in parts of their spacing
_SLICE = 2**20  # number of values converted to float32 at once


class Sets(NamedTuple):
    """The images that a model is trained on, and those that it is scored on.

    Attributes:
      x_train: grey images [n, height, width, channels].
      x_test: binary images [m, height, width, channels].
      context_train: y of a conditional model, float32 [n, c], or None.
      context_test: the same, [m, c].
    """

    x_train: np.ndarray
    x_test: np.ndarray
    context_train: np.ndarray | None = None
    context_test: np.ndarray | None = None

    @property
    def n_context(self) -> int:
        """Size of the contexts; 0 if there are none."""
        return 0 if self.context_train is None else self.context_train.shape[1]


def sets_of(
    images: datasets.Images,
    binarization: str,
    conditional: bool = False,
    validation: int = 0,
) -> Sets:
    """Prepares the sets of a run; test images are binarised alike in every run.

    Args:
      images: the data set.
      binarization: see `binarize`.
      conditional: whether the labels become contexts.
      validation: number of training images to hold out, the last ones. They replace the
        test images.

    Raises:
      UsageError: if no training image is left, or there are fewer than two test images;
        see `contexts_of` too.
    """
    if validation:
        images = _with_validation(images, validation)
    if len(images.x_test) < 2:
        raise UsageError(f"x_test: must be at least 2 images, got {len(images.x_test)}")
    x_test = _binarize_in_slices(images.x_test, binarization, TEST_SEED)
    contexts = contexts_of(images.y_train, images.y_test) if conditional else ()
    return Sets(images.x_train, x_test, *contexts)


def _with_validation(images, n):
    rules.check_validation(n, len(images.x_train))
    n_train = len(images.x_train) - n
    x, y = images.x_train, images.y_train
    return images._replace(
        x_train=x[:n_train],
        x_test=x[n_train:],
        y_train=None if y is None else y[:n_train],
        y_test=None if y is None else y[n_train:],
    )


def grey(x: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Returns images as float32 in 0..1; uint8 is divided by 255.

    Raises:
      UsageError: for an array of another type with values that are not in 0..1.
    """
    return tf.cast(x, tf.float32) / _white(x)


def _white(x):
    if x.dtype == np.uint8:
        return 255.0
    if isinstance(x, np.ndarray) and x.size and not 0 <= x.min() <= x.max() <= 1:
        raise UsageError(
            f"x: must be uint8 in 0..255 or in 0..1, got {x.dtype} from {x.min():g} to "
            f"{x.max():g}"
        )
    return 1.0


def check_range(
    x: np.ndarray,
    limits: tuple[float, float],
    step: float | None = None,
    missing: bool = False,
) -> None:
    """Checks the values of observations.

    Args:
      x: observations, any shape.
      limits: the least and the greatest value; all values must be finite.
      step: spacing of the levels from the least value on, if there are levels.
      missing: whether NaN stands for a missing entry.

    Raises:
      UsageError: if a value is out of range or between two levels, or if it is NaN and
        not missing.
    """
    if not x.size or (missing and np.all(np.isnan(x))):
        return
    low, high = (np.fmin, np.fmax) if missing else (np.minimum, np.maximum)
    low, high = low.reduce(x, axis=None), high.reduce(x, axis=None)
    least, greatest = limits
    if not (low >= least and high <= greatest and np.isfinite(low + high)):
        rule = {
            (True, True): f"in {least:g}..{greatest:g}",
            (True, False): f"finite and at least {least:g}",
            (False, True): f"finite and at most {greatest:g}",
            (False, False): "finite",
        }[bool(np.isfinite(least)), bool(np.isfinite(greatest))]
        raise UsageError(f"x: must be {rule}, got {low:g} to {high:g}")
    if step is not None:
        levels = (x - least) / step
        is_between = np.abs(levels - np.rint(levels)) > LEVEL_WIDTH
        if is_between.any():
            raise UsageError(
                f"x: must be one of the {round((greatest - least) / step) + 1} levels "
                f"from {least:g} to {greatest:g}, got {x[is_between].flat[0]:g}"
            )


def mean_image(x: np.ndarray) -> np.ndarray:
    """The mean of images [n, ...] in 0..1, computed without a float copy of them.

    Raises:
      UsageError: see `grey`.
    """
    return np.mean(x, axis=0) / _white(x)


def binarize(
    x: np.ndarray | tf.Tensor, mode: str = "dynamic", seed: int | tf.Tensor = 0
) -> tf.Tensor:
    """Makes images binary.

    Args:
      x: images, uint8 0..255 or float 0..1, any shape.
      mode: `dynamic` draws each pixel from a Bernoulli with the grey value as its
        mean, `threshold` gives 1 for grey values of at least 0.5, and `none` keeps the
        grey values.
      seed: random seed of the mode `dynamic`, an integer or [2].

    Returns:
      x: float32, same shape.

    Raises:
      UsageError: for an unknown mode.
    """
    return _binarize(x, mode, seed, first=0)


def _binarize(x, mode, seed, first):
    check_one_of(BINARIZATIONS, binarization=mode)
    x = grey(x)
    if mode == "dynamic":
        noise = randomness.uniform(tf.shape(x), randomness.seed_of(seed), first)
        return tf.cast(noise < x, tf.float32)
    if mode == "threshold":
        return tf.cast(x >= 0.5, tf.float32)
    return x


def _binarize_in_slices(x, mode, seed):
    """The values of `binarize` as an array; only a slice of `x` becomes a tensor."""
    _white(x)
    binary = np.empty(x.shape, np.float32)
    with tf.device("CPU"):  # they would come back from a GPU
        for rows in _slices(x):
            first = rows.start * math.prod(x.shape[1:])
            binary[rows] = _binarize(x[rows], mode, seed, first)
    return binary


def _slices(x: np.ndarray) -> Iterator[slice]:
    """Slices of the rows of an array, each of a multiple of 4 rows but the last."""
    n = 4 * max(1, _SLICE // 4 // max(1, math.prod(x.shape[1:])))
    return (slice(first, first + n) for first in range(0, len(x), n))


def contexts_of(
    y_train: np.ndarray | None, y_test: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Converts labels to one-hot contexts: one column for each label in `y_train`.

    Args:
      y_train: labels [n], or None.
      y_test: labels [m], or None.

    Returns:
      context_train: float32 [n, c], 1 in the column of the label. The columns are in
        the rising order of the training labels.
      context_test: the same for the test labels, [m, c].

    Raises:
      UsageError: if there are no labels, or a test label is not in `y_train`.
    """
    if y_train is None or y_test is None:
        raise UsageError("conditional: needs a data set with labels, got one without")
    classes = np.unique(y_train)
    unseen = np.setdiff1d(y_test, classes)
    if len(unseen):
        raise UsageError(
            "y_test: must have labels of y_train only, got "
            f"{', '.join(map(str, unseen[:5].tolist()))}"
        )
    return tuple((y[:, None] == classes).astype(np.float32) for y in (y_train, y_test))


def spread(n: int, n_chosen: int) -> np.ndarray:
    """The places of evenly spaced images, including the first and the last image.

    Args:
      n: number of images.
      n_chosen: number of images to choose.

    Returns:
      places: rising places of n_chosen images, or of all n if n_chosen is larger.
    """
    return np.linspace(0, n - 1, min(n_chosen, n)).astype(int)


def steps_of_epoch(n_images: int, batch_size: int) -> tuple[int, int]:
    """Chooses the numbers of optimizer steps in an epoch and in an execution.

    All executions of an epoch must have the same number of steps. An epoch of at most
    50 batches is one execution. Otherwise the epoch has the largest possible number of
    steps with a divisor from 25 to 50, and an execution has as many steps as the
    largest such divisor.

    Args:
      n_images: number of images in the training set.
      batch_size: b, the number of images in a batch.

    Returns:
      steps_per_epoch: number of optimizer steps in an epoch.
      steps_per_execution: number of steps in an execution, a divisor of the former.

    Raises:
      UsageError: if there are fewer images than a batch.
    """
    rules.check_batch_size(batch_size, n_images)
    most = n_images // batch_size
    if most <= 50:
        return most, most
    return next(
        (steps, size)
        for steps in range(most, 0, -1)
        for size in range(50, 24, -1)
        if steps % size == 0
    )


def training_batches(
    x: np.ndarray,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    binarization: str = "dynamic",
    context: np.ndarray | None = None,
) -> tf.data.Dataset:
    """An endless stream of training batches, each of which depends only on its step.

    Every epoch has its own order, and an image is binarised anew each time it is seen.
    The images at the end of the order that do not fit into the steps of the epoch (see
    `steps_of_epoch`) are left out of that epoch.

    Args:
      x: images [n, height, width, channels], uint8 0..255 or float 0..1. They are used
        in place if `datasets.is_aligned`, so they must not change.
      batch_size: b, the number of images in a batch.
      seed: random seed for the order and the binarisation.
      first_step: the step of the first batch, counted from 0 at the start of the
        first epoch.
      binarization: see `binarize`.
      context: y of every image, [n, c], for a conditional model.

    Returns:
      batches: each float32 [b, height, width, channels], with its context [b, c] if
        there is one.

    Raises:
      UsageError: if there are fewer images than a batch, or for an unknown mode; see
        `grey` too.
    """
    # Checked here, because TensorFlow would wrap errors that are raised inside `map`.
    check_one_of(BINARIZATIONS, binarization=binarization)
    _white(x)
    steps_per_epoch, _ = steps_of_epoch(len(x), batch_size)
    first_epoch, n_skipped = divmod(first_step, steps_per_epoch)
    images = _in_place(x)
    contexts = None if context is None else _in_place(context)

    def order(epoch):
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(len(x)),
            randomness.seed_of(seed, randomness.ORDER, epoch),
            alg="philox",
        )[: steps_per_epoch * batch_size]
        return tf.data.Dataset.from_tensor_slices(
            tf.reshape(shuffled, [steps_per_epoch, batch_size])
        )

    def batch(step, indices):
        binary = binarize(
            tf.gather(images, indices),
            binarization,
            randomness.seed_of(seed, randomness.BINARIZE, step),
        )
        return binary if contexts is None else (binary, tf.gather(contexts, indices))

    # The autotuning thread sleeps ever longer, and closing an iterator waits for it.
    options = tf.data.Options()
    options.autotune.enabled = False
    # Optimizations rewrite the graph, and copy the images for that.
    options.experimental_optimization.apply_default_optimizations = False
    return (
        tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
        .flat_map(order)
        .skip(n_skipped)
        .enumerate(first_step)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def _in_place(x):
    """A tensor in the memory of an array, or of a copy if that is not aligned.

    `tf.constant` copies an array twice.
    """
    if not datasets.is_aligned(x):
        x = datasets.aligned_copy(x, x.dtype.newbyteorder("="))
    return tf.experimental.dlpack.from_dlpack(x.__dlpack__())


def sha256(x: np.ndarray | tf.Tensor) -> str:
    """The SHA-256 of the shape and the float32 bytes of images, made in slices."""
    x = np.asarray(x)
    digest = hashlib.sha256(repr(x.shape).encode())
    for rows in _slices(x):
        digest.update(np.ascontiguousarray(x[rows], dtype="<f4"))
    return digest.hexdigest()


def sha256_of_labels(*labels: np.ndarray) -> str:
    """The SHA-256 of arrays of labels, one after another, as int64."""
    digest = hashlib.sha256()
    for y in labels:
        digest.update(np.ascontiguousarray(y, dtype="<i8"))
    return digest.hexdigest()
