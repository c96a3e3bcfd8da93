"""A linear-Gaussian model, whose log p(x) is known in closed form.

    p(zL) = N(0, I)
    p(zl | zl+1) = N(A zl+1 + a, t^2 I)
    p(x | z1) = N(W z1 + b, s^2 I)

The pair below has the contract of `iwae_tf.generators` and `iwae_tf.posteriors`, so it
goes wherever a model goes:

    generator = LinearGaussian(n_latent=(3, 2))
    model = IWAE(exact_posterior(generator), generator)
    generator.log_evidence(x)

The oracle is NumPy float64 and reads the variables' present values. It takes the dense
route, log N(x; mean, covariance) with the joint Gaussian's blocks, while the exact
posterior is found layer by layer from precisions. W has orthogonal columns and A is
diagonal, so that every posterior covariance is diagonal and `GaussianChain` without
hidden layers can represent it.
"""

import functools
import math

import keras
import numpy as np
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.posteriors import GaussianChain, flatten

tfd = tfp.distributions


class LinearGaussian(keras.layers.Layer):
    """The generator; see `iwae_tf.generators`.

    `maps[0]`, `shifts[0]` and `log_scales[0]` are W, b and log s; the next ones are A,
    a and log t of each layer, bottom-up. All are trainable.
    """

    def __init__(self, event_shape=(2, 4, 1), n_latent=(3,), seed=0, dtype="float32"):
        super().__init__(dtype=dtype)
        self.event_shape = tuple(event_shape)
        self.n_latent = tuple(n_latent)
        rng = np.random.default_rng(seed)
        sizes = (math.prod(event_shape), *n_latent)
        self.maps, self.shifts, self.log_scales = [], [], []
        for level, (d_out, d_in) in enumerate(zip(sizes, sizes[1:], strict=False)):
            # Columns of different lengths, so that no two latents are exchangeable.
            lengths = np.linspace(1.5, 0.7, d_in)
            if level == 0:
                columns = np.linalg.qr(rng.normal(size=(d_out, d_in)))[0]
            else:
                columns = np.eye(d_out, d_in)
            scale = 0.8 if level == 0 else 0.6
            self.maps.append(self._variable(columns * lengths))
            self.shifts.append(self._variable(rng.normal(size=d_out) * 0.5))
            self.log_scales.append(self._variable(math.log(scale)))

    def _variable(self, value):
        variable = self.add_weight(shape=np.shape(value))
        variable.assign(value)
        return variable

    def prior(self, context=None):
        zeros = tf.zeros(self.n_latent[-1], self.dtype)
        return tfd.Independent(tfd.Normal(zeros, tf.ones_like(zeros)), 1)

    def _below(self, level, z):
        """p(zs[level - 1] | zs[level]), or p(x | zs[0]) for level 0."""
        loc = tf.linalg.matvec(self.maps[level], z) + self.shifts[level]
        return tfd.Independent(tfd.Normal(loc, tf.exp(self.log_scales[level])), 1)

    def factors(self, zs, context=None):
        below_top = [self._below(level, zs[level]) for level in range(1, len(zs))]
        return [*below_top, self.prior()]

    def log_px(self, x, zs, context=None):
        return self._below(0, zs[0]).log_prob(flatten(x))

    def log_joint(self, x, zs, context=None):
        layers = self.factors(zs)
        log_pz = sum(p.log_prob(z) for p, z in zip(layers, zs, strict=True))
        return self.log_px(x, zs), log_pz

    def sample_latents(self, n, seed, context=None):
        top = len(self.n_latent) - 1
        zs = (self._normal([n, self.n_latent[top]], randomness.seed_of(seed, top)),)
        for level in reversed(range(top)):
            p = self._below(level + 1, zs[0])
            own = randomness.seed_of(seed, level)
            noise = self._normal([n, self.n_latent[level]], own)
            zs = (p.mean() + p.stddev() * noise, *zs)
        return zs

    def mean(self, zs, context=None):
        mean = self._below(0, zs[0]).mean()
        return tf.reshape(mean, tf.concat([tf.shape(mean)[:-1], self.event_shape], 0))

    def sample(self, zs, seed, context=None):
        mean = self.mean(zs)
        scale = tf.exp(self.log_scales[0])
        return mean + scale * self._normal(tf.shape(mean), seed), mean

    def _normal(self, shape, seed):
        return tf.cast(randomness.normal(shape, seed), self.dtype)

    # The oracle: NumPy, float64.

    def _float64(self, level):
        parts = (self.maps, self.shifts, self.log_scales)
        return (np.asarray(part[level], np.float64) for part in parts)

    def moments(self, level):
        """Mean [d] and covariance [d, d] of zs[level]; level -1 is x."""
        if level == len(self.n_latent) - 1:
            d = self.n_latent[-1]
            return np.zeros(d), np.eye(d)
        mean, covariance = self.moments(level + 1)
        a_map, shift, log_scale = self._float64(level + 1)
        noise = np.exp(2 * log_scale) * np.eye(len(shift))
        return a_map @ mean + shift, a_map @ covariance @ a_map.T + noise

    def images(self, n, seed=0):
        """n images from p(x), float32 [n, height, width, channels]."""
        rng = np.random.default_rng(seed)
        x = rng.multivariate_normal(*self.moments(-1), size=n)
        return x.reshape(n, *self.event_shape).astype(np.float32)

    def log_evidence(self, x):
        """log p(x), [n], nats."""
        rows = np.reshape(np.asarray(x, np.float64), [len(x), -1])
        p = scipy.stats.multivariate_normal(*self.moments(-1))
        return np.atleast_1d(p.logpdf(rows))

    def posterior_moments(self, x, level=0):
        """Mean [n, d] and covariance [d, d] of p(zs[level] | x), by conditioning."""
        rows = np.reshape(np.asarray(x, np.float64), [len(x), -1])
        mean_x, covariance_x = self.moments(-1)
        mean_z, covariance_z = self.moments(level)
        x_from_z = np.eye(len(mean_x))
        for below in range(level + 1):
            x_from_z = x_from_z @ next(self._float64(below))
        cross = covariance_z @ x_from_z.T
        gain = np.linalg.solve(covariance_x, cross.T).T
        return mean_z + (rows - mean_x) @ gain.T, covariance_z - gain @ cross.T


def exact_posterior(generator, shift=0.0, stretch=1.0):
    """p(z|x) of a `LinearGaussian` as our own `GaussianChain` of linear heads.

    Args:
      generator: a `LinearGaussian`.
      shift: added to every mean, to make it inexact.
      stretch: multiplies every scale, to make it inexact.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(generator.dtype)
    try:
        q = GaussianChain([()] * len(generator.n_latent), generator.n_latent)
        for level, layer in enumerate(q.conditionals):
            below = generator.moments(level - 1)[0]
            layer(tf.zeros([1, len(below)], generator.dtype))
    finally:
        keras.config.set_dtype_policy(policy)
    for level, layer in enumerate(q.conditionals):
        # Bayes' rule for one Gaussian layer, whose own prior is its marginal.
        a_map, offset, log_scale = generator._float64(level)
        mean, covariance = generator.moments(level)
        noise = np.exp(2 * log_scale)
        precision = np.linalg.inv(covariance) + a_map.T @ a_map / noise
        variance = np.diag(1 / np.diag(precision))
        kernel = a_map @ variance / noise
        bias = variance @ np.linalg.inv(covariance) @ mean - offset @ kernel
        layer.loc.set_weights([kernel, bias + shift])
        log_scales = 0.5 * np.log(np.diag(variance)) + np.log(stretch)
        layer.log_scale.set_weights([np.zeros_like(kernel), log_scales])
    return q


@functools.cache
def pair(n_latent, shift=0.0, stretch=1.0):
    """A generator and its model; wide enough a q keeps the weights bounded."""
    generator = LinearGaussian(n_latent=n_latent)
    return generator, IWAE(exact_posterior(generator, shift, stretch), generator)


def weights_of(draws):
    """w~ in NumPy float64, [k, b]."""
    log_px, log_pz, log_qz = (np.float64(part) for part in draws[1:4])
    return scipy.special.softmax(log_px + log_pz - log_qz, axis=0)


def deviations(draws, generator, x):
    """For each layer: w~, z minus the true mean, and the true moments."""
    w = weights_of(draws)
    for level, z in enumerate(draws.zs):
        mean, covariance = generator.posterior_moments(x, level)
        yield w, np.float64(z) - mean, mean, covariance
