"""Task 12: the fast recipe without Muon, large batches or a growing k.

Trains one model with the fast recipe, with the recipe without each of these, and with
the paper's schedule scaled to the same number of epochs. Nothing is chosen on test
images: the last twelfth of the training images is held out and scored, also during
training.

    python tasks/task12.py [--epochs 20] [--n_samples 5] [--smoke]
"""

import itertools

import iwae_tf
from iwae_tf import cli, files, plots
from iwae_tf.runs import names, reports, results
from iwae_tf.runs.progress import clock

RECIPES = {
    "fast recipe": {},
    "Adam, not Muon": {"optimizer": "adam", "learning_rate": 3e-3},
    "batches of 100": {"batch_size": 100, "learning_rate": 3e-3},
    "k from the start": {"grow_samples": False},
    "the paper's recipe": {
        "schedule": "burda",
        "optimizer": "adam",
        "learning_rate": None,
        "batch_size": 20,
        "grow_samples": False,
    },
}
N_IMAGES = 1000  # number of held-out images that are scored during training
N_SAMPLES = 200


def main(task):
    """Trains five models; writes a figure and a table."""
    n_held = len(task.images.x_train) // 12
    held = iwae_tf.data.sets_of(
        task.images, task.config.binarization, validation=n_held
    ).x_test

    def score(model, epoch, run):
        likelihood = iwae_tf.log_likelihood(
            model, held[:N_IMAGES], N_SAMPLES, jit_compile=task.config.jit
        )
        point = {"epoch": epoch, "log_px": likelihood.mean}
        files.write_json(run.directory / f"score-{epoch:06}.json", point)

    runs = {
        name: task.run(score, validation=n_held, **options)
        for name, options in RECIPES.items()
    }
    config = task.config
    title = names.line(
        names.dataset(task.images.name),
        names.epochs(config.epochs),
        f"seed {config.seed}",
        f"IWAE, k = {config.n_samples}",
        f"{n_held:,} images held out",
    )
    task.finish(table(runs), sheet(runs, title), title)


def seconds_of_training(run):
    """Seconds spent in optimizer steps by the end of each epoch, from 0."""
    rows = run.metrics()
    images = len(rows) and int(rows[0]["step"]) * run.config.batch_size
    spent = (images / float(row["images_per_second"]) for row in rows)
    return [0.0, *itertools.accumulate(spent)]


def points(run):
    """Epochs, minutes of training and log p(x) each time it was scored."""
    kept = run.kept("score-*.json", files.read_json)
    scored = [point for point in kept.values() if point["epoch"]]
    seconds = seconds_of_training(run)
    return (
        [point["epoch"] for point in scored],
        [seconds[point["epoch"]] / 60 for point in scored],
        [point["log_px"] for point in scored],
    )


def sheet(runs, title):
    """Log p(x) of held-out images against epochs and against time."""
    found = {name: points(run) for name, run in runs.items()}
    label = "log p(x), held out (nats per image)"
    panels = [
        plots.Panel(
            f"against {called}",
            axis,
            label,
            {name: (values[i], values[2]) for name, values in found.items()},
            "x",
        )
        for i, (called, axis) in enumerate(
            [("epochs", "epoch"), ("time", "minutes of training")]
        )
    ]
    return plots.line_sheet([panels], title)


def table(runs):
    """What each recipe reaches and how long it takes."""
    fast = runs["fast recipe"].report["test"]["log_likelihood"]
    rows = []
    for name, run in runs.items():
        value, rate = run.report["test"]["log_likelihood"], run.config.learning_rate
        rows.append(
            (
                name,
                run.config.optimizer,
                "the paper's" if rate is None else rate,
                run.config.batch_size,
                run.report["steps"],
                clock(seconds_of_training(run)[-1]),
                reports.estimate(run.report),
                f"{value - fast:+.2f}",
            )
        )
    return results.markdown(
        "recipe | optimizer | rate | batch | steps | time in steps | "
        "log p(x), held out | against fast",
        "---|---|--:|--:|--:|--:|---|--:",
        rows,
    )


if __name__ == "__main__":
    cli.task(main, __file__, epochs=20, n_samples=5, schedule="fast")
