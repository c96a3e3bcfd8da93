"""All runs below a directory as the rows of one table.

`table` reads finished runs from their `report.json`, and the others from `config.json`
and `metrics.csv`. TensorFlow is not imported.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iwae_tf import rules
from iwae_tf.errors import UsageError, closest
from iwae_tf.runs import names, records, reports
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run
from iwae_tf.runs.tables import plain

if TYPE_CHECKING:
    import pandas

# Columns of every table, and those that it has only if a run has a value there.
_ALWAYS = (
    *("name", "dataset", "objective", "layers", "k", "epochs", "seed"),
    *("log_px", "standard_error", "elbo", "active_units", "training_time", "quantity"),
)
_IF_ANY = ("planned_epochs", "bound", "best_epoch", "after")
# Options that have a column of another name, or that of the data set's real name.
_RENAMED = {"stochastic_layers": "layers", "n_samples": "k"}
OPTIONS = tuple(name for name in Config().of_run() if name not in (*_RENAMED, *_ALWAYS))
_ORDER = ("dataset", "layers", "objective", "k", "epochs", "seed", "name")
_FEW = 20  # values of a column that a message lists


def table(
    directory: str | Path, where: Sequence[str] = (), sort: str | None = None
) -> list[dict]:
    """All runs below a directory, one row each.

    The columns of every row, in their order:
      name: the path of the run below `directory`.
      dataset, objective, layers, k, seed: of the run.
      epochs: the number of epochs trained so far.
      log_px, standard_error, elbo: estimates for the test images, nats per image.
      active_units: a tuple of their numbers, bottom-up.
      training_time: seconds so far.
      quantity: what `log_px` is, such as "test log p(x)". Densities of continuous data
        come after log-probabilities, however the rows are sorted.

    Columns that are there if a run has a value:
      planned_epochs, bound: of runs that are not finished, the epochs of the whole
        training and the test bound after the last epoch so far, nats per image.
      best_epoch: the epoch that early stopping chose.
      after: the run from which the training started, such as VAE k = 1.

    Options of the run follow if they differ among the rows. A value that a run lacks is
    None.

    Args:
      directory: searched at any depth for runs. Damaged ones are left out with a
        warning.
      where: conditions such as "dataset=mnist", which all rows must fulfil. They may
        name any option of a run.
      sort: a column, with a minus before it from the largest value to the smallest.
        Rows without a value come last. By default rows are sorted by data set, layers,
        objective, k, epochs and seed.

    Returns:
      rows: at least one.

    Raises:
      UsageError: if no run is left, or for a column that does not exist.
    """
    rows = _whole_rows(Path(directory))
    known = _columns(rows)
    for condition in where:
        rows = _fulfilling(rows, condition, known)
    for column in reversed(_ORDER):
        rows = _sorted(rows, column)
    if sort is not None:
        column = sort.removeprefix("-")
        _check_column(column, known, sort=sort)
        rows = _sorted(rows, column, is_descending=sort.startswith("-"))
    rows.sort(key=lambda row: ("density" in row["quantity"], row["quantity"]))
    return [{name: row[name] for name in _columns(rows)} for row in rows]


def frame(
    directory: str | Path, where: Sequence[str] = (), sort: str | None = None
) -> pandas.DataFrame:
    """The rows of `table` as a DataFrame of pandas.

    Args:
      directory: see `table`.
      where: likewise.
      sort: likewise.

    Raises:
      UsageError: if pandas is not installed, or as in `table`.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError(
            "frame: needs the package pandas, which `pip install 'iwae_tf[pandas]'` "
            "installs, got none"
        ) from None
    return pandas.DataFrame(table(directory, where, sort))


def _whole_rows(directory):
    """The rows of all runs with all their columns."""
    files = ("config.json", "report.json")
    found = {path.parent for name in files for path in directory.rglob(name)}
    rows = []
    for path in sorted(found):
        try:
            rows.append(_row(Run(path), directory))
        except UsageError as error:
            warnings.warn(f"{path} is left out: {error}", stacklevel=3)
    if not rows:
        raise UsageError(
            f"directory: must have runs below it, got {str(directory)!r} without any"
        )
    return rows


def _row(run, directory):
    is_finished = run.is_finished
    facts = run.report if is_finished else run.record
    config = records.config_of(facts)
    below = run.directory.relative_to(directory).as_posix()
    row = dict.fromkeys((*_ALWAYS, *_IF_ANY)) | config.of_run()
    row |= {own: row.pop(name) for name, own in _RENAMED.items()}
    row |= {
        "name": run.directory.resolve().name if below == "." else below,
        "dataset": facts["data"]["name"],
        "after": names.trained_as(facts["init"]) if "init" in facts else None,
    }
    return row | (_of_report(facts) if is_finished else _of_training(run, config))


def _of_report(report):
    test = report["test"]
    active = tuple(layer["n_active"] for layer in report.get("units", []))
    return {
        "epochs": report["epochs"],
        "best_epoch": report.get("best_epoch"),
        "log_px": test["log_likelihood"],
        "standard_error": test["standard_error"],
        "elbo": test["elbo"],
        "active_units": active or None,
        "training_time": report["train_seconds"],
        "quantity": reports.quantity(report),
    }


def _of_training(run, config):
    """What is known of a run that is not finished."""
    last = (run.rows() or [{}])[-1]
    test = {"is_density": config.likelihood in rules.DENSITIES}
    return {
        "epochs": int(last.get("epoch", 0)),
        "planned_epochs": config.epochs,
        "bound": float(last["test_bound"]) if last.get("test_bound") else None,
        "training_time": float(last["seconds"]) if last.get("seconds") else None,
        "quantity": reports.quantity({"config": config.of_run(), "test": test}),
    }


def _columns(rows):
    """The columns that rows need, in their order."""

    def values(name):
        return {row[name] for row in rows}

    return (
        *_ALWAYS,
        *(name for name in _IF_ANY if values(name) != {None}),
        *(name for name in OPTIONS if len(values(name)) > 1),
    )


def _check_column(name, known, /, **argument):
    if name not in (*known, *_IF_ANY, *OPTIONS):
        ((flag, value),) = argument.items()
        raise UsageError(
            f"{flag}: must name one of the columns {', '.join(known)}, got {value!r}"
            f"{closest(name, known)}"
        )


def _fulfilling(rows, condition, known):
    """The rows that fulfil a condition."""
    name, equals, value = condition.partition("=")
    if not equals:
        raise UsageError(
            f"where: must be COLUMN=VALUE, such as dataset=mnist, got {condition!r}"
        )
    _check_column(name, known, where=condition)
    found = [row for row in rows if _is(row[name], value)]
    if not found:
        ordered = _sorted(rows, name)
        there = dict.fromkeys(plain(row[name]) or "none" for row in ordered)
        some = f"; {name} is {', '.join(there)}" if len(there) <= _FEW else ""
        raise UsageError(f"where: must leave at least one run, got {condition!r}{some}")
    return found


def _is(value, text):
    """Whether a value of a row is what the user has written."""
    whole = plain(value) or "none"
    if whole.replace(" ", "").lower() == text.replace(" ", "").lower():
        return True
    try:
        return not isinstance(value, bool) and float(text) == value
    except ValueError:
        return False


def _sorted(rows, column, is_descending=False):
    def is_known(row):
        value = row[column]
        return not (value is None or (isinstance(value, float) and math.isnan(value)))

    known = filter(is_known, rows)
    ordered = sorted(known, key=lambda row: row[column], reverse=is_descending)
    return ordered + [row for row in rows if not is_known(row)]
