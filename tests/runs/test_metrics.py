"""Tests of iwae_tf.runs.metrics."""

import csv
import resource
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_runs import Stop, small

from iwae_tf import data, files
from iwae_tf.errors import UsageError
from iwae_tf.runs import experiment, schedules
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import Metrics, write_outcome
from iwae_tf.runs.rows import COLUMNS, SCALARS, lines_of, lost_epochs, parsed
from iwae_tf.runs.run import Run


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
    metrics = Metrics(Run(tmp_path), 2, [])
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
    assert set(row) == set(COLUMNS)


def test_metrics_rate_is_images_over_seconds(model, tmp_path, monkeypatch):
    now = [50.0]
    monkeypatch.setattr("iwae_tf.runs.metrics.time.monotonic", lambda: now[0])
    metrics = Metrics(Run(tmp_path), 20, [])
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
    metrics = Metrics(Run(tmp_path), 1, [])
    for epoch in (1, 2, 3):
        end_epoch(metrics, model, epoch, 60 * epoch)
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text().replace("\n2,120,", "\n2,120,5", 1))
    with path.open("a") as file:
        file.write("4,24")  # a kill while it was written
    again = Metrics(Run(tmp_path), 1, Run(tmp_path).rows(150))
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

    metrics = Metrics(Run(tmp_path), 1, [])
    end_epoch(metrics, model, 1, 60)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", kill)
        with pytest.raises(Stop):
            Metrics(Run(tmp_path), 1, Run(tmp_path).rows(60))
    path = Metrics(Run(tmp_path), 1, Run(tmp_path).rows(60)).path
    assert [row["epoch"] for row in Run(path.parent).metrics()] == ["1"]


def sent(directory):
    """What TensorBoard reads in a directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()


def picture(tmp_path, model, image):
    """A picture as TensorBoard shows it, in 0..1."""
    metrics = Metrics(Run(tmp_path), 2, [])
    metrics.set_model(model)
    metrics.write_image("samples", image)
    metrics.on_train_end()
    (event,) = sent(tmp_path / "tensorboard" / "test").Tensors("images/samples")
    return tf.io.decode_png(event.tensor_proto.string_val[2]).numpy() / 255


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_pictures_of_any_channels_reach_tensorboard(model, channels, tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (2, 3, channels)) / 255
    seen = picture(tmp_path, model, image)[::200, ::200]
    want = image if channels == 3 else image.mean(-1, keepdims=True)
    assert seen.shape == want.shape
    # TensorBoard's bytes are cut off, not rounded.
    np.testing.assert_allclose(seen, want, atol=1 / 255)


@pytest.mark.parametrize(
    ("width", "factor"), [(89, 7), (289, 2), (329, 2), (601, 1), (1289, 1)]
)
def test_pictures_are_enlarged_by_whole_factors(model, width, factor, tmp_path):
    image = np.random.default_rng(1).integers(0, 2, (2, width, 1))
    seen = picture(tmp_path, model, image)
    assert seen.shape == (2 * factor, width * factor, 1)
    for y in range(factor):
        for x in range(factor):
            np.testing.assert_array_equal(seen[y::factor, x::factor], image)


def test_tags_of_training_are_in_groups(model, tmp_path):
    metrics = Metrics(Run(tmp_path), 2, [], histograms=True)
    end_epoch(metrics, model, 1, 60)
    metrics.on_train_end()
    of_both = {
        *("bound/bound", "bound/vae_elbo", "bound/iwae_elbo"),
        *("parts/log_px", "parts/log_pz", "parts/log_qz"),
    }
    train, test = (
        sent(tmp_path / "tensorboard" / part).Tags()["tensors"]
        for part in ("train", "test")
    )
    assert {*test} == of_both
    weights = {f"weights/{w.path}" for w in model.trainable_variables}
    speed = {"speed/learning_rate", "speed/images_per_second"}
    assert {*train} == of_both | speed | weights


def report_of(**options):
    """What TensorBoard's page HPARAMS needs of a report."""
    config = small(dataset="tiny", **options)
    return {
        "config": config.of_run(),
        "test": {"log_likelihood": -1.5, "elbo": -2.25, "n_samples": 7},
        "units": [{"n_active": 3}, {"n_active": 2}],
        "epochs": 3,
        "steps": 180,
        "train_seconds": 4.5,
    }


def hparams_page(logdir):
    """What the page HPARAMS shows: its columns, and the rows by their names."""
    from tensorboard.backend.event_processing.data_provider import (
        MultiplexerDataProvider,
    )
    from tensorboard.backend.event_processing.plugin_event_multiplexer import (
        EventMultiplexer,
    )
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context
    from tensorboard.plugins.hparams.get_experiment import Handler
    from tensorboard.plugins.hparams.list_session_groups import Handler as Groups

    files = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    files.Reload()
    provider = MultiplexerDataProvider(files, str(logdir))
    context = backend_context.Context(TBContext(data_provider=provider))
    shared = RequestContext(), context, ""
    columns = Handler(*shared, api_pb2.GetExperimentRequest()).run()
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=9,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN],
    )
    rows = Groups(*shared, asked).run().session_groups
    return columns, {row.name: row for row in rows}


def test_hparams_page_compares_runs_by_their_options(tmp_path):
    runs = [Run(tmp_path / name) for name in "ab"]
    write_outcome(runs[0], report_of())
    others = {"n_samples": 4, "schedule": "constant"}
    init = {"init": {"objective": "dreg", "n_samples": 9}, "train_seconds": None}
    report = report_of(**others) | init
    report["config"]["likelihood"] = "bernoulli"
    write_outcome(runs[1], report)
    columns, rows = hparams_page(tmp_path)
    differ = {info.name for info in columns.hparam_infos if info.differs}
    assert differ == {"n_samples", "schedule", "likelihood"}
    metrics = ("active_units", "elbo", "log_px", "training_seconds")
    found = [metric.name.tag for metric in columns.metric_infos]
    assert found == [f"score/{name}" for name in metrics]
    one, other = (rows[str(run)] for run in runs)
    assert [m.value for m in one.metric_values] == [5, -2.25, -1.5, 4.5]
    assert [m.value for m in other.metric_values] == [5, -2.25, -1.5]
    assert {m.training_step for m in one.metric_values} == {180}
    options = {name: _value(value) for name, value in one.hparams.items()}
    given = small(dataset="tiny").of_run() | {"n_latent": "2", "n_hidden": "3"}
    given = {name: value for name, value in given.items() if value is not None}
    texts = (
        "temperatures",
        "likelihood",
        "likelihood_scale",
        "flow_hidden",
        "flow_normalisation",
    )
    assert options == given | dict.fromkeys(texts, "default") | {"eval_samples": 7}
    assert other.hparams["start"].string_value == "DReG, k = 9"
    assert other.hparams["learning_rate"].number_value == 1e-3


def _value(value):
    return getattr(value, value.WhichOneof("kind"))


def test_options_reach_tensorboard_as_short_texts(tmp_path):
    report = report_of()
    report["config"] |= {"n_latent": [100, 50], "dataset": f"/{80 * 'a'}/set.npz"}
    write_outcome(Run(tmp_path), report)
    _, rows = hparams_page(tmp_path)
    options = rows[str(tmp_path)].hparams
    assert options["n_latent"].string_value == "100+50"
    dataset = options["dataset"].string_value
    assert len(dataset) == 60 and dataset.startswith("…a")
    assert dataset.endswith("a/set.npz")


def test_scores_of_tensorboard_are_replaced(tmp_path):
    run, report = Run(tmp_path), report_of()
    write_outcome(run, report)
    report["test"]["log_likelihood"] = -1.25
    write_outcome(run, report)
    (path,) = (tmp_path / "tensorboard" / "score").iterdir()
    (event,) = sent(path.parent).Tensors("score/log_px")
    assert tf.make_ndarray(event.tensor_proto) == -1.25


def test_full_disk_keeps_the_scores_of_tensorboard_and_is_an_error(tmp_path):
    run, report = Run(tmp_path), report_of()
    write_outcome(run, report)
    directory = tmp_path / "tensorboard" / "score"
    (before,) = directory.iterdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as info:
            write_outcome(run, report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert info.value.filename == str(directory) and before.exists()
    write_outcome(run, report)
    assert len([*directory.iterdir()]) == 1 and not before.exists()


def test_missing_metrics_are_no_rows(tmp_path):
    assert Run(tmp_path).metrics() == []


def lines_of_epochs(*epochs):
    """A metrics.csv of some epochs of 60 steps, each value its own."""
    columns = {name: float(place) for place, name in enumerate(COLUMNS)}
    rows = [columns | {"epoch": e, "step": 60 * e, "test_bound": -e} for e in epochs]
    return [f"{line}\n" for line in lines_of(rows)]


HEADER, *LINES = lines_of_epochs(1, 2, 3, 4, 5)
ALL = {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ([HEADER, *LINES], ALL),
        ([HEADER.replace("\n", "\r\n"), *LINES], ALL),
        ([HEADER.replace("epoch", "epxch"), *LINES], ALL),
        ([HEADER.replace("test_bound", 'te"t_bound'), *LINES], ALL),
        ([HEADER.replace("train_log_px", "train_log_pz"), *LINES], ALL),
        ([HEADER.replace(",", ";", 1), *LINES], ALL),
        (["\x00" + HEADER[:-1], *LINES], ALL - {1}),
        ([HEADER, LINES[0], '"' + LINES[1], *LINES[2:]], ALL - {2}),
        ([HEADER, LINES[0].replace(",", ',"', 1), *LINES[1:]], ALL - {1}),
        ([HEADER, *LINES[:2], *LINES[1:]], ALL),
        ([HEADER, LINES[1], LINES[0], *LINES[2:]], ALL),
        ([HEADER, *LINES[:1], *LINES[3:]], {1, 4, 5}),
        ([HEADER, *LINES[:-1], LINES[-1][:-1]], ALL - {5}),
        ([HEADER, *LINES[:-1], LINES[-1][:9]], ALL - {5}),
        (
            [HEADER, *LINES[:2], LINES[2].replace("3,180", "9,180"), *LINES[3:]],
            ALL - {3},
        ),
        ([HEADER, *LINES[:2], LINES[2].replace("180", "18x"), *LINES[3:]], ALL - {3}),
        (
            [HEADER, *LINES[:2], LINES[2].replace("180", "18\xff"), *LINES[3:]],
            ALL - {3},
        ),
        ([HEADER, *LINES[:2], LINES[2][:-1] + ",7\n", *LINES[3:]], ALL - {3}),
        ([HEADER], set()),
        (["\xff\x00"], set()),
        ([], set()),
    ],
)
def test_whole_rows_are_kept_and_others_named(lines, left, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes("".join(lines).encode("latin-1"))
    rows = Run(tmp_path).rows()
    assert [int(row["epoch"]) for row in rows] == sorted(left)
    assert all(float(row["test_bound"]) == -int(row["epoch"]) for row in rows)
    assert all(set(row) == set(COLUMNS) for row in rows)
    if left == ALL:
        assert Run(tmp_path).metrics(5) == rows
    else:
        with pytest.raises(UsageError, match="^run_dir: .* of 5 epochs, got none of "):
            Run(tmp_path).metrics(5)
    Run(tmp_path).write_rows(rows)
    assert Run(tmp_path).rows() == rows


def test_missing_epochs_are_named_in_ranges():
    rows = parsed(lines_of_epochs(2, 3, 7))
    assert lost_epochs(rows, 9) == "1, 4-6, 8-9"
    assert lost_epochs(rows, 0) == lost_epochs(parsed(lines_of_epochs(1)), 1) == ""


def test_rows_beside_the_newest_checkpoint_count(tmp_path):
    """One value of the file is damaged so that it still is a number."""
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for n in (2, 3):
        kept = [line.strip() for line in [HEADER, *LINES[:n]]]
        files.write_json(checkpoints / f"step-{60 * n:010}.json", {"metrics": kept})
    path = tmp_path / "metrics.csv"
    path.write_text("".join([HEADER, LINES[0], LINES[1].replace("-2", "-8"), LINES[3]]))
    bounds = [row["test_bound"] for row in Run(tmp_path).rows()]
    assert bounds == ["-1", "-2", "-3", "-4"]
    assert [row["epoch"] for row in Run(tmp_path).rows(130)] == ["1", "2"]
    (checkpoints / "step-0000000180.json").write_text("{")
    bounds = [row["test_bound"] for row in Run(tmp_path).rows()]
    assert bounds == ["-1", "-2", "-4"]
    path.unlink()
    assert len(Run(tmp_path).rows()) == 2
