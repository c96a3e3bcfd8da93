"""Tests of iwae_tf.batches."""

import numpy as np
import pytest

from iwae_tf import batches


class Squares:
    """Squares of places, in two rows; counts the batches, and stops at one."""

    def __init__(self, stop_at=None):
        self.begun = []
        self.stop_at = stop_at

    def __call__(self, first, n_own, places):
        if first == self.stop_at:
            raise KeyboardInterrupt
        self.begun.append((first, n_own, places.tolist()))
        own = places[:n_own]
        return {"square": own.astype(np.float64) ** 2, "rows": np.stack([own, -own])}


@pytest.mark.parametrize("is_kept", [False, True])
def test_values_are_those_of_every_image_once(is_kept, tmp_path):
    squares = Squares()
    directory = tmp_path / "a" / "b" if is_kept else None
    values = batches.run(5, 2, squares, directory)
    assert squares.begun == [(0, 2, [0, 1]), (2, 2, [2, 3]), (4, 1, [4, 4])]
    np.testing.assert_array_equal(values["square"], [0, 1, 4, 9, 16])
    np.testing.assert_array_equal(values["rows"], [range(5), range(0, -5, -1)])
    assert values["rows"].dtype.kind == "i"
    assert len(list(tmp_path.rglob("*.npz"))) == (3 if is_kept else 0)


def test_stopped_run_goes_on_with_the_batch_it_stopped_in(tmp_path):
    stopped, again = Squares(stop_at=4), Squares()
    with pytest.raises(KeyboardInterrupt):
        batches.run(7, 2, stopped, tmp_path)
    # What a kill leaves of a file does not count.
    (tmp_path / ".part.npz").write_bytes(b"half")
    values = batches.run(7, 2, again, tmp_path)
    assert [first for first, *_ in stopped.begun] == [0, 2]
    assert [first for first, *_ in again.begun] == [4, 6]
    for name, want in batches.run(7, 2, Squares()).items():
        np.testing.assert_array_equal(values[name], want, strict=True)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}


@pytest.mark.parametrize("damage", [b"", b"noise", None], ids=str)
def test_damaged_batch_is_computed_again(damage, tmp_path):
    want = batches.run(5, 2, Squares(), tmp_path)
    path = tmp_path / "000002.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = Squares()
    values = batches.run(5, 2, again, tmp_path)
    assert [first for first, *_ in again.begun] == [2]
    for name in want:
        np.testing.assert_array_equal(values[name], want[name], strict=True)
    assert path.read_bytes() == whole
