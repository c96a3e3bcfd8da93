"""The table of objectives: each row is a bound over `Draws` and a gradient estimator.

The gradient of a multi-sample bound is a weighted sum of the gradients of log w_i,
where the weights are held constant. A row has the bound, whose value is logged; the
weights for theta, the parameters of the generator; and the weights for phi, the
parameters of the posterior. It also says whether the gradient of phi is the total one
or only takes the path through the latents.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import keras
import tensorflow as tf

from iwae_tf import weights
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError, check_one_of

Beta = float | tf.Tensor
SampleWeights = Callable[[tf.Tensor, Beta], tf.Tensor]


class Objective(NamedTuple):
    """One row of the table.

    A row of one's own, with the bound of Li and Turner 2016, arXiv:1602.02311, of order
    a half:

        def half(draws, beta=1.0):
            return 2 * weights.log_mean_exp(draws.log_w(beta) / 2)

        model.compile("adam", Objective(half), n_samples=50)

    Attributes:
      bound: function (draws, beta) -> bound [b], nats.
      theta_weights: function (log_w [k, b], beta) -> weights [k, b]. They multiply the
        gradients of log_w with respect to the generator's parameters. If it is None,
        `bound` is differentiated.
      phi_weights: the same for the posterior's parameters.
      path_only: whether the gradient of phi leaves out the dependence of log q(z|x) on
        phi at fixed z. Such a row has both kinds of weights, its weights for phi are 0
        where those for theta are 0, and it does not need `kl`.
      n_groups: m, the number of groups of k samples that the bound uses.
      needs_kl: whether `bound` reads `draws.kl`.
    """

    bound: Callable[[Draws, Beta], tf.Tensor]
    theta_weights: SampleWeights | None = None
    phi_weights: SampleWeights | None = None
    path_only: bool = False
    n_groups: int = 1
    needs_kl: bool = False


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


def table(
    n_groups: int = 1, combination_beta: float | None = None
) -> dict[str, Objective]:
    """Every objective, by its name.

    Args:
      n_groups: m, the number of groups in `miwae` and `piwae`.
      combination_beta: weight of the ELBO in `combination`; the default is 0.5.
    """
    if combination_beta is None:
        combination_beta = 0.5
    multiply = Objective(partial(miwae, n_groups=n_groups), n_groups=n_groups)
    within = partial(normalised_in_groups, n_groups=n_groups)
    mixture = partial(combination, combination_beta=combination_beta)
    path = Objective(iwae_elbo, normalised, path_only=True)
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
        "dreg": path._replace(phi_weights=doubly_reparameterised),
        "rws_dreg": path._replace(phi_weights=wake),
    }


def row(
    name: str, n_groups: int = 1, combination_beta: float | None = None
) -> Objective:
    """One row of `table` by its name.

    Raises:
      UsageError: if no row has this name.
    """
    rows = table(n_groups, combination_beta)
    check_one_of(tuple(rows), objective=name)
    return rows[name]


def check_mask_model(objective: Objective, generator) -> None:
    """Checks that an objective needs no density of given latents if x is also drawn.

    Raises:
      UsageError: for a path-only row and a generator with a mask model.
    """
    if objective.path_only and getattr(generator, "mask_model", None) is not None:
        raise UsageError(
            "objective: must not be path-only with a mask model, whose missing "
            "entries are drawn with the latents; use vae_elbo, iwae_elbo, "
            "iwae_eq14, miwae, piwae or combination"
        )


# Gradients ---------------------------------------------------------------------------


def value_and_gradients(
    objective: Objective,
    model,
    x: tf.Tensor,
    k: int,
    seed: tf.Tensor,
    beta: Beta,
    context: tf.Tensor | None = None,
    scale: Callable[[tf.Tensor], tf.Tensor] = lambda loss: loss,
) -> tuple[tf.Tensor, list[tf.Tensor], Draws]:
    """Computes the loss, its gradient and the draws that both depend on.

    What layers add to the loss, such as the terms of regularisers, is in the loss and
    in the gradients.

    Args:
      objective: a row of `table`.
      model: an object with `inputs`, `draw`, `weigh`, `posterior` and `generator`, such
        as an `iwae_tf.IWAE`.
      x: observations [b, *event_shape].
      k: number of samples per image and group.
      seed: random seed, [2].
      beta: weight of the latent part.
      context: [b, c], for a conditional model.
      scale: multiplies what is differentiated by a constant, as `scale_loss` of an
        optimizer does so that gradients in 16 bits do not vanish.

    Returns:
      loss: scalar, minus the bound averaged over the batch, plus what layers add, nats.
      gradients: gradients of the scaled loss, one for each trainable variable of the
        posterior and then one for each of the generator.
      draws: m k samples for each of b images.

    Raises:
      UsageError: for a path-only row that lacks weights for theta or phi, or that needs
        a closed form; see `iwae_tf.IWAE.draw` too.
    """
    own = (objective.theta_weights, objective.phi_weights)
    if objective.path_only and (None in own or objective.needs_kl):
        raise UsageError(
            "objective: must have weights for theta and phi and no closed form to be "
            f"path-only, got {objective}"
        )
    compute = _path_gradients if objective.path_only else _total_gradients
    n_samples = objective.n_groups * k
    of_phi, of_theta, draws = compute(
        objective, model, x, n_samples, seed, beta, context, scale
    )
    loss = -tf.reduce_mean(objective.bound(draws, beta)) + sum(_added(model))
    return loss, [*of_phi, *of_theta], draws


def _total_gradients(objective, model, x, n_samples, seed, beta, context, scale):
    phi = model.posterior.trainable_variables
    theta = model.generator.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        draws = model.draw(x, n_samples, seed, context, objective.needs_kl)
        log_w = draws.log_w(beta)
        if objective.theta_weights is None:
            loss = -tf.reduce_mean(objective.bound(draws, beta))
        else:
            loss = _weighted(objective.theta_weights, log_w, beta)
        added = sum(_added(model))
        loss = scale(loss + added)
        if objective.phi_weights is not None:
            loss_of_phi = scale(_weighted(objective.phi_weights, log_w, beta) + added)
    if objective.phi_weights is None:
        return *tape.gradient(loss, [phi, theta]), draws
    return tape.gradient(loss_of_phi, phi), tape.gradient(loss, theta), draws


def _path_gradients(objective, model, x, n_samples, seed, beta, context, scale):
    """The gradients of a path-only row, from one pass through the decoder.

    The gradients with respect to the latents are computed with theta's weights, then
    rescaled to phi's. The latents are leaves of the second tape, so phi is constant
    where it evaluates log q(z|x). The first tape keeps the path from a latent to the
    latents that depend on it.
    """
    phi = model.posterior.trainable_variables
    theta = model.generator.trainable_variables
    x, context = model.inputs(x, context)
    # Layers with a state, such as dropout, act in `weigh` as they have acted here.
    with tf.GradientTape() as to_latents, keras.StatelessScope():
        zs, _ = model.posterior.draw(x, n_samples, seed, context)
    with tf.GradientTape(persistent=True) as from_latents:
        from_latents.watch(zs)
        draws = model.weigh(x, zs, context)
        log_w = draws.log_w(beta)
        loss = scale(_weighted(objective.theta_weights, log_w, beta))
        added = [scale(loss) for loss in _added(model)]
    of_theta, of_zs = from_latents.gradient(loss, [theta, zs])
    anew = tf.math.divide_no_nan(
        objective.phi_weights(log_w, beta), objective.theta_weights(log_w, beta)
    )
    of_zs = [anew[..., tf.newaxis] * of_z for of_z in of_zs]
    if added:
        more = from_latents.gradient(added, [theta, zs, phi])
        of_theta, of_zs = _sums(of_theta, more[0]), _sums(of_zs, more[1])
    of_phi = to_latents.gradient(zs, phi, output_gradients=of_zs)
    return _sums(of_phi, more[2]) if added else of_phi, of_theta, draws


def _sums(one, other):
    """Sums of gradients, pair by pair; None where there is no connection."""
    return [
        b if a is None else a if b is None else a + b
        for a, b in zip(one, other, strict=True)
    ]


def _added(model):
    """What the layers of a model add to the loss, such as the terms of regularisers."""
    return getattr(model, "losses", [])


def _weighted(sample_weights, log_w, beta):
    """A scalar loss: minus the sum of log_w times weights that are held constant."""
    held = tf.stop_gradient(sample_weights(log_w, beta))
    return -tf.reduce_mean(tf.reduce_sum(held * log_w, axis=0))
