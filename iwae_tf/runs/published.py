"""What the paper and an earlier reproduction report for the same models."""

# Burda et al. 2016, table 1: MNIST, log p(x) by 5,000 samples, nats.
PAPER = {
    ("vae", 1): {1: -86.76, 5: -86.47, 50: -86.35},
    ("iwae", 1): {1: -86.76, 5: -85.54, 50: -84.78},
    ("vae", 2): {1: -85.33, 5: -85.01, 50: -84.78},
    ("iwae", 2): {1: -85.33, 5: -83.89, 50: -82.90},
}
# The earlier TensorFlow 2 reproduction, github.com/nbip/IWAE, single runs of 3,280
# epochs: its models with two layers, which are those of the paper.
EARLIER = {
    ("vae", 2): {1: -84.83, 5: -84.08, 50: -83.89},
    ("iwae", 2): {1: -84.83, 5: -83.48, 50: -82.82},
}
# Its models with one layer, which have 100 latents where the paper has 50.
EARLIER_WITH_100_LATENTS = {
    ("vae", 1): {1: -86.35, 5: -86.10, 50: -86.06},
    ("iwae", 1): {1: -86.35, 5: -85.18, 50: -84.59},
    ("dreg", 1): {1: -86.08, 5: -84.90, 50: -84.32},
}
# Those with the image's class, y, and a prior p(z|y) too; they estimate log p(x|y).
EARLIER_GIVEN_Y = {("iwae", 1): {1: -82.32, 5: -81.41, 50: -80.78}}
# Active units from the same table, bottom-up.
PAPER_UNITS = {
    ("vae", 1): {1: "19", 5: "20", 50: "20"},
    ("iwae", 1): {1: "19", 5: "22", 50: "25"},
    ("vae", 2): {1: "16 + 5", 5: "17 + 5", 50: "17 + 5"},
    ("iwae", 2): {1: "16 + 5", 5: "21 + 5", 50: "26 + 7"},
}
# Table 2, one layer: log p(x) and active units of the second of two models, which was
# started from the weights of the first.
PAPER_WARM = {
    (("vae", 1), ("iwae", 50)): (-84.88, "22"),
    (("iwae", 50), ("vae", 1)): (-86.02, "23"),
}


def paper_value(report: dict) -> float | None:
    """The paper's test log-likelihood of a model in nats; None if it has none.

    The paper draws from q(z|x), so it has none for other proposals.
    """
    return None if report["test"].get("proposal") else _of_paper(report)[0]


def paper_units(report: dict) -> str | None:
    """The paper's numbers of active units, such as 16 + 5; None if it has none."""
    return _of_paper(report)[1]


def _of_paper(report):
    config, init = report["config"], report.get("init")
    layers = config["stochastic_layers"]
    if is_other_model(config) or (init and (layers > 1 or "iterations" in init)):
        return None, None
    family, k = family_and_k(config)
    if init:
        return PAPER_WARM.get((family_and_k(init), (family, k)), (None, None))
    return tuple(of.get((family, layers), {}).get(k) for of in (PAPER, PAPER_UNITS))


def is_other_model(config: dict) -> bool:
    """Whether options make a model, or score images, that the paper does not have."""
    return bool(
        config["dataset"] != "mnist"
        or config["n_latent"]
        or config["n_hidden"]
        or config["binarization"] != "dynamic"
        or config["beta"] != 1.0
        or config.get("conditional")
        or config.get("validation")
        or config.get("model", "burda") != "burda"
        or config.get("n_flows")
        or config.get("likelihood") not in (None, "bernoulli")
        or config.get("missing")
    )


def family_and_k(options: dict) -> tuple[str, int]:
    """The objective as the tables above name it, such as vae, and its samples."""
    return options["objective"].split("_")[0], options["n_samples"]
