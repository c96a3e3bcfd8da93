"""Names of runs, for directories and for titles."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

from iwae_tf.runs.config import Config

_LONGEST = 240  # bytes of a name; file systems have 255, and tasks add the epochs
# Options that have their own place in the name. The epochs are not in it, so that a
# later start can tell that they differ, nor is what a run chooses for itself: --jit.
_PLACED = (
    "dataset",
    "validation",
    "standardize",
    "stochastic_layers",
    "model",
    "feature_maps",
    "n_bounded",
    "n_flows",
    "likelihood",
    "likelihood_scale",
    "missing",
    "mask_input",
    "conditional",
    "conditional_prior",
    "objective",
    "n_samples",
    "n_groups",
    "combination_beta",
    "schedule",
    "epochs",
    "jit",
    "seed",
)
# What titles and legends have in place of the values of options.
_DATASETS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "omniglot": "Omniglot",
    "omniglot_burda": "Omniglot of Burda et al.",
    "binarized_mnist": "MNIST with fixed binarisation",
}
_OBJECTIVES = {
    "vae_elbo": "VAE",
    "vae_elbo_kl": "VAE with closed-form KL",
    "iwae_elbo": "IWAE",
    "iwae_eq14": "IWAE by equation 14",
    "miwae": "MIWAE",
    "piwae": "PIWAE",
    "combination": "ELBO and IWAE combined",
    "stl": "sticking the landing",
    "dreg": "DReG",
    "gdreg": "generalised DReG",
    "rws_dreg": "reweighted wake-sleep, DReG",
    "renyi": "Rényi bound",
    "renyi_dreg": "Rényi bound, DReG",
    "tvo": "thermodynamic bound",
    "tvo_total": "thermodynamic bound, total gradient",
    "vimco": "VIMCO",
    "ovis": "OVIS",
    "rws": "reweighted wake-sleep",
    "rws_sleep": "wake-sleep, sleep phase for q",
}
_MODELS = {
    "burda": "",
    "vae60": "60 latents",
    "tvae_affine": "spatial transformer, affine",
    "tvae_tps": "spatial transformer, spline",
    "dense": "dense networks",
    "gated": "gated convolutions",
    "resnet": "residual networks",
    "sbn": "belief network",
}
_OF_DATA = {
    "continuous_bernoulli": "continuous Bernoulli",
    "gaussian": "Gaussian",
    "student_t": "Student t",
    "discretized_logistic": "discretised logistic",
    "scale_entry": "a scale for each entry",
    "scale_feature": "a scale for each feature",
    "scale_shared": "a shared scale",
    "missing": "missing entries",
    "missing_with_mask": "missing entries, mask given",
}


def run_name(config: Config) -> str:
    """The name of the directory of a run.

    Runs with different options have different names, except for the number of epochs. A
    long name is shortened, and ends in a hash of the whole.
    """
    options = f"-m{config.n_groups}" if config.n_groups > 1 else ""
    if config.combination_beta is not None:
        options += f"-b{_text(config.combination_beta)}"
    given = {0: "", 1: "-y", 2: "-yprior"}[
        config.conditional + config.conditional_prior
    ]
    if config.schedule != "burda":
        options += f"-{config.schedule}"
    if config.validation:
        options += f"-v{config.validation}"
    options += "".join(f"-{part}" for part in _not_default(config))
    if config.jit is False:
        options += "-nojit"
    layers = config.stochastic_layers
    networks = f"{layers}l"
    if config.model != "burda":
        networks = f"{config.model}{config.feature_maps or ''}"
        if layers > 1:
            networks += f"-{layers}l"
    if config.n_bounded:
        networks += f"-t{config.n_bounded}"
    if config.n_flows:
        networks += f"-f{config.n_flows}"
    networks += "".join(f"-{part}" for part in _of_data(config))
    start = f"-from-{Path(config.init_from).name}" if config.init_from else ""
    if config.continue_from:
        start = f"-after-{Path(config.continue_from).name}"
    return _shortened(
        f"{config.dataset}-{config.objective}-{networks}{given}"
        f"{options}-k{config.n_samples}-s{config.seed}{start}"
    )


def _not_default(config):
    """The options of a run without a place, where they are not the default."""
    parts = []
    for field in dataclasses.fields(config):
        if not field.metadata["of_run"] or field.name in _PLACED:
            continue
        if config != dataclasses.replace(config, **{field.name: field.default}):
            value = getattr(config, field.name)
            no = "no" if value is False else ""
            sizes = value if isinstance(value, tuple) else (value,)
            texts = (_text(size) for size in sizes if not isinstance(size, bool))
            parts.append("_".join((f"{no}{field.name}", *texts)))
    return parts


def _text(value):
    """A value as text, so that different numbers have different texts."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _shortened(name):
    """A name that is short enough for a file."""
    encoded = name.encode()
    if len(encoded) <= _LONGEST:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[: _LONGEST - 17].decode(errors='ignore')}-{digest}"


def caption(config: Config) -> str:
    """A description of a run in one line, in words, for titles."""
    return line(
        f"{dataset(config.dataset)}{' given y' if config.conditional else ''}",
        trained_as(dataclasses.asdict(config)),
        networks(config),
        *(_OF_DATA.get(part, part) for part in _of_data(config)),
        "validation" if config.validation else "",
        schedule(config),
        f"seed {config.seed}",
    )


def _of_data(config):
    """The likelihood and what is done to the data, where they are not the default."""
    scale = config.likelihood_scale
    return [
        part
        for part, is_given in (
            (config.likelihood, config.likelihood not in (None, "bernoulli")),
            (f"scale_{scale}", scale is not None),
            ("standardized", config.standardize),
            ("missing", config.missing and not config.mask_input),
            ("missing_with_mask", config.mask_input),
        )
        if is_given
    ]


def dataset(name: str) -> str:
    """The name of a data set for titles, such as MNIST."""
    return _DATASETS.get(name, name)


def objective(name: str, beta: float | None = None) -> str:
    """The name of an objective for titles and legends, such as IWAE for `iwae_elbo`.

    Args:
      name: an objective of `Config`.
      beta: the weight of the ELBO in a combination, if it is known.
    """
    if beta is not None:
        return f"{beta:g} ELBO + {1 - beta:g} IWAE"
    return _OBJECTIVES[name]


def model(name: str) -> str:
    """The name of networks for titles and legends; "" for those of Burda et al."""
    return _MODELS[name]


def networks(config: Config) -> str:
    """A description of the networks of a run, for titles."""
    layers = config.stochastic_layers
    text = f"{layers} {'layer' if layers == 1 else 'layers'}"
    if config.model != "burda":
        called = model(config.model)
        text = called if layers == 1 else f"{called}, {text}"
    if config.feature_maps:
        text += f", {config.feature_maps} maps"
    if config.n_bounded:
        text += f", tanh on {config.n_bounded} means"
    if config.precision != "float32":
        text += f", {config.precision}"
    if config.n_flows:
        text += f", {flows(config.n_flows, config.flow_normalisation)}"
    return text


def flows(n: int, normalisation: str | None) -> str:
    """The number of flow steps, and their normalisation if it is not the paper's."""
    text = "1 flow step" if n == 1 else f"{n} flow steps"
    if normalisation in (None, "weight"):
        return text
    return f"{text} with {normalisation.replace('none', 'no')} normalisation"


def epochs(n: int, best: int | None = None) -> str:
    """A number of epochs with its unit, and which was the best if that was kept."""
    if best is not None:
        return f"epoch {best} of {n}"
    return "1 epoch" if n == 1 else f"{n} epochs"


def schedule(config: Config) -> str:
    """The schedule and its learning rate; "" for the paper's schedule."""
    if config.schedule == "burda":
        return ""
    of_schedule = {"fast": "fast schedule,", "constant": "constant"}[config.schedule]
    return f"{of_schedule} rate {config.learning_rate:g}"


def line(*parts: str) -> str:
    """Joins the parts that are not empty into one line."""
    return " · ".join(filter(None, parts))


def trained_as(options: Mapping) -> str:
    """The objective of a run, its groups and its k, such as IWAE, k = 5.

    Args:
      options: a mapping with `objective` and `n_samples`, and perhaps `n_groups` and
        `combination_beta`.
    """
    groups = options.get("n_groups", 1)
    parts = (
        objective(options["objective"], options.get("combination_beta")),
        f"m = {groups}" if groups > 1 else "",
        f"k = {options['n_samples']}",
    )
    return ", ".join(filter(None, parts))
