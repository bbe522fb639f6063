"""Fixtures: a stack whose wire is in the test's hands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A stack on a pipe of IP packets."""
    w = Wire()
    yield w
    w.close()


@pytest.fixture
def ether() -> Iterator[Wire]:
    """A stack on a pipe of Ethernet frames, that knows where the peer is."""
    w = Wire(layer=2)
    w.learn()
    yield w
    w.close()
