"""The sets of a run: observations as a likelihood needs them, and their contexts."""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from iwae_tf import rules
from iwae_tf.data import observations
from iwae_tf.data.values import LEVEL_WIDTH, binarize_in_slices
from iwae_tf.errors import UsageError

TEST_SEED = 20160509  # every run binarises the test images once, with this seed


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
    x_test = binarize_in_slices(sets.x_test, binarization, test_seed)
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


def spread(n: int, n_chosen: int) -> np.ndarray:
    """The places of evenly spaced images, including the first and the last image.

    Args:
      n: number of images.
      n_chosen: number of images to choose.

    Returns:
      places: rising places of n_chosen images, or of all n if n_chosen is larger.
    """
    return np.linspace(0, n - 1, min(n_chosen, n)).astype(int)
