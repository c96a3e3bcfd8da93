"""A way past the tracing of functions, for tests of something else."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def eagerly():
    """No function is traced, which takes longer than to run it a few times."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
