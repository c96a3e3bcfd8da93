"""Tests of iwae_tf.models.display."""

import keras
import pytest

from iwae_tf.models.display import told

LOGS = {
    "loss": 90.0,
    "bound": -90.0,
    "vae_elbo": -95.0,
    "iwae_elbo": -90.0,
    "log_px": -70.0,
    "log_pz": -30.0,
    "log_qz": -5.0,
}
KL = {"log_px": -70.0, "kl": 25.0}


@pytest.mark.parametrize(
    ("logs", "want"),
    [
        (LOGS, {"bound": -90.0, "vae_elbo": -95.0, **KL}),
        (
            LOGS | {"bound": -95.0, "loss": 95.0},
            {"bound": -95.0, "iwae_elbo": -90.0, **KL},
        ),
        (  # a regulariser
            LOGS | {"loss": 91.0, "regularization": 1.0, "learning_rate": 0.1},
            {"loss": 91.0, "bound": -90.0, "vae_elbo": -95.0, **KL}
            | {"regularization": 1.0, "learning_rate": 0.1},
        ),
        (
            {f"val_{name}": value for name, value in LOGS.items()},
            {"val_bound": -90.0, "val_vae_elbo": -95.0}
            | {f"val_{name}": value for name, value in KL.items()},
        ),
        ({"loss": 1.0}, {"loss": 1.0}),
    ],
    ids=["iwae", "vae", "regularised", "validation", "other"],
)
def test_what_repeats_is_left_out(logs, want):
    assert told(logs) == want


@pytest.mark.parametrize("by_place", [False, True])
def test_fit_and_evaluate_show_it_and_history_has_all(by_place, tiny, binary, capsys):
    model, x = tiny(), binary(8)
    model.compile("adam", n_samples=2, jit_compile=False)
    if by_place:
        history = model.fit(x, None, 4, 1, 2, [], 0.5)
    else:
        history = model.fit(x, batch_size=4, validation_split=0.5, verbose=2)
    shown = capsys.readouterr().out
    assert "bound: " in shown and "kl: " in shown and "val_kl: " in shown
    assert "loss" not in shown and "iwae_elbo" not in shown and "log_pz" not in shown
    assert {"loss", "val_loss", "val_log_qz"} <= set(history.history)
    model.evaluate(x, verbose=2)
    shown = capsys.readouterr().out
    assert "kl: " in shown and "loss" not in shown
    model.evaluate(x, verbose=0)
    model.fit(x, verbose=0, callbacks=keras.callbacks.LambdaCallback())
    assert not capsys.readouterr().out
