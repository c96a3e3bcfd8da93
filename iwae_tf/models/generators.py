"""Generators p(x, z), or p(x, z|y) of a conditional model.

`Generator` says what a generator of one's own must have. The context is y, [b, c], or
None.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.errors import UsageError
from iwae_tf.models import bernoulli, likelihoods, warps
from iwae_tf.models.masks import MaskModel
from iwae_tf.models.networks import MLP, LocScale, on_rows
from iwae_tf.models.parts import Part, check_one_a_layer
from iwae_tf.models.posteriors import beside, flatten

tfd = tfp.distributions


class Generator(Part):
    """What every generator has.

    A subclass of one's own needs the attribute `event_shape` and the methods
    `log_joint`, `sample_latents`, `mean` and `sample`.

    Attributes:
      event_shape: the shape of one x.
      likelihood: p(x|z) given parameters, which says what values x can have; None if
        any values will do. See `iwae_tf.likelihoods`.
      missing: whether entries of x may be missing, which is then NaN.
      mask_model: p(s|x), see `iwae_tf.models.masks`, or None.
    """

    event_shape: tuple[int, ...]
    likelihood: likelihoods.Likelihood | None = None
    missing = False
    mask_model: MaskModel | None = None

    def log_joint(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The two parts of log p(x, z): log p(x|z) and log p(z).

        Args:
          x: observations [b, *event_shape].
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c].

        Returns:
          log_px: [k, b], nats, summed over the entries of x.
          log_pz: [k, b], nats, summed over latents and layers.
        """
        raise NotImplementedError

    def sample_latents(
        self, n: int, seed: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Draws latents from the prior p(z).

        Args:
          n: number of draws.
          seed: random seed, [2].
          context: [n, c].

        Returns:
          zs: tuple of latents, bottom-up, each [n, d].
        """
        raise NotImplementedError

    def mean(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The mean of x given latents: E[x|z].

        Args:
          zs: tuple of latents, bottom-up, each [..., b, d].
          context: [b, c].

        Returns:
          mean: [..., b, *event_shape].
        """
        raise NotImplementedError

    def sample(
        self,
        zs: tuple[tf.Tensor, ...],
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws x given latents.

        Args:
          zs: tuple of latents, bottom-up, each [..., b, d].
          seed: random seed, [2].
          context: [b, c].

        Returns:
          samples: one draw from p(x|z) for each z, [..., b, *event_shape].
          mean: E[x|z], same shape.
        """
        raise NotImplementedError

    def factors(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> list[tfd.Distribution]:
        """The distribution of each latent given the one above it, bottom-up.

        The statistics of units, the closed-form KL and the objective gdreg need it.

        Args:
          zs: tuple of latents, bottom-up, each [..., b, d]; the first is not used.
          context: [b, c].

        Returns:
          factors: distributions of event [d]; the last is p(z) of the top layer.

        Raises:
          UsageError: if the generator has none.
        """
        raise UsageError(
            "generator: must have a method factors for units and for a closed-form "
            f"KL, got {type(self).__name__}"
        )

    @property
    def has_factors(self) -> bool:
        """Whether `factors` can be computed."""
        return type(self).factors is not Generator.factors


@keras.saving.register_keras_serializable(package="iwae_tf")
class Chain(Generator):
    """A chain of Gaussian layers under a likelihood: p(zL) ... p(z1|z2) p(x|z1).

    If there is a context, every layer sees it beside the layer above. The top layer
    sees it only if it has a network. A decoder of one's own, and a Gaussian p(x|z):

        z = keras.Input((10,))
        features = keras.layers.Dense(64, activation="relu")(z)
        decoder = keras.Model(z, features)
        p = Chain((8, 8, 1), n_latent=(10,), networks=[decoder], likelihood=Gaussian())

    Reference:
      Burda et al. 2016, section 2 and appendix, arXiv:1509.00519; Sohn et al. 2015,
      Learning structured output representation using deep conditional generative
      models, NeurIPS.
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
        mask_model: MaskModel | None = None,
    ):
        """Makes the network of the likelihood, and one for each conditional layer.

        Args:
          event_shape: the shape of one x, such as height, width and channels.
          widths: numbers of hidden units of each network, bottom-up: `widths[0]` is
            for the network of the likelihood.
          n_latent: latent size of each layer, bottom-up.
          output_bias: initial bias of the likelihood's parameters.
          prior_widths: numbers of hidden units of the network from the context to
            p(zL|y). If it is None, the top layer is standard normal.
          activation: nonlinearity after every hidden layer.
          networks: one network per layer, bottom-up, from rows [k b, d] to features, in
            place of those that widths and activation describe. The first is for the
            parameters of the likelihood.
          head: layer from the features of the first to these parameters, [...,
            n_parameters * n] for n entries, all of the first parameter first; by
            default it is linear. With `keras.layers.Identity()` the network gives them
            itself.
          likelihood: p(x|z) given these parameters; by default Bernoulli.
          missing: whether entries of x may be NaN, which are those that are missing.
          mask_model: p(s|x), which says what is observed if that depends on x, see
            `iwae_tf.models.masks`. Missing entries are then drawn from p(x|z), and its
            term is part of log p(x|z).

        Raises:
          UsageError: if there is not one network for each layer, there is a mask model
            and no entries are missing, or draws of the likelihood have no gradient.
        """
        super().__init__()
        check_one_a_layer(n_latent, widths, networks)
        self.event_shape = tuple(event_shape)
        self.n_latent = tuple(n_latent)
        self.likelihood = likelihood or likelihoods.Bernoulli()
        self.missing = missing
        n_entries = math.prod(event_shape)
        self.likelihood.build((n_entries,))
        self.mask_model = mask_model
        if mask_model is not None:
            _check_mask_model(missing, self.likelihood)
            mask_model.build((n_entries,))
        # One after another: initial weights depend on the order of the layers.
        networks = iter(networks or (MLP(w, activation) for w in widths))
        self.pixels = on_rows(next(networks))
        self._has_linear_head = head is None
        self.pixel_logits = head or keras.layers.Dense(
            self.likelihood.n_parameters * n_entries, bias_initializer=output_bias
        )
        self.conditionals = [
            self._layer(network, d)
            for network, d in zip(networks, n_latent[:-1], strict=True)
        ]
        self.top = (
            None
            if prior_widths is None
            else self._layer(MLP(prior_widths, activation), n_latent[-1])
        )

    def _layer(self, network, d):
        """The parameters of p of one layer, from a network."""
        return LocScale(network, d)

    def _sample(self, p, n, seed):
        """Draws from one layer, [n, d]; p is of batch [n], or of none."""
        noise = randomness.normal([1, n, p.event_shape[-1]], seed)
        return p.mean() + p.stddev() * tf.cast(noise[0], self.variable_dtype)

    def prior(self, context: tf.Tensor | None = None) -> tfd.Distribution:
        """p(z) of the top layer, event [d]: standard normal, or a Gaussian given y."""
        if self.top is None:
            zeros = tf.zeros(self.n_latent[-1], self.variable_dtype)
            return tfd.Independent(tfd.Normal(zeros, 1.0), 1)
        loc, scale = self.top(context)
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def conditional(
        self, level: int, above: tf.Tensor, context: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """p(z of this level | z of the level above), event [d]."""
        loc, scale = self.conditionals[level](beside(above, context))
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    def factors(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> list[tfd.Distribution]:
        """See `Generator.factors`."""
        between = [
            self.conditional(level, above, context)
            for level, above in enumerate(zs[1:])
        ]
        return [*between, self.prior(context)]

    def parameters(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Parameters of the likelihood, each [..., n], given latents [..., d]."""
        outputs = self.pixel_logits(self.pixels(beside(zs[0], context)))
        outputs = tf.cast(outputs, self.variable_dtype)
        n = self.likelihood.n_parameters
        size = n * math.prod(self.event_shape)
        if outputs.shape[-1] != size:
            raise UsageError(
                f"head: must give {size} numbers, {n} for each entry of x, got "
                f"{outputs.shape[-1]}"
            )
        return (outputs,) if n == 1 else tuple(tf.split(outputs, n, axis=-1))

    def log_px(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The log-likelihood of x given latents: log p(x|z).

        Args:
          x: observations [b, *event_shape]; NaN is missing if the generator has
            `missing`.
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c].
          seed: random seed of the missing entries, [2], if there is a mask model.

        Returns:
          log_px: [k, b], nats, summed over the entries that were observed; with a mask
            model, plus log p(s|x).

        Raises:
          UsageError: if there is a mask model and no seed.
        """
        x = flatten(x)
        observed = ~tf.math.is_nan(x) if self.missing else None
        if self._is_linear_bernoulli:
            features = self.pixels(beside(zs[0], context))
            head = map(tf.convert_to_tensor, self.pixel_logits.variables)
            return bernoulli.linear_bernoulli_log_prob(x, features, *head, observed)
        parameters = self.parameters(zs, context)
        log_px = self.likelihood.log_prob(x, parameters, observed)
        if self.mask_model is not None:
            complete = self._completed(x, parameters, seed)
            log_px += self.mask_model.log_prob(observed, complete)
        return log_px

    @property
    def _is_linear_bernoulli(self):
        return (
            type(self.likelihood) is likelihoods.Bernoulli
            and self._has_linear_head
            and self.pixel_logits.built
            and self.mask_model is None
            and self.compute_dtype == self.variable_dtype
        )

    def complete(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draws the missing entries from p(x|z).

        Args:
          x: observations [b, *event_shape] with NaN for missing entries.
          zs: tuple of latents, bottom-up, each [k, b, d].
          seed: random seed, [2].
          context: [b, c].

        Returns:
          complete: [k, b, *event_shape], the same as x where it was observed.
        """
        flat = self._completed(flatten(x), self.parameters(zs, context), seed)
        return _with_shape(flat, self.event_shape)

    def _completed(self, x, parameters, seed):
        if seed is None:
            raise UsageError(
                "mask_model: goes with draws from q(z|x) only, for which missing "
                "entries are drawn too, got given latents; objectives that need none "
                "are vae_elbo, iwae_elbo, iwae_eq14, miwae, piwae and combination"
            )
        drawn = self.likelihood.sample(parameters, seed)
        return tf.where(tf.math.is_nan(x), drawn, x)

    def log_joint(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The two parts of log p(x, z): log p(x|z) and log p(z).

        Args:
          x: observations [b, *event_shape].
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c].
          seed: see `log_px`.

        Returns:
          log_px: [k, b], nats, see `log_px`.
          log_pz: [k, b], nats, summed over latents and layers.
        """
        factors = self.factors(zs, context)
        log_pz = sum(p.log_prob(z) for p, z in zip(factors, zs, strict=True))
        return self.log_px(x, zs, context, seed), log_pz

    def sample_latents(
        self, n: int, seed: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """See `Generator.sample_latents`."""
        zs = ()
        if context is not None:
            context = tf.cast(context, self.variable_dtype)
        for level in reversed(range(len(self.n_latent))):
            p = self.conditional(level, zs[0], context) if zs else self.prior(context)
            zs = (self._sample(p, n, randomness.seed_of(seed, level)), *zs)
        return zs

    def mean(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """See `Generator.mean`."""
        mean = self.likelihood.mean(self.parameters(zs, context))
        return _with_shape(mean, self.event_shape)

    def sample(
        self,
        zs: tuple[tf.Tensor, ...],
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Generator.sample`."""
        parameters = self.parameters(zs, context)
        samples = self.likelihood.sample(parameters, seed)
        mean = self.likelihood.mean(parameters)
        return tuple(_with_shape(part, self.event_shape) for part in (samples, mean))


@keras.saving.register_keras_serializable(package="iwae_tf")
class WarpedBernoulli(Chain):
    """An upright Bernoulli image given z, which a spatial transformer places by u.

    The latent [z, u] is standard normal. Its last part, u, gives the parameters of the
    warp, theta = W u + b. The warp is the identity if W u is 0, and W starts at 0. The
    probability that a pixel is on is a weighted average over four upright pixels.

    Reference:
      Jaderberg et al. 2015, arXiv:1506.02025.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[int],
        n_latent: int,
        n_placing: int,
        warp: str,
        activation: str = "tanh",
        missing: bool = False,
    ):
        """Makes the pixel network and W.

        Args:
          image_shape: height, width, channels.
          widths: numbers of hidden units of the pixel network.
          n_latent: size of z and u together.
          n_placing: size of u.
          warp: `affine` or `spline`, see `iwae_tf.models.warps`.
          activation: nonlinearity after every hidden layer.
          missing: see `Chain`.
        """
        super().__init__(
            image_shape, [widths], [n_latent], activation=activation, missing=missing
        )
        self.n_placing = n_placing
        self._grid, self._shape, identity = {
            "affine": (warps.affine_grid, (2, 3), np.eye(2, 3)),
            "spline": (warps.thin_plate_grid, (9, 2), warps.control_points()),
        }[warp]
        self.placing = keras.layers.Dense(
            identity.size,
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(identity.ravel()),
        )

    def parameters(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Logits of the upright pixels, ([..., n],), given latents [..., d]."""
        return super().parameters((zs[0][..., : -self.n_placing],), context)

    def grid(self, zs: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Where pixels are read, [..., height, width, 2], given latents [..., d]."""
        theta = self.placing(zs[0][..., -self.n_placing :])
        theta = tf.cast(theta, self.variable_dtype)
        return self._grid(_with_shape(theta, self._shape), *self.event_shape[:2])

    def log_px(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """See `Chain.log_px`; NaN for images that are not binary.

        For a pixel that is on, four probabilities of being on are averaged; for one
        that is off, four of being off. So each pixel needs only one logarithm.
        """
        places, weights = warps.corners(self.grid(zs), *self.event_shape[:2])
        (logits,) = self.parameters(zs, context)
        upright = _with_shape(logits, self.event_shape)
        sign = 2 * x - 1
        if self.missing:
            is_missing = tf.math.is_nan(x)
            sign = tf.where(is_missing, 1.0, sign)
        log_px = bernoulli.log_average_sigmoid(
            tuple(w[..., tf.newaxis] for w in weights),
            tuple(sign * warps.at(upright, place) for place in places),
        )
        is_binary = tf.reduce_all(tf.abs(sign) == 1)
        log_px += tf.where(is_binary, 0.0, math.nan)
        if self.missing:
            log_px = tf.where(is_missing, 0.0, log_px)
        return tf.reduce_sum(log_px, axis=[-3, -2, -1])

    def mean(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """See `Generator.mean`: the upright image, warped."""
        return warps.bilinear_sample(self.upright_image(zs, context), self.grid(zs))

    def sample(
        self,
        zs: tuple[tf.Tensor, ...],
        seed: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Generator.sample`."""
        mean = self.mean(zs, context)
        noise = tf.cast(randomness.uniform(tf.shape(mean), seed), mean.dtype)
        return tf.cast(noise < mean, mean.dtype), mean

    def upright_image(
        self, zs: tuple[tf.Tensor, ...], context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """E[x|z] before the warp, [..., b, height, width, channels]."""
        return super().mean(zs, context)


def seed_of_missing(seed: int | tf.Tensor) -> tf.Tensor:
    """The seed of the missing entries among the draws of a seed, [2]."""
    return randomness.seed_of(seed, -2)


def noise_of_missing(generator, seed: int | tf.Tensor) -> dict[str, tf.Tensor]:
    """The argument of `log_px` of draws of a seed, if missing entries are drawn too."""
    if getattr(generator, "mask_model", None) is None:
        return {}
    return {"seed": seed_of_missing(seed)}


def _check_mask_model(missing, likelihood):
    if not missing:
        raise UsageError("mask_model: goes with missing entries only, got none missing")
    if not likelihood.is_reparameterised:
        raise UsageError(
            "mask_model: needs a likelihood whose draws have a gradient, got "
            f"{type(likelihood).__name__}"
        )


def _with_shape(flat, shape):
    """Reshapes the last axis of [..., n] to a shape of n entries."""
    return tf.reshape(flat, tf.concat([tf.shape(flat)[:-1], shape], axis=0))
