"""Executions of many training steps, of which XLA compiles the loop too."""

from collections.abc import Callable

import tensorflow as tf

from iwae_tf import data


def of_whole_loops(model, one_by_one: Callable) -> Callable:
    """A train function whose steps follow each other within one compiled program.

    Keras compiles a step. TensorFlow then enters and leaves the program, with all
    variables, once for each step, which can take longer than a small step itself.

    Args:
      model: compiled with `jit_compile`; has `train_step` and `metrics`.
      one_by_one: the train function of Keras. It is used where a program would have one
        step, as for batches that are large or have no fixed size, and for a model whose
        kernels have more than two axes: on a CPU, XLA makes convolutions four times as
        slow within a loop.

    Returns:
      execution: function of an iterator -> logs. Where the iterator ends early, so does
        the execution.
    """
    if any(len(variable.shape) > 2 for variable in model.trainable_variables):
        return one_by_one
    names = []

    @tf.function(jit_compile=True, autograph=False)
    def program(batches, n):
        def step(i):
            batch = tf.nest.map_structure(lambda whole: whole[i], batches)
            names[:] = model.train_step(batch)
            return [i + 1]

        tf.while_loop(lambda i: i < n, step, [0])

    @tf.function(autograph=False)
    def programs(iterator, most):
        def one_more(n_done, _):
            n_asked = tf.minimum(most, model.steps_per_execution - n_done)
            batches, n = _gather(iterator, most, n_asked)
            program(batches, n)
            return n_done + n, n == n_asked

        n_done, _ = tf.while_loop(
            lambda n_done, is_more: is_more & (n_done < model.steps_per_execution),
            one_more,
            [0, True],
        )
        means = {part.name: part for part in model.metrics}
        return n_done, {name: means[name].result() for name in names}

    def execution(iterator):
        most = min(_most_at_once(iterator), model.steps_per_execution)
        if most == 1:
            return one_by_one(iterator)
        n_done, logs = programs(iterator, most)
        if not n_done:
            raise StopIteration
        return logs

    return execution


def _most_at_once(iterator):
    """The number of batches that may wait together; 1 if their sizes may differ."""
    if not isinstance(iterator, tf.data.Iterator):
        return 1
    specs = tf.nest.flatten(iterator.element_spec)
    if not all(
        isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined()
        for spec in specs
    ):
        return 1
    return data.n_waiting(sum(s.shape.num_elements() * s.dtype.size for s in specs))


def _gather(iterator, size, n_asked):
    """Stacks batches: at most n_asked of them, and zeros up to size.

    Returns:
      batches: tensors [size, ...] in the structure of an element.
      n: number of batches.
    """
    spec = iterator.element_spec
    arrays = [
        tf.TensorArray(part.dtype, size, element_shape=part.shape)
        for part in tf.nest.flatten(spec)
    ]

    def one_more(n, _, arrays):
        element = iterator.get_next_as_optional()

        def write():
            parts = tf.nest.flatten(element.get_value())
            return [a.write(n, p) for a, p in zip(arrays, parts, strict=True)]

        is_there = element.has_value()
        arrays = tf.cond(is_there, write, lambda: arrays)
        return n + tf.cast(is_there, tf.int32), is_there, arrays

    n, _, arrays = tf.while_loop(
        lambda n, is_more, _: is_more & (n < n_asked), one_more, [0, True, arrays]
    )
    return tf.nest.pack_sequence_as(spec, [a.stack() for a in arrays]), n
