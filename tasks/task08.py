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
from iwae_tf.runs import names, reports, results

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
VALUES = np.linspace(-2, 2, 9)
N_DRAWS = 1000  # number of draws from q, for the posterior mean
N_MEASURED = 2000  # number of test images by which units are chosen


def main(task):
    """Trains 15 models; writes a figure, one for each transformer, and a table."""
    many = 3 if task.is_smoke else 5
    runs = {
        (m, n, o, k): task.run(model=m, n_bounded=n, objective=o, n_samples=k)
        for o, k in (("vae_elbo", 1), ("iwae_elbo", many), ("vae_elbo", many))
        for m, n in NETWORKS
    }
    last = {model: runs[model, 0, "iwae_elbo", many] for model in MODELS}
    x = task.x_test[iwae_tf.data.spread(len(task.x_test), N_IMAGES)]
    drawn, sampled = {}, {}
    for m, run in last.items():
        drawn[m] = [z[0] for z in run.model.draw(x, 1, run.figure_seed(1)).zs]
        sampled[m] = run.model.generator.sample_latents(N_IMAGES, run.figure_seed(2))
    pages = {f"-{m}": traversals(last[m], task.x_test) for m in rules.WARPED}
    pages[""] = [
        block("x, means of z, u ~ q(z, u|x)", {"x": x} | pictures(last, drawn)),
        block("means of samples", pictures(last, sampled)),
    ]
    for suffix, blocks in pages.items():
        networks = names.model(suffix[1:]) if suffix else "spatial transformers"
        title = f"{task.title} · IWAE, k = {many} · {networks}"
        plots.save(plots.image_table(blocks, title), task.path(f"{suffix}.png"))
    task.finish(table(runs, task.images.name == "mnist"))


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


def traversals(run, x_test):
    """A row of images for each unit of the placing, and for some of the others."""
    n_placing = run.model.generator.n_placing
    layer = iwae_tf.units.statistics(run.model, x_test[:N_MEASURED])[0]
    placing = len(layer.variance) - n_placing + np.arange(n_placing)
    others = np.argsort(layer.variance[:-n_placing])[:N_UNITS]
    draws = run.model.draw(x_test[:1], N_DRAWS, run.figure_seed(3))
    zs = iwae_tf.inspection.snis_mean(draws)

    def moved(letter, units, first=0):
        traverse = iwae_tf.inspection.traverse
        return {
            f"{letter}{unit - first}": traverse(run.model, zs, int(unit), VALUES)[:, 0]
            for unit in units
        }

    columns = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in VALUES]
    of_placing, of_image = moved("u", placing, placing[0]), moved("z", others)
    return [
        block("each latent of the placing, the others held", of_placing, columns),
        block("the surest latents of the image, the placing held", of_image, columns),
    ]


def block(title, rows, columns=None):
    """Named rows of images."""
    return plots.Block(title, list(rows), np.stack(list(rows.values())), columns)


def table(runs, is_mnist):
    """Reconstruction, ELBO and likelihood, beside published values."""
    rows = []
    for (model, n_bounded, objective, k), run in runs.items():
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
    cli.task(main, __file__, epochs=50, batch_size=128, schedule="constant")
