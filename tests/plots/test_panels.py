"""Sheets of scatters and of histograms: what is drawn, where, and in which style."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex
from test_sheets import TITLE, check_page, drawn_texts

from iwae_tf import plots


def scatter(points, labels=None, title="IWAE, k = 50"):
    return plots.Scatter(title, "z₁", "z₂", points, labels)


def clusters(n, n_labels, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, n)
    centres = 3 * rng.normal(size=(n_labels, 2))
    return centres[labels] + rng.normal(size=(n, 2)) / 3, labels


def hexes(colors):
    return [to_hex(color).upper() for color in colors]


# Scatters ----------------------------------------------------------------------------


def test_points_are_drawn_where_they_are_in_the_colour_of_their_label():
    points, labels = clusters(500, 10)
    figure = plots.scatter_sheet([[scatter(points, labels)]], TITLE)
    (drawn,) = figure.axes[0].collections
    np.testing.assert_array_equal(drawn.get_offsets(), points)
    colors = np.array(hexes(drawn.get_facecolors()))
    of_label = [set(colors[labels == i]) for i in range(10)]
    assert all(len(each) == 1 for each in of_label)
    assert len(set.union(*of_label)) == 10
    assert colors[labels == 0][0] == "#0072B2"
    assert 0 < drawn.get_alpha() < 1
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == list("0123456789")
    shown = hexes(handle.get_color() for handle in legend.legend_handles)
    assert [{each} for each in shown] == of_label


def test_strings_are_labels_too():
    points, labels = clusters(60, 3)
    names = np.array(["a", "$b_$", "c"])[labels]
    panels = [scatter(points, names), scatter(points)]
    figure = plots.scatter_sheet([panels], TITLE)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == sorted(["a", "$b_$", "c"])
    colors = np.array(hexes(figure.axes[0].collections[0].get_facecolors()))
    assert len({(name, color) for name, color in zip(names, colors, strict=True)}) == 3
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {"a", "$b_$", "c"}


def test_a_label_has_one_colour_in_all_panels():
    panels = [scatter([[0, 0], [1, 1]], [7, -2]), scatter([[2, 2], [3, 4]], [3, 7])]
    left, right = plots.scatter_sheet([panels], TITLE).axes
    (first, _), (other, again) = (
        hexes(axes.collections[0].get_facecolors()) for axes in (left, right)
    )
    assert first == again != other


def test_numbers_stand_at_the_medians_with_a_white_halo():
    points, labels = clusters(301, 4)
    axes = plots.scatter_sheet([[scatter(points, labels)]], TITLE).axes[0]
    assert [text.get_text() for text in axes.texts] == list("0123")
    for i, text in enumerate(axes.texts):
        median = np.median(points[labels == i], axis=0)
        np.testing.assert_array_equal(text.xy, median)
        box = text.get_window_extent()
        centre = axes.transData.transform(median)
        assert abs(box.get_points().mean(0) - centre).max() < 6
        (halo,) = text.get_path_effects()
        assert halo._gc["foreground"] == "white"


@pytest.mark.parametrize("place", [[0, 0], [1, 1], [-1, 0]])
def test_numbers_of_one_place_move_apart_but_not_far(place):
    points = np.concatenate([np.full((20, 2), place), [[-1, -1], [1, 1]]])
    labels = np.append(np.arange(20) % 10, [10, 11])
    figure = plots.scatter_sheet([[scatter(points, labels)] * 2], TITLE)
    texts = drawn_texts(figure)
    check_page(figure, texts)
    for axes in figure.axes:
        page = axes.get_window_extent()
        for text in axes.texts:
            box = text.get_window_extent()
            assert (box.min >= page.min).all() and (box.max <= page.max).all()
            offset = box.get_points().mean(0) - axes.transData.transform(text.xy)
            assert np.linalg.norm(offset) < 150


def test_more_than_ten_labels_differ_in_colour_or_marker():
    points, labels = clusters(2000, 25)
    figure = plots.scatter_sheet([[scatter(points, labels)]], TITLE)
    styles, n_drawn = {}, 0
    for drawn in figure.axes[0].collections:
        offsets = np.asarray(drawn.get_offsets())
        shape = drawn.get_paths()[0].vertices.tobytes()
        n_drawn += len(offsets)
        for offset, color in zip(offsets, hexes(drawn.get_facecolors()), strict=True):
            label = labels[(points == offset).all(1)].item()
            styles.setdefault(label, set()).add((shape, color))
    assert n_drawn == 2000
    assert all(len(each) == 1 for each in styles.values())
    assert len(set.union(*styles.values())) == len(styles) == 25
    assert not figure.legends
    assert len(figure.axes[0].texts) == 25


def test_points_without_labels_are_grey():
    points, _ = clusters(50, 3)
    figure = plots.scatter_sheet([[scatter(points)]], TITLE)
    (drawn,) = figure.axes[0].collections
    np.testing.assert_array_equal(drawn.get_offsets(), points)
    assert set(hexes(drawn.get_facecolors())) == {"#808080"}
    assert not figure.legends and not figure.axes[0].texts


def test_points_that_are_not_finite_are_left_out(tmp_path):
    points = [[0, 1], [np.nan, 1], [2, np.inf], [3, 4]]
    panels = [
        scatter(points, [5, 5, 6, 5]),
        scatter(points),
        scatter(np.zeros((0, 2)), np.zeros(0, int)),
    ]
    figure = plots.scatter_sheet([panels], TITLE)
    for axes in figure.axes[:2]:
        assert axes.collections[0].get_offsets().tolist() == [[0, 1], [3, 4]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["5"]
    assert not figure.axes[2].collections
    plots.save(figure, tmp_path / "a.png")


def test_both_axes_have_one_scale(tmp_path):
    points = np.random.default_rng(0).normal(size=(100, 2)) * [5, 1]
    figure = plots.scatter_sheet([[scatter(points), scatter(points[:, ::-1])]], TITLE)
    plots.save(figure, tmp_path / "a.png")
    for axes in figure.axes:
        (x0, y0), (x1, y1) = axes.transData.transform([[0, 0], [1, 1]])
        assert x1 - x0 == pytest.approx(y1 - y0, rel=0.005)


@pytest.mark.parametrize(
    ("shape", "title"),
    [
        ((1, 1), "IWAE"),
        ((1, 3), "a long title of a panel " * 4),
        ((2, 2), "IWAE"),
        ((2, 2), "a long title of a panel " * 4),
    ],
)
def test_no_text_of_a_scatter_meets_another(shape, title):
    points, labels = clusters(3000, 10)
    panels = [[scatter(points, labels, title)] * shape[1]] * shape[0]
    figure = plots.scatter_sheet(panels, title)
    texts = drawn_texts(figure)
    names = [text.get_text() for text in texts]
    assert names.count(title) == shape[0] * shape[1] + 1
    check_page(figure, texts)
    outside = [
        text for text in texts if text.axes is None or text not in text.axes.texts
    ]
    check_page(figure, outside, figure.axes)


# Histograms --------------------------------------------------------------------------


def histogram(groups, threshold=0.01, log=True, title="layer 1"):
    return plots.Histogram(title, "Var E[z|x]", groups, threshold, log)


def activity(seed=0):
    rng = np.random.default_rng(seed)
    return 10 ** np.concatenate([rng.normal(-4, 0.4, 28), rng.normal(-0.5, 0.3, 22)])


def steps(axes):
    """Counts and edges of the outlines by their label."""
    return {p.get_label(): p.get_data()[:2] for p in axes.patches if not p.get_fill()}


@pytest.mark.parametrize("log", [True, False])
def test_counts_are_those_of_common_bins(log):
    groups = {"VAE": activity(0), "IWAE": activity(1)}
    figure = plots.histogram_sheet([[histogram(groups, None, log)]], TITLE)
    axes = figure.axes[0]
    drawn = steps(axes)
    assert list(drawn) == ["VAE", "IWAE"]
    edges = drawn["VAE"][1]
    widths = np.diff(np.log(edges) if log else edges)
    np.testing.assert_allclose(widths, widths[0])
    values = np.concatenate(list(groups.values()))
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    for name, (counts, own) in drawn.items():
        np.testing.assert_array_equal(own, edges)
        np.testing.assert_array_equal(counts, np.histogram(groups[name], edges)[0])
        assert counts.sum() == 50
    fills = [p for p in axes.patches if p.get_fill()]
    for fill, counts in zip(fills, drawn.values(), strict=True):
        np.testing.assert_array_equal(fill.get_data().values, counts[0])
        assert fill.get_alpha() < 0.5
    assert axes.get_xscale() == ("log" if log else "linear")
    assert axes.get_ylabel() == "units"
    assert axes.get_ylim()[1] > max(counts.max() for counts, _ in drawn.values())


def test_values_of_zero_and_below_are_counted_in_the_leftmost_bin():
    values = np.array([-0.3, 0, -1e-9, 1e-3, 0.02, 0.5, np.nan, np.inf])
    axes = plots.histogram_sheet([[histogram({"VAE": values})]], TITLE).axes[0]
    counts, edges = steps(axes)["VAE"]
    assert counts[0] == 4 and counts.sum() == 6
    assert edges[0] == 1e-3
    assert axes.get_xlabel() == "Var E[z|x]\n(leftmost bin: 3 values ≤ 0, too)"
    positive = plots.histogram_sheet([[histogram({"VAE": activity()})]], TITLE).axes[0]
    assert positive.get_xlabel() == "Var E[z|x]"
    linear = plots.histogram_sheet([[histogram({"VAE": values}, None, False)]], TITLE)
    assert steps(linear.axes[0])["VAE"][1][0] == -0.3
    assert linear.axes[0].get_xlabel() == "Var E[z|x]"


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("threshold", [1e-6, 0.01, 30.0])
def test_threshold_is_a_dashed_line_with_its_name(threshold, log):
    panel = histogram({"VAE": activity()}, threshold, log)
    figure = plots.histogram_sheet([[panel]], TITLE)
    axes = figure.axes[0]
    (line,) = axes.lines
    assert set(line.get_xdata()) == {threshold}
    assert line.get_linestyle() == "--"
    (text,) = axes.texts
    assert text.get_text() == f"threshold {threshold:g}"
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    assert low < threshold < high
    box = text.get_window_extent()
    at = axes.transData.transform((threshold, 1))[0]
    assert 0 < min(abs(box.x0 - at), abs(box.x1 - at)) < 30
    frame = axes.get_window_extent()
    assert (box.min >= frame.min).all() and (box.max <= frame.max).all()
    highest = max(counts.max() for counts, _ in steps(axes).values())
    assert box.y0 > axes.transData.transform((threshold, highest))[1]


def test_groups_have_one_style_in_all_panels_and_in_the_legend_below():
    panels = [histogram({"VAE": activity(), "IWAE": activity(1)})]
    panels.append(histogram({"IWAE": activity(2), "DReG": activity(3)}))
    figure = plots.histogram_sheet([panels], TITLE)
    styles = {}
    for axes in figure.axes:
        for patch in axes.patches:
            if not patch.get_fill():
                style = hexes([patch.get_edgecolor()])[0], str(patch.get_linestyle())
                styles.setdefault(patch.get_label(), set()).add(style)
    assert all(len(each) == 1 for each in styles.values())
    colors, dashes = zip(*[next(iter(each)) for each in styles.values()], strict=True)
    assert len(set(colors)) == len(set(dashes)) == 3
    legend = figure.legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["VAE", "IWAE", "DReG"]
    shown = hexes(handle.get_color() for handle in legend.legend_handles)
    assert shown == [next(iter(styles[name]))[0] for name in names]
    figure.draw_without_rendering()
    top = legend.get_window_extent().y1
    assert all(axes.get_window_extent().y0 > top for axes in figure.axes)


def test_panels_with_the_same_label_share_bins_and_axes():
    few, many = histogram({"a": [0.01] * 2}), histogram({"a": [5.0] * 40})
    figure = plots.histogram_sheet([[few, many, few._replace(xlabel="")]], TITLE)
    one, two, other = figure.axes
    np.testing.assert_array_equal(steps(one)["a"][1], steps(two)["a"][1])
    assert one.get_xlim() == two.get_xlim() != other.get_xlim()
    assert one.get_ylim() == two.get_ylim() != other.get_ylim()
    assert one.get_ylim()[1] > 40
    assert [axes.get_ylabel() for axes in figure.axes] == ["units", "", "units"]
    assert not figure.legends


@pytest.mark.parametrize("n", [1, 3, 500])
def test_ticks_of_units_are_whole_numbers(n):
    axes = plots.histogram_sheet([[histogram({"a": [0.1] * n})]], TITLE).axes[0]
    ticks = axes.get_yticks()
    assert len(ticks) >= 2
    np.testing.assert_array_equal(ticks, np.round(ticks))


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.01])
def test_few_values_are_drawn_too(threshold, log, tmp_path):
    each = [{}, {"a": []}, {"a": [-1, 0, np.nan]}, {"a": [0.5] * 3}, {"a": [1e-300]}]
    panels = [histogram(groups, threshold, log) for groups in each]
    figure = plots.histogram_sheet([panels[:3], panels[3:]], TITLE)
    plots.save(figure, tmp_path / "a.png")
    for groups, axes in zip(each, figure.axes, strict=True):
        for name, (counts, _) in steps(axes).items():
            assert counts.sum() == np.isfinite(groups[name]).sum()


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("VAE", "layer 1"),
        ("IWAE, k = 50: 35 of 50 active", "a long title of a panel " * 4),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)])
def test_no_text_of_a_histogram_meets_another(shape, title, name):
    groups = {f"{name} {i}": np.append(activity(i), -1) for i in range(4)}
    panels = [[histogram(groups, title=title)] * shape[1]] * shape[0]
    figure = plots.histogram_sheet(panels, title)
    texts = drawn_texts(figure)
    check_page(figure, texts)
    outside = [
        text for text in texts if text.axes is None or text not in text.axes.texts
    ]
    check_page(figure, outside, figure.axes)


@pytest.mark.parametrize("n_columns", [1, 2, 3, 4])
def test_numbers_of_a_histogram_are_apart_over_any_decades(n_columns):
    panels = [
        histogram({"a": np.geomspace(lowest, 1, 50)})
        for lowest in (1e-2, 1e-3, 2e-4, 2e-5, 1e-6, 1e-9)
    ]
    rows = [panels[i : i + n_columns] for i in range(0, 6, n_columns)]
    figure = plots.histogram_sheet(rows, TITLE)
    figure.draw_without_rendering()
    assert len(figure.axes) == 6
    for axes in figure.axes:
        low, high = axes.get_xlim()
        boxes = [
            tick.label1.get_window_extent()
            for tick in axes.xaxis.get_major_ticks()
            if low <= tick.get_loc() <= high
        ]
        assert len(boxes) >= 2
        gaps = [b.x0 - a.x1 for a, b in itertools.pairwise(boxes)]
        assert min(gaps) > 20


# Both --------------------------------------------------------------------------------


def test_the_same_sheet_has_the_same_bytes(tmp_path):
    for draw, panel in (
        (plots.scatter_sheet, scatter(*clusters(100, 3))),
        (plots.histogram_sheet, histogram({"a": activity()})),
    ):
        for name in "ab":
            plots.save(draw([[panel]], TITLE), tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("draw", [plots.scatter_sheet, plots.histogram_sheet])
@pytest.mark.parametrize("rows", [[], [[]], [[0], [0, 0]]])
def test_rows_of_other_lengths_and_none_are_refused(draw, rows):
    with pytest.raises(ValueError, match="^rows must be equally many panels each, got"):
        draw(rows, TITLE)


POINTS = np.zeros((3, 2))


@pytest.mark.parametrize(
    "panel, message",
    [
        (scatter(POINTS.T), r"points of panel 1 must be \[n, 2\], got shape \(2, 3\)"),
        (
            scatter(POINTS, [1, 2]),
            r"labels of panel 1 must be \[3\] integers or strings, got int64 of shape "
            r"\(2,\)",
        ),
        (
            scatter(POINTS, [0.0, 1.0, 2.0]),
            r"labels of panel 1 must be \[3\] integers or strings, got float64 of "
            r"shape \(3,\)",
        ),
    ],
)
def test_scatter_errors_name_argument_rule_and_value(panel, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        plots.scatter_sheet([[scatter(POINTS), panel]], TITLE)


@pytest.mark.parametrize(
    "panel, message",
    [
        (
            histogram({"a": np.zeros((2, 1))}),
            r"values of 'a' of panel 1 must be \[n\], got shape \(2, 1\)",
        ),
        (
            histogram({"a": [1]}, 0.0),
            "threshold of panel 1 must be a positive number, got 0.0",
        ),
        (
            histogram({"a": [1]}, np.inf, False),
            "threshold of panel 1 must be a finite number, got inf",
        ),
    ],
)
def test_histogram_errors_name_argument_rule_and_value(panel, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        plots.histogram_sheet([[histogram({}), panel]], TITLE)


def test_last_row_of_histograms_may_be_shorter():
    panel = plots.Histogram("a", "activity", {"z1": [0.1, 2.0]}, 0.01)
    figure = plots.histogram_sheet([[panel, panel], [panel]], "t")
    assert len(figure.axes) == 3
    places = [axes.get_subplotspec().num1 for axes in figure.axes]
    assert places == [0, 1, 2]
    for rows in ([[panel], [panel, panel]], [[panel, panel], []], []):
        with pytest.raises(ValueError, match="^rows must be equally many panels each"):
            plots.histogram_sheet(rows, "t")
