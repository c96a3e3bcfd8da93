"""Files that are written whole or not at all, and read with errors in one line."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from iwae_tf.errors import UsageError

_CHECKSUM = "checksum"  # the key of a JSON file's own checksum


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
    with naming(path):
        try:
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """The context in which a file is written: errors of the system name it."""
    try:
        yield
    except OSError as error:
        # Pillow's errors have a text, but neither a number nor a file.
        why = error.strerror or str(error)
        raise OSError(error.errno, why, str(path)) from error


def read_arrays(
    path: Path, *names: str, remedy: str = "remove it"
) -> dict[str, np.ndarray]:
    """Reads the named arrays of an `.npz` file.

    Args:
      path: the file.
      names: names of arrays that it must have.
      remedy: what the user can do about it, for the message.

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
        raise unreadable(path, "a run", remedy) from None


def write_arrays(path: Path, /, **arrays: np.ndarray) -> None:
    """Writes named arrays to an `.npz` file, whole or not at all."""
    with written_whole(path) as unfinished:
        np.savez(unfinished, **arrays)


def read_json(
    path: Path,
    kind: Mapping | None = None,
    what: str = "a run",
    remedy: str = "remove it",
) -> dict:
    """Reads a JSON file that holds an object.

    Args:
      path: the file, with the checksum of `write_json` or without any.
      kind: what the object must be, see `fits`.
      what: the thing that the directory of the file must hold, for the message.
      remedy: what the user can do about it, for the message.

    Raises:
      UsageError: if the file is missing or damaged, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
        is_whole = fits(value, kind or {})
        if is_whole:
            found = _checksum(value)
            is_whole = value.pop(_CHECKSUM, found) == found
    except (OSError, ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise unreadable(path, what, remedy)
    return value


def read_or_make_json(path: Path, make: Callable[[], dict]) -> dict:
    """Reads a JSON file; if it is missing or damaged, makes its content and writes it.

    Args:
      path: the file.
      make: function () -> the content.
    """
    try:
        return read_json(path)
    except UsageError:
        write_json(path, make())
        return read_json(path)


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file with a checksum of its content, whole or not at all."""
    value = value | {_CHECKSUM: _checksum(value)}
    text = json.dumps(value, indent=2)
    text = re.sub(r'\[[^][{}"]*\]', lambda found: " ".join(found[0].split()), text)
    with written_whole(path) as unfinished:
        unfinished.write_text(text + "\n")


def _checksum(value):
    """The SHA-256 of an object, in whatever form and order it was written."""
    rest = {name: part for name, part in value.items() if name != _CHECKSUM}
    # As it will be read: keys are text then, and tuples are lists.
    rest = json.loads(json.dumps(rest))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def fits(value, kind) -> bool:
    """Whether the content of a JSON file is what it must be.

    Args:
      value: the content.
      kind: a type, or a tuple of types; a list of one kind, for a list of any length of
        that kind; or a mapping from keys to kinds, for an object. A key that ends with
        a question mark may be missing, and the key "*" stands for all keys.
    """
    if isinstance(kind, Mapping):
        if not isinstance(value, dict):
            return False
        parts = []
        for name, part in kind.items():
            own = name.removesuffix("?")
            if name == "*":
                parts += ((found, part) for found in value.values())
            elif own in value:
                parts.append((value[own], part))
            elif own == name:
                return False
        return all(fits(*part) for part in parts)
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(part, kind[0]) for part in value)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of the bytes of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def unreadable(path: Path, what: str, remedy: str) -> UsageError:
    """Returns the error for a directory without a readable file.

    Args:
      path: the file.
      what: the thing that its directory must hold.
      remedy: what the user can do about it, if the directory exists.
    """
    return UsageError(
        f"run_dir: must hold {what}, got {str(path.parent)!r} without a readable "
        f"{path.name}{f'; {remedy}' if path.parent.exists() else ''}"
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
