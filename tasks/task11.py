"""Task 11: signal-to-noise ratio of gradients against k (arXiv:1802.04537, 1810.04152).

Trains one model, then fixes its weights and draws the gradients of IWAE, DReG, PIWAE
and MIWAE many times for each k. In theory the encoder's ratio falls like k^-1/2 for
IWAE, and rises like k^1/2 for DReG near the optimum. With m groups it falls too, from a
level that is sqrt(m) times higher. The decoder's ratio rises like k^1/2. MIWAE and
PIWAE have the same gradient in the encoder; IWAE and DReG have the same gradient in the
decoder.

    python tasks/task11.py [--epochs 50] [--smoke]
"""

import itertools

import numpy as np

import iwae_tf
from iwae_tf import cli, files, plots
from iwae_tf.runs import names, results
from iwae_tf.runs.progress import Progress

GROUPS = 8
ROWS = ("iwae_elbo", "dreg", "piwae", "miwae")
NETWORKS = {"posterior": "encoder", "generator": "decoder"}
N_IMAGES = 20  # number of test images whose gradient is drawn


def main(task):
    """Trains a model and measures its gradients; writes a figure and a table."""
    run = task.run(objective="iwae_elbo", n_samples=5)
    model = run.model
    ks = (1, 2, 4) if task.is_smoke else (1, 2, 4, 8, 16, 32, 64)
    n_draws = 20 if task.is_smoke else 1000
    ratios = {network: {name: [] for name in ROWS} for network in NETWORKS}
    progress = Progress(len(ROWS) * len(ks) * n_draws, "gradients")
    for i, (k, name) in enumerate(itertools.product(ks, ROWS)):
        path = run.directory / f"gradients-{name}-k{k}-n{n_draws}.json"

        def ratios_of(i=i, k=k, name=name):
            moments = iwae_tf.gradients.gradient_statistics(
                model,
                task.x_test[:N_IMAGES],
                iwae_tf.objectives.table(GROUPS)[name],
                k,
                n_draws,
                jit_compile=task.config.jit,
                on_progress=lambda n: progress.update(i * n_draws + n),
            )
            return {n: moments[n].signal_to_noise for n in NETWORKS}

        for network, ratio in files.read_or_make_json(path, ratios_of).items():
            ratios[network][name].append(ratio)
    progress.close()
    title = f"{task.title} · {n_draws} gradients of {N_IMAGES} images"
    task.finish(table(ks, ratios), sheet(ks, ratios, title), title)


def slope(ks, ratios):
    """Slope in log-log axes over the upper half of k, where theory's rates begin."""
    upper = slice(len(ks) // 2, None)
    return np.polyfit(np.log(ks[upper]), np.log(ratios[upper]), 1)[0]


def label(name):
    """The name of a row of the table."""
    return f"{name}, m = {GROUPS}" if name in ("miwae", "piwae") else name


def called(name):
    """The name of a curve."""
    groups = f", m = {GROUPS}" if name in ("miwae", "piwae") else ""
    return f"{names.objective(name)}{groups}"


def signed(number):
    """A number with its sign."""
    return f"{number:+.2f}".replace("-", "\N{MINUS SIGN}")


def sheet(ks, ratios, title):
    """One panel for each network, with the slopes at the ends of the curves."""
    panels = []
    for network, part in NETWORKS.items():
        curves = {
            f"{called(name)}: slope {signed(slope(ks, ratio))}": (ks, ratio)
            for name, ratio in ratios[network].items()
        }
        axes = ("k, samples per image and group", "signal-to-noise ratio")
        panels.append(plots.Panel(f"{part}'s gradient", *axes, curves, "xy"))
    return plots.line_sheet([panels], title)


def table(ks, ratios):
    """The ratios and their slopes."""
    rows = [
        (
            called,
            label(name),
            *(f"{ratio:.3g}" for ratio in ratios[network][name]),
            f"{slope(ks, ratios[network][name]):+.2f}",
        )
        for network, called in NETWORKS.items()
        for name in ROWS
    ]
    header = " | ".join(f"k = {k}" for k in ks)
    return results.markdown(
        f"network | objective | {header} | slope for k ≥ {ks[len(ks) // 2]}",
        "---|---|" + "--:|" * len(ks) + "--:",
        rows,
    )


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50)
