"""The figures of a run, during training and at its end."""

from collections.abc import Callable

import numpy as np

from iwae_tf import data, plots, randomness
from iwae_tf.models.iwae import IWAE
from iwae_tf.runs import names, scoring, training
from iwae_tf.runs.config import Config
from iwae_tf.runs.metrics import Metrics
from iwae_tf.runs.rows import best_of
from iwae_tf.runs.run import Run

N_SAMPLES_SHOWN = 40
N_RECONSTRUCTIONS_SHOWN = 50
N_FEATURES_SHOWN = 12
N_DRAWN = 1000  # number of vectors, at most, whose marginals are shown
N_WATCHED = 500  # number of test images, at most, for statistics during training


def painter(
    this: Run, model: IWAE, config: Config, sets: data.Sets, metrics: Metrics
) -> Callable[[int], None]:
    """Makes a function that draws samples and reconstructions after an epoch.

    The samples of data that are no images are shown by histograms of their features.

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
    of_all = "" if config.may_grow else f" of {config.epochs}"
    is_of_images = sets.x_test.ndim == 4
    n = N_SAMPLES_SHOWN if is_of_images else min(N_DRAWN, len(sets.x_test))
    context = sets.contexts_shown(n)
    directory = this.directory / "figures"
    directory.mkdir(exist_ok=True)

    def paint(epoch):
        samples, means = (part.numpy() for part in model.sample(n, seed, context))
        title = f"{names.caption(config)} · epoch {epoch}{of_all}"
        if is_of_images:
            sheet = plots.sample_sheet(samples, means, title)
            metrics.write_image("samples", plots.montage(samples, 10))
            metrics.write_image("means", plots.montage(means, 10))
            pairs = np.stack(reconstructions(model, config, sets), axis=1)
            pairs = pairs.reshape(-1, *pairs.shape[2:])
            if config.missing:
                pairs = plots.missing_in_blue(pairs)
            metrics.write_image("reconstructions", plots.montage(pairs, 10))
        else:
            sheet = _marginals(samples, sets.x_test, title)
        plots.save(sheet, directory / _page(epoch, config))
        metrics.write_units(scoring.unit_statistics(model, config, sets, N_WATCHED))

    return paint


def _page(epoch, config):
    """The name of the page of an epoch; the order of names is that of epochs."""
    return f"samples-{epoch:0{len(str(config.epochs))}}.png"


def _arrange(directory, config, last):
    """Names pages anew if the epochs have grown, and removes that of the old last."""
    lasts = {last, config.epochs}
    for path in [*directory.glob("samples-*.png")]:
        epoch = path.stem.removeprefix("samples-")
        if not epoch.isdecimal():
            continue
        if any(training.is_watched(int(epoch), last) for last in lasts):
            path.replace(directory / _page(int(epoch), config))
        else:
            path.unlink()


def _marginals(samples, x_test, title):
    """Histograms of some features of samples and of as many test data."""
    chosen = data.spread(len(x_test), len(samples))
    of_test, of_samples = (x.reshape(len(x), -1) for x in (x_test[chosen], samples))
    panels = [
        plots.Histogram(
            f"feature {feature + 1}",
            "",
            {"test data": of_test[:, feature], "samples": of_samples[:, feature]},
            log=False,
            ylabel="observations",
        )
        for feature in data.spread(of_test.shape[1], N_FEATURES_SHOWN)
    ]
    return plots.histogram_sheet(_in_rows(panels), title)


def _scatters(x, means, title):
    """E[x|z] of some features against x; missing entries are left out."""
    x, means = (part.reshape(len(part), -1) for part in (x, means))
    panels = [
        plots.Scatter(
            f"feature {feature + 1}",
            "x",
            "E[x|z]",
            np.stack([x[:, feature], means[:, feature]], axis=1),
        )
        for feature in data.spread(x.shape[1], N_FEATURES_SHOWN)
    ]
    n_columns = len(_in_rows(panels)[0])
    while len(panels) % n_columns:  # every row of this sheet is full
        n_columns -= 1
    return plots.scatter_sheet(_in_rows(panels, n_columns), title)


def _in_rows(panels, n_columns=4):
    return [panels[i : i + n_columns] for i in range(0, len(panels), n_columns)]


def reconstructions(
    model: IWAE, config: Config, sets: data.Sets, n: int = N_RECONSTRUCTIONS_SHOWN
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced test data, and E[x|z] for one z ~ q(z|x) of each.

    Returns:
      x: [n, *event_shape].
      means: E[x|z], of the same shape.
    """
    chosen = data.spread(len(sets.x_test), n)
    x = sets.x_test[chosen]
    context = sets.context_test[chosen] if sets.n_context else None
    seed = randomness.seed_of(config.seed, randomness.FIGURES, 1)
    return x, model.reconstruct(x, seed, context).numpy()


def draw(this: Run, model: IWAE, config: Config, sets: data.Sets) -> None:
    """Writes the final figures of a run: reconstructions, curves, a GIF of samples.

    With early stopping, the GIF ends at the best epoch.

    Args:
      this: the run, with its metrics and the pages of `painter`.
      model: the trained model.
      config: options of the run.
      sets: holds the test images.
    """
    rows, last = this.rows(), config.epochs
    epochs = names.epochs(last)
    if config.early_stopping:
        last = int(best_of(rows)["epoch"])
        epochs = names.epochs(int(rows[-1]["epoch"]), last)
    title = f"{names.caption(config)} · {epochs}"
    if sets.x_test.ndim == 4:
        pair = reconstructions(model, config, sets)
        sheet = plots.reconstruction_sheet(*pair, title)
    else:
        sheet = _scatters(*reconstructions(model, config, sets, N_DRAWN), title)
    plots.save(sheet, this.directory / "reconstructions.png")
    if rows:
        curves = plots.training_curves(rows, title, config.n_samples)
        plots.save(curves, this.directory / "curves.png")
    _arrange(this.directory / "figures", config, last)
    frames = [
        path
        for path in this.kept("figures/samples-*.png", plots.read_png)
        if path.name <= _page(last, config)
    ]
    if frames:
        plots.animate(frames, this.directory / "samples.gif", shrink=plots.SHRINK)
