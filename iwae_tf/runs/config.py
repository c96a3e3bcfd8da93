"""The options of a run: the one place for their names, defaults, help texts and rules.

The command line makes its flags from these fields, and `iwae_tf.run` takes a `Config`.
Nothing here imports TensorFlow, so a bad flag is reported at once. `python -m
iwae_tf.runs.config FILE` writes the table of all flags into a Markdown file.
"""

import dataclasses
import math
import numbers
import os
import sys
import types
import typing
from pathlib import Path

from iwae_tf import rules
from iwae_tf.errors import (
    UsageError,
    check_at_least,
    check_one_of,
    check_utf8,
    told_in_one_line,
)
from iwae_tf.files import escaped, replace_between

LARGEST = 2**31 - 1  # the largest whole number that an option may have
WIDEST = 46340  # a matrix of this many rows and columns has fewer than 2**31 elements
_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
BURDA_EPOCHS = 3280  # 1 + 3 + 9 + ... + 3^7
# Values that each schedule gives to options that are not given.
SCHEDULES = {
    "burda": {
        "epochs": BURDA_EPOCHS,
        "batch_size": 20,
        "optimizer": "adam",
        "grow_samples": False,
    },
    "constant": {
        "epochs": BURDA_EPOCHS,
        "batch_size": 20,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "grow_samples": False,
    },
    "fast": {
        "epochs": 200,
        "batch_size": 800,
        "optimizer": "muon",
        "learning_rate": 0.012,
        "grow_samples": True,
    },
}
# Titles of the groups of options, in the order of `--help`.
GROUPS = {
    "data": "Data",
    "networks": "Networks",
    "objective": "Objective",
    "training": "Training",
    "scoring": "Scoring",
    "annealing": "Annealed importance sampling, with --scorer ais",
    "places": "Files and devices",
}


def _option(group, default, help, *, unset=None, of_run=True, **limits):
    """Makes a field of `Config`; `unset` describes the value if none is given."""
    return dataclasses.field(
        default=default,
        metadata={
            "group": group,
            "help": help,
            "unset": unset,
            "of_run": of_run,
            **limits,
        },
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of a run.

    The fields with `of_run` describe the model and its training. They determine the
    numbers of a run, and must stay the same when the run is continued; but there may be
    more epochs, see `may_grow`.

    Raises:
      UsageError: if a value breaks a rule.
    """

    dataset: str = _option(
        "data",
        "auto",
        "Data set: mnist, digits, fashion_mnist, omniglot, omniglot_burda and "
        "binarized_mnist from files in --data_dir, another image data set of "
        "tensorflow-datasets, or the path of an .npz file with the arrays x_train and "
        "x_test, images or vectors; with --validation, x_test may be absent. A folder "
        "with x_train.npy and x_test.npy stays on disk, for data that do not fit into "
        "memory. auto is mnist if it is prepared or can be downloaded, and digits "
        "otherwise.",
        is_path=True,
    )
    binarization: str | None = _option(
        "data",
        None,
        "How grey training images become binary: drawn anew each time an image is "
        "seen, cut at one half, or not at all.",
        unset="dynamic with --likelihood bernoulli, and none otherwise",
        choices=rules.BINARIZATIONS,
    )
    standardize: bool = _option(
        "data",
        False,
        "Bring every feature of vectors to mean 0 and variance 1, by the training "
        "data. Scores are those of the data as they were.",
    )
    validation: int = _option(
        "data",
        0,
        "Number of training images to hold out, from the end of the set. They are "
        "scored in place of the test images, so that options can be chosen on them.",
        minimum=0,
    )
    data_dir: str | None = _option(
        "data",
        None,
        "Directory of tensorflow-datasets, and of the files of omniglot_burda and "
        "binarized_mnist, which are not downloaded.",
        unset="$TFDS_DATA_DIR or ~/tensorflow_datasets",
        of_run=False,
        is_path=True,
    )
    offline: bool = _option(
        "data", False, "Never try to download a data set.", of_run=False
    )

    stochastic_layers: int = _option(
        "networks", 1, "Number of stochastic layers.", minimum=1, maximum=100
    )
    model: str = _option(
        "networks",
        "burda",
        "Networks. burda: those of the IWAE paper. vae60, tvae_affine and tvae_tps: a "
        "plain VAE with 60 latents, and two whose latents also place the image, by an "
        "affine map or a thin-plate spline. dense, gated and resnet: deep networks "
        "with 64 latents, fully connected or with gated or residual convolutions. sbn: "
        "a sigmoid belief network, with 200 binary latents in each stochastic layer "
        "and no hidden units, for objectives such as vimco and rws.",
        choices=rules.MODELS,
    )
    n_latent: tuple[int, ...] | None = _option(
        "networks",
        None,
        "Sizes of the latents, from the image upwards, such as 100,50.",
        unset="the paper's, and 200 in each layer with --model sbn",
        maximum=WIDEST,
    )
    n_hidden: tuple[int, ...] | None = _option(
        "networks",
        None,
        "Numbers of hidden units beside each stochastic layer, from the image "
        "upwards, such as 200,100.",
        unset="the paper's, and 300 with --model dense",
        maximum=WIDEST,
    )
    likelihood: str | None = _option(
        "networks",
        None,
        "p(x|z). bernoulli is for binary data, continuous_bernoulli for values in "
        "0..1, gaussian and student_t for real ones, discretized_logistic for uint8 "
        "images and others with levels, categorical for whole numbers from 0 that are "
        "classes.",
        unset="bernoulli for grey images, which are made binary, and for binary "
        "vectors; other data need a choice",
        choices=rules.LIKELIHOODS,
    )
    likelihood_scale: str | None = _option(
        "networks",
        None,
        "Scale of --likelihood gaussian and student_t: entry is an output of the "
        "network, feature is trained for each feature, shared is one for all, and a "
        "number is fixed.",
        unset="entry",
    )
    missing: bool = _option("networks", False, "Take NaN for entries that are missing.")
    mask_input: bool = _option(
        "networks",
        False,
        "With --missing, q(z|x) also sees which entries were observed.",
    )
    conditional: bool = _option(
        "networks",
        False,
        "Model log p(x|y): every network also sees y, the label of the image as a "
        "one-hot vector, or a vector of the data set.",
    )
    conditional_prior: bool = _option(
        "networks",
        False,
        "With --conditional, learn the prior p(z|y) of the top layer in place of "
        "N(0, I), or of p(z) with --model sbn.",
    )
    n_bounded: int = _option(
        "networks",
        0,
        "Number of posterior means, counted from the last, that go through tanh, with "
        "--model vae60, tvae_affine and tvae_tps. The last 6 of tvae_affine and "
        "the last 18 of tvae_tps place the image.",
        minimum=0,
        maximum=rules.SPATIAL_LATENTS,
    )
    n_flows: int | None = _option(
        "networks",
        None,
        "Number of steps of inverse autoregressive flow in q(z|x).",
        unset="8 with --model dense, gated or resnet, and 0 otherwise",
        minimum=0,
        maximum=100,
    )
    flow_hidden: tuple[int, ...] | None = _option(
        "networks",
        None,
        "Numbers of hidden units in the network of each flow step.",
        unset="256,256",
        maximum=WIDEST,
    )
    flow_features: int | None = _option(
        "networks",
        None,
        "Number of features of x that each flow step sees.",
        unset="64",
        minimum=1,
        maximum=WIDEST,
    )
    flow_normalisation: str | None = _option(
        "networks",
        None,
        "Normalisation of the hidden layers in each flow step.",
        unset="weight",
        choices=rules.NORMALISATIONS,
    )
    feature_maps: int | None = _option(
        "networks",
        None,
        "Number of feature maps of --model gated and resnet.",
        unset="64",
        minimum=1,
        maximum=4096,
    )

    precision: str = _option(
        "networks",
        "float32",
        "What networks compute in. Latents, densities, losses and flows are float32 "
        "with all of them.",
        choices=tuple(rules.PRECISIONS),
    )

    objective: str = _option(
        "objective",
        "iwae_elbo",
        "Objective that training maximises.",
        choices=rules.OBJECTIVES,
    )
    n_samples: int = _option(
        "objective",
        5,
        "k, the number of samples for each image; with groups, in each group.",
        minimum=1,
    )
    n_groups: int = _option(
        "objective",
        1,
        "m, the number of groups of k samples, for --objective miwae and piwae.",
    )
    combination_beta: float | None = _option(
        "objective",
        None,
        "Weight of the ELBO in --objective combination, from 0 to 1.",
        unset="0.5",
    )
    renyi_alpha: float | None = _option(
        "objective",
        None,
        "Order of the bound of --objective renyi and renyi_dreg, at least 0 and less "
        "than 1: 0 is the importance weighted bound, and near 1 is the ELBO.",
        unset="0.5",
    )
    temperatures: tuple[float, ...] | None = _option(
        "objective",
        None,
        "Left ends of the parts of [0, 1] in the integral of --objective tvo and "
        "tvo_total, such as 0,0.1,0.3.",
        unset="0 and four with equal ratios from 0.02 to 1",
    )
    beta: float = _option(
        "objective",
        1.0,
        "Weight of log p(z) - log q(z|x) in the loss.",
        minimum=0.0,
    )
    warmup_steps: int = _option(
        "objective",
        0,
        "Number of optimizer steps over which the weight rises from 0 to --beta.",
        minimum=0,
    )

    epochs: int | None = _option(
        "training",
        None,
        "Number of passes over the training images. With --schedule constant, the "
        "same command with more of them continues a run.",
        unset="the paper's 3,280, and 200 with --schedule fast",
        minimum=1,
    )
    early_stopping: int | None = _option(
        "training",
        None,
        "With --validation, stop after this many epochs without a better bound on the "
        "held-out images. The model of the best epoch is kept, scored and pictured.",
        unset="train all epochs",
        minimum=1,
    )
    schedule: str = _option(
        "training",
        "burda",
        "Schedule of the learning rate. burda: the paper's eight stages from 1e-3 down "
        "to 1e-4, scaled to --epochs. constant: one rate. fast: a recipe with Muon, "
        "large batches and a growing k, whose rate falls from --learning_rate to 0 on "
        "a straight line.",
        choices=tuple(SCHEDULES),
    )
    batch_size: int | None = _option(
        "training",
        None,
        "Number of images in each optimizer step.",
        unset="20, and 800 with --schedule fast",
        minimum=1,
    )
    learning_rate: float | None = _option(
        "training",
        None,
        "Learning rate of --schedule constant, or the first one of --schedule fast.",
        unset="0.001 with constant and 0.012 with fast",
        above=0.0,
    )
    optimizer: str | None = _option(
        "training",
        None,
        "Optimizer.",
        unset="adam, and muon with --schedule fast",
        choices=("adam", "muon"),
    )
    grow_samples: bool | None = _option(
        "training",
        None,
        "Train with k = 1 first, then with 5, then with --n_samples. Objectives that "
        "need two samples start with 5.",
        unset="only with --schedule fast",
    )
    seed: int = _option(
        "training",
        123,
        "Random seed for the initial weights and all noise.",
        minimum=0,
    )
    init_from: str | None = _option(
        "training",
        None,
        "Directory of a run from whose weights to start, at step 0 and with a new "
        "optimizer.",
        of_run=False,
        is_path=True,
    )
    continue_from: str | None = _option(
        "training",
        None,
        "Directory of a run with the same networks and optimizer, from whose weights "
        "and optimizer to go on. --epochs and the schedule of the learning rate count "
        "from here. The iterations of the optimizer, and with them Adam's bias "
        "correction, --warmup_steps and all noise, count from the start of that run; "
        "images come in the order of its next epoch.",
        of_run=False,
        is_path=True,
    )
    jit: bool | None = _option(
        "training",
        None,
        "Compile training and scoring with XLA.",
        unset="where it saves more time than compiling takes, but not with "
        f"convolutions ({', '.join(rules.CONVOLUTIONAL)})",
    )
    checkpoint_seconds: float = _option(
        "training",
        60.0,
        "Minimum number of seconds between two checkpoints.",
        of_run=False,
        minimum=0.0,
    )
    histograms: bool = _option(
        "training",
        False,
        "Log histograms of the weights to TensorBoard too.",
        of_run=False,
    )

    pretrained: str | None = _option(
        "scoring",
        None,
        "Name of a trained model of the package to score and draw, with its own "
        "options. Nothing is trained.",
        of_run=False,
    )
    eval_samples: int = _option(
        "scoring",
        5000,
        "k, the number of samples for each image, for the test log-likelihood.",
        of_run=False,
        minimum=1,
    )
    eval_images: int | None = _option(
        "scoring",
        None,
        "Number of images to score, evenly spaced over the set.",
        unset="all",
        of_run=False,
        minimum=2,
    )
    eval_chunk: int = _option(
        "scoring",
        250,
        "Number of samples of an image held in memory at once. The noise depends on "
        "it.",
        of_run=False,
        minimum=1,
    )
    eval_binarizations: int = _option(
        "scoring",
        1,
        "Number of random binarisations of the test images to score. The report has "
        "the scores of the first, as always, and the mean and the standard deviation "
        "over all.",
        of_run=False,
        minimum=1,
        maximum=1000,
    )
    jackknife: bool = _option(
        "scoring",
        False,
        "Also estimate log p(x) by the jackknife of orders 1 and 2.",
        of_run=False,
    )
    rescore: bool = _option(
        "scoring", False, "Score a finished run again.", of_run=False
    )
    shard: str | None = _option(
        "scoring",
        None,
        "Score a share of the images of a trained run only, such as 2/8 for the second "
        "of eight, as one job of an array. The command without --shard joins what they "
        "have computed.",
        of_run=False,
    )
    scorer: str = _option(
        "scoring",
        "importance",
        "How to score. importance: by importance sampling. ais: also by annealed "
        "importance sampling, for some of the images, with bounds on log p(x) from "
        "both sides for simulated images.",
        of_run=False,
        choices=("importance", "ais"),
    )
    proposal: str = _option(
        "scoring",
        "posterior",
        "What latents are drawn from to estimate log p(x). posterior: q(z|x). "
        "defensive: a mixture of q(z|x) and a tenth of the prior. inflated: q(z|x) "
        "with standard deviations 5 % larger. refined: a Gaussian over all latents "
        "that is fitted to p(z|x) for each image, mixed with a tenth of q(z|x); the "
        "fit takes as much work as 2,048 samples.",
        of_run=False,
        choices=rules.PROPOSALS,
    )

    ais_images: int = _option(
        "annealing",
        100,
        "Number of images to anneal: this many of the scored images, evenly spaced, "
        "and as many images simulated from the model.",
        of_run=False,
        minimum=2,
    )
    ais_chains: int = _option(
        "annealing", 16, "Number of chains for each image.", of_run=False, minimum=1
    )
    ais_temperatures: int = _option(
        "annealing",
        500,
        "Number of steps from the start density to p(z|x).",
        of_run=False,
        minimum=1,
        maximum=10**6,
    )
    ais_leapfrog: int = _option(
        "annealing",
        5,
        "Number of leapfrog steps in the transition at each temperature.",
        of_run=False,
        minimum=1,
    )
    ais_schedule: str = _option(
        "annealing",
        "linear",
        "Spacing of the inverse temperatures.",
        of_run=False,
        choices=rules.AIS_SCHEDULES,
    )
    ais_start: str = _option(
        "annealing",
        "posterior",
        "Density that the chains start from: q(z|x), for a flow in the coordinates "
        "before it, or the prior.",
        of_run=False,
        choices=rules.AIS_STARTS,
    )
    ais_acceptance: float = _option(
        "annealing",
        0.65,
        "Acceptance rate of the transitions to which the step sizes are tuned.",
        of_run=False,
        above=0.0,
        below=1.0,
    )

    run_dir: str | None = _option(
        "places",
        None,
        "Directory of the run.",
        unset="runs/ and a name made of data set, objective, layers, k, seed and the "
        "other options of the run that are not the default, but not --epochs; or the "
        "name of the trained model",
        of_run=False,
        is_path=True,
    )
    device: str = _option(
        "places",
        "auto",
        "Device to compute on: auto, cpu, gpu, or gpu:N for the Nth GPU.",
        of_run=False,
    )
    devices: int = _option(
        "places",
        1,
        "Number of devices that share every batch: GPUs, or parts of the CPU. A run "
        "may go on with another number. TF_CONFIG names the workers on several "
        "machines, if there are any.",
        of_run=False,
        minimum=1,
        maximum=1024,
    )

    def __post_init__(self):
        """Checks every rule and fills in what the schedule chooses."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                value = _checked(field, value)
                object.__setattr__(self, field.name, value)
        rules.check_device(self.device)
        if self.shard is not None:
            rules.share_of(shard=self.shard)
        self._check_model()
        self._check_likelihood()
        if self.model in rules.WARPED and self.binarization == "none":
            raise UsageError(
                "binarization: must be dynamic or threshold for a spatial transformer, "
                f"got none with model {self.model}"
            )
        for name in ("n_latent", "n_hidden"):
            sizes = getattr(self, name)
            if sizes is not None:
                rules.check_sizes(name, sizes, self.stochastic_layers)
        rules.check_binary(self.model, self.objective, self.scorer)
        rules.check_objective(
            self.objective,
            self.stochastic_layers,
            self.n_flows,
            self.n_groups,
            self.combination_beta,
            self.renyi_alpha,
            self.temperatures,
        )
        rules.check_samples(self.objective, self.n_samples)
        starts = ("continue_from", "init_from", "pretrained")
        given = [name for name in starts if getattr(self, name)]
        if len(given) > 1:
            name, other = given[:2]
            raise UsageError(
                f"{name}: must not be given with {other}, got {getattr(self, name)!r} "
                f"with {getattr(self, other)!r}"
            )
        if self.early_stopping and not self.validation:
            raise UsageError(
                f"early_stopping: goes with validation only, got {self.early_stopping} "
                "without held-out images"
            )
        if self.conditional_prior and not self.conditional:
            raise UsageError(
                "conditional_prior: goes with conditional only, got an unconditional "
                "model"
            )
        for name, value in self.of_annealing().items():
            if value != getattr(Config, name) and self.scorer != "ais":
                raise UsageError(
                    f"{name}: goes with scorer ais only, got {value} with scorer "
                    f"{self.scorer}"
                )
        if self.proposal != "posterior" and self.scorer == "ais":
            raise UsageError(
                "proposal: goes with scorer importance only, got "
                f"{self.proposal} with scorer ais"
            )
        if self.proposal == "defensive" and self.n_flows:
            raise UsageError(
                f"proposal: defensive goes without flows only, got {self.n_flows} flows"
            )
        if self.jackknife and self.eval_samples < 3:
            raise UsageError(
                "eval_samples: must be at least 3 for the jackknife, got "
                f"{self.eval_samples}"
            )
        if self.schedule == "burda" and self.learning_rate is not None:
            raise UsageError(
                "learning_rate: goes with schedule constant or fast, got "
                f"{self.learning_rate} with schedule burda"
            )
        self._fill_in(SCHEDULES[self.schedule])
        rules.check_shares(self.batch_size, self.devices)
        if self.devices > 1 and self.flow_normalisation == "batch":
            raise UsageError(
                "flow_normalisation: must be weight or none with several devices, each "
                "of which would have statistics of its own, got batch"
            )
        self.check_elements()

    def _check_likelihood(self):
        """Checks the options of p(x|z), and fills in how data are brought to it."""
        likelihood = self.likelihood or "bernoulli"
        rules.check_likelihood_of(self.model, likelihood)
        rules.scale_of(likelihood, self.likelihood_scale)
        is_binary = likelihood == "bernoulli"
        self._fill_in({"binarization": "dynamic" if is_binary else "none"})
        if not is_binary and self.binarization != "none":
            raise UsageError(
                f"binarization: must be none with likelihood {likelihood}, got "
                f"{self.binarization}"
            )
        if self.eval_binarizations > 1 and self.binarization != "dynamic":
            raise UsageError(
                "eval_binarizations: goes with binarization dynamic only, got "
                f"{self.eval_binarizations} with binarization {self.binarization}"
            )
        if self.standardize and likelihood not in rules.SCALED:
            raise UsageError(
                f"standardize: goes with likelihood {' or '.join(rules.SCALED)} only, "
                f"got likelihood {likelihood}"
            )
        if self.mask_input and not self.missing:
            raise UsageError("mask_input: goes with missing only, got none missing")

    def _check_model(self):
        """Checks the options of networks and flows, and fills in their defaults."""
        for name, models in (
            ("stochastic_layers", ("burda", *rules.BINARY)),
            ("conditional", ("burda", *rules.BINARY)),
            ("n_hidden", ("burda", "dense")),
            ("n_latent", ("burda", *rules.DEEP, *rules.BINARY)),
            ("feature_maps", rules.CONVOLUTIONAL),
            ("n_bounded", rules.SPATIAL),
        ):
            value = getattr(self, name)
            if value != getattr(Config, name) and self.model not in models:
                raise UsageError(
                    f"{name}: goes with model {' or '.join(models)} only, got {value} "
                    f"with model {self.model}"
                )
        chosen = {"n_flows": 8 if self.model in rules.DEEP else 0}
        if self.model in rules.CONVOLUTIONAL:
            chosen["feature_maps"] = 64
        if self.n_flows or (self.n_flows is None and chosen["n_flows"]):
            chosen |= rules.FLOWS
        for name in rules.FLOWS:
            if name not in chosen and getattr(self, name) is not None:
                raise UsageError(
                    f"{name}: goes with flows only, got {getattr(self, name)} without "
                    "flows"
                )
        self._fill_in(chosen)
        rules.check_flows(self.n_flows, self.stochastic_layers, self.model)
        if self.flow_hidden is not None and min(self.flow_hidden, default=0) < 1:
            raise UsageError(
                "flow_hidden: must be positive sizes, got "
                f"{','.join(map(str, self.flow_hidden))}"
            )

    def _fill_in(self, defaults):
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def check_elements(self, width: int = 1) -> None:
        """Checks that training, scoring and annealing make no tensor that is too large.

        Args:
          width: number of elements for each sample in the widest layer.

        Raises:
          UsageError: if one of them does.
        """
        drawn = {"n_samples": self.n_samples, "n_groups": self.n_groups}
        rules.check_elements(width, **drawn, batch_size=self.batch_size)
        rules.check_elements(width * rules.TEST_BATCH, **drawn)
        chunk = min(self.eval_chunk, self.eval_samples)
        rules.check_elements(width * rules.SCORE_BATCH, eval_chunk=chunk)
        if self.scorer == "ais":
            rules.check_elements(width * rules.AIS_BATCH, ais_chains=self.ais_chains)

    @property
    def may_grow(self) -> bool:
        """Whether no epoch depends on how many there are, so that there may be more."""
        return self.schedule == "constant" and not self.grow_samples

    def of_run(self) -> dict:
        """The fields that determine the numbers of a run."""
        return self._fields_with("of_run", True)

    def of_sets(self) -> dict:
        """The arguments of `iwae_tf.data.sets_of` that do not depend on the data."""
        return {
            name: getattr(self, name)
            for name in (
                "binarization",
                "conditional",
                "validation",
                "likelihood",
                "standardize",
                "missing",
            )
        }

    def of_networks(self) -> dict:
        """The arguments of `iwae_tf.zoo.build` that do not depend on the data."""
        chosen = self._fields_with("group", "networks")
        del chosen["conditional"]
        return chosen | {"seed": self.seed}

    def of_annealing(self) -> dict:
        """The options of annealed importance sampling."""
        return self._fields_with("group", "annealing")

    def _fields_with(self, fact, value):
        """The values of the fields whose metadata say so, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata[fact] == value
        }


def help_of(field: dataclasses.Field, with_default: bool = True) -> str:
    """The help text of an option, in whole sentences.

    Args:
      field: a field of `Config`.
      with_default: whether to add the value that is used if the option is not given.
    """
    facts = field.metadata
    text = facts["help"]
    if "choices" in facts:
        text += f" One of: {', '.join(facts['choices'])}."
    if with_default and facts["unset"]:
        text += f" By default {facts['unset']}."
    return text


def kind_of(field: dataclasses.Field) -> type:
    """The type of an option's value if it is given: bool, int, float, str or tuple."""
    kind = _annotation(field)
    return typing.get_origin(kind) or kind


def element_of(field: dataclasses.Field) -> type:
    """The type of an option's value if it is given, or of its elements in a tuple."""
    kind = _annotation(field)
    return typing.get_args(kind)[0] if typing.get_args(kind) else kind


def _annotation(field):
    """The type of a field, without None."""
    if isinstance(field.type, types.UnionType):
        return typing.get_args(field.type)[0]
    return field.type


def flag_table() -> str:
    """All flags in Markdown, one table for each group."""
    tables = []
    for group, title in GROUPS.items():
        rows = ["| flag | default | what it does |", "|---|---|---|"]
        for field in dataclasses.fields(Config):
            if field.metadata["group"] != group:
                continue
            no = "[no]" if kind_of(field) is bool else ""
            default = "" if field.default is None else f"`{field.default}`"
            rows.append(
                f"| `--{no}{field.name}` | {default} | {escaped(help_of(field))} |"
            )
        tables.append("\n".join([f"**{title}**", "", *rows]))
    return "\n\n".join(tables)


def _checked(field, value):
    """The value of an option in its own type, after a check of type and limits."""
    name, limits = field.name, field.metadata
    kind, element = kind_of(field), element_of(field)
    if "choices" in limits:
        check_one_of(limits["choices"], **{name: value})
    if "is_path" in limits and isinstance(value, os.PathLike):
        value = os.fspath(value)
    is_sequence = isinstance(value, list | tuple)
    parts = value if is_sequence else [value]
    if is_sequence != (kind is tuple) or not all(_is(element, part) for part in parts):
        rule = _KINDS[element]
        if kind is tuple:
            rule = f"a tuple of {rule.removeprefix('a ')}s"
        raise UsageError(f"{name}: must be {rule}, got {' '.join(repr(value).split())}")
    if "is_path" in limits:
        check_utf8(**{name: value})
    try:
        value = tuple(map(element, value)) if is_sequence else kind(value)
    except OverflowError:  # a whole number that is too large for a float
        value = math.inf
    _check_limits(name, value, limits)
    return value


def _is(kind, value):
    """Whether a value is of a kind, or a number that stands for one."""
    abstract = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
    return isinstance(value, abstract) and isinstance(value, bool) == (kind is bool)


def _check_limits(name, value, limits):
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}: must be finite, got {value}")
    if "minimum" in limits:
        check_at_least(limits["minimum"], **{name: value})
    if isinstance(value, int | tuple):
        largest = limits.get("maximum", LARGEST)
        sizes = value if isinstance(value, tuple) else (value,)
        if max(sizes, default=0) > largest:
            found = ",".join(map(str, sizes))
            raise UsageError(f"{name}: must be at most {largest}, got {found}")
    if "above" in limits and value <= limits["above"]:
        raise UsageError(f"{name}: must be above {limits['above']}, got {value}")
    if "below" in limits and value >= limits["below"]:
        raise UsageError(f"{name}: must be below {limits['below']}, got {value}")


if __name__ == "__main__":
    with told_in_one_line():
        if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
            raise UsageError(
                f"arguments: must be one Markdown file, got {sys.argv[1:]}"
            )
        replace_between(
            Path(sys.argv[1]),
            "<!-- flags: begin -->",
            "<!-- flags: end -->",
            f"\n{flag_table()}\n",
            "arguments",
        )
