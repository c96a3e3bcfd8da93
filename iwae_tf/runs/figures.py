"""The figures of a run, during training and at its end."""

from collections.abc import Callable

import numpy as np

from iwae_tf import data, plots, randomness
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs import names, scoring
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import Metrics
from iwae_tf.runs.run import Run

N_SAMPLES_SHOWN = 100
N_RECONSTRUCTIONS_SHOWN = 50
N_WATCHED = 500  # number of test images, at most, for statistics during training


def painter(
    this: Run, model: IWAE, config: Config, sets: data.Sets, metrics: Metrics
) -> Callable[[int], None]:
    """Makes a function that draws samples and reconstructions after an epoch.

    Args:
      this: the run; gets one page of samples in `figures/` at each call.
      model: the model to draw from.
      config: options of the run.
      sets: holds the test images.
      metrics: gets the pictures and the statistics of units for TensorBoard.

    Returns:
      paint: takes the number of epochs done.
    """
    seed = randomness.seed_of(config.seed, randomness.FIGURES)
    digits = len(str(config.epochs))
    context = None
    if sets.n_context:  # every class, one after another
        place = np.arange(N_SAMPLES_SHOWN) * sets.n_context // N_SAMPLES_SHOWN
        context = np.eye(sets.n_context, dtype=np.float32)[place]
    directory = this.directory / "figures"
    directory.mkdir(exist_ok=True)

    def paint(epoch):
        samples, means = (
            part.numpy() for part in model.sample(N_SAMPLES_SHOWN, seed, context)
        )
        sheet = plots.sample_sheet(
            samples,
            means,
            f"{names.caption(config)} · epoch {epoch} of {config.epochs}",
        )
        plots.save(sheet, directory / f"samples-{epoch:0{digits}}.png")
        metrics.write_images("samples", plots.montage(samples, 10))
        metrics.write_images("means", plots.montage(means, 10))
        pairs = np.stack(reconstructions(model, config, sets), axis=1)
        pairs = pairs.reshape(-1, *pairs.shape[2:])
        metrics.write_images("reconstructions", plots.montage(pairs, 10))
        metrics.write_units(scoring.unit_statistics(model, config, sets, N_WATCHED))

    return paint


def reconstructions(
    model: IWAE, config: Config, sets: data.Sets
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced test images, and E[x|z] for one z ~ q(z|x) of each.

    Returns:
      x: [n, height, width, channels].
      means: E[x|z], of the same shape.
    """
    chosen = data.spread(len(sets.x_test), N_RECONSTRUCTIONS_SHOWN)
    x = sets.x_test[chosen]
    context = sets.context_test[chosen] if sets.n_context else None
    seed = randomness.seed_of(config.seed, randomness.FIGURES, 1)
    return x, model.reconstruct(x, seed, context).numpy()


def draw(this: Run, model: IWAE, config: Config, sets: data.Sets) -> None:
    """Writes the final figures of a run: reconstructions, curves, a GIF of samples.

    Args:
      this: the run, with its metrics and the pages of `painter`.
      model: the trained model.
      config: options of the run.
      sets: holds the test images.
    """
    title = f"{names.caption(config)} · {names.epochs(config.epochs)}"
    sheet = plots.reconstruction_sheet(*reconstructions(model, config, sets), title)
    plots.save(sheet, this.directory / "reconstructions.png")
    rows = this.rows()
    if rows:
        curves = plots.training_curves(rows, title)
        plots.save(curves, this.directory / "curves.png")
    frames = list(this.kept("figures/samples-*.png", plots.read_png))
    if frames:
        plots.animate(frames, this.directory / "samples.gif")
