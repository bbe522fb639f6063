"""The stack and Linux through an impaired wire, both directions, by SHA-256. Times: tools/interop_loss."""

from __future__ import annotations

import pytest
from helpers import load_tool

interop_loss = load_tool("interop_loss")
Row = interop_loss.Row
SIZE = 1_500_000

pytestmark = [pytest.mark.root, pytest.mark.tun]


@pytest.mark.parametrize("row", [
    Row(0.0, 0.001), Row(0.05, 0.001), Row(0.02, 0.005, 0.05, 0.05, 0.02), Row(0.01, 0.02, 0.0, 0.1, 0.0),
], ids=str)
@pytest.mark.parametrize("direction", ["to linux", "from linux"])
def test_exact_bytes(row: Row, direction: str) -> None:
    with interop_loss.stack_and_kernel(row, 3, 1500) as (ours, theirs):
        source, sink = (ours, theirs) if direction == "to linux" else (theirs, ours)
        assert interop_loss.transfer(source, sink, None, SIZE)[0] == SIZE


def test_two_kernels() -> None:
    """The yardstick itself."""
    with interop_loss.two_kernels(Row(0.02, 0.001, 0.02, 0.02, 0.02), 3, 1500) as (source, sink):
        assert interop_loss.transfer(source, sink, None, SIZE)[0] == SIZE
