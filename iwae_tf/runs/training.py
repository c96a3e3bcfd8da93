"""Training by a resumable `fit`: callbacks and stages."""

import math
from collections.abc import Callable

import keras

from iwae_tf import data
from iwae_tf.errors import Diverged
from iwae_tf.models.iwae import IWAE
from iwae_tf.rules import TEST_BATCH
from iwae_tf.runs.checkpoints import Checkpoints, steps_done
from iwae_tf.runs.devices import Devices
from iwae_tf.runs.progress import Progress
from iwae_tf.runs.rows import stops
from iwae_tf.runs.schedules import Stage, learning_rate_at


class StopWhenDiverged(keras.callbacks.Callback):
    """Stops training at the first loss that is not finite, before a save."""

    def __init__(self, checkpoints: Checkpoints):
        """Takes the checkpoints, the newest of which the error message names."""
        super().__init__()
        self._checkpoints = checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Checks whether the model has noted a step with a loss that is not finite.

        Raises:
          Diverged: if it has.
        """
        iteration = int(self.model.first_bad_step.numpy())
        if iteration < 0:
            return
        step = iteration - self.model.steps_before
        paths = self._checkpoints.paths()
        raise Diverged(
            f"the loss was not finite at step {step} (counted from 0), learning rate "
            f"{learning_rate_at(self.model.optimizer, iteration):.3g}; "
            f"last good checkpoint: {paths[-1] if paths else 'none'}"
        )


class Display(keras.callbacks.Callback):
    """Shows the progress of the whole run."""

    def __init__(
        self,
        stages: list[Stage],
        steps_per_epoch: int,
        first_step: int,
    ):
        """Takes the size of the run.

        Args:
          stages: the stages of the whole run.
          steps_per_epoch: number of optimizer steps in an epoch.
          first_step: number of steps that an earlier start has done.
        """
        super().__init__()
        self._stages, self._steps_per_epoch = stages, steps_per_epoch
        self._epochs = stages[-1].end
        self._progress = Progress(self._epochs * steps_per_epoch, "steps", first_step)
        self._timed = None  # k of the steps that are timed
        self._test = ""

    def on_train_begin(self, logs=None):
        """Says that the first step of a stage is being compiled."""
        if self._timed != self.model.train_samples:
            step = steps_done(self.model)
            where = f"{self._epoch_of(step + 1)}  k {self.model.train_samples}"
            self._progress.compiling(step, where)

    def on_train_batch_end(self, batch, logs=None):
        """Shows the progress within an epoch."""
        step, k = steps_done(self.model), self.model.train_samples
        if self._timed != k:  # the time before went into compiling, or another k
            self._progress.restart_clock(step)
            self._timed = k
        self._bound = logs["bound"]
        if step % self._steps_per_epoch:
            self._show(step)

    def on_epoch_end(self, epoch, logs=None):
        """Shows the progress after an epoch, with the bound on the test images."""
        self._test = f"  test {logs['val_bound']:.2f}"
        self._show(steps_done(self.model))

    def _show(self, step):
        k = self.model.train_samples
        text = f"{self._epoch_of(step)}  train {self._bound:.2f}{self._test}  k {k}"
        self._progress.update(step, text, self._left(step, k))

    def _epoch_of(self, step):
        epoch = min((step - 1) // self._steps_per_epoch + 1, self._epochs)
        return f"epoch {epoch}/{self._epochs}"

    def _left(self, step, k):
        """The remaining work in steps of k samples; a step costs about k + 2 units."""
        n = self._steps_per_epoch
        costs = (
            max(0, end * n - max(step, first * n)) * (n_samples + 2)
            for first, end, n_samples in self._stages
        )
        return sum(costs) / (k + 2)

    def on_train_end(self, logs=None):
        """Ends the progress line after the last stage."""
        is_complete = steps_done(self.model) >= self._epochs * self._steps_per_epoch
        if is_complete or self.model.stop_training:
            self._progress.close()


class StopEarly(keras.callbacks.Callback):
    """Stops training after some epochs without a better bound on the held-out images.

    It must come after the callback that writes the row of an epoch.
    """

    def __init__(self, rows: list[dict[str, str]], patience: int):
        """Takes what decides.

        Args:
          rows: the rows of the metrics so far, to which later ones are added.
          patience: the number of epochs.
        """
        super().__init__()
        self._rows, self._patience = rows, patience

    def on_epoch_end(self, epoch, logs=None):
        """Asks Keras to stop if it is time."""
        if stops(self._rows, self._patience):
            self.model.stop_training = True


class StopTogether(keras.callbacks.Callback):
    """Stops training on all workers if it stops on one.

    It must come after the callbacks that may stop it.
    """

    def __init__(self, devices: Devices):
        """Takes the devices of the worker."""
        super().__init__()
        self._devices = devices

    def on_epoch_end(self, epoch, logs=None):
        """Asks the others."""
        self.model.stop_training = any(self._devices.all(self.model.stop_training))


class AtEpochs(keras.callbacks.Callback):
    """Calls a function at epochs 0, 1, 2, 4, 8, ... and the last."""

    def __init__(self, epochs: int, function: Callable[[int], None]):
        """Takes the function.

        Args:
          epochs: the last epoch.
          function: takes the number of epochs done.
        """
        super().__init__()
        self._epochs, self._function = epochs, function

    def on_train_begin(self, logs=None):
        """Calls the function at epoch 0, unless an earlier start has done so."""
        if steps_done(self.model) == 0:
            self._function(0)

    def on_epoch_end(self, epoch, logs=None):
        """Calls the function at the other epochs."""
        if is_watched(epoch + 1, self._epochs):
            self._function(epoch + 1)


def is_watched(epoch: int, last: int) -> bool:
    """Whether a number of epochs done is 0, 1, 2, 4, 8, ... or the last."""
    return epoch & (epoch - 1) == 0 or epoch == last


def fit(
    model: IWAE,
    sets: data.Sets,
    *,
    stages: list[Stage],
    batch_size: int,
    binarization: str,
    first_step: int,
    callbacks: list[keras.callbacks.Callback],
    watches_all: bool = False,
) -> None:
    """Trains from a given step to the end of the last epoch, or until a callback stops.

    Args:
      model: compiled, with `first_step` steps done after its `steps_before`. Images
        come in the order of the first epoch that begins after these.
      sets: training and test images; bounds are computed on the first 500 test images
        at most.
      stages: the stages of the whole run.
      batch_size: number of images in one step.
      binarization: see `iwae_tf.data.binarize`.
      first_step: the step to continue from.
      callbacks: Keras callbacks; they see epochs counted over the whole run.
      watches_all: whether bounds are computed on all test images.
    """
    steps_per_epoch, _ = data.steps_of_epoch(len(sets.x_train), batch_size)
    first_epoch, n_done = divmod(first_step, steps_per_epoch)
    test_batch = min(len(sets.x_test), TEST_BATCH)
    n_watched = min(len(sets.x_test), 500) // test_batch * test_batch
    if watches_all:
        n_watched = len(sets.x_test)
    watched = sets.x_test[:n_watched]
    if sets.context_test is not None:
        watched = (watched, sets.context_test[:n_watched])
    spans = [
        (max(first, first_epoch), end, steps_per_epoch, k)
        for first, end, k in stages
        if end > first_epoch
    ]
    if n_done and spans:  # the rest of the epoch in which an earlier start stopped
        (first, end, n_steps, k), *others = spans
        rest = (first, first + 1, n_steps - n_done, k)
        spans = [rest, (first + 1, end, n_steps, k), *others]
    epochs_before = math.ceil(model.steps_before / steps_per_epoch)
    model.checks_values = False  # `training_batches` and `sets_of` have checked them
    for first, last, n_steps, k in spans:
        if first == last:
            continue
        model.train_samples = k
        model.fit(
            data.training_batches(
                sets.x_train,
                batch_size,
                model.seed,
                (epochs_before + first + 1) * steps_per_epoch - n_steps,
                binarization,
                sets.context_train,
            ),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=n_steps,
            shuffle=False,
            validation_data=watched,
            validation_batch_size=test_batch,
            callbacks=callbacks,
            verbose=0,
        )
        if model.stop_training:
            return
