"""Texts of users, which no figure takes for mathematics."""

import matplotlib
import numpy as np
import pytest
from test_latents import Z1, Z2, arguments
from test_sheets import binary, drawn_texts, rows_of

from iwae_tf import plots

NAMES = "$x_$", r"\frac", "50 $ and $^^", "a_b^c"


def sheet_of_curves(name):
    curves = {name: ([1, 2], [3, 4]), f"{name}: 2": ([], [])}
    empty = plots.Panel(name, name, name, {"none": ([], [])}, "x")
    return plots.line_sheet([[plots.Panel(name, name, name, curves), empty]], name)


def table_of_images(name):
    block = plots.Block(name, {name: binary(3, 8, 8), f"{name}: 2": binary(3, 8, 8)})
    return plots.image_table([block._replace(column_names=[name] * 3)], name)


def sheet_of_histograms(name):
    panel = plots.Histogram(name, name, {name: [0.1, 0.2]}, threshold=0.15)
    return plots.histogram_sheet([[panel, panel._replace(log=False)]], name)


MAKERS = {
    "sample_sheet": lambda name: plots.sample_sheet(*2 * [binary(4, 8, 8)], name),
    "reconstruction_sheet": lambda name: plots.reconstruction_sheet(
        *2 * [binary(4, 8, 8)], name
    ),
    "training_curves": lambda name: plots.training_curves(rows_of([-9, -8]), name),
    "line_sheet": sheet_of_curves,
    "interval_sheet": lambda name: plots.interval_sheet(
        [plots.Intervals(name, {name: (-9.0, 0.1)})], name, name
    ),
    "image_table": table_of_images,
    "histogram_sheet": sheet_of_histograms,
    "scatter_sheet": lambda name: plots.scatter_sheet(
        [[plots.Scatter(name, name, name, np.ones([3, 2]), np.arange(3))]], name
    ),
    "posterior_sheet": lambda name: plots.posterior_sheet(
        **arguments(Z1[::4], Z2[::4], size=8) | {"title": name, "caption": name}
    ),
}


def test_every_maker_of_figures_is_tried():
    others = {"animate", "missing_in_blue", "montage", "read_png", "save"}
    functions = {n for n in plots.__all__ if n.islower()}
    assert functions == {*MAKERS, *others}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("maker", MAKERS)
def test_names_are_drawn_as_they_are(maker, name, tmp_path):
    figure = MAKERS[maker](name)
    plots.save(figure, tmp_path / "a.png")
    texts = drawn_texts(figure)
    shown = [text for text in texts if name in text.get_text()]
    assert shown and not any(text.get_parse_math() for text in shown)
    assert not any("mathdefault" in text.get_text() for text in texts)


@pytest.mark.parametrize("maker", MAKERS)
def test_settings_of_the_user_neither_matter_nor_change(maker, tmp_path):
    settings = {"text.usetex": True, "axes.formatter.use_mathtext": True}
    with matplotlib.rc_context(settings):  # there need not be a TeX
        plots.save(MAKERS[maker]("$x_$"), tmp_path / "a.png")
        assert matplotlib.rcParams["text.parse_math"]
        assert all(matplotlib.rcParams[setting] for setting in settings)
    plots.save(MAKERS[maker]("$x_$"), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
