"""The console command `iwae`: it trains a model, or uses a trained one."""

from iwae_tf import cli  # It keeps Ctrl-C quiet during the imports below.

import shutil
import sys
import warnings
from pathlib import Path

from absl import flags

import iwae_tf
from iwae_tf import sweep
from iwae_tf.cli import FLAGS
from iwae_tf.errors import UsageError, check_place_for_directory, check_utf8
from iwae_tf.files import written_whole
from iwae_tf.runs.config import Config

DESCRIPTION = """Trains, scores and plots one importance weighted autoencoder.

Examples:
  iwae --n_samples 50 --objective iwae_elbo --stochastic_layers 2
  iwae --dataset digits --n_samples 50 --epochs 40
  iwae sample mnist_iwae_2l_k50 --out samples.png

iwae embed, iwae score and iwae sample use a trained model, and iwae sweep trains many.
iwae runs makes a table of finished and unfinished runs, and iwae compare tells how much
two runs differ on the same test images. Each has a --help.
"""
LISTING = """Makes a table of all runs below a directory.

Usage: iwae runs DIR [flags]

Runs that are not finished are shown with their epochs and their bound so far. Of the
further options, those that differ among the runs shown have columns. Densities of
continuous data have a table of their own: they cannot be compared with probabilities.

Examples:
  iwae runs runs --where dataset=mnist --where k=50 --sort -log_px
  iwae runs runs --format csv --out runs.csv
"""
COMPARISON = """Tells how much two finished runs differ on the same test images.

Usage: iwae compare RUN RUN

RUN is the directory of a run, or the name of a trained model of the package; both runs
must have their scores.npz. The differences of log p(x) and of the ELBO are paired: they
are taken image by image.
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
    "score": (
        "Estimates log p(x) of a data set by a trained model.",
        (*_OF_SCORES, "proposal"),
    ),
    "sample": ("Draws from a trained model.", ("device", "seed")),
}


def main() -> None:
    """Runs the console command `iwae`, which is also `main.py`."""
    if sys.argv[1:2] and sys.argv[1] in USES:
        return _use(sys.argv.pop(1))
    others = {"sweep": sweep.main, "runs": _runs, "compare": _compare}
    if sys.argv[1:2] and sys.argv[1] in others:
        return others[sys.argv.pop(1)]()

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
    if out.suffix not in suffixes:
        raise UsageError(
            f"out: must be a {' or '.join(suffixes)} file, got {str(out)!r}"
        )
    _make_place(out)


def _make_place(out):
    """Makes the directory of a file to write."""
    check_utf8(out=str(out))
    if out.is_dir():
        raise UsageError(f"out: must be a file, got the directory {str(out)!r}")
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


def _runs():
    """Runs `iwae runs`."""
    flags.DEFINE_string(
        "sort",
        None,
        "Column to sort by, with a minus before it from the largest value to the "
        "smallest. By default data set, layers, objective, k, epochs and seed.",
    )
    flags.DEFINE_multi_string(
        "where",
        [],
        "A column, or any option of a run, and its value, such as dataset=mnist. Only "
        "runs that have it are shown. It may be given several times.",
    )
    flags.DEFINE_enum(
        "format", "text", ["text", "markdown", "csv"], "Form of the table."
    )
    flags.DEFINE_string("out", None, "File to write in place of the terminal.")
    FLAGS.set_gnu_getopt()
    cli.command(_list, LISTING, _read_directory)


def _read_directory(rest):
    """The directory of `iwae runs` and the file to write."""
    if len(rest) != 1:
        raise UsageError(f"arguments: must be one DIR with runs below it, got {rest}")
    out = Path(FLAGS.out).expanduser() if FLAGS.out else None
    return Path(rest[0]), out


def _list(given):
    """Writes the table of all runs below a directory."""
    from iwae_tf.runs import listing, tables

    directory, out = given
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        rows = listing.table(directory, FLAGS.where, FLAGS.sort)
    for warning in warned:
        print(f"warning: {warning.message}", file=sys.stderr)
    is_seen = out is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_seen else None
    text = {
        "text": lambda: tables.as_text(rows, width),
        "markdown": lambda: tables.as_markdown(rows),
        "csv": lambda: tables.as_csv(rows),
    }[FLAGS.format]()
    if out is None:
        print(text)
        return
    _make_place(out)
    with written_whole(out) as unfinished:
        unfinished.write_text(f"{text}\n", "utf-8", "backslashreplace")


def _compare():
    """Runs `iwae compare`."""
    FLAGS.set_gnu_getopt()
    cli.command(_tell_difference, COMPARISON, _read_two_runs)


def _read_two_runs(rest):
    """The names of the runs of `iwae compare`."""
    if len(rest) != 2:
        raise UsageError(
            f"arguments: must be two RUNs, directories or names, got {rest}"
        )
    return rest


def _tell_difference(given):
    from iwae_tf.runs import comparison, pretrained

    print(comparison.summary(*map(pretrained.find, given)))
