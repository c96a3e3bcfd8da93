"""Tests of iwae_tf.data.prepared: every rule, and every network condition."""

import gzip
import http.server
import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from refusals import refusal

from iwae_tf.data import datasets, prepared

ROOT = Path(__file__).resolve().parents[2]
PROXIES = [name for p in ("http", "https", "all") for name in (p, p.upper())]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in (*PROXIES, "no", "NO"):
        tail = "_proxy" if name.islower() else "_PROXY"
        monkeypatch.delenv(name + tail, raising=False)


def assert_three_ways_out(line):
    assert "onnect to the network" in line
    assert "--data_dir" in line and "TFDS_DATA_DIR" in line
    assert "--dataset digits" in line and ".npz" in line


# MNIST, where it is prepared ---------------------------------------------------------


@pytest.fixture(scope="module")
def mnist():
    import tensorflow_datasets as tfds

    if not tfds.builder("mnist").is_prepared():
        pytest.skip("MNIST is not prepared under TFDS_DATA_DIR or the default folder")
    start = time.monotonic()
    images = datasets.load("mnist", offline=True)
    print(f"loaded in {time.monotonic() - start:.1f} s")
    return images


def test_mnist_is_the_standard_mnist(mnist):
    assert mnist.name == "mnist" and mnist.image_shape == (28, 28, 1)
    assert mnist.x_train.shape == (60000, 28, 28, 1)
    assert mnist.x_test.shape == (10000, 28, 28, 1)
    assert mnist.x_train.dtype == mnist.x_test.dtype == np.uint8
    assert np.bincount(mnist.y_train).tolist() == (
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    assert np.bincount(mnist.y_test).tolist() == (
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    # The mean and standard deviation quoted everywhere: 0.1307, 0.3081.
    assert mnist.x_train.mean() / 255 == pytest.approx(0.13066, abs=1e-5)
    assert mnist.x_train.std() / 255 == pytest.approx(0.30811, abs=1e-5)


def test_mnist_order_is_the_same_twice_and_auto_finds_it(mnist, warned, monkeypatch):
    monkeypatch.setattr(prepared, "_probe", lambda url: pytest.fail("network"))
    again = datasets.load()
    assert again.name == "mnist" and not warned
    np.testing.assert_array_equal(again.y_train, mnist.y_train)
    np.testing.assert_array_equal(again.x_test, mnist.x_test)


def test_files_are_read_unshuffled():
    import tensorflow as tf
    import tensorflow_datasets as tfds

    class Builder:
        name = "mnist"
        info = types.SimpleNamespace(
            features={
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )

        def as_dataset(self, **kwargs):
            self.kwargs = kwargs
            arrays = {"image": np.ones((4, 28, 28, 1), np.uint8), "label": range(4)}
            return tf.data.Dataset.from_tensor_slices(arrays)

    builder = Builder()
    x, y = prepared._read_split(builder, "train")
    assert x.shape == (4, 28, 28, 1) and y.tolist() == [0, 1, 2, 3]
    assert builder.kwargs["shuffle_files"] is False


# Other data sets of tensorflow-datasets ----------------------------------------------


def write_tfds(folder, name, features, **splits):
    """Writes a data set as tensorflow-datasets does, without its code being known."""
    import tensorflow_datasets as tfds

    def _info(self):
        described = tfds.features.FeaturesDict(features(tfds.features))
        return self.dataset_info_from_configs(features=described)

    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "pkg_dir_path": folder,
        "_info": _info,
        "_split_generators": lambda self, manager: splits,
        "_generate_examples": None,
    }
    with tfds.core.registered.skip_registration():
        kind = type(name, (tfds.core.GeneratorBasedBuilder,), body)
    kind.name = name
    kind(data_dir=folder).download_and_prepare()


def pictures(n, seed, shape=(5, 4, 3)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def examples(x, **others):
    """Pairs of a key and an example; the other features have the values of the key."""
    for key, image in enumerate(x):
        yield key, {"image": image} | {name: f(key) for name, f in others.items()}


def of_pictures(features):
    return {
        "image": features.Image(shape=(5, 4, 3)),
        "label": features.ClassLabel(names=["cat", "dog"]),
        "boxes": features.Sequence(features.Scalar(np.int64)),
    }


def test_any_image_data_set_of_tfds_is_read(tmp_path):
    x, others = pictures(30, 0), {"label": lambda i: i % 2, "boxes": lambda i: [1] * i}
    train, test = (examples(part, **others) for part in (x[:20], x[20:]))
    write_tfds(tmp_path, "tiny_pictures", of_pictures, train=train, test=test)
    place = {"data_dir": str(tmp_path), "offline": True}
    assert datasets.resolve("tiny_pictures", **place) == "tiny_pictures"
    assert datasets.sizes("tiny_pictures", **place) == (20, 10)
    images = datasets.load("tiny_pictures", **place)
    assert images.name == "tiny_pictures" and images.x_train.dtype == np.uint8
    labels = np.arange(20) % 2
    assert_same_pairs(images.x_train, images.y_train, x[:20], labels)
    assert_same_pairs(images.x_test, images.y_test, x[20:], labels[:10])
    again = datasets.load("tiny_pictures:1.0.0", **place)
    assert again.name == "tiny_pictures-1-0-0"
    np.testing.assert_array_equal(again.x_train, images.x_train)


def test_tfds_without_labels_or_test_images(tmp_path):
    x = pictures(4, 1, (3, 3, 1))
    write_tfds(
        tmp_path,
        "tiny_unlabelled",
        lambda features: {"image": features.Image(shape=(None, None, 1))},
        train=examples(x),
    )
    images = datasets.load("tiny_unlabelled", str(tmp_path), offline=True)
    assert images.y_train is None and images.x_test is None
    assert sorted(map(bytes, images.x_train)) == sorted(map(bytes, x))
    assert datasets.sizes("tiny_unlabelled", str(tmp_path), offline=True) == (4, 0)


def test_tfds_of_several_sizes_or_without_training_images_is_refused(tmp_path):
    odd = {"image": np.zeros((2, 3, 3), np.uint8)}
    of_any_size = {"train": [*examples(pictures(2, 1)), (2, odd)]}
    any_size = lambda features: {"image": features.Image()}  # noqa: E731
    write_tfds(tmp_path, "tiny_sizes", any_size, **of_any_size)
    line = refusal("tiny_sizes", str(tmp_path), offline=True)
    assert line.startswith("dataset: must have images of one size, got ")
    assert "2x3x3" in line and "5x4x3" in line and "tiny_sizes" in line
    write_tfds(tmp_path, "tiny_test", any_size, test=examples(pictures(2, 1)))
    line = refusal("tiny_test", str(tmp_path), offline=True)
    rule = "dataset: must have the splits train and test, got test in tiny_test"
    assert line == rule


@pytest.mark.parametrize(
    ("features", "text", "found"),
    [
        (lambda features: {"text": features.Text()}, {"text": "a"}, "none"),
        (lambda f: {"left": f.Image(), "right": f.Image()}, {}, "left, right"),
    ],
)
def test_tfds_without_one_image_is_refused(features, text, found, tmp_path):
    import tensorflow_datasets as tfds

    example = dict.fromkeys(features(tfds.features), pictures(1, 0)[0])
    write_tfds(tmp_path, "tiny_odd", features, train=[(0, example | text)])
    line = refusal("tiny_odd", str(tmp_path), offline=True)
    rule = "dataset: must have one feature that is an image, got"
    assert line == f"{rule} {found} in tiny_odd"


def test_known_names_are_checked_without_tensorflow_or_a_download(tmp_path):
    run_forbidden(f"""
        for name, says in {{
            "glue": "dataset: must have one feature that is an image, got none",
            "cifar10": "cifar10 is not ready in ",
            "emnist/letters": "emnist/letters is not ready in ",
            "cifr10": "did you mean cifar10?",
        }}.items():
            try:
                datasets.load(name, data_dir={str(tmp_path)!r}, offline=True)
            except UsageError as error:
                line = str(error)
            assert says in line and "\\n" not in line, line
            assert "tensorflow" not in sys.modules and not calls
    """)


# Without a network -------------------------------------------------------------------


def run_forbidden(code):
    """Runs code in a fresh process in which sockets are counted and refused."""
    prelude = """
        import socket, sys
        calls = []
        def refuse(*args, **kwargs):
            calls.append(args)
            raise OSError("the network is forbidden here")
        class Socket(socket.socket):
            __init__ = refuse
        socket.socket, socket.getaddrinfo = Socket, refuse
        from iwae_tf.data import datasets
        from iwae_tf.errors import UsageError
        heavy = [m for m in ("tensorflow", "keras", "tensorflow_probability",
                 "tensorflow_datasets", "sklearn", "requests") if m in sys.modules]
        assert not heavy, heavy
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_absent_dataset_is_refused_without_tensorflow(tmp_path):
    run_forbidden(f"""
        for offline in (True, False):
            for name in ("mnist", "fashion_mnist", "omniglot"):
                try:
                    datasets.load(name, data_dir={str(tmp_path)!r}, offline=offline)
                except UsageError as error:
                    line = str(error)
                assert "\\n" not in line and name in line
                assert {str(tmp_path)!r} in line
                assert "tensorflow" not in sys.modules and "keras" not in sys.modules
                assert bool(calls) is not offline, calls
                calls.clear()
                del line
    """)


def test_offline_auto_and_digits_and_npz_need_no_socket(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.ones((2, 3, 3)), x_test=np.ones((1, 3, 3)))
    stderr = run_forbidden(f"""
        digits = datasets.load("digits")
        sizes = len(digits.x_train), len(digits.x_test)
        assert datasets.sizes("digits") == sizes
        assert datasets.sizes({str(tmp_path / "a.npz")!r}) == (2, 1)
        datasets.load({str(tmp_path / "a.npz")!r})
        assert not calls and "tensorflow_datasets" not in sys.modules
        images = datasets.load(data_dir={str(tmp_path)!r}, offline=True)
        assert images.name == "digits" and not calls, calls
        assert "tensorflow" not in sys.modules
    """)
    assert len(stderr.strip().splitlines()) == 1, stderr


def hang_look_ups(monkeypatch):
    released = threading.Event()

    def getaddrinfo(*args, **kwargs):
        released.wait(60)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    released.set()


def refuse_connections(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        set_proxy(monkeypatch, closed.getsockname()[1])  # bound, not listening
        yield


def accept_and_say_nothing(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        set_proxy(monkeypatch, silent.getsockname()[1])
        yield


def answer_byte_by_byte(monkeypatch):
    """Each byte comes within the read limit, the answer as a whole never does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        set_proxy(monkeypatch, server.getsockname()[1])
        done = threading.Event()

        def drip():
            client, _ = server.accept()
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not done.wait(0.2):
                    client.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield
        done.set()
        thread.join()


def set_proxy(monkeypatch, port):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")


CONDITIONS = [
    hang_look_ups,
    refuse_connections,
    accept_and_say_nothing,
    answer_byte_by_byte,
]


@pytest.fixture(params=CONDITIONS, ids=lambda condition: condition.__name__)
def bad_network(request, monkeypatch):
    # A byte now and then is the worst: there, `auto` waits as long as it may.
    if not request.node.name.endswith("any_network[answer_byte_by_byte]"):
        monkeypatch.setattr(prepared, "_PROBE_SECONDS", 0.5)
    yield from request.param(monkeypatch)


def test_auto_falls_back_within_10_s_on_any_network(bad_network, tmp_path, warned):
    start = time.monotonic()
    images = datasets.load(data_dir=str(tmp_path))
    assert time.monotonic() - start < 10
    assert images.name == "digits"
    (line,) = warned
    assert "\n" not in line and "digits" in line and "MNIST" in line
    assert_three_ways_out(line)


def test_explicit_name_is_refused_within_10_s(bad_network, tmp_path, request):
    # The conditions share the names out.
    name = {"accept_and_say_nothing": "omniglot", "hang_look_ups": "fashion_mnist"}.get(
        request.node.callspec.id, "mnist"
    )
    start = time.monotonic()
    line = refusal(name, data_dir=str(tmp_path))
    assert time.monotonic() - start < 10
    assert name in line and str(tmp_path) in line
    assert_three_ways_out(line)


def test_tilde_in_data_dir_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    line = refusal("mnist", data_dir="~/sets", offline=True)
    assert str(tmp_path / "sets" / "mnist") in line


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert_three_ways_out(
        refusal("mnist", data_dir=str(tmp_path / "file"), offline=True)
    )


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ("downloads/train.gz.tmp.123/x", "absent"),
        ("mnist/incomplete.AB_3.0.1/dataset_info.json", "absent"),
        ("mnist/3.0.1/mnist-train.tfrecord-00000-of-00001", "incomplete"),
        ("mnist/3.0.1/dataset_info.json", "reading failed"),
    ],
)
def test_half_downloaded_is_not_prepared(made, problem, tmp_path, warned):
    path = tmp_path / made
    path.parent.mkdir(parents=True)
    path.write_text("{}" if made.endswith(".json") else "")
    line = refusal("mnist", data_dir=str(tmp_path), offline=True)
    assert problem in line
    assert_three_ways_out(line)
    assert datasets.load(data_dir=str(tmp_path), offline=True).name == "digits"


# Downloads, from a local server ------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by base name, directly or as a proxy; can break off or stall."""

    daemon_threads = True

    def __init__(self):
        """Starts on a free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.get_status = {}, [], 200
        self.send_only, self.stall = None, threading.Event()
        self.stall.set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request to `Server`."""

    def do_HEAD(self):  # noqa: N802, D102
        self.answer(200, b"", 0)

    def do_GET(self):  # noqa: N802, D102
        body = self.server.files.get(os.path.basename(self.path), b"")
        self.answer(self.server.get_status, body, len(body))

    def answer(self, status, body, length):  # noqa: D102
        self.server.asked.append((self.command, self.path))
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: self.server.send_only])
        self.wfile.flush()
        if self.command == "GET":
            self.server.stall.wait(60)

    def log_message(self, *args):  # noqa: D102
        pass


@pytest.fixture
def server():
    with Server() as running:
        yield running
        running.stall.set()
        running.shutdown()


def idx(array):
    """The array in gzipped idx format, the one MNIST is published in."""
    head = struct.pack(">i", 0x800 + array.ndim)
    head += b"".join(struct.pack(">i", n) for n in array.shape)
    return gzip.compress(head + array.tobytes())


def small_fashion(server, monkeypatch, check=False):
    """20 + 10 images at the address of Fashion-MNIST, reached by a proxy.

    They are not what is published, so checksums are checked only on demand.
    """
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.image_classification import mnist as source

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    y = rng.integers(0, 10, 30, dtype=np.uint8)
    server.files = {
        "train-images-idx3-ubyte.gz": idx(x[:20]),
        "train-labels-idx1-ubyte.gz": idx(y[:20]),
        "t10k-images-idx3-ubyte.gz": idx(x[20:]),
        "t10k-labels-idx1-ubyte.gz": idx(y[20:]),
    }
    monkeypatch.setattr(source, "_TRAIN_EXAMPLES", 20)
    monkeypatch.setattr(source, "_TEST_EXAMPLES", 10)
    if not check:
        monkeypatch.setattr(source.FashionMNIST, "url_infos", {})
        monkeypatch.setattr(checksums, "get_all_url_infos", dict)
    set_proxy(monkeypatch, server.server_port)
    return x, y


def assert_same_pairs(x, y, expected_x, expected_y):
    """Equal up to order: tensorflow-datasets stores a permutation."""
    found = sorted((image.tobytes(), label) for image, label in zip(x, y, strict=True))
    pairs = zip(expected_x, expected_y, strict=True)
    assert found == sorted((image.tobytes(), label) for image, label in pairs)


def test_fashion_mnist_is_downloaded_then_read_offline(server, monkeypatch, tmp_path):
    x, y = small_fashion(server, monkeypatch)
    images = datasets.load("fashion_mnist", data_dir=str(tmp_path))
    assert images.name == "fashion_mnist" and images.image_shape == (28, 28, 1)
    assert images.x_train.dtype == np.uint8 and images.y_train.dtype == np.int64
    assert_same_pairs(images.x_train, images.y_train, x[:20, ..., None], y[:20])
    assert_same_pairs(images.x_test, images.y_test, x[20:, ..., None], y[20:])
    assert server.asked[0][0] == "HEAD" and len(server.asked) == 5

    assert datasets.sizes("fashion_mnist", str(tmp_path), offline=True) == (20, 10)
    run_forbidden(f"""
        assert datasets.sizes("fashion_mnist", {str(tmp_path)!r}, True) == (20, 10)
        assert not calls and "tensorflow" not in sys.modules
    """)
    again = datasets.load("fashion_mnist", data_dir=str(tmp_path), offline=True)
    assert len(server.asked) == 5
    for a, b in zip(images[1:], again[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    from tensorflow_datasets.core.download import downloader

    assert downloader.MAX_RETRIES == 10  # restored

    damage = {
        "missing": lambda shard: shard.unlink(),
        "cut": lambda shard: os.truncate(shard, shard.stat().st_size - 100),
        "empty": lambda shard: os.truncate(shard, 0),
        # A record is its length, 8 + 4 bytes around; cut after the first.
        "fewer records": lambda shard: os.truncate(
            shard, struct.unpack("<Q", shard.read_bytes()[:8])[0] + 16
        ),
        "info": lambda shard: shard.with_name("dataset_info.json").write_text("{"),
    }
    for case, break_it in damage.items():
        copy = tmp_path / case
        shutil.copytree(tmp_path / "fashion_mnist", copy / "fashion_mnist")
        (shard,) = copy.glob("fashion_mnist/*/*-test.tfrecord*")
        break_it(shard)
        line = refusal("fashion_mnist", data_dir=str(copy))
        assert_three_ways_out(line)
        assert "delete its files" in line and str(copy) in line


def break_off(server):
    server.send_only = 1000


def answer_503(server):
    server.get_status = 503


def serve_something_else(server):
    server.files = dict.fromkeys(server.files, b"<html>Please log in</html>")


def stall_midway(server):
    server.send_only = 1000
    server.stall.clear()


def wrong_checksum(server):
    pass


FAILURES = {
    break_off: "IncompleteRead",
    answer_503: "RetryError",
    serve_something_else: "ExtractError",
    stall_midway: "Read timed out",
    wrong_checksum: "NonMatchingChecksumError",
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: f.__name__)
def test_failed_download_is_one_line(failure, server, monkeypatch, tmp_path):
    small_fashion(server, monkeypatch, check=failure is wrong_checksum)
    monkeypatch.setattr(prepared, "_STALL_SECONDS", 1.0)
    failure(server)
    start = time.monotonic()
    line = refusal("fashion_mnist", data_dir=str(tmp_path))
    assert time.monotonic() - start < 20
    assert "download failed" in line and FAILURES[failure] in line
    assert_three_ways_out(line)
    assert not list(tmp_path.glob("fashion_mnist/3*"))
    line = refusal("fashion_mnist", data_dir=str(tmp_path), offline=True)
    assert "offline forbids" in line


def test_auto_turns_a_failed_download_into_digits(
    server, monkeypatch, tmp_path, warned
):
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setitem(prepared._URLS, "mnist", url + "train-images-idx3-ubyte.gz")
    from tensorflow_datasets.image_classification import mnist as source

    monkeypatch.setattr(source, "_MNIST_URL", url)
    monkeypatch.setattr(source.MNIST, "URL", url, raising=False)
    assert datasets.load(data_dir=str(tmp_path)).name == "digits"
    assert any(command == "GET" for command, _ in server.asked)
    (line,) = warned
    assert "download failed" in line and "\n" not in line


def test_status_of_an_error_counts_as_unreachable(server, monkeypatch, tmp_path):
    monkeypatch.setattr(Handler, "do_HEAD", lambda self: self.answer(403, b"", 0))
    set_proxy(monkeypatch, server.server_port)
    line = refusal("fashion_mnist", data_dir=str(tmp_path))
    assert "status 403" in line and len(server.asked) == 1


# Omniglot ----------------------------------------------------------------------------


def shrink_by_blocks(image, size=28):
    """Oracle: repeat pixels until blocks fit, average whole blocks, round half up.

    An odd side, or none to change, leaves no ties to round.
    """
    old = len(image)
    fine = np.kron(255 - image[..., 0].astype(np.int64), np.ones((size, size), int))
    sums = fine.reshape(size, old, size, old).sum((1, 3))
    return ((2 * sums + old * old) // (2 * old * old)).astype(np.uint8)


@pytest.mark.parametrize("side", [105, 28, 35, 61])
def test_shrink_matches_block_average_oracle(side):
    rng = np.random.default_rng(side)
    gray = rng.integers(0, 256, (3, side, side, 1), dtype=np.uint8)
    gray[1] = np.where(gray[1] > 200, 0, 255)  # pure black and white, as stored
    images = np.repeat(gray, 3, axis=-1)
    small = prepared._shrink(images)
    assert small.shape == (3, 28, 28, 1) and small.dtype == np.uint8
    for image, found in zip(images, small, strict=True):
        np.testing.assert_array_equal(found[..., 0], shrink_by_blocks(image))


def test_shrink_inverts_and_keeps_orientation():
    image = np.full((1, 105, 105, 3), 255, np.uint8)
    assert prepared._shrink(image).max() == 0
    image[0, :30, 75:] = 0  # ink in the top right corner, 8 x 8 new pixels
    small = prepared._shrink(image)[0, ..., 0]
    assert (small[:8, 20:] == 255).all()
    assert small.sum() == 64 * 255


def drawings(alphabet, characters, rng):
    """A zip file as Omniglot publishes it, and its images by label."""
    from PIL import Image

    archive, images = io.BytesIO(), []
    with zipfile.ZipFile(archive, "w") as out:
        for number in characters:
            for drawer in (1, 2):
                image = rng.random((105, 105)) > 0.1
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                folder = f"images/{alphabet}/character{number:02}"
                name = f"{folder}/{number:04}_{drawer:02}.png"
                out.writestr(name, png.getvalue())
                images.append(np.repeat(255 * image[..., None].astype(np.uint8), 3, -1))
    return archive.getvalue(), images


def test_omniglot_from_zip_to_28x28(server, monkeypatch, tmp_path):
    from tensorflow_datasets.image_classification import omniglot as source

    rng = np.random.default_rng(1)
    train, train_images = drawings("Greek", [1, 2, 3], rng)
    test, test_images = drawings("Latin", [4, 5], rng)
    names = ("images_background", "images_evaluation")
    small = [f"images_background_small{i}" for i in (1, 2)]
    server.files = {f"{n}.zip": z for n, z in zip(names, (train, test), strict=True)}
    server.files.update({f"{n}.zip": train for n in small})
    url = f"http://127.0.0.1:{server.server_port}/"
    urls = {k: url + v.rpartition("/")[2] for k, v in source._DL_URLS.items()}
    monkeypatch.setattr(source, "_DL_URLS", urls)
    monkeypatch.setattr(source, "_NUM_CLASSES", 5)
    monkeypatch.setattr(source, "_NUM_ALPHABETS", 2)
    monkeypatch.setitem(prepared._URLS, "omniglot", urls["train"])

    images = datasets.load("omniglot", data_dir=str(tmp_path))
    assert images.name == "omniglot" and images.image_shape == (28, 28, 1)
    assert images.x_train.dtype == np.uint8 and images.y_train.dtype == np.int64
    expected = [shrink_by_blocks(image)[..., None] for image in train_images]
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert_same_pairs(images.x_train, images.y_train, expected, labels)
    expected = [shrink_by_blocks(image)[..., None] for image in test_images]
    assert_same_pairs(images.x_test, images.y_test, expected, np.array([3, 3, 4, 4]))
