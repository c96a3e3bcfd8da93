"""How a run is optimised: learning rates, optimizers and the k of each epoch.

`Config.schedule` names the schedule, and `iwae_tf.runs.config.SCHEDULES` holds the
options that it sets unless they are given.
"""

import itertools
from typing import NamedTuple

import keras

from iwae_tf import rules
from iwae_tf.data import steps_of_epoch
from iwae_tf.runs.config import Config

Rate = float | keras.optimizers.schedules.LearningRateSchedule


def burda(total_steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """The paper's eight stages: stage i has 3^i parts and rate 1e-3 * 10^(-i/7).

    Args:
      total_steps: number of optimizer steps of the whole run; the paper has 3,280
        epochs.

    Reference:
      Burda et al. 2016, section 5, arXiv:1509.00519.
    """
    parts = [3**i for i in range(8)]
    ends = [end * total_steps / sum(parts) for end in itertools.accumulate(parts)]
    # A boundary is the last step of its stage, counted from 0.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries=[round(end) - 1 for end in ends[:-1]],
        values=[1e-3 * 10 ** (-i / 7) for i in range(8)],
    )


# The loss is multiplied by it in float16. Keras' own scale changes, and leaves out
# steps whose gradients overflow; a run must take as many steps as it has batches.
_SCALE = 256.0


@keras.saving.register_keras_serializable(package="iwae_tf")
class Later(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that begins at a later iteration of the optimizer."""

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, start: int
    ):
        """Takes the schedule, and the iteration at which it begins.

        Args:
          schedule: counts from 0.
          start: number of iterations before its first step.
        """
        self.schedule, self.start = schedule, start

    def __call__(self, step):
        """The learning rate of an iteration, counted from 0."""
        return self.schedule(step - self.start)

    def get_config(self) -> dict:
        """What this schedule was made with."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "start": self.start}

    @classmethod
    def from_config(cls, config: dict):
        """Makes a schedule from what `get_config` has returned."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["start"])


def optimizer(
    config: Config, total_steps: int, start: int = 0
) -> keras.optimizers.Optimizer:
    """The optimizer of a run, with its learning rate.

    Muon orthogonalises the momentum of every weight matrix, and its updates have the
    root mean square of Adam's. Adam, at half the rate, updates all other variables.

    Args:
      config: options of the run.
      total_steps: number of optimizer steps of the whole run.
      start: number of its iterations before the run, in which the schedule begins.

    Reference:
      Jordan et al. 2024, Muon: an optimizer for hidden layers; Liu et al. 2025,
      arXiv:2502.16982. Kingma and Ba 2015, arXiv:1412.6980.
    """
    rate = _rate(config, total_steps)
    if start and callable(rate):
        rate = Later(rate, start)
    scale = {"loss_scale_factor": _SCALE if config.precision == "float16" else None}
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, epsilon=1e-4, **scale)
    return keras.optimizers.Muon(
        rate, adam_lr_ratio=0.5, weight_decay=None, adam_weight_decay=None, **scale
    )


def _rate(config, total_steps) -> Rate:
    if config.schedule == "burda":
        return burda(total_steps)
    if config.schedule == "fast":
        return keras.optimizers.schedules.PolynomialDecay(
            config.learning_rate, total_steps, end_learning_rate=0.0
        )
    return config.learning_rate


class Stage(NamedTuple):
    """Epochs that are trained with the same number of samples.

    Attributes:
      first: the first epoch, counted from 0.
      end: the epoch after the last.
      n_samples: k, per image and group.
    """

    first: int
    end: int
    n_samples: int


def stages(config: Config) -> list[Stage]:
    """The stages of training, from epoch 0 to the end.

    With `grow_samples`, k is 1 first, then 5, then `n_samples`. 1 and 5 are left out
    unless they are below `n_samples` and enough for the objective. The last stage is
    never empty.

    Args:
      config: options of the run.
    """
    if not config.grow_samples:
        return [Stage(0, config.epochs, config.n_samples)]
    least = rules.LEAST_SAMPLES.get(config.objective, 1)
    ks = [k for k in (1, 5) if least <= k < config.n_samples] + [config.n_samples]
    ends = {1: (1.0,), 2: (0.5, 1.0), 3: (0.5, 0.85, 1.0)}[len(ks)]
    ends = [int(end * config.epochs) for end in ends]
    found = map(Stage, [0, *ends], ends, ks)
    return [stage for stage in found if stage.first < stage.end]


def compiling_pays(config: Config, n_train: int, n_test: int, n_entries: int) -> bool:
    """Whether XLA saves more time in a run than it takes to compile its programs.

    On two cores it saved 1 ms in a step, 3.5 ns for each entry of each sample in
    training and 1 ns in scoring, and took 4 s for each program. With convolutions it
    was slower than TensorFlow without it.

    Args:
      config: options of the run.
      n_train: number of training observations.
      n_test: number of observations that can be scored.
      n_entries: number of entries of one observation.
    """
    if config.model in rules.CONVOLUTIONAL:
        return False
    steps_per_epoch, _ = steps_of_epoch(n_train, config.batch_size)
    parts = stages(config)
    saved = 0.0
    for first, end, k in parts:
        of_step = config.batch_size * config.n_groups * k * n_entries
        saved += (end - first) * steps_per_epoch * (1e-3 + 3.5e-9 * of_step)
    n_scored = min(config.eval_images or n_test, n_test)
    saved += 1e-9 * n_scored * config.eval_samples * n_entries
    return saved > 4.0 * (len(parts) + 1)


def learning_rate_at(optimizer: keras.optimizers.Optimizer, step: int) -> float:
    """The learning rate of a step; steps are counted from 0."""
    rate = optimizer._learning_rate
    return float(rate(step) if callable(rate) else rate.numpy())
