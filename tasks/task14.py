"""Task 14: missing entries of tables, at random and not at random.

Of three small tables, every feature is standardised. Half of the entries are missing at
random, or, in half of the features, those above the mean are missing. Models with a
Gaussian and a Student-t likelihood are trained on the rest. The table shows the error
of single imputations, in standard deviations of a feature, beside imputers of
scikit-learn. Where entries are missing not at random, there are also models that learn
p(s|x), the probability that an entry is observed.

    python tasks/task14.py [--epochs 1000] [--n_samples 20] [--smoke]

Reference:
  Mattei and Frellsen 2019, MIWAE, arXiv:1812.02633; Ipsen, Mattei and Frellsen 2021,
  not-MIWAE, arXiv:2006.12871.
"""

import warnings

import numpy as np
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import iwae_tf
from iwae_tf import cli, files
from iwae_tf.runs import results
from iwae_tf.runs.progress import Progress

TABLES = {
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
}
PATTERNS = ("at random", "above the mean")
# Large values are missing more often; the model knows this sign, or does not.
SIGNS = {"": None, ", p(s given x)": 0, ", p(s given x) of known sign": -1}
N_IMPUTED = 1000  # number of samples for each row


def main(task):
    """Imputes every table with several seeds; writes a table of errors."""
    names = ["wine"] if task.is_smoke else list(TABLES)
    seeds = [task.config.seed + i for i in range(2 if task.is_smoke else 5)]
    jobs = [(p, name, seed) for p in PATTERNS for name in names for seed in seeds]
    jobs = [job for job in jobs if task.is_own()]
    progress, errors = Progress(len(jobs), "tables"), {}
    for i, job in enumerate(jobs, 1):
        stem = "-".join(map(str, job)).replace(" ", "-")
        path = task.directory / f"{stem}-e{task.config.epochs}.json"
        found = files.read_or_make_json(path, lambda j=job: errors_of(*j, task.config))
        for method, error in found["rmse"].items():
            errors.setdefault((job[0], method), {}).setdefault(job[1], []).append(error)
        progress.update(i)
    progress.close()
    task.check_whole()
    rows = [
        (*key, *(f"{np.mean(of[n]):.3f} ± {np.std(of[n], ddof=1):.3f}" for n in names))
        for key, of in errors.items()
    ]
    header = " | ".join(["missing", "imputed by", *names])
    table = results.markdown(header, "|".join(["---"] * (2 + len(names))), rows)
    title = (
        f"RMSE of missing entries · IWAE k = {task.config.n_samples} · "
        f"{task.config.epochs} epochs · mean ± standard deviation of {len(seeds)} seeds"
    )
    task.finish(table, title=title)


def errors_of(pattern, name, seed, config):
    """The error of every method on one table with one seed."""
    whole = TABLES[name]().data
    whole = ((whole - whole.mean(axis=0)) / whole.std(axis=0)).astype(np.float32)
    is_missing = np.random.default_rng(seed).random(whole.shape) < 0.5
    if pattern == "above the mean":
        is_missing = (whole > 0) & (np.arange(whole.shape[1]) < whole.shape[1] // 2)
    x = np.where(is_missing, np.float32(np.nan), whole)
    loc, scale = np.nanmean(x, axis=0), np.nanstd(x, axis=0)  # of what was observed
    x = (x - loc) / scale
    chained = IterativeImputer(random_state=seed, max_iter=30, tol=1e-2)
    warnings.simplefilter("ignore", ConvergenceWarning)  # it may need more rounds
    guesses = {
        "mean": SimpleImputer().fit_transform(x),
        "KNNImputer": KNNImputer().fit_transform(x),
        "IterativeImputer": chained.fit_transform(x),
    }
    for likelihood in ("Gaussian", "StudentT"):
        for text, sign in SIGNS.items():
            if sign is None or pattern == "above the mean":
                model = trained(x, likelihood, sign, seed, config)
                guesses[f"IWAE, {likelihood}{text}"] = iwae_tf.inspection.impute(
                    model, x, N_IMPUTED, jit_compile=config.jit
                ).mean
    wrong = {
        m: (guess * scale + loc - whole)[is_missing] for m, guess in guesses.items()
    }
    return {"rmse": {m: float(np.mean(w**2) ** 0.5) for m, w in wrong.items()}}


def trained(x, likelihood, sign, seed, config):
    """A model of a table, trained on all of its rows."""
    import keras

    n = x.shape[1]
    model = iwae_tf.zoo.burda(
        (n,),
        n_latent=(min(10, n - 1),),
        n_hidden=(128,),
        likelihood=getattr(iwae_tf.likelihoods, likelihood)(),
        missing=True,
        mask_model=None if sign is None else iwae_tf.masks.SelfMasking(sign),
        seed=seed,
    )
    adam = keras.optimizers.Adam(config.learning_rate)
    model.compile(adam, n_samples=config.n_samples, jit_compile=config.jit)
    batches = iwae_tf.data.training_batches(x, config.batch_size, seed, 0, "none")
    n_steps = config.epochs * iwae_tf.data.steps_of_epoch(len(x), config.batch_size)[0]
    model.fit(batches, steps_per_epoch=n_steps, shuffle=False, verbose=0)
    return model


if __name__ == "__main__":
    options = {"schedule": "constant", "learning_rate": 1e-3, "n_samples": 20}
    cli.task(main, __file__, epochs=1000, batch_size=64, **options)
