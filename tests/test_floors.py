"""The floors of the package: imports point down, and never in a circle."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import iwae_tf

ROOT = Path(iwae_tf.__file__).parent
# From the ground up; modules of one floor may import one another.
FLOORS = (
    {"errors", "files", "randomness", "rules", "signals", "terminal"},
    {"weights"},
    {"pareto"},
    {"draws"},
    {"objectives"},
    {"estimators"},
    {"data", "plots"},
    {"models"},
    {"measures"},
    {"runs"},
    {"cli"},
    {"sweep"},
    {"commands"},
)
HEIGHT = {room: level for level, floor in enumerate(FLOORS) for room in floor}


def modules():
    """Every module of the package, and the file it is in."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), path


NAMES = dict(modules())


def imported_by(name, path):
    """The modules of the package that a module imports, wherever in its file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole in NAMES
                found.add(whole if is_module else node.module)
    return {other for other in found if other.split(".")[0] == "iwae_tf"}


def room_of(module):
    return module.split(".")[1] if "." in module else None


def test_every_module_has_a_floor():
    assert {room_of(name) for name, _ in modules()} == {None, *HEIGHT}


def test_no_import_points_up():
    for name, path in modules():
        others = filter(room_of, imported_by(name, path))
        if room_of(name):
            floor = HEIGHT[room_of(name)]
            assert [o for o in others if HEIGHT[room_of(o)] > floor] == [], name


def test_only_the_command_line_and_runs_import_the_package_itself():
    whole = {n for n, path in modules() if "iwae_tf" in imported_by(n, path)}
    assert whole <= {"iwae_tf.cli", "iwae_tf.commands", "iwae_tf.runs.run"}


def test_no_circle_of_imports():
    graph = {name: imported_by(name, path) - {name} for name, path in modules()}
    # The doors of folders import nothing by themselves.
    left = {n: {o for o in others if o in graph} for n, others in graph.items()}
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for name in free:
            del left[name]


def test_only_plots_import_matplotlib():
    found = {
        room_of(name)
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and "matplotlib" in (getattr(node, "module", None) or ast.dump(node))
    }
    assert found == {"plots"}


def test_public_names_are_listed_and_there():
    assert set(dir(iwae_tf)) == {
        *("IWAE", "Objective", "Draws", "Config", "Run", "run", "load"),
        *(
            "log_likelihood",
            "data",
            "zoo",
            "objectives",
            "pareto",
            "estimators",
            "weights",
            "likelihoods",
            "masks",
            "binary",
        ),
        *("posteriors", "generators", "inspection", "units", "annealing"),
        *("gradients", "plots", "proposals"),
    }
    for name in dir(iwae_tf):
        assert getattr(iwae_tf, name) is not None
    for folder in ("data", "measures", "models"):
        module = importlib.import_module(f"iwae_tf.{folder}")
        for name in dir(module):
            assert getattr(module, name) is not None


def test_import_loads_no_tensorflow_and_sets_the_backend_only():
    code = (
        "import os, sys; before = dict(os.environ); import iwae_tf; dir(iwae_tf);"
        "heavy = {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "assert os.environ == before | {'KERAS_BACKEND': 'tensorflow'}"
    )
    for backend, n_lines in (("", 0), ("tensorflow", 0), ("jax", 1)):
        environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
        environment |= {"KERAS_BACKEND": backend} if backend else {}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stderr.splitlines()) == n_lines, done.stderr
        assert ("KERAS_BACKEND" in done.stderr) == (n_lines == 1)
