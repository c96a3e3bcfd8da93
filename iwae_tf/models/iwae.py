"""The Keras model of a posterior and a generator."""

import inspect
import numbers
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.src.trainers import compile_utils

from iwae_tf import randomness
from iwae_tf.draws import Draws
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.models.contracts import check_methods, check_row, check_shapes
from iwae_tf.models.display import with_display
from iwae_tf.models.exporting import export
from iwae_tf.models.generators import Generator
from iwae_tf.models.parts import Part
from iwae_tf.models.posteriors import Posterior
from iwae_tf.models.representation import Representation
from iwae_tf.models.values import Seen, check_values
from iwae_tf.objectives import (
    Objective,
    check_mask_model,
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


class _Traced:
    """An attribute that compiled steps read; a new value has them compiled anew."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, model, owner=None):
        if model is None:
            return self
        try:
            return model.__dict__[self.name]
        except KeyError:
            raise AttributeError(f"{self.name}: is set by compile") from None

    def __set__(self, model, value):
        is_new = value != model.__dict__.get(self.name)
        model.__dict__[self.name] = value
        if is_new and model.train_function is not None:
            model.make_train_function(force=True)
        if is_new and model.test_function is not None:
            model.make_test_function(force=True)


class _Directions(compile_utils.MetricsList):
    """The metrics in which Keras' callbacks look whether more or less is better.

    They look in no other class. The values are those of the metrics themselves.
    """

    variables = ()

    def reset_state(self):
        pass

    def result(self):
        return {}


@keras.saving.register_keras_serializable(package="iwae_tf")
class IWAE(Representation, Part, keras.Model):
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

    seed = _Traced()
    objective = _Traced()
    n_samples = _Traced()
    train_samples = _Traced()
    warmup_steps = _Traced()
    checks_values = _Traced()
    steps_before = 0

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
            take the missing entries that the generator can, or the model would have
            several replicas.
        """
        super().__init__(dtype=_policy_of(posterior, generator), autocast=False)
        _check_one_replica()
        check_methods(posterior, generator)
        self.posterior = posterior
        self.generator = generator
        self.seed = seed
        self.checks_values = True
        self.n_context = n_context
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in (
                "loss",
                "regularization",
                "bound",
                "vae_elbo",
                "iwae_elbo",
                "log_px",
                "log_pz",
                "log_qz",
            )
        }
        for name in ("bound", "vae_elbo", "iwae_elbo", "log_px"):
            self._means[name]._direction = "up"
        self._seen = Seen(generator)
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
          n_samples: k, the number of samples per observation; with groups, in each.
          beta: weight of log p(z) - log q(z|x) in the loss; the bounds that are
            logged always have weight 1.
          warmup_steps: number of optimizer steps over which that weight rises from 0
            to beta.
          n_groups: m, the number of groups in `miwae` and `piwae`. They draw m k
            samples per observation.
          combination_beta: weight of the ELBO in `combination`; the default is 0.5.
          jit_compile: whether XLA compiles the steps.
          **kwargs: arguments of `keras.Model.compile`, such as `steps_per_execution`,
            but no losses or metrics: the objective says what is minimised and logged.

        Raises:
          UsageError: for an unknown objective, an objective that this model cannot
            have, a number out of range, or an argument that has no effect here.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise UsageError(
                    f"{name}: must be None, because the objective says what is "
                    f"minimised and logged, got {kwargs[name]!r}"
                )
        self._asked = {
            "objective": objective,
            "n_groups": n_groups,
            "combination_beta": combination_beta,
            **kwargs,
        }
        if isinstance(objective, str):
            objective = self._row(objective, n_groups, combination_beta)
        elif not isinstance(objective, Objective):
            raise UsageError(
                "objective: must be a name or an iwae_tf.Objective, such as "
                f"Objective(bound=...), got {objective!r}"
            )
        elif n_groups != 1 or combination_beta is not None:
            raise UsageError(
                "objective: must be a name if n_groups or combination_beta is given, "
                f"got a row of {objective.n_groups} groups"
            )
        else:
            check_row(objective, self.posterior.n_latent)
        check_mask_model(objective, self.generator)
        check_at_least(1, n_samples=n_samples)
        check_at_least(0, warmup_steps=warmup_steps)
        _check_one_replica()
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self.objective = objective
        self.n_samples = self.train_samples = n_samples
        self._beta = tf.Variable(beta, trainable=False, dtype=tf.float32)
        self.warmup_steps = warmup_steps
        self.optimizer.build(self.trainable_variables)
        self.first_bad_step = tf.Variable(-1, trainable=False, dtype=tf.int32)

    def get_config(self) -> dict:
        """See `keras.Model.get_config`; the seed is the present one."""
        return super().get_config() | {"seed": self.seed}

    def get_compile_config(self) -> dict:
        """What `compile` was told, with the present values of what may be assigned.

        A row of one's own is saved by the names of its functions, which must be
        registered with `keras.saving.register_keras_serializable`.
        """
        if not self.compiled:
            return {}
        asked = self._asked
        if isinstance(asked["objective"], Objective):
            asked = asked | {"objective": asked["objective"]._asdict()}
        now = {
            "optimizer": self.optimizer,
            "n_samples": self.n_samples,
            "beta": self.beta,
            "warmup_steps": self.warmup_steps,
            "jit_compile": self.jit_compile,
        }
        return keras.saving.serialize_keras_object(asked | now)

    def compile_from_config(self, config: dict) -> None:
        """Compiles a model that is being loaded as it was compiled."""
        asked = keras.saving.deserialize_keras_object(config)
        if isinstance(asked["objective"], dict):
            asked["objective"] = Objective(**asked["objective"])
        self.compile(**asked)

    @property
    def beta(self) -> float:
        """Weight of log p(z) - log q(z|x) in the loss, after the warm-up."""
        return float(self._beta)

    @beta.setter
    def beta(self, value):
        self._beta.assign(value)

    def fit(self, x=None, *args, **kwargs):
        """Trains the model as `keras.Model.fit` does.

        Raises:
          UsageError: for images with values out of range, or for sample weights.
        """
        if isinstance(x, np.ndarray | tf.Tensor):  # before a step is taken
            check_values(self.generator, np.asarray(x))
        return super().fit(**_shown(super().fit, x, *args, **kwargs))

    def evaluate(self, x=None, *args, **kwargs):
        """Computes the bounds as `keras.Model.evaluate` does; see `fit`."""
        return super().evaluate(**_shown(super().evaluate, x, *args, **kwargs))

    def make_train_function(self, force=False):
        """See `keras.Model.make_train_function`; refuses images out of range too."""
        if force or self.train_function is None:
            super().make_train_function(force=True)
            self.train_function = self._watched(self.train_function)

    def make_test_function(self, force=False):
        """See `make_train_function`."""
        if force or self.test_function is None:
            super().make_test_function(force=True)
            self.test_function = self._watched(self.test_function)

    def make_predict_function(self, force=False):
        """See `make_train_function`."""
        if force or self.predict_function is None:
            super().make_predict_function(force=True)
            self.predict_function = self._watched(self.predict_function)

    def _watched(self, function):
        """An execution that ends with an error if it saw images out of range."""

        def watched(iterator):
            outputs = function(iterator)
            if self.checks_values and not self.run_eagerly:
                self._seen.check()
            return outputs

        return watched

    def _row(self, name, n_groups, combination_beta):
        found = row(name, n_groups, combination_beta)
        n_layers = len(self.posterior.n_latent)
        n_flows = self.posterior.n_flows
        check_objective(name, n_layers, n_groups, combination_beta, n_flows)
        return found

    @property
    def compute_dtype(self):
        """The type of latents and densities; only networks compute in 16 bits."""
        return self.variable_dtype

    @property
    def metrics(self):
        """Means over the images of an epoch, nats per image."""
        means = list(self._means.values())
        return [*means, _Directions(means)]

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

    def train_step(self, data):
        """One optimizer step on a batch of images."""
        step = tf.cast(self.optimizer.iterations, tf.int32)

        def compute(x, context):
            return value_and_gradients(
                self.objective,
                self,
                x,
                self.train_samples,
                randomness.seed_of(self.seed, randomness.TRAIN, step),
                self.beta_at(step),
                context,
                self.optimizer.scale_loss,
            )

        inputs = self._inputs_of(data)
        loss, gradients, draws = self(inputs, compute=compute, training=True)
        is_first_bad = ~tf.math.is_finite(loss) & (self.first_bad_step < 0)
        self.first_bad_step.assign(tf.where(is_first_bad, step, self.first_bad_step))
        added = self.losses
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return self._log(loss, added, draws)

    def test_step(self, data):
        """Computes the bounds on a batch; the noise depends only on its place."""
        seed = randomness.seed_of(
            self.seed, randomness.TEST, self._means["bound"].count
        )
        n_samples = self.objective.n_groups * self.n_samples

        def compute(x, context):
            return self.draw(x, n_samples, seed, context, self.objective.needs_kl)

        draws = self(self._inputs_of(data), compute=compute, training=False)
        beta = self.beta_at(self.optimizer.iterations)
        loss = -tf.reduce_mean(self.objective.bound(draws, beta))
        return self._log(loss + sum(self.losses), self.losses, draws)

    def predict_step(self, data):
        """Reconstructs a batch of images; see `call`."""
        return self(self._inputs_of(data), training=False)

    def _inputs_of(self, data):
        """Takes a batch of Keras apart, and notes whether it is out of range."""
        x, context, weights = keras.utils.unpack_x_y_sample_weight(data)
        _check_unweighted(weights)
        if isinstance(x, tuple | list):  # images and contexts in `predict`
            x, context = x
        x = tf.cast(x, self.variable_dtype)
        if self.checks_values and not tf.executing_eagerly():
            self._seen.add(x)
        return x if context is None else (x, context)

    def beta_at(self, step: tf.Tensor) -> tf.Tensor:
        """The weight of the latent part of the loss at an optimizer step."""
        beta = tf.convert_to_tensor(self._beta)
        if self.warmup_steps:
            beta *= tf.minimum(1.0, tf.cast(step, tf.float32) / self.warmup_steps)
        return tf.cast(beta, self.variable_dtype)

    def _log(self, loss, added, draws):
        """Updates the means by a batch, and returns all of them."""
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
        # Weighted by batch size, so that they are means over images like the others.
        of_batch = {"loss": loss}
        if added:
            of_batch["regularization"] = tf.add_n(added)
        for name, value in of_batch.items():
            self._means[name].update_state(value, tf.shape(draws.log_px)[1])
        return {name: self._means[name].result() for name in (*of_batch, *values)}


def seed_of_missing(seed: int | tf.Tensor) -> tf.Tensor:
    """The seed of the missing entries among the draws of a seed, [2]."""
    return randomness.seed_of(seed, -2)


def noise_of_missing(generator, seed: int | tf.Tensor) -> dict[str, tf.Tensor]:
    """The argument of `log_px` of draws of a seed, if missing entries are drawn too."""
    if getattr(generator, "mask_model", None) is None:
        return {}
    return {"seed": seed_of_missing(seed)}


def _shown(method, *args, **kwargs):
    """The arguments of `fit` or `evaluate`, with our display of the metrics."""
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    given |= given.pop("kwargs", {})
    _check_unweighted(given.get("sample_weight"))
    shown = with_display(given.get("callbacks"), given.get("verbose", "auto"))
    return given | {"callbacks": shown}


def _check_unweighted(sample_weight):
    # Keras itself drops the weights if there is no y.
    if sample_weight is not None:
        raise UsageError("sample_weight: must be None, got weights of images")


def _check_one_replica():
    n = tf.distribute.get_strategy().num_replicas_in_sync
    if n > 1:
        raise UsageError(
            "strategy: must have one replica, because training is for one device, "
            f"got {n}"
        )


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
