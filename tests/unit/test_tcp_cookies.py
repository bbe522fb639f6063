"""SYN cookies (RFC 4987 3.6; T1.7, H4): when they are sent, what they carry, what is believed."""

from __future__ import annotations

from random import Random

import pytest
from tcp_script import MASK, PEER, US, Host, Peer, Segment, listening, options_bytes


def crowd(syn_max: int = 4, cookies: str = "auto", seed: int = 1, backlog: int = 16) -> Peer:
    """A listener whose SYN queue is full."""
    host = Host(US, seed=seed)
    host.set_bounds(syn_max=syn_max, cookies=cookies)
    p = listening(backlog, host=host)
    for i in range(syn_max):
        Peer(host, p.conn, src=(PEER + 1000 + i, 5000)).send("S", 0)
    host.drain()
    return p


def ask(p: Peer, mss: int | None = 1460, wscale: int | None = None, sack: bool = False,
        ts: int | None = None) -> Segment:
    p.tsval = ts
    p.send("S", 0, options=options_bytes(mss, wscale, sack, None if ts is None else (ts, 0)))
    s = p.recv("SA", ack=1)
    p.ours = s.seq
    return s


def test_a_full_queue_answers_with_cookies_and_keeps_nothing():
    p = crowd()
    for i in range(1000):
        Peer(p.host, p.conn, src=(PEER + 5000 + i, 6000)).send("S", 0, options=options_bytes(1460, 7, True, (1, 0)))
    assert p.host.count == 1 + 4
    assert len(p.host.drain()) == 1000
    assert p.counter("cookie_sent") == 1000
    assert p.counter("syn_drop") == 0
    p.after(30)                                     # none of them is repeated: nobody knows of them
    again = {int.from_bytes(data[16:20], "big") for data, _gso, _csum in p.host.drain()}
    assert again == {PEER + 1000 + i for i in range(4)}


def test_the_ack_of_a_cookie_makes_the_connection():
    p = crowd()
    s = ask(p)
    assert (s.mss, s.wscale, s.sackok, s.ts, s.window) == (1460, None, False, None, 65535)
    p.send("A", 1, 1, b"hello")
    conn = p.conn.accept()
    assert conn is not None
    assert conn.state == "ESTABLISHED"
    assert conn.recv() == b"hello"
    p.recv("A", seq=1, ack=6)
    conn.send(b"answer")
    p.recv("A", seq=1, data=b"answer")
    assert p.counter("cookie_ok") == 1
    assert conn.info()["snd_wscale"] == 0
    assert conn.info()["options"] == 0


@pytest.mark.parametrize(("mss", "taken"), [
    (None, 536), (1, 536), (536, 536), (1219, 536), (1220, 1220), (1400, 1300), (1460, 1460), (9000, 1460),
    (65535, 1460),
])
def test_the_mss_is_remembered_rounded_down(mss: int | None, taken: int):
    p = crowd()
    ask(p, mss)
    p.send("A", 1, 1)
    conn = p.conn.accept()
    assert conn is not None
    assert conn.info()["snd_mss"] == taken          # ours is 1460 at most


@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("wscale", [None, 0, 7, 14])
def test_timestamps_carry_the_other_options(wscale: int | None, sack: bool):
    p = crowd()
    s = ask(p, 1460, wscale, sack, ts=77)
    assert s.ts is not None
    assert s.ts[1] == 77
    assert s.sackok == sack
    assert (s.wscale is None) == (wscale is None)
    p.send("A", 1, 1, window=1000)
    conn = p.conn.accept()
    assert conn is not None
    info = conn.info()
    assert info["options"] == 1 | 2 * sack | 4 * (wscale is not None)
    assert info["snd_wnd"] == 1000 << (wscale or 0)
    assert info["rcv_wscale"] == (s.wscale or 0)
    conn.send(b"x")
    later = p.recv("A", data=b"x")
    assert later.ts is not None
    assert 0 <= (later.ts[0] - s.ts[0]) & MASK < 128        # ms: its low bits were used, it went back at most 64
    assert later.ts[1] == 77


def test_auto_goes_back_to_normal():
    p = crowd()
    ask(p)
    p.after(70)                                     # the four have been given up
    p.host.drain()
    q = Peer(p.host, p.conn, src=(PEER, 4001))
    q.send("S", 0)
    assert p.counter("cookie_sent") == 1
    assert p.host.count == 2


def test_always():
    p = crowd(syn_max=0, cookies="always")
    ask(p)
    assert p.host.count == 1
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


def test_never():
    p = crowd(cookies="never")
    ask(p)
    assert p.counter("cookie_sent") == 0
    assert p.counter("syn_drop") == 1


@pytest.mark.parametrize("wrong", ["ack", "irs", "port", "peer"])
def test_what_is_no_cookie_of_ours_is_reset(wrong: str):
    p = crowd()
    ask(p)
    q = p
    if wrong in ("port", "peer"):
        q = Peer(p.host, p.conn, src=(PEER + (wrong == "peer"), 4000 + (wrong == "port")))
        q.ours = p.ours
    seq, ack = 1 + 1000 * (wrong == "irs"), 1 + 1000 * (wrong == "ack")
    q.send("A", seq, ack, b"data")
    q.recv("R", seq=ack)
    assert p.counter("cookie_bad") == 1
    assert p.conn.accept() is None
    assert p.host.count == 5


def test_guessing_is_hopeless():
    """Of 24 bits, 8 values in each of two minutes are right."""
    p = crowd()
    ask(p)
    dice = Random(1)
    for _ in range(3000):
        p.send("A", 1, dice.randrange(1 << 32))
    assert p.counter("cookie_ok") == 0
    assert p.counter("cookie_bad") == 3000
    assert p.host.count == 5


def test_a_cookie_goes_stale():
    p = crowd(cookies="always")
    ask(p)
    p.after(59)
    p.host.drain()
    q = Peer(p.host, p.conn, src=(PEER, 4001))
    ask(q)
    p.after(62)                                     # the second keeps the listener looking
    p.host.drain()
    p.send("A", 1, 1)
    p.recv("R")
    assert p.counter("cookie_bad") == 1
    q.send("A", 1, 1)
    assert p.counter("cookie_ok") == 1


def test_acks_are_not_looked_at_where_no_cookie_was_sent():
    p = listening()
    p.send("A", 1, 1)
    p.recv("R")
    assert p.counter("cookie_bad") == 0
    p = crowd()
    ask(p)
    p.after(200)
    p.host.drain()
    p.send("A", 1, 1)
    p.recv("R")
    assert p.counter("cookie_bad") == 0


def test_numbers_differ_from_peer_to_peer_and_from_stack_to_stack():
    numbers = set()
    for seed in range(1, 9):
        p = crowd(seed=seed)
        for i in range(8):
            numbers.add(ask(Peer(p.host, p.conn, src=(PEER + i, 4000))).seq >> 8)
    assert len(numbers) == 64


def test_a_full_accept_queue_drops_the_syn_and_the_ack():
    p = crowd(backlog=0)
    a, b = (Peer(p.host, p.conn, src=(PEER, 4000 + i)) for i in range(2))
    ask(a)
    ask(b)
    a.send("A", 1, 1)
    b.send("A", 1, 1)                               # backlog + 1 = 1
    b.recv_nothing()
    assert p.counter("accept_drop") == 1
    c = Peer(p.host, p.conn, src=(PEER, 4002))
    c.send("S", 0)
    c.recv_nothing()
    assert p.conn.accept() is not None
    b.send("A", 1, 1, b"again")                     # as a peer that sends data does
    conn = p.conn.accept()
    assert conn is not None
    assert conn.recv() == b"again"


def test_data_and_fin_with_the_ack():
    p = crowd()
    ask(p)
    p.send("FA", 1, 1, b"all")
    conn = p.conn.accept()
    assert conn is not None
    assert conn.state == "CLOSE-WAIT"
    assert conn.recv() == b"all"
    assert conn.recv() == b""


def test_established_connections_are_unharmed():
    """H4: a flood while data flows."""
    host = Host(US)
    host.set_bounds(syn_max=4)
    p = listening(host=host)
    p.send("S", 0)
    p.ours = p.recv("SA").seq
    p.send("A", 1, 1)
    conn = p.conn.accept()
    assert conn is not None
    for i in range(200):
        Peer(host, p.conn, src=(PEER + 7000 + i, 99)).send("S", 0)
        host.drain()
        p.send("A", 1 + 100 * i, 1, bytes(100))
    assert len(conn.recv()) == 20_000
    assert host.count == 6
    assert host.close() == 0
