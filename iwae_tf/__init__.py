"""Importance weighted autoencoders in TensorFlow 2 and Keras 3.

Models produce log importance weights; everything else consumes them.

Axes: samples `k` first, batch `b` second, event last. `log_w` is [k, b], or [m k, b] of
`m` groups; a function of weights reduces axis 0 and returns [b]. Units: nats per image,
summed over pixels and latents. Names: `x` image, `z` one latent, `zs` the tuple of
latents bottom-up (`zs[0]` is nearest to the pixels), `log_px`, `log_pz`, `log_qz`,
`log_w`, `w_norm` normalised weights, `bound` the value of an objective, `loss` the
scalar that is minimised, `d` latent size.
"""

import logging
import os

import lazy_loader

# Before anything imports Keras. Every name below is imported when it is first used, so
# that the command line answers without waiting for TensorFlow.
if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    logging.getLogger(__name__).warning(
        "KERAS_BACKEND: iwae_tf needs tensorflow, and uses it in place of %r",
        os.environ["KERAS_BACKEND"],
    )
os.environ["KERAS_BACKEND"] = "tensorflow"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=("data", "objectives", "plots", "weights"),
    submod_attrs={
        "draws": ("Draws",),
        "measures": ("annealing", "gradients", "inspection", "units"),
        "measures.likelihood": ("log_likelihood",),
        "models": ("generators", "likelihoods", "posteriors", "zoo"),
        "models.iwae": ("IWAE",),
        "objectives": ("Objective",),
        "runs.config": ("Config",),
        "runs.experiment": ("load", "run"),
        "runs.run": ("Run",),
    },
)
__version__ = "0.1.0"
