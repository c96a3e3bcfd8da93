"""Importance weighted autoencoders in TensorFlow 2 and Keras 3.

Models produce log importance weights; everything else consumes them.

Axes: the samples `k` come first, the batch `b` second and the event last. `log_w` is
[k, b], or [m k, b] if there are `m` groups. A function that reduces weights does so
over axis 0 and returns [b].

Units: nats per observation, summed over its entries and over latents.

Names: `x` is an observation, `z` one latent and `zs` the tuple of latents bottom-up:
`zs[0]` is nearest to x. `d` is the size of a latent, and `c` that of a context. Of
given latents, `log_px` is log p(x|z), `log_pz` is log p(z), `log_qz` is log q(z|x), and
`log_w` is the log importance weight. `w_norm` are normalised weights, `bound` is the
value of an objective, and `loss` is the scalar that is minimised.
"""

import logging
import os

import lazy_loader

# This is set before anything imports Keras. Every name below is imported when it is
# first used, so that the command line answers without waiting for TensorFlow.
if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    logging.getLogger(__name__).warning(
        "KERAS_BACKEND: iwae_tf needs tensorflow, and uses it in place of %r",
        os.environ["KERAS_BACKEND"],
    )
os.environ["KERAS_BACKEND"] = "tensorflow"

# XLA reads this when it first compiles. Its own matrix products take a quarter less
# time for 5,000 rows than those of the library that it would use on a CPU.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=("data", "estimators", "objectives", "pareto", "plots", "weights"),
    submod_attrs={
        "draws": ("Draws",),
        "measures": ("annealing", "gradients", "inspection", "proposals", "units"),
        "measures.likelihood": ("log_likelihood",),
        "models": (
            "binary",
            "generators",
            "likelihoods",
            "masks",
            "posteriors",
            "zoo",
        ),
        "models.iwae": ("IWAE",),
        "objectives": ("Objective",),
        "runs.config": ("Config",),
        "runs.experiment": ("load", "run"),
        "runs.run": ("Run",),
    },
)
__version__ = "0.2.0"
