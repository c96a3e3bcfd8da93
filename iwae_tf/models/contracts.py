"""Whether a posterior and a generator keep their promises, told in one line each."""

import contextlib
import re
from collections.abc import Sequence

import tensorflow as tf

from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError
from iwae_tf.models.generators import Generator, noise_of_missing
from iwae_tf.models.posteriors import Posterior
from iwae_tf.objectives import Objective

_NEEDED = {
    Posterior: ("n_latent", "n_flows", "draw", "mean"),
    Generator: ("event_shape", "log_joint", "sample_latents", "mean", "sample"),
}
# What Keras and TensorFlow wrap around the cause of an error.
_WRAPPING = re.compile(
    r"\x1b\[[0-9;]*m|Exception encountered when calling .*?\)\.\s|"
    r"\{\{function_node .*?\}\} |\s\[Op:.*|Arguments received by .*",
    re.DOTALL,
)


def check_methods(posterior, generator) -> None:
    """Checks that both parts have what a model reads of them.

    Raises:
      UsageError: for the first attribute that is missing.
    """
    for part, (base, names) in zip(
        (posterior, generator), _NEEDED.items(), strict=True
    ):
        for name in names:
            of_base = getattr(base, name, None)
            is_of_base = callable(of_base) and getattr(type(part), name, 0) is of_base
            if is_of_base or not hasattr(part, name):
                kind = base.__name__.lower()
                raise UsageError(
                    f"{kind}: must have {name}, see iwae_tf.{kind}s.{base.__name__}, "
                    f"got {type(part).__name__}"
                )


def check_shapes(
    model, x: tf.Tensor, context: tf.Tensor | None, seed: tf.Tensor, k: int = 2
) -> None:
    """Calls both parts, which makes their variables, and checks what they return.

    Args:
      model: an `iwae_tf.IWAE` with both parts.
      x: observations [b, *event_shape].
      context: [b, c], or None.
      seed: random seed, [2].
      k: number of samples.

    Raises:
      UsageError: if a method of a part cannot take its arguments, or returns something
        of another shape.
    """
    posterior, generator = model.posterior, model.generator
    b, event, check = len(x), tuple(generator.event_shape), _checker(x.dtype)
    latents = tuple(posterior.n_latent)
    if tuple(getattr(generator, "n_latent", latents)) != latents:
        raise UsageError(
            f"generator: must have the latents of the posterior, {latents}, got "
            f"{tuple(generator.n_latent)}"
        )
    with told("posterior.draw", f"x {x.shape} and k = {k}"):
        zs, log_qz = posterior.draw(x, k, seed, context)
        check("posterior.draw", "zs", zs, [(k, b, d) for d in latents])
        check("posterior.draw", "log_qz", log_qz, (k, b))
    with told("posterior.mean", f"x {x.shape}"):
        means = posterior.mean(x, context)
        check("posterior.mean", "zs", means, [(1, b, d) for d in latents])
    given = f"x {x.shape} and zs {[(k, b, d) for d in latents]}"
    with told("generator.log_joint", given):
        own = noise_of_missing(generator, seed)
        log_px, log_pz = generator.log_joint(x, zs, context, **own)
        check("generator.log_joint", "log_px", log_px, (k, b))
        check("generator.log_joint", "log_pz", log_pz, (k, b))
    with told("generator.sample_latents", f"n = {b}"):
        drawn = generator.sample_latents(b, seed, context)
        check("generator.sample_latents", "zs", drawn, [(b, d) for d in latents])
    with told("generator.mean", f"zs {[(k, b, d) for d in latents]}"):
        mean = generator.mean(zs, context)
        check("generator.mean", "mean", mean, (k, b, *event))
    # A likelihood of one's own may do without draws of x.
    with (
        told("generator.sample", f"zs {[(k, b, d) for d in latents]}"),
        contextlib.suppress(NotImplementedError),
    ):
        samples, mean = generator.sample(zs, seed, context)
        check("generator.sample", "samples", samples, (k, b, *event))
        check("generator.sample", "mean", mean, (k, b, *event))


def check_row(objective: Objective, n_latent: Sequence[int]) -> None:
    """Calls the functions of a row on three observations, and checks what they return.

    Raises:
      UsageError: if one cannot take its arguments, or returns something of another
        shape.
    """
    k, b, check = 2 * objective.n_groups, 3, _checker(tf.float32)
    log_w = tf.zeros([k, b])
    zs = tuple(tf.zeros([k, b, d]) for d in n_latent)
    kl = tf.zeros([b]) if objective.needs_kl else None
    with told("objective.bound", f"draws [{k}, {b}] and beta"):
        bound = objective.bound(Draws(zs, log_w, log_w, log_w, kl), 1.0)
        check("objective.bound", "bound", bound, (b,))
    for name in ("theta_weights", "phi_weights"):
        function = getattr(objective, name)
        if function is not None:
            with told(f"objective.{name}", f"log_w [{k}, {b}] and beta"):
                of_samples = function(log_w, 1.0)
                check(f"objective.{name}", "weights", of_samples, (k, b))


def _checker(dtype):
    """A function that checks tensors for a shape and this type of floats."""

    def check(method, name, value, shape):
        if isinstance(shape, list):
            if not isinstance(value, tuple | list) or len(value) != len(shape):
                found = type(value).__name__
                raise UsageError(
                    f"{method}: must return {name} of {len(shape)} latents, got {found}"
                )
            for i, (part, size) in enumerate(zip(value, shape, strict=True)):
                check(method, f"{name}[{i}]", part, size)
            return
        tensor = tf.convert_to_tensor(value)
        if tuple(tensor.shape) != shape:
            raise UsageError(
                f"{method}: must return {name} of shape {list(shape)}, got "
                f"{list(tensor.shape)}"
            )
        if tensor.dtype != dtype:
            raise UsageError(
                f"{method}: must return {name} of {dtype.name}, got {tensor.dtype.name}"
            )

    return check


@contextlib.contextmanager
def told(method: str, given: str):
    """Turns an error within a method of a part into one line.

    Raises:
      UsageError: in place of any other error.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        text = _WRAPPING.sub("", f"{type(error).__name__}: {error}")
        brief = " ".join(text.split())[:300]
        raise UsageError(f"{method}: must take {given}, got {brief}") from error
