"""Tests of iwae_tf.measures.batches."""

import numpy as np
import pytest

from iwae_tf.errors import UsageError
from iwae_tf.measures import (
    annealing,
    batches,
    inspection,
    units,
)
from iwae_tf.measures import (
    likelihood as evaluation,
)


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


@pytest.mark.parametrize(
    "look",
    [
        evaluation.log_likelihood,
        inspection.posterior_means,
        units.statistics,
        lambda model, x, context: annealing.log_likelihood(
            annealing.Annealer(model), x, context=context
        ),
    ],
    ids=["evaluation", "inspection", "units", "annealing"],
)
@pytest.mark.parametrize(
    ("value", "n_contexts", "rule"),
    [
        (255, 3, r"x: must be in 0\.\.1, got 0 to 255"),
        (-1, 3, r"x: must be in 0\.\.1, got -1 to 0"),
        (np.nan, 3, r"x: must be in 0\.\.1, got nan to nan"),
        (1, 4, "context: must be one for each of 3 images, got 4"),
        (1, 2, "context: must be one for each of 3 images, got 2"),
    ],
)
def test_images_out_of_range_and_contexts_of_others_are_refused(
    look, value, n_contexts, rule, tiny
):
    x = np.zeros([3, *tiny().generator.image_shape])
    x[2, 0, 0, 0] = value
    with pytest.raises(UsageError, match=f"^{rule}$"):
        look(tiny(), x, context=np.zeros([n_contexts, 2]))
