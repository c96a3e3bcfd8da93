"""Data as a likelihood needs them, and the pipeline, whose only state is the step."""

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import randomness, rules
from iwae_tf.data import observations
from iwae_tf.data.memory import aligned_copy, is_aligned
from iwae_tf.errors import UsageError, check_one_of
from iwae_tf.rules import BINARIZATIONS

TEST_SEED = 20160509  # every run binarises the test images once, with this seed
LEVEL_WIDTH = 1e-3  # how far from a level a value may be, in parts of their spacing
_SLICE = 2**20  # number of values converted to float32 at once
_WAITING = 2**24  # number of bytes of batches that wait for their steps


class Sets(NamedTuple):
    """The data that a model is trained on, and those that it is scored on.

    Attributes:
      x_train: grey images or other observations [n, *event_shape], perhaps on disk.
      x_test: what the likelihood can have, such as binary images [m, *event_shape].
      context_train: y of a conditional model, float32 [n, c], or None.
      context_test: the same, [m, c].
      classes: the labels that the columns of one-hot contexts stand for, in rising
        order; None if the contexts are vectors of the data set, or there are none.
      n_levels: number of levels or classes, if the likelihood needs it.
      mean: what was subtracted to standardise the data, float32 event_shape, or None.
      scale: what they were then divided by, same shape, or None.
    """

    x_train: np.ndarray | observations.Mapped
    x_test: np.ndarray
    context_train: np.ndarray | None = None
    context_test: np.ndarray | None = None
    classes: np.ndarray | None = None
    n_levels: int | None = None
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def n_context(self) -> int:
        """Size of the contexts; 0 if there are none."""
        return 0 if self.context_train is None else self.context_train.shape[1]

    def contexts_shown(self, n: int) -> np.ndarray | None:
        """Contexts of n samples: of every class, one after another, or of test data.

        Without classes they are those of evenly spaced test data, [n, c], in order.
        """
        if not self.n_context:
            return None
        if self.classes is None:
            return self.context_test[np.arange(n) * len(self.context_test) // n]
        place = np.arange(n) * self.n_context // n
        return np.eye(self.n_context, dtype=np.float32)[place]

    def log_jacobian(self, x: np.ndarray) -> np.ndarray:
        """The log-density of x as it was minus that of standardised x, [n], nats.

        Args:
          x: observations [n, *event_shape]; NaN is missing.
        """
        if self.scale is None:
            return np.zeros(len(x))
        of_entries = np.where(np.isnan(x), 0.0, np.log(self.scale.astype(np.float64)))
        return -of_entries.reshape(len(x), -1).sum(axis=1)


def sets_of(
    images: observations.Images,
    binarization: str,
    conditional: bool = False,
    validation: int = 0,
    likelihood: str | None = None,
    standardize: bool = False,
    missing: bool = False,
    test_seed: int = TEST_SEED,
) -> Sets:
    """Prepares the sets of a run; test images are binarised alike in every run.

    Args:
      images: the data set.
      binarization: see `binarize`.
      conditional: whether there are contexts, made of labels or given.
      validation: number of training images to hold out, the last ones. They replace the
        test images.
      likelihood: the name of p(x|z), by default Bernoulli.
      standardize: whether to bring every feature to mean 0 and variance 1.
      missing: whether NaN stands for missing entries.
      test_seed: seed of the binarisation of test images.

    Raises:
      UsageError: if no training image is left, there are fewer than two images to
        score, or the likelihood cannot have the values; see `contexts_of` too.
    """
    n_test = 0 if images.x_test is None else len(images.x_test)
    rules.check_validation(validation, len(images.x_train), n_test)
    if validation:
        images = with_validation(images, validation)
    if len(images.x_test) < 2:
        raise UsageError(f"x_test: must be at least 2 images, got {len(images.x_test)}")
    for name, x in (("x_train", images.x_train), ("x_test", images.x_test)):
        _check_for(likelihood, name, x, missing)
    contexts = contexts_of(images.y_train, images.y_test) if conditional else ()
    sets = Sets(images.x_train, images.x_test, *contexts)
    if conditional and observations.has_labels(images.y_train):
        sets = sets._replace(classes=np.unique(images.y_train))
    if standardize:
        sets = _standardised(sets)
    if likelihood in ("discretized_logistic", "categorical"):
        sets = sets._replace(n_levels=_levels_of(likelihood, sets))
    x_test = _binarize_in_slices(sets.x_test, binarization, test_seed)
    return sets._replace(x_test=x_test)


def _check_for(likelihood, name, x, missing):
    """Checks that a likelihood can have the values of an array, once made binary."""
    if x.dtype == np.uint8:
        if likelihood == "categorical":
            raise UsageError(
                "likelihood: categorical must have whole numbers from 0 that are not "
                f"uint8, got {name} of uint8, which are levels of grey"
            )
        return
    pieces = functools.partial(observations.pieces, x)
    if not missing and any(np.isnan(np.min(piece)) for piece in pieces()):
        count = sum(np.isnan(piece).sum() for piece in pieces())
        raise UsageError(
            f"missing: must be given for data with NaN, got {count} NaN of {x.size} in "
            f"{name}"
        )
    low, high = observations.limits_of(x)
    is_unit = not (low < 0 or high > 1)
    if likelihood in (None, "bernoulli") and not is_unit:
        raise UsageError(
            "likelihood: must be chosen for data that are not in 0..1, such as "
            f"gaussian, got {likelihood or 'none'} for {name} from {low:g} to {high:g}"
        )
    is_vector = x.ndim != 4
    if (
        likelihood is None
        and is_vector
        and not all(np.isin(x[~np.isnan(x)], (0, 1)).all() for x in pieces())
    ):
        raise UsageError(
            "likelihood: must be chosen for vectors that are not binary, got none for "
            f"{name} from {low:g} to {high:g}"
        )
    if likelihood in ("continuous_bernoulli", "discretized_logistic") and not is_unit:
        raise UsageError(
            f"likelihood: {likelihood} must have data in 0..1, got {name} from {low:g} "
            f"to {high:g}"
        )


def _standardised(sets):
    """Brings every feature to mean 0 and variance 1 by the training data."""
    x = sets.x_train
    if x.ndim != 2:
        raise UsageError(
            f"standardize: goes with vectors [n, d] only, got data of shape {x.shape}"
        )
    mean = mean_of(x)
    n_known = len(x) - _sum(x, np.isnan)
    square = _sum(x, lambda x: np.where(np.isnan(x), 0.0, np.square(x - mean)))
    scale = np.sqrt(square / np.maximum(n_known, 1))
    scale[scale == 0] = 1.0
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    x_train, x_test = (
        (x - mean) / scale if isinstance(x, np.ndarray) else x.standardised(mean, scale)
        for x in (sets.x_train, sets.x_test)
    )
    return sets._replace(x_train=x_train, x_test=x_test, mean=mean, scale=scale)


def _levels_of(likelihood, sets):
    """The number of levels, or of classes."""
    if sets.x_train.dtype == np.uint8:
        return 256
    pieces = itertools.chain.from_iterable(map(observations.pieces, sets[:2]))
    values = functools.reduce(np.union1d, map(np.unique, pieces))
    values = values[~np.isnan(values)].astype(np.float64)
    spacing = 1.0 if likelihood == "categorical" else np.min(np.diff(values), initial=1)
    places = values / spacing
    if values.min() < 0 or np.abs(places - np.rint(places)).max() > LEVEL_WIDTH:
        rule = "levels in 0..1 with equal spacing"
        if likelihood == "categorical":
            rule = "whole numbers from 0"
        raise UsageError(
            f"likelihood: {likelihood} must have {rule}, got {len(values)} values from "
            f"{values.min():g} to {values.max():g}"
        )
    if likelihood == "categorical":
        return max(2, int(values.max()) + 1)
    return round(1 / spacing) + 1


def with_validation(images: observations.Images, n: int) -> observations.Images:
    """The data set with its last n training images in place of the test images."""
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
      UsageError: for an array of another type with values that are not in 0..1; NaN is
        missing.
    """
    x = _read(x)
    _check_unit(x)
    return _floats(x)


def _read(x):
    """Observations in memory."""
    return np.asarray(x) if isinstance(x, observations.Mapped) else x


def _floats(x):
    return tf.cast(x, tf.float32) / (255.0 if x.dtype == np.uint8 else 1.0)


def _check_unit(x):
    is_array = isinstance(x, np.ndarray | observations.Mapped)
    if x.dtype == np.uint8 or not is_array or not x.size:
        return
    low, high = observations.limits_of(x)
    if low < 0 or high > 1:
        raise UsageError(
            f"x: must be uint8 in 0..255 or in 0..1, got {x.dtype} from {low:g} to "
            f"{high:g}"
        )


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


def mean_of(x: np.ndarray | observations.Mapped) -> np.ndarray:
    """The mean of observations [n, ...], without a float copy of images.

    uint8 is divided by 255. Missing entries do not count; an entry that is missing
    everywhere has a mean of 0.
    """
    if x.dtype == np.uint8:
        return _mean(x) / 255.0
    n = len(x) - _sum(x, np.isnan)
    if np.all(n == len(x)):
        return _mean(x)
    return _sum(x, np.nan_to_num, np.float64) / np.maximum(n, 1)


def _mean(x):
    """The mean over rows as NumPy has it, whatever is read at once."""
    if isinstance(x, np.ndarray):
        return np.mean(x, axis=0)
    total = _sum(x, dtype=np.float64 if x.dtype == np.uint8 else None)
    return np.true_divide(total, np.intp(len(x)), out=total, casting="unsafe")


def _sum(x, of=lambda x: x, dtype=None):
    """The sum of a function of x over rows, of a `Mapped` with the bits of an array.

    NumPy adds row after row, so the sum may go on from the rows before.
    """
    total = None
    for piece in map(of, observations.pieces(x)):
        if total is not None:
            piece = np.concatenate([total[np.newaxis], piece])
        total = np.add.reduce(piece, axis=0, dtype=dtype)
    return total


def binarize(
    x: np.ndarray | tf.Tensor, mode: str = "dynamic", seed: int | tf.Tensor = 0
) -> tf.Tensor:
    """Makes images binary; NaN, which is missing, stays NaN.

    Args:
      x: images, uint8 0..255 or float 0..1, any shape; any floats for the mode `none`.
      mode: `dynamic` draws each pixel from a Bernoulli with the grey value as its
        mean, `threshold` gives 1 for grey values of at least 0.5, and `none` keeps the
        values.
      seed: random seed of the mode `dynamic`, an integer or [2].

    Returns:
      x: float32, same shape.

    Raises:
      UsageError: for an unknown mode.
    """
    check_one_of(BINARIZATIONS, binarization=mode)
    x = _read(x)
    if mode != "none":
        _check_unit(x)
    return _binarize(x, mode, seed)


def _binarize(x, mode, seed, first=None):
    grey = _floats(x)
    if mode == "none":
        return grey
    if mode == "dynamic":
        threshold = randomness.uniform(tf.shape(x), randomness.seed_of(seed), first)
        binary = tf.cast(threshold < grey, tf.float32)
    else:
        binary = tf.cast(grey >= 0.5, tf.float32)
    if x.dtype == np.uint8:
        return binary
    return tf.where(tf.math.is_nan(grey), grey, binary)


def _binarize_in_slices(x, mode, seed):
    """The values of `binarize` as an array; only a slice of `x` becomes a tensor."""
    binary = np.empty(x.shape, np.float32)
    with tf.device("CPU"):  # they would come back from a GPU
        for rows in _slices(x):
            first = rows.start * math.prod(x.shape[1:])
            binary[rows] = _binarize(_read(x[rows]), mode, seed, first)
    return binary


def _slices(x: np.ndarray) -> Iterator[slice]:
    """Slices of the rows of an array, each of a multiple of 4 rows but the last."""
    n = 4 * max(1, _SLICE // 4 // max(1, math.prod(x.shape[1:])))
    return (slice(first, first + n) for first in range(0, len(x), n))


def contexts_of(
    y_train: np.ndarray | None, y_test: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Converts labels to one-hot contexts; contexts stay as they are.

    There is one column for each label in `y_train`.

    Args:
      y_train: labels [n], integers or strings, or contexts [n, c], or None.
      y_test: the same of the test data, [m] or [m, c], or None.

    Returns:
      context_train: float32 [n, c]. Of labels, it is 1 in the column of the label, and
        the columns are in the rising order of the training labels.
      context_test: the same for the test labels, [m, c].

    Raises:
      UsageError: if there are no labels, or a test label is not in `y_train`.
    """
    if y_train is None or y_test is None:
        raise UsageError("conditional: needs a data set with labels, got one without")
    if not observations.has_labels(y_train):
        return y_train, y_test
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
      x: images, uint8 0..255 or float 0..1, or other floats, [n, ...]. They are used in
        place if `memory.is_aligned`, so they must not change. Of a `Mapped`, only the
        rows of each batch are read.
      batch_size: b, the number of images in a batch.
      seed: random seed for the order and the binarisation.
      first_step: the step of the first batch, counted from 0 at the start of the
        first epoch.
      binarization: see `binarize`.
      context: y of every image, [n, c], for a conditional model.

    Returns:
      batches: each float32 [b, ...], with its context [b, c] if there is one.

    Raises:
      UsageError: if there are fewer images than a batch, or for an unknown mode; see
        `grey` too.
    """
    # Checked here, because TensorFlow would wrap errors that are raised inside `map`.
    check_one_of(BINARIZATIONS, binarization=binarization)
    if binarization != "none":
        _check_unit(x)
    steps_per_epoch, _ = steps_of_epoch(len(x), batch_size)
    first_epoch, n_skipped = divmod(first_step, steps_per_epoch)
    gather = _gather_of(x)
    contexts = None if context is None else _in_place(context)
    # What is computed here need not be optimised when an iterator is made.
    seed_of_order = randomness.folding(seed, randomness.ORDER)
    seed_of_values = randomness.folding(seed, randomness.BINARIZE)

    def order(epoch):
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(len(x)), seed_of_order(epoch), alg="philox"
        )[: steps_per_epoch * batch_size]
        return tf.data.Dataset.from_tensor_slices(
            tf.reshape(shuffled, [steps_per_epoch, batch_size])
        )

    def batch(step, indices):
        seed = seed_of_values(step)
        binary = _binarize(gather(indices), binarization, seed, first=0)
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
        .prefetch(max(2, n_waiting(4 * batch_size * math.prod(x.shape[1:]))))
        .with_options(options)
    )


def n_waiting(n_bytes: int) -> int:
    """How many batches of a size may wait for their steps: from 1 to 50."""
    return min(max(1, _WAITING // n_bytes), 50)


def _gather_of(x):
    """A function from places [b] to the rows of x there, as a tensor."""
    if not isinstance(x, observations.Mapped):
        return functools.partial(tf.gather, _in_place(x))

    def gather(places):
        rows = tf.numpy_function(x.__getitem__, [places], x.dtype)
        return tf.ensure_shape(rows, [*places.shape, *x.shape[1:]])

    return gather


def _in_place(x):
    """A tensor in the memory of an array, or of a copy if that is not aligned.

    `tf.constant` copies an array twice.
    """
    if not is_aligned(x):
        x = aligned_copy(x, x.dtype.newbyteorder("="))
    return tf.experimental.dlpack.from_dlpack(x.__dlpack__())


def sha256(x: np.ndarray | observations.Mapped | tf.Tensor) -> str:
    """The SHA-256 of the shape and the float32 bytes of images, made in slices."""
    if not isinstance(x, observations.Mapped):
        x = np.asarray(x)
    digest = hashlib.sha256(repr(x.shape).encode())
    for rows in _slices(x):
        digest.update(np.ascontiguousarray(_read(x[rows]), dtype="<f4"))
    return digest.hexdigest()


def sha256_of_labels(*labels: np.ndarray) -> str:
    """The SHA-256 of arrays of labels or contexts, one after another.

    Integers are hashed as int64, floats as float32, and strings as lists in JSON.
    """
    digest = hashlib.sha256()
    for y in labels:
        if y.dtype.kind == "U":
            digest.update(json.dumps(y.tolist()).encode())
        else:
            kind = "<f4" if y.dtype.kind == "f" else "<i8"
            digest.update(np.ascontiguousarray(y, dtype=kind))
    return digest.hexdigest()
