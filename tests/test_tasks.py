"""Tests of tasks/: each runs in another directory, on digits, in seconds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TASKS = sorted(path.stem for path in (ROOT / "tasks").glob("ta*.py"))
BOUND = r"-[23]\d\.\d\d"
SCORE = r"-[23]\d\.\d\d ± 0\.\d\d"
POINT = r"\(-?\d+\.\d+, -?\d+\.\d+\)"
ROWS = {  # of the table that each task writes
    "task02": [rf"\| [13] \| `(iwae_elbo|dreg)` \| -\d\d\.\d\d \| {SCORE} \| "] * 4,
    "task07": [
        rf"\| `{name}` \| {m} \| {k} \| -\d\d\.\d\d \| {SCORE} \|"
        for name, m, k in (
            ("vae_elbo", 64, 1),
            ("miwae", 8, 8),
            ("piwae", 8, 8),
            ("combination", 1, 64),
        )
    ],
    "task11": [
        rf"\| {network} \| {name}.* \| [+-]\d\.\d\d \|"
        for network in ("encoder", "decoder")
        for name in ("iwae_elbo", "dreg", "piwae, m = 8", "miwae, m = 8")
    ],
    "task01": [
        rf"\| {image} \| {BOUND} \| {BOUND} \| {BOUND} to {BOUND} \| [\d,]+ \| "
        rf"{POINT} \| {POINT}, {POINT} \| {POINT}, {POINT} \|"
        for image in (0, 14)
    ],
    "task03": [
        rf"\| z{level} \| {size} \| \d\d\.\d% \| \d+\.\d% \| \d+\.\d of 100 \|"
        for level, size in ((1, 4), (2, 2))
    ],
    "task04": [
        rf"\| `iwae_elbo` \| {k} \| 1 \| -\d\d\.\d\d \| {SCORE} \| \d+ of 50 \|"
        for k in (1, 3)
    ],
    "task06": [
        rf"\| {name}, k = {k} \| -\d\d\.\d\d \| {SCORE} \| \d+ of 50 \|"
        for name, k in (("VAE", 1), ("VAE", 3), ("IWAE", 3))
    ],
    "task10": [
        rf"\| {name} \| 1 \| \d+ \| — \| {SCORE} \| — \| [+-]\d\.\d{{3}} ± \d\.\d{{3}} "
        rf"\(360 images\) \|"
        for name in (
            "VAE, k = 1",
            "IWAE, k = 2",
            "IWAE, k = 3",
            "IWAE, k = 3, after VAE, k = 1",
            "VAE, k = 1, after IWAE, k = 3",
        )
    ],
}
ROWS["task05"] = ROWS["task04"]
ROWS["task12"] = [
    rf"\| {name} \| {optimizer} \| {rate} \| {batch} \| {steps} \| 0:\d\d:\d\d \| "
    rf"{SCORE} \| [+-]\d+\.\d\d \|"
    for name, optimizer, rate, batch, steps in (
        ("fast recipe", "muon", r"0\.012", 800, 1),
        ("Adam, not Muon", "adam", r"0\.003", 800, 1),
        ("batches of 100", "muon", r"0\.003", 100, 13),
        ("k from the start", "muon", r"0\.012", 800, 1),
        ("the paper's recipe", "adam", "the paper's", 20, 64),
    )
]
ROWS["task08"] = [
    rf"\| `{model}` \| {tanh} \| {objective} \| {k} \| {BOUND} \| {BOUND} \| "
    rf"{SCORE} \| — \|"
    for objective, k in (
        ("`vae_elbo`, `iwae_elbo`", 1),
        ("`iwae_elbo`", 3),
        ("`vae_elbo`", 3),
    )
    for model, tanh in (
        ("vae60", "—"),
        ("tvae_affine", "—"),
        ("tvae_tps", "—"),
        ("tvae_affine", "on 6"),
        ("tvae_tps", "on 18"),
    )
]
ROWS["task13"] = [
    rf"\| {pattern} \| {method} \| {score} \| 0\.\d{{3}} \| 0\.\d{{3}} \| {ess} \|"
    for pattern in ("half", "quarter")
    for method, score, ess in (
        ("mean image", r"— \| —", "—"),
        ("5 nearest images", r"— \| —", "—"),
        ("IWAE", r"1 \| -[12]\d\.\d\d ± 0\.\d\d", r"\d+"),
        ("IWAE", r"3 \| -[12]\d\.\d\d ± 0\.\d\d", r"\d+"),
    )
]
ROWS["task14"] = [
    rf"\| {pattern} \| {method} \| [01]\.\d{{3}} ± 0\.\d{{3}} \|"
    for pattern, masks in (
        ("at random", ("",)),
        ("above the mean", ("", ", p.s given x.", ", p.s given x. of known sign")),
    )
    for method in (
        "mean",
        "KNNImputer",
        "IterativeImputer",
        *(f"IWAE, {x}{mask}" for x in ("Gaussian", "StudentT") for mask in masks),
    )
]
ROWS["task15"] = [
    rf"\| {name} \| {model} \| -\d+\.\d\d ± \d+\.\d\d \| [2-7]\.\d{{3}} \|"
    for name in ("digits", "patches")
    for model in (
        r"independent \| — \| —",
        *(rf"IWAE \| {layers} \| {k}" for layers, k in ((1, 1), (1, 3), (2, 3))),
    )
]
ROWS["task09"] = [
    rf"\| {posterior} \| -[34]\d\.\d\d \| {BOUND} \| {SCORE} \| {BOUND} \| "
    rf"{BOUND} \| "
    r"[+-]\d\.\d\d ± \d\.\d\d \| -?\d\.\d{3} ± \d\.\d{3} \|"
    for posterior in ("no flow", "8 flow steps")
]
ROWS["task17"] = [
    rf"\| `{name}` \| {k} \| 1 \| {BOUND} \| {SCORE} \| \d of 8 \+ \d of 4 \| "
    rf"0:\d\d:\d\d \|"
    for k in (2, 3)
    for name in ("vimco", "rws")
]
ROWS["task16"] = [
    rf"\| {layers} \| `{name}` \| {score} \| {gain} \| {units} \| \d\S* \| \d\S* \| "
    rf"\d+\.\d \|"
    for layers, score, units in (
        (1, SCORE, r"\d+ of 50"),
        (2, SCORE.replace("[23]", "[67]"), r"\d+ of 100 \+ \d+ of 50"),
    )
    for name, gain in (
        ("iwae_elbo", "—"),
        *((name, r"[+-]\d\.\d\d ± 0\.\d\d") for name in ("vae_elbo", "ovis")),
    )
]
ROWS["table1"] = [
    rf"\| digits \| `{name}` \| {layers} \| {k} \| 1 \| fast \| 123 \| {score} "
    for layers, score in ((1, SCORE), (2, SCORE.replace("[23]", "[67]")))
    for name, k in (("iwae_elbo", 1), ("iwae_elbo", 3), ("vae_elbo", 3))
]
FIGURES = {  # beside, or in place of, the one that has the task's name
    "task01": ["task01-image0.png", "task01-image14.png", "task01.gif"],
    "task03": [
        "task03-epoch000000.png",
        "task03-epoch000001.png",
        "task03.gif",
        "task03.png",
    ],
    "task09": ["task09-images.png", "task09.png"],
    "task14": [],
    "task17": ["task17-images.png", "task17.png"],
    "task08": ["task08-tvae_affine.png", "task08-tvae_tps.png", "task08.png"],
}


def start(name, *arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "tasks" / f"{name}.py", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_smoke_makes_a_figure_and_a_table_and_a_second_start_trains_nothing(
    name, tmp_path
):
    first = start(name, "--smoke", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    directory = tmp_path / "runs" / f"{name}-smoke"
    table = (directory / f"{name}.md").read_text()
    assert table in first.stdout
    lines = table.splitlines()[4:]
    assert len(lines) == len(ROWS[name])
    for line, row in zip(lines, ROWS[name], strict=True):
        assert re.match(row, line), line
    figures = sorted(p for p in directory.iterdir() if p.suffix in (".png", ".gif"))
    assert [p.name for p in figures] == FIGURES.get(name, [f"{name}.png"])
    for path in figures:
        with Image.open(path) as figure:
            assert figure.width > 890 and len(np.unique(figure.convert("L"))) > 20
            if path.suffix == ".gif":
                assert figure.n_frames == len(figures) - 1 - (name == "task03")
    if name == "task01":  # with what it has trained
        (run,) = directory.glob("digits-*/")
        given = ("--smoke", f"--run_dir={run}", "--task_dir=given")
        again = start(name, *given, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "given" / f"{name}.md").read_text() == table
        assert os.listdir(tmp_path / "given").count(run.name) == 0
        for other, rule in (
            ("task04", "must be conditional, with a conditional prior, got"),
            ("task05", "must be conditional, without a conditional prior, got"),
        ):
            refused = start(other, *given, cwd=tmp_path)
            assert refused.returncode == 2
            assert refused.stderr.splitlines()[-1].startswith(f"error: run_dir: {rule}")
    if name == "task07":
        run, *_ = sorted(directory.glob("digits-*/"))
        given = ("--smoke", "--schedule=fast", f"--init_from={run}", "--task_dir=from")
        again = start(name, *given, cwd=tmp_path)
        title = " · fast schedule, rate 0.012 · seed 123 · from the weights of one "
        assert f"{title}0.5 ELBO + 0.5 IWAE, k = 64\n" in again.stdout
        reports = [*(tmp_path / "from").glob("digits-*/report.json")]
        assert len(reports) == len(ROWS[name])
        for path in reports:
            report = json.loads(path.read_text())
            assert report["init"]["run"] == run.name
            # Growing samples are another budget for each split of it.
            assert not report["config"]["grow_samples"]
    if name == "task08":  # with one of those that it has trained
        (run,) = directory.glob("digits-iwae_elbo-tvae_tps-constant-*/")
        given = ("--smoke", f"--run_dir={run}", "--task_dir=given")
        assert start(name, *given, cwd=tmp_path).returncode == 0
        assert (tmp_path / "given" / f"{name}.md").read_text().splitlines()[4:] == [
            line for line in lines if line.startswith("| `tvae_tps` | — | `iwae_elbo`")
        ]
        page = f"{name}-tvae_tps.png"
        assert {path.name for path in (tmp_path / "given").glob("*.png")} == {
            page,
            f"{name}.png",
        }
        both = (Image.open(where / page) for where in (directory, tmp_path / "given"))
        np.testing.assert_array_equal(*both)
    if name == "task09":
        runs = ",".join(str(path) for path in sorted(directory.glob("digits-*/")))
        given = ("--smoke", f"--run_dir={runs}", "--task_dir=given")
        assert start(name, *given, cwd=tmp_path).returncode == 0
        again = (tmp_path / "given" / f"{name}.md").read_text().splitlines()[4:]
        of_runs = [line.split(" | ")[1:] for line in lines]
        assert sorted(line.split(" | ")[1:] for line in again) == sorted(of_runs)
        again = start(name, "--smoke", "--scorer=importance", cwd=tmp_path)
        assert again.stdout.count("finished earlier") == 2
        short = (directory / f"{name}.md").read_text()
        assert table.startswith(short.splitlines()[0])
        for line, all_of_it in zip(short.splitlines()[4:], lines, strict=True):
            assert all_of_it.startswith(line) and line.count("|") == 5
    if name == "task11":  # the quickest
        again = start(name, "--smoke", cwd=tmp_path)
        assert again.stdout.count("finished earlier") == first.stdout.count("scoring ")
        assert "epoch 1/1" not in again.stdout
        assert (directory / f"{name}.md").read_text() == table


@pytest.mark.parametrize("name", TASKS)
def test_bad_flag_is_refused_in_one_line_and_help_says_what_the_task_is(name, tmp_path):
    done = start(name, "--epochs=0", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: epochs: must be at least 1, got 0\n"
    assert os.listdir(tmp_path) == []
    done = start(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    is_numbered = name.startswith("task")
    assert text.startswith(f"Task {name[4:]}: " if is_numbered else "Table 1 of the ")
    for flag in ("epochs", "[no]smoke", "task_dir", "dataset"):
        assert f" --{flag} " in text
    assert " Number of passes over the training images. " in text


@pytest.mark.parametrize("name", ["task01", "task03", "task04", "task06", "task10"])
def test_what_is_no_finished_run_is_refused_in_one_line_at_once(name, tmp_path):
    done = start(name, "--run_dir=gone", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: run_dir: must hold a finished run, got 'gone' without a readable "
        "report.json\n"
    )
    assert os.listdir(tmp_path) == []


def test_too_few_samples_for_a_column_are_refused(tmp_path):
    done = start("task07", "--smoke", "--eval_samples=9", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: eval_samples: must be at least 64, got 9\n" in done.stderr


def test_file_in_the_place_of_the_directory_is_refused(tmp_path):
    tmp_path.joinpath("taken").write_text("")
    arguments = ("--smoke", "--task_dir=taken/here")
    done = start("task11", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: task_dir: must be a directory or a place ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", TASKS)
def test_task_is_one_page(name):
    assert len((ROOT / "tasks" / f"{name}.py").read_text().splitlines()) <= 130
