"""Importance weighted autoencoders in TensorFlow 2 and Keras 3."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
