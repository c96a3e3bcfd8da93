"""The Keras model of a posterior and a generator."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import data, randomness
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.models import networks
from iwae_tf.models.posteriors import flatten
from iwae_tf.objectives import (
    Objective,
    iwae_elbo,
    row,
    vae_elbo,
    value_and_gradients,
)
from iwae_tf.rules import check_objective

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras: must run on TensorFlow, got the backend "
        f"{keras.backend.backend()!r}; import iwae_tf before keras"
    )


class IWAE(keras.Model):
    """An importance weighted autoencoder.

    `fit`, `evaluate` and `predict` work as in Keras. `fit(x)` takes images
    [n, height, width, channels] with values in {0, 1}. A conditional model is one of
    log p(x|y); it takes `fit(x, y)` with contexts y [n, c], and `predict((x, y))`.

    Attributes:
      n_context: c, the size of a context; 0 for a model without contexts.
      train_samples: number of samples per image and group in a training step.
      first_bad_step: the first optimizer step, counted from 0, whose loss was not
        finite; -1 if there was none.

    Reference:
      Burda et al. 2016, arXiv:1509.00519.
    """

    def __init__(self, posterior, generator, seed: int = 123, n_context: int = 0):
        """Builds the networks' variables.

        Args:
          posterior: q(z|x), see `iwae_tf.posteriors`.
          generator: p(x, z), see `iwae_tf.generators`.
          seed: random seed for all noise in training and testing.
          n_context: size of the contexts of a conditional model; 0 for other models.
        """
        super().__init__()
        self.posterior = posterior
        self.generator = generator
        self.seed = seed
        self.n_context = n_context
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in (
                "loss",
                "bound",
                "vae_elbo",
                "iwae_elbo",
                "log_px",
                "log_pz",
                "log_qz",
            )
        }
        x = tf.zeros([1, *generator.image_shape])
        self((x, tf.zeros([1, n_context])) if n_context else x)

    def build(self, input_shape):
        """Makes the variables of both parts, when the constructor calls the model.

        The parts themselves are never called: a draw passes through all their networks.

        Args:
          input_shape: shape of the images, or shapes of the images and the contexts.
        """
        x = tf.zeros([1, *self.generator.image_shape])
        context = tf.zeros([1, self.n_context]) if self.n_context else None
        self.draw(x, 1, randomness.seed_of(self.seed), context)
        self.posterior.build(input_shape)
        self.generator.build(input_shape)

    def compile(
        self,
        optimizer="adam",
        objective: str | Objective = "iwae_elbo",
        n_samples: int = 50,
        beta: float = 1.0,
        warmup_steps: int = 0,
        n_groups: int = 1,
        combination_beta: float | None = None,
        jit_compile: bool = True,
        **kwargs,
    ):
        """Chooses what `fit` maximises.

        Args:
          optimizer: a Keras optimizer.
          objective: a name in `iwae_tf.objectives.table`, or your own row.
          n_samples: k, the number of samples per image; with groups, in each group.
          beta: weight of log p(z) - log q(z|x) in the loss; the bounds that are
            logged always have weight 1.
          warmup_steps: number of optimizer steps over which that weight rises from 0
            to beta.
          n_groups: m, the number of groups in `miwae` and `piwae`. They draw m k
            samples per image.
          combination_beta: weight of the ELBO in `combination`; the default is 0.5.
          jit_compile: whether XLA compiles the steps.
          **kwargs: arguments of `keras.Model.compile`, such as `steps_per_execution`.

        Raises:
          UsageError: for an unknown objective, an objective that this model cannot
            have, or a number out of range.
        """
        if isinstance(objective, str):
            objective = self._row(objective, n_groups, combination_beta)
        elif n_groups != 1 or combination_beta is not None:
            raise UsageError(
                "objective: must be a name if n_groups or combination_beta is given, "
                f"got a row of {objective.n_groups} groups"
            )
        check_at_least(1, n_samples=n_samples)
        check_at_least(0, warmup_steps=warmup_steps)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self.objective: Objective = objective
        self.n_samples = self.train_samples = n_samples
        self.beta = beta
        self.warmup_steps = warmup_steps
        self.optimizer.build(self.trainable_variables)
        self.first_bad_step = tf.Variable(-1, trainable=False, dtype=tf.int32)

    def train_with(self, n_samples: int) -> None:
        """Changes the number of samples in `fit`; `evaluate` keeps that of `compile`.

        Args:
          n_samples: k, the number of samples per image and group.
        """
        if n_samples != self.train_samples:
            self.train_samples = n_samples
            self.train_function = None  # so that Keras traces it again

    def fit(self, x=None, *args, **kwargs):
        """Trains the model as `keras.Model.fit` does.

        Raises:
          UsageError: for an array of images with values out of range, or for sample
            weights.
        """
        if isinstance(x, np.ndarray | tf.Tensor):
            limits = getattr(self.generator, "pixel_range", None)
            data.check_range(np.asarray(x), limits)
        _unpacked((x, None, kwargs.get("sample_weight")))
        return super().fit(x, *args, **kwargs)

    def _row(self, name, n_groups, combination_beta):
        found = row(name, n_groups, combination_beta)
        n_layers = len(self.posterior.n_latent)
        n_flows = self.posterior.n_flows
        check_objective(name, n_layers, n_groups, combination_beta, n_flows)
        return found

    @property
    def metrics(self):
        """Means over the images of an epoch, nats per image."""
        return list(self._means.values())

    def draw(
        self,
        x: tf.Tensor,
        k: int,
        seed: int | tf.Tensor,
        context: tf.Tensor | None = None,
        with_kl: bool = False,
    ) -> Draws:
        """Draws k latents per image and computes their log-weights.

        Args:
          x: images [b, height, width, channels].
          k: number of samples per image.
          seed: random seed, an integer or [2].
          context: [b, c], for a conditional model.
          with_kl: whether to fill in `kl`, for one stochastic layer only.

        Returns:
          draws: k samples for each of b images.

        Raises:
          UsageError: if the model needs images of another size, or another context.
        """
        x, context = self.inputs(x, context)
        zs, log_qz = self.posterior.draw(x, k, seed, context)
        log_px, log_pz = self.generator.log_joint(x, zs, context)
        kl = self.kl(x, context) if with_kl else None
        return Draws(zs, log_px, log_pz, log_qz, kl)

    def log_joint(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Computes log p(x, z) of given latents.

        Args:
          x: images [b, height, width, channels].
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c], for a conditional model.

        Returns:
          log_joint: [k, b], nats.

        Raises:
          UsageError: see `draw`.
        """
        x, context = self.inputs(x, context)
        log_px, log_pz = self.generator.log_joint(x, zs, context)
        return log_px + log_pz

    def weigh(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
    ) -> Draws:
        """Computes the log-weights of given latents.

        Args:
          x: images [b, height, width, channels].
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c], for a conditional model.

        Returns:
          draws: k samples for each of b images.

        Raises:
          UsageError: see `draw`.
        """
        x, context = self.inputs(x, context)
        log_px, log_pz = self.generator.log_joint(x, zs, context)
        return Draws(zs, log_px, log_pz, self.posterior.log_prob(zs, x, context))

    def inputs(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns images and contexts as float32; see `draw`.

        Raises:
          UsageError: if the model needs images of another size, or another context.
        """
        x = tf.cast(x, tf.float32)
        size = self.generator.image_shape
        if not x.shape.is_compatible_with([None, *size]):
            raise UsageError(f"x: must be of shape {['b', *size]}, got {x.shape}")
        return x, self._check_context(context, x.shape[0])

    def _check_context(self, context, n):
        if context is None and not self.n_context:
            return None
        shape = None if context is None else tf.convert_to_tensor(context).shape
        if (
            shape is None
            or not self.n_context
            or not shape.is_compatible_with([n, self.n_context])
        ):
            b = "b" if n is None else n
            rule = f"of shape [{b}, {self.n_context}]" if self.n_context else "None"
            raise UsageError(f"context: must be {rule} for this model, got {shape}")
        return tf.cast(context, tf.float32)

    def kl(self, x: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """Closed-form KL(q(z|x) || p(z)) of a model with one stochastic layer.

        Args:
          x: images [b, height, width, channels].
          context: [b, c], for a conditional model.

        Returns:
          kl: [b], nats.

        Raises:
          UsageError: if there are more layers, or flows; see `draw` too.
        """
        n_layers, n_flows = len(self.posterior.n_latent), self.posterior.n_flows
        if n_layers > 1 or n_flows:
            raise UsageError(
                "kl: has a closed form for one stochastic layer without flows only, "
                f"got {n_layers} layers, {n_flows} flows"
            )
        x, context = self.inputs(x, context)
        q = self.posterior.conditional(0, flatten(x), context)
        return tfp.distributions.kl_divergence(q, self.generator.prior(context))

    def call(self, inputs):
        """Reconstructs images, given alone or in a pair with contexts."""
        x, context = inputs if isinstance(inputs, tuple | list) else (inputs, None)
        seed = randomness.seed_of(self.seed, randomness.FIGURES)
        return self.reconstruct(x, seed, context)

    def reconstruct(
        self, x: tf.Tensor, seed: int | tf.Tensor, context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Computes E[x|z] for one z drawn from q(z|x).

        Args:
          x: images [b, height, width, channels].
          seed: random seed, an integer or [2].
          context: [b, c], for a conditional model.

        Returns:
          mean: pixel probabilities [b, height, width, channels].
        """
        x, context = self.inputs(x, context)
        zs, _ = self.posterior.draw(x, 1, seed, context)
        return self.generator.mean_image(zs, context)[0]

    def sample(
        self, n: int, seed: int | tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws images from the model.

        Args:
          n: number of images.
          seed: random seed, an integer or [2]. The same seed gives the same latent
            noise, whatever the weights of the model are.
          context: [n, c], for a conditional model.

        Returns:
          samples: binary images drawn from p(x|z), [n, height, width, channels].
          mean: pixel probabilities E[x|z] of the same latents, same shape.
        """
        context = self._check_context(context, n)
        zs = self.generator.sample_latents(n, seed, context)
        mean = self.generator.mean_image(zs, context)
        threshold = randomness.uniform(tf.shape(mean), randomness.seed_of(seed, -1))
        return tf.cast(threshold < mean, tf.float32), mean

    def train_step(self, data):
        """One optimizer step on a batch of images."""
        x, context = _unpacked(data)
        step = tf.cast(self.optimizer.iterations, tf.int32)
        with networks.training():
            loss, gradients, draws = value_and_gradients(
                self.objective,
                self,
                x,
                self.train_samples,
                randomness.seed_of(self.seed, randomness.TRAIN, step),
                self.beta_at(step),
                context,
            )
        is_first_bad = ~tf.math.is_finite(loss) & (self.first_bad_step < 0)
        self.first_bad_step.assign(tf.where(is_first_bad, step, self.first_bad_step))
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return self._log(loss, draws)

    def test_step(self, data):
        """Computes the bounds on a batch; the noise depends only on its place."""
        x, context = _unpacked(data)
        seed = randomness.seed_of(
            self.seed, randomness.TEST, self._means["bound"].count
        )
        n_samples = self.objective.n_groups * self.n_samples
        draws = self.draw(x, n_samples, seed, context, self.objective.needs_kl)
        beta = self.beta_at(self.optimizer.iterations)
        loss = -tf.reduce_mean(self.objective.bound(draws, beta))
        return self._log(loss, draws)

    def beta_at(self, step: tf.Tensor) -> float | tf.Tensor:
        """The weight of the latent part of the loss at an optimizer step."""
        if not self.warmup_steps:
            return self.beta
        return self.beta * tf.minimum(
            1.0, tf.cast(step, tf.float32) / self.warmup_steps
        )

    def _log(self, loss, draws):
        # Weighted by batch size, so that it is a mean over images like the others.
        self._means["loss"].update_state(loss, tf.shape(draws.log_px)[1])
        values = {
            "bound": self.objective.bound(draws, 1.0),
            "vae_elbo": vae_elbo(draws),
            "iwae_elbo": iwae_elbo(draws),
            "log_px": tf.reduce_mean(draws.log_px, axis=0),
            "log_pz": tf.reduce_mean(draws.log_pz, axis=0),
            "log_qz": tf.reduce_mean(draws.log_qz, axis=0),
        }
        for name, value in values.items():
            self._means[name].update_state(value)
        return {name: mean.result() for name, mean in self._means.items()}


def _unpacked(data):
    x, context, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise UsageError("sample_weight: must be None, got weights of images")
    return x, context
