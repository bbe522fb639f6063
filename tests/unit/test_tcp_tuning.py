"""The receive buffer follows what the application reads in a round trip; pacing."""

from __future__ import annotations

import pytest
from tcp_script import MASK, MS, US, Host, Peer, connected, established

KB = 1024
SEGMENT = bytes(1460)


class Source:
    """A peer that fills the window in each round trip, with or without timestamps."""

    def __init__(self, ts: bool, rtt: int = 100, **options: int) -> None:
        self.rtt = rtt
        self.p = established(wscale=8, ts=1000 if ts else None, mss=1460, **options)
        self.seq = 1
        self.edge = 1 + 65535
        self.edges: list[int] = []

    def round(self, most: int = 1 << 30, read: bool = True) -> int:
        """One round trip: so many bytes, in super-segments; what was acknowledged moves the window."""
        p = self.p
        sent = 0
        n = min(most, self.edge - self.seq)
        while sent < n:
            size = min(n - sent, 40 * 1460)
            p.send("A", self.seq, 1, bytes(size), gso=1460)
            if p.tsval is not None:
                p.tsval += 1
            sent += size
            self.seq += size
            if read:
                while isinstance(got := p.conn.recv(), bytes) and got:
                    pass
        p.after(self.rtt / 1000)
        for s in p.recv_all():
            edge = ((s.ack - p.iss) & MASK) + (s.window << p.conn.info()["rcv_wscale"])
            self.edges.append(edge)
            self.edge = max(self.edge, edge)
            if s.ts is not None:
                p.tsecr = s.ts[0]
        return n


def grown(source: Source, rounds: int, most: int = 1 << 30, read: bool = True) -> int:
    for _ in range(rounds):
        source.round(most, read)
    return source.p.conn.get("rcvbuf")


@pytest.mark.parametrize("ts", [True, False])
def test_a_long_path_gets_a_large_buffer(ts: bool):
    source = Source(ts)
    first = source.p.conn.get("rcvbuf")
    assert first <= 1024 * KB
    assert grown(source, 20) == 4096 * KB
    assert source.edges == sorted(source.edges)
    assert source.round() > 2 * first


def test_a_reader_that_reads_little_gets_no_more():
    """100 KB per round trip."""
    source = Source(True)
    first = source.p.conn.get("rcvbuf")
    assert grown(source, 30, most=100 * KB) == first


def test_who_does_not_read_gets_no_more():
    source = Source(True)
    first = source.p.conn.get("rcvbuf")
    assert grown(source, 30, read=False) == first
    assert source.p.conn.info()["rcv_queued"] <= first + 1024


def test_a_buffer_that_the_user_set_stays():
    source = Source(True, rcvbuf=200_000)
    assert grown(source, 20) == 200_000


def test_a_memory_budget_bounds_it():
    host = Host(US, budget=16 << 20)
    source = Source(True, host=host)                # type: ignore[arg-type]
    assert grown(source, 30) == 2 << 20


def test_the_scale_has_room_for_the_largest():
    p = connected(wscale=3)
    assert 65535 << p.conn.info()["rcv_wscale"] >= 4096 * KB - 64 * KB
    assert established(wscale=3, rcvbuf=60_000).conn.info()["rcv_wscale"] == 0


# --- pacing -----------------------------------------------------------------------------------------------------------
def paced(rate: int, **options: int) -> Peer:
    p = established(wscale=10, sndbuf=1 << 24, max_pacing_rate=rate, host=Host(US, caps=15), **options)
    p.send("A", 1, 1, window=65535)
    return p


def run(p: Peer, span: int) -> None:
    """Let time pass (ms), acknowledging everything."""
    una = 1
    for _ in range(span):
        p.host.advance(MS)
        una += sum(len(s.data) for s in p.recv_all())
        p.send("A", 1, una)


@pytest.mark.parametrize("rate", [100_000, 5_000_000, 50_000_000])
def test_a_rate_is_kept(rate: int):
    p = paced(rate)
    p.conn.send(bytes(rate // 2 + 200_000))
    run(p, 20)
    total, most = sent_in(p, 200)
    assert total == pytest.approx(rate / 5, rel=0.05, abs=3000)
    assert most <= max(rate // 1000, 2 * 1460)
    assert p.counter("paced") > 0


def sent_in(p: Peer, span: int) -> tuple[int, int]:
    """The same: bytes sent, and the most in one packet."""
    total = most = 0
    for _ in range(span):
        p.host.advance(MS)
        sent = [s for s in p.recv_all() if s.data]
        if sent:
            total += sum(len(s.data) for s in sent)
            most = max(most, *(len(s.data) for s in sent))
            end = (sent[-1].seq + len(sent[-1].data) - p.ours) & MASK
            p.send("A", 1, end)
            again = [s for s in p.recv_all() if s.data]
            assert not again or sum(len(s.data) for s in again) <= most + 2920
            total += sum(len(s.data) for s in again)
            if again:
                p.send("A", 1, (again[-1].seq + len(again[-1].data) - p.ours) & MASK)
    return total, most


def test_no_burst_after_a_pause():
    p = paced(1_000_000)
    p.conn.send(bytes(5000))
    run(p, 50)
    p.after(0.15)
    p.conn.send(bytes(14_600))
    assert sum(len(s.data) for s in p.recv_all()) <= 2 * 2920


def test_without_a_rate_packets_are_whole():
    p = established(wscale=10, host=Host(US, caps=15))
    assert p.conn.get("max_pacing_rate") == -1
    p.conn.send(bytes(14_600))
    assert [len(s.data) for s in p.recv_all()] == [14_600]
    assert p.conn.set("max_pacing_rate", 2_000_000) == 0
    assert p.conn.block()["gso_payload"] == 2920
    assert p.conn.set("max_pacing_rate", -1) == 0
    assert p.conn.block()["gso_payload"] > 60_000


def test_a_rate_is_inherited_and_freed():
    p = paced(1_000_000)
    assert p.conn.get("max_pacing_rate") == 1_000_000
    p.conn.send(bytes(100_000))
    p.conn.close()
    p.after(0.5)
    assert p.host.close() == 0


def test_an_acknowledgement_is_not_paced():
    p = paced(1000)
    p.conn.send(bytes(14_600))
    p.recv_all()
    p.send("A", 1, 1, bytes(3000), gso=1460)
    assert any(not s.data for s in p.recv_all())
