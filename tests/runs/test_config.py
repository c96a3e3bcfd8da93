import dataclasses
import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iwae_tf import rules
from iwae_tf.errors import UsageError
from iwae_tf.runs.config import Config, kind_of

AIS = {
    "ais_images": (7, 1),
    "ais_chains": (1, 0),
    "ais_temperatures": (1, 0),
    "ais_leapfrog": (1, 0),
    "ais_schedule": ("sigmoidal", "cosine"),
    "ais_start": ("prior", "q"),
    "ais_acceptance": (0.9, 1.0),
}
INVALID = {
    "binarization": ["", "Dynamic", "static"],
    "stochastic_layers": [0, -1, 101],
    "objective": ["", "iwae", "IWAE_ELBO", 3],
    "n_samples": [0, -5, 2**31 - 1],
    "beta": [-0.1, math.nan, math.inf],
    "warmup_steps": [-1],
    "schedule": ["", "cosine"],
    "optimizer": ["", "sgd"],
    "validation": [-1],
    "epochs": [0, -1, 2**31, 10**30],
    "batch_size": [0, -1],
    "seed": [-1, 2**31],
    "checkpoint_seconds": [-1.0, math.nan, math.inf],
    "eval_samples": [0, -1],
    "eval_images": [0, -1, 1],
    "eval_chunk": [0, -1],
    "n_latent": [(), (0,), (-3,), (4, 2), (46341,), (10**20,)],
    "n_hidden": [(), (0,), (-3,), (4, 2), (46341,), (10**20,)],
    "n_flows": [-1, 101],
    "feature_maps": [0, 4097],
    "flow_features": [0],
    "flow_normalisation": ["", "layer"],
    "scorer": ["", "IS"],
    "proposal": ["", "prior"],
    "devices": [0, -1, 1025],
    "shard": ["", "1", "0/2", "3/2"],
    "device": ["", "tpu", "GPU", "gpu:x", "gpu:-1", "cpu:3", "gpu:²"],
}
VALID = {
    "binarization": ["dynamic", "threshold", "none"],
    "stochastic_layers": [1, 2, 5],
    "objective": ["vae_elbo", "vae_elbo_kl", "iwae_elbo", "iwae_eq14"],
    "n_samples": [1, 5000],
    "beta": [0.0, 0.5, 4.0],
    "warmup_steps": [0, 1000],
    "schedule": ["burda", "constant", "fast"],
    "optimizer": ["adam", "muon"],
    "grow_samples": [True, False],
    "validation": [0, 5000],
    "epochs": [1, 3280],
    "batch_size": [1, 100],
    "seed": [0, 2**31 - 1],
    "checkpoint_seconds": [0.0, 3600.0],
    "eval_samples": [1, 5000],
    "eval_chunk": [1, 5000],
    "n_latent": [None, (1,), (50,)],
    "n_hidden": [None, (1,), (200,)],
    "n_flows": [0, 1, 16],
}
OUTSIDE_OF_RUN = {
    "run_dir",
    "data_dir",
    "offline",
    "device",
    "checkpoint_seconds",
    "histograms",
    "eval_samples",
    "eval_images",
    "eval_binarizations",
    "eval_chunk",
    "shard",
    "devices",
    "jackknife",
    "continue_from",
    "init_from",
    "pretrained",
    "rescore",
    "scorer",
    "proposal",
    *AIS,
}


def cases(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(INVALID))
def test_value_against_a_rule_is_refused_in_one_line_that_names_it(name, value):
    with pytest.raises(UsageError) as info:
        Config(**{name: value})
    line = str(info.value)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    assert line.startswith(f"{name}: must be ") and shown in line
    assert "\n" not in line


WHOLE = "must be a whole number, got "
SIZES = "must be a tuple of whole numbers, got "
OF_ANOTHER_KIND = [
    ("n_latent", 10, f"{SIZES}10"),
    ("n_latent", "10", f"{SIZES}'10'"),
    ("n_hidden", (1.5,), f"{SIZES}(1.5,)"),
    ("n_hidden", (True,), f"{SIZES}(True,)"),
    ("flow_hidden", {8}, f"{SIZES}{{8}}"),
    ("n_samples", "5", f"{WHOLE}'5'"),
    ("n_samples", 2.5, f"{WHOLE}2.5"),
    ("n_samples", 5.0, f"{WHOLE}5.0"),
    ("n_samples", True, f"{WHOLE}True"),
    ("n_samples", None, f"{WHOLE}None"),
    ("epochs", "x\n  y", f"{WHOLE}'x\\n y'"),
    ("beta", "x", "must be a number, got 'x'"),
    ("beta", 1j, "must be a number, got 1j"),
    ("beta", False, "must be a number, got False"),
    ("jit", 1, "must be True or False, got 1"),
    ("run_dir", 7, "must be a text, got 7"),
    ("run_dir", b"x", "must be a text, got b'x'"),
    ("dataset", None, "must be a text, got None"),
    ("device", Path("cpu"), f"must be a text, got {Path('cpu')!r}"),
]


@pytest.mark.parametrize(("name", "value", "says"), OF_ANOTHER_KIND)
def test_value_of_another_kind_is_refused_in_one_line(name, value, says):
    with pytest.raises(UsageError) as info:
        Config(**{name: value})
    assert str(info.value) == f"{name}: {says}"


def test_values_that_stand_for_their_kind_are_taken_as_that():
    given = {
        "n_latent": [np.int64(4)],
        "n_hidden": np.int64([7]).tolist(),
        "n_samples": np.int32(3),
        "beta": 2,
        "checkpoint_seconds": np.float32(0.5),
        "run_dir": Path("a") / "b",
    }
    config = Config(**given)
    assert (config.n_latent, config.n_hidden, config.n_samples) == ((4,), (7,), 3)
    assert (config.beta, config.checkpoint_seconds) == (2.0, 0.5)
    assert config.run_dir == str(Path("a") / "b")
    json.dumps(dataclasses.asdict(config))


NUMBERS = [f for f in dataclasses.fields(Config) if kind_of(f) in (int, float, tuple)]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_every_number_that_is_too_large_is_refused_in_one_line(field):
    values = {int: [2**31, 10**20, 10**400], float: [math.inf, math.nan, 10**400]}
    for value in values.get(kind_of(field), [(2**31,), (10**20,)]):
        with pytest.raises(UsageError, match=f"^{field.name}: must be .*got") as info:
            Config(**{field.name: value})
        assert "\n" not in str(info.value)


def test_largest_whole_numbers_are_taken_where_no_tensor_grows_with_them():
    largest = {"seed", "epochs", "warmup_steps", "validation", "eval_samples"}
    largest |= {"eval_images", "eval_chunk"}
    config = Config(**dict.fromkeys(largest - {"eval_chunk"}, 2**31 - 1))
    assert {getattr(config, name) for name in largest - {"eval_chunk"}} == {2**31 - 1}
    assert Config(eval_chunk=2**31 - 1).eval_chunk == 2**31 - 1  # of 5,000 samples


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"n_samples": 2**31 // 100, "batch_size": 100},
            "n_samples: {}, got 21474836 with n_groups 1, batch_size 100, 8 elements "
            "for each",
        ),
        (
            {"objective": "miwae", "n_groups": 2**22},  # of the 100 test images
            "n_groups: {}, got 4194304 with n_samples 5, 800 elements for each",
        ),
        (
            {"batch_size": 2**20, "n_samples": 256},
            "batch_size: {}, got 1048576 with n_samples 256, n_groups 1, 8 elements "
            "for each",
        ),
        (
            {"n_samples": 2**22},
            "n_samples: {}, got 4194304 with n_groups 1, 800 elements for each",
        ),
        (
            {"eval_samples": 2**30, "eval_chunk": 2**24},
            "eval_chunk: {}, got 16777216 with 160 elements for each",
        ),
        (
            {"scorer": "ais", "ais_chains": 2**23},
            "ais_chains: {}, got 8388608 with 400 elements for each",
        ),
    ],
)
def test_tensors_are_counted_in_31_bits(options, line):
    config = Config(**{"batch_size": 1} | options)
    with pytest.raises(UsageError) as info:
        config.check_elements(8)
    rule = "must be small enough for tensors of fewer than 2**31 elements"
    assert str(info.value) == line.format(rule)


def test_batches_are_those_of_the_rooms():
    from iwae_tf.measures import annealing, likelihood

    def default(function):
        return inspect.signature(function).parameters["batch_size"].default

    assert default(likelihood.log_likelihood) == rules.SCORE_BATCH
    assert default(annealing.log_likelihood) == rules.AIS_BATCH
    assert default(annealing.certify) == rules.AIS_BATCH


@pytest.mark.parametrize("name", ["run_dir", "data_dir", "dataset", "init_from"])
def test_path_that_is_no_utf8_is_refused_in_a_line_that_can_be_printed(name):
    with pytest.raises(UsageError) as info:
        Config(**{name: "a\udcff\n.npz"})
    line = f"{name}: must be a path in UTF-8, got 'a\\udcff\\n.npz'"
    assert str(info.value) == line and line.encode()


@pytest.mark.parametrize(("name", "value"), cases(VALID))
def test_value_at_the_edge_of_a_rule_is_taken(name, value):
    assert getattr(Config(**{name: value}), name) == value


@pytest.mark.parametrize("rate", [0.0, -1e-3, math.nan, math.inf])
def test_learning_rate_must_be_positive_and_finite(rate):
    with pytest.raises(UsageError, match="^learning_rate: must be "):
        Config(schedule="constant", learning_rate=rate)


def test_learning_rate_does_not_go_with_the_papers_schedule():
    for schedule in ("constant", "fast"):
        assert Config(schedule=schedule, learning_rate=0.1).learning_rate == 0.1
    with pytest.raises(UsageError, match="^learning_rate: .*constant or fast"):
        Config(learning_rate=0.1)


def test_schedule_chooses_what_is_not_given():
    fast = Config(schedule="fast")
    assert (fast.epochs, fast.batch_size, fast.optimizer) == (200, 800, "muon")
    assert fast.learning_rate == 0.012 and fast.grow_samples
    given = {"epochs": 3, "batch_size": 7, "optimizer": "adam", "grow_samples": False}
    own = Config(schedule="fast", learning_rate=0.5, **given)
    assert own.learning_rate == 0.5
    assert {name: getattr(own, name) for name in given} == given
    assert Config(schedule="constant").learning_rate == 1e-3
    assert Config().learning_rate is None and not Config().grow_samples


def test_deep_models_choose_flows_and_maps():
    dense, resnet = Config(model="dense"), Config(model="resnet")
    for config in (dense, resnet):
        assert (config.n_flows, config.flow_hidden) == (8, (256, 256))
        assert (config.flow_features, config.flow_normalisation) == (64, "weight")
    assert (dense.feature_maps, resnet.feature_maps) == (None, 64)
    plain = Config(model="gated", n_flows=0, feature_maps=8, n_latent=(9,))
    assert (plain.n_flows, plain.flow_hidden, plain.feature_maps) == (0, None, 8)
    burda = Config(n_flows=2, flow_hidden=(7,), conditional=True)
    assert (burda.n_flows, burda.flow_hidden, burda.flow_features) == (2, (7,), 64)
    assert Config().n_flows == Config(model="tvae_tps").n_flows == 0
    assert Config(model="dense", n_hidden=(90,)).n_hidden == (90,)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"flow_hidden": (7,)},
            "flow_hidden: goes with flows only, got (7,) without flows",
        ),
        (
            {"model": "dense", "n_flows": 0, "flow_normalisation": "batch"},
            "flow_normalisation: goes with flows only, got batch without flows",
        ),
        (
            {"n_flows": 2, "flow_hidden": (7, 0)},
            "flow_hidden: must be positive sizes, got 7,0",
        ),
        (
            {"n_flows": 2, "stochastic_layers": 2},
            "n_flows: goes with one stochastic layer only, got 2 with 2 layers",
        ),
        (
            {"feature_maps": 8},
            "feature_maps: goes with model gated or resnet only, got 8 with model "
            "burda",
        ),
        (
            {"model": "resnet", "n_hidden": (8,)},
            "n_hidden: goes with model burda or dense only, got (8,) with model resnet",
        ),
        *(
            (
                {"model": "dense", "objective": objective},
                "objective: must not need a closed form or the density of given "
                f"latents if there are flows, got {objective} with 8 flows; use "
                "vae_elbo, iwae_elbo, iwae_eq14, miwae, piwae, combination, renyi, "
                "tvo_total, stl, dreg, gdreg, rws_dreg or renyi_dreg",
            )
            for objective in sorted(
                {*rules.OBJECTIVES} - {*rules.WITHOUT_GIVEN_LATENTS} - {*rules.OF_PATHS}
            )
        ),
    ],
)
def test_options_of_deep_models_that_do_not_fit_are_refused(options, line):
    with pytest.raises(UsageError) as info:
        Config(**options)
    assert str(info.value) == line


@pytest.mark.parametrize("name", ["n_latent", "n_hidden"])
def test_one_size_for_each_stochastic_layer(name):
    assert getattr(Config(stochastic_layers=2, **{name: (4, 2)}), name) == (4, 2)
    with pytest.raises(UsageError, match=f"^{name}: must be 3 positive sizes"):
        Config(stochastic_layers=3, **{name: (4, 2)})


@pytest.mark.parametrize("objective", ["miwae", "piwae"])
def test_groups_go_with_multiply_weighted_objectives_only(objective):
    assert Config(objective=objective, n_groups=8).n_groups == 8
    with pytest.raises(UsageError, match="^n_groups: .* got 8 with objective dreg$"):
        Config(objective="dreg", n_groups=8)
    with pytest.raises(UsageError, match="^n_groups: must be at least 1, got 0$"):
        Config(objective=objective, n_groups=0)


def test_combination_beta_goes_with_combination_only():
    for beta in (0.0, 0.3, 1.0):
        config = Config(objective="combination", combination_beta=beta)
        assert config.combination_beta == beta
    with pytest.raises(UsageError, match="^combination_beta: .* with objective stl$"):
        Config(objective="stl", combination_beta=0.5)
    for beta in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="^combination_beta: must be "):
            Config(objective="combination", combination_beta=beta)


@pytest.mark.parametrize("objective", ["renyi", "renyi_dreg"])
def test_renyi_alpha_goes_with_renyi_only(objective):
    for alpha in (0, 0.3, 0.99):
        assert Config(objective=objective, renyi_alpha=alpha).renyi_alpha == alpha
    with pytest.raises(UsageError, match="^renyi_alpha: .* with objective stl$"):
        Config(objective="stl", renyi_alpha=0.5)
    for alpha in (-0.1, 1.0, math.nan):
        with pytest.raises(UsageError, match="^renyi_alpha: must be "):
            Config(objective=objective, renyi_alpha=alpha)


@pytest.mark.parametrize("objective", ["tvo", "tvo_total"])
def test_temperatures_go_with_tvo_only(objective):
    for ends in ((0.0,), (0.0, 0.25, 0.5)):
        config = Config(objective=objective, temperatures=list(ends))
        assert config.temperatures == ends
        assert all(isinstance(end, float) for end in config.temperatures)
    rule = "^temperatures: .* tvo or tvo_total only, got 0,0.5 with objective renyi$"
    with pytest.raises(UsageError, match=rule):
        Config(objective="renyi", temperatures=(0, 0.5))
    for ends in ((), (0.1,), (0, 0.5, 0.5), (0, 1), (0, 0.5, 0.2), (0, math.nan)):
        with pytest.raises(UsageError, match="^temperatures: must start with 0 "):
            Config(objective=objective, temperatures=ends)
    for ends in (0.5, "0", (0, "1"), (0, True)):
        with pytest.raises(UsageError, match="^temperatures: must be a tuple of n"):
            Config(objective=objective, temperatures=ends)


@pytest.mark.parametrize("name", rules.LEAST_SAMPLES)
def test_objectives_that_compare_samples_need_two(name):
    assert Config(objective=name, n_samples=2).n_samples == 2
    rule = f"^n_samples: must be at least 2 for objective {name}, got 1$"
    with pytest.raises(UsageError, match=rule):
        Config(objective=name, n_samples=1)


def test_least_numbers_of_samples_are_those_of_the_table():
    from iwae_tf import objectives

    assert rules.LEAST_SAMPLES == {
        name: row.min_samples
        for name, row in objectives.table().items()
        if row.min_samples > 1
    }


def test_jackknife_needs_three_samples():
    assert Config(jackknife=True, eval_samples=3).jackknife
    with pytest.raises(UsageError, match="^eval_samples: must be at least 3 .* got 2$"):
        Config(jackknife=True, eval_samples=2)


def test_proposals_go_with_importance_sampling_and_with_densities_only():
    for name in rules.PROPOSALS:
        assert Config(proposal=name).proposal == name
    assert Config(scorer="ais", proposal="posterior").scorer == "ais"
    line = "^proposal: goes with scorer importance only, got refined with scorer ais$"
    with pytest.raises(UsageError, match=line):
        Config(scorer="ais", proposal="refined")
    assert Config(n_flows=2, proposal="refined").n_flows == 2
    line = "^proposal: defensive goes without flows only, got 8 flows$"
    with pytest.raises(UsageError, match=line):
        Config(model="dense", proposal="defensive")


@pytest.mark.parametrize("name", AIS)
def test_options_of_annealing_go_with_their_scorer_only(name):
    good, bad = AIS[name]
    assert getattr(Config(scorer="ais", **{name: good}), name) == good
    with pytest.raises(UsageError, match=f"^{name}: must be .* got {bad!r}$"):
        Config(scorer="ais", **{name: bad})
    line = f"^{name}: goes with scorer ais only, got {good} with scorer importance$"
    with pytest.raises(UsageError, match=line):
        Config(**{name: good})


def test_closed_form_kl_goes_with_one_layer_only():
    assert Config(objective="vae_elbo_kl").stochastic_layers == 1
    with pytest.raises(UsageError, match="^objective: .* got 2 layers; use vae_elbo$"):
        Config(objective="vae_elbo_kl", stochastic_layers=2)


def test_defaults_are_the_papers():
    config = Config()
    assert (config.schedule, config.epochs, config.batch_size) == ("burda", 3280, 20)
    assert config.eval_samples == 5000 and config.binarization == "dynamic"
    assert sum(3**i for i in range(8)) == config.epochs


def test_choices_are_those_of_the_rooms():
    from iwae_tf import objectives
    from iwae_tf.models import zoo

    choices = {
        field.name: field.metadata["choices"]
        for field in dataclasses.fields(Config)
        if "choices" in field.metadata
    }
    assert choices["objective"] == tuple(objectives.table())
    assert choices["binarization"] == rules.BINARIZATIONS
    assert choices["model"] == ("burda", *zoo.SPATIAL, *rules.DEEP, *rules.BINARY)
    assert choices["flow_normalisation"] == rules.NORMALISATIONS
    assert choices["ais_schedule"] == rules.AIS_SCHEDULES
    assert choices["ais_start"] == rules.AIS_STARTS


def test_of_run_leaves_out_what_does_not_decide_the_numbers():
    names = {field.name for field in dataclasses.fields(Config)}
    assert names >= OUTSIDE_OF_RUN
    assert set(Config().of_run()) == names - OUTSIDE_OF_RUN
    config = Config(stochastic_layers=2, n_latent=(4, 2), seed=7, run_dir="x")
    assert config.of_run()["n_latent"] == (4, 2) and config.of_run()["seed"] == 7


def test_every_option_has_a_help_text_that_is_a_sentence():
    for field in dataclasses.fields(Config):
        assert re.fullmatch(r"[A-Za-z].+\.", field.metadata["help"]), field.name


def test_options_are_had_without_tensorflow():
    code = "import iwae_tf.cli, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_trained_model_and_another_start_are_refused():
    with pytest.raises(UsageError, match="^init_from: must not be given with pre"):
        Config(pretrained="mnist_iwae_1l_k50", init_from="runs/a")


def test_likelihood_chooses_how_data_are_brought_to_it():
    assert Config().binarization == "dynamic"
    assert Config(likelihood="bernoulli").binarization == "dynamic"
    real = Config(likelihood="gaussian", likelihood_scale="0.5", standardize=True)
    assert real.binarization == "none"
    assert Config(missing=True, mask_input=True, model="tvae_tps").missing


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"likelihood": "gaussian", "binarization": "dynamic"},
            "binarization: must be none with likelihood gaussian, got dynamic",
        ),
        (
            {"likelihood_scale": "shared"},
            "likelihood_scale: goes with likelihood gaussian or student_t only, got "
            "shared with likelihood bernoulli",
        ),
        *(
            (
                {"likelihood": "student_t", "likelihood_scale": scale},
                "likelihood_scale: must be one of entry, feature, shared or a positive "
                f"number, got {scale!r}",
            )
            for scale in ("0", "-1", "nan", "inf", "all")
        ),
        (
            {"standardize": True},
            "standardize: goes with likelihood gaussian or student_t only, got "
            "likelihood bernoulli",
        ),
        ({"mask_input": True}, "mask_input: goes with missing only, got none missing"),
        (
            {"model": "tvae_affine", "likelihood": "gaussian"},
            "likelihood: must be bernoulli for model tvae_affine, got gaussian",
        ),
        (
            {"n_bounded": 6},
            "n_bounded: goes with model vae60 or tvae_affine or tvae_tps only, got 6 "
            "with model burda",
        ),
    ],
)
def test_options_of_data_that_do_not_go_together_are_refused(options, line):
    with pytest.raises(UsageError) as info:
        Config(**options)
    assert str(info.value) == line
