"""The notebooks of the documentation run from beginning to end."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tour", "own_data", "estimators"])
def test_notebook_runs_and_shows_figures_and_no_warnings(name, tmp_path):
    notebook = nbformat.read(DOCS / f"{name}.ipynb", 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    # A cell that fails raises an error here.
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=resources
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert any("image/png" in out.get("data", ()) for out in outputs)
    told = [out.text for out in outputs if out.get("name") == "stderr"]
    # TensorFlow writes some lines whenever it is imported.
    assert not [text for text in told if "WARNING:tensorflow" in text]
    assert not [text for text in told if "UserWarning" in text]


def test_all_notebooks_are_run():
    names = {path.stem for path in DOCS.glob("*.ipynb")}
    assert names == {"tour", "own_data", "estimators"}
