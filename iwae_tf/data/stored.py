"""Data sets in .npz files, and in folders of .npy files that stay on disk.

Importing this module imports only NumPy.
"""

import os
import zipfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from iwae_tf.data.memory import aligned
from iwae_tf.data.names import NAMES, for_a_directory, is_npz
from iwae_tf.data.observations import (
    Images,
    Mapped,
    check_agreement,
    check_images,
    check_labels,
    check_shape,
)
from iwae_tf.errors import UsageError, brief

_ARRAYS = ("x_train", "x_test", "y_train", "y_test")


def load(path: str) -> Images:
    """Reads and checks `x_train` and those of the other three arrays that it holds.

    Raises:
      UsageError: if a file breaks a rule. The error names the path, the array, the
        rule and what was found.
    """
    is_file = is_npz(path)
    held = _read_npz(path, _read_array) if is_file else _read_folder(path, _map_array)
    parts = ("train", "test") if "x_test" in held else ("train",)
    given = {name for name in held if name.startswith("y_")}
    if given and given != {f"y_{part}" for part in parts}:
        rule = "must be given for all of the images or for none"
        raise UsageError(
            f"{path!r}: y_train and y_test {rule}, got only {', '.join(held)}"
        )
    x = [check_images(f"{path!r}: x_{part}", held[f"x_{part}"]) for part in parts]
    check_agreement(path, "x", "image shape", x)
    y = [
        check_labels(f"{path!r}: y_{part}", held.get(f"y_{part}"), len(x[place]))
        for place, part in enumerate(parts)
    ]
    check_agreement(path, "y", "shape", y)
    arrays = [*x, None][:2] + [*y, None][:2]
    stem = os.path.basename(os.path.abspath(path))
    name = for_a_directory(os.path.splitext(stem)[0] if is_file else stem)
    # A file must not be mistaken for the data set of the same name.
    if name in NAMES:
        name += "-npz" if is_file else "-npy"
    return Images(name, *arrays)


def sizes(path: str) -> tuple[int, int]:
    """The numbers of training and test images, of which only the heads are read.

    Raises:
      UsageError: if a file breaks a rule.
    """
    read = _read_npz if is_npz(path) else _read_folder
    heads = read(path, _read_header)
    shapes = {name: heads[name][0] for name in _ARRAYS[:2] if name in heads}
    for name, shape in shapes.items():
        check_shape(f"{path!r}: {name}", shape)
    return shapes["x_train"][0], shapes.get("x_test", (0,))[0]


def _read_npz(path: str, read: Callable[[IO[bytes]], Any]) -> dict[str, Any]:
    """Reads those of the four arrays that the file holds; never unpickles."""
    arrays, name = {}, "the archive"
    try:
        with zipfile.ZipFile(path) as archive:
            held = [member.removesuffix(".npy") for member in archive.namelist()]
            for name in (name for name in _ARRAYS if name in held):
                with archive.open(f"{name}.npy") as file:
                    arrays[name] = read(file)
    # A damaged file raises errors of zipfile, zlib, NumPy, the tokenizer, ...
    except Exception as error:
        rule = f"{name} must be readable as .npz without pickles"
        raise UsageError(f"{path!r}: {rule}, got {brief(error)}") from error
    if "x_train" not in arrays:
        raise UsageError(f"{path!r}: array x_train must be present, got {held}")
    return arrays


def _read_folder(path: str, read: Callable[[IO[bytes]], Any]) -> dict[str, Any]:
    """Reads those of the four arrays that a folder holds; never unpickles."""
    arrays, name = {}, "the folder"
    try:
        held = sorted(os.listdir(path))
        for name in (name for name in _ARRAYS if f"{name}.npy" in held):
            with open(os.path.join(path, f"{name}.npy"), "rb") as file:
                arrays[name] = read(file)
    except UsageError:
        raise
    except Exception as error:
        rule = f"{name} must be readable as .npy without pickles"
        raise UsageError(f"{path!r}: {rule}, got {brief(error)}") from error
    if "x_train" not in arrays:
        raise UsageError(f"{path!r}: x_train.npy must be present, got {held}")
    return arrays


def _map_array(file: IO[bytes]) -> np.ndarray | Mapped:
    """Maps an .npy file of observations, and reads one of labels."""
    name = os.path.splitext(os.path.basename(file.name))[0]
    if name.startswith("y_"):
        return np.load(file, allow_pickle=False)
    shape, is_transposed, _ = _read_header(file)
    where = f"{os.path.dirname(file.name)!r}: {name}"
    check_shape(where, shape)
    if is_transposed:
        raise UsageError(f"{where} must be saved in C order, got Fortran order")
    on_disk = np.load(file.name, mmap_mode="r", allow_pickle=False)
    return Mapped(on_disk.view(np.ndarray), on_disk.base)


def _read_array(file: IO[bytes]) -> np.ndarray:
    """Reads an .npy file into aligned memory; `np.load` does not align it."""
    shape, is_transposed, dtype = _read_header(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    array = aligned(shape[::-1] if is_transposed else shape, dtype)
    rest = array.reshape(-1).view(np.uint8)
    while len(rest):
        n_read = file.readinto(rest[: 2**20])
        if not n_read:
            raise EOFError(f"{len(rest)} bytes of the array are missing")
        rest = rest[n_read:]
    file.read(1)  # the archive compares its checksum at the end
    return array.T if is_transposed else array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the head of an .npy file: shape, whether transposed, and type."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
