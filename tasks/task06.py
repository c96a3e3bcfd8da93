"""Task 06: VAE against IWAE, k = 1 and 10, in one figure.

Trains a VAE with k = 1, which is also the IWAE with k = 1, and both with k = 10. The
figure has reconstructions of the same test images, and traversals: the units with the
narrowest posteriors move from -2 to 2, while the others stay at the posterior mean of
one image. The table has the scores.

    python tasks/task06.py [--epochs 50] [--smoke]
"""

import numpy as np

import iwae_tf
from iwae_tf import cli, files, plots
from iwae_tf.runs import reports, results

N_IMAGES = 10
N_UNITS = 4
VALUES = np.linspace(-2, 2, 9)
N_DRAWS = 1000  # number of draws from q, for the posterior mean
N_MEASURED = 2000  # number of test images by which units are chosen


def main(task):
    """Trains three models; writes a figure and a table."""
    many = 3 if task.is_smoke else 10
    runs = task.given or [
        task.run(objective=objective, n_samples=k)
        for objective, k in (("vae_elbo", 1), ("vae_elbo", many), ("iwae_elbo", many))
    ]
    x = task.x_test[iwae_tf.data.spread(len(task.x_test), N_IMAGES)]
    names = task.labels(runs)
    pictures, traversals, rows = [x], [], []
    for name, run in zip(names, runs, strict=True):
        task.require(run, not run.config.conditional, "a run without labels")
        pictures.append(run.model.reconstruct(x, run.figure_seed(1)).numpy())
        traversals.append(traverse(run, name, task.x_test))
        test = run.report["test"]
        rows.append(
            (
                files.escaped(name),
                f"{test['elbo']:.2f}",
                reports.estimate(run.report),
                reports.active_units(run.report),
            )
        )
    blocks = [
        plots.Block(
            "test images x and reconstructions E[x|z], z ~ q(z|x)",
            ["x", *names],
            np.stack(pictures),
        ),
        *traversals,
    ]
    header = "objective | test ELBO | test log p(x) | active units"
    table = results.markdown(header, "---|--:|---|--:", rows)
    task.finish(table, plots.image_table(blocks, task.title))


def traverse(run, name, x_test):
    """A row of images for each of the units with the narrowest posteriors."""
    layer = iwae_tf.units.statistics(run.model, x_test[:N_MEASURED])[0]
    narrowest = np.argsort(layer.variance)[:N_UNITS]
    draws = run.model.draw(x_test[:1], N_DRAWS, run.figure_seed(3))
    zs = iwae_tf.inspection.snis_mean(draws)
    images = [
        iwae_tf.inspection.traverse(run.model, zs, int(unit), VALUES)[:, 0]
        for unit in narrowest
    ]
    return plots.Block(
        f"{name}: the units of the least posterior variance, from −2 to 2",
        [f"unit {unit}, variance {layer.variance[unit]:.3f}" for unit in narrowest],
        np.stack(images),
        [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in VALUES],
    )


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50, run_dir="the runs to compare, without labels.")
