"""Trains a model for every combination of options and seed, and makes a table of them.

Examples:
  iwae sweep --grid n_samples=1,5,50 --grid objective=iwae_elbo,dreg --seeds 3
  iwae sweep --grid n_latent=50,100+50 --stochastic_layers 2 --ray local
"""

import dataclasses
import itertools

from absl import flags

from iwae_tf import cli
from iwae_tf.cli import FLAGS
from iwae_tf.errors import UsageError
from iwae_tf.runs.config import Config, element_of, kind_of

_FIXED = ("dataset", "binarization", "standardize", "validation", "seed")


def main() -> None:
    """Runs `iwae sweep`."""
    flags.DEFINE_multi_string(
        "grid",
        [],
        "An option and its values, such as n_samples=1,5,50. It may be given several "
        "times. Sizes of several layers, and temperatures, are joined by a plus, as in "
        "n_latent=100+50.",
    )
    flags.DEFINE_integer(
        "seeds", 1, "Number of seeds for each combination, from --seed on.", 1
    )
    own = ("run_dir", "pretrained", "rescore", "shard")
    others = {
        field.name: field.default
        for field in dataclasses.fields(Config)
        if field.name not in (*own, *cli.TASK_OPTIONS)
    }
    cli.task(runs_of, "sweep", check=combinations, **others)


def runs_of(task) -> None:
    """Trains all models; writes a table."""
    from iwae_tf.runs import results

    runs = [task.run(**options) for options in combinations(task.config)]
    task.check_whole()
    reports = [run.report for run in runs]
    tables = [results.table(reports), results.table_over_seeds(reports)]
    task.finish("\n\n".join(filter(None, tables)), title=task.images.name)


def combinations(config: Config) -> list[dict]:
    """The options of each run that differ from those of the sweep.

    Raises:
      UsageError: if an option or a value of `--grid` cannot be had.
    """
    grids = dict(map(_grid, FLAGS.grid))
    given = cli.values_from_flags() | {"dataset": config.dataset}
    found = []
    for values in itertools.product(*grids.values()):
        # What is filled in for options that are not given depends on those that are.
        own = Config(**(given | dict(zip(grids, values, strict=True))))
        for i in range(FLAGS.seeds):
            one = dataclasses.replace(own, seed=config.seed + i)
            found.append(
                {
                    name: value
                    for name, value in dataclasses.asdict(one).items()
                    if value != getattr(config, name)
                }
            )
    return found


def _grid(text):
    """The name and the values of one `--grid`."""
    name, _, words = text.partition("=")
    fields = {field.name: field for field in dataclasses.fields(Config)}
    options = [name for name in Config().of_run() if name not in _FIXED]
    if name not in options or not words:
        raise UsageError(
            "grid: must be an option of networks, objective or training with its "
            f"values, such as n_samples=1,5,50, got {text!r}"
        )
    try:
        return name, [_value(fields[name], word) for word in words.split(",")]
    except (KeyError, ValueError):
        raise UsageError(
            f"grid: must have values of the kind of {name}, got {text!r}"
        ) from None


def _value(field, word):
    kind = kind_of(field)
    if kind is bool:
        return {"true": True, "false": False}[word.lower()]
    if kind is tuple:
        return tuple(map(element_of(field), word.split("+")))
    return kind(word)
