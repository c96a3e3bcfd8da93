"""Tests of iwae_tf.files."""

import json
import re

import numpy as np
import pytest

from iwae_tf import files


def test_arrays_come_back_in_the_order_of_their_file(tmp_path):
    path, names = tmp_path / "a.npz", list("hgfedcba")
    files.write_arrays(path, **dict.fromkeys(names, np.ones(2)))
    assert list(files.read_arrays(path, "a")) == names


def test_lists_of_numbers_are_written_on_one_line_and_read_back(tmp_path):
    value = {"a": [1, -2.5, 1e-7], "b": {"c": [[1, 2], []]}, "d": ["x, y", "[1,\n 2]"]}
    files.write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text()
    assert json.loads(text) == value
    assert '"a": [ 1, -2.5, 1e-07 ]' in text


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
