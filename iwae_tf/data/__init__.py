"""Data sets, and the pipeline that feeds their images to a model."""

import lazy_loader

# Imported when first used, so that `datasets` finds a data set without TensorFlow.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=("datasets", "observations", "pipeline"),
    submod_attrs={
        "datasets": ("load",),
        "observations": ("Images",),
        "pipeline": (
            "BINARIZATIONS",
            "LEVEL_WIDTH",
            "TEST_SEED",
            "Sets",
            "binarize",
            "check_range",
            "contexts_of",
            "grey",
            "mean_of",
            "n_waiting",
            "sets_of",
            "sha256",
            "sha256_of_labels",
            "spread",
            "steps_of_epoch",
            "training_batches",
            "with_validation",
        ),
    },
)
