"""Names of runs: what they have always been, and that they tell options apart."""

import dataclasses
import json
from pathlib import Path

import pytest

from iwae_tf.runs import names, records
from iwae_tf.runs.config import Config

ROOT = Path(__file__).parents[2]
# Another value of every option of a run, with what it needs.
OTHERS = {
    "dataset": {"dataset": "digits"},
    "binarization": {"binarization": "threshold"},
    "standardize": {"standardize": True, "likelihood": "gaussian"},
    "validation": {"validation": 7},
    "stochastic_layers": {"stochastic_layers": 2},
    "model": {"model": "vae60"},
    "n_latent": {"n_latent": (2,)},
    "n_hidden": {"n_hidden": (3,)},
    "likelihood": {"likelihood": "gaussian"},
    "likelihood_scale": {"likelihood_scale": "0.1", "likelihood": "gaussian"},
    "missing": {"missing": True},
    "mask_input": {"mask_input": True, "missing": True},
    "precision": {"precision": "bfloat16"},
    "early_stopping": {"early_stopping": 3, "validation": 7},
    "conditional": {"conditional": True},
    "conditional_prior": {"conditional_prior": True, "conditional": True},
    "n_bounded": {"n_bounded": 6, "model": "vae60"},
    "n_flows": {"n_flows": 2},
    "flow_hidden": {"flow_hidden": (4, 5), "n_flows": 2},
    "flow_features": {"flow_features": 3, "n_flows": 2},
    "flow_normalisation": {"flow_normalisation": "batch", "n_flows": 2},
    "feature_maps": {"feature_maps": 8, "model": "resnet"},
    "objective": {"objective": "vae_elbo"},
    "n_samples": {"n_samples": 50},
    "n_groups": {"n_groups": 2, "objective": "miwae"},
    "combination_beta": {"combination_beta": 0.25, "objective": "combination"},
    "renyi_alpha": {"renyi_alpha": 0.25, "objective": "renyi"},
    "temperatures": {"temperatures": (0, 0.25), "objective": "tvo"},
    "beta": {"beta": 0.123456789},
    "warmup_steps": {"warmup_steps": 9},
    "schedule": {"schedule": "constant"},
    "batch_size": {"batch_size": 21},
    "learning_rate": {"learning_rate": 0.01, "schedule": "constant"},
    "optimizer": {"optimizer": "muon"},
    "grow_samples": {"grow_samples": True},
    "seed": {"seed": 1},
    "jit": {"jit": False},
}


@pytest.mark.parametrize("name", [n for n in Config().of_run() if n != "epochs"])
def test_every_option_of_a_run_changes_its_name(name):
    options = OTHERS[name]
    others = {other: value for other, value in options.items() if other != name}
    changed, same = Config(**options), Config(**others)
    assert getattr(changed, name) != getattr(same, name)
    assert names.run_name(changed) != names.run_name(same)


def test_numbers_that_differ_in_the_last_digit_have_two_names():
    betas = (0.5, 0.123456789, 0.123456788)
    found = [names.run_name(Config(beta=beta)) for beta in betas]
    assert found[0] == "auto-iwae_elbo-1l-beta_0.5-k5-s123"
    assert len(set(found)) == 3


def test_options_without_a_place_are_spelt_out():
    config = Config(
        dataset="digits",
        stochastic_layers=2,
        n_latent=(4, 2),
        schedule="fast",
        grow_samples=False,
        jit=False,
        validation=9,
    )
    assert names.run_name(config) == (
        "digits-iwae_elbo-2l-fast-v9-n_latent_4_2-nogrow_samples-nojit-k5-s123"
    )


def test_values_that_the_schedule_chooses_do_not_change_the_name():
    given = {"batch_size": 800, "optimizer": "muon", "learning_rate": 0.012}
    fast = Config(dataset="mnist", schedule="fast", grow_samples=True, **given)
    assert names.run_name(fast) == "mnist-iwae_elbo-1l-fast-k5-s123"


def test_epochs_and_options_that_are_not_of_the_run_do_not_change_the_name():
    other = Config(epochs=2, eval_samples=7, histograms=True, device="cpu")
    assert names.run_name(other) == names.run_name(Config())


def test_runs_of_the_results_have_the_names_of_their_options():
    reports = sorted((ROOT / "results").glob("*-s12?/report.json"))
    assert len(reports) > 40
    for path in reports:
        config = records.config_of(json.loads(path.read_text()))
        chosen = dataclasses.replace(config, jit=None)  # by the run, or else asked for
        found = {names.run_name(config), names.run_name(chosen)}
        assert path.parent.name in found


def test_long_names_are_cut_between_characters_and_still_differ():
    starts = [f"runs/{'é' * 120}{end}" for end in "ab"]
    found = [names.run_name(Config(init_from=start)) for start in starts]
    assert len(set(found)) == 2
    for name in found:
        assert 230 < len(name.encode()) <= 240
        assert name.startswith("auto-iwae_elbo-1l-k5-s123-from-éé")
    short = dataclasses.replace(Config(), init_from="runs/short")
    assert names.run_name(short).endswith("-from-short")
