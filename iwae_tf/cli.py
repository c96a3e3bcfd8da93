"""The command line: flags made from `Config`, and errors of one line."""

import dataclasses
import logging as standard_logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection
from pathlib import Path

from absl import app, flags, logging

import iwae_tf
from iwae_tf.data import datasets
from iwae_tf.errors import Diverged, UsageError, place_for_directory
from iwae_tf.runs import pretrained
from iwae_tf.runs.config import GROUPS, Config, help_of, kind_of
from iwae_tf.runs.run import Run

FLAGS = flags.FLAGS

DESCRIPTION = """Trains, scores and draws one importance weighted autoencoder.

Examples:
  iwae --n_samples 50 --objective iwae_elbo --stochastic_layers 2
  iwae --dataset digits --n_samples 50 --epochs 40
"""
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
      names: of the fields to define, by default all.
      **defaults: values of fields that have another default here.
    """
    for field in dataclasses.fields(Config):
        if names is not None and field.name not in names:
            continue
        define = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
            tuple: flags.DEFINE_list,
        }[kind_of(field)]
        default = defaults.get(field.name, field.default)
        define(field.name, default, help_of(field, with_default=default is None))


def help_text(description: str, title: str = "Task") -> str:
    """The description of a command and its flags, group by group.

    Args:
      description: what stands above the flags.
      title: of the group of flags that are not fields of `Config`.
    """
    width = min(shutil.get_terminal_size().columns, 88)
    fields = dataclasses.fields(Config)
    groups = {field.name: field.metadata["group"] for field in fields}
    own = [name for name in ("smoke", "task_dir") if name in FLAGS]
    if own:
        groups |= dict.fromkeys((*own, "run_dir", "pretrained"), "task")
    lines = [description.strip()]
    for group, heading in {"task": title, **GROUPS}.items():
        names = [n for n in groups if groups[n] == group and n in FLAGS]
        if names:
            lines += ["", f"{heading}:"]
        for name in names:
            flag = FLAGS[name]
            no = "[no]" if flag.boolean else ""
            default = (flag.default_as_str or "").strip("'")
            default = f"  (default: {default})" if default else ""
            lines.append(f"  --{no}{name}{default}")
            wrapped = textwrap.wrap(flag.help, width - 6, break_on_hyphens=False)
            lines += (f"      {line}" for line in wrapped)
    lines += ["", "  -h, --help  shows this text", "  --version   shows the version"]
    return "\n".join(lines)


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
            values["dataset"] = given[0].report["data"]["name"]
    elif values["pretrained"]:
        source = pretrained.run_of(values["pretrained"])
        values["dataset"] = source.report["data"]["name"]
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


def _given():
    """The finished runs that a task is to look at."""
    if "run_dir" not in FLAGS:
        return []
    return [*map(Run, FLAGS.run_dir), *map(pretrained.run_of, FLAGS.pretrained)]


def _integers(name, words):
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise UsageError(
            f"{name}: must be whole numbers with commas between, "
            f"got {','.join(words)!r}"
        ) from None


def _parse(argv, description):
    if {"-h", "-help", "--help"} & set(argv[1:]):
        print(help_text(description))
        sys.exit(0)
    if "--version" in argv[1:]:
        print(f"iwae_tf {iwae_tf.__version__}")
        sys.exit(0)
    try:
        rest = FLAGS(argv)
        if len(rest) > 1:
            raise UsageError(f"arguments: must all be --flags, got {rest[1]!r}")
        return config_from_flags()
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


def _command(function, description):
    try:
        try:
            app.run(
                lambda config: _run(function, config),
                flags_parser=lambda argv: _parse(argv, description),
            )
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)


def main() -> None:
    """The console command `iwae`, and `main.py`."""
    define_flags()
    _command(lambda config: iwae_tf.run(config), DESCRIPTION)


def task(function: Callable, path: str, run_dir: str | None = None, **defaults) -> None:
    """The command of a task.

    Args:
      function: does the task; gets an `iwae_tf.runs.task.Task`.
      path: the task's file.
      run_dir: what --run_dir may name, if the task can do with finished runs.
      **defaults: of --epochs, and of fields of `Config` that this task offers beside
        `TASK_OPTIONS`.
    """
    name = Path(path).stem
    define_flags({*TASK_OPTIONS, *defaults}, **defaults)
    flags.DEFINE_boolean(
        "smoke", False, "Only show that the task works, on digits, in about a minute."
    )
    flags.DEFINE_string(
        "task_dir",
        None,
        f"Directory for the runs, the figure and the table of the task. Finished runs "
        f"in it are not trained again. By default runs/{name}.",
    )
    if run_dir is not None:
        flags.DEFINE_list(
            "run_dir",
            [],
            "Directories of finished runs to look at in place of training new ones: "
            f"{run_dir}",
        )
        flags.DEFINE_list(
            "pretrained",
            [],
            "Names of trained models of the package to look at in place of new runs.",
        )

    def run(config):
        default = Path("runs") / (f"{name}-smoke" if FLAGS.smoke else name)
        directory = Path(FLAGS.task_dir or default)
        with place_for_directory("task_dir", directory):
            directory.mkdir(parents=True, exist_ok=True)
        from iwae_tf.runs.task import Task  # imports TensorFlow, which talks

        function(Task(name, config, directory, FLAGS.smoke, _given()))

    _command(run, sys.modules[function.__module__].__doc__)
