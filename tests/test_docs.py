"""The documentation is current: its links, its flags, and all of its Python."""

import posixpath
import re
from pathlib import Path

import numpy as np
import pytest

import iwae_tf
from iwae_tf.runs.config import flag_table

ROOT = Path(__file__).parents[1]
DOCS = sorted(ROOT.glob("docs/**/*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


def text_of(name):
    return (ROOT / name).read_text("utf-8")


def code_of(name):
    return "\n".join(re.findall(r"```python\n(.+?)```", text_of(name), re.DOTALL))


def anchors_of(text):
    """The anchors that the headings of a page have, on the site and elsewhere."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return {re.sub(r"[\s-]+", "-", head) for head in kept}


@pytest.mark.parametrize("name", NAMES)
def test_every_linked_place_is_there(name):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(name)):
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        target = target if path else name
        assert (ROOT / target).is_file(), link
        if anchor:
            assert anchor in anchors_of(text_of(target)), link


@pytest.mark.parametrize("name", [*NAMES, "CHANGELOG.md", "results/README.md"])
def test_every_table_is_whole(name):
    tables = re.findall(r"^(\|.+\|\n)(.*\n)(?:\|.+\|\n)*", text_of(name), re.MULTILINE)
    for head, rule in tables:
        assert re.fullmatch(r"\|([ :]*-+[ :]*\|)+\n", rule), head


def test_every_page_is_in_the_navigation():
    nav = text_of("mkdocs.yml").split("\nnav:")[1].split("\n\n")[0]
    listed = re.findall(r"\S+\.md$", nav, re.MULTILINE)
    found = {path.relative_to(ROOT / "docs").as_posix() for path in DOCS}
    assert len(listed) == len(set(listed)) and set(listed) == found


def test_every_public_name_has_its_place_in_the_reference():
    pages = "\n".join(text_of(name) for name in NAMES if name.startswith("docs/api/"))
    shown = set(re.findall(r"^(?:::: .+\.|# iwae_tf\.)(\w+)$", pages, re.MULTILINE))
    # Objective is a part of the module objectives, which has a page.
    assert set(dir(iwae_tf)) - shown == {"Objective"}


def test_every_task_has_a_paragraph():
    text = text_of("docs/tasks.md")
    tasks = sorted(path.name for path in (ROOT / "tasks").glob("*.py"))
    assert (
        tasks and [name for name in tasks if f"`python tasks/{name}`" not in text] == []
    )


def test_flag_table_is_that_of_the_options():
    text = text_of("docs/command-line.md")
    table = text.split("<!-- flags: begin -->")[1].split("<!-- flags: end -->")[0]
    assert table.strip() == flag_table()


@pytest.mark.parametrize("objective", iwae_tf.rules.OBJECTIVES)
def test_every_objective_has_its_formulas(objective):
    rows = re.findall(r"^\| (`.+?) \| ", text_of("docs/ideas.md"), re.MULTILINE)
    assert sum(f"`{objective}`" in row for row in rows) == 2


def run(name, *shorter, **names):
    """Runs the Python of a page, with fewer samples or epochs; returns its names."""
    code = code_of(name)
    for long, short in shorter:
        assert long in code
        code = code.replace(long, short)
    exec(code, names)
    return names


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_xla(monkeypatch):
    """XLA, which is tested elsewhere, takes longer to compile a page than to run it."""
    import tensorflow as tf

    plain = tf.function

    def function(*args, jit_compile=None, **options):
        return plain(*args, **options)

    monkeypatch.setattr(tf, "function", function)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def binary(rng, *shape):
    return rng.integers(0, 2, shape).astype(np.float32)


RUN = {}


def runs(name):
    """Marks the test that runs the Python of a page."""

    def marked(test):
        RUN[name] = test.__name__
        return test

    return marked


def test_all_python_is_run():
    assert {name for name in NAMES if code_of(name)} == set(RUN)


@runs("README.md")
def test_readme(here):
    assert run("README.md")["samples"].shape == (100, 28, 28, 1)


@runs("docs/index.md")
def test_start(here):
    assert run("docs/index.md")["means"].shape == (100, 28, 28, 1)


@runs("docs/own-data.md")
def test_own_data(here, rng, no_xla):
    x = rng.integers(0, 256, (60, 5, 4, 1), dtype=np.uint8)
    np.savez("mine.npz", x_train=x, x_test=x[:7])
    found = run("docs/own-data.md", ("5000", "50"))
    assert found["score"].log_px.shape == (7,)
    assert found["samples"].shape == (100, 5, 4, 1)


@runs("docs/own-model.md")
def test_own_model(rng, no_xla):
    x = binary(rng, 30, 8, 8, 1)
    found = run("docs/own-model.md", ("n_draws=100", "n_draws=3"), x=x)
    assert found["of_encoder"].signal_to_noise >= 0
    found["model"].fit(x, epochs=1, verbose=0)
    counts = rng.poisson(3, (20, 12)).astype(np.float32)
    found["of_counts"].compile("adam", n_samples=2, jit_compile=False)
    found["of_counts"].fit(counts, epochs=1, verbose=0)


@runs("docs/missing-data.md")
def test_missing_data(rng, no_xla):
    x = (rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6))).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    found = run("docs/missing-data.md", ("epochs=12", "epochs=2"), x=x)
    assert found["score"].log_px.shape == found["imputed"].ess.shape == (200,)
    assert found["draws"].shape == (10, 200, 6)
    assert len(np.unique(found["samples"])) == 3000  # real-valued


@runs("docs/using-models.md")
@pytest.mark.filterwarnings("ignore:embed")
def test_using_models(here, rng, no_xla):
    x = binary(rng, 12, 28, 28, 1)
    found = run("docs/using-models.md", ("5000", "20"), ("k=500", "k=5"), x=x)
    assert found["embedded"].ess.shape == (12,)
    assert found["steps"].shape == (10, 28, 28, 1)
    assert found["mean"].shape == (10, 50)
    assert found["posterior"].shape == (100, 10, 50)
    np.testing.assert_array_equal(found["again"].encode(x).means[0], found["means"][0])
    assert (here / "exported").is_dir()


@runs("docs/several-devices.md")
def test_several_devices(rng, no_xla):
    import tensorflow as tf

    x = binary(rng, 16, 28, 28, 1)
    short = (("batch_size=800", "batch_size=8"), ("n_samples=50", "n_samples=2"))
    found = run("docs/several-devices.md", *short, tf=tf, iwae_tf=iwae_tf, x_train=x)
    assert found["model"].optimizer.iterations == 2
