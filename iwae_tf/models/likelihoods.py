"""Log-likelihoods of observations, with gradients that stay finite.

A `Likelihood` is the distribution of x given what a network makes of z. In float32 and
float64 the log-likelihoods of this module and their gradients are finite far beyond the
parameters that fit any data: at logits of 1e4 and log-scales of 80, for example.
"""

import math
import numbers

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import randomness, rules
from iwae_tf.errors import UsageError, check_at_least, check_one_of, closest
from iwae_tf.models.bernoulli import bernoulli_log_prob, masked


class Likelihood(keras.layers.Layer):
    """p(x|z): entries of x that are independent given the parameters of each.

    A network maps z to `n_parameters` numbers for each entry of x. A subclass says what
    they mean: it defines `entry_log_prob`, `mean` and `sample`. This one is for counts:

    ```python
    @keras.saving.register_keras_serializable(package="counts")
    class Poisson(Likelihood):
        limits = (0, math.inf)
        step = 1.0

        def entry_log_prob(self, x, parameters):
            (log_rate,) = parameters
            return x * log_rate - tf.exp(log_rate) - tf.math.lgamma(x + 1.0)

        def mean(self, parameters):
            return tf.exp(parameters[0])

        def sample(self, parameters, seed):
            rate, seed = self.mean(parameters), randomness.seed_of(seed)
            return tf.random.stateless_poisson(tf.shape(rate), seed, rate, rate.dtype)

        def initial_bias(self, mean):
            return np.log(np.maximum(mean, 0.01))
    ```

    A subclass with arguments of its own also defines `get_config`, as every Keras layer
    does. TensorFlow's Poisson numbers cannot be compiled by XLA; all draws of the
    subclasses in this module can.

    Attributes:
      n_parameters: number of outputs of the network for each entry of x.
      limits: the least and the greatest value that an entry can have.
      step: spacing of the values, counted from `limits[0]`, if they are discrete.
      is_density: whether `log_prob` is the log density of continuous data, which can be
        positive, and not a log probability.
      is_reparameterised: whether samples are differentiable functions of the
        parameters.
    """

    n_parameters: int = 1
    limits: tuple[float, float] = (-math.inf, math.inf)
    step: float | None = None
    is_density: bool = False
    is_reparameterised: bool = False

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the variables that are no output of the network, if there are any.

        Args:
          input_shape: a shape that ends with n, the number of entries.
        """

    def entry_log_prob(
        self, x: tf.Tensor, parameters: tuple[tf.Tensor, ...]
    ) -> tf.Tensor:
        """The log-likelihood of every entry; a subclass must define it.

        Args:
          x: values of the entries, [..., n] or [b, n].
          parameters: `n_parameters` tensors, each [..., n].

        Returns:
          log_p: [..., n], nats.
        """
        raise NotImplementedError

    def mean(self, parameters: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """E[x], [..., n]; a subclass must define it.

        Args:
          parameters: `n_parameters` tensors, each [..., n].
        """
        raise NotImplementedError

    def sample(
        self, parameters: tuple[tf.Tensor, ...], seed: int | tf.Tensor
    ) -> tf.Tensor:
        """A draw of every entry, [..., n]; a subclass must define it.

        Args:
          parameters: `n_parameters` tensors, each [..., n].
          seed: an integer, or a seed of shape [2]. The draw depends on nothing else.
        """
        raise NotImplementedError

    @property
    def usual(self) -> float:
        """A value that an entry can have: the least, or else that nearest to 0."""
        least, greatest = self.limits
        return min(0.0, greatest) if math.isinf(least) else least

    def log_prob(
        self,
        x: tf.Tensor,
        parameters: tuple[tf.Tensor, ...],
        observed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The log-likelihood of the entries that are observed: log p(x|z).

        An entry that is not observed can have any value, NaN too: it is replaced by one
        that the likelihood can have, `limits[0]` or, if that is infinite, 0. Its term
        is 0, and so is the gradient by x and the parameters there.

        Args:
          x: values of the entries, [..., n] or [b, n].
          parameters: `n_parameters` tensors, each [..., n].
          observed: which entries are observed, bool, broadcast against x. By default
            all are.

        Returns:
          log_px: [...], nats, summed over entries.
        """
        if observed is None:
            return tf.reduce_sum(self.entry_log_prob(x, parameters), axis=-1)
        # The gradient of `where` is 0 at the other entries, even if that of
        # `entry_log_prob` is infinite there and 0 times infinity is NaN.
        parameters = tuple(
            tf.where(observed, p, tf.stop_gradient(p)) for p in parameters
        )
        terms = self.entry_log_prob(tf.where(observed, x, self.usual), parameters)
        return tf.reduce_sum(tf.where(observed, terms, 0.0), axis=-1)

    def initial_bias(self, mean: np.ndarray) -> np.ndarray:
        """Biases with which the network's outputs fit the mean of the data.

        Args:
          mean: mean of each entry over the training data, [n].

        Returns:
          bias: [n_parameters n], the n biases of the first parameter first. By default
            all are 0.
        """
        return np.zeros(self.n_parameters * np.size(mean))


@keras.saving.register_keras_serializable(package="iwae_tf")
class Bernoulli(Likelihood):
    """Entries that are 0 or 1; the parameter is the logit of the probability of 1.

    A value between 0 and 1 stands for a pixel that is 1 with that probability:
    `log_prob` is then an average of log-likelihoods.
    """

    limits = (0.0, 1.0)

    def entry_log_prob(self, x, parameters):
        """The log-likelihood of every entry, [..., n]."""
        (logits,) = parameters
        return x * logits - tf.math.softplus(logits)

    def log_prob(self, x, parameters, observed=None):
        """The log-likelihood of the observed entries; see `Likelihood.log_prob`."""
        (logits,) = parameters
        if observed is not None:
            logits, x = masked(logits, observed), tf.where(observed, x, 0.0)
        return bernoulli_log_prob(x, logits)

    def mean(self, parameters):
        """The probability of 1, [..., n]."""
        return tf.sigmoid(parameters[0])

    def sample(self, parameters, seed):
        """A draw of 0 or 1 for every entry, [..., n]."""
        mean = self.mean(parameters)
        u = randomness.uniform(tf.shape(mean), randomness.seed_of(seed))
        return tf.cast(tf.cast(u, mean.dtype) < mean, mean.dtype)

    def initial_bias(self, mean):
        """The logits of the mean, which is clipped to 0.001..0.999."""
        mean = np.clip(np.ravel(mean).astype(np.float64), 0.001, 0.999)
        return np.log(mean / (1 - mean))


# log(sinh(l/2) / (l/2)) = sum_n c_n l^2n: the Bernoulli number 2n over 2n (2n)!.
_LOG_SINHC = (
    1 / 24,
    -1 / 2880,
    1 / 181440,
    -1 / 9676800,
    1 / 479001600,
    -691 / 15692092416000,
    1 / 1046139494400,
)


@keras.saving.register_keras_serializable(package="iwae_tf")
class ContinuousBernoulli(Likelihood):
    """Entries in 0..1 whose density is l exp(x l) / (exp(l) - 1), l being the logit.

    This is C lambda^x (1 - lambda)^(1 - x) with l = log(lambda / (1 - lambda)). Near
    l = 0 the value, the mean and the samples are Taylor series.

    Reference:
      Loaiza-Ganem and Cunningham 2019, The continuous Bernoulli, arXiv:1907.06845.
    """

    limits = (0.0, 1.0)
    is_density = True
    is_reparameterised = True

    def entry_log_prob(self, x, parameters):
        """The log density of every entry, [..., n]."""
        (logits,) = parameters
        square, is_small, large = _split(logits, 0.5)
        series = (x - 0.5) * logits - square * _polynomial(_LOG_SINHC, square)
        size = tf.abs(large)
        distance = tf.where(large > 0, 1.0 - x, x)  # from the more probable end
        log_p = tf.math.log(size) - size * distance - tf.math.log1p(-tf.exp(-size))
        return tf.where(is_small, series, log_p)

    def mean(self, parameters):
        """E[x] = 1 / (1 - exp(-l)) - 1 / l, [..., n]."""
        (logits,) = parameters
        square, is_small, large = _split(logits, 0.5)
        slopes = [2 * (i + 1) * c for i, c in enumerate(_LOG_SINHC)]
        series = 0.5 + logits * _polynomial(slopes, square)
        return tf.where(
            is_small, series, 0.5 + 0.5 / tf.tanh(0.5 * large) - 1.0 / large
        )

    def sample(self, parameters, seed):
        """The inverse of the cumulative distribution at a uniform number, [..., n]."""
        (logits,) = parameters
        u = _open_uniform(logits, seed)
        _, is_small, large = _split(logits, 0.05)
        # log(1 - u + u exp(l)) / l is a series in the cumulants of a Bernoulli.
        variance, skew = u * (1.0 - u), 1.0 - 2.0 * u
        cumulants = (
            u,
            variance / 2,
            variance * skew / 6,
            variance * (1.0 - 6.0 * variance) / 24,
            variance * skew * (1.0 - 12.0 * variance) / 120,
        )
        series = _polynomial(cumulants, logits)
        size, is_up = tf.abs(large), large > 0
        part = tf.where(is_up, 1.0 - u, u) * tf.math.expm1(-size)
        distance = -tf.math.log1p(part) / size
        return tf.where(is_small, series, tf.where(is_up, 1.0 - distance, distance))

    def initial_bias(self, mean):
        """The logits at which E[x] is the mean, which is clipped to 0.01..0.99."""
        mean = np.clip(np.ravel(mean).astype(np.float64), 0.01, 0.99)
        low, high = np.full_like(mean, -101.0), np.full_like(mean, 102.0)
        for _ in range(50):
            middle = (low + high) / 2
            is_low = 0.5 + 0.5 / np.tanh(0.5 * middle) - 1.0 / middle < mean
            low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
        return (low + high) / 2


class _LocScaleLikelihood(Likelihood):
    """A density with a location and a scale; see `Gaussian` for the scale."""

    is_density = True
    is_reparameterised = True

    def __init__(self, scale, floor, **kwargs):
        super().__init__(**kwargs)
        _check_number(rules.SCALES, 0, scale=scale)
        _check_number((), 0, floor=floor)
        self.scale = scale if isinstance(scale, str) else float(scale)
        self.floor = float(floor)
        self.n_parameters = 2 if scale == "entry" else 1

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "scale": self.scale, "floor": self.floor}

    def build(self, input_shape):
        """Makes the weights of the scale, if it is no output of the network."""
        # A layer that Keras makes from a file is built already.
        if self.scale in ("feature", "shared") and not self.built:
            self.raw_scale = self.add_weight(
                shape=input_shape[-1:] if self.scale == "feature" else (),
                initializer=keras.initializers.Constant(self._first_raw_scale()),
                name="raw_scale",
            )

    def _first_raw_scale(self):
        return _inverse_softplus(max(1.0 - self.floor, self.floor))

    def _standardised(self, x, parameters):
        """(x - loc) / scale, and the log of the scale."""
        scale = self._scale(parameters)
        return (x - parameters[0]) / scale, tf.math.log(scale)

    def _scale(self, parameters):
        dtype = parameters[0].dtype
        if not isinstance(self.scale, str):
            return tf.constant(self.scale, dtype)
        raw = parameters[1] if self.scale == "entry" else self.raw_scale
        return self.floor + tf.math.softplus(tf.cast(raw, dtype))

    def mean(self, parameters):
        """The location, [..., n]."""
        return parameters[0]

    def initial_bias(self, mean):
        """The location is the mean; a scale of each entry is 1, if floor allows it."""
        loc = np.ravel(mean).astype(np.float64)
        raw = np.full_like(loc, self._first_raw_scale())
        return np.concatenate([loc, raw] if self.scale == "entry" else [loc])


@keras.saving.register_keras_serializable(package="iwae_tf")
class Gaussian(_LocScaleLikelihood):
    """Entries with a normal distribution.

    The parameters are loc and, if `scale` is `entry`, a number r for which the scale is
    floor + log(1 + exp(r)). A trained scale has this bound because log p(x|z) grows
    without limit if a scale goes to 0 at an entry that the network reproduces.

    Reference:
      Mattei and Frellsen 2018, Leveraging the exact likelihood of deep latent variable
      models, section 2, arXiv:1802.04826.
    """

    def __init__(self, scale: str | float = "entry", floor: float = 1e-2, **kwargs):
        """Makes the likelihood.

        Args:
          scale: `entry` for a scale of each entry from the network, `feature` for one
            trained weight of each entry, `shared` for one trained weight of all
            entries, or a number for a fixed scale. Scales start at 1.
          floor: lower bound of a scale that is no fixed one. If it is above 1/2,
            scales start at twice the bound.
          **kwargs: arguments of every Keras layer.

        Raises:
          UsageError: if an argument is none of these.
        """
        super().__init__(scale, floor, **kwargs)

    def entry_log_prob(self, x, parameters):
        """The log density of every entry, [..., n]."""
        error, log_scale = self._standardised(x, parameters)
        return -0.5 * tf.square(error) - log_scale - 0.5 * math.log(2 * math.pi)

    def sample(self, parameters, seed):
        """Draws loc + scale times normal numbers, [..., n]."""
        loc = parameters[0]
        noise = randomness.normal(tf.shape(loc), randomness.seed_of(seed))
        return loc + self._scale(parameters) * tf.cast(noise, loc.dtype)


@keras.saving.register_keras_serializable(package="iwae_tf")
class StudentT(_LocScaleLikelihood):
    """Entries with a Student t distribution, which has heavier tails than a Gaussian.

    The parameters are loc, the scale's r if `scale` is `entry`, and, if `df` is
    `entry`, a number r for which there are 2 + log(1 + exp(r)) degrees of freedom. The
    mean and the variance exist above 2. `Gaussian` explains the scale, which is bounded
    here for the same reason.

    Reference:
      Bailey 1994, Polar generation of random variates with the t-distribution,
      Mathematics of Computation 62.
    """

    def __init__(
        self,
        scale: str | float = "entry",
        df: str | float = "entry",
        floor: float = 1e-2,
        **kwargs,
    ):
        """Makes the likelihood.

        Args:
          scale: as for `Gaussian`.
          df: degrees of freedom: `entry` for those of each entry from the network,
            which start at 10, or a number above 1, so that there is a mean.
          floor: lower bound of a scale that is no fixed one, as for `Gaussian`.
          **kwargs: arguments of every Keras layer.

        Raises:
          UsageError: if an argument is none of these.
        """
        super().__init__(scale, floor, **kwargs)
        _check_number(("entry",), 1, df=df)
        self.df = df if isinstance(df, str) else float(df)
        self.n_parameters += df == "entry"

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "df": self.df}

    def _degrees(self, parameters):
        if self.df == "entry":
            return 2.0 + tf.math.softplus(parameters[-1])
        return tf.constant(self.df, parameters[0].dtype)

    def entry_log_prob(self, x, parameters):
        """The log density of every entry, [..., n]."""
        error, log_scale = self._standardised(x, parameters)
        df = self._degrees(parameters)
        # If the error is large, its square could overflow, so it is not formed.
        size = tf.abs(error) * tf.math.rsqrt(df)
        is_large = size > 1.0
        large, small = tf.where(is_large, size, 1.0), tf.where(is_large, 0.0, size)
        log_tail = 2.0 * tf.math.log(large) + tf.math.log1p(
            tf.where(is_large, tf.square(1.0 / large), tf.square(small))
        )
        log_normaliser = log_scale + 0.5 * math.log(2 * math.pi) - _log_gamma_half(df)
        return -0.5 * (df + 1.0) * log_tail - log_normaliser

    def sample(self, parameters, seed):
        """Draws by Bailey's polar method, whose radius and angle are independent."""
        loc, df = parameters[0], self._degrees(parameters)
        u, v = (_open_uniform(loc, randomness.seed_of(seed, i)) for i in range(2))
        radius = tf.sqrt(df * tf.math.expm1(-2.0 * tf.math.log(u) / df))
        noise = radius * tf.cos(2 * math.pi * v)
        return loc + self._scale(parameters) * noise

    def initial_bias(self, mean):
        """The location is the mean, there are 10 degrees of freedom."""
        bias = super().initial_bias(mean)
        raw = np.full(np.size(mean), _inverse_softplus(8.0))
        return np.concatenate([bias, raw]) if self.df == "entry" else bias


@keras.saving.register_keras_serializable(package="iwae_tf")
class DiscretizedLogistic(Likelihood):
    """Entries in 0, 1 / (levels - 1), ..., 1: a logistic variable that is rounded.

    A level has the probability of all numbers that are nearest to it, so the first also
    has that of everything below, and the last that of everything above. The parameters
    are loc, on the same scale, and log_scale. The logistic variable has the scale
    exp(log_scale) + step / 10. Without this bound the gradient by loc, which is about
    1 / scale, could be arbitrarily large.

    Reference:
      Salimans et al. 2017, PixelCNN++, section 2.1, arXiv:1701.05517.
    """

    n_parameters = 2
    limits = (0.0, 1.0)

    def __init__(self, levels: int = 256, **kwargs):
        """Makes the likelihood.

        Args:
          levels: number of levels.
          **kwargs: arguments of every Keras layer.

        Raises:
          UsageError: if `levels` is not a whole number of at least 2.
        """
        super().__init__(**kwargs)
        _check_at_least_two(levels=levels)
        self.levels = int(levels)
        self.step = 1 / (self.levels - 1)

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "levels": self.levels}

    def _loc_scale(self, parameters):
        loc, log_scale = parameters
        return loc, tf.exp(log_scale) + self.step / 10

    def entry_log_prob(self, x, parameters):
        """The log probability of every entry's level, [..., n].

        With a and b the standardised ends of the level, sigmoid(a) - sigmoid(b) is
        sigmoid(a) sigmoid(-b) (1 - exp(b - a)), whose log is finite wherever they are.
        """
        loc, scale = self._loc_scale(parameters)
        half = 0.5 * self.step
        is_first, is_last = x < half, x > 1.0 - half
        below_end = tf.math.log_sigmoid((x + half - loc) / scale)
        above_start = tf.math.log_sigmoid((loc - (x - half)) / scale)
        between = tf.math.log(-tf.math.expm1(-self.step / scale))
        return (
            tf.where(is_last, 0.0, below_end)
            + tf.where(is_first, 0.0, above_start)
            + tf.where(is_first | is_last, 0.0, between)
        )

    def mean(self, parameters):
        """E[x] = step sum_j p(x above boundary j), [..., n].

        The sum is over the boundaries between levels, one after another, so that memory
        does not grow with the number of levels.
        """
        loc, scale = self._loc_scale(parameters)

        def add(j, total):
            boundary = (tf.cast(j, loc.dtype) + 0.5) * self.step
            return j + 1, total + tf.sigmoid((loc - boundary) / scale)

        _, total = tf.while_loop(
            lambda j, total: j < self.levels - 1,
            add,
            (0, tf.zeros_like(loc)),
            parallel_iterations=1,
            maximum_iterations=self.levels - 1,
        )
        return self.step * total

    def sample(self, parameters, seed):
        """A draw of a level for every entry, [..., n]."""
        loc, scale = self._loc_scale(parameters)
        u = _open_uniform(loc, seed)
        y = loc + scale * (tf.math.log(u) - tf.math.log1p(-u))
        return tf.round(tf.clip_by_value(y, 0.0, 1.0) / self.step) * self.step

    def initial_bias(self, mean):
        """The location is the mean; log_scale is -2, a deviation of about 1/4."""
        loc = np.ravel(mean).astype(np.float64)
        return np.concatenate([loc, np.full_like(loc, -2.0)])


@keras.saving.register_keras_serializable(package="iwae_tf")
class Categorical(Likelihood):
    """Entries that are one of several classes, written as codes 0, 1, 2, ...

    The parameters are the logits of the classes. A value that is no code has
    probability 0.
    """

    step = 1.0

    def __init__(self, n_classes: int, **kwargs):
        """Makes the likelihood.

        Args:
          n_classes: number of classes.
          **kwargs: arguments of every Keras layer.

        Raises:
          UsageError: if `n_classes` is not a whole number of at least 2.
        """
        super().__init__(**kwargs)
        _check_at_least_two(n_classes=n_classes)
        self.n_parameters = int(n_classes)
        self.limits = (0.0, self.n_parameters - 1.0)

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "n_classes": self.n_parameters}

    def entry_log_prob(self, x, parameters):
        """The log probability of every entry's class, [..., n]."""
        logits = tf.stack(parameters, axis=-1)
        is_class = x[..., tf.newaxis] == tf.range(self.n_parameters, dtype=x.dtype)
        logits -= tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
        total = tf.reduce_sum(tf.exp(logits), axis=-1)
        log_p = tf.reduce_sum(tf.where(is_class, logits, 0.0), axis=-1)
        log_p -= tf.math.log(total)
        return tf.where(tf.reduce_any(is_class, axis=-1), log_p, -math.inf)

    def mean(self, parameters):
        """The code of the most probable class, [..., n]: classes have no E[x]."""
        code = tf.argmax(tf.stack(parameters, axis=-1), axis=-1)
        return tf.cast(code, parameters[0].dtype)

    def sample(self, parameters, seed):
        """The greatest of the logits with Gumbel noise, [..., n]."""
        logits = tf.stack(parameters, axis=-1)
        noise = -tf.math.log(-tf.math.log(_open_uniform(logits, seed)))
        return tf.cast(tf.argmax(logits + noise, axis=-1), logits.dtype)


def _open_uniform(like, seed):
    """Numbers strictly between 0 and 1, as many as another tensor has, of its dtype.

    They are made of integers, as `randomness.normal` is, so that they are the same
    without XLA.
    """
    bits = randomness.integers(tf.shape(like), randomness.seed_of(seed))
    # In 2^-24..1 - 2^-24, even after rounding.
    u = 0.5 + tf.cast(bits, tf.float32) * (1 - 2**-23) * 2**-64
    return tf.cast(u, like.dtype)


def _split(logits, threshold):
    """Two branches of a function: the logits squared, where, the logits elsewhere.

    Where the other branch is taken a number is 0 or 1, as an infinite gradient times 0
    would be NaN.
    """
    is_small = tf.abs(logits) < threshold
    small = tf.where(is_small, logits, 0.0)
    return tf.square(small), is_small, tf.where(is_small, 1.0, logits)


def _polynomial(coefficients, x):
    total = 0.0
    for c in reversed(coefficients):
        total = total * x + c
    return total


def _log_gamma_half(df):
    """The log of gamma((df + 1) / 2) / gamma(df / 2) / sqrt(df / 2).

    The recurrence of gamma goes to an argument above 8, where it is an asymptotic
    series. Values and gradients have no difference of large numbers.
    """
    y = 0.5 * df
    ratio = 1.0
    for i in range(8):
        ratio *= (y + i) / (y + (i + 0.5))
    inverse = 1.0 / (y + 8.0)
    series = _polynomial(
        (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432), tf.square(inverse)
    )
    shift = 0.5 * tf.math.log1p(8.0 / y)
    return tf.math.log(ratio) + shift + inverse * series


def _inverse_softplus(value):
    return math.log(math.expm1(value))


def _check_number(choices, above, /, **values):
    for name, value in values.items():
        if isinstance(value, str) and value in choices:
            continue
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (is_number and above < value < math.inf):
            words = ", ".join(choices) + " or " * bool(choices)
            hint = closest(value, choices) if isinstance(value, str) else ""
            raise UsageError(
                f"{name}: must be {words}a finite number above {above}, "
                f"got {value!r}{hint}"
            )


def _check_at_least_two(**values):
    for name, value in values.items():
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (is_whole and value >= 2):
            raise UsageError(
                f"{name}: must be a whole number of at least 2, got {value!r}"
            )


def by_name(
    name: str | None = None,
    scale: str | float | None = None,
    n_levels: int | None = None,
) -> Likelihood:
    """A likelihood by its name; the arguments are as in `iwae_tf.Config`.

    Args:
      name: one of `iwae_tf.rules.LIKELIHOODS`; by default `bernoulli`.
      scale: `scale` of `Gaussian` and `StudentT`, if it is not their default.
      n_levels: number of levels of `DiscretizedLogistic`, by default 256, or of classes
        of `Categorical`, which has no default.

    Raises:
      UsageError: for an unknown name, or if a scale does not go with it.
    """
    name = name or "bernoulli"
    check_one_of(rules.LIKELIHOODS, likelihood=name)
    scale = rules.scale_of(name, scale)
    if name == "categorical":
        check_at_least(2, n_levels=n_levels or 0)
        return Categorical(n_levels)
    if name == "discretized_logistic":
        return DiscretizedLogistic(n_levels or 256)
    if name in rules.SCALED:
        kind = Gaussian if name == "gaussian" else StudentT
        return kind() if scale is None else kind(scale)
    return Bernoulli() if name == "bernoulli" else ContinuousBernoulli()
