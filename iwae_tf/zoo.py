"""Named constructors for each paper's networks."""

from collections.abc import Sequence

import keras
import numpy as np

from iwae_tf.config import Config, check_sizes
from iwae_tf.errors import UsageError
from iwae_tf.generators import BernoulliChain, WarpedBernoulli
from iwae_tf.model import IWAE
from iwae_tf.posteriors import GaussianChain

# Of the 60 latents of a model, those that place the image, and how.
SPATIAL = {"vae60": (0, None), "tvae_affine": (6, "affine"), "tvae_tps": (18, "spline")}


def build(
    config: Config,
    image_shape: tuple[int, int, int],
    n_context: int = 0,
    mean_image: np.ndarray | None = None,
) -> IWAE:
    """The networks that the options of a run name.

    Args:
      config: options of the run.
      image_shape: height, width, channels.
      n_context: size of the contexts, 0 for none.
      mean_image: see `burda`.

    Returns:
      model: not compiled.

    Raises:
      UsageError: see `burda`.
    """
    if config.model in SPATIAL:
        return spatial(config.model, tuple(image_shape), mean_image, config.seed)
    return burda(
        tuple(image_shape),
        config.stochastic_layers,
        config.n_latent,
        config.n_hidden,
        mean_image,
        config.seed,
        n_context,
        config.conditional_prior,
    )


def spatial(
    name: str,
    image_shape: tuple[int, int, int],
    mean_image: np.ndarray | None = None,
    seed: int = 123,
) -> IWAE:
    """A VAE with 60 latents, some of which may place the image: x-256-256-z-256-256-x.

    Hidden layers are rectified. `vae60` is plain; of `tvae_affine` 6 latents give an
    affine map, of `tvae_tps` 18 give the control points of a thin-plate spline, and
    their posterior means go through tanh.

    Args:
      name: a key of `SPATIAL`.
      image_shape: height, width, channels.
      mean_image: see `burda`.
      seed: of the initial weights and of the model's noise.

    Returns:
      model: not compiled.

    Reference:
      Jaderberg et al. 2015, arXiv:1506.02025.
    """
    n_placing, warp = SPATIAL[name]
    keras.utils.set_random_seed(seed)
    widths, n_latent = (256, 256), 60
    bias = "zeros" if mean_image is None else constant_logit(mean_image)
    posterior = GaussianChain([widths], [n_latent], "relu", n_placing)
    if warp is None:
        generator = BernoulliChain(
            image_shape, [widths], [n_latent], bias, activation="relu"
        )
    else:
        generator = WarpedBernoulli(
            image_shape, widths, n_latent, n_placing, warp, bias, "relu"
        )
    return IWAE(posterior, generator, seed)


def burda(
    image_shape: tuple[int, int, int],
    stochastic_layers: int = 1,
    n_latent: Sequence[int] | None = None,
    n_hidden: Sequence[int] | None = None,
    mean_image: np.ndarray | None = None,
    seed: int = 123,
    n_context: int = 0,
    conditional_prior: bool = False,
) -> IWAE:
    """The networks of Burda et al. 2016: two tanh layers per stochastic layer.

    One stochastic layer: x-200-200-z50-200-200-x. Two: x-200-200-z100-100-100-z50 and
    back. More layers go on halving both sizes. With contexts y, log p(x|y) is modelled
    (Sohn et al. 2015): y is appended to the input of every network.

    Args:
      image_shape: height, width, channels.
      stochastic_layers: L.
      n_latent: latent size of each layer, bottom-up.
      n_hidden: hidden units beside each layer, bottom-up.
      mean_image: mean of the training images, 0..1, of which the logits are the
        initial output bias.
      seed: of the initial weights and of the model's noise.
      n_context: size of the contexts, 0 for none.
      conditional_prior: whether p(zL|y) is a Gaussian with a network of its own, as
        wide as the one below it, and not standard normal.

    Returns:
      model: not compiled.

    Raises:
      UsageError: if the sizes do not fit the number of layers, or a prior has nothing
        to be conditional on.
    """
    if conditional_prior and not n_context:
        raise UsageError("n_context: must be at least 1 for a conditional prior, got 0")
    n_latent = tuple(n_latent or default_latents(stochastic_layers))
    n_hidden = tuple(n_hidden or default_hidden(stochastic_layers))
    check_sizes("n_latent", n_latent, stochastic_layers)
    check_sizes("n_hidden", n_hidden, stochastic_layers)
    keras.utils.set_random_seed(seed)
    widths = [(n, n) for n in n_hidden]
    bias = "zeros" if mean_image is None else constant_logit(mean_image)
    return IWAE(
        GaussianChain(widths, n_latent),
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


def pretrained(name: str) -> IWAE:
    """A trained model that comes with the package.

    Args:
      name: a key of `iwae_tf.pretrained.SHA256`, such as `mnist_iwae_1l_z2_k50`.

    Returns:
      model: not compiled.

    Raises:
      UsageError: for an unknown name or a damaged file.
    """
    from iwae_tf import pretrained

    return pretrained.load(name)


def default_latents(stochastic_layers: int) -> tuple[int, ...]:
    """The paper's latent sizes: 50, or 100 and 50; then halved on."""
    if stochastic_layers == 1:
        return (50,)
    return tuple(max(1, 100 >> level) for level in range(stochastic_layers))


def default_hidden(stochastic_layers: int) -> tuple[int, ...]:
    """The paper's hidden widths: 200, then 100; then halved on."""
    return tuple(max(1, 200 >> level) for level in range(stochastic_layers))


def constant_logit(mean_image: np.ndarray) -> keras.initializers.Initializer:
    """An initializer with the logits of a mean image, kept off 0 and 1 by 0.001."""
    mean = np.clip(np.ravel(mean_image).astype(np.float64), 0.001, 0.999)
    return keras.initializers.Constant(np.log(mean / (1 - mean)))
