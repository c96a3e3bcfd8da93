"""The options of a run: the one place for their names, defaults, help and rules.

The command line makes its flags from these fields; `iwae_tf.experiment.run` takes a
`Config`. Nothing here imports TensorFlow, so a bad flag is told at once.
"""

import dataclasses
import math

from iwae_tf.errors import UsageError, check_at_least

MODELS = ("burda", "vae60", "tvae_affine", "tvae_tps", "dense", "gated", "resnet")
CONVOLUTIONAL = ("gated", "resnet")
DEEP = ("dense", *CONVOLUTIONAL)
LARGEST = 2**31 - 1  # of whole numbers
BURDA_EPOCHS = 3280  # 1 + 3 + 9 + ... + 3^7
# What each schedule chooses where an option is not given.
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
# What a model with flows chooses.
FLOWS = {"flow_hidden": (256, 256), "flow_features": 64, "flow_normalisation": "weight"}
# Of annealing: of the inverse temperatures, and what chains start from.
AIS_SCHEDULES = ("linear", "sigmoidal")
AIS_STARTS = ("posterior", "prior")
OBJECTIVES = (
    "vae_elbo",
    "vae_elbo_kl",
    "iwae_elbo",
    "iwae_eq14",
    "miwae",
    "piwae",
    "combination",
    "stl",
    "dreg",
    "rws_dreg",
)


def _option(default, help, *, of_run=True, **rules):
    return dataclasses.field(
        default=default, metadata={"help": help, "of_run": of_run, **rules}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a run. `of_run` fields, its model and training, stay as they are.

    Raises:
      UsageError: for a value that breaks a rule.
    """

    dataset: str = _option(
        "auto",
        "mnist, digits, fashion_mnist, omniglot, the path of an .npz with x_train and "
        "x_test, or auto: mnist if it can be had, else digits.",
    )
    binarization: str = _option(
        "dynamic",
        "How grey training images become binary: drawn afresh each time they are seen, "
        "cut at one half, or not at all.",
        choices=("dynamic", "threshold", "none"),
    )
    validation: int = _option(
        0,
        "Hold out so many training images, the last, and score them in place of the "
        "test images: for choosing options.",
        minimum=0,
    )
    model: str = _option(
        "burda",
        "The paper's networks; those of spatial transformers: a plain VAE, and two "
        "whose latents also place the image, by an affine map or a thin-plate spline; "
        "deep ones with 64 latents: fully connected, gated or residual convolutions.",
        choices=MODELS,
    )
    stochastic_layers: int = _option(1, "Number of stochastic layers.", minimum=1)
    n_latent: tuple[int, ...] | None = _option(
        None, "Latent sizes, bottom-up, such as 100,50; by default the paper's."
    )
    n_hidden: tuple[int, ...] | None = _option(
        None,
        "Hidden units beside each stochastic layer, bottom-up, such as 200,100; by "
        "default the paper's; 300 of model dense.",
    )
    feature_maps: int | None = _option(
        None, "Feature maps of model gated and resnet, by default 64.", minimum=1
    )
    n_flows: int | None = _option(
        None,
        "Steps of inverse autoregressive flow in q, by default 8 of model dense, gated "
        "and resnet, else 0.",
        minimum=0,
    )
    flow_hidden: tuple[int, ...] | None = _option(
        None, "Hidden units of the network of each step, by default 256,256."
    )
    flow_features: int | None = _option(
        None, "Features of x that each step sees, by default 64.", minimum=1
    )
    flow_normalisation: str | None = _option(
        None,
        "Normalisation of the hidden layers of each step, by default weight.",
        choices=("none", "weight", "batch"),
    )
    conditional: bool = _option(
        False, "Model log p(x|y): every network also sees the label y."
    )
    conditional_prior: bool = _option(
        False, "With --conditional: p(z|y) of the top layer is learnt, not N(0, I)."
    )
    objective: str = _option(
        "iwae_elbo",
        "What is maximised.",
        choices=OBJECTIVES,
    )
    n_samples: int = _option(
        5, "k, samples per image; with groups, in each of them.", minimum=1
    )
    n_groups: int = _option(
        1, "m, groups of k samples, of --objective miwae and piwae."
    )
    combination_beta: float | None = _option(
        None,
        "Weight of the ELBO in --objective combination, from 0 to 1, by default 0.5.",
    )
    beta: float = _option(
        1.0, "Weight of log p(z) - log q(z|x) in the loss.", minimum=0.0
    )
    warmup_steps: int = _option(
        0, "Optimizer steps over which --beta rises from 0.", minimum=0
    )
    schedule: str = _option(
        "burda",
        "The paper's eight stages from 1e-3 down to 1e-4, scaled to --epochs; a "
        "constant rate; or the fast recipe, whose rate falls from --learning_rate to 0 "
        "on a line.",
        choices=tuple(SCHEDULES),
    )
    epochs: int | None = _option(
        None,
        "Passes over the training images, by default the paper's 3,280; with "
        "--schedule fast 200.",
        minimum=1,
    )
    batch_size: int | None = _option(
        None,
        "Images per optimizer step, by default 20; with --schedule fast 800.",
        minimum=1,
    )
    optimizer: str | None = _option(
        None, "By default adam; with --schedule fast muon.", choices=("adam", "muon")
    )
    learning_rate: float | None = _option(
        None,
        "Rate of --schedule constant, by default 0.001; first rate of fast, by default "
        "0.012.",
        above=0.0,
    )
    grow_samples: bool | None = _option(
        None,
        "Train with k = 1, then 5, then --n_samples; by default only with --schedule "
        "fast.",
    )
    seed: int = _option(123, "Of weights and noise.", minimum=0)
    jit: bool = _option(True, "Compile the steps with XLA.")
    init_from: str | None = _option(
        None,
        "Start from the weights of this run, with a new optimizer, at step 0.",
        of_run=False,
    )

    pretrained: str | None = _option(
        None,
        "Score and picture this trained model of the package, and train nothing; all "
        "options of the model are its own.",
        of_run=False,
    )

    run_dir: str | None = _option(
        None,
        "Where the run lives; by default runs/ and a name made of dataset, objective, "
        "layers, k and seed, or that of the trained model.",
        of_run=False,
    )
    data_dir: str | None = _option(
        None,
        "Where tensorflow-datasets keeps its data, by default TFDS_DATA_DIR or "
        "~/tensorflow_datasets.",
        of_run=False,
    )
    offline: bool = _option(False, "Never try to download.", of_run=False)
    device: str = _option(
        "auto", "auto, cpu, gpu, or gpu:N for the Nth one.", of_run=False
    )
    checkpoint_seconds: float = _option(
        60.0, "Least time between checkpoints.", of_run=False, minimum=0.0
    )
    histograms: bool = _option(
        False, "Also log histograms of the weights to TensorBoard.", of_run=False
    )
    eval_samples: int = _option(
        5000, "k of the test log-likelihood.", of_run=False, minimum=1
    )
    eval_images: int | None = _option(
        None,
        "Images that are scored, spread over the set; by default all.",
        of_run=False,
        minimum=2,
    )
    eval_chunk: int = _option(
        250,
        "Samples held in memory at once while scoring; part of what seeds the noise.",
        of_run=False,
        minimum=1,
    )
    jackknife: bool = _option(
        False, "Also score by the jackknife, of orders 1 and 2.", of_run=False
    )
    rescore: bool = _option(False, "Score a finished run again.", of_run=False)
    scorer: str = _option(
        "importance",
        "Score by importance sampling; or, of some images, also by annealed "
        "importance sampling, with the bounds of both directions on simulated images.",
        of_run=False,
        choices=("importance", "ais"),
    )
    ais_images: int = _option(
        100,
        "Images that are annealed, spread over those scored, and simulated ones.",
        of_run=False,
        minimum=2,
    )
    ais_chains: int = _option(16, "Chains of each image.", of_run=False, minimum=1)
    ais_temperatures: int = _option(
        500, "Steps from the start to p(z|x).", of_run=False, minimum=1
    )
    ais_leapfrog: int = _option(
        5,
        "Leapfrog steps of the transition at each temperature.",
        of_run=False,
        minimum=1,
    )
    ais_schedule: str = _option(
        "linear",
        "Spacing of the inverse temperatures.",
        of_run=False,
        choices=AIS_SCHEDULES,
    )
    ais_start: str = _option(
        "posterior",
        "What chains start from: q(z|x), with flows in the coordinates before them; or "
        "the prior.",
        of_run=False,
        choices=AIS_STARTS,
    )
    ais_acceptance: float = _option(
        0.65,
        "Share of accepted transitions that step sizes are tuned to.",
        of_run=False,
        above=0.0,
        below=1.0,
    )

    def __post_init__(self):
        """Checks every rule and fills in what the schedule chooses."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _check(field.name, value, field.metadata)
        self._check_model()
        if self.model.startswith("tvae") and self.binarization == "none":
            raise UsageError(
                "binarization: must be dynamic or threshold for a spatial transformer, "
                f"got none with model {self.model}"
            )
        for name in ("n_latent", "n_hidden"):
            sizes = getattr(self, name)
            if sizes is not None:
                check_sizes(name, sizes, self.stochastic_layers)
        check_objective(
            self.objective,
            self.stochastic_layers,
            self.n_groups,
            self.combination_beta,
            self.n_flows,
        )
        if self.pretrained and self.init_from:
            raise UsageError(
                f"init_from: goes without pretrained only, got {self.init_from!r} with "
                f"{self.pretrained!r}"
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

    def _check_model(self):
        """Checks the options of networks and flows, and fills in their defaults."""
        for name, models in (
            ("stochastic_layers", ("burda",)),
            ("conditional", ("burda",)),
            ("n_hidden", ("burda", "dense")),
            ("n_latent", ("burda", *DEEP)),
            ("feature_maps", CONVOLUTIONAL),
        ):
            value = getattr(self, name)
            if value != getattr(Config, name) and self.model not in models:
                raise UsageError(
                    f"{name}: goes with model {' or '.join(models)} only, got {value} "
                    f"with model {self.model}"
                )
        chosen = {"n_flows": 8 if self.model in DEEP else 0}
        if self.model in CONVOLUTIONAL:
            chosen["feature_maps"] = 64
        if self.n_flows or (self.n_flows is None and chosen["n_flows"]):
            chosen |= FLOWS
        for name in FLOWS:
            if name not in chosen and getattr(self, name) is not None:
                raise UsageError(
                    f"{name}: goes with flows only, got {getattr(self, name)} without"
                )
        self._fill_in(chosen)
        check_flows(self.n_flows, self.stochastic_layers)
        if self.flow_hidden is not None and min(self.flow_hidden, default=0) < 1:
            raise UsageError(
                "flow_hidden: must be positive sizes, got "
                f"{','.join(map(str, self.flow_hidden))}"
            )

    def _fill_in(self, defaults):
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def of_run(self) -> dict:
        """The fields that decide a run's numbers."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["of_run"]
        }

    def of_annealing(self) -> dict:
        """The options of scorer ais."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name.startswith("ais_")
        }


def check_flows(n_flows: int | None, stochastic_layers: int) -> None:
    """Checks that flows are of a posterior with one layer.

    Raises:
      UsageError: if it has more.
    """
    if n_flows and stochastic_layers > 1:
        raise UsageError(
            f"n_flows: goes with one stochastic layer only, got {n_flows} with "
            f"{stochastic_layers} layers"
        )


def check_sizes(name: str, sizes: tuple[int, ...], stochastic_layers: int) -> None:
    """Checks that there is one positive size for each stochastic layer.

    Raises:
      UsageError: if not.
    """
    if len(sizes) != stochastic_layers or min(sizes) < 1:
        raise UsageError(
            f"{name}: must be {stochastic_layers} positive sizes, one for each "
            f"stochastic layer, got {','.join(map(str, sizes))}"
        )


def check_objective(
    objective: str,
    stochastic_layers: int,
    n_groups: int,
    combination_beta: float | None,
    n_flows: int = 0,
) -> None:
    """Checks that an objective goes with a model and with the options of objectives.

    Raises:
      UsageError: if not.
    """
    check_at_least(1, n_groups=n_groups)
    if combination_beta is not None and not 0 <= combination_beta <= 1:
        raise UsageError(
            f"combination_beta: must be from 0 to 1, got {combination_beta}"
        )
    if objective == "vae_elbo_kl" and stochastic_layers > 1:
        raise UsageError(
            "objective: vae_elbo_kl has a closed form for one stochastic layer only, "
            f"got {stochastic_layers} layers; use vae_elbo"
        )
    if n_flows and objective in ("vae_elbo_kl", "stl", "dreg", "rws_dreg"):
        raise UsageError(
            "objective: must need no closed form and no density of given latents with "
            f"flows, got {objective} with {n_flows} flows; use vae_elbo, iwae_elbo, "
            "iwae_eq14, miwae, piwae or combination"
        )
    if n_groups > 1 and objective not in ("miwae", "piwae"):
        raise UsageError(
            "n_groups: goes with objective miwae or piwae only, got "
            f"{n_groups} with objective {objective}"
        )
    if combination_beta is not None and objective != "combination":
        raise UsageError(
            "combination_beta: goes with objective combination only, got "
            f"{combination_beta} with objective {objective}"
        )


def _check(name, value, rules):
    if "choices" in rules and value not in rules["choices"]:
        raise UsageError(
            f"{name}: must be one of {', '.join(rules['choices'])}, got {value!r}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}: must be finite, got {value}")
    if "minimum" in rules:
        check_at_least(rules["minimum"], **{name: value})
    if isinstance(value, int) and value > LARGEST:
        raise UsageError(f"{name}: must be at most {LARGEST}, got {value}")
    if "above" in rules and value <= rules["above"]:
        raise UsageError(f"{name}: must be above {rules['above']}, got {value}")
    if "below" in rules and value >= rules["below"]:
        raise UsageError(f"{name}: must be below {rules['below']}, got {value}")
