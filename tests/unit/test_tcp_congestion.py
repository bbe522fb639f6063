"""Congestion control: names, CUBIC's and NewReno's windows against a reference in floating point (RFC 9438)."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_script import MS, established, listening

M = 1460
RTT = 100 * MS


@dataclass
class Cubic:
    """RFC 9438 in segments and seconds, as the text has it."""

    cwnd: float
    ssthresh: float = float("inf")
    w_max: float = 0.0
    cwnd_prior: float = 0.0
    k: float = 0.0
    w_est: float = 0.0
    epoch: float | None = None
    timed_out: bool = False

    def curve(self, t: float) -> float:
        return 0.4 * (t - self.k) ** 3 + self.w_max

    def acked(self, now: float, segments: float, rtt: float) -> None:
        if self.cwnd < self.ssthresh:
            step = min(segments, self.ssthresh - self.cwnd)
            self.cwnd += step
            segments -= step
            if not segments:
                return
        if self.epoch is None:
            self.epoch, self.w_est = now, self.cwnd
            if self.timed_out or self.cwnd >= self.w_max:
                self.w_max, self.k = self.cwnd, 0.0
            else:
                self.k = ((self.w_max - self.cwnd) / 0.4) ** (1 / 3)
        t = now - self.epoch
        alpha = 1.0 if self.w_est >= self.cwnd_prior else 3 * 0.3 / 1.7
        self.w_est += alpha * segments / self.cwnd
        if self.curve(t) < self.w_est:
            self.cwnd = max(self.cwnd, self.w_est)
        else:
            target = min(max(self.curve(t + rtt), self.cwnd), 1.5 * self.cwnd)
            self.cwnd += (target - self.cwnd) / self.cwnd * segments

    def loss(self, flight: float, timeout: bool) -> None:
        self.cwnd_prior = self.cwnd
        self.w_max = self.cwnd * 0.85 if self.cwnd < self.w_max else self.cwnd
        self.ssthresh = max(min(flight, self.cwnd) * 0.7, 2)
        self.epoch = None
        self.timed_out = timeout


class Sender:
    """A connection with more to send than it may, and a peer that acknowledges what it is told to."""

    def __init__(self, congestion: str = "cubic") -> None:
        self.p = established(wscale=10, window=65535, congestion=congestion, sndbuf=1 << 28)
        self.una = 1
        self.fill()
        self.tell()

    def fill(self) -> None:
        while self.p.conn.info()["notsent"] < 1 << 19:
            self.p.conn.send(bytes(1 << 20), egress=False)
        self.p.host.egress()
        self.p.host.drain()

    def tell(self) -> None:
        """The first window of all is not scaled by what our script says in its SYN."""
        self.p.send("A", 1, 1, window=65535)
        self.p.host.drain()

    @property
    def now(self) -> float:
        return self.p.host.now / 1e9

    @property
    def flight(self) -> int:
        return self.p.conn.info()["unacked"]

    @property
    def cwnd(self) -> int:
        return self.p.conn.info()["cwnd"]

    def ack(self, n: int) -> None:
        self.una += n
        self.p.send("A", 1, self.una)
        self.fill()

    def wait(self, ns: int) -> None:
        self.p.host.advance(ns)
        self.p.host.drain()

    def lose(self) -> None:
        """A fast recovery, from the third duplicate to its end."""
        for _ in range(3):
            self.p.send("A", 1, self.una)
        assert self.p.conn.info()["ca_state"] == 3
        self.p.host.drain()
        self.ack(self.flight)
        assert self.p.conn.info()["ca_state"] == 0

    def time_out(self) -> None:
        rtos = self.p.counter("rto")
        while self.p.counter("rto") == rtos:
            self.wait(100 * MS)

    def repair(self, ns: int) -> None:
        """After a time-out for a loss: the new data that F-RTO sends first (RFC 5682) comes too early for the peer;
        then all is sent again, a segment acknowledged each so many ns."""
        self.wait(ns)
        self.ack(min(M, self.flight))
        self.p.send("A", 1, self.una)
        while self.p.conn.info()["ca_state"]:
            self.wait(ns)
            self.ack(min(M, self.flight))


def follow(s: Sender, ref: Cubic, seconds: float, segments: int = 2, rtt: int = RTT) -> None:
    """ACKs of so many segments, spread over each round trip, and the reference beside it."""
    end = s.now + seconds
    while s.now < end:
        acks = max(1, s.flight // (segments * M))
        for _ in range(acks):
            s.wait(rtt // acks)
            n = min(segments * M, s.flight)
            s.ack(n)
            ref.acked(s.now, n / M, s.p.conn.block()["srtt"] / 1e9)
            slack = max(0.1, ref.cwnd * 2e-3) if ref.cwnd > ref.w_est else 0.5
            assert -slack <= s.cwnd / M - ref.cwnd <= slack + 1     # W_est counts in whole segments
        ref.cwnd = s.cwnd / M               # what rounding has cost in a round trip is not carried on


def after_loss(s: Sender, ref: Cubic) -> None:
    flight = s.flight
    ref.loss(flight / M, timeout=False)
    s.lose()
    assert s.p.conn.info()["ssthresh"] == pytest.approx(ref.ssthresh * M, rel=0.02, abs=2 * M)
    ref.ssthresh, ref.cwnd = s.p.conn.info()["ssthresh"] / M, s.cwnd / M


def warm(s: Sender, cwnd: int) -> Cubic:
    """Slow start up to so many segments."""
    while s.cwnd < cwnd * M:
        s.wait(5 * MS)
        s.ack(2 * M)
    return Cubic(s.cwnd / M)


# --- which ------------------------------------------------------------------------------------------------------------
def test_cubic_is_the_default_and_inherited():
    assert established().conn.congestion == "cubic"
    p = established(congestion="reno")
    assert p.listener.congestion == p.conn.congestion == "reno"


@pytest.mark.parametrize(("name", "result"), [
    ("cubic", 0), ("reno", 0), ("reno\0\0\0", 0), ("cubic\0junk", 0),
    ("bbr", -errno.ENOENT), ("", -errno.ENOENT), ("cubi", -errno.ENOENT), ("cubic2", -errno.ENOENT),
])
def test_names(name: str, result: int):
    assert listening().conn.set("congestion", name) == result


def test_change_over_keeps_the_window():
    s = Sender("reno")
    warm(s, 40)
    before = s.cwnd
    assert s.p.conn.set("congestion", "cubic") == 0
    assert s.cwnd == before
    after_loss(s, Cubic(before / M))


# --- windows ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("segments", [1, 2, 5])
def test_cubic_follows_the_curve(segments: int):
    """Concave up to the old window, then convex beyond it."""
    s = Sender()
    ref = warm(s, 200)
    after_loss(s, ref)
    w_max, start = ref.w_max, s.cwnd / M
    follow(s, ref, ref.k or ((w_max - start) / 0.4) ** (1 / 3), segments)
    assert s.cwnd / M == pytest.approx(w_max, rel=0.02)
    follow(s, ref, 3.0, segments)
    assert s.cwnd / M > w_max + 5


def test_cubic_fast_convergence():
    s = Sender()
    ref = warm(s, 200)
    after_loss(s, ref)
    follow(s, ref, 0.5)
    small = s.cwnd
    after_loss(s, ref)
    assert s.p.conn.block()["w_max"] == small * 17 // 20
    follow(s, ref, 2.0)


def test_cubic_is_no_slower_than_reno_on_a_short_path():
    """1 ms: the curve is flat there, W_est grows by 9/17 of a segment in each round trip."""
    s = Sender()
    s.wait(MS)
    ref = warm(s, 40)
    for _ in range(30):                 # the round trip time of the warming up is forgotten
        s.wait(MS)
        s.ack(s.flight)
    ref = Cubic(s.cwnd / M)
    after_loss(s, ref)
    before = s.cwnd
    follow(s, ref, 0.03, rtt=MS)
    assert 8 * M <= s.cwnd - before <= 20 * M
    assert s.cwnd % M == 0
    assert 0 <= (s.cwnd << 10) - s.p.conn.block()["w_est"] < M << 10     # W_est, and the rest of a segment


def test_cubic_after_a_time_out():
    """RFC 9438 4.8: slow start up to ssthresh, then the curve from its turning point."""
    s = Sender()
    ref = warm(s, 200)
    ref.loss(s.flight / M, timeout=True)
    s.time_out()
    assert s.cwnd == M
    assert s.p.conn.info()["ssthresh"] == pytest.approx(ref.ssthresh * M, rel=0.02, abs=2 * M)
    s.repair(10 * MS)
    ref.cwnd, ref.ssthresh = s.cwnd / M, s.p.conn.info()["ssthresh"] / M
    if s.p.conn.block()["epoch"]:
        ref.epoch, ref.w_max, ref.k = s.p.conn.block()["epoch"] / 1e9, s.p.conn.block()["w_max"] / M, 0.0
        ref.w_est = s.p.conn.block()["w_est"] / 1024 / M
    assert s.p.conn.block()["k"] == 0
    follow(s, ref, 2.0)


def test_cubic_undo():
    s = Sender()
    ref = warm(s, 100)
    after_loss(s, ref)
    follow(s, ref, 1.0)
    known = {name: s.p.conn.block()[name] for name in ("w_max", "k", "epoch", "w_est")}
    for _ in range(3):
        s.p.send("A", 1, s.una)
    assert s.p.conn.block()["w_max"] != known["w_max"]
    s.p.conn.undo()
    assert {name: s.p.conn.block()[name] for name in known} == known


def test_unused_time_does_not_make_the_window_grow():
    """RFC 9438 5.8."""
    s = Sender()
    ref = warm(s, 100)
    after_loss(s, ref)
    follow(s, ref, 0.5)
    epoch = s.p.conn.block()["epoch"]
    before = s.now
    s.wait(150 * MS)
    s.ack(2 * M)
    assert s.p.conn.block()["epoch"] == epoch       # a late ACK is none of it
    while s.flight:
        s.wait(10 * MS)
        s.una += min(s.flight, 100 * M)
        s.p.send("A", 1, s.una)
        s.p.host.drain()
    s.wait(10_000 * MS)
    s.fill()
    assert s.cwnd == 10 * M             # and the window starts slowly again (RFC 5681 4.1)
    while s.p.conn.block()["epoch"] == epoch:
        s.wait(10 * MS)
        s.ack(2 * M)
    moved = (s.p.conn.block()["epoch"] - epoch) / 1e9
    assert s.now - before - 0.5 < moved < s.now - before


def test_reno_adds_a_segment_per_round_trip():
    s = Sender("reno")
    warm(s, 40)
    s.lose()
    for _ in range(5):
        before = s.cwnd
        for _ in range(before // M):
            s.wait(RTT * M // before)
            s.ack(M)
        assert before + M * 9 // 10 <= s.cwnd <= before + M


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 25), st.integers(1, 4), st.integers(20, 200), st.booleans()), min_size=1,
                max_size=4))
def test_cubic_follows_the_reference_whatever_is_lost(script: list[tuple[int, int, int, bool]]):
    """Losses after so many tenths of a second, ACKs of so many segments, round trips of so many ms."""
    s = Sender()
    ref = warm(s, 60)
    for tenths, segments, ms, timeout in script:
        if timeout:
            ref.loss(s.flight / M, timeout=True)
            s.time_out()
            s.repair(ms * MS // 10)
            b = s.p.conn.block()
            ref.cwnd, ref.ssthresh = b["cwnd"] / M, b["ssthresh"] / M
            if b["epoch"]:
                ref.epoch, ref.w_max, ref.k, ref.w_est = b["epoch"] / 1e9, b["w_max"] / M, 0.0, b["w_est"] / 1024 / M
        else:
            after_loss(s, ref)
        follow(s, ref, tenths / 10, segments, ms * MS)
    assert s.p.host.close() == 0
