"""The table of objectives: each row is a bound over `Draws` and a gradient estimator.

The gradient of a multi-sample bound is a weighted sum of the gradients of log w_i,
where the weights are held constant. A row has the bound, whose value is logged; the
weights for theta, the parameters of the generator; and the weights for phi, the
parameters of the posterior. It also says which gradient of the posterior the weights
for phi multiply. `iwae_tf.estimators` computes the gradients.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from iwae_tf import weights
from iwae_tf.draws import Draws
from iwae_tf.errors import check_one_of

Beta = float | tf.Tensor
SampleWeights = Callable[[tf.Tensor, Beta], tf.Tensor]


PHI_GRADIENTS = ("total", "path", "score", "sleep")
# Left ends of the parts of [0, 1] in `tvo`: 0, and then equal ratios from 0.02 to 1. In
# the experiments of Masrani et al. with 5, 10 and 50 samples, a search chose 0.01, 0.02
# and 0.03 for the second of them.
TEMPERATURES = (0.0, *(0.02 ** (i / 4) for i in (4, 3, 2, 1)))
RENYI_ALPHA = 0.5


class Objective(NamedTuple):
    """One row of the table.

    A row of one's own, the VR-max of Li and Turner 2016, arXiv:1602.02311:

        def largest(draws, beta=1.0):
            return tf.reduce_max(draws.log_w(beta), axis=0)

        model.compile("adam", Objective(largest), n_samples=50)

    Attributes:
      bound: function (draws, beta) -> bound [b], nats.
      theta_weights: function (log_w [k, b], beta) -> weights [k, b]. They multiply the
        gradients of log_w with respect to the generator's parameters. If it is None,
        `bound` is differentiated.
      phi_weights: the same for the posterior's parameters.
      phi_gradient: what the weights for phi multiply, one of `PHI_GRADIENTS`.
        `total` is the gradient of log_w. `path` leaves out the dependence of
        log q(z|x) on phi at fixed z; the weights for phi must be 0 where those for
        theta are 0. `score` is that dependence alone: the gradient of log q(z|x) at
        fixed z, which needs no reparameterisation. `sleep` has no weights for phi: the
        gradient is that of log q(z|x) for z and x drawn from the generator. All but
        `total` need weights for theta, and none of them can need `kl`.
      prior_path: whether the generator's gradient in the parameters of p(z) also takes
        the path through the latents, see `gdreg` in `table`; with `path` only.
      n_groups: m, the number of groups of k samples that the bound uses.
      needs_kl: whether `bound` reads `draws.kl`.
      min_samples: the smallest k that the row is defined for.
    """

    bound: Callable[[Draws, Beta], tf.Tensor]
    theta_weights: SampleWeights | None = None
    phi_weights: SampleWeights | None = None
    phi_gradient: str = "total"
    prior_path: bool = False
    n_groups: int = 1
    needs_kl: bool = False
    min_samples: int = 1


# Bounds ------------------------------------------------------------------------------


def vae_elbo(draws: Draws, beta: Beta = 1.0) -> tf.Tensor:
    """The evidence lower bound: mean_k log w.

    Args:
      draws: k samples for each of b images.
      beta: weight of the latent part.

    Returns:
      bound: [b], nats.

    Reference:
      Kingma and Welling 2014, eq. 6, arXiv:1312.6114.
    """
    return tf.reduce_mean(draws.log_w(beta), axis=0)


def vae_elbo_kl(draws: Draws, beta: Beta = 1.0) -> tf.Tensor:
    """The evidence lower bound: mean_k log p(x|z) - beta KL(q(z|x) || p(z)).

    Args:
      draws: k samples for each of b images, with `kl`.
      beta: weight of the latent part.

    Returns:
      bound: [b], nats.

    Reference:
      Kingma and Welling 2014, eq. 7, arXiv:1312.6114.
    """
    return tf.reduce_mean(draws.log_px, axis=0) - beta * draws.kl


def iwae_elbo(draws: Draws, beta: Beta = 1.0) -> tf.Tensor:
    """The importance weighted bound: log mean_k w.

    Args:
      draws: k samples for each of b images.
      beta: weight of the latent part.

    Returns:
      bound: [b], nats.

    Reference:
      Burda et al. 2016, eq. 8, arXiv:1509.00519.
    """
    return weights.log_mean_exp(draws.log_w(beta))


def miwae(draws: Draws, beta: Beta = 1.0, *, n_groups: int) -> tf.Tensor:
    """The multiply importance weighted bound: mean_m log mean_k w.

    Args:
      draws: m k samples for each of b images.
      beta: weight of the latent part.
      n_groups: m, the number of groups.

    Returns:
      bound: [b], nats.

    Reference:
      Rainforth et al. 2018, arXiv:1802.04537.
    """
    grouped = weights.in_groups(draws.log_w(beta), n_groups)
    return tf.reduce_mean(
        tf.reshape(weights.log_mean_exp(grouped), [n_groups, -1]), axis=0
    )


def combination(
    draws: Draws, beta: Beta = 1.0, *, combination_beta: float
) -> tf.Tensor:
    """A mixture of two bounds: c mean_k log w + (1 - c) log mean_k w.

    Rainforth et al. call this bound CIWAE and write beta for c.

    Args:
      draws: k samples for each of b images.
      beta: weight of the latent part.
      combination_beta: c, from 0 to 1.

    Returns:
      bound: [b], nats.

    Reference:
      Rainforth et al. 2018, arXiv:1802.04537.
    """
    return combination_beta * vae_elbo(draws, beta) + (
        1 - combination_beta
    ) * iwae_elbo(draws, beta)


def renyi(draws: Draws, beta: Beta = 1.0, *, alpha: float) -> tf.Tensor:
    """The variational Renyi bound: log(mean_k w^(1 - alpha)) / (1 - alpha).

    It is the importance weighted bound for alpha = 0, and tends to the evidence lower
    bound for alpha to 1.

    Args:
      draws: k samples for each of b images.
      beta: weight of the latent part.
      alpha: order of the divergence, 0 <= alpha < 1.

    Returns:
      bound: [b], nats.

    Reference:
      Li and Turner 2016, arXiv:1602.02311; Daudel et al. 2023, arXiv:2210.06226.
    """
    log_w = draws.log_w(beta)
    largest = tf.stop_gradient(tf.reduce_max(log_w, axis=0))
    # Near alpha = 1 the powers are nearly 1, and their logarithm has few digits.
    excess = tf.reduce_mean(tf.math.expm1((1 - alpha) * (log_w - largest)), axis=0)
    return largest + tf.math.log1p(excess) / (1 - alpha)


def tvo(draws: Draws, beta: Beta = 1.0, *, temperatures: Sequence[float]) -> tf.Tensor:
    """The thermodynamic bound: sum_j (t_{j+1} - t_j) E_j[log w], a left Riemann sum.

    E_j is the mean under q(z|x)^(1 - t_j) p(x, z)^t_j, self-normalised. The integral
    over t from 0 to 1 is log p(x). With t_0 = 0 alone the bound is the evidence lower
    bound.

    Args:
      draws: k samples for each of b images.
      beta: weight of the latent part.
      temperatures: t_0 = 0 < t_1 < ... < 1; the last part ends at 1.

    Returns:
      bound: [b], nats.

    Reference:
      Masrani et al. 2019, arXiv:1907.00031.
    """
    log_w = draws.log_w(beta)
    return sum(
        width * tf.reduce_sum(weights.normalise(t * log_w) * log_w, axis=0)
        for t, width in _parts(temperatures)
    )


def _parts(temperatures):
    """The left end and the width of each part of [0, 1]."""
    ends = [*temperatures, 1.0]
    return [(t, end - t) for t, end in itertools.pairwise(ends)]


# Weights of samples ------------------------------------------------------------------


def normalised(log_w: tf.Tensor, beta: Beta = 1.0) -> tf.Tensor:
    """w~_i = w_i / sum_j w_j: Burda et al. 2016, eq. 14, arXiv:1509.00519."""
    return weights.normalise(log_w)


def normalised_in_groups(
    log_w: tf.Tensor, beta: Beta = 1.0, *, n_groups: int
) -> tf.Tensor:
    """w~ of each group, divided by m: Rainforth et al. 2018, arXiv:1802.04537."""
    within = weights.normalise(weights.in_groups(log_w, n_groups))
    return tf.reshape(within, tf.shape(log_w)) / n_groups


def doubly_reparameterised(log_w: tf.Tensor, beta: Beta = 1.0) -> tf.Tensor:
    """(1 - beta) w~ + beta w~^2: Tucker et al. 2018, arXiv:1810.04152, for beta = 1.

    The path gradient leaves out the term -beta sum_i w~_i grad log q(z_i|x) at fixed
    z_i. Its expectation is that of -beta sum_i (w~_i - w~_i^2) times the path gradient
    of log w_i. Without this correction the gradient is that of `stl`.
    """
    w_norm = weights.normalise(log_w)
    return (1 - beta) * w_norm + beta * tf.square(w_norm)


def wake(log_w: tf.Tensor, beta: Beta = 1.0) -> tf.Tensor:
    """w~ - w~^2, for the wake update of q: Tucker et al. 2018, arXiv:1810.04152."""
    w_norm = weights.normalise(log_w)
    return w_norm - tf.square(w_norm)


def tempered(log_w: tf.Tensor, beta: Beta = 1.0, *, alpha: float) -> tf.Tensor:
    """w_i^(1 - alpha), normalised: Li and Turner 2016, arXiv:1602.02311."""
    return weights.normalise((1 - alpha) * log_w)


def tempered_doubly_reparameterised(
    log_w: tf.Tensor, beta: Beta = 1.0, *, alpha: float
) -> tf.Tensor:
    """The weights v - beta (1 - alpha) (v - v^2), where v is `tempered`.

    For beta = 1 they are alpha v + (1 - alpha) v^2: Daudel et al. 2023,
    arXiv:2210.06226.
    """
    v = tempered(log_w, alpha=alpha)
    return v - beta * (1 - alpha) * (v - tf.square(v))


def thermodynamic_theta(
    log_w: tf.Tensor, beta: Beta = 1.0, *, temperatures: Sequence[float]
) -> tf.Tensor:
    """The covariance gradient of `tvo` in theta.

    sum_j width_j v_ji (1 + t_j (log w_i - E_j[log w])), where v_j are the normalised
    weights w^t_j: Masrani et al. 2019, arXiv:1907.00031.
    """
    return sum(
        width * v * (1 + t * centred)
        for t, width, v, centred in _tempered_parts(log_w, temperatures)
    )


def thermodynamic_phi(
    log_w: tf.Tensor, beta: Beta = 1.0, *, temperatures: Sequence[float]
) -> tf.Tensor:
    """The covariance gradient of `tvo` in phi, for the gradient of log q(z|x).

    sum_j width_j v_ji ((1 - beta t_j) (log w_i - E_j[log w]) - beta), see
    `thermodynamic_theta`.
    """
    return sum(
        width * v * ((1 - beta * t) * centred - beta)
        for t, width, v, centred in _tempered_parts(log_w, temperatures)
    )


def _tempered_parts(log_w, temperatures):
    for t, width in _parts(temperatures):
        v = weights.normalise(t * log_w)
        yield t, width, v, log_w - tf.reduce_sum(v * log_w, axis=0)


def leave_one_out(log_w: tf.Tensor, beta: Beta = 1.0) -> tf.Tensor:
    """L - L_-i - beta w~_i, for the gradient of log q(z|x); k is at least 2.

    L is `log_mean_exp`, and L_-i is the same after w_i has been replaced by the
    geometric mean of the others: Mnih and Rezende 2016, arXiv:1602.06725.
    """
    log_w -= tf.reduce_max(log_w, axis=0)  # differences of large numbers lose digits
    signal = weights.log_mean_exp(log_w) - weights.log_mean_exp_without_each(log_w)
    return signal - beta * weights.normalise(log_w)


def left_out(log_w: tf.Tensor, beta: Beta = 1.0) -> tf.Tensor:
    """-log(1 - w~_i) - beta w~_i, for the gradient of log q(z|x); k is at least 2.

    It is `leave_one_out` with 0 in the place of w_i: Liévin et al. 2020,
    arXiv:2008.01998, for gamma = 0. Other values of gamma are biased.
    """
    log_w -= tf.reduce_max(log_w, axis=0)
    rest = weights.log_sum_without_each(log_w)
    log_k = tf.math.log(tf.cast(tf.shape(log_w)[0], log_w.dtype))
    signal = weights.log_mean_exp(log_w) + log_k - rest
    return signal - beta * weights.normalise(log_w)


def table(
    n_groups: int = 1,
    combination_beta: float | None = None,
    renyi_alpha: float | None = None,
    temperatures: Sequence[float] | None = None,
) -> dict[str, Objective]:
    """Every objective, by its name.

    Args:
      n_groups: m, the number of groups in `miwae` and `piwae`.
      combination_beta: weight of the ELBO in `combination`; the default is 0.5.
      renyi_alpha: order of `renyi` and `renyi_dreg`, 0 <= alpha < 1; the default is
        0.5.
      temperatures: left ends of the parts of [0, 1] in `tvo` and `tvo_total`, from 0
        upwards; the default is 0 and four with equal ratios from 0.02 to 1.
    """
    if combination_beta is None:
        combination_beta = 0.5
    alpha = RENYI_ALPHA if renyi_alpha is None else renyi_alpha
    ends = TEMPERATURES if temperatures is None else tuple(temperatures)
    order = partial(renyi, alpha=alpha)
    thermodynamic = Objective(partial(tvo, temperatures=ends))
    multiply = Objective(partial(miwae, n_groups=n_groups), n_groups=n_groups)
    within = partial(normalised_in_groups, n_groups=n_groups)
    mixture = partial(combination, combination_beta=combination_beta)
    path = Objective(iwae_elbo, normalised, phi_gradient="path")
    dreg = path._replace(phi_weights=doubly_reparameterised)
    return {
        "vae_elbo": Objective(vae_elbo),
        "vae_elbo_kl": Objective(vae_elbo_kl, needs_kl=True),
        "iwae_elbo": Objective(iwae_elbo),
        "iwae_eq14": Objective(iwae_elbo, normalised),
        "miwae": multiply,
        "piwae": multiply._replace(theta_weights=normalised, phi_weights=within),
        "combination": Objective(mixture),
        # Roeder et al. 2017, arXiv:1703.09194; biased for k > 1.
        "stl": path._replace(phi_weights=normalised),
        "dreg": dreg,
        # Bauer and Mnih 2021, arXiv:2101.11046.
        "gdreg": dreg._replace(prior_path=True),
        "rws_dreg": path._replace(phi_weights=wake),
        "renyi": Objective(order),
        "renyi_dreg": Objective(
            order,
            partial(tempered, alpha=alpha),
            partial(tempered_doubly_reparameterised, alpha=alpha),
            "path",
        ),
        "tvo": thermodynamic._replace(
            theta_weights=partial(thermodynamic_theta, temperatures=ends),
            phi_weights=partial(thermodynamic_phi, temperatures=ends),
            phi_gradient="score",
        ),
        "tvo_total": thermodynamic,
        "vimco": Objective(
            iwae_elbo, normalised, leave_one_out, "score", min_samples=2
        ),
        "ovis": Objective(iwae_elbo, normalised, left_out, "score", min_samples=2),
        # Bornschein and Bengio 2015, arXiv:1406.2751: wake-phi, and sleep-phi.
        "rws": Objective(iwae_elbo, normalised, normalised, "score"),
        "rws_sleep": Objective(iwae_elbo, normalised, phi_gradient="sleep"),
    }


def row(name: str, **options) -> Objective:
    """One row of `table` by its name.

    Args:
      name: the name.
      **options: arguments of `table`.

    Raises:
      UsageError: if no row has this name.
    """
    rows = table(**options)
    check_one_of(tuple(rows), objective=name)
    return rows[name]
