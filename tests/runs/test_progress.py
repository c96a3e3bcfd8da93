import fcntl
import os
import select
import struct
import sys
import termios
import types

import pytest

from iwae_tf.runs import progress
from iwae_tf.runs.progress import Progress, clock


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is set: now[0] is the time."""
    now = [1000.0]
    fake = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(progress, "time", fake)
    return now


@pytest.fixture
def file(capsys):
    """A function that gives what was printed since, to a file."""
    assert not sys.stdout.isatty()
    return lambda: capsys.readouterr().out


@pytest.fixture
def terminal(monkeypatch):
    """A function that gives what was printed since, to a terminal of 60 columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 60, 0, 0))
    stdout = os.fdopen(theirs, "w")
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stdout=stdout))

    def printed():
        stdout.flush()
        text = b""
        while select.select([ours], [], [], 0.05)[0]:
            text += os.read(ours, 65536)
        return text.decode().replace("\r\n", "\n")

    yield printed
    stdout.close()
    os.close(ours)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (0.999, "0:00:00"),
        (59.9, "0:00:59"),
        (60, "0:01:00"),
        (3599, "0:59:59"),
        (3600, "1:00:00"),
        (86399, "23:59:59"),
        (86400, "1d 0:00:00"),
        (2 * 86400 + 3 * 3600 + 4 * 60 + 5, "2d 3:04:05"),
    ],
)
def test_clock_by_table(seconds, text):
    assert clock(seconds) == text


def test_rate_and_eta_by_hand(now, file):
    shown = Progress(1000, "steps")
    now[0] += 20
    shown.update(400, "epoch 2/5")
    # 400 in 20 s is 20 a second; 600 are to come.
    assert file() == " 40%  ETA 0:00:30  epoch 2/5  20 steps/s\n"


def test_slow_rate_has_a_decimal_and_a_fast_one_a_comma(now, file):
    shown = Progress(100_000, "images")
    now[0] += 20
    shown.update(50)
    assert "  ETA 11:06:20  2.5 images/s\n" in file()
    now[0] += 20
    shown.update(80_000)
    assert "  ETA 0:00:10  2,000 images/s\n" in file()


def test_work_of_an_earlier_start_does_not_count_as_speed(now, file):
    shown = Progress(1000, "steps", done=900)
    now[0] += 50
    shown.update(950)
    assert file() == " 95%  ETA 0:00:50  1.0 steps/s\n"


def test_restarted_clock_forgets_the_time_before(now, file):
    shown = Progress(100, "steps")
    now[0] += 500
    shown.restart_clock(10)
    now[0] += 20
    shown.update(30)
    assert file() == " 30%  ETA 0:01:10  1.0 steps/s\n"


def test_no_rate_without_progress(now, file):
    shown = Progress(100, "steps")
    now[0] += 20
    shown.update(0, "text")
    assert file() == "  0%  text\n"


def test_file_gets_whole_lines_ten_seconds_apart_and_the_end(now, file):
    shown = Progress(100, "steps")
    for done in range(1, 101):
        now[0] += 1
        shown.update(done)
    shown.close()
    text = file()
    assert [int(line[:3]) for line in text.splitlines()] == list(range(10, 101, 10))
    assert "\r" not in text and text.endswith("\n")


def test_file_gets_fewer_lines_the_longer_it_takes(now, file):
    shown = Progress(10**6, "steps")
    for _ in range(10**5):
        now[0] += 1
        shown.update(1)
    day_and_more = file().count("\n")
    # 10 s apart up to 500 s, then each 2 % later: 50 + log(200) / log(1.02).
    assert 280 < day_and_more < 340


def test_file_gets_the_end_at_once(now, file):
    shown = Progress(10, "steps")
    shown.update(9)
    assert file() == ""
    shown.update(10)
    assert file().startswith("100%")


def frames(text):
    """What a terminal shows after each rewriting of its line."""
    return [frame for frame in text.split("\r") if frame.strip()]


def test_terminal_gets_one_line_that_is_cut_to_its_width(now, terminal):
    shown = Progress(100, "steps")
    shown.update(0, "a text " + 20 * "and more ")
    now[0] += 1
    shown.update(1, "b")
    *long, last = frames(terminal())
    assert long and all("a text and more" in frame for frame in long[1:])
    for frame in (*long, last):
        assert "\n" not in frame and len(frame.rstrip()) <= 60
    assert last.startswith("  1%  ETA 0:01:39  b  1.0 steps/s")
    shown.close()
    shown.close()
    assert terminal().count("\n") == 1


def test_terminal_is_rewritten_ten_times_a_second_at_most(now, terminal):
    shown = Progress(1000, "steps")
    for done in range(1, 400):
        now[0] += 1 / 128
        shown.update(done)
    # 13 / 128 s are the first to reach a tenth; tqdm shows its line at the start too.
    assert len(frames(terminal())) <= 2 + 398 // 13


def test_terminal_is_told_at_once_that_work_is_compiled(now, terminal):
    Progress(10, "steps", done=5).compiling(5, "epoch 2/3")
    assert frames(terminal())[-1].startswith(" 50%  epoch 2/3  compiling")


def test_file_is_told_at_once_that_work_is_compiled(now, file):
    Progress(10, "steps").compiling(0, "epoch 1/3")
    assert file() == "  0%  epoch 1/3  compiling\n"


def test_notebook_gets_a_bar_and_not_lines(now, monkeypatch, capsys):
    class Widget(progress.tqdm):
        """What tqdm gives where a notebook runs."""

    monkeypatch.setattr(progress, "tqdm", Widget)
    shown = Progress(10, "steps")
    shown.update(3, "text")
    shown.close()
    assert "\r" in capsys.readouterr().out


def test_closing_without_a_line_prints_nothing(terminal):
    Progress(10, "steps").close()
    assert terminal() == ""


SUMMARY = "test log p(x) = -84.50 ± 0.23 nats (5000 samples, 10000 images)\nELBO"


def test_terminal_gets_lines_of_its_width_and_the_score_in_color(terminal, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", progress.sys.stdout)
    score = "-84.50 ± 0.23"
    progress.say(SUMMARY, score)
    assert terminal().split("\n") == [
        f"test log p(x) = \033[1;32m{score}\033[0m nats (5000 samples, 10000",
        "  images)",
        "ELBO",
        "",
    ]
    monkeypatch.setenv("NO_COLOR", "1")
    progress.say(SUMMARY, score)
    assert f"= {score} nats" in terminal()
    command = f"tensorboard --logdir {80 * 'x'}"
    progress.say_as_it_is(command)
    assert terminal() == f"{command}\n"


def test_file_gets_lines_as_they_are(file):
    progress.say(SUMMARY, "-84.50 ± 0.23")
    progress.say_as_it_is("tensorboard")
    assert file() == f"{SUMMARY}\ntensorboard\n"


def test_silence_is_that_of_every_line(file, monkeypatch):
    monkeypatch.setattr(progress, "_silent", False)
    progress.silence()
    progress.say(SUMMARY, "-84.50")
    progress.say_as_it_is("tensorboard")
    assert file() == ""


class Model:
    """What a display sees of a model; `done` is set by its test."""

    steps_before, stop_training = 0, False

    def __init__(self):
        self.done, self.train_samples = 0, 1
        self.optimizer = types.SimpleNamespace(iterations=self)

    def numpy(self):
        return self.done


def test_time_to_go_counts_the_steps_to_come_by_their_samples(now, file):
    from iwae_tf.runs import schedules, training

    stages = [schedules.Stage(*s) for s in ((0, 2, 1), (2, 4, 5), (4, 5, 50))]
    cost = [3] * 20 + [7] * 20 + [52] * 10  # seconds of each of 10 steps an epoch
    model = Model()
    display = training.Display(stages, 10, 0)
    display.set_model(model)
    told = {}
    for step, seconds in enumerate(cost, 1):
        now[0] += 10 * seconds
        model.done, model.train_samples = step, seconds - 2
        display.on_train_batch_end(0, {"bound": -1.0})
        if step % 10 == 0:
            display.on_epoch_end(0, {"val_bound": -step})
        told[step] = file()
    for step in (2, 9, 20, 22, 35, 42, 49):
        assert f"ETA {clock(10 * sum(cost[step:]))}  epoch" in told[step], step


def test_last_line_has_the_test_bound_of_the_last_epoch(now, file):
    from iwae_tf.runs import schedules, training

    model = Model()
    display = training.Display([schedules.Stage(0, 3, 1)], 2, 0)
    display.set_model(model)
    display.on_train_begin()
    assert file() == "  0%  epoch 1/3  k 1  compiling\n"
    for model.done in range(1, 7):
        now[0] += 20
        display.on_train_batch_end(0, {"bound": -1.0})
        if model.done % 2 == 0:
            display.on_epoch_end(0, {"val_bound": -model.done})
    display.on_train_end()
    lines = file().splitlines()
    assert [line[:4] for line in lines] == [
        *(" 17%", " 33%", " 50%", " 67%", " 83%", "100%")
    ]
    assert [line.split("test ")[1:] for line in lines[:4]] == [
        *([], *2 * (["-2.00  k 1  0.1 steps/s"],), ["-4.00  k 1  0.1 steps/s"])
    ]
    assert "epoch 3/3  train -1.00  test -6.00  k 1  " in lines[-1]
