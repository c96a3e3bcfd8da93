"""Task 16: every objective of the table at an equal budget of decoder passes.

Every objective gets 8 samples for each image, in 2 groups of 4 where it has groups, and
one and two stochastic layers. Beside log p(x), active units and the time of an epoch,
the table has the signal-to-noise ratio of each gradient estimator. All of these are
measured at the weights of one model, the one trained with the importance weighted
bound, so that they compare. Log p(x) is compared with that of the same model, on the
same images.

    python tasks/task16.py [--epochs 40] [--smoke]
"""

import iwae_tf
from iwae_tf import cli, files, plots, rules
from iwae_tf.runs import comparison, names, progress, reports, results

BUDGET = 8
GROUPS = 2
N_IMAGES = 20  # number of test images whose gradient is drawn
NETWORKS = {"generator": "theta", "posterior": "phi"}


def main(task):
    """Trains all models; writes a figure and a table."""
    smoke = ("iwae_elbo", "vae_elbo", "ovis")
    objectives = smoke if task.is_smoke else rules.OBJECTIVES
    runs = {
        (layers, name): task.run(
            objective=name,
            stochastic_layers=layers,
            n_groups=groups_of(name),
            n_samples=BUDGET // groups_of(name),
            grow_samples=False,
        )
        for layers in (1, 2)
        for name in objectives
        if layers == 1 or name != "vae_elbo_kl"  # a closed form of one layer
    }
    n_draws = 10 if task.is_smoke else 400
    bar = progress.Progress(len(runs) * n_draws, "gradients")
    rows, gains = [], {}
    for i, ((layers, name), run) in enumerate(runs.items()):
        reference = runs[layers, "iwae_elbo"]
        gain, _ = comparison.compare(run, reference).values()
        above = f"{gain.mean:+.2f} ± {gain.standard_error:.2f}"
        gains[layers, names.objective(name)] = gain.mean, gain.standard_error
        ratios = ratios_of(
            task,
            reference,
            name,
            n_draws,
            lambda n, i=i: bar.update(i * n_draws + n),
        )
        rows.append(
            (
                layers,
                f"`{name}`",
                reports.estimate(run.report),
                "—" if run is reference else above,
                reports.active_units(run.report),
                *(f"{ratio:.3g}" for ratio in ratios.values()),
                f"{seconds_of_epoch(run):.1f}",
            )
        )
    bar.close()
    header = (
        "layers | objective | test log p(x) | above `iwae_elbo` | active units | "
        "signal to noise, theta | phi | seconds of the fastest epoch"
    )
    table = results.markdown(header, "--:|---|---|--:|---|--:|--:|--:", rows)
    title = f"{task.title} · {BUDGET} samples for each image"
    task.finish(table, sheet(gains, title), title)


def groups_of(name):
    """The number of groups of an objective."""
    return GROUPS if name in rules.OBJECTIVE_OPTIONS["n_groups"] else 1


def ratios_of(task, run, name, n_draws, on_progress):
    """Signal-to-noise ratios of an estimator at the weights of a run, by network."""

    def measure():
        moments = iwae_tf.gradients.gradient_statistics(
            run.model,
            task.x_test[:N_IMAGES],
            iwae_tf.objectives.table(groups_of(name))[name],
            BUDGET // groups_of(name),
            n_draws,
            jit_compile=task.config.jit,
            on_progress=on_progress,
        )
        return {network: moments[network].signal_to_noise for network in NETWORKS}

    path = run.directory / f"gradients-{name}-n{n_draws}.json"
    return files.read_or_make_json(path, measure)


def seconds_of_epoch(run):
    """The seconds of the epoch that other work disturbed least."""
    rates = [float(row["images_per_second"]) for row in run.metrics()]
    return run.report["data"]["n_train"] / max(rates)


def sheet(gains, title):
    """Log p(x) above that of the reference, for the same images: one panel a depth."""
    panels = []
    for layers in (1, 2):
        values = {name: gain for (own, name), gain in gains.items() if own == layers}
        called = f"{layers} stochastic layer{'s' * (layers > 1)}"
        panels.append(plots.Intervals(called, values))
    label = "test log p(x) above that of IWAE (nats per image)"
    return plots.interval_sheet(panels, label, title)


if __name__ == "__main__":
    cli.task(main, __file__, epochs=40, schedule="fast")
