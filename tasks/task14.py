"""Task 14: missing entries of tables, at random and not at random.

Of three small tables, every feature is standardised and half of the entries are
missing, completely at random or because they are above the mean (in half of the
features). Models with a Gaussian and a Student-t likelihood are trained on what is
left. The table shows the error of single imputations, in standard deviations of a
feature, beside the mean, `KNNImputer` and `IterativeImputer` of scikit-learn. Where
entries are missing not at random, models that also learn p(s|x), the probability that
an entry is observed, stand beside those that do not.

    python tasks/task14.py [--epochs 1000] [--n_samples 20] [--smoke]

Reference:
  Mattei and Frellsen 2019, MIWAE, arXiv:1812.02633; Ipsen, Mattei and Frellsen 2021,
  not-MIWAE, arXiv:2006.12871.
"""

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import iwae_tf
from iwae_tf import cli, files, likelihoods, masks
from iwae_tf.runs import results
from iwae_tf.runs.progress import Progress

TABLES = {
    "breast cancer": load_breast_cancer,
    "wine": load_wine,
    "diabetes": load_diabetes,
}
N_IMPUTED = 1000  # number of samples for each row
LIKELIHOODS = {"Gaussian": likelihoods.Gaussian, "Student t": likelihoods.StudentT}
# Large values are missing more often; the model knows this sign, or does not.
MASKS = {
    "": lambda: None,
    ", p(s given x)": masks.SelfMasking,
    ", p(s given x) of known sign": lambda: masks.SelfMasking(sign=-1),
}


def main(task):
    """Imputes every table with several seeds; writes a table of errors."""
    names = list(TABLES)[1:2] if task.is_smoke else list(TABLES)
    seeds = [task.config.seed + i for i in range(2 if task.is_smoke else 5)]
    jobs = [
        (pattern, name, seed)
        for pattern in ("at random", "above the mean")
        for name in names
        for seed in seeds
    ]
    progress, errors = Progress(len(jobs), "tables"), {}
    for i, (pattern, name, seed) in enumerate(jobs):
        stem = f"{pattern}-{name}-{seed}".replace(" ", "-")
        path = task.directory / f"{stem}-e{task.config.epochs}.json"
        found = files.read_or_make_json(
            path, lambda job=(pattern, name, seed): errors_of(*job, task.config)
        )
        for method, error in found["rmse"].items():
            errors.setdefault((pattern, method), {}).setdefault(name, []).append(error)
        progress.update(i + 1)
    progress.close()
    rows = [
        (pattern, method, *(spread(of.get(name)) for name in names))
        for (pattern, method), of in errors.items()
    ]
    header = " | ".join(["missing", "imputed by", *names])
    table = results.markdown(header, "---|---|" + "|".join(["---"] * len(names)), rows)
    k, epochs = task.config.n_samples, task.config.epochs
    task.finish(
        table,
        title=f"RMSE of missing entries · IWAE k = {k} · {epochs} epochs · mean ± "
        f"standard deviation over {len(seeds)} seeds",
    )


def spread(values):
    """The mean of values and their standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def errors_of(pattern, name, seed, config):
    """The error of every method on one table with one seed."""
    whole = TABLES[name]().data.astype(np.float64)
    whole = ((whole - whole.mean(axis=0)) / whole.std(axis=0)).astype(np.float32)
    rng = np.random.default_rng(seed)
    is_missing = rng.random(whole.shape) < 0.5
    if pattern == "above the mean":
        n_masked = whole.shape[1] // 2
        is_missing = (whole > 0) & (np.arange(whole.shape[1]) < n_masked)
    x = np.where(is_missing, np.float32(np.nan), whole)
    # By what was observed, as a user would do it.
    loc, scale = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
    x = (x - loc) / scale
    guesses = {
        "mean": SimpleImputer().fit_transform(x),
        "KNNImputer": KNNImputer().fit_transform(x),
        "IterativeImputer": IterativeImputer(
            random_state=seed, max_iter=30, tol=1e-2
        ).fit_transform(x),
    }
    for of_x, likelihood in LIKELIHOODS.items():
        for of_mask, mask_model in MASKS.items():
            if pattern == "at random" and of_mask:
                continue
            model = trained(x, likelihood(), mask_model(), seed, config)
            imputed = iwae_tf.inspection.impute(
                model, x, N_IMPUTED, jit_compile=config.jit
            )
            guesses[f"IWAE, {of_x}{of_mask}"] = imputed.mean
    return {
        "rmse": {
            method: float(
                np.sqrt(np.mean(np.square((guess * scale + loc) - whole)[is_missing]))
            )
            for method, guess in guesses.items()
        }
    }


def trained(x, likelihood, mask_model, seed, config):
    """A model of a table, trained on all of its rows."""
    model = iwae_tf.zoo.burda(
        x.shape[1:],
        n_latent=(min(10, x.shape[1] - 1),),
        n_hidden=(128,),
        likelihood=likelihood,
        missing=True,
        mask_model=mask_model,
        seed=seed,
    )
    model.compile(
        keras.optimizers.Adam(config.learning_rate),
        config.objective,
        config.n_samples,
        jit_compile=config.jit,
    )
    batches = iwae_tf.data.training_batches(
        x, config.batch_size, seed, binarization="none"
    )
    n_steps, _ = iwae_tf.data.steps_of_epoch(len(x), config.batch_size)
    model.fit(
        batches, steps_per_epoch=config.epochs * n_steps, shuffle=False, verbose=0
    )
    return model


if __name__ == "__main__":
    cli.task(
        main,
        __file__,
        epochs=1000,
        batch_size=64,
        schedule="constant",
        learning_rate=1e-3,
        n_samples=20,
        objective="iwae_elbo",
    )
