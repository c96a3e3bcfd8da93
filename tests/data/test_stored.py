"""Tests of iwae_tf.data.stored: every rule, and every format."""

import io
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from refusals import refusal

from iwae_tf.data import datasets, observations
from iwae_tf.data.memory import is_aligned
from iwae_tf.errors import UsageError

# npz files ---------------------------------------------------------------------------


@pytest.fixture
def good():
    """Arrays of a well-formed file."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (6, 4, 5), dtype=np.uint8),
        "x_test": rng.integers(0, 256, (3, 4, 5), dtype=np.uint8),
        "y_train": np.arange(6),
        "y_test": np.arange(3),
    }


def save(path, arrays):
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return str(path)


def test_npz_rank_3_gets_a_channel_axis(good, tmp_path):
    images = datasets.load(save(tmp_path / "my data.v2.npz", good))
    assert images.name == "my-data-v2" and images.image_shape == (4, 5, 1)
    np.testing.assert_array_equal(images.x_train, good["x_train"][..., None])
    np.testing.assert_array_equal(images.x_test, good["x_test"][..., None])
    np.testing.assert_array_equal(images.y_train, good["y_train"])
    np.testing.assert_array_equal(images.y_test, good["y_test"])


def test_npz_rank_4_compressed_without_labels(good, tmp_path):
    path = tmp_path / "a.npz"
    x = {k: np.stack([good[k]] * 3, -1) for k in ("x_train", "x_test")}
    np.savez_compressed(path, **x)
    images = datasets.load(str(path))
    assert images.image_shape == (4, 5, 3)
    assert images.y_train is None and images.y_test is None
    np.testing.assert_array_equal(images.x_train, x["x_train"])


def test_npz_without_test_images_has_only_training_data(good, tmp_path):
    path = save(tmp_path / "a.npz", good | {"x_test": None, "y_test": None})
    images = datasets.load(path)
    assert images.x_test is None and images.y_test is None
    assert images.test_labels is None
    np.testing.assert_array_equal(images.y_train, good["y_train"])
    assert datasets.sizes(path) == (6, 0)


def test_npz_has_strings_for_labels_or_vectors_for_contexts(good, tmp_path):
    strings = {
        "y_train": np.array(list("abcabc")),
        "y_test": np.array(["a", "bcd", ""]),
    }
    images = datasets.load(save(tmp_path / "a.npz", good | strings))
    assert images.y_train.tolist() == list("abcabc")
    assert images.test_labels.tolist() == ["a", "bcd", ""]
    vectors = {"y_train": np.full((6, 2), 0.1), "y_test": np.full((3, 2), -7.0)}
    images = datasets.load(save(tmp_path / "a.npz", good | vectors))
    assert images.y_train.dtype == images.y_test.dtype == np.float32
    np.testing.assert_array_equal(images.y_train, np.full((6, 2), np.float32(0.1)))
    assert images.test_labels is None


def test_npz_tilde_is_expanded(good, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "a.npz", good)
    assert datasets.load("~/a.npz").name == "a"
    shutil.copy(tmp_path / "a.npz", tmp_path / "mnist.npz")
    assert datasets.load("~/mnist.npz").name == "mnist-npz"


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "g"])
def test_npz_floats_become_float32(dtype, good, tmp_path, warned):
    for name in ("x_train", "x_test"):
        good[name] = (good[name] / 255).astype(dtype)
    images = datasets.load(save(tmp_path / "a.npz", good))
    assert images.x_train.dtype == images.x_test.dtype == np.dtype("=f4")
    assert not warned
    np.testing.assert_allclose(
        images.x_train[..., 0], good["x_train"].astype(float), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", ">i4", "i8", "u8"])
def test_npz_integers_become_uint8(dtype, good, tmp_path):
    arrays = good | {k: good[k].astype(dtype) for k in ("x_train", "x_test")}
    images = datasets.load(save(tmp_path / "a.npz", arrays))
    assert images.x_train.dtype == np.uint8
    np.testing.assert_array_equal(images.x_train[..., 0], good["x_train"])


def test_npz_bool_becomes_float32(good, tmp_path):
    arrays = good | {k: good[k] > 127 for k in ("x_train", "x_test")}
    images = datasets.load(save(tmp_path / "a.npz", arrays))
    assert images.x_train.dtype == np.float32
    np.testing.assert_array_equal(images.x_train[..., 0], arrays["x_train"])


def test_npz_tells_its_numbers_of_images_from_its_heads(good, tmp_path):
    path = save(tmp_path / "a.npz", good | {"x_train": np.zeros([10**6, 3, 3], bool)})
    tracemalloc.start()
    assert datasets.sizes(path) == (10**6, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6
    for shape, says in (((6,), "rank 2"), ((0, 3, 3), "at least one")):
        path = save(tmp_path / "b.npz", good | {"x_train": np.zeros(shape)})
        with pytest.raises(UsageError, match=f"x_train must .*{says}") as found:
            datasets.sizes(path)
        assert refusal(path) == str(found.value)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_is_read_into_memory_that_is_not_copied_again(
    dtype, order, good, tmp_path, warned
):
    expected = (good["x_train"] % 2).astype(dtype)
    arrays = good | {
        name: np.asarray(good[name] % 2, dtype, order=order)
        for name in ("x_train", "x_test")
    }
    images = datasets.load(save(tmp_path / "a.npz", arrays))
    np.testing.assert_array_equal(images.x_train[..., 0], expected)
    is_view = order == "F" and dtype in (np.uint8, np.float32)
    assert is_aligned(images.x_train) is not is_view


def test_npz_integers_that_look_binary_warn(good, tmp_path, warned):
    datasets.load(save(tmp_path / "a.npz", good))
    assert not warned
    arrays = good | {k: good[k] // 128 for k in ("x_train", "x_test")}
    images = datasets.load(save(tmp_path / "a.npz", arrays))
    assert images.x_train.dtype == np.uint8 and images.x_train.max() == 1
    assert len(warned) == 2 and "x_train" in warned[0] and "bool" in warned[0]


def with_value(value):
    x = np.full((6, 4, 5), 0.5)
    x[2, 3, 4] = value
    return x


ZEROS = np.zeros
BAD = {
    "x_train absent": ({"x_train": None}, "x_train", "must be present"),
    "only x_test absent": ({"x_test": None}, "y_train and y_test", "got only x_train"),
    "y_test absent": (
        {"y_test": None},
        "y_train and y_test",
        "only x_train, x_test, y_train",
    ),
    "y_train absent": (
        {"y_train": None},
        "y_train and y_test",
        "only x_train, x_test, y_test",
    ),
    "inf": ({"x_train": with_value(np.inf)}, "x_train", "got 1 inf of"),
    "-inf": ({"x_train": with_value(-np.inf)}, "x_train", "finite"),
    "int > 255": ({"x_train": ZEROS((6, 4, 5), int) + 256}, "x_train", "0..255"),
    "int < 0": ({"x_train": ZEROS((6, 4, 5), int) - 1}, "x_train", "got values -1"),
    "rank 1": ({"x_train": ZEROS(6)}, "x_train", "rank 2"),
    "rank 2": ({"x_train": ZEROS((6, 20))}, "x_train", "(20,)"),
    "rank 5": ({"x_test": ZEROS((6, 4, 5, 1, 1))}, "x_test", "(4, 5, 1, 1)"),
    "rank 0": ({"x_train": ZEROS(())}, "x_train", "rank 2"),
    "shapes": ({"x_test": ZEROS((3, 5, 4), np.uint8)}, "x_test", "(5, 4, 1)"),
    "channels": ({"x_test": ZEROS((3, 4, 5, 3), np.uint8)}, "x_test", "(4, 5, 3)"),
    "types": ({"x_test": ZEROS((3, 4, 5))}, "x_test", "uint8 and"),
    "no train": ({"x_train": ZEROS((0, 4, 5))}, "x_train", "at least one observation"),
    "no test": ({"x_test": ZEROS((0, 4, 5))}, "x_test", "at least one observation"),
    "no height": ({"x_train": ZEROS((6, 0, 5))}, "x_train", "one entry"),
    "no width": ({"x_train": ZEROS((6, 4, 0))}, "x_train", "one entry"),
    "no channel": ({"x_train": ZEROS((6, 4, 5, 0))}, "x_train", "one entry"),
    "complex": ({"x_train": ZEROS((6, 4, 5), complex)}, "x_train", "complex128"),
    "text": ({"x_train": ZEROS((6, 4, 5), "U2")}, "x_train", "<U2"),
    "time": ({"x_train": ZEROS((6, 4, 5), "m8[s]")}, "x_train", "timedelta"),
    "object": ({"x_train": ZEROS((6, 4, 5), object)}, "x_train", "pickle"),
    "object labels": ({"y_test": np.array([None] * 3)}, "y_test", "pickle"),
    "labels short": ({"y_train": np.arange(5)}, "y_train", "(5,)"),
    "labels long": ({"y_test": np.arange(4)}, "y_test", "(4,)"),
    "labels rank 2": ({"y_train": np.eye(6, dtype=int)}, "y_train", "(6, 6)"),
    "labels column": ({"y_train": ZEROS((6, 1), int)}, "y_train", "(6, 1)"),
    "labels float": ({"y_train": ZEROS(6)}, "y_train", "integers"),
    "labels of two kinds": ({"y_test": np.array(["0"] * 3)}, "y_test", "agree in"),
    "labels and contexts": ({"y_test": ZEROS((3, 2))}, "y_test", "agree in shape"),
    "contexts differ": (
        {"y_train": ZEROS((6, 2)), "y_test": ZEROS((3, 1))},
        "y_test",
        "(2,) float32 and (1,) float32",
    ),
    "contexts empty": ({"y_test": ZEROS((3, 0))}, "y_test", "(3, 0)"),
    "contexts inf": ({"y_train": with_value(1e39)[..., 4]}, "y_train", "1 of 24 that"),
    "contexts nan": ({"y_test": ZEROS((3, 2)) + np.nan}, "y_test", "finite as float32"),
    "labels bool": ({"y_test": ZEROS(3, bool)}, "y_test", "integers"),
}


@pytest.mark.parametrize("case", BAD)
def test_npz_refusal_names_file_array_and_rule(case, good, tmp_path):
    change, name, rule = BAD[case]
    path = save(tmp_path / "a.npz", good | change)
    line = refusal(path)
    assert path in line and name in line and rule in line


def test_npz_missing_file_folder_or_odd_path(tmp_path):
    assert "nothing.npz" in refusal(str(tmp_path / "nothing.npz"))
    (tmp_path / "folder.npz").mkdir()
    assert "folder.npz" in refusal(str(tmp_path / "folder.npz"))
    refusal("two\nlines.npz")
    refusal("null\0byte.npz")
    refusal("~no_such_user/a.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
def test_npz_that_is_something_else(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    assert "readable as .npz" in refusal(str(tmp_path / "a.npz"))


def test_npz_that_is_an_npy(tmp_path):
    with (tmp_path / "a.npz").open("wb") as out:
        np.save(out, np.zeros(3))
    assert "readable as .npz" in refusal(str(tmp_path / "a.npz"))


def test_npz_member_that_is_no_array(good, tmp_path):
    path = save(tmp_path / "a.npz", {"x_test": good["x_test"]})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train", b"not an array")
    assert "x_train" in refusal(path)


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_npz_truncated_anywhere(savez, good, tmp_path):
    savez(tmp_path / "whole.npz", **good)
    whole = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "a.npz"
    for length in {1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 30}:
        path.write_bytes(whole[:length])
        assert "readable as .npz" in refusal(str(path))


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_npz_damaged_inside_a_member_names_it(savez, good, tmp_path):
    path = tmp_path / "a.npz"
    savez(path, **good)
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("x_test.npy")
    start = info.header_offset + 30 + len("x_test.npy") + 20  # zip64 field
    whole[start + 10 : start + info.compress_size] = bytes(info.compress_size - 10)
    path.write_bytes(whole)
    line = refusal(str(path))
    assert "x_test must be readable" in line


def test_npz_member_cut_short_inside_a_sound_archive(good, tmp_path):
    path = save(tmp_path / "a.npz", {"x_test": good["x_test"]})
    member = io.BytesIO()
    np.save(member, good["x_train"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", member.getvalue()[:-7])
    assert "x_train must be readable" in refusal(path)


# Folders -----------------------------------------------------------------------------


def save_folder(path, arrays):
    path.mkdir(exist_ok=True)
    for name, array in arrays.items():
        if array is not None:
            np.save(path / f"{name}.npy", array)
    return str(path)


KINDS = ["u1", "i2", ">i8", "f2", "f4", ">f4", "f8", "?"]


@pytest.mark.parametrize("kind", KINDS)
def test_folder_has_the_rows_of_an_npz_file_of_its_arrays(kind, good, tmp_path, warned):
    for name in ("x_train", "x_test"):
        x = good[name] if np.dtype(kind).kind in "ui" else good[name] / 255
        good[name] = (x > 0.5 if kind == "?" else x).astype(kind)
    of_file = datasets.load(save(tmp_path / "my data.npz", good))
    path = save_folder(tmp_path / "my data", good)
    images = datasets.load(path)
    assert datasets.sizes(path) == (6, 3)
    assert images.name == of_file.name == "my-data"
    for name in ("x_train", "x_test"):
        mapped, x = getattr(images, name), getattr(of_file, name)
        assert isinstance(mapped, observations.Mapped)
        assert (mapped.shape, mapped.dtype, mapped.ndim) == (x.shape, x.dtype, 4)
        assert len(mapped) == len(x) and mapped.size == x.size
        np.testing.assert_array_equal(np.asarray(mapped), x)
        places = np.array([2, 0, 2])
        rows = mapped[1:][places % 2]
        assert rows.dtype == x.dtype and type(rows) is np.ndarray
        np.testing.assert_array_equal(mapped[places], x[places])
        np.testing.assert_array_equal(rows, x[1:][places % 2])
        np.testing.assert_array_equal(np.asarray(mapped[1:][:1]), x[1:2])
    np.testing.assert_array_equal(images.y_train, good["y_train"])


def test_folder_may_be_named_from_anywhere(good, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mnist", "faces"):
        save_folder(tmp_path / name, good)
    monkeypatch.chdir(tmp_path / "faces")
    for path, name in (
        ("~/mnist", "mnist-npy"),
        ("../mnist/", "mnist-npy"),
        (".", "faces"),
        (f"{tmp_path}/faces", "faces"),
    ):
        assert datasets.load(path).name == name
    monkeypatch.chdir(tmp_path)
    assert datasets.load("faces").name == "faces"
    assert "mnist is not ready" in refusal("mnist", str(tmp_path / "no"), offline=True)


@pytest.mark.parametrize("case", ["inf", "int > 255", "rank 1", "no train", "text"])
def test_folder_refusal_names_folder_array_and_rule(case, good, tmp_path):
    change, name, rule = BAD[case]
    path = save_folder(tmp_path / "a", good | change)
    line = refusal(path)
    assert repr(path) in line and name in line and rule in line


def test_folder_that_cannot_be_mapped_is_refused(good, tmp_path):
    path = save_folder(tmp_path / "a", good)
    np.save(tmp_path / "a" / "x_test.npy", np.asfortranarray(good["x_test"]))
    assert "x_test must be saved in C order" in refusal(path)
    np.save(tmp_path / "a" / "x_test.npy", ZEROS((3, 4, 5), object))
    assert "x_test must be readable as .npy without pickles" in refusal(path)
    np.save(tmp_path / "a" / "x_test.npy", good["x_test"])
    whole = (tmp_path / "a" / "x_train.npy").read_bytes()
    (tmp_path / "a" / "x_train.npy").write_bytes(whole[:-1])
    assert "x_train must be readable as .npy" in refusal(path)
    (tmp_path / "a" / "x_train.npy").unlink()
    line = refusal(path)
    rule = (
        "x_train.npy must be present, got ['x_test.npy', 'y_test.npy', 'y_train.npy']"
    )
    assert line == f"{path!r}: {rule}"


def test_folder_without_test_images_has_only_training_data(good, tmp_path):
    path = save_folder(tmp_path / "b", good | {"x_test": None, "y_test": None})
    assert datasets.load(path).x_test is None
    assert datasets.sizes(path) == (6, 0)
