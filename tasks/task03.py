"""Task 03: what two small stochastic layers learn, as PCA of posterior means.

Trains an IWAE with latents of sizes 4 and 2. Self-normalised importance sampling
estimates the posterior means of z1 and z2 for every test image, at epochs 0, 1, 2, 4,
... and the last. They are projected onto their first two principal components, and
coloured by label.

    python tasks/task03.py [--epochs 50] [--n_samples 50] [--smoke]
"""

import warnings

import numpy as np

from iwae_tf import cli, files, plots
from iwae_tf.runs import names, results

N_DRAWS = 100  # number of draws from q for each image


def main(task):
    """Trains or takes a model; writes a figure, a GIF and a table."""

    def means_of(model):
        with warnings.catch_warnings():  # the table has the effective sample sizes
            warnings.simplefilter("ignore", UserWarning)
            found = model.embed(task.x_test, N_DRAWS, jit_compile=task.config.jit)
        return found.means, found.ess

    def keep(model, epoch, run):
        means, ess = means_of(model)
        layers = {f"z{level}": mean for level, mean in enumerate(means, 1)}
        path = run.directory / f"posterior-means-{epoch:06}.npz"
        files.write_arrays(path, ess=ess, **layers)

    run = task.only_given()
    if run is None:
        run = task.run(keep, stochastic_layers=2, n_latent=(4, 2))
        kept = run.kept("posterior-means-*.npz", files.read_arrays)
        found = {int(path.stem[-6:]): values for path, values in kept.items()}
    else:
        is_fit = min(run.model.posterior.n_latent) > 1 and not run.model.n_context
        task.require(run, is_fit, "a run with latents of size 2 or more and no labels")
        means, ess = means_of(run.model)
        layers = {f"z{level}": mean for level, mean in enumerate(means, 1)}
        found = {run.report["epochs"]: layers | {"ess": ess}}
    task.require(run, found, "a run with posterior means that can be read")
    frames, last = [], run.report["epochs"]
    for epoch, values in found.items():
        title = f"{names.caption(run.config)} · epoch {epoch} of {last}"
        figure, rows = look(values, task.images.test_labels, title)
        frames.append(task.path(f"-epoch{epoch:06}.png"))
        plots.save(figure, frames[-1])
    plots.animate(frames, task.path(".gif"), shrink=2)
    header = "latent | size | explained by component 1 | by 2 | median ESS"
    rule = "---|--:|--:|--:|--:"
    task.finish(results.markdown(header, rule, rows), figure, run.title)


def look(values, labels, title):
    """The figure and the rows of the table, with one panel and one row a layer."""
    from sklearn.decomposition import PCA  # slow, so not above

    panels, rows = [], []
    for name in sorted(set(values) - {"ess"}):
        pca = PCA(2).fit(values[name])
        first, second = pca.explained_variance_ratio_
        panels.append(
            plots.Scatter(
                f"E[{name}|x], size {values[name].shape[1]}",
                f"component 1: {first:.0%} of the variance",
                f"component 2: {second:.0%}",
                pca.transform(values[name]),
                labels,
            )
        )
        ess = f"{np.median(values['ess']):.1f} of {N_DRAWS}"
        rows.append((name, values[name].shape[1], f"{first:.1%}", f"{second:.1%}", ess))
    return plots.scatter_sheet([panels], title), rows


if __name__ == "__main__":
    cli.task(
        main,
        __file__,
        epochs=50,
        n_samples=50,
        run_dir="one run with latents of size 2 or more.",
    )
