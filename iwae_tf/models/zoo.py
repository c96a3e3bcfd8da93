"""Named constructors for each paper's networks."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from iwae_tf import rules
from iwae_tf.errors import UsageError, check_one_of
from iwae_tf.models import likelihoods, parts
from iwae_tf.models.binary import BeliefNetwork, BernoulliChain
from iwae_tf.models.generators import Chain, WarpedBernoulli
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.masks import MaskModel
from iwae_tf.models.networks import (
    MLP,
    Bias,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    DenseNet,
    Filled,
)
from iwae_tf.models.parts import first_names
from iwae_tf.models.posteriors import FlowPosterior, GaussianChain

# How many of the 60 latents place the image, and by which warp.
SPATIAL = {"vae60": (0, None), "tvae_affine": (6, "affine"), "tvae_tps": (18, "spline")}


def build(
    event_shape: tuple[int, ...],
    n_context: int = 0,
    mean: np.ndarray | None = None,
    n_levels: int | None = None,
    *,
    model: str = "burda",
    stochastic_layers: int = 1,
    n_latent: Sequence[int] | None = None,
    n_hidden: Sequence[int] | None = None,
    feature_maps: int | None = None,
    conditional_prior: bool = False,
    n_bounded: int = 0,
    likelihood: str | None = None,
    likelihood_scale: str | float | None = None,
    missing: bool = False,
    mask_input: bool = False,
    precision: str | None = None,
    seed: int = 123,
    **flows,
) -> IWAE:
    """Builds a model by name; the arguments have the names of the fields of `Config`.

    Args:
      event_shape: the shape of one x, such as height, width and channels.
      n_context: size of the contexts; 0 for no contexts.
      mean: see `burda`; other networks do not use it.
      n_levels: number of levels or classes of the data, for the likelihoods
        `discretized_logistic` and `categorical`.
      model: `burda`, a key of `SPATIAL`, `dense`, `gated`, `resnet` or `sbn`.
      stochastic_layers: see `burda`.
      n_latent: see `burda` and `deep`.
      n_hidden: see `burda` and `deep`.
      feature_maps: see `deep`.
      conditional_prior: see `burda` and `sbn`.
      n_bounded: see `spatial`.
      likelihood: a name in `rules.LIKELIHOODS`; by default `bernoulli`.
      likelihood_scale: see `likelihoods.by_name`.
      missing: see `burda`.
      mask_input: see `burda`.
      precision: what networks compute in, a key of `rules.PRECISIONS`; by default
        the present policy of Keras.
      seed: random seed for the initial weights and the model's noise.
      **flows: `n_flows` and its options, see `burda`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: for an unknown name; see `burda` and `deep` too.
    """
    check_one_of(rules.MODELS, model=model)
    policy = keras.config.dtype_policy().name
    if precision is not None:
        check_one_of(tuple(rules.PRECISIONS), precision=precision)
        policy = rules.PRECISIONS[precision]
    with parts.precision(policy):
        shape = tuple(event_shape)
        flows |= {"missing": missing, "mask_input": mask_input}
        if model in SPATIAL:
            rules.check_likelihood_of(model, likelihood or "bernoulli")
            return spatial(model, shape, seed, n_bounded, **flows)
        flows["likelihood"] = likelihoods.by_name(
            likelihood, likelihood_scale, n_levels
        )
        if model in rules.DEEP:
            return deep(model, shape, n_latent, n_hidden, feature_maps, seed, **flows)
        if model in rules.BINARY:
            rules.check_flows(flows.get("n_flows"), stochastic_layers, model)
            return sbn(
                shape,
                stochastic_layers,
                n_latent,
                mean,
                seed,
                n_context,
                conditional_prior,
                flows["likelihood"],
                missing,
                mask_input,
            )
        return burda(
            shape,
            stochastic_layers,
            n_latent,
            n_hidden,
            mean,
            seed,
            n_context,
            conditional_prior,
            **flows,
        )


def _inputs(missing, mask_input, fill, event_shape):
    """The layer that fills in missing entries, or None if none are missing."""
    if missing:
        shape = tuple(event_shape)
        if fill is not None and np.shape(fill) != shape:
            raise UsageError(f"fill: must be of shape {shape}, got {np.shape(fill)}")
        _check_finite(fill=fill)
        return Filled(fill, mask_input)
    if mask_input or fill is not None:
        name = "mask_input" if mask_input else "fill"
        raise UsageError(f"{name}: goes with missing entries only, got none missing")
    return None


def _check_finite(**values):
    for name, value in values.items():
        if value is not None and not np.all(np.isfinite(value)):
            raise UsageError(
                f"{name}: must be finite, got {np.min(value):g} to {np.max(value):g}"
            )


def _posterior(network, d, n_bounded=0, inputs=None, *, n_flows=0, **flows):
    """A posterior of one layer, with or without flows; options are as in `Config`."""
    if not n_flows:
        return GaussianChain(
            n_latent=[d], n_bounded=n_bounded, networks=[network], inputs=inputs
        )
    given = {name: value for name, value in flows.items() if value is not None}
    chosen = rules.FLOWS | given
    return FlowPosterior(
        network,
        d,
        n_flows,
        chosen["flow_hidden"],
        chosen["flow_features"],
        chosen["flow_normalisation"],
        n_bounded,
        inputs,
    )


@first_names()
def deep(
    name: str,
    event_shape: tuple[int, ...],
    n_latent: Sequence[int] | None = None,
    n_hidden: Sequence[int] | None = None,
    feature_maps: int | None = None,
    seed: int = 123,
    n_flows: int = 8,
    likelihood: likelihoods.Likelihood | None = None,
    missing: bool = False,
    mask_input: bool = False,
    fill: np.ndarray | None = None,
    **flows,
) -> IWAE:
    """Deep networks with one stochastic layer and inverse autoregressive flow.

    `dense` has two layers of ELUs, and each sees the input. `resnet` has six residual
    blocks and a dense layer of 450 units. `gated` has five gated convolutions and a
    dense layer of 256 units. The encoder and the decoder each have these layers. The
    output bias starts at 0: if it starts at the logits of MNIST's mean image, `gated`
    never leaves that image, and the others learn more slowly.

    Args:
      name: `dense`, `gated` or `resnet`.
      event_shape: the shape of one x; height, width and channels for convolutions.
      n_latent: latent size; the default is 64.
      n_hidden: number of hidden units in a layer of `dense`; the default is 300.
      feature_maps: number of feature maps of the convolutions; the default is 64.
      seed: random seed for the initial weights and the model's noise.
      n_flows: number of flow steps; 0 for a Gaussian.
      likelihood: see `burda`.
      missing: see `burda`.
      mask_input: see `burda`.
      fill: see `burda`.
      **flows: `flow_hidden`, `flow_features` and `flow_normalisation`, see `Config`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: if images for convolutions have sides that are not multiples of 4.

    Reference:
      Kingma et al. 2016, arXiv:1606.04934; van den Berg et al. 2018, arXiv:1803.05649.
    """
    if name in rules.CONVOLUTIONAL:
        rules.check_image(name, event_shape, multiple=4)
    inputs = _inputs(missing, mask_input, fill, event_shape)
    likelihood = likelihood or likelihoods.Bernoulli()
    keras.utils.set_random_seed(seed)
    (d,), (hidden,) = n_latent or (64,), n_hidden or (300,)
    if name == "dense":
        encoder, decoder = (DenseNet((hidden, hidden), "elu") for _ in range(2))
        head = None
    else:
        *size, channels = event_shape
        options = (name, feature_maps or 64, {"resnet": 450, "gated": 256}[name])
        n_maps = {"in": channels * (1 + mask_input), "out": likelihood.n_parameters}
        encoder = ConvolutionalEncoder((*size, n_maps["in"]), *options)
        decoder = ConvolutionalDecoder(event_shape, *options, n_maps["out"])
        head = Bias(n_maps["out"] * math.prod(event_shape))
    return IWAE(
        _posterior(encoder, d, inputs=inputs, n_flows=n_flows, **flows),
        Chain(
            event_shape,
            n_latent=[d],
            networks=[decoder],
            head=head,
            likelihood=likelihood,
            missing=missing,
        ),
        seed,
    )


@first_names()
def spatial(
    name: str,
    image_shape: tuple[int, int, int],
    seed: int = 123,
    n_bounded: int = 0,
    missing: bool = False,
    mask_input: bool = False,
    fill: np.ndarray | None = None,
    **flows,
) -> IWAE:
    """A VAE with 60 latents, some of which may place the image: x-256-256-z-256-256-x.

    Hidden layers are rectified linear. `vae60` is a plain VAE. In `tvae_affine`, 6
    latents give an affine map. In `tvae_tps`, 18 latents give the control points of a
    thin-plate spline. The output bias starts at 0: if it starts at the logits of
    MNIST's mean image, `vae60` with k = 1 never leaves that image.

    Args:
      name: a key of `SPATIAL`.
      image_shape: height, width, channels.
      seed: random seed for the initial weights and the model's noise.
      n_bounded: number of posterior means, counted from the last, that go through tanh.
      missing: see `burda`.
      mask_input: see `burda`.
      fill: see `burda`.
      **flows: see `burda`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: if there are fewer latents than bounded means.

    Reference:
      Jaderberg et al. 2015, arXiv:1506.02025.
    """
    n_placing, warp = SPATIAL[name]
    keras.utils.set_random_seed(seed)
    widths, n_latent = (256, 256), rules.SPATIAL_LATENTS
    rules.check_bounded(n_bounded)
    rules.check_image(name, image_shape)
    inputs = _inputs(missing, mask_input, fill, image_shape)
    posterior = _posterior(MLP(widths, "relu"), n_latent, n_bounded, inputs, **flows)
    if warp is None:
        generator = Chain(
            image_shape, [widths], [n_latent], activation="relu", missing=missing
        )
    else:
        generator = WarpedBernoulli(
            image_shape, widths, n_latent, n_placing, warp, "relu", missing
        )
    return IWAE(posterior, generator, seed)


@first_names()
def burda(
    event_shape: tuple[int, ...],
    stochastic_layers: int = 1,
    n_latent: Sequence[int] | None = None,
    n_hidden: Sequence[int] | None = None,
    mean: np.ndarray | None = None,
    seed: int = 123,
    n_context: int = 0,
    conditional_prior: bool = False,
    n_flows: int = 0,
    likelihood: likelihoods.Likelihood | None = None,
    missing: bool = False,
    mask_input: bool = False,
    fill: np.ndarray | None = None,
    mask_model: MaskModel | None = None,
    **flows,
) -> IWAE:
    """The networks of Burda et al. 2016: two tanh layers per stochastic layer.

    One stochastic layer: x-200-200-z50-200-200-x. Two: x-200-200-z100-100-100-z50 and
    back. Each further layer halves both sizes. With contexts y, the model is one of
    log p(x|y) (Sohn et al. 2015): y is appended to the input of every network.

    Args:
      event_shape: the shape of one x, such as height, width and channels, or the number
        of features of a vector.
      stochastic_layers: L, the number of stochastic layers.
      n_latent: latent size of each layer, bottom-up.
      n_hidden: number of hidden units beside each layer, bottom-up.
      mean: mean of the training data, to which the initial output bias fits, see
        `likelihoods.Likelihood.initial_bias`.
      seed: random seed for the initial weights and the model's noise.
      n_context: size of the contexts; 0 for no contexts.
      conditional_prior: whether p(zL|y) is a Gaussian from its own network, as wide as
        the one below it, in place of a standard normal.
      n_flows: number of steps of inverse autoregressive flow in q, for one layer only.
      likelihood: p(x|z) given the parameters of every entry; by default Bernoulli.
      missing: whether entries of x may be NaN, which are missing: the log-likelihood is
        summed over the others (Mattei and Frellsen 2019, arXiv:1812.02633).
      mask_input: whether q(z|x) also sees which entries were observed.
      fill: what q(z|x) sees in place of missing entries, of the shape of one x; by
        default 0.
      mask_model: p(s|x) for entries that are missing not at random, see
        `iwae_tf.models.masks`.
      **flows: `flow_hidden`, `flow_features` and `flow_normalisation`, see `Config`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: if the sizes do not fit the number of layers, if a conditional prior
        has no contexts, if there are flows and more than one layer, if a mask or values
        to fill in are given and no entries are missing, or if these values or the mean
        are not finite or of another shape.
    """
    _check_prior(conditional_prior, n_context)
    n_latent = tuple(n_latent or default_latents(stochastic_layers))
    n_hidden = tuple(n_hidden or default_hidden(stochastic_layers))
    rules.check_sizes("n_latent", n_latent, stochastic_layers)
    rules.check_sizes("n_hidden", n_hidden, stochastic_layers)
    rules.check_flows(n_flows, stochastic_layers)
    inputs = _inputs(missing, mask_input, fill, event_shape)
    keras.utils.set_random_seed(seed)
    widths = [(n, n) for n in n_hidden]
    likelihood = likelihood or likelihoods.Bernoulli()
    posterior = (
        _posterior(MLP(widths[0]), n_latent[0], 0, inputs, n_flows=n_flows, **flows)
        if n_flows
        else GaussianChain(widths, n_latent, inputs=inputs)
    )
    return IWAE(
        posterior,
        Chain(
            event_shape,
            widths,
            n_latent,
            output_bias=_output_bias(likelihood, mean),
            prior_widths=widths[-1] if conditional_prior else None,
            likelihood=likelihood,
            missing=missing,
            mask_model=mask_model,
        ),
        seed=seed,
        n_context=n_context,
    )


@first_names()
def sbn(
    event_shape: tuple[int, ...],
    stochastic_layers: int = 1,
    n_latent: Sequence[int] | None = None,
    mean: np.ndarray | None = None,
    seed: int = 123,
    n_context: int = 0,
    conditional_prior: bool = False,
    likelihood: likelihoods.Likelihood | None = None,
    missing: bool = False,
    mask_input: bool = False,
    fill: np.ndarray | None = None,
) -> IWAE:
    """A sigmoid belief network: binary latents, and no hidden units between them.

    Every logit is linear in the layer below in q, and in the layer above in p. The
    latents have no reparameterisation, so `compile` takes those objectives only that
    do without one, such as `vimco` and `rws`.

    Args:
      event_shape: see `burda`.
      stochastic_layers: L, the number of stochastic layers.
      n_latent: number of binary units of each layer, bottom-up; by default 200.
      mean: see `burda`.
      seed: see `burda`.
      n_context: see `burda`.
      conditional_prior: whether the logits of p(zL|y) are linear in y, in place of
        those of p(zL), which are trained as they are.
      likelihood: see `burda`.
      missing: see `burda`.
      mask_input: see `burda`.
      fill: see `burda`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: see `burda`.

    Reference:
      Neal 1992, Connectionist learning of belief networks, Artificial Intelligence 56;
      Mnih and Rezende 2016, arXiv:1602.06725.
    """
    _check_prior(conditional_prior, n_context)
    n_latent = tuple(n_latent or (200,) * stochastic_layers)
    rules.check_sizes("n_latent", n_latent, stochastic_layers)
    inputs = _inputs(missing, mask_input, fill, event_shape)
    keras.utils.set_random_seed(seed)
    likelihood = likelihood or likelihoods.Bernoulli()
    widths = [()] * stochastic_layers
    return IWAE(
        BernoulliChain(widths, n_latent, inputs=inputs),
        BeliefNetwork(
            event_shape,
            widths,
            n_latent,
            output_bias=_output_bias(likelihood, mean),
            prior_widths=() if conditional_prior else None,
            likelihood=likelihood,
            missing=missing,
        ),
        seed=seed,
        n_context=n_context,
    )


def _check_prior(conditional_prior, n_context):
    if conditional_prior and not n_context:
        raise UsageError("n_context: must be at least 1 for a conditional prior, got 0")


def _output_bias(likelihood, mean):
    """The initial bias of a likelihood's parameters, which fits the mean of data."""
    _check_finite(mean=mean)
    if mean is None:
        return "zeros"
    return keras.initializers.Constant(likelihood.initial_bias(np.ravel(mean)))


def default_latents(stochastic_layers: int) -> tuple[int, ...]:
    """The paper's latent sizes: 50, or 100 and 50; each further layer has half."""
    if stochastic_layers == 1:
        return (50,)
    return tuple(max(1, 100 >> level) for level in range(stochastic_layers))


def default_hidden(stochastic_layers: int) -> tuple[int, ...]:
    """The paper's hidden widths: 200, then 100; each further layer has half."""
    return tuple(max(1, 200 >> level) for level in range(stochastic_layers))
