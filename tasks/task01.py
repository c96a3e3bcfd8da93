"""Task 01: the true posterior p(z|x) beside q(z|x) in two dimensions.

Trains an IWAE with a two-dimensional latent. For one test image of each label, p(z|x)
is evaluated and normalised on a grid, without sampling. From draws of q(z|x) alone,
importance sampling estimates its mean (SNIS) and draws samples from it (SIR).

    python tasks/task01.py [--epochs 50] [--n_samples 50] [--smoke]
"""

import numpy as np

import iwae_tf
from iwae_tf import cli, plots
from iwae_tf.runs import results

N_DRAWS = 5000  # number of draws from q, for SNIS and SIR
N_SEEDS = 20  # number of estimates of log p(x), each by as many draws
N_SHOWN = 300
N_PICTURES = 10


def main(task):
    """Trains or takes a model; writes a figure for each image, a GIF and a table."""
    run = task.only_given() or task.run(n_latent=(2,))
    is_fit = run.model.posterior.n_latent == (2,) and not run.model.n_context
    task.require(run, is_fit, "a run with --n_latent 2 and without labels")
    chosen = one_of_each(task.images.test_labels)[: 2 if task.is_smoke else None]
    sheets, rows = [], []
    for place, number in enumerate(chosen):
        figure, row = look(run, task.x_test[number], number)
        sheets.append(task.path(f"-image{number}.png"))
        plots.save(figure, sheets[-1])
        rows.append(row)
        print(f"image {place + 1} of {len(chosen)}: {sheets[-1]}", flush=True)
    plots.animate(sheets, task.path(".gif"), 2.0, shrink=2)
    header = (
        "test image | log p(x), grid | by 5,000 samples | of 20 seeds: lowest to "
        "highest | ESS | mean on the grid | SNIS mean, error in SE | SIR mean, error "
        "in SE"
    )
    table = results.markdown(header, "--:|--:|--:|--:|--:|---|---|---", rows)
    task.finish(table, title=run.title)


def one_of_each(labels):
    """Indices of the first image of each label, or of ten images without labels."""
    if labels is None:
        return np.arange(10)
    return np.unique(labels, return_index=True)[1]


def look(run, x, number):
    """The figure and the row of the table for one image."""
    inspection, seed_of = iwae_tf.inspection, iwae_tf.randomness.seed_of
    model, images = run.model, x[None]
    seed = run.figure_seed(int(number))
    draws = model.draw(images, N_DRAWS, seed)
    ess = float(iwae_tf.weights.effective_sample_size(draws.log_w())[0])
    log_px = float(iwae_tf.weights.log_mean_exp(draws.log_w())[0])
    copies = np.repeat(images, N_SEEDS, axis=0)
    of_seeds = model.draw(copies, N_DRAWS, seed_of(seed, 2))
    log_pxs = iwae_tf.weights.log_mean_exp(of_seeds.log_w()).numpy()
    extremes = f"{log_pxs.min():.2f} to {log_pxs.max():.2f}"
    snis = inspection.snis_mean(draws)[0][0].numpy()
    error = inspection.snis_standard_error(draws)[0][0].numpy()
    resampled = inspection.sir(draws, N_DRAWS, seed_of(seed, 1))[0]
    sir_mean = resampled[:, 0].numpy().mean(axis=0)

    whole = np.array(inspection.limits_of_mass(model, x))
    near = np.array(inspection.limits_of_mass(model, x, outside=1e-2))
    of_q = draws.zs[0][:, 0].numpy()
    of_both = [near[:, 0], near[:, 1], *np.quantile(of_q, (0.001, 0.999), axis=0)]
    far = np.stack([np.min(of_both, axis=0), np.max(of_both, axis=0)], axis=1)
    grid, shown, wide = (
        inspection.posterior_on_grid(model, x, square(box))
        for box in (whole, near, far)
    )
    log_q = model.weigh(images, wide.cells).log_qz.numpy()
    mean = grid.mean()
    # The SIR mean has the noise of the draws and that of resampling them.
    sir_error = np.sqrt(error**2 + np.diag(grid.covariance()) / N_DRAWS)
    estimates = [
        f"{point(found)}, {point((found - mean) / e, 1)}"
        for found, e in ((snis, error), (sir_mean, sir_error))
    ]
    figure = plots.posterior_sheet(
        wide.z1,
        wide.z2,
        wide.log_density,
        log_q.reshape(wide.log_density.shape),
        near=(shown.z1, shown.z2, shown.log_density),
        q_samples=of_q[:N_SHOWN],
        sir_samples=resampled[:N_SHOWN, 0].numpy(),
        snis_mean=snis,
        grid_mean=mean,
        image=x,
        of_q=model.generator.mean((draws.zs[0][:N_PICTURES],)).numpy()[:, 0],
        of_sir=model.generator.mean((resampled[:N_PICTURES],)).numpy()[:, 0],
        title=f"{run.title} · test image {number}",
        caption=(
            f"effective sample size {ess:,.0f} of {N_DRAWS:,} · E[z|x] by SNIS "
            f"{point(snis)} ± {point(error)}, on the grid {point(mean)}\n"
            f"log p(x) = {log_px:.2f} nats by {N_DRAWS:,} samples of q, {extremes} "
            f"with {N_SEEDS} other seeds, {grid.log_px:.2f} on the grid"
        ).replace("-", "\N{MINUS SIGN}"),
    )
    row = (number, f"{grid.log_px:.2f}", f"{log_px:.2f}", extremes, f"{ess:,.0f}")
    return figure, (*row, point(mean), *estimates)


def square(box):
    """A square around a box [2, 2], with the same centre and 5 % larger."""
    half = 1.05 * (box[:, 1] - box[:, 0]).max() / 2
    centre = box.mean(axis=1)
    return np.stack([centre - half, centre + half], axis=1).tolist()


def point(z, digits=3):
    """A pair of numbers as text."""
    return f"({z[0]:.{digits}f}, {z[1]:.{digits}f})"


if __name__ == "__main__":
    cli.task(
        main,
        __file__,
        epochs=50,
        n_samples=50,
        run_dir="one run with a single latent of size 2.",
    )
