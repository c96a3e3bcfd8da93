"""Task 07: VAE, IWAE, MIWAE, PIWAE and their combination at an equal budget.

Every objective gets 64 samples for each image, in m groups of k (Rainforth et al. 2018,
arXiv:1802.04537). The table has two scores, as in the literature: the IWAE bound with
64 samples, and the log-likelihood estimated with 5,000. With --init_from, all models
start from the weights of one run.

    python tasks/task07.py [--epochs 50] [--init_from DIR] [--smoke]
"""

from iwae_tf import cli, plots
from iwae_tf.errors import check_at_least
from iwae_tf.runs import names, reports, results

BUDGET = 64
MIXTURE = 0.5  # weight of the ELBO in the combination
SPLITS = ((4, 16), (8, 8), (16, 4))  # m groups of k
RUNS = [
    ("vae_elbo", 1, BUDGET),
    ("iwae_elbo", 1, BUDGET),
    *(("miwae", m, k) for m, k in SPLITS),
    *(("piwae", m, k) for m, k in (*SPLITS, (BUDGET, 1))),
    ("combination", 1, BUDGET),
]


def main(task):
    """Trains ten models; writes a figure and a table."""
    check_at_least(BUDGET, eval_samples=task.config.eval_samples)
    runs = {
        (objective, m, k): task.run(
            objective=objective,
            n_groups=m,
            n_samples=k,
            combination_beta=MIXTURE if objective == "combination" else None,
            grow_samples=False,
        )
        for objective, m, k in (RUNS[::3] if task.is_smoke else RUNS)
    }
    rows = []
    for (objective, m, k), run in runs.items():
        if objective == "vae_elbo":  # which is MIWAE with groups of one sample
            m, k = BUDGET, 1
        bound = run.report["test"]["bounds"][str(BUDGET)]
        score = reports.estimate(run.report)
        rows.append((f"`{objective}`", m, k, f"{bound:.2f}", score))
    header = f"objective | m | k | test IWAE-{BUDGET} | test log p(x)"
    table = results.markdown(header, "---|--:|--:|--:|---", rows)
    task.finish(table, sheet(runs, task.title))


def sheet(runs, title):
    """The bounds of all objectives, with MIWAE and PIWAE in a panel each."""
    curves = {}
    for (objective, m, k), run in runs.items():
        mixed = MIXTURE if objective == "combination" else None
        m, k = (BUDGET, 1) if objective == "vae_elbo" else (m, k)
        name = f"{names.objective(objective, mixed)}, m = {m}, k = {k}"
        curves[name] = run.curve("test_iwae_elbo")
    panels = [
        plots.Panel(
            f"{family}: m groups of k",
            "epoch",
            f"test IWAE-{BUDGET} bound (nats per image)",
            {c: xy for c, xy in curves.items() if not c.startswith(other)},
        )
        for family, other in (("MIWAE", "PIWAE"), ("PIWAE", "MIWAE"))
    ]
    return plots.line_sheet([panels], title)


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50, init_from=None)
