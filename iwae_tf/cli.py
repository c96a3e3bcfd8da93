"""The command line: flags made from `Config`, and errors in one line."""

from iwae_tf import signals

signals.keep_ctrl_c_quiet()  # before the imports below, which take a while

import contextlib
import dataclasses
import io
import logging as standard_logging
import os
import re
import shutil
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from absl import app, flags, logging

import iwae_tf
from iwae_tf import rules
from iwae_tf.data import datasets
from iwae_tf.errors import (
    Diverged,
    UsageError,
    WorkerLost,
    check_place_for_directory,
    check_utf8,
    place_for_directory,
)
from iwae_tf.runs import clusters, pretrained, programs, progress
from iwae_tf.runs.config import GROUPS, Config, element_of, help_of, kind_of
from iwae_tf.runs.run import Run
from iwae_tf.terminal import print_error

FLAGS = flags.FLAGS
_ARGUMENTS = tuple(sys.argv)  # for the processes of --ray
_SHARING = ("only", "ray", "cpus_per_run", "gpus_per_run")

# Options that every task offers; the experiment sets the others.
TASK_OPTIONS = (
    "dataset",
    "data_dir",
    "offline",
    "device",
    "devices",
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
      names: names of the fields to define, by default all.
      **defaults: defaults that differ from those of `Config`.
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


def help_text(description: str) -> str:
    """The help text of a command: its description, and its flags group by group.

    Args:
      description: the text above the flags.
    """
    width = min(shutil.get_terminal_size().columns, 88)
    own = (
        ("smoke", "task_dir", "run_dir", "pretrained", *_SHARING)
        if "smoke" in FLAGS
        else ()
    )
    groups = dict.fromkeys(("grid", "seeds", *own), "task")
    groups |= dict.fromkeys(
        ("sort", "where", "format", "out", "n", "label", "split"), "command"
    )
    for field in dataclasses.fields(Config):
        groups.setdefault(field.name, field.metadata["group"])
    lines = [description.strip()]
    for group, heading in {"task": "Task", "command": "Command", **GROUPS}.items():
        names = [n for n in groups if groups[n] == group and n in FLAGS]
        if names:
            lines += ["", f"{heading}:"]
        for name in names:
            flag = FLAGS[name]
            no = "[no]" if flag.boolean else ""
            default = str(flag.default_as_str or "").strip("'").removeprefix("[]")
            default = f"  (default: {default})" if default else ""
            lines.append(f"  --{no}{name}{default}")
            text, *_ = flag.help.split(";\n    repeat")  # which absl has added
            wrapped = textwrap.wrap(text, width - 6, break_on_hyphens=False)
            lines += (f"      {line}" for line in wrapped)
    lines += ["", "  -h, --help  shows this text", "  --version   shows the version"]
    return "\n".join(lines)


def config_from_flags(rest: Sequence[str] = ()) -> Config:
    """The options given on the command line.

    Args:
      rest: the arguments that are no flags.

    Raises:
      UsageError: if a value breaks a rule, or there are such arguments.
    """
    if rest:
        raise UsageError(f"arguments: must all be --flags, got {rest[0]!r}")
    return Config(**values_from_flags())


def values_from_flags() -> dict:
    """The values of the fields of `Config` that the flags give.

    Raises:
      UsageError: if a value is not of the kind of its flag.
    """
    names = [field.name for field in dataclasses.fields(Config) if field.name in FLAGS]
    values = {name: FLAGS[name].value for name in names}
    if "smoke" in FLAGS and FLAGS.smoke:
        values |= {n: v for n, v in SMOKE.items() if not FLAGS[n].present}
    if "task_dir" in FLAGS:  # a task, whose --run_dir names finished runs
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
                    f"{name}: must not be given with --pretrained, which has its own "
                    f"options, got {FLAGS[name].value}"
                )
    for field in dataclasses.fields(Config):
        if kind_of(field) is tuple and values.get(field.name) is not None:
            words = values[field.name]
            values[field.name] = _numbers(field.name, words, element_of(field))
    return values


def _given():
    """The finished runs that the user has named for a task."""
    if "task_dir" not in FLAGS or "run_dir" not in FLAGS:
        return []
    for path in FLAGS.run_dir:
        check_utf8(run_dir=path)
    return [*map(Run, FLAGS.run_dir), *map(pretrained.run_of, FLAGS.pretrained)]


def _numbers(name, words, element):
    try:
        return tuple(element(word) for word in words)
    except ValueError:
        kind = "whole numbers" if element is int else "numbers"
        raise UsageError(
            f"{name}: must be {kind} separated by commas, got {','.join(words)!r}"
        ) from None


def _parse(argv, description, read):
    if {"-h", "-help", "--help"} & set(argv[1:]):
        print(help_text(description))
        sys.exit(0)
    if "--version" in argv[1:]:
        print(f"iwae_tf {iwae_tf.__version__}")
        sys.exit(0)
    try:
        return read(FLAGS(argv)[1:])
    except (flags.Error, UsageError) as error:
        _fail(error)


def _fail(error):
    print_error(" ".join(str(error).split()))
    sys.exit(2)


def checked(config: Config) -> Config:
    """A `Config` whose data set is found and fits it, before TensorFlow is imported."""
    if config.run_dir:
        check_place_for_directory("run_dir", Path(config.run_dir))
    place = config.data_dir, config.offline
    dataset = datasets.resolve(config.dataset, *place)
    if not _given():  # which need no training
        n_train, n_test = datasets.sizes(dataset, *place)
        rules.check_validation(config.validation, n_train, n_test)
        rules.check_batch_size(config.batch_size, n_train - config.validation)
    return dataclasses.replace(config, dataset=dataset)


def _run(function, options):
    """Calls a function with options; turns errors into messages and exit codes.

    Errors of the system are left to `command`, which meets them at its last flush too.
    """
    logging.set_verbosity(logging.WARNING)
    # TensorFlow warns if a process with many models traces many functions.
    standard_logging.getLogger("tensorflow").setLevel("ERROR")
    try:
        with signals.handled_by(signals.interrupt), signals.none_lost():
            function(options)
    except UsageError as error:
        _fail(error)
    except Diverged as error:
        if not progress.is_silent():  # the first worker says it
            print_error(str(error))
        sys.exit(1)
    except WorkerLost as error:
        print_error(str(error))
        os._exit(os.EX_TEMPFAIL)  # An exit in order would wait for the lost worker.
    except KeyboardInterrupt as error:
        sys.exit(128 + getattr(error, "signum", signal.SIGINT))


_NOISE = re.compile(
    rb"WARNING: All log messages before absl|[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] "
    rb"|To enable the following instructions|.*Unable to register cu"
)


def import_tensorflow() -> None:
    """Imports TensorFlow without what it writes into the terminal every time.

    It writes some lines before it looks at TF_CPP_MIN_LOG_LEVEL. Other lines that come
    meanwhile are shown. If the user has set that variable, all are.
    """
    if "tensorflow" not in sys.modules:
        programs.keep()
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or "tensorflow" in sys.modules:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            kept.seek(0)
            told = [line for line in kept if not _NOISE.match(line)]
            os.write(2, b"".join(told))


def command(
    function: Callable,
    description: str,
    read: Callable[[Sequence[str]], object] = config_from_flags,
) -> None:
    """Runs a command: parses its flags, and tells errors in one line.

    Args:
      function: takes what `read` returns.
      description: the text above the flags in `--help`.
      read: makes options of the flags; takes the arguments that are no flags.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app.run(
                lambda options: _run(function, options),
                flags_parser=lambda argv: _parse(argv, description, read),
            )
        finally:
            sys.stdout.flush()
    except OSError as error:
        # What is still to be written would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has ended, as `head` does
            sys.exit(128 + 13)
        file = error.filename or "the output"
        why = error.strerror or str(error).split("\n")[0]
        print_error(f"{file}: {why}; the same command goes on once this is mended")
        sys.exit(1)


def task(
    function: Callable,
    path: str,
    run_dir: str | None = None,
    check: Callable[[Config], object] = lambda config: None,
    **defaults,
) -> None:
    """Runs the command of a task.

    Args:
      function: performs the task; takes an `iwae_tf.runs.task.Task`.
      path: the path of the task's file.
      run_dir: describes the runs that --run_dir may name; None for no such flag.
      check: checks flags of the task's own before TensorFlow is imported.
      **defaults: the defaults of --epochs, and of the fields of `Config` that this task
        offers in addition to `TASK_OPTIONS`.
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
            "Directories of finished runs to use in place of training new ones: "
            f"{run_dir}",
        )
        flags.DEFINE_list(
            "pretrained",
            [],
            "Names of trained models of the package to use in place of new runs.",
        )

    flags.DEFINE_string(
        "only",
        None,
        "Do a share of the runs only, such as 2/8 for the second of eight, as one job "
        "of an array. The command without --only does what is left and makes the "
        "table.",
    )

    flags.DEFINE_string(
        "ray",
        None,
        "Do the runs on a Ray cluster of this address, or as processes of this "
        "machine if it is local. It needs the extra [ray].",
    )
    flags.DEFINE_float(
        "cpus_per_run", 1.0, "With --ray, the number of cores of each run.", 0.0
    )
    flags.DEFINE_float(
        "gpus_per_run", 0.0, "With --ray, the number of GPUs of each run.", 0.0
    )

    def run(config):
        only = None if FLAGS.only is None else rules.share_of(only=FLAGS.only)
        if only and _given():
            raise UsageError(
                "only: must be without --run_dir and --pretrained, which leave nothing "
                f"to train, got {FLAGS.only}"
            )
        if FLAGS.ray and (only or _given()):
            raise UsageError(
                "ray: must be without --only, --run_dir and --pretrained, got "
                f"{FLAGS.ray}"
            )
        config = checked(config)
        check(config)
        default = Path("runs") / (f"{name}-smoke" if FLAGS.smoke else name)
        directory = Path(FLAGS.task_dir or default)
        check_utf8(task_dir=str(directory))
        with place_for_directory("task_dir", directory):
            directory.mkdir(parents=True, exist_ok=True)
        import_tensorflow()
        from iwae_tf.runs.task import ShareDone, Task

        def do(only):
            """Does a share of the task, or all of it; returns the number of jobs."""
            task = Task(name, config, directory, FLAGS.smoke, _given(), only)
            with contextlib.suppress(ShareDone):
                function(task)
            return task.n_jobs

        if FLAGS.ray:
            n, cores = do(only=(-1, 1)), (FLAGS.cpus_per_run, FLAGS.gpus_per_run)
            clusters.submit(
                [sys.executable, *_ARGUMENTS, "--ray="], n, FLAGS.ray, *cores, directory
            )
        do(only)
        if only:
            print(f"share {FLAGS.only} is done; the command without --only joins all")

    command(run, sys.modules[function.__module__].__doc__)
