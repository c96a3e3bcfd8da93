"""Task 17: binary latents, VIMCO against reweighted wake-sleep, k = 5 and 50.

Trains sigmoid belief networks of three layers with 200 binary latents each. Both
estimators need no reparameterisation, and have the same gradient for p. For q, VIMCO
has that of the bound with k samples (Mnih and Rezende 2016, arXiv:1602.06725), and the
wake phase of reweighted wake-sleep brings q towards p(z|x) (Bornschein and Bengio 2015,
arXiv:1406.2751).

    python tasks/task17.py [--epochs 50] [--stochastic_layers 3] [--smoke]
"""

from iwae_tf import cli, plots
from iwae_tf.runs import names, reports, results
from iwae_tf.runs.progress import clock

OBJECTIVES = ("vimco", "rws")
N_IMAGES = 12


def main(task):
    """Trains four models; writes curves, images and a table."""
    small = {"stochastic_layers": 2, "n_latent": (8, 4)} if task.is_smoke else {}
    runs = {
        (objective, k): task.run(
            model="sbn", objective=objective, n_samples=k, grow_samples=False, **small
        )
        for k in ((2, 3) if task.is_smoke else (5, 50))
        for objective in OBJECTIVES
    }
    rows = []
    for (objective, k), run in runs.items():
        report = run.report
        rows.append(
            (
                f"`{objective}`",
                k,
                task.config.epochs,
                f"{report['test']['bounds'][str(k)]:.2f}",
                reports.estimate(report),
                reports.active_units(report),
                clock(report["train_seconds"]),
            )
        )
    header = (
        "objective | k | epochs | test bound | test log p(x) | "
        "active units, bottom-up | training"
    )
    table = results.markdown(header, "---|--:|--:|--:|---|---|--:", rows)
    title = names.line(task.title, names.networks(run.config))
    named = {f"{names.objective(o)}, k = {k}": run for (o, k), run in runs.items()}
    page = plots.image_table(task.pictures(named, N_IMAGES), title)
    plots.save(page, task.path("-images.png"))
    task.finish(table, curves(runs, title), title)


def curves(runs, title):
    """The bound with k samples after every epoch, one panel for each k."""
    panels = []
    for k in dict.fromkeys(k for _, k in runs):
        lines = {
            names.objective(objective): runs[objective, k].curve("test_iwae_elbo")
            for objective in OBJECTIVES
        }
        label = "test bound of k samples (nats per image)"
        panels.append(plots.Panel(f"k = {k}", "epoch", label, lines))
    return plots.line_sheet([panels], title)


if __name__ == "__main__":
    cli.task(
        main,
        __file__,
        epochs=50,
        batch_size=100,
        schedule="constant",
        stochastic_layers=3,
        n_latent=None,
    )
