import re
from pathlib import Path

import pytest

import iwae_tf
from iwae_tf.runs.config import flag_table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text("utf-8")


def test_flag_table_is_that_of_the_options(readme):
    table = readme.split("<!-- flags: begin -->")[1].split("<!-- flags: end -->")[0]
    assert table.strip() == flag_table()


def test_there_are_exactly_two_set_up_commands(readme):
    commands = re.findall(r"^python3 -m venv .+$", readme, re.MULTILINE)
    assert [command.split()[-1] for command in commands] == ["40", "pytest"]


def test_every_linked_file_is_there(readme):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", readme)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.filterwarnings("ignore:embed")
def test_python_example_runs(readme, tmp_path, monkeypatch):
    import numpy as np

    code = "\n".join(re.findall(r"```python\n(.+?)```", readme, re.DOTALL))
    x = np.random.default_rng(0).integers(0, 256, (60, 5, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=x, x_test=x[:7])
    monkeypatch.chdir(tmp_path)
    for long, short in (("5000", "50"), ("n_draws=100", "n_draws=3")):
        assert long in code
        code = code.replace(long, short)
    rng = np.random.default_rng(1)
    table = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6))
    table[rng.random(table.shape) < 0.3] = np.nan
    names = {"x": table.astype(np.float32)}
    exec(code.replace("epochs=12", "epochs=2"), names)
    assert names["binary"].shape == (7, 5, 4, 1)
    assert names["of_encoder"].signal_to_noise >= 0
    assert names["score"].log_px.shape == names["imputed"].ess.shape == (200,)
    assert names["draws"].shape == (10, 200, 6)
    assert len(np.unique(names["samples"])) == 3000  # real-valued


def test_table_of_the_paper_is_that_of_the_results(readme):
    rows = dict.fromkeys("12")
    for row in readme.split("## Results")[1].split("\n\n")[2].splitlines()[2:]:
        layers, *cells = row.strip("| ").split(" | ")
        rows[layers] = [re.findall(r"-\d+\.\d\d", cell) for cell in cells]
    kinds = ("vae, iwae | 1", "vae | 5", "vae | 50", "iwae | 5", "iwae | 50")
    made = (ROOT / "results" / "README.md").read_text("utf-8").splitlines()
    for layers, cells in rows.items():
        for kind, (found, paper) in zip(kinds, cells, strict=True):
            (row,) = (r for r in made if r.startswith(f"| {layers} | {kind} | "))
            of_paper, _, ours, error, *_ = row.split(" | ")[3:]
            assert (found, paper) == (ours, of_paper)
            assert float(ours) > float(of_paper) and error in ("0.22", "0.23")


def test_version_is_told_alike_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {iwae_tf.__version__}\n" in citation
