"""Files that are written whole or not at all, and read with errors in one line."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from iwae_tf.errors import UsageError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yields an unfinished file beside `path` that replaces it once it is complete.

    Args:
      path: the file to write, in a directory that exists.

    Yields:
      unfinished: the path to write to. An error before the end leaves `path` as it was.
    """
    path = Path(path)
    unfinished = path.with_name(".part" + "".join(path.suffixes))
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Reads the named arrays of an `.npz` file.

    Args:
      path: the file.
      names: names of arrays that it must have.

    Returns:
      arrays: all arrays of the file by name, in the order of the file.

    Raises:
      UsageError: if the file is missing or damaged, or lacks one of the arrays.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in dict.fromkeys((*arrays, *names))}
    # A damaged file raises errors of zipfile, zlib, NumPy, the tokenizer, ...
    except Exception:
        raise unreadable(path, "a run") from None


def write_arrays(path: Path, /, **arrays: np.ndarray) -> None:
    """Writes named arrays to an `.npz` file, whole or not at all."""
    with written_whole(path) as unfinished:
        np.savez(unfinished, **arrays)


def read_json(path: Path, *parts: str, what: str = "a run") -> dict:
    """Reads a JSON file that holds an object.

    Args:
      path: the file.
      parts: keys that the object must have.
      what: the thing that the directory of the file must hold, for the message.

    Raises:
      UsageError: if the file is missing or damaged, or lacks one of the keys.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict) or not value.keys() >= set(parts):
        raise unreadable(path, what)
    return value


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file, whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(as_json(value))


def as_json(value: dict) -> str:
    """Returns the text of a JSON file, each list of numbers on one line."""
    text = json.dumps(value, indent=2)
    text = re.sub(r'\[[^][{}"]*\]', lambda found: " ".join(found[0].split()), text)
    return text + "\n"


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of the bytes of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def unreadable(path: Path, what: str) -> UsageError:
    """Returns the error for a directory without a readable file.

    Args:
      path: the file.
      what: the thing that its directory must hold.
    """
    return UsageError(
        f"run_dir: must hold {what}, got {str(path.parent)!r} without a readable "
        f"{path.name}"
    )


def replace_between(path: Path, begin: str, end: str, text: str, name: str) -> None:
    """Replaces the text between two marks in a file, or appends marks and text.

    Args:
      path: a UTF-8 text file, which is rewritten.
      begin: the mark before the text, a line of its own.
      end: the mark after the text, a line of its own.
      text: the text to put between the marks, without a line break at its end.
      name: the name of the argument that gave the file, for the message.

    Raises:
      UsageError: if the file has one mark without the other, or a mark twice.
    """
    begin, end = f"{begin}\n", f"{end}\n"
    whole = path.read_text("utf-8")
    if begin not in whole and end not in whole:
        whole += f"\n{begin}{end}"
    before, _, rest = whole.partition(begin)
    _, found, after = rest.partition(end)
    if not found or end in before or begin in rest or end in after:
        raise UsageError(
            f"{name}: must have a {path.name} with one {begin.strip()} before one "
            f"{end.strip()}, on lines of their own, or neither, got {str(path)!r}"
        )
    path.write_text(f"{before}{begin}{text}\n{end}{after}", "utf-8")


def escaped(text: str) -> str:
    r"""Returns text that Markdown shows as it is, on one line and in one cell.

    Args:
      text: any text, such as the name of a run. The characters \ ` * [ ] < > | ~ $ &
        get a backslash, and so do underscores that are not between letters or digits.
    """
    marks = r"[\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    return re.sub(marks, r"\\\g<0>", " ".join(text.split()))
