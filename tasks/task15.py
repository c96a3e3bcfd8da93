"""Task 15: images with levels of grey and of colour, in bits per dimension.

Trains models whose likelihood is a discretised logistic on two data sets: the digits,
which have 17 levels, and 16x16 patches of two photographs of scikit-learn, which have
256 levels of three colours. The table shows bits per dimension of test images, beside
the entropy of entries that are independent of one another. The figure shows samples.

    python tasks/task15.py [--epochs 200] [--smoke]

Reference:
  Salimans et al. 2017, PixelCNN++, section 2.1, arXiv:1701.05517.
"""

import numpy as np
from sklearn.datasets import load_sample_images

import iwae_tf
from iwae_tf import cli, plots
from iwae_tf.data import datasets
from iwae_tf.runs import names, reports, results

SIZE = 16  # height and width of a patch
STEP = 8  # between neighbouring patches
N_SHOWN = 12


def main(task):
    """Trains six models; writes a figure and a table."""
    many = 3 if task.is_smoke else 5
    patches = patches_of_photographs(task.directory / "patches.npz")
    runs = [
        (
            images,
            {
                (layers, k): task.run(
                    images=images,
                    likelihood="discretized_logistic",
                    binarization="none",
                    stochastic_layers=layers,
                    n_samples=k,
                )
                for layers, k in ((1, 1), (1, many), (2, many))
            },
        )
        for images in (datasets.load("digits"), patches)
    ]
    task.check_whole()
    rows, blocks = [], []
    for images, of_images in runs:
        rows.append((images.name, "independent", "—", "—", *independent(images)))
        for (layers, k), run in of_images.items():
            test = run.report["test"]
            bits = f"{test['bits_per_dimension']:.3f}"
            score = reports.estimate(run.report)
            rows.append((images.name, "IWAE", layers, k, score, bits))
        blocks.append(block(run, images, f"IWAE, k = {k}, {layers} layers"))
    header = "data | model | layers | k | test log p(x) | bits per dimension"
    table = results.markdown(header, "---|---|--:|--:|--:|--:", rows)
    config = task.config
    title = names.line(names.epochs(config.epochs), f"seed {config.seed}")
    task.finish(table, plots.image_table(blocks, title), title)


def patches_of_photographs(path):
    """Patches of two photographs as a data set; those at the right are for the test."""
    parts = {"x_train": [], "x_test": []}
    for photograph in load_sample_images().images:
        height, width, _ = photograph.shape
        border = int(0.8 * width)
        for name, first, last in (("x_train", 0, border), ("x_test", border, width)):
            parts[name] += [
                photograph[row : row + SIZE, column : column + SIZE]
                for row in range(0, height - SIZE + 1, STEP)
                for column in range(first, last - SIZE + 1, STEP)
            ]
    np.savez(path, **{name: np.stack(part) for name, part in parts.items()})
    return datasets.load(str(path))


def independent(images):
    """Log p(x) and bits per dimension if entries are independent: a histogram each."""
    x_train, x_test = (
        np.rint(iwae_tf.data.grey(x).numpy() * 255).astype(int).reshape(len(x), -1)
        for x in (images.x_train, images.x_test)
    )
    levels = np.unique(np.concatenate([x_train, x_test]))
    x_train, x_test = (np.searchsorted(levels, x) for x in (x_train, x_test))
    n_levels = 256 if images.x_train.dtype == np.uint8 else len(levels)
    counts = np.ones((x_train.shape[1], n_levels))  # one of every level beforehand
    for counted, column in zip(counts, x_train.T, strict=True):
        np.add.at(counted, column, 1)
    log_p = np.log(counts / counts.sum(axis=1, keepdims=True))
    log_px = log_p[np.arange(len(counts)), x_test].sum(axis=1)
    bits = -log_px.mean() / len(counts) / np.log(2)
    error = log_px.std(ddof=1) / len(log_px) ** 0.5
    return f"{log_px.mean():.2f} ± {error:.2f}", f"{bits:.3f}"


def block(run, images, title):
    """Test images, their reconstructions, samples and the means of these."""
    places = iwae_tf.data.spread(len(images.x_test), N_SHOWN)
    x = iwae_tf.data.grey(images.x_test[places]).numpy()
    samples, means = run.model.sample(N_SHOWN, run.figure_seed(2))
    rows = {
        "x": x,
        "E[x|z], z ~ q(z|x)": run.model.reconstruct(x, run.figure_seed(1)).numpy(),
        "samples x ~ p(x|z)": samples.numpy(),
        "their means E[x|z]": means.numpy(),
    }
    return plots.Block(f"{images.name}, {title}", rows)


if __name__ == "__main__":
    cli.task(main, __file__, epochs=200, batch_size=100, schedule="constant")
