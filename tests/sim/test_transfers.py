"""Transfers over bad networks: exact bytes, nothing leaked, the same packets again for the same seed."""

from __future__ import annotations

import pytest
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


def test_a_lost_acknowledgement_does_not_stretch_the_time_out() -> None:
    """A retransmission whose ACK is lost is sent again, and is then a duplicate whose timestamp the peer does not
    take: the next ACK echoes an old one, and must not pass for a round trip of a whole time-out."""
    scenario = draw(1222)
    outcome = play(scenario)
    with outcome.net as net:
        assert all(flow.exact for flow in outcome.flows)
        # More than 100 packets are lost. At a time-out each, without ever doubling, that is less than this.
        assert net.now_ns < 1000e9, f"{scenario}: {net.now_ns / 1e9} s"
