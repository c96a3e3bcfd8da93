"""Binary latents, which are 0 or 1: a posterior, and sigmoid belief networks.

They have no reparameterisation, so they need an objective that does without one: a row
of `iwae_tf.objectives` whose `phi_gradient` is `score` or `sleep`.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.models import likelihoods
from iwae_tf.models.generators import Chain
from iwae_tf.models.networks import on_rows
from iwae_tf.models.posteriors import Layered, beside

tfd = tfp.distributions


class Logits(keras.layers.Layer):
    """The logits of independent binary units: a network and a linear head."""

    def __init__(self, network: keras.layers.Layer, d: int):
        """Makes the head.

        Args:
          network: maps [..., d_in], or rows [n, d_in], to features.
          d: number of units.
        """
        super().__init__()
        self.mlp = on_rows(network)
        self.head = keras.layers.Dense(d)

    def call(self, inputs):
        """Maps [..., d_in] to [..., d]."""
        return keras.ops.cast(self.head(self.mlp(inputs)), self.variable_dtype)


@keras.saving.register_keras_serializable(package="iwae_tf")
class BernoulliChain(Layered):
    """A chain of layers of binary units: q(z1|x) q(z2|z1) ... q(zL|zL-1).

    Units of a layer are independent of one another given the layer below. If there is a
    context, every layer sees it beside the layer below. `mean` has the probabilities
    that units are 1, each given the probabilities of the layer below.

    Reference:
      Mnih and Gregor 2014, arXiv:1402.0030.
    """

    is_reparameterised = False

    def __init__(
        self,
        widths: Sequence[Sequence[int]] = (),
        n_latent: Sequence[int] = (),
        activation: str = "tanh",
        networks: Sequence[keras.layers.Layer] | None = None,
        inputs: keras.layers.Layer | None = None,
    ):
        """Makes one network per stochastic layer, bottom-up.

        Args:
          widths: numbers of hidden units of each layer's network; with () for each, as
            in a sigmoid belief network, logits are linear in the layer below.
          n_latent: number of units of each layer.
          activation: nonlinearity after every hidden layer.
          networks: see `iwae_tf.posteriors.GaussianChain`.
          inputs: see `iwae_tf.posteriors.GaussianChain`.

        Raises:
          UsageError: if there is not one network for each layer.
        """
        super().__init__()
        self._make(Logits, widths, n_latent, activation, networks, inputs)

    def conditional(
        self, level: int, below: tf.Tensor, context: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """See `iwae_tf.posteriors.Layered.conditional`: independent Bernoullis."""
        return bernoulli(self.conditionals[level](beside(below, context)))

    def sample(self, q: tfd.Distribution, k: int, seed: tf.Tensor) -> tf.Tensor:
        """See `iwae_tf.posteriors.Layered.sample`."""
        probabilities = q.mean()
        shape = [k, tf.shape(probabilities)[-2], probabilities.shape[-1]]
        return _drawn(probabilities, randomness.uniform(shape, seed))


@keras.saving.register_keras_serializable(package="iwae_tf")
class BeliefNetwork(Chain):
    """Layers of binary units under a likelihood: p(zL) ... p(z1|z2) p(x|z1).

    Units of a layer are independent of one another given the layer above, and those of
    the top layer have a trained probability each. It is a sigmoid belief network if
    logits are linear in the layer above, as by default, and p(x|z1) is Bernoulli. A
    context counts as in `Chain`.

    Reference:
      Neal 1992, Connectionist learning of belief networks, Artificial Intelligence 56;
      Mnih and Gregor 2014, arXiv:1402.0030.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        widths: Sequence[Sequence[int]] = (),
        n_latent: Sequence[int] = (),
        output_bias: str | keras.initializers.Initializer = "zeros",
        prior_widths: Sequence[int] | None = None,
        activation: str = "tanh",
        networks: Sequence[keras.layers.Layer] | None = None,
        head: keras.layers.Layer | None = None,
        likelihood: likelihoods.Likelihood | None = None,
        missing: bool = False,
    ):
        """Makes the network of the likelihood, and one for each layer below the top.

        Args:
          event_shape: the shape of one x, such as height, width and channels.
          widths: numbers of hidden units of each network, bottom-up; () for none.
          n_latent: number of units of each layer, bottom-up.
          output_bias: initial bias of the likelihood's parameters.
          prior_widths: numbers of hidden units of the network from the context to the
            logits of p(zL|y). If it is None, the top layer does not see the context.
          activation: nonlinearity after every hidden layer.
          networks: see `Chain`.
          head: see `Chain`.
          likelihood: p(x|z1) given its parameters; by default Bernoulli.
          missing: see `Chain`.

        Raises:
          UsageError: if there is not one network for each layer.
        """
        super().__init__(
            event_shape,
            widths,
            n_latent,
            output_bias,
            prior_widths,
            activation,
            networks,
            head,
            likelihood,
            missing,
        )
        if prior_widths is None:
            self.top_logits = self.add_weight(
                shape=(n_latent[-1],), initializer="zeros", name="top_logits"
            )

    def _layer(self, network, d):
        return Logits(network, d)

    def _sample(self, p, n, seed):
        noise = randomness.uniform([1, n, p.event_shape[-1]], seed)
        return _drawn(p.mean(), noise[0])

    def prior(self, context: tf.Tensor | None = None) -> tfd.Distribution:
        """p(z) of the top layer, event [d]: with trained logits, or with those of y."""
        if self.top is None:
            return bernoulli(tf.convert_to_tensor(self.top_logits))
        return bernoulli(self.top(context))

    def conditional(
        self, level: int, above: tf.Tensor, context: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """p(z of this level | z of the level above), event [d]."""
        return bernoulli(self.conditionals[level](beside(above, context)))


def bernoulli(logits: tf.Tensor) -> tfd.Distribution:
    """Independent binary units, which are floats 0 and 1, of event [d].

    Args:
      logits: [..., d].
    """
    return tfd.Independent(tfd.Bernoulli(logits=logits, dtype=logits.dtype), 1)


def _drawn(probabilities, uniform):
    """Units that are 1 with these probabilities, given uniform noise."""
    drawn = tf.cast(uniform, probabilities.dtype) < probabilities
    return tf.cast(drawn, probabilities.dtype)
