"""Tests of iwae_tf.data.fetched: both formats, and every file that is refused."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from refusals import refusal

from iwae_tf import data
from iwae_tf.data import datasets, fetched
from iwae_tf.data.memory import is_aligned
from iwae_tf.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "omniglot_burda": {"data": 11, "testdata": 5},
    "binarized_mnist": {"train": 7, "valid": 3, "test": 4},
}
OMNIGLOT = "chardata.mat"
AMAT = [f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test")]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, sizes in SMALL.items():
        monkeypatch.setitem(fetched.N_IMAGES, name, sizes)


@pytest.fixture
def grey():
    """What chardata.mat holds: an image in each column, read down its columns."""
    rng = np.random.default_rng(0)
    held = {}
    for name, of_labels, n in (("data", "target", 11), ("testdata", "testtarget", 5)):
        images = rng.random((n, 28, 28))
        images[:, 0, 0], images[:, -1, -1] = 0.0, 1.0
        columns = [
            [image[i, j] for j in range(28) for i in range(28)] for image in images
        ]
        held[name] = np.array(columns).T
        alphabets = rng.permutation(np.arange(n) % 4)
        held[of_labels] = np.eye(4)[alphabets].T
        held[f"{of_labels}char"] = np.arange(n)[np.newaxis] + 1.0
        held[f"upright {name}"], held[f"places {name}"] = images, alphabets
    return held


@pytest.fixture
def binary():
    """Images [7 + 3 + 4, 28, 28] of 0 and 1."""
    return np.random.default_rng(1).integers(0, 2, (14, 28, 28))


def save_mat(folder, held, **options):
    folder.mkdir(exist_ok=True)
    kept = {name: x for name, x in held.items() if " " not in name}
    scipy.io.savemat(folder / OMNIGLOT, kept, **options)


def save_amat(folder, images):
    folder.mkdir(exist_ok=True)
    parts = np.split(images.reshape(len(images), 784), [7, 10])
    for name, part in zip(AMAT, parts, strict=True):
        lines = (" ".join(map(str, row)) for row in part.tolist())
        (folder / name).write_text("\n".join(lines) + "\n")


# Sizes and places --------------------------------------------------------------------


def test_sizes_are_those_that_are_published(monkeypatch):
    monkeypatch.undo()
    assert fetched.NAMES == ("omniglot_burda", "binarized_mnist")
    assert datasets.sizes("omniglot_burda") == (24345, 8070)
    assert datasets.sizes("binarized_mnist") == (60000, 10000)


@pytest.mark.parametrize("name", fetched.NAMES)
def test_an_absent_file_is_told_before_tensorflow(name, tmp_path):
    code = f"""if True:
        import sys
        from iwae_tf.data import datasets
        from iwae_tf.errors import UsageError
        try:
            datasets.resolve({name!r}, {str(tmp_path)!r})
        except UsageError as error:
            print(error)
        assert datasets.sizes({name!r})
        heavy = {{"tensorflow", "tensorflow_datasets", "scipy"}} & set(sys.modules)
        assert not heavy, heavy
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    file = {"omniglot_burda": OMNIGLOT, "binarized_mnist": AMAT[0]}[name]
    assert line.startswith(f"data_dir: must hold {file}, or a folder {name} with it")
    assert repr(str(tmp_path)) in line
    source = {"omniglot_burda": "yburda/iwae", "binarized_mnist": "/~larocheh/"}[name]
    assert source in line


def test_files_lie_in_the_folder_or_in_one_with_the_name(
    binary, grey, tmp_path, monkeypatch
):
    save_amat(tmp_path, binary)
    save_mat(tmp_path / "omniglot_burda", grey)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in fetched.NAMES:
        assert datasets.resolve(name) == name
        assert datasets.load(name, offline=True).name == name
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.resolve("omniglot_burda", "~") == "omniglot_burda"
    (tmp_path / AMAT[1]).unlink()
    assert AMAT[1] in refusal("binarized_mnist", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert repr(str(tmp_path / "tensorflow_datasets")) in refusal("binarized_mnist", "")


# Omniglot ----------------------------------------------------------------------------


def test_omniglot_is_upright_and_in_the_order_of_the_authors(grey, tmp_path):
    save_mat(tmp_path, grey, do_compression=True)
    images = datasets.load("omniglot_burda", str(tmp_path))
    order = np.random.RandomState(123).permutation(11)
    want = grey["upright data"][order].astype(np.float32)
    np.testing.assert_array_equal(images.x_train[..., 0], want)
    want = grey["upright testdata"].astype(np.float32)
    np.testing.assert_array_equal(images.x_test[..., 0], want)
    assert images.image_shape == (28, 28, 1)
    for x in (images.x_train, images.x_test):
        assert x.dtype == np.float32 and is_aligned(x)
    np.testing.assert_array_equal(images.y_train, grey["places data"][order])
    np.testing.assert_array_equal(images.y_test, grey["places testdata"])
    assert images.y_train.dtype == images.y_test.dtype == np.int64
    sets = data.sets_of(images, "dynamic", conditional=True, validation=2)
    assert sets.n_context == 4 and sets.x_test.shape == (2, 28, 28, 1)
    assert set(np.unique(sets.x_test)) == {0, 1}


def test_omniglot_has_no_labels_if_the_file_has_none(grey, tmp_path):
    del grey["testtarget"]
    save_mat(tmp_path, grey)
    images = datasets.load("omniglot_burda", str(tmp_path))
    assert images.y_train is None and images.y_test is None
    with pytest.raises(UsageError, match="^conditional: needs a data set with labels"):
        data.sets_of(images, "dynamic", conditional=True)


def with_value(value):
    def change(x):
        x[3, 2] = value
        return x

    return change


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("data", lambda x: None, "data must be numbers of shape (784, 11), got none"),
        ("data", lambda x: x.T, "got float64 of shape (11, 784)"),
        ("testdata", lambda x: x[:, :4], "got float64 of shape (784, 4)"),
        ("data", lambda x: x.astype(complex), "got complex128 of shape (784, 11)"),
        ("data", scipy.sparse.csc_matrix, "got csc_"),
        ("data", lambda x: 255 * x, "data must have grey values in 0..1, got 0 to 255"),
        ("testdata", with_value(-0.5), "in 0..1, got -0.5 to 1"),
        ("testdata", with_value(np.nan), "in 0..1, got nan to nan"),
        ("data", with_value(1e300), "in 0..1, got 0 to inf"),
        ("target", lambda x: x[:, 1:], "alphabets, 11), got float64 of shape (4, 10)"),
        ("testtarget", with_value(0.5), "0 elsewhere, got 1 other columns"),
        ("target", np.zeros_like, "0 elsewhere, got 11 other columns"),
        ("target", np.negative, "0 elsewhere, got 11 other columns"),
    ],
)
def test_another_omniglot_is_refused(name, change, says, grey, tmp_path):
    grey[name] = change(grey[name])
    if grey[name] is None:
        del grey[name]
    save_mat(tmp_path, grey)
    line = refusal("omniglot_burda", str(tmp_path))
    assert line.startswith(f"{str(tmp_path / OMNIGLOT)!r}: {name} must ")
    assert says in line


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>Not found</html>" * 20, b"MATLAB 7.3" + b"\0" * 114 + b"\0\2IM"],
)
def test_a_file_that_is_not_of_matlab_is_refused(content, tmp_path):
    (tmp_path / OMNIGLOT).write_bytes(content)
    line = refusal("omniglot_burda", str(tmp_path))
    rule = "must be readable as a MATLAB file of version 5, got "
    assert line.startswith(f"{str(tmp_path / OMNIGLOT)!r}: {rule}")


@pytest.mark.parametrize("do_compression", [False, True])
def test_a_damaged_omniglot_is_refused(do_compression, grey, tmp_path):
    save_mat(tmp_path, grey, do_compression=do_compression)
    content = (tmp_path / OMNIGLOT).read_bytes()
    for length in (100, 128, 140, 1000, len(content) // 2):
        (tmp_path / OMNIGLOT).write_bytes(content[:length])
        assert str(tmp_path / OMNIGLOT) in refusal("omniglot_burda", str(tmp_path))


# MNIST, binarised --------------------------------------------------------------------


def test_binarized_mnist_has_the_images_for_validation_last(
    binary, tmp_path, monkeypatch
):
    monkeypatch.setattr(fetched, "_PIECE", 3)
    save_amat(tmp_path, binary)
    images = datasets.load("binarized_mnist", str(tmp_path))
    np.testing.assert_array_equal(images.x_train[..., 0], 255 * binary[:10])
    np.testing.assert_array_equal(images.x_test[..., 0], 255 * binary[10:])
    assert datasets.sizes("binarized_mnist") == (10, 4)
    assert images.image_shape == (28, 28, 1)
    assert images.y_train is None and images.y_test is None
    for x in (images.x_train, images.x_test):
        assert x.dtype == np.uint8 and is_aligned(x)
    sets = data.sets_of(images, "dynamic", validation=3)
    np.testing.assert_array_equal(sets.x_test[..., 0], binary[7:10])


@pytest.mark.parametrize("mode", data.BINARIZATIONS)
def test_binarized_mnist_is_binary_whatever_is_drawn(mode, binary, tmp_path):
    save_amat(tmp_path, np.resize(binary, (14, 28, 28)))
    images = datasets.load("binarized_mnist", str(tmp_path))
    for seed in range(20):
        drawn = data.binarize(images.x_train, mode, seed)
        np.testing.assert_array_equal(drawn[..., 0], binary[:10])
    batches = data.training_batches(images.x_train, 10, 1, binarization=mode)
    for batch in batches.take(3):
        want = sorted(map(bytes, binary[:10].astype(np.float32)))
        assert sorted(map(bytes, batch.numpy())) == want


def at(place, found):
    def change(text):
        return text[:place] + found + text[place + 1 :]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: b"", "got 0 bytes"),
        (lambda text: text[:-1], "got 4,703 bytes"),
        (lambda text: text.replace(b"\n", b" \n"), "got 4,707 bytes"),
        (lambda text: text.replace(b"\n", b"\r\n"), "got 4,707 bytes"),
        (lambda text: text + text[:1568], "got 6,272 bytes"),
        (at(2, b"2"), "got b'2 ' for value 2 of line 1"),
        (at(1568, b" "), "got b'  ' for value 1 of line 2"),
        (at(1567, b" "), "for value 784 of line 1"),
        (at(3135 + 20, b"\n"), "for value 10 of line 3"),
        (at(2, b"\0"), "got b'\\x00 ' for value 2 of line 1"),
    ],
)
def test_another_binarized_mnist_is_refused(change, says, binary, tmp_path):
    save_amat(tmp_path, binary)
    path = tmp_path / AMAT[1]
    path.write_bytes(change(path.read_bytes()))
    line = refusal("binarized_mnist", str(tmp_path))
    rule = "must be 3 lines of 784 values 0 or 1, "
    assert line.startswith(f"{str(path)!r}: {rule}")
    assert line.endswith(says)


def test_binarized_mnist_is_read_without_a_copy(binary, tmp_path, monkeypatch):
    n = 5000
    monkeypatch.setitem(
        fetched.N_IMAGES, "binarized_mnist", dict.fromkeys(SMALL["binarized_mnist"], n)
    )
    save_amat(tmp_path, binary)
    text = (tmp_path / AMAT[2]).read_bytes()
    for name in AMAT:
        (tmp_path / name).write_bytes(text * (n // 4))
    tracemalloc.start()
    images = datasets.load("binarized_mnist", str(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(images.x_train[-4:, ..., 0], 255 * binary[10:])
    assert peak < 3 * n * 784 + 2**23
