"""Named constructors for each paper's networks."""

import collections
import contextlib
import math
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras.src.backend.common import global_state

from iwae_tf import rules
from iwae_tf.errors import UsageError, check_one_of
from iwae_tf.models.generators import BernoulliChain, WarpedBernoulli
from iwae_tf.models.iwae import IWAE
from iwae_tf.models.networks import (
    MLP,
    Bias,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    DenseNet,
)
from iwae_tf.models.posteriors import FlowPosterior, GaussianChain

# How many of the 60 latents place the image, and by which warp.
SPATIAL = {"vae60": (0, None), "tvae_affine": (6, "affine"), "tvae_tps": (18, "spline")}


@contextlib.contextmanager
def _first_names() -> Iterator[None]:
    """Has Keras name layers as in a new process, whatever was made before.

    Keras counts the layers of a process in their names. Without XLA, TensorFlow adds
    three or more gradients of one tensor in the order of their names, and `dense_10`
    comes before `dense_9`. So the last bits of a run would depend on earlier models.
    """
    key = "object_name_uids"
    before = global_state.get_global_attribute(key)
    global_state.set_global_attribute(key, collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(key, before)


def build(
    image_shape: tuple[int, int, int],
    n_context: int = 0,
    mean_image: np.ndarray | None = None,
    *,
    model: str = "burda",
    stochastic_layers: int = 1,
    n_latent: Sequence[int] | None = None,
    n_hidden: Sequence[int] | None = None,
    feature_maps: int | None = None,
    conditional_prior: bool = False,
    n_bounded: int = 0,
    seed: int = 123,
    **flows,
) -> IWAE:
    """Builds a model by name; the arguments have the names of the fields of `Config`.

    Args:
      image_shape: height, width, channels.
      n_context: size of the contexts; 0 for no contexts.
      mean_image: see `burda`; other networks do not use it.
      model: `burda`, a key of `SPATIAL`, `dense`, `gated` or `resnet`.
      stochastic_layers: see `burda`.
      n_latent: see `burda` and `deep`.
      n_hidden: see `burda` and `deep`.
      feature_maps: see `deep`.
      conditional_prior: see `burda`.
      n_bounded: see `spatial`.
      seed: random seed for the initial weights and the model's noise.
      **flows: `n_flows` and its options, see `burda`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: for an unknown name; see `burda` and `deep` too.
    """
    check_one_of(rules.MODELS, model=model)
    shape = tuple(image_shape)
    if model in SPATIAL:
        return spatial(model, shape, seed, n_bounded, **flows)
    if model in rules.DEEP:
        return deep(model, shape, n_latent, n_hidden, feature_maps, seed, **flows)
    return burda(
        shape,
        stochastic_layers,
        n_latent,
        n_hidden,
        mean_image,
        seed,
        n_context,
        conditional_prior,
        **flows,
    )


def _posterior(network, d, n_bounded=0, *, n_flows=0, **flows):
    """A posterior of one layer, with or without flows; options are as in `Config`."""
    if not n_flows:
        return GaussianChain((), [d], n_bounded=n_bounded, networks=[network])
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
    )


@_first_names()
def deep(
    name: str,
    image_shape: tuple[int, int, int],
    n_latent: Sequence[int] | None = None,
    n_hidden: Sequence[int] | None = None,
    feature_maps: int | None = None,
    seed: int = 123,
    n_flows: int = 8,
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
      image_shape: height, width, channels.
      n_latent: latent size; the default is 64.
      n_hidden: number of hidden units in a layer of `dense`; the default is 300.
      feature_maps: number of feature maps of the convolutions; the default is 64.
      seed: random seed for the initial weights and the model's noise.
      n_flows: number of flow steps; 0 for a Gaussian.
      **flows: `flow_hidden`, `flow_features` and `flow_normalisation`, see `Config`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: if images for convolutions have sides that are not multiples of 4.

    Reference:
      Kingma et al. 2016, arXiv:1606.04934; van den Berg et al. 2018, arXiv:1803.05649.
    """
    height, width, _ = image_shape
    if name in rules.CONVOLUTIONAL and (height % 4 or width % 4):
        raise UsageError(
            "dataset: must have images whose sides are multiples of 4 for model "
            f"{name}, got {height}x{width}"
        )
    keras.utils.set_random_seed(seed)
    (d,), (hidden,) = n_latent or (64,), n_hidden or (300,)
    if name == "dense":
        encoder, decoder = (DenseNet((hidden, hidden), "elu") for _ in range(2))
        head = None
    else:
        options = (image_shape, name, feature_maps or 64)
        n_features = {"resnet": 450, "gated": 256}[name]
        encoder = ConvolutionalEncoder(*options, n_features)
        decoder = ConvolutionalDecoder(*options, n_features)
        head = Bias(math.prod(image_shape))
    return IWAE(
        _posterior(encoder, d, n_flows=n_flows, **flows),
        BernoulliChain(image_shape, [()], [d], pixels=decoder, head=head),
        seed,
    )


@_first_names()
def spatial(
    name: str,
    image_shape: tuple[int, int, int],
    seed: int = 123,
    n_bounded: int = 0,
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
    posterior = _posterior(MLP(widths, "relu"), n_latent, n_bounded, **flows)
    if warp is None:
        generator = BernoulliChain(image_shape, [widths], [n_latent], activation="relu")
    else:
        generator = WarpedBernoulli(
            image_shape, widths, n_latent, n_placing, warp, "relu"
        )
    return IWAE(posterior, generator, seed)


@_first_names()
def burda(
    image_shape: tuple[int, int, int],
    stochastic_layers: int = 1,
    n_latent: Sequence[int] | None = None,
    n_hidden: Sequence[int] | None = None,
    mean_image: np.ndarray | None = None,
    seed: int = 123,
    n_context: int = 0,
    conditional_prior: bool = False,
    n_flows: int = 0,
    **flows,
) -> IWAE:
    """The networks of Burda et al. 2016: two tanh layers per stochastic layer.

    One stochastic layer: x-200-200-z50-200-200-x. Two: x-200-200-z100-100-100-z50 and
    back. Each further layer halves both sizes. With contexts y, the model is one of
    log p(x|y) (Sohn et al. 2015): y is appended to the input of every network.

    Args:
      image_shape: height, width, channels.
      stochastic_layers: L, the number of stochastic layers.
      n_latent: latent size of each layer, bottom-up.
      n_hidden: number of hidden units beside each layer, bottom-up.
      mean_image: mean of the training images, 0..1; its logits are the initial output
        bias.
      seed: random seed for the initial weights and the model's noise.
      n_context: size of the contexts; 0 for no contexts.
      conditional_prior: whether p(zL|y) is a Gaussian from its own network, as wide as
        the one below it, in place of a standard normal.
      n_flows: number of steps of inverse autoregressive flow in q, for one layer only.
      **flows: `flow_hidden`, `flow_features` and `flow_normalisation`, see `Config`.

    Returns:
      model: the model, not compiled.

    Raises:
      UsageError: if the sizes do not fit the number of layers, if a conditional prior
        has no contexts, or if there are flows and more than one layer.
    """
    if conditional_prior and not n_context:
        raise UsageError("n_context: must be at least 1 for a conditional prior, got 0")
    n_latent = tuple(n_latent or default_latents(stochastic_layers))
    n_hidden = tuple(n_hidden or default_hidden(stochastic_layers))
    rules.check_sizes("n_latent", n_latent, stochastic_layers)
    rules.check_sizes("n_hidden", n_hidden, stochastic_layers)
    rules.check_flows(n_flows, stochastic_layers)
    keras.utils.set_random_seed(seed)
    widths = [(n, n) for n in n_hidden]
    bias = "zeros" if mean_image is None else constant_logit(mean_image)
    posterior = (
        _posterior(MLP(widths[0]), n_latent[0], n_flows=n_flows, **flows)
        if n_flows
        else GaussianChain(widths, n_latent)
    )
    return IWAE(
        posterior,
        BernoulliChain(
            image_shape,
            widths,
            n_latent,
            output_bias=bias,
            prior_widths=widths[-1] if conditional_prior else None,
        ),
        seed=seed,
        n_context=n_context,
    )


def default_latents(stochastic_layers: int) -> tuple[int, ...]:
    """The paper's latent sizes: 50, or 100 and 50; each further layer has half."""
    if stochastic_layers == 1:
        return (50,)
    return tuple(max(1, 100 >> level) for level in range(stochastic_layers))


def default_hidden(stochastic_layers: int) -> tuple[int, ...]:
    """The paper's hidden widths: 200, then 100; each further layer has half."""
    return tuple(max(1, 200 >> level) for level in range(stochastic_layers))


def constant_logit(mean_image: np.ndarray) -> keras.initializers.Initializer:
    """An initializer with the logits of a mean image, clipped to 0.001..0.999."""
    mean = np.clip(np.ravel(mean_image).astype(np.float64), 0.001, 0.999)
    return keras.initializers.Constant(np.log(mean / (1 - mean)))
