"""The corners of the rules: numbers that wrap, windows of nothing, all flags in all states, ends that cross."""

from __future__ import annotations

import errno
import itertools
import struct
from collections import Counter

import pytest
from tcp_script import (
    MASK,
    PEER,
    STATES,
    US,
    Host,
    Peer,
    closing,
    connected,
    established,
    listening,
    options_bytes,
    syn_received,
    syn_sent,
)

SECOND = 1_000_000_000


# --- numbers that wrap --------------------------------------------------------------------------------------------
def pair_that_starts_below(edge: int, within: int) -> tuple[Host, Host, int]:
    """A host and a seed whose connection to PEER begins at most ``within`` below ``edge``."""
    for seed in range(20_000):
        a = Host(US, seed=seed, mtu=9000, limit=10_000)
        c = a.socket()
        c.connect(PEER, 80)
        if 1000 < (edge - c.block()["iss"]) & MASK < within:
            return a, Host(PEER, mtu=9000, limit=10_000), seed
        c.abort()
        a.drain()
    raise AssertionError("no seed found")


@pytest.mark.parametrize("edge", [0, 1 << 31])
def test_eight_megabytes_over_the_edge_of_the_numbers(edge: int):
    a, b, _ = pair_that_starts_below(edge, 4 << 20)
    listener = b.socket()
    listener.bind(PEER, 80)
    listener.listen()
    c = a.conns[0]
    while a.pump(b) or b.pump(a):
        pass
    d = listener.accept()
    assert d is not None
    data = b"".join(struct.pack("!I", i) for i in range(1 << 14))
    sent, got, rounds = 0, b"", 0
    lost = 0
    while sent < 8 << 20 or len(got) < sent:
        rounds += 1
        assert rounds < 20_000
        while sent < 8 << 20 and c.room() > len(data):
            c.send(data)
            sent += len(data)
        if rounds % 40 == 7:                    # something is lost now and then, at every place of the numbers
            lost += len(a.drain()[:3])
        moved = a.pump(b) + b.pump(a)
        more = d.recv()
        if isinstance(more, bytes):
            got += more
        if not moved:
            for host in (a, b):
                host.advance(SECOND // 4)
    assert got == data * (sent // len(data))
    assert lost
    assert c.block()["snd_una"] < c.block()["iss"] or edge


@pytest.mark.parametrize("iss", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x80000000, 0])
@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN-WAIT-2", "SYN-RECEIVED"])
def test_the_peers_first_number_may_be_any(iss: int, state: str):
    p = Peer(*(lambda q: (q.host, q.conn))(listening()), iss=iss)
    p.send("S", 0, options=options_bytes(1460, sackok=True))
    p.ours = p.recv("SA", ack=1).seq
    if state == "SYN-RECEIVED":
        p.send("R", 2)
        p.recv_challenge(seq=1, ack=1)
        p.send("R", 1)
        assert p.host.count == 1
        return
    p.send("A", 1, 1)
    c = p.conn.accept()
    assert c is not None
    if state == "FIN-WAIT-2":
        c.shutdown(1)
        p.recv("FA")
        p.send("A", 1, 2)
    p.send("A", 3, 2 if state == "FIN-WAIT-2" else 1, b"c")
    p.send("FA", 1, 2 if state == "FIN-WAIT-2" else 1, b"abc")
    assert c.recv() == b"abc"
    assert c.recv() == b""
    assert c.state == ("TIME-WAIT" if state == "FIN-WAIT-2" else "CLOSE-WAIT")


# --- windows of nothing -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("passive", [True, False])
def test_a_syn_with_a_window_of_nothing(passive: bool):
    """The handshake completes; data waits for a probe to find the window open."""
    if passive:
        p = syn_received(window=0)
        p.send("A", 1, 1, window=0)
        conn = p.conn.accept()
        assert conn is not None
        p.conn = conn
    else:
        p = connected(window=0)
    p.conn.send(b"data")
    p.recv_nothing()
    probes = 0
    for _ in range(30):
        p.after(0.5)
        for s in p.recv_all():
            assert s.data == b""
            probes += 1
            p.send("A", 1, 1, window=0)
    assert probes >= 4
    p.send("A", 1, 1, window=1)
    p.after(1)
    assert b"".join(s.data for s in p.recv_all())[:1] == b"d"


def test_a_window_of_one_byte_moves_data_all_the_same():
    p = established(window=60000)
    p.send("A", 1, 1, window=1)
    p.conn.send(b"0123456789")
    got = b""
    for _ in range(200):
        for s in p.recv_all():
            at = (s.seq - p.ours - 1) & MASK
            assert at <= len(got)
            got = got[:at] + s.data
        p.send("A", 1, 1 + len(got), window=1)
        p.after(0.5)
        if len(got) == 10:
            break
    assert got == b"0123456789"


def test_the_window_field_is_unsigned():
    for window in (32767, 32768, 65535):
        p = established(window=window)
        assert p.conn.info()["snd_wnd"] == window


# --- SACK blocks --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ts", "most"), [(None, 4), (5, 3)])
def test_as_many_sack_blocks_as_fit(ts: int | None, most: int):
    p = established(sack=True, ts=ts)
    for at in range(10, 70, 10):
        p.send("A", at, 1, b"ab")
    assert len(p.recv_all()[-1].sack) == most


# --- the retransmission timer (RFC 6298 5) ------------------------------------------------------------------------
def test_the_timer_starts_anew_with_each_new_ack_and_stops_with_the_last():
    p = established(nodelay=1)
    for _ in range(3):
        p.conn.send(b"x" * 100)
    assert len(p.recv_all()) == 3
    p.after(0.15)
    p.send("A", 1, 101)
    p.after(0.15)
    p.recv_nothing()                            # 0.3 s after the first: each ACK gave another 0.2 s
    p.send("A", 1, 201)
    p.after(0.15)
    p.recv_nothing()
    p.send("A", 1, 201)                         # an old one does not
    p.after(0.12)                               # the time-out is the round trip, that has been 0.15 s, and 0.2 s
    assert len(p.recv_all()) >= 1
    p.send("A", 1, 301)
    p.after(100)
    p.recv_nothing()


# --- ISN (RFC 6528) -----------------------------------------------------------------------------------------------
def test_first_numbers_look_random_to_who_has_no_key():
    """Over 500 flows at one instant every bit is set about half of the time, and no two differ by little."""
    host = Host(US, seed=99, limit=10_000)
    p = Peer(host, host.socket())
    numbers = []
    for i in range(500):
        host.socket().connect(PEER, 1000 + i)
        numbers.append(p.take().seq)
    assert len(set(numbers)) == 500
    for bit in range(32):
        assert 190 < sum(n >> bit & 1 for n in numbers) < 310
    gaps = Counter((b - a) & MASK for a, b in itertools.pairwise(numbers))
    assert max(gaps.values()) == 1


def test_first_numbers_of_one_flow_grow_with_time():
    """By about 4 in a microsecond or more (RFC 6528 3), so that incarnations do not meet."""
    host = Host(US)
    numbers = []
    for _ in range(3):
        c = host.socket(reuseaddr=1)
        c.bind(US, 5555)
        c.connect(PEER, 80)
        numbers.append(c.block()["iss"])
        c.abort()
        host.advance(SECOND)
    assert 250_000 < (numbers[1] - numbers[0]) & MASK < 1 << 28
    assert (numbers[2] - numbers[1]) & MASK == (numbers[1] - numbers[0]) & MASK


# --- ECN ----------------------------------------------------------------------------------------------------------
def test_ecn_is_not_negotiated():
    """RFC 3168 6.1.1: who does not do ECN answers an ECN-setup SYN without ECE, and never sets the bits."""
    p = listening()
    p.send("SEC", 0, options=options_bytes(1460))
    s = p.recv("SA")
    assert not set(s.flags) & {"E", "C"}
    p.ours = s.seq
    p.send("AE", 1, 1, b"text")
    p.send("AC", 5, 1, b"more")
    conn = p.conn.accept()
    assert conn is not None
    assert conn.recv() == b"textmore"
    conn.send(b"x")
    assert all(not set(s.flags) & {"E", "C"} for s in p.recv_all())


# --- ends that cross ----------------------------------------------------------------------------------------------
def test_both_ends_close_with_data_on_the_way():
    p = established(nodelay=1)
    p.conn.send(b"ours")
    p.recv("A", seq=1, data=b"ours")
    p.conn.shutdown(1)
    p.recv("FA", seq=5)
    p.send("FA", 1, 1, b"theirs")               # crosses both
    p.recv("A", seq=6, ack=8)
    assert p.conn.state == "CLOSING"
    assert p.conn.recv() == b"theirs"
    p.send("A", 8, 5)
    assert p.conn.state == "CLOSING"
    p.send("A", 8, 6)
    assert p.conn.state == "TIME-WAIT"


def test_a_lost_fin_of_a_simultaneous_close_is_sent_again():
    p = closing()
    for wait in (0.25, 0.45, 0.85):
        p.after(wait)
        p.recv("FA", seq=1, ack=2)
    p.send("A", 2, 2)
    assert p.conn.state == "TIME-WAIT"
    p.after(100)
    p.recv_nothing()


def test_two_real_stacks_close_at_the_same_instant():
    a, b = Host(US, seed=1), Host(PEER, seed=2)
    listener = b.socket()
    listener.bind(PEER, 80)
    listener.listen()
    c = a.socket()
    c.connect(PEER, 80)
    while a.pump(b) or b.pump(a):
        pass
    d = listener.accept()
    assert d is not None
    c.send(b"from a")
    d.send(b"from b")
    c.shutdown(1)
    d.shutdown(1)
    while a.pump(b) + b.pump(a):
        pass
    assert {c.state, d.state} <= {"TIME-WAIT", "CLOSED"}
    assert c.recv() == b"from b"
    assert d.recv() == b"from a"
    assert c.recv() == d.recv() == b""


# --- all flags in all states, beside a connection that must not notice (H13) --------------------------------------
def beside(host: Host) -> Peer:
    """A connection of ours to another port, in the same host."""
    conn = host.socket()
    assert conn.connect(PEER, 81) == -errno.EINPROGRESS
    q = Peer(host, conn, src=(PEER, 81))
    s = q.take()
    q.ours, q.dst = s.seq, (US, s.sport)
    q.send("SA", 0, 1, options=options_bytes(1460))
    q.recv("A", ack=1)
    return q


@pytest.mark.parametrize("state", [*STATES, "CLOSED"])
def test_all_flags_in_all_states_leave_the_neighbour_alone(state: str):
    for value in range(64):
        flags = "".join(f for i, f in enumerate("FSRPAU") if value >> i & 1)
        host = Host(US, seed=value)
        q = beside(host)
        p = STATES[state](host=host) if state != "CLOSED" else Peer(host, host.socket())
        block = p.conn.block()
        nxt = (block["rcv_nxt"] - p.iss) & MASK if block["irs"] else 0
        nxt = 1 if state == "SYN-RECEIVED" else nxt
        ours = (block["snd_nxt"] - p.ours) & MASK if block["iss"] else 1
        for seq in (nxt, nxt + 1, nxt - 1, nxt + 70_000):
            for ack in (ours, ours + 1, ours - 1):
                p.send(flags, seq, ack, b"")
                p.send(flags, seq, ack, b"data")
        got = [s for s in host.drain() if s]
        assert len(got) <= 40
        q.send("A", 1, 1, b"fine")
        assert q.conn.recv() == b"fine"
        q.conn.send(b"indeed")
        assert any(s.data == b"indeed" for s in q.recv_all())
        host.advance(300 * SECOND)
        assert host.close() == 0


# --- closing what never was ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("linger", [-1, 0, 5])
def test_closing_what_was_never_connected_says_nothing(linger: int):
    host = Host(US)
    p = Peer(host, host.socket())
    for prepare in ("new", "bound", "connecting"):
        conn = host.socket(linger=linger)
        if prepare == "bound":
            conn.bind(US, 99)
        elif prepare == "connecting":
            conn.connect(PEER, 80)
            p.take()
        assert conn.unacked in (0, 1)
        conn.close()
    p.recv_nothing()
    assert host.count == 1


def test_a_connection_that_is_closed_while_it_opens_resets_what_comes_late():
    p = syn_sent()
    p.conn.close()
    p.send("SA", 0, 1)
    p.recv("R", seq=1)
