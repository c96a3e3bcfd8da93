"""Data sets, and the pipeline that feeds their images to a model."""

import lazy_loader

# Imported when first used, so that `datasets` finds a data set without TensorFlow.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=("datasets", "observations", "pipeline", "sets", "values"),
    submod_attrs={
        "datasets": ("load",),
        "observations": ("Images",),
        "pipeline": ("n_waiting", "steps_of_epoch", "training_batches"),
        "sets": (
            "TEST_SEED",
            "Sets",
            "contexts_of",
            "mean_of",
            "sets_of",
            "spread",
            "with_validation",
        ),
        "values": (
            "BINARIZATIONS",
            "LEVEL_WIDTH",
            "binarize",
            "check_range",
            "grey",
            "sha256",
            "sha256_of_labels",
        ),
    },
)
