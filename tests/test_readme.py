import re
from pathlib import Path

import pytest

import iwae_tf

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text("utf-8")


def test_it_has_at_most_900_words(readme):
    assert len(readme.split()) <= 900


def test_there_are_exactly_two_set_up_commands(readme):
    commands = re.findall(r"^python3 -m venv .+$", readme, re.MULTILINE)
    assert [command.split()[-1] for command in commands] == ["40", "pytest"]


def test_gpu_status_stands_beside_the_extra(readme):
    (paragraph,) = (part for part in readme.split("\n\n") if "[cuda]" in part)
    assert "GPUs have not been tried." in paragraph


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_table_of_the_paper_is_that_of_the_results(name):
    text = (ROOT / name).read_text("utf-8")
    found = re.findall(r"^\| ([12]) \| (.+\(.+\)) \|$", text, re.MULTILINE)
    assert [layers for layers, _ in found] == ["1", "2"]
    kinds = ("vae, iwae | 1", "vae | 5", "vae | 50", "iwae | 5", "iwae | 50")
    made = (ROOT / "results" / "README.md").read_text("utf-8").splitlines()
    for layers, cells in found:
        for kind, cell in zip(kinds, cells.split(" | "), strict=True):
            (row,) = (r for r in made if r.startswith(f"| {layers} | {kind} | "))
            of_paper, _, ours, error, *_ = row.split(" | ")[3:]
            assert cell == f"{ours} ({of_paper})"
            assert float(ours) > float(of_paper) and error in ("0.22", "0.23")


def test_version_is_told_alike_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {iwae_tf.__version__}\n" in citation
