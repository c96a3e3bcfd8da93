"""How well proposals estimate log p(x), with the same work for each image.

The packaged one- and two-layer IWAEs with k = 50 score 100 images of MNIST. The work of
5,000 samples is spent on the draws that are weighed and, with a refined proposal, on
its fit; annealing with 4 chains and 40 temperatures takes as much.
"""

import time

import numpy as np

from benchmarks.turns import head, row
from iwae_tf import data, pareto
from iwae_tf.measures import annealing, proposals
from iwae_tf.measures.likelihood import log_likelihood, standard_error
from iwae_tf.runs.experiment import load

N_IMAGES, N_PASSES = 100, 5000
N_CHAINS, N_TEMPERATURES = 4, 40


def measure() -> dict[str, float]:
    """Prints a Markdown table; returns the values by name."""
    found = {}
    head(
        *("layers", "proposal", "samples", "log p(x)", "above q(z given x)"),
        *("noise", "median ESS", "least ESS", "median k-hat", "above 0.7", "seconds"),
    )
    x_test = data.sets_of(data.load("mnist"), "dynamic").x_test
    x = x_test[data.spread(len(x_test), N_IMAGES)]
    for n_layers in (1, 2):
        model = load(f"mnist_iwae_{n_layers}l_k50")
        plain = None
        for proposal in (
            proposals.Proposal(),
            proposals.Defensive(),
            proposals.Inflated(),
            proposals.Refined(),
        ):
            n = N_PASSES - getattr(proposal, "n_passes", 0)
            start = time.monotonic()
            own = log_likelihood(model, x, n, jit_compile=False, proposal=proposal)
            seconds = time.monotonic() - start
            plain = own.log_px if plain is None else plain
            values = {
                "noise": own.scoring_error,
                "median ESS": np.median(own.ess),
                "least ESS": own.ess.min(),
                "median k-hat": np.median(own.pareto_k),
                "above 0.7": np.mean(own.pareto_k > pareto.threshold(N_PASSES)),
                "seconds": seconds,
            }
            gain = _gain(own.log_px, plain)
            row(n_layers, proposal.name, n, f"{own.mean:.2f}", gain, *values.values())
            found |= {f"{n_layers}, {proposal.name}, {k}": v for k, v in values.items()}
        start = time.monotonic()
        annealer = annealing.Annealer(
            model, N_CHAINS, N_TEMPERATURES, jit_compile=False
        )
        own = annealing.log_likelihood(annealer, x).lower
        seconds = time.monotonic() - start
        gain = _gain(own, plain)
        row(n_layers, "annealing", "", f"{own.mean():.2f}", gain, *[""] * 5, seconds)
    return found


def _gain(log_px, plain):
    error = standard_error(log_px - plain)
    return f"{np.mean(log_px - plain):+.3f} ± {error:.3f}"
