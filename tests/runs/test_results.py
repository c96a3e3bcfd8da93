import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_files import cells_of

from iwae_tf.errors import UsageError
from iwae_tf.runs import published, reports, results
from iwae_tf.runs.config import SCHEDULES, Config
from iwae_tf.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]
REPORT = {
    "config": {
        "dataset": "mnist",
        "binarization": "dynamic",
        "beta": 1.0,
        "stochastic_layers": 1,
        "n_latent": None,
        "n_hidden": None,
        "objective": "iwae_elbo",
        "n_samples": 5,
        "schedule": "burda",
        "seed": 123,
    },
    "data": {"name": "mnist", "image_shape": [28, 28, 1]},
    "test": {
        "n_images": 10000,
        "log_likelihood": -88.1266,
        "standard_error": 0.2345,
        "elbo": -89.5,
        "log_px_given_z": -64.25,
        "kl": 25.25,
        "bounds": {"1": -89.5, "5": -88.75, "5000": -88.1266},
        "ess_median": 123.4,
        "ess_min": 1.26,
        "n_samples": 5000,
    },
    "units": [{"n_active": 2, "activity": [0.5, 0.001, 0.02]}],
    "epochs": 60,
    "steps": 180_000,
    "train_seconds": 3661.2,
    "score_seconds": 59.0,
    "commit": "0123456789abcdef+",
}
HEAD = (
    "| data | objective | layers | k | epochs | schedule | seed | test log p(x) | "
    "paper | active units | training | scoring | commit |\n"
    "|---|---|--:|--:|--:|---|--:|---|--:|--:|--:|--:|---|"
)
ROW = (
    "| mnist | `iwae_elbo` | 1 | 5 | 60 | burda | 123 | -88.13 ± 0.23 (k = 5000, "
    "10,000 images) | -85.54 | 2 of 3 | 1:01:01 | 0:00:59 | 0123456789 |"
)
BEGIN, END = (f"{mark}\n" for mark in (results.BEGIN, results.END))


def report(commit=REPORT["commit"], epochs=60, **config):
    changed = copy.deepcopy(REPORT)
    changed["config"] |= config
    return changed | {"commit": commit, "epochs": epochs}


def write(folder, value):
    folder.mkdir(parents=True)
    folder.joinpath("report.json").write_text(json.dumps(value), "utf-8")


# Typed from arXiv:1509.00519, table 1, MNIST, NLL: columns k = 1, 5, 50.
@pytest.mark.parametrize(
    ("objectives", "layers", "nll"),
    [
        (("vae_elbo", "vae_elbo_kl"), 1, (86.76, 86.47, 86.35)),
        (("iwae_elbo", "iwae_eq14"), 1, (86.76, 85.54, 84.78)),
        (("vae_elbo",), 2, (85.33, 85.01, 84.78)),
        (("iwae_elbo", "iwae_eq14"), 2, (85.33, 83.89, 82.90)),
    ],
)
def test_paper_value_is_that_of_table_1(objectives, layers, nll):
    for objective in objectives:
        for k, value in zip((1, 5, 50), nll, strict=True):
            options = {
                "objective": objective,
                "stochastic_layers": layers,
                "n_samples": k,
            }
            assert published.paper_value(report(**options)) == -value


# Typed from arXiv:1509.00519, table 1, MNIST, active units: columns k = 1, 5, 50.
@pytest.mark.parametrize(
    ("objective", "layers", "active"),
    [
        ("vae_elbo", 1, ("19", "20", "20")),
        ("iwae_elbo", 1, ("19", "22", "25")),
        ("vae_elbo", 2, ("16 + 5", "17 + 5", "17 + 5")),
        ("iwae_elbo", 2, ("16 + 5", "21 + 5", "26 + 7")),
    ],
)
def test_papers_active_units_are_those_of_table_1(objective, layers, active):
    for k, units in zip((1, 5, 50), active, strict=True):
        options = {"stochastic_layers": layers, "n_samples": k}
        assert published.paper_units(report(objective=objective, **options)) == units


# Typed from arXiv:1509.00519, table 2.
def test_papers_warm_starts_are_those_of_table_2():
    vae, iwae = (
        {"objective": f"{name}_elbo", "n_samples": k}
        for name, k in (("vae", 1), ("iwae", 50))
    )
    for trained, init, value, active in (
        (iwae, vae, -84.88, "22"),
        (vae, iwae, -86.02, "23"),
    ):
        warm = report(**trained) | {"init": init}
        assert published.paper_value(warm) == value
        assert published.paper_units(warm) == active
        deep = report(stochastic_layers=2, **trained) | {"init": init}
        other = report(**trained) | {"init": init | {"n_samples": 5}}
        for none in (deep, other):
            assert published.paper_value(none) is None
            assert published.paper_units(none) is None


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "digits"},
        {"dataset": "fashion_mnist"},
        {"stochastic_layers": 3},
        {"n_samples": 10},
        {"n_latent": [20]},
        {"n_hidden": [100]},
        {"binarization": "threshold"},
        {"beta": 0.5},
        {"conditional": True},
        {"n_flows": 8},
    ],
)
def test_paper_has_no_value_for_another_model(other):
    assert published.paper_value(report(**other)) is None
    assert published.paper_units(report(**other)) is None


def test_quantity_says_what_was_given_and_observed():
    conditional = report(conditional=True, missing=True, validation=5)
    assert reports.quantity(report()) == "test log p(x)"
    assert reports.quantity(conditional) == "validation log p(x observed given y)"


def test_summary_by_hand():
    assert reports.summary(report()) == (
        "test log p(x) = -88.13 ± 0.23 nats (5000 samples, 10000 images), 60 epochs\n"
        "the paper: -85.54 after 3280 epochs\n"
        "bound at k = 1: -89.50  5: -88.75  5000: -88.13\n"
        "ELBO = E log p(x|z) - KL = -64.25 - 25.25; effective sample size: "
        "median 123, minimum 1.3\n"
        "active units, bottom-up: 2 of 3\n"
        "trained in 1:01:01, scored in 0:00:59"
    )
    assert "paper" not in reports.summary(report(dataset="digits"))


FACTS = REPORT["data"] | {"n_train": 3, "n_test": 2}
FACTS |= {"train_sha256": "a", "binarized_test_sha256": "b"}


@pytest.mark.parametrize(
    ("options", "facts", "figures", "lines"),
    [
        (
            {},
            {},
            ("curves.png", "samples.gif"),
            [
                "figures: samples.gif, curves.png in runs/a b",
                "TensorBoard: tensorboard --logdir runs",
                "new samples: iwae sample 'runs/a b' --out samples.png",
            ],
        ),
        (
            {"run_dir": "runs/a b"},
            {"image_shape": [6]},
            (),
            [
                "TensorBoard: tensorboard --logdir 'runs/a b'",
                "new samples: iwae sample 'runs/a b' --out samples.npz",
            ],
        ),
        (
            {"pretrained": "mnist_iwae_2l_k50"},
            {},
            (),
            [
                "TensorBoard: tensorboard --logdir runs",
                "new samples: iwae sample mnist_iwae_2l_k50 --out samples.png",
            ],
        ),
        ({}, {"n_context": 3}, (), ["TensorBoard: tensorboard --logdir runs"]),
    ],
)
def test_next_steps_by_table(options, facts, figures, lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, config = Run("runs/a b"), Config(dataset="mnist", **options)
    with run.claimed({"config": config.of_run(), "data": FACTS | facts}):
        for name in figures:
            (run.directory / name).touch()
        assert reports.next_steps(run, config).split("\n") == lines


def test_table_by_hand():
    assert results.table([report()]) == f"{HEAD}\n{ROW}"
    other = results.table([report(commit=None, dataset="mine", n_samples=7)])
    assert other.splitlines()[2].startswith("| mine | `iwae_elbo` | 1 | 7 | 60 |")
    assert other.endswith("| — | 2 of 3 | 1:01:01 | 0:00:59 | unknown |")
    two = report() | {"units": 2 * [REPORT["units"][0]]}
    assert " | 2 of 3 + 2 of 3 | " in results.table([two])
    before = report()
    del before["units"]
    assert " | -85.54 | — | " in results.table([before])
    assert "active" not in reports.summary(before)


def test_densities_are_labelled_and_stand_apart():
    density = report(dataset="mine", likelihood="gaussian")
    density["test"] = density["test"] | {"is_density": True}
    binary, real = results.table([density, report()]).split("\n\n")
    assert binary == f"{HEAD}\n{ROW}"
    assert " | test log density p(x) | " in real.splitlines()[0]
    assert real.splitlines()[2].startswith("| mine | `iwae_elbo` gaussian | 1 | 5 |")
    assert reports.summary(density).startswith("test log density p(x) = -88.13 ± 0.23")
    assert results.table([density]) == real
    part = reports.summary(report(missing=True))
    assert part.startswith("test log p(x observed) = -88.13 ± 0.23 nats")


def test_bits_per_dimension_are_told():
    levels = report(dataset="mine", likelihood="discretized_logistic")
    levels["test"] = levels["test"] | {"bits_per_dimension": 2.0921}
    assert "\n2.0921 bits per dimension\n" in reports.summary(levels)
    assert "10,000 images), 2.092 bits per dimension | — |" in results.table([levels])


def test_table_tells_latents_labels_and_starts_apart():
    init = {"objective": "vae_elbo", "n_samples": 1}
    for said, one in (
        ("`iwae_elbo` z 4 + 2 |", report(n_latent=[4, 2])),
        (
            "`iwae_elbo` p(x given y) |",
            report(conditional=True, conditional_prior=False),
        ),
        (
            "`iwae_elbo` p(x given y), p(z given y) |",
            report(conditional=True, conditional_prior=True),
        ),
        ("`iwae_elbo` after `vae_elbo` k = 1 |", report() | {"init": init}),
    ):
        assert said in results.table([one])
    seeds = [report(), report(seed=124) | {"init": init}]
    assert results.table_over_seeds(seeds) == ""


def test_table_is_ordered_by_data_layers_objective_k_epochs_and_seed():
    ordered = [
        report(dataset="digits", stochastic_layers=2, n_samples=50),
        report(objective="iwae_elbo", n_samples=5),
        report(objective="iwae_elbo", n_samples=50, epochs=9, seed=2),
        report(objective="iwae_elbo", n_samples=50, epochs=10, seed=1),
        report(objective="iwae_elbo", n_samples=50, epochs=10, seed=2),
        report(objective="vae_elbo", n_samples=1),
        report(objective="iwae_elbo", stochastic_layers=2, n_samples=1),
    ]
    rows = results.table(ordered)
    for turn in range(1, len(ordered)):
        assert results.table(ordered[turn:] + ordered[:turn]) == rows
    singly = [results.table([one]).splitlines()[2] for one in ordered]
    assert rows.splitlines()[2:] == singly


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"schedule": "fast"}, "fast"),
        ({"schedule": "fast", "optimizer": "adam"}, "fast, adam"),
        ({"schedule": "fast", "batch_size": 100}, "fast, batches of 100"),
        ({"schedule": "fast", "grow_samples": False}, "fast, k from the start"),
        ({"schedule": "constant", "batch_size": 20, "grow_samples": False}, "constant"),
        (
            {"optimizer": "muon", "batch_size": 50, "grow_samples": True},
            "burda, muon, batches of 50, k grows",
        ),
    ],
)
def test_row_tells_what_was_not_the_schedules_own_choice(config, text):
    assert f"| 60 | {text} | 123 |" in results.table([report(**config)])


def test_collect_starts_a_readme_from_reports_at_any_depth(tmp_path):
    write(tmp_path / "a" / "b", report())
    write(tmp_path / "c", report(dataset="digits"))
    path = results.collect(tmp_path)
    assert path == tmp_path / "README.md"
    text = path.read_text("utf-8")
    assert text.startswith("# Results\n") and f"\n{HEAD}\n" in text
    assert f"\n{ROW}\n" in text and "\n| digits | " in text


def test_collect_keeps_the_text_around_and_is_idempotent(tmp_path):
    write(tmp_path / "a", report())
    readme = tmp_path / "README.md"
    before, after = "# Mine — ä\n\ntext\n\n", "\nmore |text|\n"
    old = "| an | old |\n|---|---|\n"
    readme.write_text(f"{before}{BEGIN}{old}{END}{after}", encoding="utf-8")
    results.collect(tmp_path)
    expected = f"{before}{BEGIN}{HEAD}\n{ROW}\n{END}{after}"
    assert readme.read_text("utf-8") == expected
    results.collect(str(tmp_path))
    assert readme.read_text("utf-8") == expected


def test_collect_appends_a_table_to_a_readme_without_one(tmp_path):
    write(tmp_path / "a", report())
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n", encoding="utf-8")
    results.collect(tmp_path)
    first = readme.read_text("utf-8")
    assert first.startswith("# Mine\n") and f"\n{ROW}\n" in first
    results.collect(tmp_path)
    assert readme.read_text("utf-8") == first


def test_names_with_marks_of_markdown_do_not_break_the_tables(tmp_path):
    name = "a|b`c`\n<i>[d](e)"
    for seed in (1, 2):
        odd = report(dataset=name, seed=seed) | {"commit": "x|y"}
        write(tmp_path / f"run{seed}", odd)
    text = results.collect(tmp_path).read_text("utf-8")
    rows = [cells_of(row) for row in text.splitlines() if row.startswith("| a")]
    shown = " ".join(name.split())
    assert [row[0] for row in rows] == [shown] * 3
    assert [len(row) for row in rows] == [13, 13, 8]
    assert rows[0][-1] == "x|y"


@pytest.mark.parametrize(
    "marks",
    [
        BEGIN,
        END,
        END + BEGIN,
        2 * (BEGIN + END),
        BEGIN + 2 * END,
    ],
)
def test_collect_refuses_parts_of_a_table_and_leaves_them(marks, tmp_path):
    write(tmp_path / "a", report())
    readme = tmp_path / "README.md"
    readme.write_text(f"# Mine\n{marks}text\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^directory: must have a README\.md with on"):
        results.collect(tmp_path)
    assert readme.read_text("utf-8") == f"# Mine\n{marks}text\n"


def test_collect_refuses_a_directory_without_reports(tmp_path):
    with pytest.raises(UsageError, match="^directory: must have a report.json"):
        results.collect(tmp_path)
    assert list(tmp_path.iterdir()) == []


def run(*arguments):
    command = [sys.executable, "-m", "iwae_tf.runs.results", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_command_writes_the_table_and_leaves_with_0(tmp_path):
    write(tmp_path / "a", report())
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'README.md'}\n"
    assert ROW in (tmp_path / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((), "arguments: "), (("a", "b"), "arguments: "), (("gone",), "directory: ")],
)
def test_command_refuses_in_one_line_and_leaves_with_2(arguments, says):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_tracked_results_are_what_their_reports_give(tmp_path):
    readme = ROOT / "results" / "README.md"
    if not readme.exists() or BEGIN not in readme.read_text("utf-8"):
        pytest.skip("results/README.md with a table is not in this checkout")
    for path in (ROOT / "results").rglob("report.json"):
        copied = tmp_path / path.relative_to(ROOT / "results")
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    tmp_path.joinpath("README.md").write_bytes(readme.read_bytes())
    results.collect(tmp_path)
    assert tmp_path.joinpath("README.md").read_bytes() == readme.read_bytes()


def with_score(value, **config):
    changed = report(**config)
    changed["test"]["log_likelihood"] = value
    return changed


def test_seeds_of_one_run_are_one_row_with_mean_and_standard_deviation():
    # Deviations from -88: -1, 0, 1; the older report lacks an option.
    reports = [with_score(-87.0, seed=2), with_score(-89.0, seed=1, n_groups=1)]
    reports += [with_score(-88.0, seed=3), with_score(-50.0, seed=4, n_samples=50)]
    assert results.table_over_seeds(reports).splitlines()[2:] == [
        "| mnist | `iwae_elbo` | 1 | 5 | 60 | 1, 2, 3 | -88.000 | 1.000 |"
    ]
    for other in ({"objective": "dreg"}, {"beta": 0.5}, {"schedule": "constant"}):
        pair = [with_score(-87.0, seed=1), with_score(-88.0, seed=2, **other)]
        assert results.table_over_seeds(pair) == ""
    assert results.table_over_seeds([report(), report(epochs=5, seed=1)]) == ""
    assert results.table_over_seeds([report(), report()]) == ""


def test_collect_puts_the_table_over_seeds_below_the_other(tmp_path):
    for seed in (1, 2):
        write(tmp_path / str(seed), with_score(-87.0 - seed, seed=seed))
    text = results.collect(tmp_path).read_text("utf-8")
    assert text.index(HEAD) < text.index("| 1, 2 | -88.500 | 0.707 |")


def test_groups_and_mixture_are_told_in_the_objective():
    rows = results.table(
        [
            report(objective="piwae", n_groups=8),
            report(objective="combination", combination_beta=0.25),
            report(objective="renyi", renyi_alpha=0.25),
            report(objective="tvo", temperatures=[0.0, 0.25]),
        ]
    )
    assert "| `piwae` m = 8 |" in rows
    assert "| `combination` c = 0.25 |" in rows
    assert "| `renyi` alpha = 0.25 |" in rows
    assert "| `tvo` t = 0, 0.25 |" in rows


def test_other_networks_are_told_in_the_objective():
    rows = results.table(
        [
            report(model="tvae_affine"),
            report(model="resnet", feature_maps=8, n_flows=4),
            report(n_flows=2, flow_normalisation="weight"),
            report(n_flows=2, flow_normalisation="batch"),
            report(n_flows=2, flow_normalisation="none"),
        ]
    )
    for text in (
        " tvae_affine",
        " resnet, 8 maps, 4 flow steps",
        ", 2 flow steps",
        ", 2 flow steps with batch normalisation",
        ", 2 flow steps with no normalisation",
    ):
        assert f"| `iwae_elbo`{text} |" in rows


def test_summary_tells_annealing_and_its_certificate():
    scored = report()
    scored["ais"] = {
        "n_images": 100,
        "log_likelihood": -87.1049,
        "standard_error": 2.0149,
        "difference": 0.2951,
        "difference_error": 0.0449,
        "options": {"ais_chains": 16, "ais_temperatures": 500},
        "certificate": {
            "lower": -90.514,
            "upper": -90.486,
            "gap": 0.0281,
            "gap_error": 0.0119,
        },
    }
    lines = reports.summary(scored).splitlines()
    assert (
        "by annealing (16 chains, 500 temperatures), 100 images: -87.10 ± 2.01; "
        "difference from importance sampling: +0.295 ± 0.045"
    ) in lines
    assert (
        "on 100 simulated images log p(x) is from -90.51 to -90.49: gap 0.028 ± 0.012"
    ) in lines


def test_summary_tells_the_jackknife():
    scored = report()
    scored["test"]["jackknife"] = {
        "1": {"log_likelihood": -88.0149, "standard_error": 0.2364},
        "2": {"log_likelihood": -87.9951, "standard_error": 0.2371},
    }
    line = reports.summary(scored).splitlines()[1:3]
    want = "log p(x) by the jackknife of order 1: -88.01 ± 0.24  2: -88.00 ± 0.24"
    assert want in line


def refined(*args, **config):
    changed = fast(*args, **config)
    changed["test"]["proposal"] = "refined"
    return changed


def test_scores_by_another_proposal_are_told_and_kept_apart():
    plain, other = fast(-86.0, seed=1), refined(-85.0, seed=2)
    lines = reports.summary(other).splitlines()
    assert "(5000 samples of the proposal refined, 10000 images)" in lines[0]
    assert any(line.startswith("ELBO of the proposal refined = ") for line in lines)
    assert "the paper" in reports.summary(plain)
    assert "the paper" not in reports.summary(other)
    assert "proposal" not in reports.summary(plain)
    row, own = results.table([plain, other]).splitlines()[2:]
    assert "proposal" not in row
    assert "(k = 5000, 10,000 images, proposal refined) | — |" in own
    assert results.table_of_paper([other]) == ""
    assert results.table_of_paper([plain, other]) == results.table_of_paper([plain])
    assert results.table_over_seeds([plain, other]) == ""
    both = results.table_over_seeds([refined(-85.0, seed=1), other])
    assert "| -85.000, proposal refined |" in both


def with_tails(share, median=0.4567):
    scored = report()
    tails = {"median": median, "threshold": 0.7, "share_above": share}
    scored["test"]["pareto_k"] = tails
    return scored


@pytest.mark.parametrize(("median", "text"), [(0.4567, "0.46"), (None, "—")])
def test_summary_tells_the_tails_of_the_weights(median, text):
    lines = reports.summary(with_tails(0.1, median)).splitlines()
    assert f"Pareto k-hat: median {text}, above 0.7 for 10.0% of the images" in lines
    assert "warning" not in reports.summary(with_tails(0.1))
    assert "Pareto" not in reports.summary(report())


def test_many_long_tails_are_warned_of():
    warned = [
        line
        for line in reports.summary(with_tails(0.234)).splitlines()
        if line.startswith("warning")
    ]
    assert warned == [
        "warning: the weights of 23% of the images have too long a tail (Pareto k-hat "
        "above 0.7), so that log p(x) of these may be too low; more samples "
        "(--eval_samples), a better proposal (--proposal refined) or annealed "
        "importance sampling (--scorer ais) help"
    ]


def fast(value=-86.5, **config):
    changed = with_score(value)
    changed["config"] |= {"schedule": "fast"} | SCHEDULES["fast"] | config
    changed["test"]["scoring_error"] = 0.00123
    return changed | {"epochs": changed["config"]["epochs"]}


def test_one_sample_has_no_scoring_error():
    run = fast()
    run["test"]["scoring_error"] = None
    assert "| -86.50 | 0.23 | — | — |" in results.table_of_paper([run])


def test_table_of_the_paper_has_its_rows_and_the_runs_of_the_fast_recipe():
    runs = [fast(-86.0, seed=1), fast(-87.0, seed=2), fast(n_samples=1)]
    runs += [fast(objective="dreg", n_samples=50), fast(stochastic_layers=2)]
    runs += [fast(-99.0, seed=3, epochs=199)]  # shorter than others of its row
    runs += [fast(-70.0, objective="vae_elbo", n_samples=1)]  # the model of runs[2]
    lines = results.table_of_paper(runs).splitlines()[2:]
    # Ten models of the paper, two of which stand for VAE and IWAE; one of DReG.
    starts = [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in lines]
    assert starts == [
        *[("1", "vae, iwae", "1"), ("1", "vae", "5"), ("1", "vae", "50")],
        *[("1", "iwae", "5"), ("1", "iwae", "50"), ("1", "dreg", "50")],
        *[("2", "vae, iwae", "1"), ("2", "vae", "5"), ("2", "vae", "50")],
        *[("2", "iwae", "5"), ("2", "iwae", "50")],
    ]
    assert lines[0].startswith("| 1 | vae, iwae | 1 | -86.76 | — | -86.50 |")
    assert lines[3] == (
        "| 1 | iwae | 5 | -85.54 | — | -86.50 | 0.23 | 0.0012 | 0.71 | 2 of 3 | "
        "22 | 200 | 1:01:01 | 1, 2 | 0123456789 |"
    )
    assert lines[5].startswith("| 1 | dreg | 50 | — | — | -86.50 | 0.23 | 0.0012 |")
    assert lines[10] == "| 2 | iwae | 50 | -82.90 | -82.82 |" + " — |" * 5 + (
        " 26 + 7 |" + " — |" * 4
    )


def test_models_with_100_latents_are_beside_those_of_the_earlier_reproduction():
    given_y = {"conditional": True, "conditional_prior": True}
    runs = [
        fast(-85.0, n_latent=[100], seed=1),
        fast(-86.0, n_latent=[100], seed=2),
        fast(-81.0, n_latent=[100], **given_y),
        fast(-82.0, n_latent=[100], n_samples=1, **given_y),
        fast(-84.9, n_latent=[100], objective="dreg", n_samples=1),
    ]
    others = [fast(), fast(n_latent=[100], conditional=True)]
    lines = results.table_of_earlier(runs + others).splitlines()[2:]
    assert len(lines) == 11
    assert lines[0] == "| vae, iwae | 1 | -86.35 |" + " — |" * 9
    found = {line[:18]: line for line in lines if "| — | — | — |" not in line}
    assert found == {
        "| iwae | 5 | -85.1": "| iwae | 5 | -85.18 | -85.50 | 0.23 | 0.0012 | 0.71 | "
        "2 of 3 | 200 | 1:01:01 | 1, 2 | 0123456789 |",
        "| dreg | 1 | -86.0": "| dreg | 1 | -86.08 | -84.90 | 0.23 | 0.0012 | — | "
        "2 of 3 | 200 | 1:01:01 | 123 | 0123456789 |",
        "| vae, iwae given ": "| vae, iwae given y | 1 | -82.32 | -82.00 | 0.23 | "
        "0.0012 | — | 2 of 3 | 200 | 1:01:01 | 123 | 0123456789 |",
        "| iwae given y | 5": "| iwae given y | 5 | -81.41 | -81.00 | 0.23 | 0.0012 | "
        "— | 2 of 3 | 200 | 1:01:01 | 123 | 0123456789 |",
    }
    assert results.table_of_paper(runs) == results.table_of_earlier(others) == ""


@pytest.mark.parametrize(
    "config",
    [
        {"schedule": "burda"},
        {"grow_samples": False},
        {"optimizer": "adam"},
        {"n_latent": (2,)},
        {"dataset": "digits"},
        {"validation": 5000},
        {"objective": "miwae"},
    ],
)
def test_table_of_the_paper_takes_the_recipe_and_the_papers_models_only(config):
    assert results.table_of_paper([fast(**config)]) == ""
    assert results.table_of_paper([fast() | {"init": {"run": "another"}}]) == ""
