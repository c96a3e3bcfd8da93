import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from iwae_tf import terminal

MAIN = Path(__file__).resolve().parents[1] / "main.py"
TEXT = "test log p(x) = -84.50 ± 0.23 nats\nELBO = -86.20"


@pytest.fixture(autouse=True)
def colors_are_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def open_terminal():
    """A function that opens a terminal of some columns for writing."""
    opened = []

    def make(n_columns):
        ours, theirs = os.openpty()
        size = struct.pack("4H", 24, n_columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        opened.append((os.fdopen(theirs, "w"), ours))
        return opened[-1][0]

    yield make
    for stream, ours in opened:
        stream.close()
        os.close(ours)


@pytest.mark.parametrize(
    ("variable", "value", "is_shown"),
    [
        ("TERM", "xterm", True),
        ("TERM", "dumb", False),
        ("NO_COLOR", "1", False),
        ("NO_COLOR", "", True),
    ],
)
def test_terminal_shows_colors_where_they_are_wanted(
    variable, value, is_shown, open_terminal, monkeypatch
):
    monkeypatch.setenv(variable, value)
    stream = open_terminal(80)
    want = "\033[1;32mgood\033[0m" if is_shown else "good"
    assert terminal.colored("good", terminal.GREEN, stream) == want


def test_file_gets_neither_colors_nor_wrapped_lines(tmp_path):
    with (tmp_path / "log").open("w") as file:
        assert terminal.colored("good", terminal.GREEN, file) == "good"
        assert terminal.wrapped(50 * "word ", file) == 50 * "word "


def test_lines_are_wrapped_at_words(open_terminal):
    stream = open_terminal(20)
    assert terminal.wrapped(TEXT, stream).split("\n") == [
        "test log p(x) =",
        "  -84.50 ± 0.23 nats",
        "ELBO = -86.20",
    ]
    assert terminal.wrapped("\nstopped", stream) == "\nstopped"
    path = "runs/digits-iwae_elbo-1l-k5-s123"
    assert terminal.wrapped(f"in {path}", stream) == f"in\n  {path}"
    assert terminal.wrapped("a\N{NO-BREAK SPACE}b", stream) == "a\N{NO-BREAK SPACE}b"


def test_part_that_stays_together_is_not_wrapped(open_terminal):
    stream = open_terminal(27)
    assert "-84.50 ±\n  0.23" in terminal.wrapped(TEXT, stream)
    lines = terminal.wrapped(TEXT, stream, "-84.50 ± 0.23").split("\n")
    assert lines == ["test log p(x) =", "  -84.50 ± 0.23 nats", "ELBO = -86.20"]


def test_terminal_of_unknown_width_counts_as_80_columns(open_terminal):
    lines = terminal.wrapped(50 * "word ", open_terminal(0)).split("\n")
    assert max(map(len, lines)) in range(75, 81)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_error_is_red_on_a_terminal_only(no_color):
    command = [sys.executable, MAIN, "--epochs=0"]
    environment = os.environ | {"NO_COLOR": no_color}
    text = "epochs: must be at least 1, got 0\n"
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"error: {text}")
    ours, theirs = os.openpty()
    done = subprocess.run(command, env=environment, stderr=theirs, check=False)
    told = os.read(ours, 9999).decode().replace("\r\n", "\n")
    os.close(theirs)
    os.close(ours)
    head = "error:" if no_color else "\033[1;31merror:\033[0m"
    assert (done.returncode, told) == (2, f"{head} {text}")
