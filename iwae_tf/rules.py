"""Names of choices, and rules about which options go together.

Models, measures and `Config` check their arguments here. Nothing in this module imports
TensorFlow, so the command line reports a bad flag at once.
"""

import math
import re

from iwae_tf.errors import UsageError, check_at_least

CONVOLUTIONAL = ("gated", "resnet")
DEEP = ("dense", *CONVOLUTIONAL)
WARPED = ("tvae_affine", "tvae_tps")
SPATIAL = ("vae60", *WARPED)
SPATIAL_LATENTS = 60
MODELS = ("burda", *SPATIAL, *DEEP)
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


def check_flows(n_flows: int | None, stochastic_layers: int) -> None:
    """Checks that a posterior with flows has only one stochastic layer.

    Raises:
      UsageError: if it has more.
    """
    if n_flows and stochastic_layers > 1:
        raise UsageError(
            f"n_flows: goes with one stochastic layer only, got {n_flows} with "
            f"{stochastic_layers} layers"
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
    n_groups: int,
    combination_beta: float | None,
    n_flows: int = 0,
) -> None:
    """Checks that an objective fits the model and the options of objectives.

    Raises:
      UsageError: if it does not.
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
            "objective: must not need a closed form or the density of given latents if "
            f"there are flows, got {objective} with {n_flows} flows; use vae_elbo, "
            "iwae_elbo, iwae_eq14, miwae, piwae or combination"
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
