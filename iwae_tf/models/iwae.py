"""The Keras model of a posterior and a generator."""

import numbers
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import randomness
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError
from iwae_tf.models.contracts import check_methods, check_shapes
from iwae_tf.models.exporting import export
from iwae_tf.models.generators import Generator, noise_of_missing
from iwae_tf.models.parts import Part
from iwae_tf.models.posteriors import Posterior
from iwae_tf.models.representation import Representation
from iwae_tf.models.steps import Steps
from iwae_tf.models.values import check_values

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras: must run on TensorFlow, got the backend "
        f"{keras.backend.backend()!r}; import iwae_tf before keras"
    )


@keras.saving.register_keras_serializable(package="iwae_tf")
class IWAE(Representation, Part, Steps):
    """An importance weighted autoencoder.

    `fit`, `evaluate` and `predict` work as in Keras. `fit(x)` takes observations
    [n, *event_shape] with values that the likelihood can have, and NaN for missing
    entries if the generator has `missing`. A conditional model is one of log p(x|y); it
    takes `fit(x, y)` with contexts y [n, c], and `predict((x, y))`.

    The layers of the networks are told when they train, and the losses that they add,
    such as those of regularisers, are added to the loss. With a policy of Keras such as
    mixed_bfloat16 the networks compute in 16 bits; latents, densities and losses are
    float32, and flows compute in it.

    The options of `compile` and the seed are attributes. A new value counts from the
    next step on; unless it is that of `beta`, the steps are compiled anew.

    Values that the likelihood cannot have are refused: at once where they are an array
    or an eager tensor, and else after the execution that has seen them. By then a
    training step has been taken.

    Attributes:
      checks_values: whether values that the likelihood cannot have are looked for. With
        k = 1 that takes a few percent of a step; a caller who has checked all values
        may set it to False.
      n_context: c, the size of a context; 0 for a model without contexts.
      train_samples: number of samples per observation and group in a training step.
      steps_before: number of the optimizer's iterations before the present run.
      first_bad_step: the first optimizer step, counted from 0, whose loss was not
        finite; -1 if there was none.

    Reference:
      Burda et al. 2016, arXiv:1509.00519.
    """

    def __init__(
        self,
        posterior: Posterior,
        generator: Generator,
        seed: int = 123,
        n_context: int = 0,
    ):
        """Builds the networks' variables.

        Args:
          posterior: q(z|x), or another one with what `posteriors.Posterior` says.
          generator: p(x, z), or another one with what `generators.Generator` says.
          seed: random seed for all noise in training and testing.
          n_context: size of the contexts of a conditional model; 0 for other models.

        Raises:
          UsageError: if a part lacks a method, or a method cannot take its arguments or
            returns other shapes; if the parts have other policies, the posterior cannot
            take the missing entries that the generator can, or the model is made in
            the scope of a strategy whose replicas are not copies of it.
        """
        super().__init__(dtype=_policy_of(posterior, generator), autocast=False)
        check_methods(posterior, generator)
        self.posterior = posterior
        self.generator = generator
        self.seed = seed
        self.n_context = n_context
        self._prepare(generator)
        x, context = self._example()
        self(x if context is None else (x, context))
        if getattr(generator, "missing", False):
            means = posterior.mean(x + np.nan, context)
            if not all(np.all(np.isfinite(mean)) for mean in means):
                raise UsageError(
                    "posterior: must take missing entries, such as with "
                    "inputs=iwae_tf.models.networks.Filled(), got one that does not"
                )

    def build(self, input_shape):
        """Makes the variables of both parts, when the constructor calls the model.

        The parts themselves are never called: a draw passes through all their networks.

        Args:
          input_shape: shape of the images, or shapes of the images and the contexts.
        """
        x, context = self._example()
        check_shapes(self, x, context, randomness.seed_of(self.seed))
        self.posterior.build(input_shape)
        self.generator.build(input_shape)

    def _example(self):
        """Three observations with their contexts; the values do not matter."""
        shapes = ([3, *self.generator.event_shape], [3, self.n_context])
        x, context = (tf.zeros(shape, self.variable_dtype) for shape in shapes)
        return x, context if self.n_context else None

    def get_config(self) -> dict:
        """See `keras.Model.get_config`; the seed is the present one."""
        return super().get_config() | {"seed": self.seed}

    @property
    def compute_dtype(self):
        """The type of latents and densities; only networks compute in 16 bits."""
        return self.variable_dtype

    def draw(
        self,
        x: tf.Tensor,
        k: int,
        seed: int | tf.Tensor,
        context: tf.Tensor | None = None,
        with_kl: bool = False,
    ) -> Draws:
        """Draws k latents per observation and computes their log-weights.

        Args:
          x: observations [b, *event_shape].
          k: number of samples per observation.
          seed: random seed, an integer or [2].
          context: [b, c], for a conditional model.
          with_kl: whether to fill in `kl`, for one stochastic layer only.

        Returns:
          draws: k samples for each of b observations.

        Raises:
          UsageError: if the model needs x of another shape, or another context.
        """
        x, context = self.inputs(x, context)
        seed = randomness.seed_of(seed)
        zs, log_qz = self.posterior.draw(x, k, seed, context)
        own = noise_of_missing(self.generator, seed)
        log_px, log_pz = self.generator.log_joint(x, zs, context, **own)
        kl = None
        if with_kl:
            with keras.StatelessScope():  # the second use of q changes no layer's state
                kl = self.kl(x, context)
        return Draws(zs, log_px, log_pz, log_qz, kl)

    def log_joint(
        self,
        x: tf.Tensor,
        zs: tuple[tf.Tensor, ...],
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Computes log p(x, z) of given latents.

        Args:
          x: observations [b, *event_shape].
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
          x: observations [b, *event_shape].
          zs: tuple of latents, bottom-up, each [k, b, d].
          context: [b, c], for a conditional model.

        Returns:
          draws: k samples for each of b observations.

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
          UsageError: if the model needs x of another shape, or another context, or
            if an eager tensor has values out of range.
        """
        x = tf.cast(x, self.variable_dtype)
        size = self.generator.event_shape
        if not x.shape.is_compatible_with([None, *size]):
            raise UsageError(f"x: must be of shape {['b', *size]}, got {x.shape}")
        if self.checks_values and tf.executing_eagerly():
            check_values(self.generator, x.numpy())
        return x, self.check_context(context, x.shape[0])

    def check_context(
        self, context: np.ndarray | tf.Tensor | None, n: int | tf.Tensor | None
    ) -> tf.Tensor | None:
        """Returns the contexts of n observations as float32.

        Raises:
          UsageError: if the model needs others.
        """
        if context is None and not self.n_context:
            return None
        n = n if isinstance(n, numbers.Integral) else None
        shape = None if context is None else tf.convert_to_tensor(context).shape
        if (
            shape is None
            or not self.n_context
            or not shape.is_compatible_with([n, self.n_context])
        ):
            b = "b" if n is None else n
            rule = f"of shape [{b}, {self.n_context}]" if self.n_context else "None"
            raise UsageError(f"context: must be {rule} for this model, got {shape}")
        return tf.cast(context, self.variable_dtype)

    def kl(self, x: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """Closed-form KL(q(z|x) || p(z)) of a model with one stochastic layer.

        Args:
          x: observations [b, *event_shape].
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
        q = self.posterior.conditional(0, self.posterior.entries(x), context)
        return tfp.distributions.kl_divergence(q, self.generator.prior(context))

    def call(self, inputs, compute=None, training=None):
        """Reconstructs images: E[x|z] of the means z of q(z|x), without noise.

        Args:
          inputs: observations [b, *event_shape], alone or in a pair with contexts
            [b, c].
          compute: a function (x, context) to compute in place of the reconstruction.
            The steps of training and testing use it, because layers know only within
            a call whether they train.
          training: whether the layers train.

        Returns:
          mean: E[x|z], [b, *event_shape], or what `compute`
            returns.
        """
        x, context = inputs if isinstance(inputs, tuple | list) else (inputs, None)
        if compute is not None:
            return compute(x, context)
        x, context = self.inputs(x, context)
        return self.generator.mean(self.posterior.mean(x, context), context)[0]

    def reconstruct(
        self, x: tf.Tensor, seed: int | tf.Tensor, context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Computes E[x|z] for one z drawn from q(z|x).

        Args:
          x: observations [b, *event_shape].
          seed: random seed, an integer or [2].
          context: [b, c], for a conditional model.

        Returns:
          mean: E[x|z], [b, *event_shape].
        """
        x, context = self.inputs(x, context)
        zs, _ = self.posterior.draw(x, 1, randomness.seed_of(seed), context)
        return self.generator.mean(zs, context)[0]

    def sample(
        self, n: int, seed: int | tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws x from the model.

        Args:
          n: number of draws.
          seed: random seed, an integer or [2]. The same seed gives the same latent
            noise, whatever the weights of the model are.
          context: [n, c], for a conditional model.

        Returns:
          samples: draws from p(x|z), [n, *event_shape].
          mean: E[x|z] of the same latents, same shape.
        """
        context = self.check_context(context, n)
        seed = randomness.seed_of(seed)
        zs = self.generator.sample_latents(n, seed, context)
        # With an axis of samples, as the layers know latents.
        zs = tuple(z[tf.newaxis] for z in zs)
        own = randomness.seed_of(seed, -1)
        samples, mean = self.generator.sample(zs, own, context)
        return samples[0], mean[0]

    def export(self, filepath: str | Path, k: int = 100, verbose: bool = False) -> None:
        """Writes a TensorFlow SavedModel that works without this package.

        Its functions and signatures, of which all tensors are float32 but n and seed,
        which are int32:

            serve(x) -> E[x|z] of the mean of q(z|x)
            encode(x) -> mean_z1, scale_z1, mean_z2, ..., see `encode`
            decode(z1, z2, ...) -> E[x|z]
            sample(n, seed) -> samples, mean, see `sample`
            log_likelihood(x, seed) -> log_px and ess, each [b], of k samples

        A conditional model takes `context` after x or the latents, and `sample(context,
        seed)`. The values of x are not checked.

        Args:
          filepath: the directory to write.
          k: number of samples per observation in `log_likelihood`.
          verbose: whether to print the signatures.

        Raises:
          UsageError: if there are no samples.
        """
        export(self, filepath, k, verbose)


def _policy_of(*parts):
    """The policy of both parts, which keep their variables in floats of one type."""
    policies = [getattr(part, "dtype_policy", None) for part in parts]
    policies = [policy for policy in policies if policy is not None]
    names = {policy.name for policy in policies}
    kept = {policy.variable_dtype for policy in policies}
    if len(names) > 1 or kept - {"float32", "float64"}:
        raise UsageError(
            "dtype_policy: must be the same for both parts, and keep variables in "
            "float32 or float64, such as mixed_bfloat16, got "
            f"{', '.join(sorted(names))}"
        )
    return policies[0] if policies else None
