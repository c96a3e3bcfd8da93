"""Task 13: training on images of which only a part was observed.

Half of the pixels of every image, or one of its four quarters, are missing at random,
in the training images too. Models with k = 1, 5 and 50 are trained on what is left. The
table shows log p(x) of the observed pixels, and how well missing pixels of test images
are imputed, beside the mean image and the nearest training images. The figure shows
several imputations of each image.

    python tasks/task13.py [--epochs 20] [--smoke]

Reference:
  Mattei and Frellsen 2019, MIWAE, arXiv:1812.02633.
"""

import numpy as np
from sklearn.impute import KNNImputer
from sklearn.metrics import f1_score

import iwae_tf
from iwae_tf import cli, plots
from iwae_tf.runs import reports, results

N_IMPUTED = 500  # number of test images whose missing pixels are imputed
N_SAMPLES = 1000  # number of samples for each of them
N_NEIGHBOURS = 5
N_REFERENCE = 5000  # number of training images among which neighbours are searched
N_SHOWN = 10
N_DRAWS = 4


def half(shape, rng):
    """Masks in which each pixel is missing with probability one half."""
    return rng.random(shape) < 0.5


def quarter(shape, rng):
    """Masks in which one of the four quarters of an image is missing."""
    n, height, width, _ = shape
    low, left = rng.integers(2, size=(2, n, 1, 1, 1))
    row = np.arange(height)[:, None, None] < height // 2
    column = np.arange(width)[:, None] < width // 2
    return np.broadcast_to((row == low) & (column == left), shape)


PATTERNS = {"half": half, "quarter": quarter}
WORDS = {"half": "half of the pixels", "quarter": "a quarter of every image"}


def main(task):
    """Trains six models; writes a figure and a table."""
    ks = (1, 3) if task.is_smoke else (1, 5, 50)
    places = iwae_tf.data.spread(len(task.x_test), N_IMPUTED)
    rows, blocks, parts = [], [], {}
    for number, (pattern, mask_of) in enumerate(PATTERNS.items()):
        rng = np.random.default_rng((task.config.seed, number))
        images = incomplete(task.images, pattern, mask_of, rng)
        runs = {k: task.run(images=images, missing=True, n_samples=k) for k in ks}
        parts[pattern] = images, rng, runs
    task.check_whole()
    for pattern, (images, rng, runs) in parts.items():
        sets = iwae_tf.data.sets_of(images, task.config.binarization, missing=True)
        x, truth = sets.x_test[places], task.x_test[places]
        for name, guess in baselines(sets, x, rng).items():
            rows.append((pattern, name, "—", "—", *errors(guess, x, truth), "—"))
        for k, run in runs.items():
            imputed = iwae_tf.inspection.impute(
                run.model, x, N_SAMPLES, jit_compile=task.config.jit
            )
            score = reports.estimate(run.report)
            ess = f"{np.median(imputed.ess):.0f}"
            found = errors(imputed.mean, x, truth)
            rows.append((pattern, "IWAE", k, score, *found, ess))
        blocks.append(block(run, pattern, x, truth, ks[-1]))
    header = "missing | imputed by | k | test log p(x observed) | F1 | RMSE | ESS"
    table = results.markdown(header, "---|---|--:|---|--:|--:|--:", rows)
    task.finish(table, plots.image_table(blocks, task.title))


def incomplete(images, pattern, mask_of, rng):
    """The data set with NaN in place of missing pixels."""
    parts = {}
    for name in ("x_train", "x_test"):
        x = iwae_tf.data.grey(getattr(images, name)).numpy()
        parts[name] = np.where(mask_of(x.shape, rng), np.float32(np.nan), x)
    return images._replace(name=f"{images.name}-{pattern}", **parts)


def baselines(sets, x, rng):
    """Probabilities of pixels by the mean image, and by the nearest images."""
    mean = np.broadcast_to(iwae_tf.data.mean_of(sets.x_train), x.shape)
    n = min(N_REFERENCE, len(sets.x_train))
    chosen = sets.x_train[rng.permutation(len(sets.x_train))[:n]]
    binary = iwae_tf.data.binarize(chosen, "dynamic", seed=1).numpy()
    imputer = KNNImputer(n_neighbors=N_NEIGHBOURS, keep_empty_features=True)
    imputer.fit(binary.reshape(n, -1))
    nearest = imputer.transform(x.reshape(len(x), -1)).reshape(x.shape)
    return {"mean image": mean, f"{N_NEIGHBOURS} nearest images": nearest}


def errors(probability, x, truth):
    """F1 of the pixels that are 1, and RMSE, over the missing pixels."""
    is_missing = np.isnan(x)
    guess, want = probability[is_missing], truth[is_missing]
    rmse = np.sqrt(np.mean(np.square(guess - want)))
    return f"{f1_score(want, guess >= 0.5):.3f}", f"{rmse:.3f}"


def block(run, pattern, x, truth, k):
    """Images, several imputations of each, their mean, and the whole images."""
    chosen = iwae_tf.data.spread(len(x), N_SHOWN)
    x = x[chosen]
    draws = iwae_tf.inspection.impute_samples(run.model, x, N_SAMPLES, N_DRAWS)
    mean = iwae_tf.inspection.impute(run.model, x, N_SAMPLES).mean
    rows = {"x, observed": x}
    rows |= {f"imputed {i + 1}": draw for i, draw in enumerate(draws)}
    rows |= {"mean imputed": mean, "x, whole": truth[chosen]}
    title = f"{WORDS[pattern]} missing (blue), IWAE, k = {k}"
    shown = plots.missing_in_blue(np.stack(list(rows.values())))
    return plots.Block(title, dict(zip(rows, shown, strict=True)))


if __name__ == "__main__":
    cli.task(main, __file__, epochs=20, batch_size=100, schedule="constant")
