"""Reports of many runs as Markdown tables.

`python -m iwae_tf.runs.results DIRECTORY` writes tables of every `report.json` below a
directory into its `README.md`.
"""

import json
import statistics
import sys
from pathlib import Path

from iwae_tf.errors import UsageError, told_in_one_line
from iwae_tf.files import escaped, replace_between
from iwae_tf.runs.config import SCHEDULES
from iwae_tf.runs.names import flows
from iwae_tf.runs.progress import clock
from iwae_tf.runs.published import (
    EARLIER,
    EARLIER_GIVEN_Y,
    EARLIER_WITH_100_LATENTS,
    PAPER,
    PAPER_UNITS,
    family_and_k,
    is_other_model,
    paper_value,
)
from iwae_tf.runs.records import config_of
from iwae_tf.runs.reports import active_units, estimate, proposal
from iwae_tf.runs.run import Run

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def table(reports: list[dict]) -> str:
    """Reports as Markdown, sorted by data set, model and training.

    Densities of continuous data have a table of their own, because they cannot be
    compared with log-probabilities.
    """
    densities = [r for r in reports if r["test"].get("is_density")]
    others = [r for r in reports if not r["test"].get("is_density")]
    tables = [_table(others, "test log p(x)")] if others else []
    if densities:
        tables.append(_table(densities, "test log density p(x)"))
    return "\n\n".join(tables)


def _table(reports, score):
    header = (
        f"data | objective | layers | k | epochs | schedule | seed | {score} | "
        "paper | active units | training | scoring | commit"
    )
    rows = [_row(report) for report in sorted(reports, key=_key)]
    return markdown(header, "---|---|--:|--:|--:|---|--:|---|--:|--:|--:|--:|---", rows)


def table_of_paper(reports: list[dict]) -> str:
    """Table 1 of the paper beside the runs of the fast recipe; "" if there are none.

    With k = 1, VAE and IWAE are the same model. Of the runs of one row, only those with
    the most epochs count, and the first of each seed. A row without runs has dashes;
    DReG, and other k, have only rows with runs.
    """
    runs = _of_fast_recipe(reports)
    papers, earlier, units = map(_rows_of, (PAPER, EARLIER, PAPER_UNITS))
    rows = []
    for row in sorted({*papers, *runs}, key=_order):
        found = _found(runs.get(row, []))
        values = _value(papers.get(row)), _value(earlier.get(row)), *found[:5]
        rows.append((*row, *values, units.get(row, "—"), *found[5:]))
    header = (
        "layers | objective | k | paper | earlier | test log p(x) | of images | "
        "of scoring | over seeds | active units | paper | epochs | training | seeds | "
        "commit"
    )
    rule = "--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---"
    return markdown(header, rule, rows) if runs else ""


def table_of_earlier(reports: list[dict]) -> str:
    """The earlier reproduction's models with 100 latents beside ours; "" without runs.

    Runs count as in `table_of_paper`. Rows "given y" have log p(x|y).
    """
    latents = {"n_latent": [100]}
    given_y = latents | {"conditional": True, "conditional_prior": True}
    rows, is_empty = [], True
    for known, options, suffix in (
        (EARLIER_WITH_100_LATENTS, latents, ""),
        (EARLIER_GIVEN_Y, given_y, " given y"),
    ):
        runs = _of_fast_recipe(reports, options)
        for row, value in _rows_of(known).items():
            _, family, k = row
            is_empty = is_empty and row not in runs
            found = _found(runs.get(row, []))
            rows.append((family + suffix, k, _value(value), *found))
    header = (
        "objective | k | earlier | test log p(x) | of images | of scoring | "
        "over seeds | active units | epochs | training | seeds | commit"
    )
    rule = "---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---"
    return "" if is_empty else markdown(header, rule, rows)


def _of_fast_recipe(reports, options=None):
    """The runs of each row, of models that differ from the paper's by options only."""
    runs, options = {}, options or {}
    recipe = {"schedule": "fast"} | SCHEDULES["fast"] | options
    del recipe["epochs"]
    for report in sorted(reports, key=_key):
        config = report["config"]
        is_fast = all(config.get(name) == value for name, value in recipe.items())
        is_known = config["objective"] in ("vae_elbo", "iwae_elbo", "dreg")
        is_other = is_other_model(config | dict.fromkeys(options))
        if is_fast and is_known and not (is_other or _is_special(report)):
            family, k = family_and_k(config)
            row = config["stochastic_layers"], _of_one_sample(family, k), k
            runs.setdefault(row, []).append(report)
    for row, found in runs.items():
        most = max(report["epochs"] for report in found)
        of_seeds = {}
        for report in found:
            if report["epochs"] == most:
                of_seeds.setdefault(report["config"]["seed"], report)
        runs[row] = list(of_seeds.values())
    return runs


def _is_special(report):
    """Whether a run began with another's weights, or was scored by a proposal."""
    return "init" in report or bool(proposal(report))


def _of_one_sample(family, k):
    return "vae, iwae" if k == 1 and family in ("vae", "iwae") else family


def _rows_of(known):
    """Values by (family, layers) and k as values by row."""
    return {
        (layers, _of_one_sample(family, k), k): value
        for (family, layers), of in known.items()
        for k, value in of.items()
    }


def _order(row):
    return row[0], ("vae, iwae", "vae", "iwae", "dreg").index(row[1]), row[2]


def _value(value):
    return "—" if value is None else f"{value:.2f}"


def _found(runs):
    """What runs found: log p(x), three spreads, units, epochs, time, seeds, commits."""
    if not runs:
        return ["—"] * 9
    scores = [run["test"]["log_likelihood"] for run in runs]
    first = runs[0]
    noise = first["test"].get("scoring_error")
    seconds = [run["train_seconds"] for run in runs]
    return [
        _value(statistics.mean(scores)),
        _value(first["test"]["standard_error"]),
        "—" if noise is None else f"{noise:.4f}",
        _value(statistics.stdev(scores) if len(runs) > 1 else None),
        active_units(first),
        first["epochs"],
        clock(None if None in seconds else statistics.mean(seconds)),
        ", ".join(str(run["config"]["seed"]) for run in runs),
        ", ".join(dict.fromkeys(map(_commit, runs))),
    ]


def markdown(header: str, rule: str, rows: list[tuple]) -> str:
    """A Markdown table.

    Args:
      header: names of the columns, separated by bars.
      rule: the row below the header, such as "---|--:".
      rows: the cells of each row; text that may have bars must be `escaped`.
    """
    body = (f"| {' | '.join(map(str, cells))} |" for cells in rows)
    return "\n".join([f"| {header} |", f"|{rule}|", *body])


def table_over_seeds(reports: list[dict]) -> str:
    """One row for all runs that differ only in their seed; "" if there are none."""
    groups = {}
    for report in sorted(reports, key=_key):
        config = config_of(report).of_run() | {"seed": None}
        n_epochs = None if "best_epoch" in report else report["epochs"]
        same = (
            *(report["test"]["n_samples"], proposal(report)),
            *(n_epochs, _start(report)),
        )
        groups.setdefault((json.dumps(config, sort_keys=True), same), []).append(report)
    rows = []
    for group in groups.values():
        scores = {r["config"]["seed"]: r["test"]["log_likelihood"] for r in group}
        if len(scores) > 1:
            config, values = group[0]["config"], list(scores.values())
            rows.append(
                (
                    escaped(config["dataset"]),
                    _objective(config) + _start(group[0]),
                    config["stochastic_layers"],
                    config["n_samples"],
                    ", ".join(dict.fromkeys(map(_epochs, group))),
                    ", ".join(map(str, scores)),
                    f"{statistics.mean(values):.3f}{_beside(group[0])}",
                    f"{statistics.stdev(values):.3f}",
                )
            )
    header = (
        "data | objective | layers | k | epochs | seeds | mean test log p(x) | "
        "standard deviation"
    )
    return markdown(header, "---|---|--:|--:|--:|---|--:|--:", rows) if rows else ""


def _key(report):
    config = report["config"]
    return (
        config["dataset"],
        config["stochastic_layers"],
        config["objective"],
        config.get("n_groups", 1),
        config["n_samples"],
        report["epochs"],
        config["seed"],
    )


def _epochs(report):
    """The number of epochs, with early stopping after the best one."""
    best, n = report.get("best_epoch"), report["epochs"]
    return str(n) if best is None else f"{best} of {n}"


def _objective(config):
    text = f"`{config['objective']}`"
    if config.get("n_groups", 1) > 1:
        text += f" m = {config['n_groups']}"
    if config.get("combination_beta") is not None:
        text += f" c = {config['combination_beta']:g}"
    if config.get("renyi_alpha") is not None:
        text += f" alpha = {config['renyi_alpha']:g}"
    if config.get("temperatures") is not None:
        text += f" t = {', '.join(f'{t:g}' for t in config['temperatures'])}"
    if config.get("model", "burda") != "burda":
        text += f" {config['model']}"
    if config.get("feature_maps"):
        text += f", {config['feature_maps']} maps"
    if config.get("n_flows"):
        text += f", {flows(config['n_flows'], config.get('flow_normalisation'))}"
    if config.get("n_bounded"):
        text += f", tanh on {config['n_bounded']}"
    for name in ("likelihood", "standardize", "missing", "mask_input"):
        value = config.get(name)
        if value and value != "bernoulli":
            text += f" {name if value is True else value}"
    if config.get("validation"):
        text += " validation"
    if config["n_latent"]:
        text += f" z {' + '.join(map(str, config['n_latent']))}"
    if config.get("conditional"):
        text += " p(x given y)" + ", p(z given y)" * config["conditional_prior"]
    return text


def _schedule(config):
    """The schedule, and the options that differ from its defaults."""
    own = SCHEDULES[config["schedule"]]
    given = {name: config.get(name, value) for name, value in own.items()}
    text = config["schedule"]
    if given["optimizer"] != own["optimizer"]:
        text += f", {given['optimizer']}"
    if given["batch_size"] != own["batch_size"]:
        text += f", batches of {given['batch_size']}"
    if given["grow_samples"] != own["grow_samples"]:
        text += ", k grows" if given["grow_samples"] else ", k from the start"
    return text


def _start(report):
    init = report.get("init")
    return f" after `{init['objective']}` k = {init['n_samples']}" if init else ""


def _row(report):
    config, test = report["config"], report["test"]
    paper = paper_value(report)
    return (
        escaped(config["dataset"]),
        _objective(config) + _start(report),
        config["stochastic_layers"],
        config["n_samples"],
        _epochs(report),
        _schedule(config),
        config["seed"],
        f"{estimate(report)} (k = {test['n_samples']}, {test['n_images']:,} images"
        f"{_beside(report)})" + _bits(test),
        "—" if paper is None else f"{paper:.2f}",
        active_units(report),
        clock(report["train_seconds"]),
        clock(report["score_seconds"]),
        _commit(report),
    )


def _beside(report):
    return f", {proposal(report)}" if proposal(report) else ""


def _bits(test):
    bits = test.get("bits_per_dimension")
    return "" if bits is None else f", {bits:.3f} bits per dimension"


def _commit(report):
    return escaped((report["commit"] or "unknown")[:10])


def collect(directory: str | Path) -> Path:
    """Writes the tables of all reports below a directory into its `README.md`.

    Text around the tables is kept.

    Args:
      directory: searched for `report.json` at any depth.

    Returns:
      path: the path of the README.

    Raises:
      UsageError: if there are no reports, or the README has only a part of the marks
        around the tables.
    """
    paths = sorted(Path(directory).rglob("report.json"))
    if not paths:
        raise UsageError(
            f"directory: must have a report.json below it, got {str(directory)!r}"
        )
    readme = Path(directory) / "README.md"
    reports = [Run(path.parent).report for path in paths]
    parts = (
        f(reports) for f in (table_of_paper, table_of_earlier, table, table_over_seeds)
    )
    tables = "\n\n".join(filter(None, parts))
    if not readme.exists():
        readme.write_text("# Results\n", "utf-8")
    replace_between(readme, BEGIN, END, tables, "directory")
    return readme


if __name__ == "__main__":
    with told_in_one_line():
        if len(sys.argv) != 2:
            raise UsageError(f"arguments: must be one directory, got {sys.argv[1:]}")
        print(collect(sys.argv[1]))
