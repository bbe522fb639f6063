"""Transfers over bad networks: exact bytes, nothing leaked, the same packets again for the same seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scenarios import draw, play

SEEDS = 200
CHUNK = 10


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        scenario = draw(seed)
        outcome = play(scenario)
        with outcome.net as net:
            assert all(flow.exact for flow in outcome.flows), f"{scenario}: {outcome.flows}"
            assert net.quiet
            assert not any(net.live().values()), f"{scenario}: blocks that nobody gave back: {net.live()}"
            assert outcome.broken() == outcome.corrupted_arrivals(), f"{scenario}: {outcome.cable.counts}"
            digest = net.digest()
        assert not net.leaks
        again = play(scenario)
        again.net.close()
        assert again.net.digest() == digest, f"{scenario}: not the same packets again"
