"""Figures of runs and of latent spaces, and the files they are written to.

The functions take NumPy arrays and make matplotlib figures and files. Nothing here
imports TensorFlow, and nothing outside imports matplotlib.
"""

from iwae_tf.plots.curves import Panel, line_sheet, training_curves
from iwae_tf.plots.files import animate, read_png, save
from iwae_tf.plots.intervals import Intervals, interval_sheet
from iwae_tf.plots.latents import posterior_sheet
from iwae_tf.plots.layout import SHRINK, Figure
from iwae_tf.plots.panels import Histogram, Scatter, histogram_sheet, scatter_sheet
from iwae_tf.plots.sheets import (
    Block,
    image_table,
    missing_in_blue,
    montage,
    reconstruction_sheet,
    sample_sheet,
)

__all__ = (
    "SHRINK",
    "Block",
    "Figure",
    "Histogram",
    "Intervals",
    "Panel",
    "Scatter",
    "animate",
    "histogram_sheet",
    "image_table",
    "interval_sheet",
    "line_sheet",
    "missing_in_blue",
    "montage",
    "posterior_sheet",
    "read_png",
    "reconstruction_sheet",
    "sample_sheet",
    "save",
    "scatter_sheet",
    "training_curves",
)
