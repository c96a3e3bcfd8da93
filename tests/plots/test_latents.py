"""The sheet of one exact posterior: contours of known mass, places of what is drawn."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from test_sheets import TITLE, check_page, drawn_texts

from iwae_tf import plots

Z1, Z2 = np.linspace(-5, 5, 201), np.linspace(-4, 4, 161)
CAPTION = "effective sample size 1,204 of 5,000\nlog p(x) = −86.31 ± 0.02 nats"
MASSES = 0.5, 0.9, 0.99


def normal(z1, z2, loc, scale):
    a, b = np.meshgrid((z1 - loc[0]) / scale[0], (z2 - loc[1]) / scale[1])
    return -(a**2 + b**2) / 2 - np.log(2 * np.pi * scale[0] * scale[1])


def banana(z1, z2):
    a, b = np.meshgrid(z1, z2)
    log_p = -((a / 1.1) ** 2 + ((b - 0.6 * a**2 + 1.2) / 0.35) ** 2) / 2
    return log_p - np.log(np.exp(log_p).sum() * (z1[1] - z1[0]) * (z2[1] - z2[0]))


def arguments(z1=Z1, z2=Z2, size=28, channels=1, **others):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 6, (11, size, size, channels)) / 5
    return {
        "z1": z1,
        "z2": z2,
        "log_posterior": banana(z1, z2),
        "log_q": normal(z1, z2, (0.5, -0.25), (1, 0.5)),
        "near": (z1, z2, banana(z1, z2)),
        "q_samples": rng.normal(size=(40, 2)),
        "sir_samples": rng.normal(size=(30, 2)) / 2,
        "snis_mean": [0.1, -0.6],
        "grid_mean": [0.0, -0.5],
        "image": images[0],
        "of_q": images[1:6],
        "of_sir": images[6:],
        "title": TITLE,
        "caption": CAPTION,
    } | others


def contours(axes):
    return [each for each in axes.collections if hasattr(each, "levels")]


def vertices(contour):
    return np.concatenate([path.vertices for path in contour.get_paths()])


def test_contours_of_a_normal_q_are_ellipses_of_the_radius_of_their_mass():
    loc, scale = np.array([0.5, -0.25]), np.array([1, 0.5])
    axes = plots.posterior_sheet(**arguments()).axes[0]
    drawn = contours(axes)
    assert len(drawn) == 3
    for contour, mass in zip(drawn, MASSES, strict=True):
        radius = np.linalg.norm((vertices(contour) - loc) / scale, axis=1)
        np.testing.assert_allclose(radius, np.sqrt(-2 * np.log(1 - mass)), rtol=0.01)


def test_contours_of_the_posterior_hold_their_mass_and_no_cell_more():
    log_p = banana(Z1, Z2)
    cells = np.exp(log_p) / np.exp(log_p).sum()
    drawn = contours(plots.posterior_sheet(**arguments()).axes[1])
    for contour, mass in zip(drawn, MASSES, strict=True):
        inside = cells[log_p - log_p.max() >= contour.levels[0]]
        assert inside.sum() >= mass
        assert inside[inside > inside.min() * (1 + 1e-9)].sum() < mass
        # the line itself runs where the density has that level
        a, b = vertices(contour).T
        exact = -((a / 1.1) ** 2 + ((b - 0.6 * a**2 + 1.2) / 0.35) ** 2) / 2
        np.testing.assert_allclose(exact, contour.levels[0], atol=0.15)


def test_masses_and_densities_have_their_own_dashes_and_colours():
    figure = plots.posterior_sheet(**arguments())
    for axes, color in zip(figure.axes, ("#D55E00", "#0072B2"), strict=False):
        drawn = contours(axes)
        assert {to_hex(each.get_edgecolor()[0]).upper() for each in drawn} == {color}
        assert len({str(each.get_linestyle()) for each in drawn}) == 3
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "50 % of q(z|x)",
        "90 % of q(z|x)",
        "99 % of q(z|x)",
        "the plane beside",
        "40 z ~ q(z|x)",
    ]
    handles = legend.legend_handles
    assert len({h.get_linestyle() for h in handles[:3]}) == 3
    means = figure.axes[1].get_legend().legend_handles[-2:]
    assert means[0].get_marker() != means[1].get_marker()


def point(row, column):
    log_q = np.full((len(Z2), len(Z1)), -np.inf)
    log_q[row, column] = 7
    return log_q


@pytest.mark.parametrize(
    "log_q",
    [
        point(80, 100),
        point(0, 0),
        normal(Z1, Z2, (0.01, 0.02), (1e-3, 1e-3)),
        normal(Z1, Z2, (0.025, 0.025), (1e-2, 1e-2)),
        np.zeros((len(Z2), len(Z1))),
        np.where(normal(Z1, Z2, (0, 0), (1, 1)) > -4, 0, -np.inf),
        normal(Z1, Z2, (300, 0), (1, 1)),
    ],
)
def test_any_density_can_be_drawn_without_a_warning(log_q, tmp_path):
    near = (Z1, Z2, log_q)
    given = arguments(log_q=log_q, log_posterior=log_q, near=near)
    plots.save(plots.posterior_sheet(**given), tmp_path / "a.png")


def test_a_point_within_one_cell_is_outlined_there():
    drawn = contours(plots.posterior_sheet(**arguments(log_q=point(80, 100))).axes[0])
    assert len(drawn) == 3
    for contour in drawn:
        offset = vertices(contour) - [Z1[100], Z2[80]]
        assert (abs(offset) < 0.05).all() and (abs(offset).max(0) > 0.02).all()


def test_density_lies_where_its_axes_say(tmp_path):
    z1, z2 = np.linspace(-2, 2, 9), np.linspace(0, 3, 7)
    log_p = np.full((7, 9), -np.inf)
    log_p[5, 1] = 0
    near = (z1 / 2, z2 / 3, log_p)
    figure = plots.posterior_sheet(**arguments(z1, z2, log_posterior=log_p, near=near))
    plots.save(figure, tmp_path / "a.png")
    left, right = figure.axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), np.exp(log_p))
    assert left.get_xlim() == (-2.25, 2.25) and left.get_ylim() == (-0.25, 3.25)
    np.testing.assert_allclose(right.get_xlim(), (-1.125, 1.125))
    np.testing.assert_allclose(right.get_ylim(), (-0.25 / 3, 3.25 / 3))
    (box,) = [line for line in left.lines if line.get_label() == "the plane beside"]
    x, y = box.get_xydata().T
    np.testing.assert_allclose([x.min(), x.max()], right.get_xlim())
    np.testing.assert_allclose([y.min(), y.max()], right.get_ylim())
    for axes in (left, right):
        assert axes.get_aspect() == 1
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("z₁", "z₂")
    with Image.open(tmp_path / "a.png") as page:
        page = np.asarray(page.convert("RGB"))
    dark = left.images[0].cmap(1.0, bytes=True)[:3]
    y, x = np.nonzero((page[: int(figure.bbox.height) // 2] == dark).all(-1))
    box = [[x.min(), x.max() + 1], [y.max() + 1, y.min()]]
    box[1] = [figure.bbox.height - value for value in box[1]]
    corners = left.transData.inverted().transform(np.transpose(box))
    np.testing.assert_allclose(corners, [[-1.75, 2.25], [-1.25, 2.75]], atol=0.02)


def points_of(axes):
    """The collections of points in a panel, without contours and legend."""
    return [
        each
        for each in axes.collections
        if not hasattr(each, "levels") and len(each.get_offsets())
    ]


def test_repeated_draws_are_one_marker_of_their_area():
    draws = np.repeat([[0.1, -0.5], [0.2, -0.4]], [29, 1], axis=0)
    right = plots.posterior_sheet(**arguments(sir_samples=draws)).axes[1]
    _, sir = points_of(right)
    np.testing.assert_array_equal(sir.get_offsets(), draws[[0, -1]])
    large, small = sir.get_sizes()
    assert abs(large / small - 29) < 1e-6
    legend = [text.get_text() for text in right.get_legend().get_texts()]
    assert "30 z by SIR at 2 points" in legend


def test_samples_and_means_are_drawn_where_they_are():
    given = arguments()
    left, right = plots.posterior_sheet(**given).axes[:2]
    q, sir = points_of(right)
    (of_left,) = points_of(left)
    np.testing.assert_array_equal(of_left.get_offsets(), given["q_samples"])
    np.testing.assert_array_equal(q.get_offsets(), given["q_samples"])
    np.testing.assert_array_equal(sir.get_offsets(), given["sir_samples"])
    shapes = [len(each.get_paths()[0].vertices) for each in (q, sir)]
    assert shapes[0] != shapes[1]
    colors = [to_hex(each.get_edgecolor()[0]).upper() for each in (q, sir)]
    assert colors == ["#D55E00", "#009E73"]
    means = {line.get_label(): line.get_xydata().tolist() for line in right.lines}
    assert means == {"mean by SNIS": [[0.1, -0.6]], "mean on the grid": [[0, -0.5]]}
    legend = [text.get_text() for text in right.get_legend().get_texts()]
    assert legend == [
        "50, 90, 99 % of p(z|x)",
        "40 z ~ q(z|x)",
        "30 z by SIR",
        "mean on the grid",
        "mean by SNIS",
    ]


def test_samples_outside_the_grid_are_counted():
    q = [[0, 0], [5.1, 0], [0, -4.1], [np.nan, 0], [5.02, 4.02]]
    figure = plots.posterior_sheet(
        **arguments(q_samples=q, sir_samples=np.zeros((0, 2)))
    )
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert legend[1:3] == ["5 z ~ q(z|x), 3 outside", "0 z by SIR"]


@pytest.mark.parametrize("size, channels", [(28, 1), (8, 1), (32, 3)])
def test_images_stand_in_whole_pixels_below(size, channels, tmp_path):
    given = arguments(size=size, channels=channels)
    figure = plots.posterior_sheet(**given)
    plots.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as page:
        page = np.asarray(page.convert("RGB")).astype(int)
    x, rows = figure.axes[2:]

    def shown(axes, n_pixels):
        left, low, right, top = np.round(axes.get_window_extent().extents).astype(int)
        assert (right - left) % n_pixels == 0
        return page[len(page) - top : len(page) - low, left:right]

    def enlarged(image, scale):
        levels = np.broadcast_to(np.round(image * 255), (*image.shape[:2], 3))
        return np.kron(levels, np.ones((scale, scale, 1)))

    scale = shown(rows, 5 * (size + 1) - 1).shape[1] // (5 * (size + 1) - 1)
    np.testing.assert_array_equal(shown(x, size), enlarged(given["image"], 2 * scale))
    for i, images in enumerate((given["of_q"], given["of_sir"])):
        for j, image in enumerate(images):
            part = shown(rows, 5 * (size + 1) - 1)[i * (size + 1) * scale :]
            part = part[: size * scale, j * (size + 1) * scale :][:, : size * scale]
            np.testing.assert_array_equal(part, enlarged(image, scale))
    assert [text.get_text() for text in rows.texts] == [
        "E[x|z], z ~ q(z|x)",
        "E[x|z], z by SIR",
    ]
    assert [text.get_text() for text in x.texts] == ["x"]


@pytest.mark.parametrize(
    "z1, z2, size, caption, title",
    [
        (Z1, Z2, 28, CAPTION, TITLE),
        (Z1, Z2, 8, "", TITLE),
        *(
            (*plane, 8, "long " * 60, "long " * 30)
            for plane in (
                (Z1, Z2),
                (Z1, Z2 * 3),
                (Z1, Z2 / 6),
                (Z1 / 1000 - 2, Z2 / 1000 - 2),
            )
        ),
        (Z1, Z2 / 6, 28, CAPTION, TITLE),
    ],
)
def test_no_text_meets_another_or_leaves_the_page(z1, z2, size, caption, title):
    given = arguments(size=size, caption=caption, title=title)
    half = [(z + z.mean()) / 2 for z in (z1, z2)]
    near = (*half, given["log_posterior"])
    figure = plots.posterior_sheet(**given | {"z1": z1, "z2": z2, "near": near})
    texts = drawn_texts(figure)
    assert {title, "z₁", "z₂", "x", "mean by SNIS"} <= {t.get_text() for t in texts}
    legends = [axes.get_legend() for axes in figure.axes[:2]]
    inside = [text for legend in legends for text in legend.get_texts()]
    outside = [text for text in texts if text not in inside]
    check_page(figure, texts, figure.axes)
    check_page(figure, outside, [*figure.axes, *legends])


def test_the_same_sheet_has_the_same_bytes(tmp_path):
    for name in "ab":
        plots.save(plots.posterior_sheet(**arguments()), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"z1": Z1[:1]}, r"z1 must be at least 2 values \[n\], got shape \(1,\)"),
        ({"z2": Z2[::-1]}, "z2 must be evenly spaced and rising, got steps from -0.05"),
        ({"z1": Z1**3}, "z1 must be evenly spaced and rising, got steps from"),
        ({"z1": Z1 * np.nan}, "z1 must be evenly spaced .* got steps from nan to nan"),
        (
            {"log_q": np.zeros((len(Z1), len(Z2)))},
            r"log_q must be \[161, 201\], got shape \(201, 161\)",
        ),
        (
            {"log_posterior": np.full((161, 201), -np.inf)},
            "log_posterior must be finite or -inf, and somewhere finite, got 0 of",
        ),
        (
            {"log_q": np.full((161, 201), np.nan)},
            "log_q must be finite or -inf, and somewhere finite, got 0 of 32361",
        ),
        ({"near": (Z1[:1], Z2, Z1)}, "near z1 must be at least 2 values"),
        (
            {"near": (Z1, Z2, np.zeros((2, 2)))},
            r"near log_posterior must be \[161, 201\], got shape \(2, 2\)",
        ),
        ({"q_samples": [1, 2]}, r"q_samples must be \[s, 2\], got shape \(2,\)"),
        ({"sir_samples": [[1]]}, r"sir_samples must be \[s, 2\], got shape \(1, 1\)"),
        ({"snis_mean": [1]}, r"snis_mean must be \[2\], got shape \(1,\)"),
        ({"grid_mean": 0.0}, r"grid_mean must be \[2\], got shape \(\)"),
        (
            {"image": np.zeros((1, 2, 2, 1))},
            r"image must be a non-empty \[height, width, channels\], got shape \(1, 2,",
        ),
        ({"of_q": np.zeros((0, 28, 28, 1))}, "of_q must be a non-empty"),
        (
            {"of_sir": np.zeros((4, 28, 28, 1))},
            r"of_q and of_sir must be equally many images of the shape of image, got "
            r"\(5, 28, 28, 1\) and \(4, 28, 28, 1\) for \(28, 28, 1\)",
        ),
        ({"image": np.zeros((8, 8, 1))}, "of_q and of_sir must be equally many"),
    ],
)
def test_errors_name_argument_rule_and_value(given, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        plots.posterior_sheet(**arguments() | given)
    assert "\n" not in str(error.value)
