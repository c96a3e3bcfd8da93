import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import iwae_tf
from iwae_tf import cli
from iwae_tf.errors import UsageError
from iwae_tf.runs.config import GROUPS, Config, help_of

ROOT = Path(__file__).resolve().parents[1]
MAIN = [sys.executable, str(ROOT / "main.py")]
CONSOLE = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'iwae'; from iwae_tf.commands import main; main()",
]

AT_ONCE = {
    "unknown flag": (["--layers=2"], "layers"),
    "bad integer": (["--n_samples=five"], "n_samples"),
    "bad number": (["--beta=much"], "beta"),
    "prior without labels": (
        ["--conditional_prior"],
        "conditional_prior: goes with conditional only",
    ),
    "binarisations of binary images": (
        ["--eval_binarizations=2", "--binarization=none"],
        "eval_binarizations: goes with binarization dynamic only, got 2",
    ),
    "shares of a batch": (
        ["--devices=3"],
        "batch_size: must divide by the number of devices, 3, got 20",
    ),
    "batch normalisation on devices": (
        ["--devices=2", "--n_flows=1", "--flow_normalisation=batch"],
        "flow_normalisation: must be weight or none with several devices",
    ),
    "share": (["--shard=3/2"], "shard: must be i/n with i from 1 to n, got '3/2'"),
    "no samples": (["--n_samples=0"], "n_samples: must be at least 1, got 0"),
    "seed": (["--seed=-1"], "seed: must be at least 0, got -1"),
    "objective": (["--objective=elbo"], "objective: must be one of vae_elbo, "),
    "letters": (["--n_latent=a,b"], "n_latent: must be whole numbers"),
    "too many sizes": (["--n_latent=4,2"], "n_latent: must be 1 positive sizes"),
    "too few sizes": (
        ["--stochastic_layers=2", "--n_hidden=4"],
        "n_hidden: must be 2 positive sizes",
    ),
    "rate without constant": (["--learning_rate=0.1"], "learning_rate: "),
    "rate below zero": (
        ["--schedule=constant", "--learning_rate=-1"],
        "learning_rate: must be above 0",
    ),
    "closed form of two layers": (
        ["--stochastic_layers=2", "--objective=vae_elbo_kl"],
        "objective: vae_elbo_kl ",
    ),
    "groups": (["--n_groups=8"], "n_groups: goes with objective miwae or piwae"),
    "mixture": (
        ["--objective=dreg", "--combination_beta=0.5"],
        "combination_beta: goes with objective combination only, got 0.5",
    ),
    "mixture above 1": (
        ["--objective=combination", "--combination_beta=2"],
        "combination_beta: must be from 0 to 1, got 2",
    ),
    "order": (
        ["--objective=renyi", "--renyi_alpha=1"],
        "renyi_alpha: must be at least 0 and less than 1, got 1",
    ),
    "order of another": (
        ["--objective=tvo", "--renyi_alpha=0.5"],
        "renyi_alpha: goes with objective renyi or renyi_dreg only, got 0.5",
    ),
    "temperatures": (
        ["--objective=tvo", "--temperatures=0.1,0.3"],
        "temperatures: must start with 0 and rise, all below 1, got 0.1,0.3",
    ),
    "temperatures that are no numbers": (
        ["--objective=tvo", "--temperatures=0,hot"],
        "temperatures: must be numbers separated by commas, got '0,hot'",
    ),
    "temperatures of another": (
        ["--temperatures=0,0.5"],
        "temperatures: goes with objective tvo or tvo_total only, got 0,0.5 with "
        "objective iwae_elbo",
    ),
    "one sample": (
        ["--objective=vimco", "--n_samples=1"],
        "n_samples: must be at least 2 for objective vimco, got 1",
    ),
    "positional argument": (["digits"], "arguments: must all be --flags, got 'digits'"),
    "misspelt choice": (
        ["--objective=iwae"],
        "got 'iwae'; did you mean iwae_elbo?",
    ),
    "misspelt model": (["--model=resent"], "got 'resent'; did you mean resnet?"),
    "misspelt data set": (["--dataset=mnits"], "got 'mnits'; did you mean mnist?"),
    "misspelt flag": (["--objectiv=dreg"], "Did you mean: objective ?"),
    "misspelt trained model": (
        ["--pretrained=mnist_iwae_2l"],
        "got 'mnist_iwae_2l'; did you mean mnist_iwae_2l_",
    ),
    "data set": (["--dataset=nonsense"], "dataset: must be one of auto, mnist, "),
    "missing file": (["--dataset=gone.npz"], "dataset: must be an existing .npz"),
    "device": (["--device=tpu"], "device: must be auto, cpu, gpu or gpu:N"),
    "batch": (
        ["--dataset=digits", "--batch_size=1438"],
        "batch_size: must be from 1 to the number of training images, 1437, got 1438",
    ),
    "batch of what is left": (
        ["--dataset=digits", "--validation=1430"],
        "batch_size: must be from 1 to the number of training images, 7, got 20",
    ),
    "validation": (
        ["--dataset=digits", "--validation=1437"],
        "validation: must be less than the number of training images, 1437, got 1437",
    ),
    "size of a latent": (
        [f"--n_latent={10**20 - 1}"],
        "n_latent: must be at most 46340, got 99999999999999999999",
    ),
    "number of samples": (
        ["--n_samples=2147483647"],
        "n_samples: must be small enough for tensors of fewer than 2**31 elements, got "
        "2147483647 with n_groups 1, batch_size 20",
    ),
    "path": (
        ["--run_dir=a\udcff"],
        r"run_dir: must be a path in UTF-8, got 'a\udcff'",
    ),
    "run_dir a file": (
        ["--run_dir=blocked/tensorflow.py"],
        "run_dir: must be a directory or a place for one, got "
        "'blocked/tensorflow.py': Not a directory",
    ),
    "run_dir below a file": (
        ["--run_dir=blocked/tensorflow.py/a/b"],
        "got 'blocked/tensorflow.py/a/b': Not a directory",
    ),
}
WITH_TENSORFLOW = {
    "offline": (["--dataset=mnist", "--offline"], "mnist is not ready in "),
}


@pytest.fixture
def elsewhere(tmp_path):
    """Another directory, without MNIST: what subprocesses get beside arguments."""
    environment = os.environ | {
        "TFDS_DATA_DIR": str(tmp_path / "no_data"),
        "PYTHONPATH": str(ROOT),
    }
    return {"cwd": tmp_path, "env": environment, "text": True}


def assert_refused_in_one_line(status, stdout, stderr, says):
    assert stderr.startswith("error: ") and says in stderr
    assert stderr.count("\n") == 1, stderr
    assert status == 2 and stdout == ""


@pytest.mark.parametrize("case", AT_ONCE)
def test_error_is_one_line_and_status_2_without_tensorflow(case, elsewhere):
    arguments, says = AT_ONCE[case]
    assert_refused_without_tensorflow([*MAIN, *arguments], says, elsewhere)
    assert os.listdir(elsewhere["cwd"]) == ["blocked"]


def assert_refused_without_tensorflow(command, says, elsewhere):
    # A package of this name that cannot be imported: who tries is found out.
    blocked = elsewhere["cwd"] / "blocked"
    blocked.mkdir(exist_ok=True)
    blocked.joinpath("tensorflow.py").write_text("raise SystemExit('imported')")
    elsewhere["env"]["PYTHONPATH"] = f"{blocked}{os.pathsep}{ROOT}"
    done = subprocess.run(command, capture_output=True, check=False, **elsewhere)
    assert_refused_in_one_line(done.returncode, done.stdout, done.stderr, says)


def test_size_of_ones_own_images_is_known_without_tensorflow(elsewhere):
    path = elsewhere["cwd"] / "a.npz"
    np.savez(path, x_train=np.ones([9, 4, 4]), x_test=np.ones([2, 4, 4]))
    command = [*MAIN, "--dataset=a.npz"]
    says = "batch_size: must be from 1 to the number of training images, 9, got 20"
    assert_refused_without_tensorflow(command, says, elsewhere)
    np.savez(elsewhere["cwd"] / "b.npz", x_train=np.ones([9, 4, 4]))
    without = [*MAIN, "--dataset=b.npz"]
    says = "validation: must be at least 2 for a data set without test images, such as "
    assert_refused_without_tensorflow(without, says, elsewhere)
    path.write_bytes(path.read_bytes()[:-9])
    says = "'a.npz': the archive must be readable as .npz without pickles, got "
    assert_refused_without_tensorflow(command, says, elsewhere)


@pytest.mark.parametrize("flag", ["task_dir", "run_dir"])
def test_path_that_is_no_utf8_is_told_to_a_task(flag, elsewhere):
    command = [sys.executable, str(ROOT / "tasks" / "task01.py"), "--smoke"]
    says = rf"{flag}: must be a path in UTF-8, got 'a\udcff'"
    assert_refused_without_tensorflow([*command, f"--{flag}=a\udcff"], says, elsewhere)
    assert os.listdir(elsewhere["cwd"]) == ["blocked"]


def test_size_of_the_data_is_told_to_a_task_without_tensorflow(elsewhere):
    command = [sys.executable, str(ROOT / "tasks" / "task02.py"), "--smoke"]
    says = "batch_size: must be from 1 to the number of training images, 1437, got 1500"
    assert_refused_without_tensorflow([*command, "--batch_size=1500"], says, elsewhere)
    assert os.listdir(elsewhere["cwd"]) == ["blocked"]


def test_error_is_one_line_and_status_2_with_tensorflow(elsewhere):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = {  # all at once: each waits for TensorFlow
        case: subprocess.Popen([*MAIN, *arguments], **pipes, **elsewhere)
        for case, (arguments, _) in WITH_TENSORFLOW.items()
    }
    for case, process in started.items():
        stdout, stderr = process.communicate(timeout=120)
        print(case)
        assert_refused_in_one_line(
            process.returncode, stdout, stderr, WITH_TENSORFLOW[case][1]
        )
    assert os.listdir(elsewhere["cwd"]) == []


TRAINING = pytest.param(["--dataset=digits", "--epochs=1"], marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_ends_a_command_with_the_status_that_shells_expect(name):
    signum = signal.Signals[name]
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as end:
        cli._run(lambda config: signal.raise_signal(signum), Config(dataset="digits"))
    assert end.value.code == 128 + signum
    assert signal.getsignal(signum) is before


def test_signal_that_becomes_another_error_ends_a_command_as_a_signal(capsys):
    def function(config):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise UsageError("run_dir: must be readable") from None

    with pytest.raises(SystemExit) as end:
        cli._run(function, Config(dataset="digits"))
    assert end.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == ""


# A command that does nothing but what is put in the place of the dots.
COMMAND = (
    "import errno, os; from iwae_tf import cli; cli.define_flags();"
    "cli.command(lambda config: {}, 'A command.')"
)


def start_command(what, elsewhere, shell="", **environment):
    elsewhere["env"] |= environment
    words = shlex.join([sys.executable, "-c", COMMAND.format(what)])
    return subprocess.run(
        ["bash", "-c", f"{words} --dataset=digits {shell}"],
        capture_output=True,
        check=False,
        **elsewhere,
    )


@pytest.mark.parametrize("coding", ["ascii", "utf-8"])
def test_terminal_without_unicode_gets_what_it_can_show(coding, elsewhere):
    done = start_command("print('± · \u2014')", elsewhere, PYTHONIOENCODING=coding)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "file"),
    [
        ("ENOSPC, 'No space left', 'a/b.png'", "a/b.png"),
        ("EIO, 'No space left'", "the"),
    ],
)
def test_error_of_the_system_is_one_line_and_status_1(error, file, elsewhere):
    throw = f"exec('raise OSError(errno.{error.replace(chr(39), chr(34))})')"
    done = start_command(throw, elsewhere)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {file}")
    assert done.stderr.endswith(
        ": No space left; the same command goes on once this is mended\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("n", [1, 10**6], ids=["at the end", "meanwhile"])
def test_output_on_a_full_disk_is_one_line_and_status_1(n, elsewhere):
    done = start_command(f"print('x' * {n})", elsewhere, "> /dev/full")
    assert done.returncode == 1
    assert done.stderr == (
        "error: the output: No space left on device; the same command goes on once "
        "this is mended\n"
    )


def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(elsewhere):
    code = (
        "import signal, sys;"
        "at = lambda name, *_: name == 'iwae_tf.rules' and signal.raise_signal(2)"
        " or None;"
        "sys.meta_path.insert(0, type('', (), {'find_spec': at}));"
        "import iwae_tf.cli"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, **elsewhere
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("arguments", [["--help"], TRAINING], ids=["help", "training"])
def test_reader_who_has_left_gets_no_traceback(arguments, elsewhere):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*MAIN, *arguments], **pipes, **elsewhere) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("command", [MAIN, CONSOLE], ids=["main.py", "iwae"])
def test_help_lists_every_option_with_its_text_and_leaves_with_0(command, elsewhere):
    done = subprocess.run(
        [*command, "--help"], capture_output=True, check=False, **elsewhere
    )
    assert done.returncode == 0 and done.stderr == ""
    flat = " ".join(done.stdout.split())
    for field in dataclasses.fields(Config):
        name = (
            f"--[no]{field.name}"
            if field.type in (bool, bool | None)
            else f"--{field.name}"
        )
        default = (
            "" if field.default is None else f" (default: {str(field.default).lower()})"
        )
        assert f" {name}{default} {help_of(field)}" in flat


def test_help_starts_with_examples_and_has_groups(elsewhere):
    done = subprocess.run([*MAIN, "-h"], capture_output=True, check=False, **elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    before, *groups = re.split(r"\n\n(?=[A-Z][^\n]+:\n  --)", done.stdout)
    assert before.count("\n  iwae --") == 2
    assert [group.split(":\n")[0] for group in groups] == list(GROUPS.values())
    assert " --objective " in groups[2] and " --objective " not in groups[1]


def test_version_is_told(elsewhere):
    command = [*MAIN, "--version"]
    done = subprocess.run(command, capture_output=True, check=False, **elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"iwae_tf {iwae_tf.__version__}\n"


def options(arguments, elsewhere):
    """What the command line makes of arguments, as JSON says it."""
    code = (
        "import dataclasses, json, sys; sys.argv[0] = 'iwae'; from iwae_tf import cli;"
        "cli.define_flags();"
        "config = cli._parse(sys.argv, '', cli.config_from_flags);"
        "print(json.dumps(dataclasses.asdict(config)))"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, check=True, **elsewhere)
    return json.loads(done.stdout)


def test_every_flag_arrives_in_its_option(elsewhere):
    flows = {
        "feature_maps": None,
        "n_flows": 0,
        "flow_hidden": None,
        "flow_features": None,
        "flow_normalisation": None,
    }
    given = {
        "dataset": "digits",
        "binarization": "none",
        "standardize": True,
        "validation": 6,
        "early_stopping": 9,
        "model": "burda",  # the others have no layers to choose, below
        "n_bounded": 0,
        "likelihood": "student_t",
        "likelihood_scale": "shared",
        "missing": True,
        "mask_input": True,
        "precision": "bfloat16",
        "stochastic_layers": 2,
        "n_latent": [5, 3],
        "n_hidden": [7, 6],
        **flows,  # go with one layer, below
        "conditional": True,
        "conditional_prior": True,
        "objective": "piwae",
        "n_samples": 3,
        "n_groups": 4,
        "combination_beta": None,  # goes with another objective, below
        "renyi_alpha": None,
        "temperatures": None,
        "beta": 0.5,
        "warmup_steps": 9,
        "schedule": "constant",
        "epochs": 4,
        "batch_size": 10,
        "optimizer": "muon",
        "learning_rate": 0.25,
        "grow_samples": True,
        "seed": 8,
        "jit": False,
        "init_from": "elsewhere",
        "continue_from": None,  # goes without init_from
        "pretrained": None,  # goes without the options of a run, below
        "run_dir": "here",
        "data_dir": "there",
        "offline": True,
        "device": "cpu",
        "devices": 2,
        "checkpoint_seconds": 1.5,
        "histograms": True,
        "eval_samples": 11,
        "eval_images": 13,
        "eval_binarizations": 1,  # goes with dynamic binarization, below
        "eval_chunk": 12,
        "jackknife": True,
        "rescore": True,
        "shard": "2/3",
        "scorer": "ais",
        "proposal": "posterior",  # goes with the other scorer, below
        "ais_images": 7,
        "ais_chains": 3,
        "ais_temperatures": 9,
        "ais_leapfrog": 2,
        "ais_schedule": "sigmoidal",
        "ais_start": "prior",
        "ais_acceptance": 0.75,
    }
    defaults = dataclasses.asdict(Config())
    assert set(given) == set(defaults)
    assert [n for n in given if given[n] == defaults[n]] == [
        "model",
        "n_bounded",
        *flows,
        "combination_beta",
        "renyi_alpha",
        "temperatures",
        "continue_from",
        "pretrained",
        "eval_binarizations",
        "proposal",
    ]
    arguments = []
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no{name}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            arguments.append(f"--{name}={text}")
    assert options(arguments, elsewhere) == given
    path = elsewhere["cwd"] / "flags.txt"
    path.write_text("\n".join(arguments))
    assert options([f"--flagfile={path}"], elsewhere) == given
    assert options([], elsewhere) == defaults
    mixture = {"objective": "combination", "combination_beta": 0.25}
    arguments = [f"--{name}={value}" for name, value in mixture.items()]
    assert options(arguments, elsewhere) == defaults | mixture
    order = {"objective": "renyi", "renyi_alpha": 0.25}
    arguments = [f"--{name}={value}" for name, value in order.items()]
    assert options(arguments, elsewhere) == defaults | order
    arguments = ["--objective=tvo", "--temperatures=0,0.25"]
    parts = {"objective": "tvo", "temperatures": [0.0, 0.25]}
    assert options(arguments, elsewhere) == defaults | parts
    arguments = ["--eval_binarizations=3"]
    assert options(arguments, elsewhere) == defaults | {"eval_binarizations": 3}
    assert options(["--proposal=refined"], elsewhere) == defaults | {
        "proposal": "refined"
    }
    model = {"model": "tvae_affine", "n_bounded": 6}
    arguments = ["--model=tvae_affine", "--n_bounded=6"]
    assert options(arguments, elsewhere) == defaults | model
    deep = {
        "model": "resnet",
        "feature_maps": 16,
        "n_flows": 2,
        "flow_hidden": [9, 8],
        "flow_features": 7,
        "flow_normalisation": "batch",
        "n_latent": [32],
    }
    arguments = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in deep.items()
    ]
    assert options(arguments, elsewhere) == defaults | deep
    trained = {"pretrained": "mnist_iwae_1l_z2_k50", "dataset": "mnist"}
    arguments = [f"--pretrained={trained['pretrained']}"]
    assert options(arguments, elsewhere) == defaults | trained
