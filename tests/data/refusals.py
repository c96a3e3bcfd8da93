"""How data sets are refused."""

import pytest

from iwae_tf.data import datasets
from iwae_tf.errors import UsageError


def refusal(*args, **kwargs):
    """The one line that `load` refuses its arguments with."""
    with pytest.raises(UsageError) as info:
        datasets.load(*args, **kwargs)
    line = str(info.value)
    assert "\n" not in line
    return line
