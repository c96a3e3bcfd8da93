"""Task 08: spatial transformers, whose latents also say how an image is placed.

Trains three networks with 60 latents: a plain one, and two in which 6 latents set an
affine map, or 18 a thin-plate spline; these two also with a tanh on the posterior means
of these latents. Each is trained as a VAE with k = 1 and 5, and as an IWAE with k = 5.
The figures show the IWAEs without tanh. For the two transformers they also show the
upright image before the warp, and what each latent of the placing and some others do
while the rest stay at the posterior mean of one image.

    python tasks/task08.py [--epochs 50] [--smoke]
"""

import numpy as np

import iwae_tf
from iwae_tf import cli, plots, rules
from iwae_tf.runs import reports, results

MODELS = {"vae60": "no transformer", "tvae_affine": "affine", "tvae_tps": "spline"}
# Each model, and how many of its posterior means go through tanh.
NETWORKS = [(model, 0) for model in MODELS] + [("tvae_affine", 6), ("tvae_tps", 18)]
# MNIST, 50 epochs of AdaDelta: github.com/XavierXiao/IWAE-with-Transformation.
PUBLISHED = {
    ("vae_elbo", 1): {"vae60": -101.14, "tvae_affine": -99.18, "tvae_tps": -97.91},
    ("vae_elbo", 5): {"vae60": -98.30, "tvae_affine": -96.06, "tvae_tps": -94.00},
    ("iwae_elbo", 5): {"vae60": -93.99, "tvae_affine": -92.75, "tvae_tps": -92.16},
}
N_IMAGES = 10
N_UNITS = 6
N_MEASURED = 2000  # number of test images by which units are chosen


def main(task):
    """Trains 15 models; writes a figure, one for each transformer, and a table."""
    many = 3 if task.is_smoke else 5
    runs = task.given or [
        task.run(model=m, n_bounded=n, objective=o, n_samples=k)
        for o, k in (("vae_elbo", 1), ("iwae_elbo", many), ("vae_elbo", many))
        for m, n in NETWORKS
    ]
    last = {}
    for run in runs:
        config = run.config
        is_fit = config.model in MODELS and not config.conditional
        task.require(run, is_fit, f"without labels, and of {', '.join(MODELS)}")
        if task.given or (config.objective == "iwae_elbo" and not config.n_bounded):
            last[config.model] = run
    x = task.x_test[iwae_tf.data.spread(len(task.x_test), N_IMAGES)]
    drawn, sampled = {}, {}
    for m, run in last.items():
        drawn[m] = [z[0] for z in run.model.draw(x, 1, run.figure_seed(1)).zs]
        sampled[m] = run.model.generator.sample_latents(N_IMAGES, run.figure_seed(2))
    for model, run in last.items():
        if model in rules.WARPED:
            page = plots.image_table(traversals(task, run), run.title)
            plots.save(page, task.path(f"-{model}.png"))
    blocks = [
        plots.Block("x, means of z, u ~ q(z, u|x)", {"x": x} | pictures(last, drawn)),
        plots.Block("means of samples", pictures(last, sampled)),
    ]
    of_all = "" if task.given else f" · IWAE, k = {many} · spatial transformers"
    figure = plots.image_table(blocks, f"{task.title}{of_all}")
    task.finish(table(runs, task.images.name == "mnist"), figure)


def pictures(runs, latents):
    """Mean images of latents, each after its upright one if it has a transformer."""
    rows = {}
    for model, run in runs.items():
        zs, generator = latents[model], run.model.generator
        called = MODELS[model]
        if model != "vae60":
            rows[f"{called}, upright"] = generator.upright_image(zs).numpy()
        rows[called] = generator.mean(zs).numpy()
    return rows


def traversals(task, run):
    """A row of images for each unit of the placing, and for some of the others."""
    n_placing = run.model.generator.n_placing
    layer = iwae_tf.units.statistics(run.model, task.x_test[:N_MEASURED])[0]
    first = len(layer.variance) - n_placing
    placing = {f"u{i}": first + i for i in range(n_placing)}
    others = {f"z{i}": i for i in np.argsort(layer.variance[:first])[:N_UNITS]}
    return [
        task.traversal(run, "each latent of the placing, the others held", placing),
        task.traversal(
            run, "the surest latents of the image, the placing held", others
        ),
    ]


def table(runs, is_mnist):
    """Reconstruction, ELBO and likelihood, beside published values."""
    rows = []
    for run in runs:
        model, n_bounded = run.config.model, run.config.n_bounded
        objective, k = run.config.objective, run.config.n_samples
        test, known = run.report["test"], PUBLISHED.get((objective, k), {})
        published = known.get(model) if is_mnist and not n_bounded else None
        rows.append(
            (
                f"`{model}`",
                f"on {n_bounded}" if n_bounded else "—",
                "`vae_elbo`, `iwae_elbo`" if k == 1 else f"`{objective}`",
                k,
                f"{test['log_px_given_z']:.2f}",
                f"{test['elbo']:.2f}",
                reports.estimate(run.report),
                "—" if published is None else f"{published:.2f}",
            )
        )
    return results.markdown(
        "model | tanh | objective | k | E log p(x given z) | test ELBO | "
        "test log p(x) | published",
        "---|---|---|--:|--:|--:|---|--:",
        rows,
    )


if __name__ == "__main__":
    cli.task(
        main,
        __file__,
        epochs=50,
        batch_size=128,
        schedule="constant",
        run_dir="runs of the networks above, without labels.",
    )
