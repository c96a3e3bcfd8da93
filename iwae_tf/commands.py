"""The console command `iwae`: it trains a model, or uses a trained one."""

from iwae_tf import cli  # It keeps Ctrl-C quiet during the imports below.

import sys
from pathlib import Path

from absl import flags

import iwae_tf
from iwae_tf import sweep
from iwae_tf.cli import FLAGS
from iwae_tf.errors import UsageError, check_place_for_directory, check_utf8
from iwae_tf.runs.config import Config

DESCRIPTION = """Trains, scores and plots one importance weighted autoencoder.

Examples:
  iwae --n_samples 50 --objective iwae_elbo --stochastic_layers 2
  iwae --dataset digits --n_samples 50 --epochs 40
  iwae sample mnist_iwae_2l_k50 --out samples.png

iwae embed, iwae score and iwae sample use a trained model, and iwae sweep trains many;
each has a --help.
"""
# What the commands do that use a trained model, and the options of a run they take.
_OF_SCORES = (
    *("data_dir", "offline", "device", "jit", "seed"),
    *("eval_samples", "eval_images", "eval_chunk"),
)
USES = {
    "embed": (
        "Writes encodings, means of p(z|x), log p(x) and labels of a data set.",
        _OF_SCORES,
    ),
    "score": ("Estimates log p(x) of a data set by a trained model.", _OF_SCORES),
    "sample": ("Draws from a trained model.", ("device", "seed")),
}


def main() -> None:
    """Runs the console command `iwae`, which is also `main.py`."""
    if sys.argv[1:2] and sys.argv[1] in USES:
        return _use(sys.argv.pop(1))
    if sys.argv[1:2] == ["sweep"]:
        sys.argv.pop(1)
        return sweep.main()

    def run(config):
        config = cli.checked(config)
        cli.import_tensorflow()
        iwae_tf.run(config)

    cli.define_flags()
    cli.command(run, DESCRIPTION)


def _use(command):
    """Runs a command that uses a trained model."""
    text, names = USES[command]
    cli.define_flags(names, **({"eval_samples": 500} if command == "embed" else {}))
    if command == "sample":
        flags.DEFINE_string("out", None, "File to write: .npz, or .png for images.")
        flags.DEFINE_integer("n", 100, "Number of draws.", lower_bound=1)
        flags.DEFINE_string(
            "label",
            None,
            "Label of all draws of a conditional model. By default the labels take "
            "turns.",
        )
    else:
        flags.DEFINE_string(
            "out",
            None,
            "File to write, .npz." + " By default none." * (command == "score"),
        )
        flags.DEFINE_string(
            "dataset", None, "Data set, as for a run. By default that of the run."
        )
        flags.DEFINE_enum(
            "split", "test", ["train", "test"], "Part of the data set to take."
        )
    FLAGS.set_gnu_getopt()
    out = " [--out FILE]" if command == "score" else " --out FILE"
    description = (
        f"{text}\n\nUsage: iwae {command} RUN{out} [flags]\n\n"
        "RUN is the directory of a run, or the name of a trained model of the package."
    )
    cli.command(lambda given: _with(command, *given), description, _read(command))


def _read(command):
    """Reads the flags of a command: the name of the run, options, and the file."""

    def read(rest):
        if len(rest) != 1:
            raise UsageError(
                f"arguments: must be one RUN, its directory or name, got {rest}"
            )
        names = USES[command][1]
        values = {name: FLAGS[name].value for name in names}
        out = Path(FLAGS.out).expanduser() if FLAGS.out else None
        _check_out(out, command)
        return rest[0], Config(**values), out

    return read


def _check_out(out, command):
    """Checks the file to write before anything is computed."""
    suffixes = (".npz", ".png") if command == "sample" else (".npz",)
    if out is None:
        if command != "score":
            raise UsageError(f"out: must be a {' or '.join(suffixes)} file, got none")
        return
    check_utf8(out=str(out))
    if out.suffix not in suffixes or out.is_dir():
        raise UsageError(
            f"out: must be a {' or '.join(suffixes)} file, got {str(out)!r}"
        )
    check_place_for_directory("out", out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)


def _with(command, name, config, out):
    """Does what a command says with the run of a name."""
    from iwae_tf.runs import pretrained

    run = pretrained.find(name)
    run.record  # noqa: B018  There must be one, before TensorFlow is imported.
    cli.import_tensorflow()
    from iwae_tf.runs import using

    if command == "sample":
        return using.sample(run, FLAGS.n, FLAGS.label, config, out)
    given = using.observations(
        run, FLAGS.dataset, FLAGS.split, config.data_dir, config.offline
    )
    {"embed": using.embed, "score": using.score}[command](run, given, config, out)
