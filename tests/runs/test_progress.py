import sys
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
def terminal(capsys, monkeypatch):
    """A function that gives what was printed since, to a terminal."""
    stdout = types.SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stdout=stdout))
    return lambda: capsys.readouterr().out


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
    assert file() == " 40%  epoch 2/5  20 steps/s  ETA 0:00:30\n"


def test_slow_rate_has_a_decimal_and_a_fast_one_a_comma(now, file):
    shown = Progress(100_000, "images")
    now[0] += 20
    shown.update(50)
    assert "  2.5 images/s  ETA 11:06:20\n" in file()
    now[0] += 20
    shown.update(80_000)
    assert "  2,000 images/s  ETA 0:00:10\n" in file()


def test_work_of_an_earlier_start_does_not_count_as_speed(now, file):
    shown = Progress(1000, "steps", done=900)
    now[0] += 50
    shown.update(950)
    assert file() == " 95%  1.0 steps/s  ETA 0:00:50\n"


def test_restarted_clock_forgets_the_time_before(now, file):
    shown = Progress(100, "steps")
    now[0] += 500
    shown.restart_clock(10)
    now[0] += 20
    shown.update(30)
    assert file() == " 30%  1.0 steps/s  ETA 0:01:10\n"


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


def test_terminal_gets_one_line_that_covers_the_longer_one_before(now, terminal):
    shown = Progress(100, "steps")
    shown.update(0, "a long text")
    now[0] += 1
    shown.update(1, "b")
    _, first, second = terminal().split("\r")
    assert first == "  0%  a long text"
    assert len(first) < len(second) and "\n" not in first + second
    assert second.rstrip() == "  1%  b  1.0 steps/s  ETA 0:01:39"
    now[0] += 1
    shown.update(1)
    third = terminal().removeprefix("\r")
    assert len(third) == len(second) and third.rstrip() != third
    shown.close()
    shown.close()
    assert terminal() == "\n"


def test_terminal_is_rewritten_ten_times_a_second_at_most(now, terminal):
    shown = Progress(1000, "steps")
    for done in range(1, 400):
        now[0] += 1 / 128
        shown.update(done)
    # 13 / 128 s are the first to reach a tenth.
    assert terminal().count("\r") == 1 + 398 // 13


def test_closing_without_a_line_prints_nothing(terminal):
    Progress(10, "steps").close()
    assert terminal() == ""


def test_time_to_go_counts_the_steps_to_come_by_their_samples(now, file):
    from iwae_tf.runs import schedules, training

    stages = [schedules.Stage(*s) for s in ((0, 2, 1), (2, 4, 5), (4, 5, 50))]
    cost = [3] * 20 + [7] * 20 + [52] * 10  # seconds of each of 10 steps an epoch
    done = [0]
    iterations = types.SimpleNamespace(numpy=lambda: done[0])
    model = types.SimpleNamespace(
        optimizer=types.SimpleNamespace(iterations=iterations)
    )
    display = training.Display(stages, 10, 0)
    display.set_model(model)
    told = {}
    for step, seconds in enumerate(cost, 1):
        now[0] += 10 * seconds
        done[0], model.train_samples = step, seconds - 2
        display.on_train_batch_end(0, {"bound": -1.0})
        told[step] = file()
    for step in (2, 9, 20, 22, 35, 42, 49):
        assert told[step].endswith(f"ETA {clock(10 * sum(cost[step:]))}\n"), step
