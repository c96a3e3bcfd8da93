"""Tests of iwae_tf.plots.intervals."""

import numpy as np
import pytest

from iwae_tf.plots import Intervals, interval_sheet

LEFT = {"VAE": (-86.5, 0.2), "IWAE": (-85.0, 0.2), "DReG": (-84.8, 0.3)}


def test_every_value_has_its_line_and_its_error():
    right = {"IWAE": (-83.5, 0.1), "RWS": (-84.0, 0.1)}
    figure = interval_sheet(
        [Intervals("1 layer", LEFT), Intervals("2 layers", right)], "nats", "title"
    )
    one, other = figure.axes
    assert [label.get_text() for label in one.get_yticklabels()] == [*LEFT, "RWS"]
    for axes, values, places in ((one, LEFT, (0, 1, 2)), (other, right, (1, 3))):
        ((points, caps, (bars,)),) = axes.containers
        x, errors = np.array(list(values.values())).T
        np.testing.assert_allclose(np.float64(points.get_xdata()), x)
        np.testing.assert_allclose(np.float64(points.get_ydata()), places)
        ends = np.float64(bars.get_segments())[:, :, 0]
        np.testing.assert_allclose(ends, np.stack([x - errors, x + errors], axis=1))
    assert one.get_xlim() == other.get_xlim()
    assert one.get_xlim()[0] < -86.5 and one.get_xlim()[1] > -83.5
    assert not one.texts


def test_a_value_far_below_leaves_the_width_to_the_others():
    figure = interval_sheet(
        [Intervals("", LEFT | {"sleep": (-150.0, 1.0)})], "nats", "title"
    )
    (axes,) = figure.axes
    assert axes.get_xlim()[0] > -90
    assert [text.get_text() for text in axes.texts] == [" ◂ −150.00"]


@pytest.mark.parametrize("values", [{}, {"VAE": (float("nan"), 0.1)}])
def test_values_that_are_none_or_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="^panels must hold finite values"):
        interval_sheet([Intervals("", values)], "nats", "title")
