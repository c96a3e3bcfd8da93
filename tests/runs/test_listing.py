"""Tests of iwae_tf.runs.listing, iwae_tf.runs.tables and of `iwae runs`."""

import csv
import io
import json
import subprocess
import sys

import pytest
from test_files import cells_of
from test_results import report, write

from iwae_tf.errors import UsageError
from iwae_tf.files import write_json
from iwae_tf.runs import listing, tables
from iwae_tf.runs.config import Config
from iwae_tf.runs.rows import COLUMNS


def finished(folder, log_px=-88.1266, is_density=False, train_seconds=60.0, **config):
    value = report(**config) | {"train_seconds": train_seconds}
    value["test"]["log_likelihood"] = log_px
    if is_density:
        value["test"]["is_density"] = True
    write(folder, value)


def unfinished(folder, n_epochs, **options):
    folder.mkdir()
    config = Config(**({"dataset": "mnist", "epochs": 20} | options))
    facts = {"name": config.dataset, "image_shape": [28, 28, 1]}
    write_json(folder / "config.json", {"config": config.of_run(), "data": facts})
    rows = [
        {"epoch": i, "step": 3 * i, "seconds": 2.5 * i, "test_bound": -100.0 + i}
        for i in range(1, n_epochs + 1)
    ]
    cells = [[str(row.get(name, "")) for name in COLUMNS] for row in rows]
    lines = [",".join(line) + "\n" for line in (COLUMNS, *cells)]
    (folder / "metrics.csv").write_text("".join(lines))


@pytest.fixture
def runs(tmp_path):
    """Log p(x) falls from a to c; d is a density, and e has not finished."""
    finished(tmp_path / "a", -80.0, train_seconds=3661.2)
    finished(tmp_path / "deep" / "b", -85.0, stochastic_layers=2, seed=7)
    finished(tmp_path / "c", -90.0, n_samples=50, grow_samples=True)
    own = {"likelihood": "gaussian", "binarization": "none", "n_latent": [3]}
    finished(tmp_path / "d", 12.0, True, **own)
    unfinished(tmp_path / "e", 4)
    return tmp_path


def names(rows):
    return [row["name"] for row in rows]


def test_row_of_a_finished_run_is_its_report(tmp_path):
    finished(tmp_path / "deep" / "run")
    assert listing.table(tmp_path) == [
        {
            "name": "deep/run",
            "dataset": "mnist",
            "objective": "iwae_elbo",
            "layers": 1,
            "k": 5,
            "epochs": 60,
            "seed": 123,
            "log_px": -88.1266,
            "standard_error": 0.2345,
            "elbo": -89.5,
            "active_units": (2,),
            "training_time": 60.0,
            "quantity": "test log p(x)",
        }
    ]
    assert names(listing.table(tmp_path / "deep" / "run")) == ["run"]


def test_run_that_is_not_finished_has_its_epoch_and_bound_so_far(tmp_path):
    unfinished(tmp_path / "run", 4, likelihood="student_t")
    unfinished(tmp_path / "new", 0, likelihood="student_t", validation=50)
    new, run = sorted(listing.table(tmp_path), key=lambda row: row["name"])
    assert (run["epochs"], run["planned_epochs"], run["bound"]) == (4, 20, -96.0)
    assert run["training_time"] == 10.0 and run["log_px"] is None
    assert run["quantity"] == "test log density p(x)"
    assert (new["epochs"], new["planned_epochs"], new["bound"]) == (0, 20, None)
    assert new["quantity"] == "validation log density p(x)"


def test_run_whose_epochs_have_grown_is_not_finished(tmp_path):
    unfinished(tmp_path / "run", 4, schedule="constant")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    value = report(epochs=2) | {"config": record["config"] | {"epochs": 2}}
    (tmp_path / "run" / "report.json").write_text(json.dumps(value))
    (row,) = listing.table(tmp_path)
    assert (row["epochs"], row["planned_epochs"], row["log_px"]) == (4, 20, None)


def test_start_and_best_epoch_have_columns_if_a_run_has_them(tmp_path):
    finished(tmp_path / "a")
    init = {"run": "a", "objective": "vae_elbo", "n_samples": 1, "step": 9}
    init["weights_sha256"] = "0"
    early = {"early_stopping": 3, "validation": 9}
    write(tmp_path / "b", report(**early) | {"init": init, "best_epoch": 31})
    a, b = listing.table(tmp_path, sort="name")
    assert (a["after"], a["best_epoch"]) == (None, None)
    assert (b["after"], b["best_epoch"]) == ("VAE, k = 1", 31)


def test_options_have_columns_if_they_differ_among_the_rows(runs):
    always = {"name", "dataset", "objective", "layers", "k", "epochs", "seed"}
    always |= {"log_px", "standard_error", "elbo", "active_units", "training_time"}
    always |= {"quantity"}
    (row, *_) = listing.table(runs)
    started = {"bound", "planned_epochs"}
    options = {"grow_samples", "likelihood", "n_latent", "binarization"}
    assert {*row} == always | started | options
    (row, *_) = listing.table(runs, ["epochs=60", "quantity=test log p(x)"])
    assert {*row} == always | {"grow_samples"}
    (row,) = listing.table(runs, ["seed=7"])
    assert {*row} == always


def test_densities_come_last_and_unknown_values_after_known_ones(runs):
    table = listing.table
    assert names(table(runs, sort="log_px")) == ["c", "deep/b", "a", "e", "d"]
    assert names(table(runs, sort="-log_px")) == ["a", "deep/b", "c", "e", "d"]
    assert names(table(runs, sort="-elbo"))[-1] == "d"
    assert names(table(runs, sort="bound"))[0] == "e"
    assert names(table(runs, sort="-training_time"))[0] == "a"
    # By data set, layers, objective, k, epochs and seed.
    assert names(table(runs)) == ["e", "a", "c", "deep/b", "d"]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        (["k=50"], "c"),
        (["k=50.0"], "c"),
        (["grow_samples=True"], "c"),
        (["grow_samples=true"], "c"),
        (["n_latent=3"], "d"),
        (["planned_epochs=20"], "e"),
        (["planned_epochs=none", "layers=2"], "deep/b"),
        (["objective=iwae_elbo", "log_px=-80"], "a"),
        (["beta=1", "name=a"], "a"),  # an option of all runs has no column
    ],
)
def test_conditions_choose_rows(conditions, found, runs):
    assert names(listing.table(runs, conditions)) == [found]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sort": "log_p"}, "sort: must name one of the columns name, dataset, .*"),
        ({"sort": "-x"}, "sort: .*, binarization, .*likelihood.*, got '-x'"),
        ({"where": ["lay=2"]}, "where: must name one of the columns .* mean layers?"),
        ({"where": ["k"]}, "where: must be COLUMN=VALUE, such as .*, got 'k'"),
        ({"where": ["k=3"]}, "where: .* one run, got 'k=3'; k is 5, 50"),
    ],
)
def test_bad_columns_and_conditions_are_one_line(options, says, runs):
    with pytest.raises(UsageError, match=f"^{says}") as raised:
        listing.table(runs, **options)
    assert "\n" not in str(raised.value)


def test_directory_without_runs_is_one_line(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="^directory: must have runs below it"):
            listing.table(place)


def test_damaged_run_is_left_out_with_a_warning(runs):
    (runs / "a" / "report.json").write_text("{")
    with pytest.warns(UserWarning, match="a is left out: run_dir: must hold a fin"):
        assert names(listing.table(runs)) == ["e", "c", "deep/b", "d"]


def test_csv_has_every_value_in_full(runs):
    rows = listing.table(runs)
    header, *lines = csv.reader(io.StringIO(tables.as_csv(rows)))
    assert header == [*rows[0]] and len(lines) == 5
    found = dict(zip(header, lines[1], strict=True))
    assert found["log_px"] == "-80.0" and found["standard_error"] == "0.2345"
    assert found["training_time"] == "3661.2" and found["n_latent"] == ""
    assert found["grow_samples"] == "false" and found["active_units"] == "2"
    assert lines[-1][header.index("quantity")] == "test log density p(x)"


def test_markdown_has_a_table_for_densities(runs):
    finished(runs / "x|y", -80.0, seed=1)
    text = tables.as_markdown(listing.table(runs))
    title, table, of_density, density = text.split("\n\n")
    assert title.startswith("test log p(x), nats")
    assert of_density.startswith("test log density p(x), nats")
    header, rule, *rows = table.splitlines()
    header, *rows = map(cells_of, (header, *rows))
    assert {len(row) for row in rows} == {len(header)} and len(rows) == 5
    assert len(rule.strip("|").split("|")) == len(header)
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert found["a"]["log_px"] == "-80.00 ± 0.23"
    assert found["a"]["training_time"] == "1:01:01" and found["a"]["bound"] == "—"
    assert found["e"]["epochs"] == "4 of 20" and found["e"]["bound"] == "-96.00"
    assert "x|y" in found
    assert "12.00 ± 0.23" in density and "12.00" not in table


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_text_fits_the_terminal(width, runs):
    finished(runs / ("long" * 20) / "end", seed=3)
    rows = listing.table(runs)
    text = tables.as_text(rows, width)
    assert max(map(len, text.splitlines())) <= width
    *_, line = (line for line in text.splitlines() if "…" in line)
    assert line.startswith("long") and "ong/end  " in line and "-88.13 ± 0.23" in line
    assert tables.as_text(rows).count("long" * 20 + "/end ") == 1


def test_what_has_no_room_is_told(runs):
    text = tables.as_text(listing.table(runs, ["quantity=test log p(x)"]), 64)
    (above,) = (line for line in text.splitlines() if line.startswith("in all rows: "))
    assert "dataset mnist" in above and "objective iwae_elbo" in above
    below = text.partition("left out, as the terminal is narrow: ")[2]
    assert "grow_samples" in below and "dataset" not in below


def test_frame_is_the_table(runs):
    pytest.importorskip("pandas", reason="needs the extra [pandas]")
    found = listing.frame(runs, ["layers=1"], "-log_px")
    rows = listing.table(runs, ["layers=1"], "-log_px")
    assert [*found.columns] == [*rows[0]] and [*found["name"]] == names(rows)
    assert found["log_px"].max() == 12.0


def test_frame_without_pandas_is_one_line(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"^frame: needs .*'iwae_tf\[pandas\]'"):
        listing.frame(runs)


def iwae(*words, cwd):
    """Runs the console command, which must not import TensorFlow."""
    code = (
        "import sys\nfrom iwae_tf.commands import main\n"
        "try: main()\nfinally: assert 'tensorflow' not in sys.modules"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_command_prints_or_writes_the_table(runs):
    done = iwae("runs", ".", "--sort", "-log_px", "--where", "layers=1", cwd=runs)
    assert (done.returncode, done.stderr) == (0, "")
    rows = listing.table(runs, ["layers=1"], "-log_px")
    assert done.stdout == f"{tables.as_text(rows)}\n"
    for form, made in (("csv", tables.as_csv), ("markdown", tables.as_markdown)):
        words = (".", "--where=k=5", "--where=seed=7", f"--format={form}")
        done = iwae("runs", *words, "--out=new/table", cwd=runs)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        want = made(listing.table(runs, ["k=5", "seed=7"]))
        assert (runs / "new" / "table").read_text("utf-8") == f"{want}\n"


def test_command_warns_of_a_damaged_run_beside_the_table(runs):
    (runs / "a" / "report.json").write_text("{")
    done = iwae("runs", ".", "--format=csv", cwd=runs)
    assert done.returncode == 0 and done.stderr.startswith("warning: a is left out")
    assert done.stdout.count("\n") == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "arguments: must be one DIR with runs below it, got []"),
        ((".", "."), "arguments: must be one DIR"),
        (("none",), "directory: must have runs below it, got 'none'"),
        ((".", "--sort=x"), "sort: must name one of the columns name, dataset, obj"),
        ((".", "--where=x=1"), "where: must name one of the columns name, dataset"),
        ((".", "--format=xml"), "flag --format=xml: value should be one of"),
        ((".", "--out=a"), "out: must be a file, got the directory 'a'"),
        ((".", "--out=a/report.json/x"), "out: must be a directory or a place for"),
    ],
)
def test_bad_arguments_are_one_line(words, says, runs):
    done = iwae("runs", *words, cwd=runs)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {says}"), line


def test_help_says_what_the_commands_do(tmp_path):
    for command in ("runs", "compare"):
        done = iwae(command, "--help", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Usage: iwae {command} " in done.stdout
    whole = iwae("--help", cwd=tmp_path).stdout
    assert "iwae runs " in whole and "iwae compare " in whole
