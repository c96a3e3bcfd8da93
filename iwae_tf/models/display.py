"""What `fit` and `evaluate` show of the metrics."""

import math
from collections.abc import Mapping, Sequence

import keras


class Display(keras.callbacks.ProgbarLogger):
    """The progress bar of Keras, without what repeats something else.

    The loss is shown where it is not minus the bound; vae_elbo and iwae_elbo where they
    are not the bound; and kl, E_q log q(z|x) - log p(z), in place of its two parts.
    """

    def _update_progbar(self, batch, logs=None):
        super()._update_progbar(batch, told(logs or {}))

    def _finalize_progbar(self, logs):
        super()._finalize_progbar(told(logs or {}))


def told(logs: Mapping[str, float]) -> dict[str, float]:
    """The metrics that tell something new, in their order."""
    found = {}
    for name, value in logs.items():
        prefix = "val_" if name.startswith("val_") else ""
        base = name.removeprefix(prefix)
        bound = logs.get(f"{prefix}bound", math.nan)
        repeated = {"loss": -bound, "vae_elbo": bound, "iwae_elbo": bound}.get(base)
        if repeated is not None and math.isclose(value, repeated, rel_tol=1e-5):
            continue
        if base == "log_pz" and f"{prefix}log_qz" in logs:
            continue
        if base == "log_qz" and f"{prefix}log_pz" in logs:
            found[f"{prefix}kl"] = value - logs[f"{prefix}log_pz"]
            continue
        found[name] = value
    return found


def with_display(
    callbacks: Sequence[keras.callbacks.Callback] | None, verbose: int | str
) -> Sequence[keras.callbacks.Callback] | None:
    """Callbacks of `fit`, with a `Display` unless nothing is to be shown."""
    if not verbose or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    return [Display(), *(callbacks or ())]
