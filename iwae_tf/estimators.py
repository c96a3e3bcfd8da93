"""Gradient estimators: how the rows of `iwae_tf.objectives` become gradients."""

from collections.abc import Callable

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError, listed
from iwae_tf.objectives import PHI_GRADIENTS, Beta, Objective
from iwae_tf.rules import WITHOUT_GIVEN_LATENTS, WITHOUT_REPARAMETERISATION

tfd = tfp.distributions

# The parts that a row needs, by `Objective.phi_gradient`.
_NEEDED = {
    "total": (),
    "path": ("theta_weights", "phi_weights"),
    "score": ("theta_weights", "phi_weights"),
    "sleep": ("theta_weights",),
}


def check_estimator(objective: Objective, posterior, generator, k: int) -> None:
    """Checks that a row is whole, and that a model can have it.

    Args:
      objective: a row of `iwae_tf.objectives.table`, or one's own.
      posterior: q(z|x).
      generator: p(x, z).
      k: number of samples per observation and group.

    Raises:
      UsageError: if a part of the row is missing, there are too few samples, latents
        have no reparameterisation and the row needs it, p(z) has no factors and the row
        needs them, or missing entries are drawn and the row needs the density of given
        latents.
    """
    kind = objective.phi_gradient
    if kind not in PHI_GRADIENTS:
        raise UsageError(
            f"phi_gradient: must be one of {', '.join(PHI_GRADIENTS)}, got {kind!r}"
        )
    is_whole = all(getattr(objective, name) is not None for name in _NEEDED[kind])
    if kind != "total" and (not is_whole or objective.needs_kl):
        raise UsageError(
            f"objective: must have {' and '.join(_NEEDED[kind])} and no closed form "
            f"for phi_gradient {kind}, got {objective}"
        )
    if objective.prior_path and kind != "path":
        raise UsageError(f"prior_path: goes with phi_gradient path only, got {kind}")
    if objective.prior_path and not getattr(
        generator, "has_factors", hasattr(generator, "factors")
    ):
        raise UsageError(
            "generator: must have a method factors for the path from the parameters of "
            f"p(z) to the latents, got {type(generator).__name__}; use dreg"
        )
    if k < objective.min_samples:
        raise UsageError(
            f"n_samples: must be at least {objective.min_samples} for this objective, "
            f"got {k}"
        )
    if kind in ("total", "path") and not getattr(posterior, "is_reparameterised", True):
        raise UsageError(
            "objective: must need no reparameterisation for latents that have none, "
            f"such as binary ones; use {listed(WITHOUT_REPARAMETERISATION)}"
        )
    if kind == "path" and not getattr(posterior, "has_slopes", True):
        raise UsageError(
            "flow_normalisation: must be none or weight for an objective of path "
            "gradients, got batch"
        )
    if kind != "total" and getattr(generator, "mask_model", None) is not None:
        raise UsageError(
            "objective: must not need the density of given latents with a mask model, "
            "whose missing entries are drawn with the latents; use "
            f"{listed(WITHOUT_GIVEN_LATENTS)}"
        )


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
      objective: a row of `iwae_tf.objectives.table`.
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
      UsageError: see `check_estimator` and `iwae_tf.IWAE.draw`.
    """
    check_estimator(objective, model.posterior, model.generator, k)
    compute = {
        "total": _total_gradients,
        "path": _path_gradients,
        "score": _score_gradients,
        "sleep": _score_gradients,
    }[objective.phi_gradient]
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
            loss = _weighted(objective.theta_weights(log_w, beta), log_w)
        added = sum(_added(model))
        loss = scale(loss + added)
        if objective.phi_weights is not None:
            held = objective.phi_weights(log_w, beta)
            loss_of_phi = scale(_weighted(held, log_w) + added)
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
        if objective.prior_path:
            log_priors, moved = _priors(model.generator, zs, context)
        draws = _weighed(model, x, zs, seed, context, from_latents)
        log_w = draws.log_w(beta)
        w_theta = objective.theta_weights(log_w, beta)
        loss = scale(_weighted(w_theta, log_w))
        added = [scale(loss) for loss in _added(model)]
        if objective.prior_path:
            of_x = scale(_weighted(w_theta, draws.log_px))
            excess = scale(_weighted(w_theta, draws.log_qz - log_priors))
    of_theta, of_zs = from_latents.gradient(loss, [theta, zs])
    if objective.prior_path:
        away = from_latents.gradient(excess, zs)
        rest = (1 - w_theta)[..., tf.newaxis]
        paths = [beta * (a + rest * b) for a, b in zip(away, of_zs, strict=True)]
        of_theta = _sums(
            from_latents.gradient(of_x, theta),
            from_latents.gradient(moved, theta, output_gradients=paths),
        )
    anew = tf.math.divide_no_nan(objective.phi_weights(log_w, beta), w_theta)
    of_zs = [anew[..., tf.newaxis] * of_z for of_z in of_zs]
    if added:
        more = from_latents.gradient(added, [theta, zs, phi])
        of_theta, of_zs = _sums(of_theta, more[0]), _sums(of_zs, more[1])
    of_phi = to_latents.gradient(zs, phi, output_gradients=of_zs)
    return _sums(of_phi, more[2]) if added else of_phi, of_theta, draws


def _weighed(model, x, zs, seed, context, tape):
    """Draws of latents of this seed; log q(z|x) depends on them alone.

    With flows it is linear in the latents: there is no density but that of a draw.
    """
    if not hasattr(model.posterior, "density_of_drawn"):
        return model.weigh(x, zs, context)
    (z,) = zs
    k = tf.shape(z)[0]
    log_qz, slope = model.posterior.density_of_drawn(x, k, seed, context, tape)
    log_qz += tf.reduce_sum(slope * (z - tf.stop_gradient(z)), axis=-1)
    return Draws(zs, *model.generator.log_joint(x, zs, context), log_qz)


def _priors(generator, zs, context):
    """Of the layers' p(z_l|z_l+1), with z_l+1 held: densities, and paths to latents.

    Returns:
      log_priors: sum over l of log p(z_l|z_l+1), [k, b], nats.
      moved: each z_l as a function of the parameters of p(z_l|z_l+1), its noise held.
    """
    with keras.StatelessScope():
        priors = generator.factors(tuple(map(tf.stop_gradient, zs)), context)
    log_priors, moved = 0.0, []
    for p, z in zip(priors, zs, strict=True):
        if not isinstance(getattr(p, "distribution", p), tfd.Normal):
            raise UsageError(
                "generator: must have factors of independent Gaussians for the path "
                f"from the parameters of p(z) to the latents, got {p.name}; use dreg"
            )
        loc, scale = p.mean(), p.stddev()
        log_priors += p.log_prob(z)
        moved.append(loc + scale * tf.stop_gradient((z - loc) / scale))
    return log_priors, moved


def _score_gradients(objective, model, x, n_samples, seed, beta, context, scale):
    """The gradients of a row whose latents need not be reparameterised.

    The latents are held: those that are drawn from q and, with `sleep`, those that are
    drawn from the generator with an x, one pair for each observation.
    """
    phi = model.posterior.trainable_variables
    theta = model.generator.trainable_variables
    x, context = model.inputs(x, context)
    is_asleep = objective.phi_gradient == "sleep"
    # Layers with a state, such as dropout, act in `weigh` as they have acted here.
    with keras.StatelessScope():
        zs, _ = model.posterior.draw(x, n_samples, seed, context)
        zs = tuple(map(tf.stop_gradient, zs))
    with tf.GradientTape(persistent=True) as tape:
        draws = model.weigh(x, zs, context)
        log_w = draws.log_w(beta)
        added = sum(_added(model))
        loss = scale(_weighted(objective.theta_weights(log_w, beta), log_w) + added)
        if not is_asleep:
            held = objective.phi_weights(log_w, beta)
            loss_of_phi = scale(_weighted(held, draws.log_qz) + added)
        else:
            with keras.StatelessScope():
                dreams, dreamt = _dreams(model.generator, x, seed, context)
                log_qz = model.posterior.log_prob(dreams, dreamt, context)
            loss_of_phi = scale(added - tf.reduce_mean(log_qz))
    return tape.gradient(loss_of_phi, phi), tape.gradient(loss, theta), draws


def _dreams(generator, x, seed, context):
    """Latents [1, b, d] and x [b, *event_shape] with the same entries missing."""
    own = randomness.seed_of(seed, -3)
    zs = generator.sample_latents(tf.shape(x)[0], own, context)
    zs = tuple(tf.stop_gradient(z)[tf.newaxis] for z in zs)
    dreamt, _ = generator.sample(zs, randomness.seed_of(seed, -4), context)
    return zs, tf.stop_gradient(tf.where(tf.math.is_nan(x), x, dreamt[0]))


def _sums(one, other):
    """Sums of gradients, pair by pair; None where there is no connection."""
    return [
        b if a is None else a if b is None else a + b
        for a, b in zip(one, other, strict=True)
    ]


def _added(model):
    """What the layers of a model add to the loss, such as the terms of regularisers."""
    return getattr(model, "losses", [])


def _weighted(sample_weights, values):
    """A scalar loss: minus the sum of values times weights that are held constant."""
    held = tf.stop_gradient(sample_weights)
    return -tf.reduce_mean(tf.reduce_sum(held * values, axis=0))
