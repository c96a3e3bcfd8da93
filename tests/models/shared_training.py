"""Trains small models on some devices; `test_replicas.py` starts it as a process.

    python shared_training.py OUT N_DEVICES [name ...]

With TF_CONFIG, the devices are those of all workers. OUT gets the weights of every
model, and what `fit` has logged.
"""

import sys

import keras
import numpy as np

from iwae_tf import data
from iwae_tf.models import zoo
from iwae_tf.runs import devices

SHAPE, N_STEPS, BATCH = (8, 8, 1), 50, 40
ADAM = {"learning_rate": 1e-3, "epsilon": 1e-4}


def burda(layers=1, **options):
    return zoo.build(
        SHAPE,
        options.pop("n_context", 0),
        stochastic_layers=layers,
        n_hidden=(40, 20)[:layers],
        n_latent=(8, 4)[:layers],
        **options,
    )


# For each name: how to make the model, the optimizer, and arguments of `compile`.
MODELS = {
    "one layer": (burda, keras.optimizers.Adam, ADAM, {"n_samples": 5}),
    "xla": (burda, keras.optimizers.Adam, ADAM, {"jit_compile": True}),
    "two layers": (lambda: burda(2), keras.optimizers.Adam, ADAM, {"n_samples": 50}),
    "dreg": (burda, keras.optimizers.Adam, ADAM, {"objective": "dreg"}),
    "vimco": (
        burda,
        keras.optimizers.Adam,
        ADAM,
        {"objective": "vimco", "n_samples": 5},
    ),
    "sleep": (
        lambda: burda(2),
        keras.optimizers.Adam,
        ADAM,
        {"objective": "rws_sleep", "n_samples": 2},
    ),
    "muon": (burda, keras.optimizers.Muon, {"learning_rate": 0.01}, {}),
    "flows": (
        lambda: zoo.deep("dense", SHAPE, n_hidden=(40,), n_latent=(8,), n_flows=2),
        keras.optimizers.Adam,
        ADAM,
        {"objective": "vae_elbo"},
    ),
    "conditional": (
        lambda: burda(n_context=3, conditional_prior=True),
        keras.optimizers.Adam,
        ADAM,
        {"n_samples": 7, "warmup_steps": 30},
    ),
    "warped": (
        lambda: zoo.spatial("tvae_affine", SHAPE),
        keras.optimizers.Adam,
        ADAM,
        {"n_samples": 2},
    ),
    "binary": (
        lambda: zoo.sbn(SHAPE, 2, (8, 4)),
        keras.optimizers.Adam,
        ADAM,
        {"objective": "rws_sleep", "n_samples": 5},
    ),
    "missing": (lambda: burda(missing=True), keras.optimizers.Adam, ADAM, {}),
}


def train(name, chosen):
    """Returns the weights and the logs of one model."""
    make, optimizer, options, compiled = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (500, *SHAPE), dtype=np.uint8)
    # Shares of a batch of test images differ in size.
    x_test = (rng.random((130, *SHAPE)) < 0.5).astype(np.float32)
    context, given = None, x_test
    if name == "missing":
        x = np.where(rng.random(x.shape) < 0.3, np.nan, x / np.float32(255))
    if name == "conditional":
        context = rng.random((500, 3), dtype=np.float32)
        given = x_test, rng.random((130, 3), dtype=np.float32)
    with chosen.scope():
        model = make()
        model.compile(
            optimizer(**options),
            **({"jit_compile": False, "steps_per_execution": 25} | compiled),
        )
    logs = {}
    # Two epochs, and with the conditional model k grows between them.
    growing = name == "conditional"
    for k in (model.n_samples, model.n_samples + 2) if growing else (model.n_samples,):
        model.train_samples = k
        first = int(model.optimizer.iterations.numpy())
        history = model.fit(
            data.training_batches(x, BATCH, 1, first, context=context),
            epochs=1 if growing else 2,
            steps_per_epoch=N_STEPS // 2,
            shuffle=False,
            validation_data=given,
            validation_batch_size=5,  # more batches than an execution has steps
            verbose=0,
        ).history
        logs |= {f"{name}, {log} {k}": v[-1] for log, v in history.items()}
    weights = {f"{name}: {v.path}": v.numpy() for v in model.trainable_variables}
    return weights | logs


if __name__ == "__main__":
    out, n_devices, *names = sys.argv[1:]
    team = devices.use("cpu", int(n_devices))
    found = {}
    for name in names or MODELS:
        found |= train(name, team)
    if team.worker == 0:
        np.savez(out, **found)
