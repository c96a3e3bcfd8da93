"""Executions of several replicas, each of which works on its share of every batch."""

from collections.abc import Callable

import keras
import tensorflow as tf

from iwae_tf import randomness
from iwae_tf.errors import UsageError

_STRATEGIES = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


class WholeBatches:
    """What Keras distributes data by, so that it does not.

    An execution gets whole batches and divides each of them itself. So the share of a
    replica is known for every kind of data set, and for a smaller last batch.
    """

    def experimental_distribute_dataset(self, dataset):
        """Returns the data set as it is."""
        return dataset

    def run(self, function, args=()):
        """Calls a function: one device predicts."""
        return function(*args)


def check_strategy(strategy: tf.distribute.Strategy) -> None:
    """Checks that replicas are copies of one model, if there are several.

    Raises:
      UsageError: if not.
    """
    if strategy.num_replicas_in_sync > 1 and not isinstance(strategy, _STRATEGIES):
        raise UsageError(
            "strategy: must be a MirroredStrategy or a MultiWorkerMirroredStrategy if "
            f"it has several replicas, got a {type(strategy).__name__}"
        )


def of_shares(model, step: Callable) -> Callable:
    """An execution of steps, in each of which replicas work on shares of one batch.

    Args:
      model: made in the scope of a strategy with several replicas.
      step: function (share, n_before) -> logs, called in the context of a replica and
        in `randomness.of_share`. n_before is the number of observations that batches
        before have had.

    Returns:
      execution: function (iterator, n_before) -> n, logs. n includes the observations
        of this execution. The iterator gives whole batches, and where it ends early, so
        does the execution.
    """
    strategy, names = model.strategy, []

    def of_replica(batch, n_before):
        context = tf.distribute.get_replica_context()
        i = tf.get_static_value(context.replica_id_in_sync_group)
        n = _size(batch)
        first, end = (j * n // strategy.num_replicas_in_sync for j in (i, i + 1))
        with tf.device("CPU:0"):  # so that only the share goes to the device
            share = tf.nest.map_structure(lambda part: part[first:end], batch)
        with randomness.of_share(first, n):
            names[:] = step(share, n_before)

    def program(iterator, n_before):
        def one_more(i, n, element):
            batch = element.get_value()
            batch = model._autoconvert_optionals(lambda batch: batch)(batch)
            if model.checks_values:
                model.see(batch)
            strategy.run(of_replica, args=(batch, n))
            i += 1
            n += _size(batch)
            is_more = i < model.steps_per_execution
            after = tf.cond(is_more, iterator.get_next_as_optional, lambda: element)
            return i, n, after

        # A loop that ends by an error at the end of the data would spoil the metrics.
        n_steps, n, _ = tf.while_loop(
            lambda i, n, element: (i < model.steps_per_execution) & element.has_value(),
            one_more,
            [0, n_before, iterator.get_next_as_optional()],
        )
        means = {part.name: part for part in model.metrics}
        return n_steps, n, {name: means[name].result() for name in names}

    if not model.run_eagerly:
        program = tf.function(program, autograph=False)

    def execution(iterator, n_before):
        if isinstance(iterator, tf.distribute.DistributedIterator):
            raise UsageError(
                "x: must be a data set of whole batches, which the model divides among "
                "its replicas, got one that is distributed already"
            )
        if not isinstance(iterator, tf.data.Iterator):  # of `train_on_batch`
            iterator = _of_one(next(iterator))
        n_steps, n, logs = program(iterator, tf.constant(n_before))
        if not n_steps:
            raise StopIteration
        return int(n), logs

    return execution


def _size(batch):
    """The number of observations, an integer if it is fixed."""
    x = tf.nest.flatten(batch)[0]
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]


def _of_one(batch):
    """An iterator of one batch of arrays, some of which may be None."""
    x, context, weights = keras.utils.unpack_x_y_sample_weight(batch)
    batch = keras.utils.pack_x_y_sample_weight(x, context, weights)
    return iter(tf.data.Dataset.from_tensors(batch))


def compiled(function: Callable, jit_compile: bool) -> Callable:
    """A part of a step, which XLA compiles where it cannot compile all of the step.

    Steps of one device are compiled as a whole. Those of replicas are not, because they
    contain sums over the replicas.
    """
    if randomness.share() is None or not jit_compile or tf.executing_eagerly():
        return function
    return tf.function(function, jit_compile=True, autograph=False)


def fraction(n_own: tf.Tensor) -> tf.Tensor | float:
    """The fraction of the whole batch that a share of n_own observations is."""
    share = randomness.share()
    if share is None:
        return 1.0
    return tf.cast(n_own, tf.float32) / tf.cast(share[1], tf.float32)


def mean_of_all(mean: tf.Tensor, n_own: tf.Tensor) -> tf.Tensor:
    """The mean over a whole batch, of the mean over each share."""
    if randomness.share() is None:
        return mean
    part = mean * fraction(n_own)
    return tf.distribute.get_replica_context().all_reduce("SUM", part)


def mean_of_own(mean: tf.Tensor, n_own: tf.Tensor) -> tf.Tensor:
    """The mean over a share, which is 0 and not NaN if the share is empty."""
    if randomness.share() is None:
        return mean
    return tf.where(n_own > 0, mean, 0.0)
