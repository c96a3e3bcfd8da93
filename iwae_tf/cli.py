"""The command line: flags made from `Config`, and errors of one line."""

import dataclasses
import logging as standard_logging
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path

from absl import app, flags, logging

import iwae_tf
from iwae_tf.data import datasets
from iwae_tf.errors import Diverged, UsageError, place_for_directory
from iwae_tf.runs import pretrained
from iwae_tf.runs import run as records
from iwae_tf.runs.config import Config

FLAGS = flags.FLAGS


# What a task lets its user choose; the rest is the experiment's own.
TASK_OPTIONS = (
    "dataset",
    "data_dir",
    "offline",
    "device",
    "jit",
    "epochs",
    "batch_size",
    "schedule",
    "learning_rate",
    "seed",
    "eval_samples",
    "eval_images",
    "rescore",
)
SMOKE = {"dataset": "digits", "epochs": 1, "eval_samples": 64, "jit": False}


def define_flags(names: Collection[str] | None = None, **defaults) -> None:
    """Defines one flag for each field of `Config`.

    Args:
      names: only these fields.
      **defaults: of fields that have another default here.
    """
    kinds = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        if names is not None and field.name not in names:
            continue
        kind, help = kinds[field.name], field.metadata["help"]
        if defaults.get(field.name) is not None:
            help = re.sub("[,;] by default .*", ".", help)
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        if "choices" in field.metadata:
            help += f" One of: {', '.join(field.metadata['choices'])}."
        define = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }.get(kind, flags.DEFINE_list)
        define(field.name, defaults.get(field.name, field.default), help)
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[field.name])


def config_from_flags() -> Config:
    """The options that the command line gives.

    Raises:
      UsageError: for a value that breaks a rule.
    """
    names = [field.name for field in dataclasses.fields(Config) if field.name in FLAGS]
    values = {name: FLAGS[name].value for name in names}
    if "smoke" in FLAGS and FLAGS.smoke:
        values |= {n: v for n, v in SMOKE.items() if not FLAGS[n].present}
    if "task_dir" in FLAGS:  # where --run_dir names runs to look at
        values.pop("run_dir", None), values.pop("pretrained", None)
        given = _given()
        if given and not FLAGS["dataset"].present:
            values["dataset"] = _dataset_of(given[0])
    elif values["pretrained"]:
        values["dataset"] = _dataset_of(pretrained.directory(values["pretrained"]))
        for name in Config().of_run():
            if FLAGS[name].present:
                raise UsageError(
                    f"{name}: goes without --pretrained, whose options are its own, "
                    f"got {FLAGS[name].value}"
                )
    for name in ("n_latent", "n_hidden", "flow_hidden"):
        if values.get(name) is not None:
            values[name] = _integers(name, values[name])
    return Config(**values)


def _dataset_of(run_dir):
    return records.read_report(run_dir)["data"]["name"]


def _given():
    """Directories of the finished runs that a task is to look at."""
    if "run_dir" not in FLAGS:
        return []
    return [*FLAGS.run_dir, *map(pretrained.directory, FLAGS.pretrained)]


def _integers(name, words):
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise UsageError(
            f"{name}: must be whole numbers with commas between, "
            f"got {','.join(words)!r}"
        ) from None


def _parse(argv):
    try:
        rest = FLAGS(argv)
        if len(rest) > 1:
            raise UsageError(f"arguments: must all be --flags, got {rest[1]!r}")
        return config_from_flags()
    except SystemExit:  # absl's --help leaves with 1
        sys.exit(0)
    except (flags.Error, UsageError) as error:
        _fail(error)


def _fail(error):
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def _run(function, config):
    """Calls a function of a `Config` and turns errors into lines and statuses."""
    logging.set_verbosity(logging.WARNING)
    # It warns that a process with many models traces many functions.
    standard_logging.getLogger("tensorflow").setLevel("ERROR")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        # Before TensorFlow is imported: what is missing is told at once.
        dataset = datasets.resolve(config.dataset, config.data_dir, config.offline)
        function(dataclasses.replace(config, dataset=dataset))
    except UsageError as error:
        _fail(error)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _command(function):
    try:
        try:
            app.run(lambda config: _run(function, config), flags_parser=_parse)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)


def main() -> None:
    """The console command `iwae`, and `main.py`."""
    define_flags()

    _command(lambda config: iwae_tf.run(config))


def task(function: Callable, path: str, run_dir: str | None = None, **defaults) -> None:
    """The command of a task.

    Args:
      function: does the task; gets an `iwae_tf.task.Task`.
      path: the task's file.
      run_dir: what --run_dir may name, if the task can do with finished runs.
      **defaults: of --epochs, and of fields of `Config` that this task offers beside
        `TASK_OPTIONS`.
    """
    name = Path(path).stem
    define_flags({*TASK_OPTIONS, *defaults}, **defaults)
    flags.DEFINE_boolean(
        "smoke", False, "Only see whether it works, on digits, in a minute or so."
    )
    flags.DEFINE_string(
        "task_dir",
        None,
        f"Where the task's runs, figure and table live, by default runs/{name}; "
        "finished runs in it are not trained again.",
    )
    own = ["smoke", "task_dir"]
    if run_dir is not None:
        flags.DEFINE_list("run_dir", [], f"Finished runs to look at instead: {run_dir}")
        flags.DEFINE_list(
            "pretrained", [], "Trained models of the package to look at instead."
        )
        own += ["run_dir", "pretrained"]
    for flag in own:
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[flag])

    def run(config):
        default = Path("runs") / (f"{name}-smoke" if FLAGS.smoke else name)
        directory = Path(FLAGS.task_dir or default)
        with place_for_directory("task_dir", directory):
            directory.mkdir(parents=True, exist_ok=True)
        from iwae_tf.runs.task import Task  # imports TensorFlow, which talks

        function(Task(name, config, directory, FLAGS.smoke, _given()))

    _command(run)
