"""Tests of iwae_tf.files."""

import json

import numpy as np

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
