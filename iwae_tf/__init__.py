"""Importance weighted autoencoders in TensorFlow 2 and Keras 3.

Models produce log importance weights; everything else consumes them.

Axes: samples `k` first, batch `b` second, event last. `log_w` is [k, b], or [m k, b] of
`m` groups; a function of weights reduces axis 0 and returns [b]. Units: nats per image,
summed over pixels and latents. Names: `x` image, `z` one latent, `zs` the tuple of
latents bottom-up (`zs[0]` is nearest to the pixels), `log_px`, `log_pz`, `log_qz`,
`log_w`, `w_norm` normalised weights, `bound` the value of an objective, `loss` the
scalar that is minimised, `d` latent size.
"""

import importlib.util
import os

# Before anything imports Keras: the user's shell may name another backend.
os.environ["KERAS_BACKEND"] = "tensorflow"

_EXPORTS = {
    "Config": "runs.config",
    "Draws": "draws",
    "IWAE": "models.iwae",
    "Objective": "objectives",
    "annealing": "measures.annealing",
    "evaluation": "measures.likelihood",
    "inspection": "measures.inspection",
    "load": "runs.experiment",
    "log_likelihood": "measures.likelihood",
    "run": "runs.experiment",
    "units": "measures.units",
    "zoo": "models.zoo",
}
__all__ = tuple(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str):
    """Imports what is asked for, so that the command line starts without TensorFlow."""
    if name in _EXPORTS:
        module = importlib.import_module(f"{__name__}.{_EXPORTS[name]}")
        is_module = _EXPORTS[name].endswith(name) or name == "evaluation"
        return module if is_module else getattr(module, name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
