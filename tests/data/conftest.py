"""What tests of data sets share."""

import absl.logging
import pytest


@pytest.fixture
def warned(monkeypatch):
    """Lines that are logged by `absl.logging.warning`."""
    lines = []
    monkeypatch.setattr(
        absl.logging, "warning", lambda text, *args: lines.append(text % args)
    )
    return lines
