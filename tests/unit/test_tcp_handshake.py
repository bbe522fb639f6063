"""Opening (RFC 9293 3.5, 3.10.7.1 to .3)."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from tcp_script import (
    PEER,
    PEER_PORT,
    US,
    Host,
    Peer,
    connected,
    established,
    listening,
    options_bytes,
    syn_received,
    syn_sent,
)


# --- passive ------------------------------------------------------------------------------------------------------
def test_passive_open():
    p = syn_received()
    assert p.conn.accept() is None
    p.send("A", 1, 1)
    p.recv_nothing()
    c = p.conn.accept()
    assert c is not None
    assert c.state == "ESTABLISHED"
    assert c.remote == (PEER, PEER_PORT)


def test_syn_ack_is_repeated_then_given_up():
    p = syn_received()
    for wait in (1, 2, 4, 8, 16):
        p.after(wait - 0.01)
        p.recv_nothing()
        p.after(0.02)
        p.recv("SA", seq=0, ack=1)
        p.after(-0.01 + 0)
    p.after(40)
    p.recv_nothing()
    assert p.host.count == 1        # the listener


def test_a_repeated_syn_is_answered_by_the_same_syn_ack():
    p = syn_received()
    p.send("S", 0)
    p.recv("SA", seq=0, ack=1)


def test_lost_final_ack_is_made_good_by_data():
    p = syn_received()
    p.send("PA", 1, 1, b"hello")
    c = p.conn.accept()
    assert c is not None
    assert c.recv() == b"hello"


def test_wrong_ack_in_syn_received_is_reset():
    p = syn_received()
    p.send("A", 1, 2)
    p.recv("R", seq=2)
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


def test_reset_in_syn_received_leaves_the_listener():
    p = syn_received()
    p.send("R", 1)
    p.recv_nothing()
    assert p.host.count == 1
    assert p.conn.state == "LISTEN"
    p.send("A", 1, 1)
    p.recv("R", seq=1)


def test_reset_beside_the_window_of_syn_received():
    p = syn_received()
    p.send("R", 70000)
    p.recv_nothing()
    p.send("R", 2)
    p.recv_challenge(seq=1, ack=1)
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


@pytest.mark.parametrize("flags", ["A", "FA", "PA"])
def test_listener_resets_what_acknowledges_something(flags: str):
    p = listening()
    p.send(flags, 1, 77)
    p.recv("R", seq=77)


@pytest.mark.parametrize("flags", ["", "F", "R", "RA", "SF", "U", "FPU"])
def test_listener_drops_what_means_nothing(flags: str):
    p = listening()
    p.send(flags, 0, 0)
    p.recv_nothing()
    assert p.host.count == 1


def test_full_accept_queue_holds_back_and_goes_on():
    p = listening(backlog=1)
    peers = [Peer(p.host, p.conn, src=(PEER, 5000 + i)) for i in range(3)]
    for q in peers:
        q.send("S", 0)
        q.ours = q.recv("SA", ack=1).seq
    for q in peers:
        q.send("A", 1, 1)
    p.recv_nothing()                                # one more than the backlog got in; the third waits, unreset
    assert p.counter("accept_drop") == 1
    late = Peer(p.host, p.conn, src=(PEER, 6000))
    late.send("S", 0)
    late.recv_nothing()                             # nor is a new one begun
    assert p.conn.accept() is not None
    peers[2].send("A", 1, 1)
    assert p.conn.accept() is not None
    assert p.conn.accept() is not None


def test_who_waits_for_data_before_he_accepts():
    """TCP_DEFER_ACCEPT: the last ACK of the handshake is not enough; the SYN-ACK is repeated, data completes it."""
    p = listening(defer=5)
    p.send("S", 0)
    p.ours = p.recv("SA", ack=1).seq
    p.send("A", 1, 1)
    p.recv_nothing()
    assert p.conn.accept() is None
    assert p.counter("deferred") == 1
    p.after(1.5)
    p.recv("SA", ack=1)
    p.send("PA", 1, 1, data=b"hello")
    assert p.conn.accept() is not None


def test_who_says_nothing_is_accepted_when_the_time_is_over():
    p = listening(defer=3)                          # 1 s and 2 s: two SYN-ACKs
    p.send("S", 0)
    p.ours = p.recv("SA", ack=1).seq
    for wait in (1, 2):
        p.send("A", 1, 1)
        assert p.conn.accept() is None
        p.after(wait + 0.5)
        p.recv("SA", ack=1)
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


def test_who_ends_at_once_is_not_deferred():
    p = listening(defer=3)
    p.send("S", 0)
    p.ours = p.recv("SA", ack=1).seq
    p.send("FA", 1, 1)
    assert p.conn.accept() is not None


def test_syn_queue_is_bounded_and_drops_the_oldest():
    host = Host(US)
    host.set_bounds(syn_max=8, cookies="never")
    p = listening(host=host)
    for i in range(50):
        q = Peer(host, p.conn, src=(PEER + i, 5000))
        q.send("S", 0)
    assert host.count == 9
    assert p.counter("syn_drop") == 42
    last = Peer(host, p.conn, src=(PEER + 49, 5000))
    last.ours = p.recv_all()[-1].seq
    last.send("A", 1, 1)
    assert p.conn.accept() is not None


def test_closing_a_listener_resets_what_was_not_accepted():
    p = listening()
    done, half = (Peer(p.host, p.conn, src=(PEER, port)) for port in (5000, 5001))
    for q in (done, half):
        q.send("S", 0)
        q.ours = q.recv("SA").seq
    done.send("A", 1, 1)
    p.conn.close()
    assert sorted(s.dport for s in p.recv_all() if "R" in s.flags) == [5000, 5001]
    assert p.host.count == 0
    again = p.host.socket()
    assert again.bind(US, 80) == 0


# --- active -------------------------------------------------------------------------------------------------------
def test_active_open():
    p = syn_sent()
    assert p.conn.connect_result == -errno.EINPROGRESS
    assert p.conn.poll & 4 == 0
    p.send("SA", 0, 1)
    p.recv("A", seq=1, ack=1)
    assert p.conn.connect_result == 0
    assert p.conn.poll & 4


def test_syn_is_repeated_after_1_3_7_seconds_then_times_out():
    p = syn_sent()
    for wait in (1, 2, 4, 8, 16, 32):
        p.after(wait)
        p.recv("S", seq=0)
        p.recv_nothing()
    p.after(64)
    p.recv_nothing()
    assert p.conn.connect_result == -errno.ETIMEDOUT
    assert p.conn.state == "CLOSED"


def test_refused():
    p = syn_sent()
    p.send("RA", 0, 1)
    p.recv_nothing()
    assert p.conn.connect_result == -errno.ECONNREFUSED


@pytest.mark.parametrize(("flags", "ack"), [("R", None), ("RA", 0), ("RA", 2)])
def test_resets_that_prove_nothing_are_ignored(flags: str, ack: int | None):
    p = syn_sent()
    p.send(flags, 0, ack)
    p.recv_nothing()
    assert p.conn.state == "SYN-SENT"


@pytest.mark.parametrize("ack", [0, 2])
def test_unacceptable_ack_in_syn_sent_is_reset(ack: int):
    p = syn_sent()
    p.send("SA", 0, ack)
    p.recv("R", seq=ack)
    assert p.conn.state == "SYN-SENT"


@pytest.mark.parametrize("flags", ["A", "SF", "FA", ""])
def test_syn_sent_waits_for_a_syn(flags: str):
    p = syn_sent()
    p.send(flags, 0, 1)
    p.recv_nothing()
    assert p.conn.state == "SYN-SENT"


def test_simultaneous_open():
    p = syn_sent()
    p.send("S", 0)
    p.recv("SA", seq=0, ack=1)
    assert p.conn.state == "SYN-RECEIVED"
    p.send("SA", 0, 1)
    assert p.conn.state == "ESTABLISHED"
    assert p.conn.send(b"x") == 1


def test_the_window_of_a_syn_ack_is_not_scaled_in_a_simultaneous_open():
    """RFC 7323 2.2: in a SYN never, so that 1000 bytes are 1000 bytes."""
    p = syn_sent()
    p.send("S", 0, options=options_bytes(mss=1460, wscale=7))
    p.recv("SA", seq=0, ack=1)
    p.send("SA", 0, 1, window=1000, options=options_bytes(mss=1460, wscale=7))
    assert p.conn.state == "ESTABLISHED"
    p.conn.send(bytes(20_000))
    assert max((s.seq - p.ours & 0xFFFFFFFF) + len(s.data) for s in p.recv_all()) <= 1001


def test_self_connect():
    host = Host(0x7F000001, loopback=True)
    c = host.socket()
    assert c.bind(0x7F000001, 7777) == 0
    assert c.connect(0x7F000001, 7777) == -errno.EINPROGRESS
    while host.pump(host):
        pass
    assert c.state == "ESTABLISHED"
    assert c.send(b"me") == 2
    while host.pump(host):
        pass
    assert c.recv() == b"me"


def test_data_with_the_syn_ack_is_taken():
    p = syn_sent()
    p.send("SA", 0, 1, b"banner")
    p.recv("A", seq=1, ack=7)
    assert p.conn.recv() == b"banner"


def test_nothing_listens():
    host = Host(US)
    p = Peer(host, host.socket())
    p.send("S", 0)
    p.recv("RA", seq=0, ack=1)
    p.send("S", 0, data=b"12345")
    p.recv("RA", seq=0, ack=6)
    p.send("FA", 5, 9)
    p.recv("R", seq=9)
    p.send("R", 0)
    p.send("RA", 0, 5)
    p.recv_nothing()


# --- options ------------------------------------------------------------------------------------------------------
def segment_size(p: Peer) -> int:
    p.conn.set("nodelay", 1)
    p.conn.send(b"x" * 9000)
    return len(p.take().data)


@pytest.mark.parametrize(("mss", "size"), [(None, 536), (0, 536), (1, 48), (48, 48), (100, 100), (9000, 1460)])
def test_mss_option(mss: int | None, size: int):
    assert segment_size(established(mss=mss)) == size


def test_our_syn_offers_everything_and_an_unscaled_window():
    host = Host(US, seed=1)
    c = host.socket()
    c.connect(PEER, 80)
    p = Peer(host, c)
    s = p.take()
    assert (s.mss, s.wscale, s.sackok, s.window) == (1460, 7, True, 65535)
    assert s.ts is not None
    assert s.ts[1] == 0


@pytest.mark.parametrize("ours", ["ts", "sack", "wscale", ""])
def test_options_are_used_if_both_have_them(ours: str):
    p = listening()
    p.send("S", 0, options=options_bytes(
        1460, 3 if ours == "wscale" else None, ours == "sack", (5, 0) if ours == "ts" else None))
    s = p.recv("SA")
    assert (s.ts is not None) == (ours == "ts")
    assert s.sackok == (ours == "sack")
    assert (s.wscale is not None) == (ours == "wscale")


@pytest.mark.parametrize("raw", [
    b"\xfd\x04\xab\xcd\x02\x04\x02\x00",               # an unknown one first
    b"\x01\x01\x01\x01\x02\x04\x02\x00",
    b"\x02\x04\x02\x00\x05\x00\x00\x00",               # then one of length 0
    b"\x02\x04\x02\x00\x08\x28\x00\x00",               # then one that runs over the end
    b"\x02\x04\x02\x00\x00\xff\xff\xff",               # end of list, garbage behind
])
def test_odd_options_are_survived(raw: bytes):
    p = listening()
    p.send("S", 0, options=raw)
    p.ours = p.recv("SA").seq
    p.send("A", 1, 1)
    c = p.conn.accept()
    assert c is not None
    assert c.info()["snd_mss"] == 512


def test_window_scale_above_14_is_14():
    p = established(wscale=200)
    assert p.conn.info()["snd_wscale"] == 14


def test_window_in_a_syn_is_never_scaled():
    p = listening()
    p.send("S", 0, window=1000, options=options_bytes(1460, 7))
    p.ours = p.recv("SA").seq
    p.send("A", 1, 1, window=1000)
    c = p.conn.accept()
    assert c is not None
    assert c.info()["snd_wnd"] == 128000
    q = connected(wscale=7, window=1000)
    assert q.conn.info()["snd_wnd"] == 1000


def test_scale_is_the_one_that_our_syn_offered():
    p = syn_sent()
    p.conn.set("rcvbuf", 60000)
    p.send("SA", 0, 1, options=options_bytes(1460, 0))
    s = p.recv("A", ack=1)
    assert p.conn.info()["rcv_wscale"] == 7
    assert s.window << 7 <= 65535 + 127


# --- numbers that must not be guessed -----------------------------------------------------------------------------
def test_isn_moves_with_time_and_differs_per_flow():
    host = Host(US)
    c1, c2 = host.socket(), host.socket()
    c1.connect(PEER, 80)
    c2.connect(PEER, 81)
    p = Peer(host, c1)
    a, b = p.take(), p.take()
    assert abs(a.seq - b.seq) > 100_000
    assert a.ts is not None
    assert b.ts is not None
    assert a.ts[0] != b.ts[0]
    assert a.sport != b.sport


def test_ephemeral_ports_are_spread():
    host = Host(US)
    p = Peer(host, host.socket())
    ports = []
    for _ in range(200):
        c = host.socket()
        c.connect(PEER, 80)
        ports.append(p.take().sport)
    assert len(set(ports)) == 200
    assert all(32768 <= port <= 60999 for port in ports)
    steps = [abs(b - a) for a, b in pairwise(ports)]
    assert sorted(steps)[100] > 1000


def test_ports_run_out():
    host = Host(US, limit=100_000)
    conns = [host.socket() for _ in range(60999 - 32768 + 1)]
    assert {c.connect(PEER, 80) for c in conns} == {-errno.EINPROGRESS}
    assert host.socket().connect(PEER, 80) == -errno.EADDRNOTAVAIL
    assert host.socket().connect(PEER, 81) == -errno.EINPROGRESS


# --- binding ------------------------------------------------------------------------------------------------------
def test_bind_conflicts():
    host = Host(US)
    a, b = host.socket(), host.socket()
    assert a.bind(US, 80) == 0
    assert a.bind(US, 81) == -errno.EINVAL
    assert b.bind(US, 80) == -errno.EADDRINUSE
    assert b.bind(0, 80) == -errno.EADDRINUSE
    assert b.bind(PEER, 80) == -errno.EADDRNOTAVAIL
    a.close()
    assert b.bind(0, 80) == 0


def test_reuseaddr_over_time_wait_but_not_over_a_listener():
    host = Host(US)
    a = host.socket(reuseaddr=1)
    assert a.bind(US, 80) == 0
    assert a.listen(1) == 0
    assert host.socket(reuseaddr=1).bind(US, 80) == -errno.EADDRINUSE
    assert host.socket().listen(1) == 0


def test_connect_states():
    p = syn_sent()
    assert p.conn.connect(PEER, 80) == -errno.EALREADY
    p.send("SA", 0, 1)
    assert p.conn.connect(PEER, 80) == 0                # the call that learns how it went, as on Linux
    assert p.conn.connect(PEER, 80) == -errno.EISCONN
    assert p.host.socket().connect(0x0B000001, 80) == -errno.ENETUNREACH


def test_a_connect_that_failed_says_so_once_and_then_tries_again():
    p = syn_sent()
    p.send("RA", 0, 1)
    assert p.conn.connect(PEER, 80) == -errno.ECONNREFUSED
    assert p.conn.connect(PEER, 80) == -errno.EINPROGRESS


def test_shutdown_of_a_connect_under_way_ends_it():
    p = syn_sent()
    assert p.conn.shutdown(1) == 0
    assert p.conn.state == "CLOSED"
    assert p.conn.error == errno.ECONNRESET
    p.send("SA", 0, 1)
    p.recv("R", seq=1)


@pytest.mark.parametrize("how", [0, 2])
def test_shutdown_for_reading_ends_listening(how: int):
    """As on Linux, where it wakes whoever waits in accept(); the port stays bound, and may be listened on again."""
    p = syn_received()
    assert p.conn.shutdown(1) == 0
    assert p.conn.state == "LISTEN"
    assert p.conn.shutdown(how) == 0
    assert p.conn.state == "CLOSED"
    p.recv("RA")
    p.send("S", 0)
    p.recv("RA")
    assert p.conn.listen(5) == 0
    p.send("S", 0)
    p.recv("SA")


@pytest.mark.parametrize("tries", [1, 3])
def test_syncnt(tries: int):
    p = syn_sent(syncnt=tries)
    assert p.conn.get("syncnt") == tries
    p.after(200)
    assert [s.flags for s in p.recv_all()] == ["S"] * tries
    assert p.conn.error == errno.ETIMEDOUT


def test_syn_ack_does_not_complete_a_passive_open():
    """Only in a simultaneous open has the peer a SYN-ACK to send."""
    p = syn_received()
    p.send("SA", 0, 1)
    assert p.conn.accept() is None
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


# --- ACKs that wait for an answer ---------------------------------------------------------------------------------
def asleep() -> Peer:
    """A thread sleeps until the connection that it opened is there, and it is."""
    p = syn_sent()
    p.conn.sleeps(True)
    p.send("SA", 0, 1, options=options_bytes(mss=1460))
    p.recv_nothing()
    p.conn.sleeps(False)
    assert p.conn.state == "ESTABLISHED"
    return p


def test_what_is_said_first_acknowledges_the_handshake():
    p = asleep()
    p.conn.send(b"hello")
    p.recv("PA", seq=1, ack=1, data=b"hello")
    p.after(0.1)
    p.recv_nothing()


def test_who_says_nothing_acknowledges_a_handshake_after_a_millisecond():
    p = asleep()
    p.after(0.0009)
    p.recv_nothing()
    p.after(0.0002)
    p.recv("A", seq=1, ack=1)


def test_who_goes_on_to_wait_acknowledges_a_handshake_at_once():
    p = asleep()
    p.conn.sleeps(True)
    p.host.egress()
    p.recv("A", seq=1, ack=1)


def test_who_aborts_acknowledges_a_handshake_first():
    """Or the peer's accept() would never hear of the connection."""
    p = asleep()
    p.conn.abort()
    p.recv("A", seq=1, ack=1)
    p.recv("RA", seq=1, ack=1)


def test_who_aborts_acknowledges_a_handshake_again_if_what_said_so_may_be_lost():
    p = asleep()
    p.conn.send(b"hello")
    p.recv("PA", seq=1, ack=1, data=b"hello")
    p.conn.abort()
    p.recv("A", ack=1)
    p.recv("RA", ack=1)
    p = asleep()
    p.conn.send(b"hello")
    p.recv("PA", seq=1, ack=1, data=b"hello")
    p.send("A", 1, 6)
    p.conn.abort()
    p.recv("RA", seq=6, ack=1)


def test_a_repeated_syn_ack_is_acknowledged_at_once():
    p = asleep()
    p.send("SA", 0, 1, options=options_bytes(mss=1460))
    p.recv("A", seq=1, ack=1)
