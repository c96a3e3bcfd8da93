"""Task 07: VAE, IWAE, MIWAE, PIWAE and their combination at an equal budget.

Every objective gets 64 samples per image, in m groups of k (Rainforth et al. 2018,
arXiv:1802.04537). Two columns, as in the literature: the IWAE bound with 64 samples
and the log-likelihood by 5,000.

    python tasks/task07.py [--epochs 50] [--smoke]
"""

import dataclasses

import iwae_tf
from iwae_tf import cli, plots, results
from iwae_tf.errors import UsageError

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


def main(config, directory, smoke):
    """Trains ten models, and writes task07.png and task07.md."""
    if config.eval_samples < BUDGET:
        raise UsageError(
            f"eval_samples: must be at least {BUDGET}, got {config.eval_samples}"
        )
    images = iwae_tf.datasets.load(config.dataset, config.data_dir, config.offline)
    rows, curves = [], {}
    for objective, m, k in RUNS[::3] if smoke else RUNS:
        run = dataclasses.replace(
            config,
            objective=objective,
            n_groups=m,
            n_samples=k,
            combination_beta=MIXTURE if objective == "combination" else None,
        )
        run_dir, report = iwae_tf.experiment.run_below(directory, run, images)
        metrics = iwae_tf.training.read_metrics(run_dir / "metrics.csv")
        if objective == "vae_elbo":  # which is MIWAE of groups of one sample
            m, k = BUDGET, 1
        curves[f"{objective} ({m}, {k})"] = (
            [int(row["epoch"]) for row in metrics],
            [float(row["test_iwae_elbo"]) for row in metrics],
        )
        bound = report["test"]["bounds"][str(BUDGET)]
        score = results.estimate(report)
        rows.append((f"`{objective}`", m, k, f"{bound:.2f}", score))
    title = f"{images.name} · {config.epochs} epochs · seed {config.seed}"
    panels = [
        plots.Panel(
            f"{family.upper()}, (m, k)",
            "epoch",
            f"test IWAE-{BUDGET} bound (nats per image)",
            {c: xy for c, xy in curves.items() if not c.startswith(other)},
        )
        for family, other in (("miwae", "piwae"), ("piwae", "miwae"))
    ]
    plots.save(plots.line_sheet([panels], title), directory / "task07.png")
    header = f"objective | m | k | test IWAE-{BUDGET} | test log p(x)"
    table = results.markdown(header, "---|--:|--:|--:|---", rows)
    text = f"{title}\n\n{table}\n"
    (directory / "task07.md").write_text(text)
    print(f"\n{text}\n{directory}/task07.png, {directory}/task07.md")


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50)
