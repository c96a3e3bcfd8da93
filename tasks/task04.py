"""Task 04: conditional IWAE on labels y, with a learnt prior p(z|y); k = 1, 5, 50.

The encoder sees x and y, and the decoder sees z and y (Sohn et al. 2015). Training
maximises a bound on log p(x|y), which is then estimated with 5,000 samples. The figure
has a row for each label, drawn from the prior of that label. All rows have the same
noise.

    python tasks/task04.py [--epochs 50] [--smoke]
"""

import numpy as np

import iwae_tf
from iwae_tf import cli, plots
from iwae_tf.runs import reports, results

N_NOISES = 12
N_CONTEXTS = 10  # number of rows if contexts are no labels


def main(task, conditional_prior=True):
    """Trains three models; writes a figure of samples and a table."""
    runs = task.given or [
        task.run(conditional=True, conditional_prior=conditional_prior, n_samples=k)
        for k in ((1, 3) if task.is_smoke else (1, 5, 50))
    ]
    rows = []
    for run in runs:
        is_fit = run.config.conditional and (
            run.config.conditional_prior == conditional_prior
        )
        prior = "with" if conditional_prior else "without"
        task.require(run, is_fit, f"conditional, {prior} a conditional prior")
        k, test = run.config.n_samples, run.report["test"]
        rows.append(
            (
                f"`{run.config.objective}`",
                k,
                run.report["epochs"],
                f"{test['bounds'][str(k)]:.2f}" if str(k) in test["bounds"] else "—",
                reports.estimate(run.report),
                reports.active_units(run.report),
            )
        )
    # The last run has the most samples, unless runs are given.
    figure = plots.image_table([samples(run, task.images)], run.title)
    header = (
        "objective | k | epochs | test bound | test log p(x given y) | active units"
    )
    table = results.markdown(header, "---|--:|--:|--:|---|--:", rows)
    task.finish(table, figure)


def samples(run, images):
    """Mean images: one row for each label, one column for each draw of the noise.

    Without labels, the rows are for the contexts of evenly spaced test images.
    """
    names, contexts = rows_of(run.report["data"], images)
    seed, rows = run.figure_seed(2), {}
    for name, context in zip(names, contexts, strict=True):
        contexts_of_row = np.repeat(context[None], N_NOISES, axis=0)
        _, rows[name] = run.model.sample(N_NOISES, seed, contexts_of_row)
    prior = "p(z|y)" if run.config.conditional_prior else "p(z)"
    title = f"mean images E[x|z, y], z from {prior}, the same noise in each column"
    return plots.Block(title, rows)


def rows_of(facts, images):
    """The names of the rows, and the context of each."""
    if "classes" in facts:
        names = [f"y = {label}" for label in facts["classes"]]
        return names, np.eye(len(names), dtype=np.float32)
    places = iwae_tf.data.spread(len(images.y_test), N_CONTEXTS)
    return [f"y of test image {place}" for place in places], images.y_test[places]


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50, run_dir="runs with --conditional_prior.")
