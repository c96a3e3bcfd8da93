"""The report of a run in words."""

import shlex

from iwae_tf.runs.config import BURDA_EPOCHS, Config
from iwae_tf.runs.names import epochs
from iwae_tf.runs.progress import clock
from iwae_tf.runs.published import paper_value
from iwae_tf.runs.run import Run


def quantity(report: dict) -> str:
    """What is estimated of which images, such as test log p(x).

    It is a probability, or a density, which has units of x and is called one.
    """
    x = "x observed" if report["config"].get("missing") else "x"
    x += " given y" * bool(report["config"].get("conditional"))
    images = "validation" if report["config"].get("validation") else "test"
    return f"{images} log {'density ' * bool(report['test'].get('is_density'))}p({x})"


def estimate(report: dict) -> str:
    """The test log-likelihood of a run with its standard error, in nats."""
    test = report["test"]
    return f"{test['log_likelihood']:.2f} ± {test['standard_error']:.2f}"


def active_units(report: dict) -> str:
    """The active units of every layer, bottom-up, such as 21 of 100 + 5 of 50."""
    layers = report.get("units")
    if layers is None:  # the report is older than their count
        return "—"
    return " + ".join(
        f"{layer['n_active']} of {len(layer['activity'])}" for layer in layers
    )


def proposal(report: dict) -> str:
    """Words that name what log p(x) was estimated with; "" for q(z|x)."""
    name = report["test"].get("proposal")
    return f"proposal {name}" if name else ""


def summary(report: dict) -> str:
    """A finished run in a few lines."""
    test = report["test"]
    drawn = f" of the {proposal(report)}" if proposal(report) else ""
    bounds = "  ".join(f"{k}: {value:.2f}" for k, value in test["bounds"].items())
    lines = [
        f"{quantity(report)} = {estimate(report)} nats "
        f"({test['n_samples']} samples{drawn}, {test['n_images']} "
        "images), "
        f"{epochs(report['epochs'], report.get('best_epoch'))}",
        f"bound at k = {bounds}",
        f"ELBO{drawn} = E log p(x|z) - KL = {test['log_px_given_z']:.2f} - "
        f"{test['kl']:.2f}; effective sample size: median {test['ess_median']:.0f}, "
        f"minimum {test['ess_min']:.1f}",
        *_of_tails(test),
        f"trained in {clock(report['train_seconds'])}, "
        f"scored in {clock(report['score_seconds'])}",
    ]
    if "jackknife" in test:
        estimates = "  ".join(
            f"{order}: {part['log_likelihood']:.2f} ± {part['standard_error']:.2f}"
            for order, part in test["jackknife"].items()
        )
        lines.insert(1, f"log p(x) by the jackknife of order {estimates}")
    if "bits_per_dimension" in test:
        lines.insert(1, f"{test['bits_per_dimension']:.4f} bits per dimension")
    if "ais" in report:
        lines[-1:-1] = _of_annealing(report["ais"])
    if "units" in report:
        lines.insert(-1, f"active units, bottom-up: {active_units(report)}")
    paper = paper_value(report)
    if paper is not None:
        lines.insert(1, f"the paper: {paper:.2f} after {BURDA_EPOCHS} epochs")
    return "\n".join(lines)


def _of_tails(test):
    """What the tails of the weights tell; reports of older versions lack it."""
    if "pareto_k" not in test:
        return []
    tails, median = test["pareto_k"], test["pareto_k"]["median"]
    return [
        f"Pareto k-hat: median {'—' if median is None else f'{median:.2f}'}, above "
        f"{tails['threshold']:.2g} for {tails['share_above']:.1%} of the images",
        *warning_of_tails(test),
    ]


_MANY = 0.1  # as a share of the images


def warning_of_tails(test: dict) -> list[str]:
    """A line that warns if the weights of many images have long tails, or none.

    Args:
      test: the part `test` of a report.
    """
    tails = test.get("pareto_k")
    if tails is None or tails["share_above"] <= _MANY:
        return []
    return [
        f"warning: the weights of {tails['share_above']:.0%} of the images have too "
        f"long a tail (Pareto k-hat above {tails['threshold']:.2g}), so that log p(x) "
        "of these may be too low; more samples (--eval_samples), a better proposal "
        "(--proposal refined) or annealed importance sampling (--scorer ais) help"
    ]


def _of_annealing(ais):
    options, certificate = ais["options"], ais["certificate"]
    return [
        f"by annealing ({options['ais_chains']} chains, "
        f"{options['ais_temperatures']} temperatures), {ais['n_images']} images: "
        f"{ais['log_likelihood']:.2f} ± {ais['standard_error']:.2f}; difference from "
        f"importance sampling: {ais['difference']:+.3f} ± "
        f"{ais['difference_error']:.3f}",
        f"on {ais['n_images']} simulated images log p(x) is from "
        f"{certificate['lower']:.2f} to {certificate['upper']:.2f}: gap "
        f"{certificate['gap']:.3f} ± {certificate['gap_error']:.3f}",
    ]


def next_steps(run: Run, config: Config) -> str:
    """Where the figures of a finished run are, and commands to go on with.

    Args:
      run: the finished run.
      config: its options.
    """
    lines, facts = [], run.record["data"]
    figures = [
        name
        for name in ("samples.gif", "reconstructions.png", "curves.png")
        if (run.directory / name).exists()
    ]
    if figures:
        lines.append(f"figures: {', '.join(figures)} in {run}")
    logs = run.directory if config.run_dir else run.directory.parent
    lines.append(f"TensorBoard: tensorboard --logdir {shlex.quote(str(logs))}")
    if "n_context" not in facts:  # vectors that the command cannot be given
        name = shlex.quote(config.pretrained or str(run))
        out = "samples.png" if len(facts["image_shape"]) == 3 else "samples.npz"
        lines.append(f"new samples: iwae sample {name} --out {out}")
    return "\n".join(lines)
