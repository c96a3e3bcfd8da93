"""Tests of iwae_tf.runs.metrics."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import data
from iwae_tf.errors import UsageError
from iwae_tf.runs import experiment, schedules
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import SCALARS, Metrics
from iwae_tf.runs.run import Run


class Stop(BaseException):
    """Ends work where it stands, as a kill does; nobody catches it."""


@pytest.fixture
def model():
    """Of a run of three epochs, 60 steps each."""
    x = np.random.default_rng(0).random((70, 3, 2, 1)).astype(np.float32)
    config = Config(
        n_latent=(2,), n_hidden=(3,), jit=False, seed=5, epochs=3, batch_size=1
    )
    return experiment.build(config, data.Sets(x[:60], np.round(x[60:])))


LOGS = {
    f"{part}{name}": value
    for value, (part, name) in enumerate(
        ((part, name) for part in ("", "val_") for name in SCALARS), start=1
    )
}


def end_epoch(metrics, model, epoch, step):
    metrics.set_model(model)
    metrics.on_epoch_begin(epoch - 1)
    model.optimizer.iterations.assign(step)
    metrics.on_epoch_end(epoch - 1, dict(LOGS))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_row_has_every_value_in_its_column(model, tmp_path):
    metrics = Metrics(Run(tmp_path), 2, 0)
    end_epoch(metrics, model, 1, 60)
    (row,) = rows_of(tmp_path / "metrics.csv")
    assert (row["epoch"], row["step"]) == ("1", "60")
    names = ("bound", "vae_elbo", "iwae_elbo", "log_px", "log_pz", "log_qz")
    for value, name in enumerate(names, start=1):
        assert float(row[f"train_{name}"]) == value
        assert float(row[f"test_{name}"]) == value + 6
    # The rate of the epoch's last step, 59 of 180.
    assert float(row["learning_rate"]) == pytest.approx(
        float(schedules.burda(180)(59)), rel=1e-6
    )
    assert float(row["images_per_second"]) > 0 and float(row["seconds"]) >= 0
    assert set(row) == set(Metrics.COLUMNS)


def test_metrics_rate_is_images_over_seconds(model, tmp_path, monkeypatch):
    now = [50.0]
    monkeypatch.setattr("iwae_tf.runs.metrics.time.monotonic", lambda: now[0])
    metrics = Metrics(Run(tmp_path), 20, 0)
    metrics.set_model(model)
    for step in (60, 120):
        metrics.on_epoch_begin(step // 60 - 1)
        now[0] += 4
        model.optimizer.iterations.assign(step)
        metrics.on_epoch_end(step // 60 - 1, dict(LOGS))
        now[0] += 1
    rows = rows_of(tmp_path / "metrics.csv")
    assert [float(row["images_per_second"]) for row in rows] == [300, 300]
    assert [float(row["seconds"]) for row in rows] == [4, 9]


def test_metrics_of_a_lost_part_are_dropped_and_seconds_go_on(model, tmp_path):
    metrics = Metrics(Run(tmp_path), 1, 0)
    for epoch in (1, 2, 3):
        end_epoch(metrics, model, epoch, 60 * epoch)
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text().replace("\n2,120,", "\n2,120,5", 1))
    with path.open("a") as file:
        file.write("4,24")  # a kill while it was written
    again = Metrics(Run(tmp_path), 1, 150)
    assert [row["epoch"] for row in rows_of(path)] == ["1", "2"]
    end_epoch(again, model, 3, 180)
    rows = rows_of(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["seconds"]) >= 50


def test_metrics_survive_a_kill_while_they_are_written_again(
    model, tmp_path, monkeypatch
):
    def kill(*_):
        raise Stop

    metrics = Metrics(Run(tmp_path), 1, 0)
    end_epoch(metrics, model, 1, 60)
    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", kill)
        with pytest.raises(Stop):
            Metrics(Run(tmp_path), 1, 60)
    path = Metrics(Run(tmp_path), 1, 60).path
    assert [row["epoch"] for row in Run(path.parent).metrics()] == ["1"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_pictures_of_any_channels_reach_tensorboard(model, channels, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    image = np.random.default_rng(1).integers(0, 256, (2, 3, channels)) / 255
    metrics = Metrics(Run(tmp_path), 2, 0)
    metrics.set_model(model)
    metrics.write_images("samples", image)
    metrics.on_train_end()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "test"))
    (sent,) = events.Reload().Tensors("samples")
    seen = tf.io.decode_png(sent.tensor_proto.string_val[2]).numpy() / 255
    want = image if channels == 3 else image.mean(-1, keepdims=True)
    assert seen.shape == want.shape
    # TensorBoard's bytes are cut off, not rounded.
    np.testing.assert_allclose(seen, want, atol=1 / 255)


def test_missing_metrics_are_no_rows(tmp_path):
    assert Run(tmp_path).metrics() == []


def test_metrics_that_do_not_reach_the_last_epoch_are_refused(model, tmp_path):
    metrics = Metrics(Run(tmp_path), 1, 0)
    for epoch in (1, 2, 3):
        end_epoch(metrics, model, epoch, 60 * epoch)
    path = metrics.path
    whole = path.read_bytes()
    assert len(Run(path.parent).metrics(3)) == 3
    header, first, second, third = whole.splitlines(keepends=True)
    for damaged, n_left in (
        (whole[:-30], 2),
        (header + first + b"\xff\x00" + second + third[:9], 1),
        (b"\xff" + whole, 0),
        (b"", 0),
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            UsageError, match=f"^run_dir: .* of 3 epochs, got {n_left} in "
        ):
            Run(path.parent).metrics(3)
