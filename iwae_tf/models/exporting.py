"""Export of a model as a TensorFlow SavedModel, which needs no Python of ours."""

from pathlib import Path

import keras
import tensorflow as tf

from iwae_tf import randomness, weights
from iwae_tf.errors import check_at_least
from iwae_tf.models.representation import means_and_scales

_CHUNK = 50  # samples of an observation that are held in memory at once


def export(model, filepath: str | Path, k: int = 100, verbose: bool = False) -> None:
    """Writes the SavedModel of `iwae_tf.IWAE.export`."""
    check_at_least(1, k=k)
    x = tf.TensorSpec([None, *model.generator.event_shape], tf.float32, "x")
    seed = tf.TensorSpec([], tf.int32, "seed")
    zs = [
        tf.TensorSpec([None, d], tf.float32, f"z{level}")
        for level, d in enumerate(model.posterior.n_latent, 1)
    ]
    context = tf.TensorSpec([None, model.n_context], tf.float32, "context")
    contexts = [context] if model.n_context else []

    def serve(x, *context):
        return model((x, *context) if context else x)

    def encode(x, *context):
        means, scales = means_and_scales(model, x, *context)
        return {
            f"{name}_z{level}": part
            for name, parts in (("mean", means), ("scale", scales))
            for level, part in enumerate(parts, 1)
        }

    def decode(*inputs):
        zs, context = inputs[: len(inputs) - len(contexts)], inputs[-1]
        own = (context,) if contexts else ()
        return model.generator.mean(tuple(z[tf.newaxis] for z in zs), *own)[0]

    def sample(n, seed):
        return _sampled(model, n, seed)

    def sample_given(context, seed):
        return _sampled(model, tf.shape(context)[0], seed, context)

    def log_likelihood(x, *inputs):
        *context, seed = inputs
        return _log_likelihood(model, x, k, seed, *context)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [x, *contexts])
    archive.add_endpoint("encode", encode, [x, *contexts])
    archive.add_endpoint("decode", decode, [*zs, *contexts])
    if contexts:
        archive.add_endpoint("sample", sample_given, [context, seed])
    else:
        n = tf.TensorSpec([], tf.int32, "n")
        archive.add_endpoint("sample", sample, [n, seed])
    archive.add_endpoint("log_likelihood", log_likelihood, [x, *contexts, seed])
    archive.write_out(filepath, verbose=verbose)


def _sampled(model, n, seed, context=None):
    samples, mean = model.sample(n, seed, context)
    return {"samples": samples, "mean": mean}


def _log_likelihood(model, x, k, seed, context=None):
    """Estimates log p(x) by k samples in chunks, and their effective sample size.

    The noise is that of the first batch of `iwae_tf.log_likelihood` with these chunks.
    """
    chunk = min(k, _CHUNK)
    seed = randomness.seed_of(seed, randomness.SCORE, 0)

    def add(first, log_sum, log_sum_of_squares):
        draws = model.draw(x, chunk, randomness.seed_of(seed, first), context)
        log_w = tf.cast(draws.log_w(), tf.float64)[: k - first]
        sums = (_log_sum(log_sum, log_w), _log_sum(log_sum_of_squares, 2 * log_w))
        return first + chunk, *sums

    nothing = tf.fill([tf.shape(x)[0]], tf.constant(-float("inf"), tf.float64))
    _, log_sum, log_sum_of_squares = tf.while_loop(
        lambda first, *_: first < k, add, (0, nothing, nothing), parallel_iterations=1
    )
    values = {
        "log_px": log_sum - tf.math.log(tf.cast(k, tf.float64)),
        "ess": tf.exp(2 * log_sum - log_sum_of_squares),
    }
    return {name: tf.cast(value, tf.float32) for name, value in values.items()}


def _log_sum(log_sum, log_w):
    """The log of a sum so far, exp(log_sum), and of exp(log_w [c, b]), [b]."""
    parts = tf.concat([log_sum[tf.newaxis], log_w], axis=0)
    n = tf.cast(tf.shape(parts)[0], parts.dtype)
    return weights.log_mean_exp(parts) + tf.math.log(n)
