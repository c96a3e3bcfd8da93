"""The posterior of one image over two latent units, drawn beside q."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from iwae_tf.plots.layout import (
    COLORS,
    DPI,
    MARGIN,
    TOP,
    WIDTH,
    Figure,
    add_axes,
    check_images,
    image_axes,
    literal_text,
    name_row,
    text_size,
    text_width,
    title_size,
)
from iwae_tf.plots.sheets import montage

_PLANE = 704  # largest width of a plane; this and the next five are in output pixels
_LEFT = 168  # space for the ticks and the label of a y axis
_AXIS = 115  # space for those of an x axis
_LEGEND = 150
_LINE = 40  # height of a line of the caption
_X = 60  # space for the name of x
_ROWS = "E[x|z], z ~ q(z|x)", "E[x|z], z by SIR"
_POSTERIOR, _Q, _SIR = COLORS[:3]
_MASSES = {0.5: "-", 0.9: "--", 0.99: ":"}
_LARGEST = 600  # area of a marker, in square points
_FLOOR = 50  # contours cut log densities off this many nats below the peak
_HALO = [withStroke(linewidth=4, foreground="white")]


@literal_text
def posterior_sheet(
    z1: np.ndarray,
    z2: np.ndarray,
    log_posterior: np.ndarray,
    log_q: np.ndarray,
    *,
    near: tuple[np.ndarray, np.ndarray, np.ndarray],
    q_samples: np.ndarray,
    sir_samples: np.ndarray,
    snis_mean: np.ndarray,
    grid_mean: np.ndarray,
    image: np.ndarray,
    of_q: np.ndarray,
    of_sir: np.ndarray,
    title: str,
    caption: str,
) -> Figure:
    """Draw p(z|x) of one image on two grids of two latent units, with q and samples.

    q may be much wider than p(z|x), so one grid has room for both, and the other covers
    only the mass of p(z|x). Contours bound regions of highest density: the fewest cells
    of a grid that hold 50, 90 and 99 % of the mass on it.

    Args:
      z1: `[n1]`, centres of the grid's columns, evenly spaced and rising.
      z2: `[n2]`, centres of the grid's rows, likewise.
      log_posterior: `[n2, n1]`, log p(z|x) in nats; -inf where there is no mass.
      log_q: `[n2, n1]`, log q(z|x) in nats; -inf where there is no mass.
      near: z1, z2 and log_posterior of the other grid.
      q_samples: `[s, 2]`, z ~ q(z|x); those outside a grid are only counted there.
      sir_samples: `[s, 2]`, z by sampling importance resampling, likewise.
      snis_mean: `[2]`, E[z|x] by self-normalised importance sampling.
      grid_mean: `[2]`, E[z|x] on the grid.
      image: `[height, width, channels]`, x, values in 0..1.
      of_q: `[r, height, width, channels]`, E[x|z] of some z ~ q(z|x).
      of_sir: `[r, height, width, channels]`, E[x|z] of some z by SIR.
      title: a description of the model.
      caption: one or two lines at the bottom, such as effective sample sizes.

    Returns:
      figure: p(z|x) with contours and samples of q; near its mass, contours of p(z|x)
        with all samples and both means; below them x and the two rows of mean images.

    Raises:
      ValueError: If an argument has another shape, an axis is not evenly spaced, or a
          density is nowhere finite or somewhere NaN or infinite.
    """
    z1, z2 = _check_axis("z1", z1), _check_axis("z2", z2)
    log_posterior = _check_density("log_posterior", log_posterior, (len(z2), len(z1)))
    log_q = _check_density("log_q", log_q, (len(z2), len(z1)))
    near_z1, near_z2 = (_check_axis(f"near z{i}", z) for i, z in enumerate(near[:2], 1))
    near_log_posterior = _check_density(
        "near log_posterior", near[2], (len(near_z2), len(near_z1))
    )
    means = {
        "mean on the grid": _check_shape("grid_mean", grid_mean, (2,)),
        "mean by SNIS": _check_shape("snis_mean", snis_mean, (2,)),
    }
    samples = {
        "z ~ q(z|x)": _check_shape("q_samples", q_samples, ("s", 2)),
        "z by SIR": _check_shape("sir_samples", sir_samples, ("s", 2)),
    }
    pictures = _check_pictures(image, of_q, of_sir)

    extents = [(*_edges(a), *_edges(b)) for a, b in ((z1, z2), (near_z1, near_z2))]
    ratios = [(high - low) / (right - left) for left, right, low, high in extents]
    widths = [_PLANE / max(1, ratio / 1.2) for ratio in ratios]
    heights = [width * ratio for width, ratio in zip(widths, ratios, strict=True)]
    labels = math.ceil(text_width(_ROWS, 9)) + 2 * MARGIN
    n_pixels = 2 * pictures[0].shape[1] + pictures[1].shape[1]
    scale = max(1, (WIDTH - 2 * MARGIN - _X - labels) // n_pixels)
    across = _X + labels + n_pixels * scale
    top = TOP + round(max(heights)) + _AXIS + _LEGEND
    bottom = top + len(pictures[1]) * scale + 2 * MARGIN
    lines = caption.splitlines()
    total = max(WIDTH, across + 2 * MARGIN)
    size = np.array([total, bottom + _LINE * len(lines) + MARGIN])

    figure = Figure(figsize=size / DPI, dpi=DPI)
    figure.suptitle(title, y=1 - 20 / size[1], va="top", fontsize=title_size(title))
    points = text_size(lines, 9, WIDTH - 2 * MARGIN)
    y = 1 - bottom / size[1]
    figure.text(0.5, y, caption, ha="center", va="top", fontsize=points)
    left = (total - WIDTH) // 2 + _LEFT
    planes = [
        add_axes(
            figure,
            left + i * (_LEFT + _PLANE) + (_PLANE - widths[i]) / 2,
            TOP,
            widths[i],
            heights[i],
        )
        for i in range(2)
    ]
    density = np.exp(log_posterior - log_posterior.max())
    planes[0].imshow(
        density, "Blues", extent=extents[0], origin="lower", interpolation="nearest"
    )
    for axes, extent in zip(planes, extents, strict=True):
        axes.set(xlabel="z₁", ylabel="z₂", xlim=extent[:2], ylim=extent[2:], aspect=1)
        axes.yaxis.labelpad = 1
        axes.tick_params(labelsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    planes[0].set_title("p(z|x) in blue, q(z|x) in contours", fontsize=11)
    planes[1].set_title("near the mass of p(z|x)", fontsize=11)
    q_samples = dict([next(iter(samples.items()))])
    handles = _contours(planes[0], z1, z2, log_q, _Q)
    for handle, mass in zip(handles, _MASSES, strict=True):
        handle.set_label(f"{mass:.0%} of q(z|x)".replace("%", " %"))
    handles += [_box(planes[0], extents[1]), *_draw_samples(planes[0], q_samples)]
    _legend(planes[0], handles)
    handles = _contours(planes[1], near_z1, near_z2, near_log_posterior, _POSTERIOR)[:1]
    handles[0].set_label("50, 90, 99 % of p(z|x)")
    handles += _draw_samples(planes[1], samples) + _draw_means(planes[1], means)
    _legend(planes[1], handles)
    _draw_pictures(figure, pictures, ((total - across) // 2, top), scale, labels)
    return figure


def _check_axis(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"{name} must be at least 2 values [n], got shape {values.shape}"
        )
    low, high = np.diff(values).min(), np.diff(values).max()
    if not (low > 0 and high - low <= 1e-3 * high):
        raise ValueError(
            f"{name} must be evenly spaced and rising,"
            f" got steps from {low:g} to {high:g}"
        )
    return values


def _check_density(name: str, values: np.ndarray, shape: tuple) -> np.ndarray:
    values = _check_shape(name, values, shape)
    if not (values < np.inf).all() or values.max() == -np.inf:
        raise ValueError(
            f"{name} must be finite or -inf, and somewhere finite,"
            f" got {np.isfinite(values).sum()} of {values.size} values finite"
            f" and {(values == -np.inf).sum()} -inf"
        )
    return values


def _check_shape(name: str, values: np.ndarray, shape: tuple) -> np.ndarray:
    values = np.asarray(values, float)
    wanted = [n for n in shape if n != "s"]
    if values.ndim != len(shape) or list(values.shape[-len(wanted) :]) != wanted:
        raise ValueError(
            f"{name} must be [{', '.join(map(str, shape))}], got shape {values.shape}"
        )
    return values


def _check_pictures(
    image: np.ndarray, of_q: np.ndarray, of_sir: np.ndarray
) -> list[np.ndarray]:
    """The image, and both rows of mean images in one."""
    image = check_images("image", image, "height, width, channels")
    of_q, of_sir = check_images("of_q", of_q), check_images("of_sir", of_sir)
    if not of_q.shape == of_sir.shape == (len(of_q), *image.shape):
        raise ValueError(
            "of_q and of_sir must be equally many images of the shape of image,"
            f" got {of_q.shape} and {of_sir.shape} for {image.shape}"
        )
    return [image, montage(np.concatenate([of_q, of_sir]), len(of_q))]


def _edges(centres: np.ndarray) -> tuple[float, float]:
    half = (centres[-1] - centres[0]) / (len(centres) - 1) / 2
    return centres[0] - half, centres[-1] + half


def _box(axes: Axes, extent: tuple[float, float, float, float]) -> Line2D:
    left, right, low, high = extent
    x, y = (left, right, right, left, left), (low, low, high, high, low)
    return axes.plot(x, y, color="0.3", linewidth=0.8, label="the plane beside")[0]


def _draw_means(axes: Axes, means: dict[str, np.ndarray]) -> list[Line2D]:
    handles = []
    for (name, mean), marker, size in zip(means.items(), "D+", (9, 11), strict=True):
        style = {"marker": marker, "markersize": size, "markerfacecolor": "none"}
        handles += axes.plot(
            *mean, color="black", linestyle="", label=name, path_effects=_HALO, **style
        )
    return handles


def _draw_samples(axes: Axes, samples: dict[str, np.ndarray]) -> list:
    box, handles = np.array([axes.get_xlim(), axes.get_ylim()]), []
    for (name, points), color, marker in zip(
        samples.items(), (_Q, _SIR), "o^", strict=False
    ):
        outside = ~((box[:, 0] <= points) & (points <= box[:, 1])).all(1)
        # Resampling repeats points; a marker has the area of all that it stands for.
        _, first, counts = np.unique(
            points, axis=0, return_index=True, return_counts=True
        )
        order = np.argsort(first)
        size = np.clip(3000 / max(len(points), 1), 3, 16)
        label = f"{len(points)} {name}"
        if len(first) < len(points) / 2:
            label += f" at {len(first)} points"
        elif outside.any():
            label += f", {outside.sum()} outside"
        style = {"edgecolors": color, "facecolors": color, "linewidths": 0.8}
        if marker == "o":
            style["facecolors"] = "none"
        axes.scatter(
            *points[first[order]].T,
            s=np.minimum(size * counts[order], _LARGEST),
            marker=marker,
            alpha=0.5,
            **style,
        )
        handles.append(
            axes.scatter([], [], s=size, marker=marker, alpha=0.5, label=label, **style)
        )
    return handles


def _contours(
    axes: Axes, z1: np.ndarray, z2: np.ndarray, log_density: np.ndarray, color: str
) -> list[Line2D]:
    """Draw the regions of highest density; the handles are in the order of _MASSES.

    The contours are those of the log density: it is quadratic for a normal density, so
    that interpolation between cells follows it closely.
    """
    log_density = np.maximum(log_density - log_density.max(), -_FLOOR)
    cells = np.sort(log_density, axis=None)[::-1]
    masses = np.cumsum(np.exp(cells))
    for mass, style in _MASSES.items():
        last = np.searchsorted(masses, mass * masses[-1])
        # half way to the next cell, so that a region of one cell has an outline
        level = cells[last : last + 2].mean()
        if -_FLOOR < level < 0:
            axes.contour(
                z1,
                z2,
                log_density,
                [level],
                colors=color,
                linestyles=style,
                linewidths=1.2,
            )
    return [Line2D([], [], color=color, linestyle=s) for s in _MASSES.values()]


def _legend(axes: Axes, handles: list) -> None:
    axes.legend(
        handles=handles,
        fontsize=8,
        ncols=2,
        loc="upper center",
        bbox_to_anchor=(0.5, -(_AXIS - MARGIN) / axes.get_window_extent().height),
    )


def _draw_pictures(
    figure: Figure,
    pictures: list[np.ndarray],
    corner: tuple[int, int],
    scale: int,
    labels: int,
) -> None:
    x, rows = pictures
    left, top = corner[0] + _X, corner[1]
    axes = image_axes(figure, x, left, top, 2 * scale)
    name_row(axes, "x", (len(x) - 1) / 2)
    left += 2 * scale * x.shape[1] + labels
    axes = image_axes(figure, rows, left, top, scale)
    for i, name in enumerate(_ROWS):
        name_row(axes, name, i * (len(x) + 1) + (len(x) - 1) / 2)
