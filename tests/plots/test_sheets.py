"""Figures and files of iwae_tf.plots, read back where a file is written."""

import io
import math
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from iwae_tf import plots
from iwae_tf.plots import files

TITLE = "mnist · iwae_elbo · 1 layer · k = 5 · epoch 8"


def binary(n, height, width, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (n, height, width, channels)).astype(np.float32)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def panel_pixels(figure, path):
    """The grey levels that the saved figure has inside of each axes."""
    plots.save(figure, path)
    page = pixels(path)
    for axes in figure.axes:
        box = np.round(axes.get_window_extent().extents).astype(int)
        left, bottom, right, top = box
        yield page[len(page) - top : len(page) - bottom, left:right]


def drawn_texts(figure):
    """The texts that the figure draws, and no tick or other text that it leaves out."""
    with mock.patch.object(Text, "draw", autospec=True) as draw:
        figure.draw_without_rendering()
    texts = dict.fromkeys(call.args[0] for call in draw.call_args_list)
    return [text for text in texts if text.get_text() and text.get_visible()]


def check_page(figure, texts, axes=()):
    """No text leaves the page of 8 inches, or meets another one or those axes."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts]
    boxes += [each.get_window_extent(renderer) for each in axes]
    page = figure.bbox.extents
    for i, box in enumerate(boxes):
        assert (box.min >= page[:2]).all() and (box.max <= page[2:]).all()
        assert box.count_overlaps(boxes[:i]) == 0
    assert figure.get_figwidth() == pytest.approx(8)


def rows_of(train, test=(), first=1):
    rows = [{"epoch": i, "train_bound": v} for i, v in enumerate(train, first)]
    for row, value in zip(rows, test, strict=False):
        row["test_bound"] = value
    return rows


def lines_of(figure):
    return [line.get_xydata().tolist() for line in figure.axes[0].lines]


def legend_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_neither_tensorflow_nor_pyplot_is_imported():
    code = "import sys, iwae_tf.plots; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "matplotlib.figure" in output
    assert not {"tensorflow", "keras", "matplotlib.pyplot"} & set(output)


def test_montage_equals_a_hand_built_array():
    images = np.arange(1, 6).reshape(5, 1, 1, 1) / 10 * np.ones((5, 2, 1, 1))
    g = 0.5
    expected = [
        [0.1, g, 0.2, g, 0.3],
        [0.1, g, 0.2, g, 0.3],
        [g, g, g, g, g],
        [0.4, g, 0.5, g, g],
        [0.4, g, 0.5, g, g],
    ]
    np.testing.assert_array_equal(plots.montage(images, 3)[..., 0], expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_montage_places_every_tile(channels):
    images = np.random.default_rng(0).random((7, 3, 4, channels))
    page = plots.montage(images, 2)
    assert page.shape == (4 * 4 - 1, 2 * 5 - 1, channels)
    for i, image in enumerate(images):
        y, x = i // 2 * 4, i % 2 * 5
        np.testing.assert_array_equal(page[y : y + 3, x : x + 4], image)
        page[y : y + 3, x : x + 4] = 0.5
    assert (page == 0.5).all()


def test_sample_sheet_panels_hold_samples_then_means():
    samples = binary(9, 4, 4)
    means = np.random.default_rng(1).random(samples.shape)
    figure = plots.sample_sheet(samples, means, TITLE)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(shown[0], plots.montage(samples, 3)[..., 0])
    np.testing.assert_array_equal(shown[1], plots.montage(means, 3)[..., 0])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["binary samples x ~ p(x|z)", "mean images E[x|z]"]
    assert figure.get_suptitle() == TITLE


def test_only_binary_samples_are_called_binary():
    grey = np.full((4, 2, 2, 1), 0.3)
    figure = plots.sample_sheet(grey, grey, TITLE)
    assert figure.axes[0].get_title() == "samples x ~ p(x|z)"


def test_one_channel_is_gray_from_0_to_1():
    image = (
        plots.sample_sheet(*[np.full((1, 2, 2, 1), 0.3)] * 2, TITLE).axes[0].images[0]
    )
    assert image.get_cmap().name == "gray"
    assert image.get_clim() == (0, 1)
    assert image.get_interpolation() == "nearest"


def test_three_channels_are_rgb_and_others_show_their_mean():
    for channels, shape in [(2, (5, 5)), (3, (5, 5, 3)), (4, (5, 5))]:
        images = np.random.default_rng(0).random((1, 5, 5, channels))
        shown = plots.sample_sheet(images, images, TITLE).axes[0].images[0].get_array()
        expected = images[0] if channels == 3 else images[0].mean(-1)
        assert shown.shape == shape
        np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_values_of_a_diverged_model_are_clipped_and_nan_is_grey(channels, tmp_path):
    images = np.array([math.nan, math.inf, -math.inf, 2, -1, 0.25]).reshape(1, 1, 6, 1)
    images = np.repeat(images, channels, axis=-1)
    figure = plots.sample_sheet(images, images, TITLE)
    shown = np.ma.filled(figure.axes[0].images[0].get_array(), -9)
    shown = shown.reshape(6, -1)[:, 0]
    np.testing.assert_array_equal(shown, [0.5, 1, 0, 1, 0, 0.25])
    plots.save(figure, tmp_path / "a.png")


@pytest.mark.parametrize(
    "n, height, width",
    [(100, 8, 8), (1, 8, 8), (7, 28, 28), (36, 5, 9), (400, 28, 28)],
)
def test_every_image_pixel_is_one_square_of_output_pixels(n, height, width, tmp_path):
    images = binary(n, height, width)
    figure = plots.sample_sheet(images, 1 - images, TITLE)
    n_columns = (figure.axes[0].images[0].get_array().shape[1] + 1) // (width + 1)
    panels = panel_pixels(figure, tmp_path / "a.png")
    for shown, x in zip(panels, (images, 1 - images), strict=True):
        levels = (plots.montage(x, n_columns)[..., 0] * 255 + 0.5).astype(int)
        scale = len(shown) // len(levels)
        np.testing.assert_array_equal(shown, np.kron(levels, np.ones([scale] * 2)))
    assert set(np.unique(shown)) <= {0, 128, 255}


def test_reconstructions_stand_below_their_images(tmp_path):
    images = binary(100, 8, 8)
    figure = plots.reconstruction_sheet(images, images * 0.25, TITLE)
    assert len(figure.axes) == 5
    panels = panel_pixels(figure, tmp_path / "a.png")
    for i, (axes, shown) in enumerate(zip(figure.axes, panels, strict=True)):
        panel = axes.images[0].get_array()
        assert panel.shape == (17, 20 * 9 - 1)
        row = plots.montage(images[20 * i : 20 * i + 20], 20)[..., 0]
        np.testing.assert_array_equal(panel[:8], row)
        gaps = np.arange(8, 179, 9)
        np.testing.assert_array_equal(
            np.delete(panel[9:], gaps, axis=1), np.delete(row, gaps, axis=1) * 0.25
        )
        labels = [(text.get_text(), text.xy[1]) for text in axes.texts]
        assert labels == [("x", 3.5), ("E[x|z]", 12.5)]
        assert len(np.unique(shown)) == 4
        assert len(shown) % 17 == 0


@pytest.mark.parametrize("n, shape", [(1, (1, 1)), (10, (1, 10)), (16, (2, 8))])
def test_reconstruction_rows_are_balanced(n, shape):
    images = binary(n, 4, 4)
    figure = plots.reconstruction_sheet(images, images, TITLE)
    width = figure.axes[0].images[0].get_array().shape[1]
    assert (len(figure.axes), (width + 1) // 5) == shape


def texts_of(figure):
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [axes.title, axes._right_title, *axes.texts, axes.xaxis.label]
    return [t for t in texts if t.get_text() and t.get_visible()]


@pytest.mark.parametrize("title", [TITLE, "a long title of a run " * 6])
@pytest.mark.parametrize("size", [8, 28])
def test_no_text_leaves_the_page_or_meets_text_or_image(size, title):
    images = binary(100, size, size)
    for figure in (
        plots.sample_sheet(images, images, title),
        plots.reconstruction_sheet(images, images, title),
        plots.training_curves(rows_of([-500, -99, -98, -97, -96, -95]), title),
    ):
        texts = texts_of(figure)
        boxes = [text.get_window_extent() for text in texts]
        images_of = [axes for axes in figure.axes if axes.images]
        boxes += [axes.get_window_extent() for axes in images_of]
        page = figure.bbox.extents
        for i, box in enumerate(boxes):
            assert (box.min >= page[:2]).all() and (box.max <= page[2:]).all()
            assert box.count_overlaps(boxes[:i]) == 0
        for axes in images_of:
            assert not axes.axison
            assert axes.get_aspect() == 1
        assert 7.9 < figure.get_figwidth() < 8.7


def test_curves_hold_the_measured_values_and_the_legend_the_last_ones():
    rows = rows_of(["-120.5", "-100.25", "-95"], ["-122", "", "-98.125"])
    figure = plots.training_curves(rows, TITLE)
    axes = figure.axes[0]
    assert lines_of(figure) == [
        [[1, -120.5], [2, -100.25], [3, -95]],
        [[1, -122], [3, -98.125]],
    ]
    assert legend_of(figure) == [
        "training: −95.00 at epoch 3",
        "test: −98.12 at epoch 3",
    ]
    assert [line.get_color() for line in axes.lines] == ["#0072B2", "#D55E00"]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
    assert axes.get_ylabel() == "bound (nats per image)"
    assert axes.get_xlabel() == "epoch"
    assert figure.get_suptitle() == TITLE


def test_curves_leave_out_values_that_are_not_finite_numbers(tmp_path):
    rows = rows_of([-100, math.nan, math.inf, "-inf", None, -90], ["", "nan"])
    figure = plots.training_curves(rows, TITLE)
    assert lines_of(figure) == [[[1, -100], [6, -90]], []]
    assert legend_of(figure)[1] == "test: not measured"
    plots.save(figure, tmp_path / "a.png")


def test_curves_name_k_of_every_stage_of_training():
    rows = rows_of([-100, -99, -95, -94, -90], [-91] * 5)
    for row, k in zip(rows, ("1", "1", "5", "5", "50"), strict=True):
        row["train_samples"] = k
    figure = plots.training_curves(rows, TITLE, 50)
    axes = figure.axes[0]
    texts = {text.xy[0]: text.get_text() for text in axes.texts}
    assert texts == {0.5: "k = 1", 2.5: "k = 5", 4.5: "k = 50"}
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [2.5, 4.5]
    names = [text.split(":")[0] for text in legend_of(figure)]
    assert names == ["training, k as marked", "test, k = 50"]
    figure.draw_without_rendering()
    top = axes.transData.transform((0, -90))[1]
    assert all(text.get_window_extent().y0 > top for text in axes.texts)
    rows = [row | {"train_samples": 5} for row in rows]
    figure = plots.training_curves(rows, TITLE, 5)
    assert len(figure.axes[0].lines) == 2 and not figure.axes[0].texts
    assert [text.split(":")[0] for text in legend_of(figure)] == ["training", "test"]


def test_curves_without_any_value_still_make_a_figure(tmp_path):
    figure = plots.training_curves([{"epoch": 1}], TITLE)
    plots.save(figure, tmp_path / "a.png")
    assert len(figure.axes[0].get_yticks()) == 0


def test_one_row_is_one_point_at_epoch_1(tmp_path):
    figure = plots.training_curves(rows_of([-540.25], [-541]), TITLE)
    axes = figure.axes[0]
    plots.save(figure, tmp_path / "a.png")
    assert lines_of(figure) == [[[1, -540.25]], [[1, -541]]]
    assert all(line.get_marker() == "o" for line in axes.lines)
    assert shown_epochs(figure) == ["1"]
    low, high = axes.get_ylim()
    assert low < -541 and high > -540.25


def shown_epochs(figure):
    figure.draw_without_rendering()
    axis, (low, high) = figure.axes[0].xaxis, figure.axes[0].get_xlim()
    return [
        label.get_text()
        for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if low <= tick <= high
    ]


@pytest.mark.parametrize(
    "n_epochs, epochs",
    [
        (3, "1 2 3"),
        (30, "5 10 15 20 25 30"),
        (320, "50 100 150 200 250 300"),
        (3280, "500 1000 1500 2000 2500 3000"),
    ],
)
def test_epochs_are_plain_round_numbers(n_epochs, epochs):
    figure = plots.training_curves(rows_of(np.linspace(-200, -90, n_epochs)), TITLE)
    assert figure.axes[0].get_xscale() == "linear"
    assert shown_epochs(figure) == epochs.split()
    assert len(figure.axes[0].xaxis.get_minorticklocs()) == 0


@pytest.mark.parametrize("n_epochs", [5, 30, 3280])
def test_first_epochs_do_not_flatten_the_rest(n_epochs):
    epochs = np.arange(1, n_epochs + 1)
    train = -84 - 416 * np.exp(1 - epochs) - 40 / np.sqrt(epochs)
    test = [v - 2 if i % 10 == 0 or i == 0 else "" for i, v in enumerate(train)]
    axes = plots.training_curves(rows_of(train, test), TITLE).axes[0]
    low, high = axes.get_ylim()
    assert high > train.max()
    place = -(-n_epochs // 10)
    if n_epochs > 5:  # otherwise the only test value is of epoch 1
        assert train[place] - 2 - 0.1 * (high - low) < low <= train[place]
        lowest = f"lowest value: {train[0] - 2:.2f} at epoch 1"
        note = axes.get_title(loc="right")
        assert note == lowest.replace("-", "\N{MINUS SIGN}")


def test_a_late_spike_does_not_flatten_the_rest():
    values = np.linspace(-110, -90, 40)
    values[30] = -1e6
    axes = plots.training_curves(rows_of(values), TITLE).axes[0]
    assert axes.get_ylim()[0] > -115
    assert axes.get_title(loc="right").startswith("lowest value: −1000000.00 at ")


def test_a_gentle_curve_is_shown_whole_and_without_a_note():
    axes = plots.training_curves(rows_of(np.linspace(-110, -90, 20)), TITLE).axes[0]
    assert -112 < axes.get_ylim()[0] < -110
    assert axes.get_title(loc="right") == ""


def test_the_last_value_is_always_shown():
    rows = rows_of([-91.0] * 19 + [-90.9], [-95] * 19 + [-300])
    assert plots.training_curves(rows, TITLE).axes[0].get_ylim()[0] < -300


def figures():
    images = binary(16, 8, 8)
    yield plots.sample_sheet(images, images, TITLE)
    yield plots.reconstruction_sheet(images, images, TITLE)
    yield plots.training_curves(rows_of([-500, -100, -90, -89]), TITLE)


def test_saving_twice_gives_the_same_bytes_without_metadata(tmp_path):
    for figure, again in zip(figures(), figures(), strict=True):
        saved = []
        for i, each in enumerate((figure, figure, again)):
            plots.save(each, tmp_path / f"{i}.png")
            saved.append((tmp_path / f"{i}.png").read_bytes())
        assert saved[0] == saved[1] == saved[2]
        assert saved[0].startswith(b"\x89PNG")
        assert b"tEXt" not in saved[0]


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path):
    class Broken:
        def savefig(self, path, **kwargs):
            path.write_bytes(b"half")
            raise OSError("disk full")

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        plots.save(Broken(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    plots.save(next(figures()), path)
    assert path.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [path]


def write_png(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def read_gif(path):
    with Image.open(path) as gif:
        frames, durations = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
            frames.append(np.asarray(gif.convert("L")).astype(int))
        return frames, durations, gif.info["loop"]


def test_gif_shows_the_frames_in_order_and_rests_on_the_last(tmp_path):
    arrays = np.random.default_rng(0).integers(0, 256, (4, 20, 30))
    paths = [write_png(tmp_path / f"{i}.png", a) for i, a in enumerate(arrays)]
    plots.animate(paths[::-1], tmp_path / "a.gif", seconds_per_frame=0.5)
    frames, durations, loop = read_gif(tmp_path / "a.gif")
    assert durations == [500, 500, 500, 1500]
    assert loop == 0
    for frame, array in zip(frames, arrays[::-1], strict=True):
        assert abs(frame - array).max() <= 2  # 64 grey levels
    assert not list(tmp_path.glob(".*"))


def rgb_of(path):
    with Image.open(path) as gif:
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
        return frames


def test_gif_pads_small_frames_with_white(tmp_path):
    small = write_png(tmp_path / "a.png", np.zeros((4, 6)))
    large = write_png(tmp_path / "b.png", np.full((5, 4, 3), 76))
    plots.animate([small, large], tmp_path / "a.gif")
    (first, second), durations, _ = read_gif(tmp_path / "a.gif")
    assert durations == [800, 2400]
    assert first.shape == (5, 6)
    assert (first[:4] == 0).all() and (first[4:] == 255).all()
    assert abs(second[:, :4] - 76).max() <= 2 and (second[:, 4:] == 255).all()


def test_grey_frames_give_the_gif_of_64_grey_levels_byte_for_byte(tmp_path):
    arrays = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    rgb = np.stack([arrays[1]] * 3, -1)
    paths = [
        write_png(tmp_path / f"{i}.png", a)
        for i, a in enumerate([arrays[0], rgb, arrays[2]])
    ]
    plots.animate(paths, tmp_path / "a.gif")
    levels = np.round(np.arange(64) / 63 * 255)
    nearest = levels[np.round(arrays / 255 * 63).astype(int)].astype(np.uint8)
    first, *others = map(Image.fromarray, nearest)
    first.save(
        tmp_path / "b.gif",
        save_all=True,
        append_images=others,
        duration=[800, 800, 2400],
        loop=0,
    )
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_one_frame_in_colour_gives_a_gif_in_colour(tmp_path):
    colors = np.array([(0, 114, 178), (213, 94, 0), (255, 255, 255), (0, 0, 0)])
    rng = np.random.default_rng(0)
    arrays = colors[rng.integers(0, 4, (2, 20, 30))]
    paths = [write_png(tmp_path / f"{i}.png", a) for i, a in enumerate(arrays)]
    grey = write_png(tmp_path / "grey.png", np.full((10, 10), 90))
    plots.animate([grey, *paths], tmp_path / "a.gif")
    first, *others = rgb_of(tmp_path / "a.gif")
    np.testing.assert_array_equal(others, arrays)
    assert (first[:10, :10] == 90).all() and (first[10:] == 255).all()
    assert read_gif(tmp_path / "a.gif")[1:] == ([800, 800, 2400], 0)


def test_colours_of_a_gif_are_near_and_do_not_flicker(tmp_path):
    smooth = np.stack(np.meshgrid(*[np.linspace(0, 255, 60)] * 2), -1)
    smooth = np.concatenate([smooth, 255 - smooth[..., :1]], -1)
    paths = []
    for i in range(4):
        array = np.concatenate([smooth, np.full((9, 60, 3), 255), smooth * i / 4])
        paths.append(write_png(tmp_path / f"{i}.png", array))
    plots.animate(paths, tmp_path / "a.gif")
    frames = rgb_of(tmp_path / "a.gif")
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame[:69], frames[0][:69])
        assert (frame[60:69] == 255).all()
        assert abs(frame[:60] - smooth).mean() < 8
        assert abs(frame[69:] - smooth * i / 4).mean() < 8


@pytest.mark.parametrize("almost", [248, 252, 254])
def test_white_stays_white_beside_what_is_almost_white(almost, tmp_path):
    array = np.full((20, 20, 3), 255)
    array[::2] = almost
    array[0, 0] = 255, 0, 0
    plots.animate([write_png(tmp_path / "a.png", array)], tmp_path / "a.gif")
    (frame,) = rgb_of(tmp_path / "a.gif")
    assert (frame[1::2] == 255).all()
    assert abs(frame - array).max() <= 7


# A thirtieth of the pixels of a page of 600 x 800, and of the limit.
@pytest.mark.parametrize(("kind", "n"), [("binary", 8), ("grey", 8), ("colour", 3)])
def test_gif_of_noise_stays_below_its_limit(kind, n, tmp_path, monkeypatch):
    shape = (110, 146, 3) if kind == "colour" else (110, 146)
    monkeypatch.setattr(files, "_GIF_BYTES", files._GIF_BYTES / 30)
    rng, paths = np.random.default_rng(0), []
    for i in range(n):
        array = rng.integers(0, 256, shape)
        if kind == "binary":
            array = array // 128 * 255
        paths.append(write_png(tmp_path / f"{i}.png", array))
    plots.animate(paths, tmp_path / "a.gif")
    assert 10_000 < (tmp_path / "a.gif").stat().st_size < 1e6 / 30
    frames = rgb_of(tmp_path / "a.gif")
    assert len(frames) == n
    if kind == "colour":
        assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 8


@pytest.mark.parametrize(
    ("size", "n_columns", "scale"), [((28, 28), 10, 2), ((8, 8), 10, 6), ((9, 5), 7, 7)]
)
def test_shrunk_sheet_of_samples_has_whole_squares(size, n_columns, scale, tmp_path):
    samples = binary(40, *size)
    means = np.random.default_rng(0).integers(0, 4, samples.shape) / 3
    plots.save(plots.sample_sheet(samples, means, TITLE), tmp_path / "a.png")
    plots.animate([tmp_path / "a.png"], tmp_path / "a.gif", shrink=plots.SHRINK)
    page = read_gif(tmp_path / "a.gif")[0][0]
    assert page.shape[1] < 640
    for part in (samples, means):
        panel = np.round(plots.montage(part, n_columns)[..., 0] * 63) / 63 * 255
        panel = np.kron(panel, np.ones([scale] * 2))
        windows = np.lib.stride_tricks.sliding_window_view(page, panel.shape)
        places = np.argwhere((abs(windows[:, :, 0] - panel[0]) <= 1).all(-1))
        assert any((abs(windows[y, x] - panel) <= 1).all() for y, x in places)


@pytest.mark.slow
def test_gif_of_colour_noise_stays_below_a_megabyte(tmp_path):
    rng = np.random.default_rng(0)
    paths = [
        write_png(tmp_path / f"{i}.png", rng.integers(0, 256, (600, 800, 3)))
        for i in range(3)
    ]
    plots.animate(paths, tmp_path / "a.gif")
    assert 300_000 < (tmp_path / "a.gif").stat().st_size < 1_000_000
    assert len(np.unique(rgb_of(tmp_path / "a.gif")[0].reshape(-1, 3), axis=0)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary noise", "grey noise"])
def test_gif_of_14_sheets_stays_below_a_megabyte(kind, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(14):
        means = rng.random((40, 28, 28, 1))
        samples = means < 0.5
        means = means if kind == "grey noise" else ~samples
        figure = plots.sample_sheet(samples, means, f"epoch {i}")
        plots.save(figure, tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(14)]
    plots.animate(paths, tmp_path / "a.gif", shrink=plots.SHRINK)
    assert (tmp_path / "a.gif").stat().st_size < 1_000_000
    assert len(read_gif(tmp_path / "a.gif")[0]) == 14


GOOD = np.zeros((4, 2, 2, 1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plots.montage(GOOD[0], 2), r"images must be .* got shape \(2, 2, 1\)"),
        (lambda: plots.montage(GOOD[:0], 2), r"images must be .*shape \(0, 2, 2, 1\)"),
        (lambda: plots.montage(GOOD, 0), "n_columns must be at least 1, got 0"),
        (
            lambda: plots.montage(np.full((1, 2, 2, 1), 255), 1),
            r"images must be in 0..1, got a maximum of 255",
        ),
        (
            lambda: plots.sample_sheet(GOOD, GOOD[:3], ""),
            r"samples and means must have the same shape, got \(4, .* and \(3, ",
        ),
        (lambda: plots.sample_sheet(GOOD, GOOD[0], ""), "means must be a non-empty"),
        (
            lambda: plots.reconstruction_sheet(GOOD, GOOD[:3], ""),
            "images and reconstructions must have the same shape, got",
        ),
        (lambda: plots.training_curves([], ""), "rows must hold .* got 0 rows"),
        (lambda: plots.training_curves([{}], ""), r"rows must all .* got \[nan\]"),
        (lambda: plots.animate([], "a.gif"), "png_paths must hold .* got 0 paths"),
        (
            lambda: plots.animate(["a.png"], "a.gif", shrink=0),
            "shrink must be at least 1, got 0",
        ),
        (
            lambda: plots.animate(["a.png"], "a.gif", 0),
            "seconds_per_frame must be at least 0.02, got 0",
        ),
    ],
)
def test_errors_name_argument_rule_and_value_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# Sheets of curves --------------------------------------------------------------------


def panel(curves, log="", title="k = 1"):
    return plots.Panel(title, "epoch", "bound", curves, log)


def test_line_sheet_has_every_curve_in_its_panel_in_one_style_per_name():
    curves = {"iwae": ([1, 2, 3], [1.0, 2.0, 4.0]), "dreg": ([1, 2], [3.0, 5.0])}
    rows = [[panel(curves), panel({"dreg: slope 1": ([1], [2.0])}, title="k = 5")]]
    figure = plots.line_sheet(rows, TITLE)
    assert figure.get_suptitle() == TITLE
    left, right = figure.axes
    assert [axes.get_title("left") for axes in (left, right)] == ["k = 1", "k = 5"]
    got = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert got == {
        label: [list(point) for point in zip(*xy, strict=True)]
        for label, xy in curves.items()
    }
    styles = [
        {
            line.get_label(): (line.get_color(), line.get_linestyle())
            for line in axes.lines
        }
        for axes in (left, right)
    ]
    assert styles[0]["dreg"] == styles[1]["dreg"] != styles[0]["iwae"]


def test_line_sheet_has_one_legend_below_all_panels_and_none_for_one_name():
    both = {"iwae": ([1, 2], [1, 2]), "dreg": ([1, 2], [3, 5])}
    figure = plots.line_sheet([[panel(both), panel({"dreg: 2": ([1], [2])})]], TITLE)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["iwae", "dreg"]
    assert all(axes.get_legend() is None for axes in figure.axes)
    figure.draw_without_rendering()
    top = legend.get_window_extent().y1
    assert all(axes.get_window_extent().y0 > top for axes in figure.axes)
    assert not plots.line_sheet([[panel({"iwae": ([1], [2])})]], TITLE).legends


def test_notes_stand_once_at_the_ends_of_their_curves():
    curves = {"a: up": ([1, 2], [1, 2]), "b: up": ([1, 2], [0, 2]), "c": ([1], [1])}
    curves["d: down"] = [1, 2], [5, 0]
    axes = plots.line_sheet([[panel(curves)]], TITLE).axes[0]
    notes = [(text.get_text(), *text.xy) for text in axes.texts if text.get_text()]
    assert notes == [("up", 2, 2), ("", 1, 1), ("down", 2, 0)][::2]


def test_panels_with_the_same_label_share_the_axis():
    def of(low, ylabel, xlabel="epoch", log=""):
        curves = {"a": ([1, 2], [low, low + 2])}
        return plots.Panel("", xlabel, ylabel, curves, log)

    rows = [
        [of(1, "bound"), of(9, "bound", "minutes")],
        [of(1, "ratio"), of(50, "other")],
    ]
    figure = plots.line_sheet(rows, TITLE)
    figure.draw_without_rendering()
    (a, b), (c, d) = figure.axes[:2], figure.axes[2:]
    assert a.get_ylim() == b.get_ylim() and a.get_ylim()[0] < 1 < 11 < a.get_ylim()[1]
    assert c.get_ylim() != d.get_ylim()
    assert a.get_xlim() == c.get_xlim() == d.get_xlim()
    named = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert named == [
        ("", "bound"),
        ("minutes", ""),
        ("epoch", "ratio"),
        ("epoch", "other"),
    ]
    shown = [
        any(
            label.get_visible() and label.get_text() for label in axes.get_yticklabels()
        )
        for axes in figure.axes
    ]
    assert shown == [True, False, True, True]


def test_line_sheet_leaves_out_what_an_axis_cannot_show():
    curves = {"a": ([1, 2, 4, 8], [math.nan, 0.0, 0.5, 5.0])}
    logarithmic, linear = plots.line_sheet(
        [[panel(curves, "xy")], [panel(curves)]], TITLE
    ).axes
    assert logarithmic.lines[0].get_xydata().tolist() == [[4, 0.5], [8, 5]]
    assert linear.lines[0].get_xydata().tolist() == [[2, 0], [4, 0.5], [8, 5]]
    assert (logarithmic.get_xscale(), logarithmic.get_yscale()) == ("log", "log")
    assert (linear.get_xscale(), linear.get_yscale()) == ("linear", "linear")


@pytest.mark.parametrize(
    ("xlabel", "first", "place"),
    [("epoch", 123, "epoch 123"), ("minutes", 0.171, "x = 0.17")],
)
def test_line_sheet_says_where_what_it_does_not_show_lies(xlabel, first, place):
    x = np.geomspace(first, 4000, 20)
    curves = {"a": (x, [-900.0, *np.linspace(-100, -90, 19)])}
    sheet = plots.line_sheet([[plots.Panel("A", xlabel, "nats", curves, "x")]], TITLE)
    (note,) = (text.get_text() for text in sheet.axes[0].texts if text.get_text())
    assert note == f"lowest value: −900.00 at {place}"


def test_line_sheet_writes_plain_numbers_on_logarithmic_axes(tmp_path):
    curves = {"a": ([1, 2, 4, 8, 16], [0.02, 0.05, 0.1, 0.2, 0.5])}
    figure = plots.line_sheet([[panel(curves, "xy")]], TITLE)
    plots.save(figure, tmp_path / "sheet.png")
    axes = figure.axes[0]
    for labels, want in (
        (axes.get_xticklabels(), {"1", "2", "5", "10"}),
        (axes.get_yticklabels(), {"0.02", "0.05", "0.1", "0.2", "0.5"}),
    ):
        assert want <= {label.get_text() for label in labels}


@pytest.mark.parametrize("rows", [[], [[]], [[panel({})], [panel({}), panel({})]]])
def test_line_sheet_refuses_rows_of_other_lengths_and_none(rows):
    with pytest.raises(ValueError, match="^rows must be equally many panels each"):
        plots.line_sheet(rows, TITLE)


def test_line_sheet_without_a_point_is_drawn(tmp_path):
    rows = [[panel({"a": ([], [])}), panel({"a": ([1], [math.nan])}, "y")]]
    plots.save(plots.line_sheet(rows, TITLE), tmp_path / "empty.png")


# Tables of images --------------------------------------------------------------------


def named(names, images):
    return dict(zip(names, images, strict=True))


def names_of(axes):
    return {text.get_text(): text for text in axes.texts}


@pytest.mark.parametrize("size, n_columns", [(8, 12), (28, 12), (28, 3), (64, 40)])
def test_image_table_has_every_pixel_of_every_image(size, n_columns, tmp_path):
    rng = np.random.default_rng(0)
    first = rng.integers(0, 6, (3, n_columns, size, size, 1)) / 5
    second = rng.integers(0, 6, (2, 2, size, size, 1)) / 5
    blocks = [
        plots.Block("three", named(["a", "b", "IWAE, k = 10 (−86.12)"], first)),
        plots.Block("two", named("cd", second), ["left", "right"]),
    ]
    figure = plots.image_table(blocks, TITLE)
    plots.save(figure, tmp_path / "a.png")
    page = pixels(tmp_path / "a.png")
    corners, scales = [], []
    for axes, images in zip(figure.axes, (first, second), strict=True):
        levels = (images[..., 0] * 255 + 0.5).astype(int)
        left, _, right, top = np.round(axes.get_window_extent().extents).astype(int)
        scale = (right - left) // (images.shape[1] * (size + 1) - 1)
        corners.append(left)
        scales.append(scale)
        for row, column in np.ndindex(images.shape[:2]):
            y = len(page) - top + row * (size + 1) * scale
            x = left + column * (size + 1) * scale
            shown = page[y : y + size * scale, x : x + size * scale]
            expected = np.kron(levels[row, column], np.ones([scale] * 2))
            np.testing.assert_array_equal(shown, expected)
            if column:
                assert (page[y : y + size * scale, x - scale : x] == 128).all()
    assert corners[0] == corners[1]
    assert scales[0] == scales[1] >= (10 if size == 8 else 1)


def test_image_table_names_rows_and_columns_in_their_middle():
    images = binary(6, 4, 5).reshape(2, 3, 4, 5, 1)
    columns = np.array(["c0", "c1", "c2"])
    block = plots.Block("block", named(["r0", "r1"], images), columns)
    figure = plots.image_table([block], TITLE)
    names = names_of(figure.axes[0])
    to_data = figure.axes[0].transData.inverted()
    for i in range(2):
        box = names[f"r{i}"].get_window_extent()
        x, y = to_data.transform([box.x1, (box.y0 + box.y1) / 2])
        assert -1 < x < -0.5 and abs(y - (1.5 + 5 * i)) < 0.1
    for i in range(3):
        box = names[f"c{i}"].get_window_extent()
        x, y = to_data.transform([(box.x0 + box.x1) / 2, box.y0])
        assert abs(x - (2 + 6 * i)) < 0.1 and -1 < y < -0.5
    assert names["block"].get_window_extent().y0 > names["c0"].get_window_extent().y1


@pytest.mark.parametrize(
    "length, title, rows, columns, size",
    [
        (1, TITLE, 10, 12, 28),
        (22, TITLE, 4, 9, 8),
        (22, TITLE, 40, 5, 8),
        *(
            (90, "a long title of a run " * 6, *sizes)
            for sizes in ((10, 12, 28), (4, 9, 8), (40, 5, 8))
        ),
    ],
)
def test_no_text_of_a_table_meets_another(rows, columns, size, length, title):
    images = binary(rows * columns, size, size).reshape(rows, columns, size, size, 1)
    names = [" " * i + "m" * length for i in range(rows)]
    blocks = [
        plots.Block("", named(names, images)),
        plots.Block(title, named(names, images), ["m" * min(length, 5)] * columns),
        plots.Block("short", named(names[:2], images[:2, :1])),
    ]
    for shown in (blocks[:1], blocks[1:2], blocks):
        figure = plots.image_table(shown, title)
        texts = drawn_texts(figure)
        expected = sum(
            len(b.rows) + len(b.column_names or ()) + bool(b.title) for b in shown
        )
        assert len(texts) == expected + 1
        check_page(figure, texts, figure.axes)


BLOCK = np.zeros((2, 3, 4, 4, 1))
AB = named("ab", BLOCK)


@pytest.mark.parametrize(
    "blocks, message",
    [
        ([], "blocks must hold at least one block, got 0 blocks"),
        (
            [plots.Block("", {"a": BLOCK[0, 0]})],
            r"rows of block 0 must be a non-empty \[rows, .* got shape \(1, 4",
        ),
        (
            [plots.Block("", AB), plots.Block("", AB | {"c": BLOCK[0, :1]})],
            r"rows of block 1 must have one shape, got \[\(1, 4, 4, 1\), \(3, ",
        ),
        (
            [plots.Block("", {})],
            r"rows of block 0 must have one shape, got \[\]",
        ),
        (
            [plots.Block("", AB, ["c"])],
            "column_names of block 0 must be one per column, got 1 names for 3 columns",
        ),
        (
            [plots.Block("", {"a": np.full_like(BLOCK[0], 2, int)})],
            "rows of block 0 must be in 0..1, got a maximum of 2",
        ),
    ],
)
def test_image_table_refuses_what_it_cannot_draw(blocks, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plots.image_table(blocks, TITLE)


@pytest.mark.parametrize("channels", [1, 3])
def test_missing_pixels_are_blue_and_all_others_as_they_were(channels):
    x = np.random.default_rng(0).random((4, 3, 2, channels))
    x[1, 2, 0, 0] = math.nan
    shown = plots.missing_in_blue(x)
    assert shown.shape == (4, 3, 2, 3)
    red, green, blue = shown[1, 2, 0]
    assert blue > green > red
    is_whole = ~np.isnan(x).any(-1)
    np.testing.assert_array_equal(
        shown[is_whole], np.broadcast_to(x, shown.shape)[is_whole]
    )
    title = plots.reconstruction_sheet(x, x, "run").axes[0].get_title()
    assert title.endswith("; missing pixels are blue")
    assert (
        "blue" not in plots.reconstruction_sheet(x[2:], x[2:], "").axes[0].get_title()
    )


def test_a_figure_shows_itself_in_a_notebook_at_half_of_its_pixels(tmp_path):
    x = binary(4, 5, 5)
    figure = plots.sample_sheet(x, x, "$x$ of data")
    png, size = figure._repr_png_()
    shown = pixels(io.BytesIO(png))
    height, width = (side // 2 for side in shown.shape)
    assert size == {"width": width, "height": height}
    plots.save(figure, tmp_path / "a.png")
    np.testing.assert_array_equal(shown, pixels(tmp_path / "a.png"))
