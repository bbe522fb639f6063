"""Floods beside a transfer, in virtual time. The whole of 10^6 SYNs: tools/flood --simulated."""

from __future__ import annotations

from torture.flood import transfer_under_flood

SYNS, RATE, SIZE = 100_000, 50_000.0, 4_000_000


def test_a_transfer_keeps_its_pace_under_a_flood_of_syns() -> None:
    calm = transfer_under_flood(0, RATE, SIZE)
    flooded = transfer_under_flood(SYNS, RATE, SIZE)
    assert calm.exact
    assert flooded.exact
    assert flooded.seconds <= calm.seconds / 0.9
    assert flooded.grown <= 16 << 20
    assert flooded.counters["tcp.syn_rx"] == SYNS + 1          # and the one of the transfer
    assert flooded.counters["tcp.cookie_sent"] > 0.9 * SYNS
