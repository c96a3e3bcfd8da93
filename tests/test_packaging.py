"""What setup.py tells a package index, and what the wheel has."""

import ast
import re
import runpy
import shutil
import sys
from pathlib import Path, PurePath

import pytest
import setuptools

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = {"absl": "absl-py", "PIL": "pillow", "sklearn": "scikit-learn"}
LINK = re.compile(r"!?\[[^]]*\]\(([^)]*)\)")


@pytest.fixture
def told(monkeypatch):
    """A function from the folder of a setup.py to the arguments of its `setup`."""

    def arguments(folder):
        given = {}
        monkeypatch.setattr(setuptools, "setup", given.update)
        runpy.run_path(str(folder / "setup.py"))
        return given

    return arguments


def test_long_description_links_to_the_web_only(told):
    text = told(ROOT)["long_description"]
    links = LINK.findall(text)
    assert links and all(link.startswith("https://") for link in links)
    assert "Samples and mean images" not in text  # what stood below a picture


def test_long_description_has_all_the_rest_of_the_readme(told):
    readme = (ROOT / "README.md").read_text("utf-8")
    text = told(ROOT)["long_description"]
    for part in (r"^#.+$", r"^\|.+$", r"^```[^`]+```$"):
        found = re.findall(part, readme, re.MULTILINE)
        assert found and found == re.findall(part, text, re.MULTILINE)


def test_the_address_is_that_of_the_citation(told, tmp_path):
    assert told(ROOT)["project_urls"] == {}  # There is none yet.
    for name in ("setup.py", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "iwae_tf").mkdir()
    shutil.copy(ROOT / "iwae_tf" / "__init__.py", tmp_path / "iwae_tf")
    with open(tmp_path / "CITATION.cff", "a") as file:
        file.write("repository-code: https://example.org/iwae_tf\n")
    urls = told(tmp_path)["project_urls"]
    assert urls == {"Repository": "https://example.org/iwae_tf"}


def test_the_wheel_has_every_file_of_the_package(told):
    given = told(ROOT)
    folders = {name.replace(".", "/") for name in given["packages"]}
    patterns = given["package_data"]["iwae_tf"]
    for path in (ROOT / "iwae_tf").rglob("*"):
        inside = path.relative_to(ROOT / "iwae_tf").as_posix()
        if path.is_dir() or "__pycache__" in inside:
            continue
        elif path.suffix == ".py":
            assert f"iwae_tf/{inside}".rpartition("/")[0] in folders, inside
        else:
            assert any(PurePath(inside).match(p) for p in patterns), inside


def test_what_is_imported_is_required_and_nothing_else(told):
    given = told(ROOT)
    asked = [*given["install_requires"], *sum(given["extras_require"].values(), [])]
    core = {name_of(line) for line in given["install_requires"]}
    imported = set()
    for path in (ROOT / "iwae_tf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    imported -= {"iwae_tf", "__future__", *sys.stdlib_module_names}
    needed = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in imported}
    assert needed <= {name_of(line) for line in asked}
    assert core - needed == {"importlib-resources"}  # which setup.py explains


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0].replace("_", "-")
