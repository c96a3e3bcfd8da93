"""Tests of iwae_tf.runs.comparison and of `iwae compare`."""

import json
import math

import numpy as np
import pytest
from test_listing import iwae
from test_results import report

from iwae_tf.errors import UsageError
from iwae_tf.files import sha256_of_file
from iwae_tf.runs import comparison
from iwae_tf.runs.run import Run

# Typed by hand: differences 1, 2, -3, 4, 0 and their mean 4 / 5. The sum of squares
# about it is 30 - 5 * 0.64 = 26.8, so the variance of the mean is 26.8 / 4 / 5 = 1.34.
FIRST = np.array([-10.0, -20.0, -33.0, -36.0, -50.0])
SECOND = np.array([-11.0, -22.0, -30.0, -40.0, -50.0])


def run_of(folder, log_px, shift=0.0, digest="0", name="mnist", **test):
    """A finished run whose ELBO is `log_px` minus 1 + `shift`."""
    value = report()
    value["data"] |= {"name": name, "binarized_test_sha256": digest}
    folder.mkdir()
    arrays = {"log_px": log_px, "kl": np.full(len(log_px), 21.0 + shift)}
    arrays["log_px_given_z"] = log_px + 20.0
    np.savez(folder / "scores.npz", **arrays)
    value["scores_sha256"] = sha256_of_file(folder / "scores.npz")
    value["test"] |= {
        "n_images": len(log_px),
        "log_likelihood": round(float(log_px.mean()), 4),
        **test,
    }
    (folder / "report.json").write_text(json.dumps(value))
    return Run(folder)


def test_paired_difference_is_that_by_hand():
    found = comparison.paired_difference(FIRST, SECOND)
    assert found.mean == pytest.approx(0.8)
    assert found.standard_error == pytest.approx(math.sqrt(1.34))
    assert (found.n_first, found.n_second, found.n) == (3, 1, 5)
    # Covariance over the product of standard deviations, written out.
    a, b = FIRST - FIRST.mean(), SECOND - SECOND.mean()
    want = sum(a * b) / math.sqrt(sum(a**2) * sum(b**2))
    assert found.correlation == pytest.approx(want)


def test_swapped_runs_have_the_opposite_difference():
    one = comparison.paired_difference(FIRST, SECOND)
    other = comparison.paired_difference(SECOND, FIRST)
    assert other.mean == -one.mean
    assert other.standard_error == one.standard_error
    assert other.correlation == pytest.approx(one.correlation)
    assert (other.n_first, other.n_second) == (one.n_second, one.n_first)


def test_constant_difference_has_no_error_however_much_images_differ():
    images = np.random.default_rng(0).normal(-90, 20, size=1000)
    found = comparison.paired_difference(images + 0.5, images)
    assert found.mean == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert found.correlation == pytest.approx(1.0)


def test_standard_error_is_the_spread_of_means_over_sets_of_images():
    rng = np.random.default_rng(1)
    images = rng.normal(-90, 20, size=(2000, 50))
    first, second = images + rng.normal(0.3, 1, images.shape), images
    found = [
        comparison.paired_difference(*pair) for pair in zip(first, second, strict=True)
    ]
    spread = np.std([each.mean for each in found])
    errors = np.mean([each.standard_error for each in found])
    assert errors == pytest.approx(spread, rel=0.05)  # the spread's own error is 1.6 %


def test_values_of_32_bits_are_compared_with_64():
    first = np.full(3, 2.0**24 + 2, np.float32)
    found = comparison.paired_difference(first, np.array([1, 1, 1], np.float32))
    assert found.mean == 2.0**24 + 1


@pytest.mark.parametrize("n", [1, 3])
def test_what_is_not_defined_is_nan(n):
    found = comparison.paired_difference(np.full(n, -2.0), np.full(n, -3.0))
    assert found.mean == 1.0 and math.isnan(found.correlation)
    assert math.isnan(found.standard_error) == (n == 1)


def test_runs_are_compared_image_by_image(tmp_path):
    first, second = run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND, 2.0)
    found = comparison.compare(first, second)
    assert [*found] == ["test log p(x)", "ELBO"]
    assert found["test log p(x)"] == comparison.paired_difference(FIRST, SECOND)
    assert found["ELBO"].mean == pytest.approx(2.8)
    text = comparison.summary(first, second)
    assert "test log p(x): +0.8000 ± 1.1576, correlation 0.9" in text
    assert "ELBO: +2.8000 ± 1.1576" in text
    assert "3 images in the first run, for 1 in the second, equal for 1" in text
    assert "does not cover the seeds" in " ".join(text.split())
    assert "samples" not in text
    other = run_of(tmp_path / "c", SECOND, n_samples=50)
    assert "by 5,000 samples and by 50: fewer" in comparison.summary(first, other)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"digest": "1"}, "runs: must have the same test images, got others in "),
        ({"name": "digits"}, "runs: must have the same data set, got mnist and digits"),
        ({"log_px": FIRST[:4]}, "runs: must have as many scored images, got 5 and 4"),
        (
            {"is_density": True},
            "runs: must have the same quantity, got test log p(x) and test log density",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(other, says, tmp_path):
    run_of(tmp_path / "a", FIRST)
    run_of(tmp_path / "b", **({"log_px": SECOND} | other))
    done = iwae("compare", "a", "b", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {says}"), line


def test_images_that_no_report_tells_are_refused(tmp_path):
    runs = [run_of(tmp_path / name, FIRST, digest="0") for name in "ab"]
    for run in runs:
        text = (run.directory / "report.json").read_text()
        text = text.replace('"binarized_test_sha256"', '"other"')
        (run.directory / "report.json").write_text(text)
    with pytest.raises(UsageError, match="^runs: must have the same test images"):
        comparison.compare(*runs)


def test_missing_scores_are_named(tmp_path):
    run_of(tmp_path / "a", FIRST)
    run_of(tmp_path / "b", SECOND).directory.joinpath("scores.npz").unlink()
    done = iwae("compare", "a", "b", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "got no 'b/scores.npz'; the command of a run, with --rescore" in line


def test_scores_of_another_report_are_refused(tmp_path):
    run_of(tmp_path / "a", FIRST)
    np.savez(run_of(tmp_path / "b", SECOND).directory / "scores.npz", log_px=SECOND)
    with pytest.raises(UsageError, match="^run_dir: must have the scores.npz of its"):
        comparison.compare(Run(tmp_path / "a"), Run(tmp_path / "b"))


def test_other_proposals_are_told(tmp_path):
    one = run_of(tmp_path / "a", FIRST)
    other = run_of(tmp_path / "b", SECOND, proposal="refined")
    line = "log p(x) is estimated by draws of q(z|x) and of proposal refined: worse"
    assert line in comparison.summary(one, other)
    assert "estimated by draws" not in comparison.summary(one, one)
    assert "estimated by draws" not in comparison.summary(other, other)


def test_command_tells_the_difference(tmp_path):
    runs = run_of(tmp_path / "a", FIRST), run_of(tmp_path / "b", SECOND)
    done = iwae("compare", *runs, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{comparison.summary(*runs)}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a",), "arguments: must be two RUNs, directories or names, got ['a']"),
        (("a", "none"), "run_dir: must hold a finished run, got 'none' without"),
        (("mnist_iwae_1l_k50",) * 2, "runs: must have the scores of every image, got "),
    ],
)
def test_bad_arguments_are_one_line(words, says, tmp_path):
    run_of(tmp_path / "a", FIRST)
    done = iwae("compare", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {says}"), line
