"""Task 09: what an inverse autoregressive flow gains, and how tight the bounds are.

Trains a VAE with deep networks twice, without a flow and with eight flow steps, both
with k = 1 and the same budget. Importance sampling estimates log p(x), and annealed
importance sampling does so again for some images. On simulated images, chains in both
directions bound log p(x) from both sides. `--scorer importance` leaves the annealing
out.

    python tasks/task09.py [--model resnet --feature_maps 8] [--epochs 50] [--smoke]
"""

from iwae_tf import cli, plots, rules
from iwae_tf.runs import names, reports, results

N_FLOWS = (0, 8)
PARTS = {"train": "training", "test": "test (at most 500)"}  # titles of panels
# MNIST, the residual network with 64 maps and a flow of 8 steps, ELBO and log p(x) by
# 1,000 samples: github.com/karstenkreis/flow_vae.
PUBLISHED = (-80.53, -78.74)
SMOKE_AIS = {"ais_images": 4, "ais_chains": 2, "ais_temperatures": 4}


def main(task):
    """Trains both models; writes curves, images and a table."""
    if task.given:
        runs = dict(zip(task.labels(task.given), task.given, strict=True))
        title = task.title
    else:
        runs = train(task)
        title = f"{task.title} · VAE, {names.networks(task.config)}"
    for run in runs.values():
        task.require(run, not run.config.conditional, "a run without labels")
    page = plots.image_table(task.pictures(runs), title)
    plots.save(page, task.path("-images.png"))
    task.finish(table(runs, task), curves(runs, title), title)


def train(task):
    """Trains both models, one after the other."""
    options = {"n_latent": (8,)} if task.is_smoke else {}
    if task.is_smoke and task.config.scorer == "ais":
        options |= SMOKE_AIS
    return {
        names.flows(n, None) if n else "no flow": task.run(
            objective="vae_elbo",
            n_samples=1,
            n_flows=n,
            **({} if n else dict.fromkeys(rules.FLOWS)),
            **options,
        )
        for n in N_FLOWS
    }


def curves(runs, title):
    """The ELBO of training and test images after every epoch."""
    panels = []
    for part, called in PARTS.items():
        lines = {name: run.curve(f"{part}_vae_elbo") for name, run in runs.items()}
        label = "ELBO (nats per image)"
        panels.append(plots.Panel(called, "epoch", label, lines))
    return plots.line_sheet([panels], title)


def table(runs, task):
    """Bounds and estimates of log p(x), nats."""
    is_annealed = task.config.scorer == "ais" and all(
        "ais" in run.report for run in runs.values()
    )
    rows = {name: columns(run, is_annealed) for name, run in runs.items()}
    test = next(iter(runs.values())).report["test"]
    is_resnet = all(run.config.model == "resnet" for run in runs.values())
    if task.images.name == "mnist" and is_resnet:
        elbo, log_px = (f"{value:.2f}" for value in PUBLISHED)
        name = "published: 64 maps, 8 flow steps"
        rows[name] = {"test ELBO": elbo, scored(test): log_px}
    header = list(next(iter(rows.values())))
    return results.markdown(
        " | ".join(["posterior", *header]),
        "---" + "|--:" * len(header),
        [(name, *(row.get(of, "—") for of in header)) for name, row in rows.items()],
    )


def columns(run, is_annealed):
    """The cells of the table for one run, by the titles of the columns."""
    test = run.report["test"]
    row = {
        "train ELBO": f"{float(run.metrics()[-1]['train_vae_elbo']):.2f}",
        "test ELBO": f"{test['elbo']:.2f}",
    }
    if test["n_samples"] > 1000:
        row["1,000 samples"] = f"{test['bounds']['1000']:.2f}"
    row[scored(test)] = reports.estimate(run.report)
    if is_annealed:
        ais = run.report["ais"]
        few, gap = f"{ais['n_images']} images", ais["certificate"]
        row |= {
            f"the same ({few})": f"{ais['importance']:.2f}",
            f"annealing ({few})": f"{ais['log_likelihood']:.2f}",
            "annealing less the same": f"{ais['difference']:+.2f} ± "
            f"{ais['difference_error']:.2f}",
            "gap": f"{gap['gap']:.3f} ± {gap['gap_error']:.3f}",
        }
    return row


def scored(test):
    """The title of the column of log p(x)."""
    return f"{test['n_samples']:,} samples ({test['n_images']:,} images)"


if __name__ == "__main__":
    cli.task(
        main,
        __file__,
        epochs=50,
        batch_size=100,
        schedule="constant",
        model="dense",
        feature_maps=None,
        eval_images=1000,
        scorer="ais",
        ais_images=100,
        ais_chains=16,
        ais_temperatures=500,
        run_dir="runs to compare, without labels.",
    )
