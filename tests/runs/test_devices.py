"""Tests of iwae_tf.runs.devices."""

import json
import types

import pytest
import tensorflow as tf

from iwae_tf.errors import UsageError, WorkerLost
from iwae_tf.runs import devices
from iwae_tf.runs.config import Config

TWO = {"worker": ["127.0.0.1:5000", "127.0.0.1:5001"]}


@pytest.mark.parametrize(
    "name", ["", "tpu", "GPU", "gpu:x", "gpu:-1", "nonsense", "cpu:3", "auto:0"]
)
def test_unknown_device_is_refused(name):
    with pytest.raises(UsageError, match=f"^device: must be auto, cpu.*'{name}'"):
        devices.use(name)


def test_gpus_that_are_not_there_are_refused():
    seen = len(tf.config.list_physical_devices("GPU"))
    with pytest.raises(UsageError, match=f"^device: .*'gpu:{seen}' with {seen} GPUs"):
        devices.use(f"gpu:{seen}")
    with pytest.raises(UsageError, match=f"^device: .*{seen} GPUs seen"):
        devices.use("gpu", seen + 1)
    with pytest.raises(UsageError, match="^device: must have no number for 2 devices"):
        devices.use("gpu:0", 2)


@pytest.mark.parametrize(("own", "says"), [({1}, "1 core"), ({0, 3, 5}, "3 cores")])
def test_cores_are_those_that_the_process_may_use(own, says, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: own, raising=False)
    assert devices.use("cpu").description == f"CPU with {says}"


def test_cores_are_all_where_nobody_tells(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert devices.use("cpu").description == "CPU with 7 cores"


@pytest.mark.parametrize(
    "told",
    [
        "nonsense",
        "[]",
        "{}",
        {"cluster": TWO},
        {"cluster": TWO, "task": {"type": "worker", "index": 2}},
        {"cluster": TWO, "task": {"type": "chief", "index": 0}},
        {"cluster": TWO | {"ps": ["h:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": TWO, "task": {"type": "worker", "index": "x"}},
        {"cluster": "worker", "task": {"type": "worker", "index": 0}},
    ],
)
def test_tf_config_without_a_place_among_workers_is_refused(told, monkeypatch):
    text = told if isinstance(told, str) else json.dumps(told)
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError) as caught:
        devices.use("cpu")
    assert str(caught.value).startswith("TF_CONFIG: must be like {")
    assert str(caught.value).endswith(f"got {text}")


@pytest.mark.parametrize("cluster", [TWO, {"chief": ["h:1"], "worker": ["h:2"]}])
def test_work_that_workers_cannot_share_is_refused_to_a_team(cluster, monkeypatch):
    told = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(told))
    with pytest.raises(UsageError, match="^TF_CONFIG: must name one worker .*, got 2$"):
        devices.use("cpu", is_alone=True)
    with pytest.raises(UsageError, match="^devices: must be 1 for workers without GPU"):
        devices.use("cpu", 2)


def test_one_worker_is_no_team(monkeypatch):
    told = {"cluster": {"worker": ["h:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(told))
    found = devices.use("cpu")
    assert (found.worker, found.n_workers, found.n_replicas) == (0, 1, 1)
    assert found.all(3) == [3]


def test_batch_must_divide_by_the_devices():
    with pytest.raises(
        UsageError, match="^batch_size: must divide by the number of devices, 3, got 20"
    ):
        Config(devices=3)
    assert Config(devices=4).devices == 4


def test_error_of_a_team_says_that_a_worker_was_lost_and_another_error_does_not():
    text = "{{function_node f}} Collective ops is aborted by: Socket closed\nmore"
    alone = devices.use("cpu")
    team = alone._replace(n_workers=2)
    with (
        pytest.raises(WorkerLost, match=r"goes on .* \(Collective .*Socket closed\)$"),
        team.together(),
    ):
        raise tf.errors.UnavailableError(None, None, text)
    with pytest.raises(tf.errors.UnavailableError), alone.together():
        raise tf.errors.UnavailableError(None, None, text)
    with pytest.raises(tf.errors.ResourceExhaustedError), team.together():
        raise tf.errors.ResourceExhaustedError(None, None, "memory")


def test_workers_with_several_devices_each_give_one_value():
    strategy = types.SimpleNamespace(
        num_replicas_in_sync=4,
        run=lambda function: function(),
        gather=lambda value, axis: tf.repeat(tf.concat([value, value + 1], axis), 2),
    )
    team = devices.use("cpu")._replace(strategy=strategy, n_workers=2)
    assert team.all(10) == [10, 11]
