"""Approximate posteriors q(z|x), or q(z|x, y) of a conditional model.

`Posterior` says what a posterior of one's own must have. The context is y, [b, c], or
None.
"""

import math
from collections.abc import Sequence
from functools import partial

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.models.flows import InverseAutoregressiveFlow
from iwae_tf.models.networks import MLP, LocScale
from iwae_tf.models.parts import Part, check_one_a_layer, precision

tfd = tfp.distributions


class Posterior(Part):
    """What every posterior has; a subclass of one's own needs `draw` and `mean`.

    A latent that is drawn must depend on the parameters and the noise in a way that can
    be differentiated, unless `is_reparameterised` is False.

    Attributes:
      n_latent: latent size of each layer, bottom-up.
      n_flows: number of flow steps that the latents go through, by default 0. If there
        are any, q has no `factors` and no `log_prob`.
      is_reparameterised: whether latents depend on the parameters in a way that can be
        differentiated.
      has_slopes: whether the gradient of log q(z|x) in a z that was drawn is known.
    """

    n_latent: tuple[int, ...]
    n_flows = 0
    is_reparameterised = True
    has_slopes = True

    def entries(self, x: tf.Tensor) -> tf.Tensor:
        """The rows [b, n] of x [b, ...] that the first network sees."""
        return flatten(x)

    def draw(
        self,
        x: tf.Tensor,
        k: int,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """Draws k samples per observation.

        Args:
          x: observations [b, ...].
          k: number of samples per observation.
          seed: random seed, [2]; `iwae_tf.randomness` makes noise of it.
          context: [b, c].

        Returns:
          zs: tuple of latents, bottom-up, each [k, b, d].
          log_qz: [k, b], nats.
        """
        raise NotImplementedError

    def mean(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """The mean of each layer, given the mean of the layer below.

        Args:
          x: observations [b, ...].
          context: [b, c].

        Returns:
          zs: tuple of latents, bottom-up, each [1, b, d], like one sample.
        """
        raise NotImplementedError

    def factors(
        self,
        zs: tuple[tf.Tensor, ...],
        x: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> list[tfd.Distribution]:
        """The distribution of each latent given the one below it, bottom-up.

        Path-only objectives, the statistics of units and `encode` need it.

        Args:
          zs: tuple of latents, bottom-up, each [k, b, d]; the last is not used.
          x: observations [b, ...].
          context: [b, c].

        Returns:
          factors: distributions of event [d]; batch [b] for the first, else [k, b].

        Raises:
          UsageError: if the posterior has none.
        """
        raise UsageError(
            "posterior: must have a method factors for the density of given latents "
            f"and for units, got {type(self).__name__}"
        )

    @property
    def has_factors(self) -> bool:
        """Whether `factors` and `log_prob` can be computed."""
        is_own = type(self).factors is not Posterior.factors
        return is_own and not self.n_flows

    def log_prob(
        self,
        zs: tuple[tf.Tensor, ...],
        x: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The log density of given latents: log q(z|x), summed over layers.

        Args:
          zs: tuple of latents, bottom-up, each [k, b, d].
          x: observations [b, ...].
          context: [b, c].

        Returns:
          log_qz: [k, b], nats.
        """
        factors = self.factors(zs, x, context)
        return sum(q.log_prob(z) for q, z in zip(factors, zs, strict=True))


class Layered(Posterior):
    """A chain of layers, each of which sees the one below: q(z1|x) q(z2|z1) ...

    A subclass needs `conditional` and `sample`.

    Attributes:
      inputs: layer from x [b, ...] to rows [b, n], or None to flatten x.
    """

    inputs: keras.layers.Layer | None

    def _make(self, layer, widths, n_latent, activation, networks, inputs):
        """Makes the layers, each by `layer` of a network and a latent size."""
        check_one_a_layer(n_latent, widths, networks)
        self.inputs = inputs
        # One after another: initial weights depend on the order of the layers.
        networks = networks or (MLP(w, activation) for w in widths)
        self.conditionals = [
            layer(network, d) for network, d in zip(networks, n_latent, strict=True)
        ]
        self.n_latent = tuple(n_latent)

    def entries(self, x: tf.Tensor) -> tf.Tensor:
        """See `Posterior.entries`."""
        return flatten(x) if self.inputs is None else self.inputs(x)

    def conditional(
        self, level: int, below: tf.Tensor, context: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """q(z | the layer below), event [d].

        Args:
          level: 0 is the layer nearest to the pixels.
          below: `entries` [b, n] of x for level 0, else z of the layer below [k, b, d].
          context: [b, c].
        """
        raise NotImplementedError

    def sample(self, q: tfd.Distribution, k: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws from one layer, [k, b, d].

        Args:
          q: what `conditional` returns, of batch [b] or [k, b].
          k: number of draws per observation.
          seed: random seed, [2].
        """
        raise NotImplementedError

    def draw(
        self,
        x: tf.Tensor,
        k: int,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """See `Posterior.draw`."""
        below, zs, log_qz = self.entries(x), (), 0.0
        for level in range(len(self.n_latent)):
            q = self.conditional(level, below, context)
            z = self.sample(q, k, randomness.seed_of(seed, level))
            log_qz += q.log_prob(z)
            zs += (z,)
            below = z
        return zs, log_qz

    def mean(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """See `Posterior.mean`."""
        below, zs = self.entries(x), ()
        for level, d in enumerate(self.n_latent):
            mean = self.conditional(level, below, context).mean()
            below = tf.reshape(mean, [1, tf.shape(x)[0], d])
            zs += (below,)
        return zs

    def factors(
        self,
        zs: tuple[tf.Tensor, ...],
        x: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> list[tfd.Distribution]:
        """See `Posterior.factors`."""
        belows = (self.entries(x), *zs[:-1])
        return [
            self.conditional(level, below, context)
            for level, below in enumerate(belows)
        ]


@keras.saving.register_keras_serializable(package="iwae_tf")
class GaussianChain(Layered):
    """A chain of Gaussian layers: q(z1|x) q(z2|z1) ... q(zL|zL-1).

    If there is a context, every layer sees it beside the layer below. A convolutional
    encoder, for images of 8x8 pixels:

        encoder = keras.Sequential([
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
        ])
        q = GaussianChain(n_latent=(10,), networks=[encoder])

    Reference:
      Burda et al. 2016, section 2 and appendix, arXiv:1509.00519.
    """

    def __init__(
        self,
        widths: Sequence[Sequence[int]] = (),
        n_latent: Sequence[int] = (),
        activation: str = "tanh",
        n_bounded: int = 0,
        networks: Sequence[keras.layers.Layer] | None = None,
        inputs: keras.layers.Layer | None = None,
    ):
        """Makes one network per stochastic layer, bottom-up.

        Args:
          widths: numbers of hidden units of each layer's network.
          n_latent: latent size of each layer.
          activation: nonlinearity after every hidden layer.
          n_bounded: number of means of each layer, counted from the last, that go
            through tanh.
          networks: one network per layer, from rows to features, in place of those
            that widths and activation describe. The first sees x as rows [b, n], and
            the others latents as rows [k b, d].
          inputs: layer from x [b, ...] to the rows [b, n] that the first network sees,
            such as `iwae_tf.models.networks.Filled`; by default x is flattened.

        Raises:
          UsageError: if there is not one network for each layer.
        """
        super().__init__()
        layer = partial(LocScale, n_bounded=n_bounded)
        self._make(layer, widths, n_latent, activation, networks, inputs)

    def conditional(
        self, level: int, below: tf.Tensor, context: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """See `Layered.conditional`: a Gaussian."""
        loc, scale = self.conditionals[level](beside(below, context))
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def sample(self, q: tfd.Distribution, k: int, seed: tf.Tensor) -> tf.Tensor:
        """See `Layered.sample`."""
        return reparameterised(q, k, seed)


@keras.saving.register_keras_serializable(package="iwae_tf")
class FlowPosterior(GaussianChain):
    """A Gaussian q(z0|x) and an inverse autoregressive flow from z0 to z.

    The flow also sees features of x. The density of a z that was not drawn here would
    need the inverse of the flow, entry by entry, and is refused. The slope of the
    density at a z that was drawn here does not: `density_of_drawn` has it.

    Attributes:
      n_flows: number of flow steps.

    Reference:
      Kingma et al. 2016, algorithm 1, arXiv:1606.04934.
    """

    def __init__(
        self,
        network: keras.layers.Layer,
        d: int,
        n_flows: int,
        widths: Sequence[int],
        n_features: int,
        normalisation: str = "none",
        n_bounded: int = 0,
        inputs: keras.layers.Layer | None = None,
    ):
        """Makes the flow.

        Args:
          network: network from `entries` [b, n] of x to features.
          d: latent size.
          n_flows: number of flow steps.
          widths: numbers of hidden units of each step's network.
          n_features: number of features of x that each step sees.
          normalisation: see `iwae_tf.models.networks.MaskedDense`.
          n_bounded: number of means of q(z0|x), counted from the last, that go through
            tanh.
          inputs: see `GaussianChain`.
        """
        super().__init__(
            n_latent=[d], n_bounded=n_bounded, networks=[network], inputs=inputs
        )
        self.n_flows = n_flows
        self.has_slopes = normalisation != "batch"
        self.features = keras.layers.Dense(n_features, activation="elu")
        with precision(self.variable_dtype):
            self.flow = InverseAutoregressiveFlow(
                d, n_flows, widths, n_features, normalisation
            )

    def draw(
        self,
        x: tf.Tensor,
        k: int,
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """See `Posterior.draw`; without flow steps the latents are the same."""
        q, z0, features = self._base(x, k, seed, context)
        z, log_det = self.flow.forward_and_log_det(z0, features)
        return (z,), q.log_prob(z0) - log_det

    def density_of_drawn(
        self,
        x: tf.Tensor,
        k: int,
        seed: tf.Tensor,
        context: tf.Tensor | None,
        tape: tf.GradientTape,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The density of what `draw` gives for the same arguments, and its slope.

        Args:
          x: observations [b, ...].
          k: number of samples per observation.
          seed: random seed, [2].
          context: [b, c], or None.
          tape: a tape that records the network of x, which may add to the loss, and
            does not record the flow.

        Returns:
          log_qz: [k, b], nats.
          slope: gradient of log q(z|x) in z at fixed parameters, [k, b, d].
        """
        q, z0, features = self._base(x, k, seed, context)
        with tape.stop_recording():
            slope = (q.mean() - z0) / tf.square(q.stddev())
            log_det, slope = self.flow.log_det_and_slope(z0, slope, features)
            return q.log_prob(z0) - log_det, slope

    def mean(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """The mean of q(z0|x) after the flow, ([1, b, d],)."""
        loc, _, features = self._head(x, context)
        z, _ = self.flow.forward_and_log_det(loc[tf.newaxis], features)
        return (z,)

    def build(self, input_shape):
        """Tells Keras that the head and the flow are built; they are never called."""
        for part in (*self.conditionals, self.flow):
            part.build(input_shape)

    def features_of(self, x: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """Features [b, n] of observations [b, ...] that the flow sees."""
        (head,) = self.conditionals
        features = head.mlp(beside(self.entries(x), context))
        return self._seen_by_flow(features)

    def _head(self, x, context):
        """The mean and scale of q(z0|x), and the features that the flow sees."""
        (head,) = self.conditionals
        features = head.mlp(beside(self.entries(x), context))
        return *head.of_features(features), self._seen_by_flow(features)

    def _seen_by_flow(self, features):
        return tf.cast(self.features(features), self.variable_dtype)

    def _base(self, x, k, seed, context):
        loc, scale, features = self._head(x, context)
        q = tfd.Independent(tfd.Normal(loc, scale), 1)
        z = reparameterised(q, k, randomness.seed_of(seed, 0))
        return q, z, features

    def initialise(
        self, x: tf.Tensor, seed: tf.Tensor, context: tf.Tensor | None = None
    ) -> None:
        """Initialises weight-normalised layers of the flow by a batch.

        Args:
          x: observations [b, ...].
          seed: random seed, [2].
          context: [b, c].
        """
        x = tf.cast(x, self.variable_dtype)
        _, z, features = self._base(x, 1, seed, context)
        self.flow.initialise(z, features)

    def factors(self, zs, x, context=None):
        """Raises an error: the entries of z depend on one another.

        Raises:
          UsageError: always.
        """
        raise UsageError(
            "posterior: must be without flows for the distribution of one unit, got "
            f"{self.n_flows} flows"
        )

    def log_prob(self, zs, x, context=None):
        """Raises an error: the density would need the inverse of the flow.

        Raises:
          UsageError: always.
        """
        raise UsageError(
            "posterior: must be without flows for the density of given latents, got "
            f"{self.n_flows} flows; use an objective whose gradient is total or path"
        )


def reparameterised(q: tfd.Distribution, k: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws from one layer: mean + standard deviation * noise, [k, b, d].

    Args:
      q: Gaussian with means [b, d] or [k, b, d].
      k: number of draws per observation.
      seed: random seed, [2].
    """
    mean = q.mean()
    shape = [k, tf.shape(mean)[-2], mean.shape[-1]]
    noise = tf.cast(randomness.normal(shape, seed), mean.dtype)
    return mean + q.stddev() * noise


def beside(features: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
    """Features [..., b, d] with the context [b, c] appended: [..., b, d + c]."""
    if context is None:
        return features
    context = tf.cast(context, features.dtype)
    shape = tf.concat([tf.shape(features)[:-1], tf.shape(context)[-1:]], axis=0)
    return tf.concat([features, tf.broadcast_to(context, shape)], axis=-1)


def flatten(x: tf.Tensor) -> tf.Tensor:
    """Observations [b, ...] as rows [b, n]."""
    return tf.reshape(x, [tf.shape(x)[0], math.prod(x.shape[1:])])
