"""How `fit`, `evaluate` and `predict` work for a model of log-weights."""

import contextlib
import inspect
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers import compile_utils

from iwae_tf import randomness
from iwae_tf.errors import UsageError, check_at_least
from iwae_tf.estimators import check_estimator, value_and_gradients
from iwae_tf.models import executions, replicas
from iwae_tf.models.contracts import check_row
from iwae_tf.models.display import with_display
from iwae_tf.models.values import Seen, check_values
from iwae_tf.objectives import Objective, iwae_elbo, row, vae_elbo
from iwae_tf.rules import check_objective


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


class Steps(keras.Model):
    """The part of `iwae_tf.IWAE` that Keras trains and tests.

    It reads of the model: `posterior`, `generator`, `seed`, `draw` and `call`.

    Attributes: see `iwae_tf.IWAE`.
    """

    seed = _Traced()
    objective = _Traced()
    n_samples = _Traced()
    train_samples = _Traced()
    warmup_steps = _Traced()
    checks_values = _Traced()
    steps_before = 0

    def _prepare(self, generator):
        """Makes the metrics, and what notes the values that steps have seen."""
        self._strategy = tf.distribute.get_strategy()
        replicas.check_strategy(self._strategy)
        self._distribute_strategy = None  # for Keras, which would build a built model
        self._n_tested = 0
        self.checks_values = True
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

    def compile(
        self,
        optimizer="adam",
        objective: str | Objective = "iwae_elbo",
        n_samples: int = 50,
        beta: float = 1.0,
        warmup_steps: int = 0,
        n_groups: int = 1,
        combination_beta: float | None = None,
        renyi_alpha: float | None = None,
        temperatures: Sequence[float] | None = None,
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
          combination_beta: see `iwae_tf.objectives.table`.
          renyi_alpha: see `iwae_tf.objectives.table`.
          temperatures: see `iwae_tf.objectives.table`.
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
        options = {
            "n_groups": n_groups,
            "combination_beta": combination_beta,
            "renyi_alpha": renyi_alpha,
            "temperatures": temperatures,
        }
        self._asked = {"objective": objective, **options, **kwargs}
        if isinstance(objective, str):
            n_layers, n_flows = len(self.posterior.n_latent), self.posterior.n_flows
            check_objective(objective, n_layers, n_flows, **options)
            objective = row(objective, **options)
        elif not isinstance(objective, Objective):
            raise UsageError(
                "objective: must be a name or an iwae_tf.Objective, such as "
                f"Objective(bound=...), got {objective!r}"
            )
        elif given := [name for name in options if options[name] not in (None, 1)]:
            raise UsageError(
                f"objective: must be a name if {given[0]} is given, got a row of "
                f"{objective.n_groups} groups"
            )
        else:
            check_row(objective, self.posterior.n_latent)
        check_at_least(1, n_samples=n_samples)
        check_estimator(objective, self.posterior, self.generator, n_samples)
        check_at_least(0, warmup_steps=warmup_steps)
        with self.strategy.scope() if self._is_shared else contextlib.nullcontext():
            self._check_replicas(optimizer)
            super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
            self._beta = tf.Variable(beta, trainable=False, dtype=tf.float32)
            self.optimizer.build(self.trainable_variables)
            self.first_bad_step = tf.Variable(
                -1,
                trainable=False,
                dtype=tf.int32,
                # Each replica has its own, and all have the same value.
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        self.objective = objective
        self.n_samples = self.train_samples = n_samples
        self.warmup_steps = warmup_steps

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy in whose scope the model was made."""
        return self._strategy

    @property
    def _is_shared(self):
        """Whether several replicas share every batch."""
        return self.strategy.num_replicas_in_sync > 1

    @property
    def distribute_strategy(self):
        """What Keras distributes data by; see `replicas.WholeBatches`."""
        if not self._is_shared:
            return super().distribute_strategy
        return replicas.WholeBatches()

    def _check_replicas(self, optimizer):
        """Checks that several replicas can train the model by an optimizer."""
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return
        if tf.distribute.get_strategy() is not self.strategy:
            raise UsageError(
                "strategy: must have the model made in its scope too, got only compile"
            )
        own = getattr(optimizer, "_distribution_strategy", self.strategy)
        if own is not self.strategy:
            raise UsageError(
                "optimizer: must be made in the scope of the strategy of the model, "
                "which has several replicas, got one made outside"
            )
        changed = [
            variable.path
            for variable in self.non_trainable_variables
            if "seed_generator" not in variable.path
        ]
        if changed:
            raise UsageError(
                "networks: must have no variables that steps change, such as those of "
                "batch normalisation, in a model with several replicas, got "
                f"{changed[0]}"
            )

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
        return float(self._beta.numpy())

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
            is_ours = type(self).train_step is Steps.train_step
            if self._is_shared:
                of_shares = replicas.of_shares(
                    self, lambda share, n_before: self.train_step(share)
                )
                function = lambda iterator: of_shares(iterator, 0)[1]  # noqa: E731
            else:
                super().make_train_function(force=True)
                function = self.train_function
                if self.jit_compile and is_ours and not self.run_eagerly:
                    function = executions.of_whole_loops(self, function)
            self.train_function = self._watched(function)

    def make_test_function(self, force=False):
        """See `make_train_function`."""
        if force or self.test_function is None:
            if self._is_shared:
                function = self._test_of_shares()
            else:
                super().make_test_function(force=True)
                function = self.test_function
            self.test_function = self._watched(function)

    def _test_of_shares(self):
        """An execution of replicas, which have to be told how many images were before.

        A replica's own metrics know only of its own.
        """
        is_ours = type(self).test_step is Steps.test_step
        of_shares = replicas.of_shares(
            self, self._test_step if is_ours else lambda share, _: self.test_step(share)
        )

        def function(iterator):
            self._n_tested, logs = of_shares(iterator, self._n_tested)
            return logs

        return function

    def reset_metrics(self):
        """See `keras.Model.reset_metrics`."""
        super().reset_metrics()
        self._n_tested = 0

    def make_predict_function(self, force=False):
        """See `make_train_function`."""
        if force or self.predict_function is None:
            jit_compile = self.jit_compile
            if self._is_shared:
                self.jit_compile = False  # XLA reaches the variables of one device only
            super().make_predict_function(force=True)
            self.jit_compile = jit_compile
            self.predict_function = self._watched(self.predict_function)

    def _watched(self, function):
        """An execution that ends with an error if it saw images out of range."""

        def watched(iterator):
            outputs = function(iterator)
            if self.checks_values and not self.run_eagerly:
                self._seen.check()
            return outputs

        return watched

    @property
    def metrics(self):
        """Means over the images of an epoch, nats per image."""
        means = list(self._means.values())
        return [*means, _Directions(means)]

    def train_step(self, data):
        """One optimizer step on a batch of images."""
        step = tf.cast(self.optimizer.iterations, tf.int32)

        def compute(x, context):
            n_own = tf.shape(x)[0]
            return value_and_gradients(
                self.objective,
                self,
                x,
                self.train_samples,
                randomness.seed_of(self.seed, randomness.TRAIN, step),
                self.beta_at(step),
                context,
                lambda loss: self.optimizer.scale_loss(loss) * replicas.fraction(n_own),
            )

        def computed(inputs):
            loss, gradients, draws = self(inputs, compute=compute, training=True)
            return loss, gradients, self.losses, self._values_of(draws)

        computed = replicas.compiled(computed, self.jit_compile)
        loss, gradients, added, values = computed(self._inputs_of(data))
        n_own = tf.shape(values["bound"])[0]
        loss = replicas.mean_of_own(loss, n_own)
        is_bad = ~tf.math.is_finite(replicas.mean_of_all(loss, n_own))
        is_first_bad = is_bad & (self.first_bad_step < 0)
        self.first_bad_step.assign(tf.where(is_first_bad, step, self.first_bad_step))
        # Without XLA, TensorFlow may change a variable while a part of the computation
        # that its gradient does not need is still to read it.
        computed = [g for g in (*gradients, *values.values()) if g is not None]
        with tf.control_dependencies(computed):
            self.optimizer.apply_gradients(
                zip(gradients, self.trainable_variables, strict=True)
            )
        return self._log(loss, added, values)

    def test_step(self, data):
        """Computes the bounds on a batch; the noise depends only on its place."""
        return self._test_step(data, self._means["bound"].count)

    def _test_step(self, data, n_before):
        seed = randomness.seed_of(self.seed, randomness.TEST, n_before)
        n_samples = self.objective.n_groups * self.n_samples

        def compute(x, context):
            return self.draw(x, n_samples, seed, context, self.objective.needs_kl)

        def computed(inputs):
            draws = self(inputs, compute=compute, training=False)
            beta = self.beta_at(self.optimizer.iterations)
            loss = -tf.reduce_mean(self.objective.bound(draws, beta))
            return loss + sum(self.losses), self.losses, self._values_of(draws)

        computed = replicas.compiled(computed, self.jit_compile)
        loss, added, values = computed(self._inputs_of(data))
        loss = replicas.mean_of_own(loss, tf.shape(values["bound"])[0])
        return self._log(loss, added, values)

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
        # Values of shares have been seen in the whole batch.
        if self.checks_values and not tf.executing_eagerly() and not randomness.share():
            self._seen.add(x)
        return x if context is None else (x, context)

    def see(self, data) -> None:
        """Notes whether a batch of Keras is out of range."""
        self._inputs_of(data)

    def beta_at(self, step: tf.Tensor) -> tf.Tensor:
        """The weight of the latent part of the loss at an optimizer step."""
        beta = tf.convert_to_tensor(self._beta)
        if self.warmup_steps:
            beta *= tf.minimum(1.0, tf.cast(step, tf.float32) / self.warmup_steps)
        return tf.cast(beta, self.variable_dtype)

    def _values_of(self, draws):
        """What is logged of draws, by name, each [b]."""
        return {
            "bound": self.objective.bound(draws, 1.0),
            "vae_elbo": vae_elbo(draws),
            "iwae_elbo": iwae_elbo(draws),
            "log_px": tf.reduce_mean(draws.log_px, axis=0),
            "log_pz": tf.reduce_mean(draws.log_pz, axis=0),
            "log_qz": tf.reduce_mean(draws.log_qz, axis=0),
        }

    def _log(self, loss, added, values):
        """Updates the means by a batch, and returns all of them."""
        for name, value in values.items():
            self._means[name].update_state(value)
        # Weighted by batch size, so that they are means over images like the others.
        of_batch = {"loss": loss}
        if added:
            of_batch["regularization"] = tf.add_n(added)
        n = tf.shape(values["bound"])[0]
        for name, value in of_batch.items():
            self._means[name].update_state(value, n)
        return {name: self._means[name].result() for name in (*of_batch, *values)}


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
