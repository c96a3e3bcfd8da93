"""Task 09: what an inverse autoregressive flow gains, and how tight the bounds are.

Trains a VAE with deep networks twice, without a flow and with eight flow steps, both
with k = 1 and the same budget. Importance sampling estimates log p(x), and annealed
importance sampling does so again for some images. On simulated images, chains in both
directions bound log p(x) from both sides. `--scorer importance` leaves the annealing
out.

    python tasks/task09.py [--model resnet --feature_maps 8] [--epochs 50] [--smoke]
"""

import numpy as np

import iwae_tf
from iwae_tf import cli, plots, rules
from iwae_tf.runs import names, reports, results

N_FLOWS = (0, 8)
N_IMAGES = 10
PARTS = {"train": "training", "test": "test (at most 500)"}  # titles of panels
# MNIST, the residual network with 64 maps and a flow of 8 steps, ELBO and log p(x) by
# 1,000 samples: github.com/karstenkreis/flow_vae.
PUBLISHED = (-80.53, -78.74)
SMOKE_AIS = {"ais_images": 4, "ais_chains": 2, "ais_temperatures": 4}


def main(task):
    """Trains both models; writes curves, images and a table."""
    is_annealed = task.config.scorer == "ais"
    options, runs = {}, {}
    if task.is_smoke:
        options = {"n_latent": (8,)} | (SMOKE_AIS if is_annealed else {})
    for n_flows in N_FLOWS:
        of_flow = {} if n_flows else dict.fromkeys(rules.FLOWS)
        runs[names.flows(n_flows, None) if n_flows else "no flow"] = task.run(
            objective="vae_elbo", n_samples=1, n_flows=n_flows, **of_flow, **options
        )
    x = task.x_test[iwae_tf.data.spread(len(task.x_test), N_IMAGES)]
    reconstructions, samples = {"x": x}, {}
    for name, run in runs.items():
        reconstructions[name] = run.model.reconstruct(x, run.figure_seed(1)).numpy()
        samples[name] = run.model.sample(N_IMAGES, run.figure_seed(2))[1].numpy()
    blocks = [
        plots.Block(title, list(rows), np.stack(list(rows.values())))
        for title, rows in (
            ("test images x, and means for one z ~ q(z|x)", reconstructions),
            ("means of samples", samples),
        )
    ]
    title = f"{task.title} · VAE, {names.networks(task.config)}"
    plots.save(plots.image_table(blocks, title), task.path("-images.png"))
    is_published = task.images.name == "mnist" and task.config.model == "resnet"
    task.finish(table(runs, is_annealed, is_published), curves(runs, title), title)


def curves(runs, title):
    """The ELBO of training and test images after every epoch."""
    panels = []
    for part, called in PARTS.items():
        lines = {
            name: (
                [int(row["epoch"]) for row in run.metrics()],
                [float(row[f"{part}_vae_elbo"]) for row in run.metrics()],
            )
            for name, run in runs.items()
        }
        label = "ELBO (nats per image)"
        panels.append(plots.Panel(called, "epoch", label, lines))
    return plots.line_sheet([panels], title)


def table(runs, is_annealed, is_published):
    """Bounds and estimates of log p(x), nats."""
    rows = {name: columns(run, is_annealed) for name, run in runs.items()}
    test = next(iter(runs.values())).report["test"]
    if is_published:
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
    )
