"""Task 02: DReG against IWAE, k = 1, 5, 50 (Tucker et al. 2018, arXiv:1810.04152).

Trains the same model with both gradient estimators of the same bound. During training,
both gradients with respect to the encoder's parameters are drawn many times at the
current weights. In theory, DReG has the smaller variance only near the optimum.

    python tasks/task02.py [--epochs 50] [--smoke]
"""

import iwae_tf
from iwae_tf import cli, files, plots
from iwae_tf.runs import names, reports, results

ESTIMATORS = ("iwae_elbo", "dreg")
N_IMAGES = 20  # number of test images whose gradient is drawn
N_DRAWS = 100


def main(task):
    """Trains six models; writes a figure and a table."""
    runs = {}
    for k in (1, 3) if task.is_smoke else (1, 5, 50):
        for objective in ESTIMATORS:

            def measure(model, epoch, run, k=k):
                point = {"epoch": epoch}
                for name in ESTIMATORS:
                    moments = iwae_tf.gradients.gradient_statistics(
                        model,
                        task.x_test[:N_IMAGES],
                        name,
                        k,
                        N_DRAWS,
                        jit_compile=task.config.jit,
                    )
                    point[name] = float(moments["posterior"].variance.mean())
                path = run.directory / f"variance-{epoch:06}.json"
                files.write_json(path, point)

            runs[k, objective] = task.run(measure, objective=objective, n_samples=k)
    for key, run in runs.items():
        variances = list(run.kept("variance-*.json", files.read_json).values())
        runs[key] = run.report, run.curve("test_bound"), variances
    task.finish(table(runs), sheet(runs, task.title))


def sheet(runs, title):
    """Test bounds in the upper row, variances of the gradients in the lower row."""
    bounds, variances = [], []
    for k in dict.fromkeys(k for k, _ in runs):
        curves, spread = {}, {}
        for objective in ESTIMATORS:
            _, curve, measured = runs[k, objective]
            curves[names.objective(objective)] = curve
            spread[names.objective(objective)] = (
                [point["epoch"] for point in measured],
                [point[objective] for point in measured],
            )
        bounds.append(
            plots.Panel(f"k = {k}", "epoch", "test bound (nats per image)", curves)
        )
        variances.append(
            plots.Panel("", "epoch", "variance of the encoder's gradient", spread, "y")
        )
    return plots.line_sheet([bounds, variances], title)


def table(runs):
    """The scores, and the ratio of the two variances at the same weights."""
    rows = []
    for (k, objective), (report, _, measured) in runs.items():
        first, last = (measured[i]["iwae_elbo"] / measured[i]["dreg"] for i in (0, -1))
        bound = report["test"]["bounds"][str(k)]
        score = reports.estimate(report)
        rows.append(
            (k, f"`{objective}`", f"{bound:.2f}", score, f"{first:.2f}", f"{last:.2f}")
        )
    return results.markdown(
        "k | trained with | test bound | test log p(x) | variance IWAE / DReG, "
        "untrained | trained",
        "--:|---|--:|---|--:|--:",
        rows,
    )


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50)
