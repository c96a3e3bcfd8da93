"""The paired difference between two runs on the same test images.

`summary` reads the scores of every image that both runs have in `scores.npz`.
TensorFlow is not imported.
"""

from typing import NamedTuple

import numpy as np

from iwae_tf.errors import UsageError
from iwae_tf.runs import reports
from iwae_tf.runs.pretrained import DIRECTORY
from iwae_tf.runs.run import Run


class Difference(NamedTuple):
    """A paired difference: values of a first model minus those of a second one.

    Attributes:
      mean: the mean difference, nats per image.
      standard_error: of `mean` over images, nats; NaN for one image.
      correlation: of the values of both models over images; NaN if it is not defined.
      n_first: the number of images with the larger value from the first model.
      n_second: likewise for the second model. The other images have equal values.
      n: the number of images.
    """

    mean: float
    standard_error: float
    correlation: float
    n_first: int
    n_second: int
    n: int


def paired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compares values of two models for the same images.

    The standard error is s / sqrt(n), where s is the standard deviation of the n
    differences with n - 1 degrees of freedom. It is smaller than that of two
    independent means if the models find the same images hard, as models of the same
    data do. It holds for these two models and other images of the same kind.

    Args:
      first: values of the first model, [n], nats.
      second: values of the second model for the same images in the same order, [n].
    """
    first, second = np.float64(first), np.float64(second)
    differences, n = first - second, len(first)
    error = differences.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    is_defined = min(np.ptp(first), np.ptp(second)) > 0
    correlation = np.corrcoef(first, second)[0, 1] if is_defined else np.nan
    return Difference(
        float(differences.mean()),
        float(error),
        float(correlation),
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        n,
    )


def compare(first: Run, second: Run) -> dict[str, Difference]:
    """Compares the scores of two finished runs for the same test images.

    Args:
      first: a run.
      second: another run.

    Returns:
      differences: that of log p(x), under the name of the quantity such as "test log
        p(x)", and that of the "ELBO".

    Raises:
      UsageError: if the runs are not finished or lack `scores.npz`, have other images,
        or if only one of them has a density.
    """
    both = first.report, second.report
    quantity = _same(reports.quantity, both, "the same quantity")
    _same(lambda report: report["data"]["name"], both, "the same data set")
    _same(lambda report: report["test"]["n_images"], both, "as many scored images")
    digests = [report["data"].get("binarized_test_sha256") for report in both]
    if None in digests or digests[0] != digests[1]:
        raise UsageError(
            f"runs: must have the same test images, got others in {str(first)!r} and "
            f"{str(second)!r}"
        )
    scores = [_scores(run) for run in (first, second)]
    log_px = [each["log_px"] for each in scores]
    elbo = [each["log_px_given_z"] - each["kl"] for each in scores]
    return {quantity: paired_difference(*log_px), "ELBO": paired_difference(*elbo)}


def _same(fact, both, rule):
    """A fact of both reports."""
    first, second = map(fact, both)
    if first != second:
        raise UsageError(f"runs: must have {rule}, got {first} and {second}")
    return first


def _scores(run):
    path = run.directory / "scores.npz"
    if path.exists():
        return run.scores
    remedy = "the command of a run, with --rescore, writes it if its checkpoint is kept"
    if run.directory.parent == DIRECTORY:
        remedy = "trained models of the package come without it"
    raise UsageError(
        f"runs: must have the scores of every image, got no {str(path)!r}; {remedy}"
    )


def summary(first: Run, second: Run) -> str:
    """The comparison of two runs as text.

    Args:
      first: a run.
      second: another run.

    Raises:
      UsageError: as `compare` does.
    """
    differences = compare(first, second)
    n = next(iter(differences.values())).n
    lines = [
        f"first:  {first}",
        f"        {first.title}",
        f"second: {second}",
        f"        {second.title}",
        f"first minus second, nats per image, on the same {n:,} images:",
    ]
    for name, difference in differences.items():
        equal = n - difference.n_first - difference.n_second
        lines += [
            f"  {name}: {difference.mean:+.4f} ± {difference.standard_error:.4f}, "
            f"correlation {difference.correlation:.4f}",
            f"    larger for {difference.n_first:,} images in the first run, for "
            f"{difference.n_second:,} in the second"
            + f", equal for {equal:,}"
            * bool(equal),
        ]
    lines += [
        "± is the standard error over images, from the paired differences. It does not",
        "cover the seeds: trained from other seeds, two such models differ by another",
        "amount.",
    ]
    samples = [run.report["test"]["n_samples"] for run in (first, second)]
    if samples[0] != samples[1]:
        lines.append(
            f"log p(x) is estimated by {samples[0]:,} samples and by {samples[1]:,}: "
            "fewer samples give lower estimates."
        )
    drawn = [reports.proposal(run.report) or "q(z|x)" for run in (first, second)]
    if drawn[0] != drawn[1]:
        lines.append(
            f"log p(x) is estimated by draws of {drawn[0]} and of {drawn[1]}: worse "
            "proposals give lower estimates, and each has an ELBO of its own."
        )
    return "\n".join(lines)
