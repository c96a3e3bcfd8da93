"""Tests of iwae_tf.files."""

import errno
import json
import os
import re

import numpy as np
import pytest

from iwae_tf import files
from iwae_tf.errors import UsageError


def test_arrays_come_back_in_the_order_of_their_file(tmp_path):
    path, names = tmp_path / "a.npz", list("hgfedcba")
    files.write_arrays(path, **dict.fromkeys(names, np.ones(2)))
    assert list(files.read_arrays(path, "a")) == names


def test_lists_of_numbers_are_written_on_one_line_and_read_back(tmp_path):
    value = {"a": [1, -2.5, 1e-7], "b": {"c": [[1, 2], []]}, "d": ["x, y", "[1,\n 2]"]}
    files.write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text()
    assert files.read_json(tmp_path / "v.json") == value
    assert '"a": [ 1, -2.5, 1e-07 ]' in text


def test_any_bit_of_a_json_file_that_flips_is_noticed_or_changes_no_value(tmp_path):
    path, value = tmp_path / "v.json", {"a": [1.25, None], "b": {"c": "text"}}
    files.write_json(path, value)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                found = files.read_json(path)
            except UsageError as error:
                assert "v.json; remove it" in str(error)
            else:
                found.pop(next(iter({*found} - {*value}), None), None)
                assert found == value


def test_json_of_older_versions_has_no_checksum_and_is_read(tmp_path):
    path = tmp_path / "v.json"
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}
    path.write_text('{"a": 1, "checksum": "x"}')
    with pytest.raises(UsageError):
        files.read_json(path)


def test_checksum_is_of_the_content_and_not_of_its_form(tmp_path):
    path, value = tmp_path / "v.json", {"b": (1, 2), 3: {"c": 1e-7}}
    files.write_json(path, value)
    own = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(own.items()))))
    assert files.read_json(path) == {"b": [1, 2], "3": {"c": 1e-7}}


@pytest.mark.parametrize("text", ["null", "[]", "1", '"a"', "[" * 10**5, "{", "", "\0"])
def test_json_that_is_no_object_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "v.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"^run_dir: .* readable v\.json; remove it$"):
        files.read_json(path)


KIND = {"a": int, "b?": [(int, float)], "c": {"*": {"d": str}}, "e?": (str, type(None))}


@pytest.mark.parametrize(
    ("value", "is_fit"),
    [
        ({"a": 1, "c": {}}, True),
        ({"a": 1, "b": [1, 2.5], "c": {"x": {"d": ""}}, "e": None, "more": 1}, True),
        ({"a": True, "c": {}}, False),
        ({"a": 1.0, "c": {}}, False),
        ({"a": None, "c": {}}, False),
        ({"c": {}}, False),
        ({"a": 1, "c": []}, False),
        ({"a": 1, "c": {"x": {}}}, False),
        ({"a": 1, "c": {"x": {"d": 1}}}, False),
        ({"a": 1, "b": 1, "c": {}}, False),
        ({"a": 1, "b": [1, "2"], "c": {}}, False),
        ({"a": 1, "c": {}, "e": 1}, False),
        ([], False),
    ],
)
def test_value_fits_its_kind(value, is_fit):
    assert files.fits(value, KIND) == is_fit


def test_json_is_made_once_and_again_if_it_is_damaged(tmp_path):
    path, made = tmp_path / "v.json", []

    def make():
        made.append({"n": len(made)})
        return made[-1]

    for content, want in ((None, 0), (None, 0), (b"{", 1), (b"", 2)):
        if content is not None:
            path.write_bytes(content)
        assert files.read_or_make_json(path, make) == {"n": want}
    assert len(made) == 3


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "other.txt"),
        OSError("No space left on the device"),
    ],
    ids=["number", "file", "text"],
)
def test_error_of_the_system_names_the_file_and_leaves_the_old_one(error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left") as info:
        with files.written_whole(path) as unfinished:
            unfinished.write_text("half")
            raise error
    assert info.value.filename == str(path)
    assert info.value.errno == error.errno
    assert info.value.strerror == (error.strerror or str(error))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def cells_of(row):
    """The texts that Markdown shows in the cells of a row, plain where escaped."""
    assert row.startswith("| ") and row.endswith(" |") and "\n" not in row
    parts = re.findall(r"(?:\\.|[^|\\])+", row[1:-1])
    return [re.sub(r"\\([!-/:-@[-`{-~])", r"\1", part.strip()) for part in parts]


TEXTS = {
    "a|b": r"a\|b",
    "a\\|b": r"a\\\|b",
    "`rm` <b>": r"\`rm\` \<b\>",
    "[x](y) *z* ~w~ $v$ &lt;": r"\[x\](y) \*z\* \~w\~ \$v\$ \&lt;",
    "_x_ my_run_2": r"\_x\_ my_run_2",
    "mnist · k = 5, 1e-3": "mnist · k = 5, 1e-3",
}


@pytest.mark.parametrize("text", TEXTS)
def test_escaped_text_is_one_cell_that_shows_it(text):
    assert files.escaped(text) == TEXTS[text]
    assert cells_of(f"| {files.escaped(text)} | 1 |") == [text, "1"]


def test_escaped_text_is_one_line():
    assert files.escaped(" two\nlines\r\n\tand more ") == "two lines and more"
