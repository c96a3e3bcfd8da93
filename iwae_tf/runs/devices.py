"""The devices of a run: one, several, or those of a team of workers."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from iwae_tf.errors import UsageError, WorkerLost
from iwae_tf.rules import check_device
from iwae_tf.runs.programs import own_cores

# What an operation that waits for another worker ends with if that one has ended.
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


class Devices(NamedTuple):
    """What a process computes on, and its place in a team of workers.

    Attributes:
      description: the name of the devices, for messages and reports.
      strategy: in its scope a model is made. If there is one device, it is the default
        one of TensorFlow.
      worker: number of this worker; 0 is the first one, which alone writes files.
      n_workers: number of workers; 1 without a team.
    """

    description: str
    strategy: tf.distribute.Strategy
    worker: int = 0
    n_workers: int = 1

    @property
    def n_replicas(self) -> int:
        """The number of devices of all workers together."""
        return self.strategy.num_replicas_in_sync

    def scope(self) -> contextlib.AbstractContextManager:
        """The context in which a model for these devices is made."""
        return (
            contextlib.nullcontext() if self.n_replicas == 1 else self.strategy.scope()
        )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The context of work that needs all workers.

        Raises:
          WorkerLost: if another one has ended.
        """
        try:
            yield
        except _LOST as error:
            if self.n_workers == 1:
                raise
            why = error.message.partition("\n")[0].rpartition("}} ")[2]
            raise WorkerLost(
                "another worker was lost; the same command on all workers goes on from "
                f"the last checkpoint ({why.strip()})"
            ) from None

    def all(self, value: int) -> list[int]:
        """The values that the workers give, in order; it returns when all have called.

        Args:
          value: that of this worker.
        """
        if self.n_workers == 1:
            return [value]
        own = self.strategy.run(lambda: tf.constant([value], tf.int64))
        values = self.strategy.gather(own, axis=0).numpy()
        return values[:: self.n_replicas // self.n_workers].tolist()


def use(name: str = "auto", n: int = 1, is_alone: bool = False) -> Devices:
    """Selects the devices; memory of a GPU is allocated as it is needed.

    It must be called before TensorFlow makes its first tensor. If TF_CONFIG names
    several workers, it returns when all of them have been started. Without GPUs,
    several devices are parts of the CPU.

    Args:
      name: auto, cpu, gpu or gpu:N.
      n: number of devices of this process.
      is_alone: whether the work cannot be shared by workers.

    Raises:
      UsageError: if there are no such devices, or TF_CONFIG does not name workers.
    """
    check_device(name)
    worker, n_workers = _place_among_workers()
    if is_alone and n_workers > 1:
        raise UsageError(
            f"TF_CONFIG: must name one worker for this command, got {n_workers}"
        )
    gpus = tf.config.list_physical_devices("GPU")
    kind, _, index = name.partition(":")
    if index and n > 1:
        raise UsageError(f"device: must have no number for {n} devices, got {name!r}")
    first = int(index or 0)
    if kind == "gpu" and first + n > len(gpus):
        raise UsageError(
            f"device: TensorFlow must see {'the GPU' if n == 1 else f'{n} GPUs'}, got "
            f"{name!r} with {len(gpus)} GPUs seen"
        )
    is_cpu = kind == "cpu" or not gpus
    if not is_cpu and n > len(gpus):
        raise UsageError(
            f"devices: must be at most the number of GPUs, {len(gpus)}, got {n}; "
            "--device cpu divides the CPU"
        )
    if is_cpu and n > 1 and n_workers > 1:
        raise UsageError(f"devices: must be 1 for workers without GPUs, got {n}")
    if is_cpu:
        tf.config.set_visible_devices([], "GPU")
        cores = own_cores()
        description = f"CPU with {cores} {'core' if cores == 1 else 'cores'}"
    else:
        own = gpus[first : first + n]
        tf.config.set_visible_devices(own, "GPU")
        for gpu in own:
            tf.config.experimental.set_memory_growth(gpu, True)
        details = tf.config.experimental.get_device_details(own[0])
        description = details.get("device_name", own[0].name)
    if n > 1:
        description = f"{n} devices: {description}"
    if n_workers > 1:
        description = f"worker {worker} of {n_workers}, {description}"
    strategy = _strategy("CPU" if is_cpu else "GPU", n, n_workers > 1)
    return Devices(description, strategy, worker, n_workers)


@functools.cache  # A process can have one strategy with several replicas.
def _strategy(kind, n, is_team):
    if is_team:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if n == 1:
        return tf.distribute.get_strategy()
    if kind == "CPU":
        parts = [tf.config.LogicalDeviceConfiguration()] * n
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, parts)
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(n)])


def _place_among_workers():
    """The number of this worker and the number of workers, by TF_CONFIG."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 0, 1
    try:
        told = json.loads(text)
        names = [
            (kind, place)
            for kind in ("chief", "worker")
            for place in range(len(told["cluster"].get(kind, ())))
        ]
        own = told["task"]["type"], int(told["task"]["index"])
        if own not in names or set(told["cluster"]) - {"chief", "worker"}:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            'TF_CONFIG: must be like {"cluster": {"worker": ["host1:5000", '
            '"host2:5000"]}, "task": {"type": "worker", "index": 0}}, with the place '
            f"of this worker, got {text}"
        ) from None
    return names.index(own), len(names)
