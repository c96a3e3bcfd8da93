"""A factor analysis of the library's own parts, whose missing entries are known.

    p(z) = N(0, I)
    p(x | z) = N(W z + b, s^2 I)

The generator is a `Chain` without hidden layers under a `Gaussian` of fixed scale, and
q(z|x) is a `GaussianChain` of linear heads that sees b in place of missing entries. The
oracle is NumPy float64: any entries of x are jointly Gaussian, so their marginals and
conditionals have closed forms.
"""

import math

import numpy as np
import scipy.stats

from iwae_tf.models.generators import Chain
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.likelihoods import Gaussian
from iwae_tf.models.networks import Filled
from iwae_tf.models.posteriors import GaussianChain


class FactorAnalysis:
    """The model, and what is known of it; rows of x are flat, with NaN for missing."""

    def __init__(
        self, event_shape=(5,), d=2, scale=0.7, missing=True, mask_model=None, seed=0
    ):
        rng = np.random.default_rng(seed)
        self.event_shape, self.n = tuple(event_shape), math.prod(event_shape)
        # As the float32 variables have them.
        self.map = np.float64(np.float32(rng.normal(size=(self.n, d))))
        self.shift = np.float64(np.float32(rng.normal(size=self.n)))
        self.scale = scale
        fill = self.shift.reshape(self.event_shape)
        self.generator = Chain(
            self.event_shape,
            [()],
            [d],
            likelihood=Gaussian(scale),
            missing=missing,
            mask_model=mask_model,
        )
        inputs = Filled(fill) if missing else None
        self.model = IWAE(GaussianChain([()], [d], inputs=inputs), self.generator)
        self.generator.pixel_logits.set_weights([self.map.T, self.shift])
        self.set_posterior()

    def set_posterior(self, observed=None, stretch=1.0):
        """Makes q(z|x) that of rows with these entries observed, or wide for all rows.

        Args:
          observed: bool [n]; the means and the standard deviations are then exact.
          stretch: multiplies the standard deviations. A posterior of two latents has
            bounded weights if this is above the root of 2.
        """
        if observed is None:  # No posterior is wider than the prior.
            seen, scales = np.ones(self.n, bool), np.full(self.map.shape[1], 1.1)
        else:
            seen = np.asarray(observed)
            scales = stretch * np.sqrt(np.diag(self._covariance_of_latent(seen)))
        kernel = np.zeros_like(self.map)
        kernel[seen] = self.map[seen] @ self._covariance_of_latent(seen) / self.scale**2
        (layer,) = self.model.posterior.conditionals
        layer.loc.set_weights([kernel, -self.shift @ kernel])
        layer.log_scale.set_weights([np.zeros_like(kernel), np.log(scales)])

    def rows(self, observed, seed=1):
        """Draws of x, float32 [b, *event_shape], with NaN where it is not observed."""
        observed = np.asarray(observed, bool)
        rng = np.random.default_rng(seed)
        x = rng.multivariate_normal(*self.moments(), size=len(observed))
        x = np.where(observed, x, np.nan).astype(np.float32)
        return x.reshape(-1, *self.event_shape)

    # The oracle.

    def _covariance_of_latent(self, seen):
        a = self.map[seen]
        return np.linalg.inv(np.eye(a.shape[1]) + a.T @ a / self.scale**2)

    def moments(self):
        """Mean [n] and covariance [n, n] of x."""
        noise = self.scale**2 * np.eye(self.n)
        return self.shift, self.map @ self.map.T + noise

    def log_evidence(self, x):
        """The log density of the observed entries of each row, [b], nats."""
        mean, covariance = self.moments()
        values = []
        for row in np.float64(x).reshape(len(x), -1):
            seen = ~np.isnan(row)
            of_seen = mean[seen], covariance[seen][:, seen]
            values.append(
                scipy.stats.multivariate_normal(*of_seen).logpdf(row[seen])
                if seen.any()
                else 0.0
            )
        return np.array(values)

    def given_observed(self, row):
        """Mean [n] and covariance [n, n] of x given the observed entries of one row."""
        row = np.float64(row).ravel()
        seen = ~np.isnan(row)
        mean, covariance = self.moments()
        if not seen.any():
            return mean, covariance
        cross = covariance[:, seen]
        gain = np.linalg.solve(covariance[seen][:, seen], cross.T).T
        return mean + gain @ (row - mean)[seen], covariance - gain @ cross.T

    def latent_given_observed(self, row):
        """Mean [d] and covariance [d, d] of z given the observed entries of one row."""
        row = np.float64(row).ravel()
        seen = ~np.isnan(row)
        covariance = self._covariance_of_latent(seen)
        away = (row - self.shift)[seen]
        return covariance @ self.map[seen].T @ away / self.scale**2, covariance
