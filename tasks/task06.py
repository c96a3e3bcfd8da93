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

N_UNITS = 4
N_MEASURED = 2000  # number of test images by which units are chosen


def main(task):
    """Trains three models; writes a figure and a table."""
    many = 3 if task.is_smoke else 10
    runs = task.given or [
        task.run(objective=objective, n_samples=k)
        for objective, k in (("vae_elbo", 1), ("vae_elbo", many), ("iwae_elbo", many))
    ]
    for run in runs:
        task.require(run, not run.config.conditional, "a run without labels")
    runs = dict(zip(task.labels(runs), runs, strict=True))
    reconstructions, _ = task.pictures(runs)
    blocks = [reconstructions, *(traverse(task, *named) for named in runs.items())]
    rows = [
        (
            files.escaped(name),
            f"{run.report['test']['elbo']:.2f}",
            reports.estimate(run.report),
            reports.active_units(run.report),
        )
        for name, run in runs.items()
    ]
    header = "objective | test ELBO | test log p(x) | active units"
    table = results.markdown(header, "---|--:|---|--:", rows)
    task.finish(table, plots.image_table(blocks, task.title))


def traverse(task, name, run):
    """A row of images for each of the units with the narrowest posteriors."""
    layer = iwae_tf.units.statistics(run.model, task.x_test[:N_MEASURED])[0]
    narrowest = np.argsort(layer.variance)[:N_UNITS]
    units = {f"unit {i}, variance {layer.variance[i]:.3f}": i for i in narrowest}
    title = f"{name}: the units of the least posterior variance, from −2 to 2"
    return task.traversal(run, title, units)


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50, run_dir="the runs to compare, without labels.")
