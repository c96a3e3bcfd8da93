"""Names of choices, and rules about which options go together.

Models, measures and `Config` check their arguments here. Nothing in this module imports
TensorFlow, so the command line reports a bad flag at once.
"""

import itertools
import math
import re
from collections.abc import Sequence

from iwae_tf.errors import UsageError, check_at_least, check_one_of, listed

CONVOLUTIONAL = ("gated", "resnet")
DEEP = ("dense", *CONVOLUTIONAL)
WARPED = ("tvae_affine", "tvae_tps")
SPATIAL = ("vae60", *WARPED)
SPATIAL_LATENTS = 60
BINARY = ("sbn",)  # models with binary latents
MODELS = ("burda", *SPATIAL, *DEEP, *BINARY)
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
    "gdreg",
    "rws_dreg",
    "renyi",
    "renyi_dreg",
    "tvo",
    "tvo_total",
    "vimco",
    "ovis",
    "rws",
    "rws_sleep",
)
# Options of objectives, by the objectives that they go with.
OBJECTIVE_OPTIONS = {
    "n_groups": ("miwae", "piwae"),
    "combination_beta": ("combination",),
    "renyi_alpha": ("renyi", "renyi_dreg"),
    "temperatures": ("tvo", "tvo_total"),
}
# Numbers of samples that objectives need, which compare a sample with the others.
LEAST_SAMPLES = {"vimco": 2, "ovis": 2}
# Objectives that take the latents as they are drawn.
WITHOUT_GIVEN_LATENTS = (
    "vae_elbo",
    "iwae_elbo",
    "iwae_eq14",
    "miwae",
    "piwae",
    "combination",
    "renyi",
    "tvo_total",
)
# Objectives that do without a reparameterisation of the latents.
WITHOUT_REPARAMETERISATION = ("vimco", "ovis", "rws", "rws_sleep", "tvo")
# Objectives that need the slope of log q(z|x) at the latents that are drawn.
OF_PATHS = ("stl", "dreg", "gdreg", "rws_dreg", "renyi_dreg")
# Policies of Keras, by the type that networks compute in.
PRECISIONS = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
LIKELIHOODS = (
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "student_t",
    "discretized_logistic",
    "categorical",
)
DENSITIES = ("continuous_bernoulli", "gaussian", "student_t")  # of continuous data
SCALED = ("gaussian", "student_t")  # likelihoods with a scale
SCALES = ("entry", "feature", "shared")
BINARIZATIONS = ("dynamic", "threshold", "none")
# The default options of a posterior with flows.
FLOWS = {"flow_hidden": (256, 256), "flow_features": 64, "flow_normalisation": "weight"}
NORMALISATIONS = ("none", "weight", "batch")
# Numbers of images that are tested, scored and annealed at once.
TEST_BATCH, SCORE_BATCH, AIS_BATCH = 100, 20, 50
# What latents are drawn from to estimate log p(x), see `iwae_tf.proposals`.
PROPOSALS = ("posterior", "defensive", "inflated", "refined")
# Annealing: spacing of the inverse temperatures, and start density of the chains.
AIS_SCHEDULES = ("linear", "sigmoidal")
AIS_STARTS = ("posterior", "prior")


def check_elements(width: int, **counts: int) -> None:
    """Checks that TensorFlow can count the elements of a tensor in 31 bits.

    Args:
      width: number of elements for each combination of the counted things.
      **counts: numbers of samples, images, ... by the names of their options.

    Raises:
      UsageError: if it cannot; it names the option with the largest number.
    """
    if math.prod(counts.values()) * width >= 2**31:
        name = max(counts, key=counts.__getitem__)
        others = [f"{other} {n}" for other, n in counts.items() if other != name]
        if width > 1:
            others.append(f"{width} elements for each")
        raise UsageError(
            f"{name}: must be small enough for tensors of fewer than 2**31 elements, "
            f"got {counts[name]} with {', '.join(others)}"
        )


def check_device(name: str) -> None:
    """Checks the form of the name of a device.

    Raises:
      UsageError: for another name than auto, cpu, gpu or gpu:N.
    """
    if not re.fullmatch("auto|cpu|gpu(:[0-9]{1,9})?", name):
        raise UsageError(f"device: must be auto, cpu, gpu or gpu:N, got {name!r}")


def check_validation(n_held: int, n_train: int, n_test: int) -> None:
    """Checks the number of training images that are held out for validation.

    Args:
      n_held: number of images to hold out; 0 for none.
      n_train: number of training images, with those.
      n_test: number of test images; 0 for a data set without.

    Raises:
      UsageError: if none is left to train on, or there is no set to score, which one
        image is not.
    """
    if not n_held and not n_test:
        raise UsageError(
            "validation: must be at least 2 for a data set without test images, such "
            "as x_test, got 0"
        )
    if n_held >= n_train:
        raise UsageError(
            f"validation: must be less than the number of training images, {n_train}, "
            f"got {n_held}"
        )
    if n_held == 1:
        raise UsageError("validation: must be at least 2 images, got 1")


def share_of(**values: str) -> tuple[int, int]:
    """Reads a share such as 2/8, the second of eight.

    Args:
      **values: one text, by the name of its argument.

    Returns:
      first: its number, counted from 0.
      n: the number of shares.

    Raises:
      UsageError: if the text is not such a share.
    """
    ((name, text),) = values.items()
    number, slash, n = text.partition("/")
    if not (
        slash and number.isdecimal() and n.isdecimal() and 1 <= int(number) <= int(n)
    ):
        raise UsageError(f"{name}: must be i/n with i from 1 to n, got {text!r}")
    return int(number) - 1, int(n)


def check_shares(batch_size: int, n_devices: int) -> None:
    """Checks that all devices get equal shares of a batch.

    Raises:
      UsageError: if not.
    """
    if batch_size % n_devices:
        raise UsageError(
            f"batch_size: must divide by the number of devices, {n_devices}, got "
            f"{batch_size}"
        )


def check_batch_size(batch_size: int, n_images: int) -> None:
    """Checks that there are enough images for a batch.

    Raises:
      UsageError: if there are not, or the batch is empty.
    """
    if not 1 <= batch_size <= n_images:
        raise UsageError(
            f"batch_size: must be from 1 to the number of training images, {n_images}, "
            f"got {batch_size}"
        )


def check_flows(
    n_flows: int | None, stochastic_layers: int, model: str = "burda"
) -> None:
    """Checks that a posterior with flows has one stochastic layer, of continuous units.

    Raises:
      UsageError: if it has more layers, or binary units.
    """
    if n_flows and model in BINARY:
        raise UsageError(
            f"n_flows: goes with continuous latents only, got {n_flows} with model "
            f"{model}"
        )
    if n_flows and stochastic_layers > 1:
        raise UsageError(
            f"n_flows: goes with one stochastic layer only, got {n_flows} with "
            f"{stochastic_layers} layers"
        )


def check_binary(model: str, objective: str, scorer: str) -> None:
    """Checks that a model with binary latents gets nothing that they cannot have.

    Raises:
      UsageError: for an objective that needs a reparameterisation, or annealing, whose
        transitions are Hamiltonian.
    """
    if model not in BINARY:
        return
    if objective not in WITHOUT_REPARAMETERISATION:
        raise UsageError(
            f"objective: must be {listed(WITHOUT_REPARAMETERISATION)} for model "
            f"{model}, whose binary latents have no reparameterisation, got {objective}"
        )
    if scorer == "ais":
        raise UsageError(
            f"scorer: must be importance for model {model}, because annealing needs "
            "continuous latents, got ais"
        )


def check_image(model: str, event_shape: tuple[int, ...], multiple: int = 1) -> None:
    """Checks that a network for images gets images.

    Args:
      model: the name of the network.
      event_shape: the shape of one x.
      multiple: a number that must divide height and width.

    Raises:
      UsageError: if it gets something else.
    """
    if len(event_shape) != 3:
        raise UsageError(
            f"dataset: must have images for model {model}, got data of shape "
            f"{list(event_shape)}"
        )
    height, width, _ = event_shape
    if height % multiple or width % multiple:
        raise UsageError(
            f"dataset: must have images whose sides are multiples of {multiple} for "
            f"model {model}, got {height}x{width}"
        )


def check_likelihood_of(model: str, likelihood: str) -> None:
    """Checks that a network with 60 latents has a Bernoulli likelihood.

    Raises:
      UsageError: if it has another.
    """
    if model in SPATIAL and likelihood != "bernoulli":
        raise UsageError(
            f"likelihood: must be bernoulli for model {model}, got {likelihood}"
        )


def scale_of(likelihood: str, scale: str | float | None) -> str | float | None:
    """The scale of a likelihood; a number in a text becomes a number.

    Raises:
      UsageError: if the likelihood has no scale, or the scale is neither positive nor
        one of `SCALES`.
    """
    if scale is None or scale in SCALES:
        number = scale
    else:
        try:
            number = float(scale)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise UsageError(
                f"likelihood_scale: must be one of {', '.join(SCALES)} or a positive "
                f"number, got {scale!r}"
            )
    if scale is not None and likelihood not in SCALED:
        raise UsageError(
            f"likelihood_scale: goes with likelihood {' or '.join(SCALED)} only, got "
            f"{scale} with likelihood {likelihood}"
        )
    return number


def check_bounded(n_bounded: int) -> None:
    """Checks the number of bounded means of a network with 60 latents.

    Raises:
      UsageError: if it has fewer.
    """
    if not 0 <= n_bounded <= SPATIAL_LATENTS:
        raise UsageError(
            f"n_bounded: must be from 0 to {SPATIAL_LATENTS}, the number of latents, "
            f"got {n_bounded}"
        )


def check_sizes(name: str, sizes: tuple[int, ...], stochastic_layers: int) -> None:
    """Checks that there is one positive size for each stochastic layer.

    Raises:
      UsageError: if there is not.
    """
    if len(sizes) != stochastic_layers or min(sizes) < 1:
        raise UsageError(
            f"{name}: must be {stochastic_layers} positive sizes, one for each "
            f"stochastic layer, got {','.join(map(str, sizes))}"
        )


def check_objective(
    objective: str,
    stochastic_layers: int,
    n_flows: int = 0,
    n_groups: int = 1,
    combination_beta: float | None = None,
    renyi_alpha: float | None = None,
    temperatures: Sequence[float] | None = None,
) -> None:
    """Checks that an objective fits the model and the options of objectives.

    Raises:
      UsageError: if it does not.
    """
    check_one_of(OBJECTIVES, objective=objective)
    check_at_least(1, n_groups=n_groups)
    if combination_beta is not None and not 0 <= combination_beta <= 1:
        raise UsageError(
            f"combination_beta: must be from 0 to 1, got {combination_beta}"
        )
    if renyi_alpha is not None and not 0 <= renyi_alpha < 1:
        raise UsageError(
            f"renyi_alpha: must be at least 0 and less than 1, got {renyi_alpha}"
        )
    if temperatures is not None:
        ends = [*temperatures, 1.0]
        if ends[0] != 0 or not all(a < b for a, b in itertools.pairwise(ends)):
            raise UsageError(
                "temperatures: must start with 0 and rise, all below 1, got "
                f"{','.join(f'{t:g}' for t in temperatures)}"
            )
    if objective == "vae_elbo_kl" and stochastic_layers > 1:
        raise UsageError(
            "objective: vae_elbo_kl has a closed form for one stochastic layer only, "
            f"got {stochastic_layers} layers; use vae_elbo"
        )
    with_flows = (*WITHOUT_GIVEN_LATENTS, *OF_PATHS)
    if n_flows and objective not in with_flows:
        raise UsageError(
            "objective: must not need a closed form or the density of given latents if "
            f"there are flows, got {objective} with {n_flows} flows; use "
            f"{listed(with_flows)}"
        )
    given = {
        "n_groups": n_groups if n_groups > 1 else None,
        "combination_beta": combination_beta,
        "renyi_alpha": renyi_alpha,
        "temperatures": temperatures,
    }
    for name, value in given.items():
        if value is not None and objective not in OBJECTIVE_OPTIONS[name]:
            if name == "temperatures":
                value = ",".join(f"{t:g}" for t in value)
            raise UsageError(
                f"{name}: goes with objective {' or '.join(OBJECTIVE_OPTIONS[name])} "
                f"only, got {value} with objective {objective}"
            )


def check_samples(objective: str, n_samples: int) -> None:
    """Checks that an objective has as many samples as it needs.

    Raises:
      UsageError: if it has fewer.
    """
    least = LEAST_SAMPLES.get(objective, 1)
    if n_samples < least:
        raise UsageError(
            f"n_samples: must be at least {least} for objective {objective}, got "
            f"{n_samples}"
        )
