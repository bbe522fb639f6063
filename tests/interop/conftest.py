"""The fixture ``wire``: see wiring.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wiring import Wire, connect


@pytest.fixture
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """The wire that the test's parameter names."""
    name, mtu = request.param if isinstance(request.param, tuple) else (request.param, 1500)
    with connect(name, mtu) as w:
        yield w
