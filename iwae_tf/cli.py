"""The command line: flags made from `Config`, and errors of one line."""

import dataclasses
import os
import sys
import types
import typing

from absl import app, flags, logging

from iwae_tf import datasets
from iwae_tf.config import Config
from iwae_tf.errors import Diverged, UsageError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines one flag for each field of `Config`."""
    kinds = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        kind, help = kinds[field.name], field.metadata["help"]
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
        define(field.name, field.default, help)
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[field.name])


def config_from_flags() -> Config:
    """The options that the command line gives.

    Raises:
      UsageError: for a value that breaks a rule.
    """
    values = {
        field.name: FLAGS[field.name].value for field in dataclasses.fields(Config)
    }
    for name in ("n_latent", "n_hidden"):
        if values[name] is not None:
            values[name] = _integers(name, values[name])
    return Config(**values)


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


def _main(config):
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        # Before TensorFlow is imported: what is missing is told at once.
        dataset = datasets.resolve(config.dataset, config.data_dir, config.offline)
        from iwae_tf import experiment

        experiment.run(dataclasses.replace(config, dataset=dataset))
    except UsageError as error:
        _fail(error)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    """The console command `iwae`, and `main.py`."""
    define_flags()
    app.run(_main, flags_parser=_parse)
