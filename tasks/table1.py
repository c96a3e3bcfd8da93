"""Table 1 of the paper: VAE and IWAE, k = 1, 5, 50, with one and two layers.

With k = 1 both are the same model, so there are ten. The table has the scores and the
active units of the paper beside ours, for MNIST and --schedule fast.

    python tasks/table1.py [--epochs 200] [--schedule fast] [--only 1/10] [--smoke]

Reference:
  Burda et al. 2016, arXiv:1509.00519.
"""

from iwae_tf import cli, plots
from iwae_tf.runs import published, results


def main(task):
    """Trains ten models; writes a figure and a table."""
    ks = (1, 3) if task.is_smoke else (1, 5, 50)
    runs = {
        (layers, objective, k): task.run(
            stochastic_layers=layers, objective=objective, n_samples=k
        )
        for layers in (1, 2)
        for k in ks
        for objective in ("vae_elbo", "iwae_elbo")
        if k > 1 or objective == "iwae_elbo"
    }
    task.check_whole()
    reports = {key: run.report for key, run in runs.items()}
    table = results.table_of_paper([*reports.values()])
    table = table or results.table([*reports.values()])
    task.finish(table, plots.line_sheet([panels(reports, ks)], task.title))


def panels(reports, ks):
    """The scores against k, one panel for each number of layers."""
    found = []
    for layers in (1, 2):
        curves = {}
        for name in ("VAE", "IWAE"):
            objective = f"{name.lower()}_elbo"
            keys = [(layers, objective if k > 1 else "iwae_elbo", k) for k in ks]
            scores = [reports[key]["test"]["log_likelihood"] for key in keys]
            of_paper = [published.paper_value(reports[key]) for key in keys]
            curves[name] = ks, scores
            if None not in of_paper:
                curves[f"{name} in the paper"] = ks, of_paper
        title = "one layer" if layers == 1 else "two layers"
        found.append(plots.Panel(title, "k", "test log p(x) (nats per image)", curves))
    return found


if __name__ == "__main__":
    cli.task(main, __file__, epochs=None, schedule="fast")
