"""Scores of shares, joined."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from small_runs import Stop, images_of

from iwae_tf import data
from iwae_tf.errors import UsageError
from iwae_tf.measures import likelihood, proposals, units
from iwae_tf.measures.likelihood import log_likelihood
from iwae_tf.models import batches
from iwae_tf.runs import experiment, scoring
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run

# 4 batches of images to score, the last of them of 5; one of images to anneal.
IMAGES = images_of(40, 65)
N_SHARES = 6
AIS = {
    "scorer": "ais",
    "ais_images": 4,
    "ais_chains": 2,
    "ais_temperatures": 3,
    "ais_leapfrog": 1,
}


def config(run_dir, **options):
    return Config(
        n_latent=(2,),
        n_hidden=(3,),
        epochs=1,
        batch_size=20,
        jit=False,
        eval_samples=7,
        eval_chunk=3,
        run_dir=str(run_dir),
        **({"n_samples": 2} | (AIS if options.get("scorer") is None else {}) | options),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run that one process has scored."""
    run_dir = tmp_path_factory.mktemp("shards") / "whole"
    experiment.run(config(run_dir), IMAGES)
    return run_dir


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The directory of a run that is trained but not scored."""

    def stop(*args):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(scoring, "score", stop)
        experiment.run(config(tmp_path / "run"), IMAGES)
    return tmp_path / "run"


def test_joined_shares_are_byte_for_byte_the_scores_of_one_process(
    whole, trained, monkeypatch
):
    for i in range(1, N_SHARES + 1):
        if i != 2:  # a share that is missing
            options = config(trained, shard=f"{i}/{N_SHARES}")
            assert experiment.run(options, IMAGES) == {}
    parts = sorted((trained / "scoring").glob("*.npz"))
    assert [path.stem for path in parts] == ["000000", "000040", "000060"]
    parts[-1].write_bytes(b"damaged")
    scored, score = [], likelihood._score_batch
    monkeypatch.setattr(
        likelihood, "_score_batch", lambda *args: scored.append(1) or score(*args)
    )
    # Moments and annealing are found, and not computed again.
    monkeypatch.setattr(units, "_moments_of_batch", None)
    monkeypatch.setattr(scoring.annealing, "_anneal_batch", None)
    experiment.run(config(trained), IMAGES)
    assert len(scored) == 2
    assert (trained / "scores.npz").read_bytes() == (whole / "scores.npz").read_bytes()
    reports = [json.loads((d / "report.json").read_text()) for d in (whole, trained)]
    for part in ("test", "units", "ais", "scores_sha256"):
        assert reports[0][part] == reports[1][part]
    assert not (trained / "scoring").exists()


def test_a_finished_run_is_scored_again_by_another_proposal(whole, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    options = {"scorer": "importance", "proposal": "refined"}
    experiment.run(config(run_dir, shard="1/2", **options), IMAGES)
    again = config(run_dir, rescore=True, **options)
    found = experiment.run(again, IMAGES)["test"]
    before = json.loads((whole / "report.json").read_text())["test"]
    assert (found["proposal"], "proposal" in before) == ("refined", False)
    assert found["log_likelihood"] != before["log_likelihood"]
    want = log_likelihood(
        Run(whole).model,
        data.sets_of(IMAGES, **again.of_sets()).x_test,
        7,
        3,
        jit_compile=False,
        proposal=proposals.Refined(),
    )
    got = Run(run_dir).scores["log_px"]
    np.testing.assert_array_equal(got, np.float32(want.log_px))


def test_scores_of_several_binarisations_are_told_beside_the_first(whole, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    again = config(run_dir, rescore=True, eval_binarizations=3, scorer="importance")
    experiment.run(dataclasses.replace(again, rescore=False, shard="2/2"), IMAGES)
    names = {path.name for path in (run_dir / "scoring").iterdir() if path.is_dir()}
    assert names == {"other-1", "other-2"}
    found = experiment.run(again, IMAGES)["test"]
    before = json.loads((whole / "report.json").read_text())["test"]
    spread = found.pop("binarizations")
    assert found == before
    model = Run(whole).model
    means = [
        log_likelihood(
            model,
            data.sets_of(
                IMAGES, **again.of_sets(), test_seed=data.TEST_SEED + i
            ).x_test,
            7,
            chunk=3,
            jit_compile=False,
        ).mean
        for i in range(3)
    ]
    assert len({*means}) == 3 and abs(means[0] - found["log_likelihood"]) < 1e-4
    assert spread["n"] == 3
    assert abs(spread["log_likelihood"] - np.mean(means)) < 1e-4
    assert abs(spread["standard_deviation"] - np.std(means, ddof=1)) < 1e-4


def test_share_of_a_run_that_is_not_trained_or_another_one_is_refused(whole, tmp_path):
    with pytest.raises(UsageError, match="^run_dir: must hold a run"):
        experiment.run(config(tmp_path / "none", shard="1/2"), IMAGES)
    with pytest.raises(UsageError, match="^n_samples: must be 2 to continue"):
        experiment.run(config(whole, shard="1/2", n_samples=3), IMAGES)
    for path in (whole / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="checkpoint"):
        experiment.run(config(whole, shard="1/2"), IMAGES)


def test_share_of_a_run_in_training_is_refused(tmp_path):
    options = config(tmp_path / "run", schedule="constant")
    experiment.run(options, IMAGES)
    longer = dataclasses.replace(options, epochs=2, shard="1/2")
    with pytest.raises(UsageError, match="^shard: must be .* at step 2 of 4$"):
        experiment.run(longer, IMAGES)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_share_must_be_one_of_some(text):
    with pytest.raises(UsageError, match=f"^shard: must be i/n .*, got '{text}'$"):
        Config(shard=text)


def test_empty_share_of_batches_is_refused_in_one_line():
    some = [batches.Batch(0, 1, np.zeros([1, 2]), None)]
    with pytest.raises(UsageError, match="^share: must have a batch"):
        batches.run(some, lambda batch: {}, share=batches.Share(1, 2))
    assert batches.Share(3, 6).has_batches(61, 20)
    assert not batches.Share(4, 6).has_batches(80, 20)
