"""Measurements of a trained model: likelihood, posterior, units, gradients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=(
        "annealing",
        "gradients",
        "inspection",
        "likelihood",
        "proposals",
        "units",
    ),
)
