"""Networks, posteriors q(z|x), generators p(x, z), and the Keras model of both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=(
        "batches",
        "binary",
        "contracts",
        "display",
        "exporting",
        "flows",
        "generators",
        "iwae",
        "likelihoods",
        "masks",
        "networks",
        "parts",
        "posteriors",
        "representation",
        "steps",
        "values",
        "warps",
        "zoo",
    ),
)
