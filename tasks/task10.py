"""Task 10: active units and warm starts (Burda et al. 2016, sections 5.2 and 5.3).

A unit u is active if Var_x(E_q[u|x]) > 0.01. Trains a VAE with k = 1 and IWAEs with
k = 5 and 50. Then trains an IWAE with k = 50 from the weights of the VAE, and a VAE
with k = 1 from those of the IWAE with k = 50. This shows whether the number of active
units depends on the objective or on the initial weights. Scoring the first test images
without the inactive units shows what these contribute.

    python tasks/task10.py [--epochs 50] [--stochastic_layers 1] [--smoke]
"""

import iwae_tf
from iwae_tf import cli, files, measures, plots
from iwae_tf.runs import names, published, reports, results

ACTIVITY = "Var_x(E_q[u|x]) of a unit u"
N_SCORED_AGAIN = 1000  # number of test images scored without inactive units


def main(task):
    """Trains five models; writes a histogram and a table."""
    panels, rows = [], []
    runs = task.given or train(task)
    for name, run in zip(task.labels(runs), runs, strict=True):
        task.require(run, not run.config.conditional, "a run without labels")
        layers = iwae_tf.units.statistics(run.model, task.x_test, seed=run.config.seed)
        groups = {f"z{level}": layer.activity for level, layer in enumerate(layers, 1)}
        epochs = names.epochs(run.report["epochs"])
        is_told = len({run.report["epochs"] for run in runs}) == 1 or epochs in name
        title = name if is_told else f"{name}\n{epochs}"
        panels.append(
            plots.Histogram(title, ACTIVITY, groups, iwae_tf.units.ACTIVE_ABOVE)
        )
        rows.append(
            (
                files.escaped(name),
                run.report["epochs"],
                " + ".join(str(layer.active.sum()) for layer in layers),
                published.paper_units(run.report) or "—",
                reports.estimate(run.report),
                published.paper_value(run.report) or "—",
                without_inactive(task, run, layers),
            )
        )
    figure = plots.histogram_sheet(
        [panels[i : i + 3] for i in range(0, len(panels), 3)], task.title
    )
    header = (
        "run | epochs | active units | paper | test log p(x) | paper | "
        "change without the inactive units"
    )
    table = results.markdown(header, "---|--:|--:|--:|---|--:|---", rows)
    task.finish(table, figure)


def train(task):
    """Trains the five models, one after another."""
    few, many = (2, 3) if task.is_smoke else (5, 50)
    vae = task.run(objective="vae_elbo", n_samples=1)
    runs = [vae, *(task.run(objective="iwae_elbo", n_samples=k) for k in (few, many))]
    after_vae, after_iwae = (str(run.directory) for run in (vae, runs[-1]))
    return [
        *runs,
        task.run(objective="iwae_elbo", n_samples=many, init_from=after_vae),
        task.run(objective="vae_elbo", n_samples=1, init_from=after_iwae),
    ]


def without_inactive(task, run, layers):
    """The change of log p(x) if inactive units stay at their means, same noise."""
    digest = files.sha256_of_file(run.directory / "report.json")
    path = task.path(f"-without-inactive-{run.directory.name}-{digest[:8]}.json")

    def score_both():
        test = run.report["test"]
        pruned = iwae_tf.units.WithoutUnits(
            run.model, [u.active for u in layers], [u.mean for u in layers]
        )
        before, after = (
            iwae_tf.log_likelihood(
                model,
                task.x_test[:N_SCORED_AGAIN],
                test["n_samples"],
                chunk=test["chunk"],
                seed=run.config.seed,
                jit_compile=run.config.jit,
            ).log_px
            for model in (run.model, pruned)
        )
        change = after - before
        found = {"n_images": len(change), "change": change.mean()}
        found["standard_error"] = measures.likelihood.standard_error(change)
        return found

    found = files.read_or_make_json(path, score_both)
    return (
        f"{found['change']:+.3f} ± {found['standard_error']:.3f} "
        f"({found['n_images']:,} images)"
    )


if __name__ == "__main__":
    cli.task(
        main,
        __file__,
        epochs=50,
        stochastic_layers=1,
        run_dir="runs whose units to count, without labels.",
    )
