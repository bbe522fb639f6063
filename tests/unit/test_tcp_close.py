"""Closing and resets (RFC 9293 3.6, 3.10.4, 3.10.7.4)."""

from __future__ import annotations

import errno

import pytest
from tcp_script import (
    PEER,
    STATES,
    US,
    Host,
    Peer,
    close_wait,
    closing,
    established,
    fin_wait_1,
    fin_wait_2,
    last_ack,
    listening,
    options_bytes,
    time_wait,
)


# --- T3.1 the states ----------------------------------------------------------------------------------------------
def test_active_close_through_fin_wait_2():
    p = time_wait()
    p.after(59)
    assert p.conn.state == "TIME-WAIT"
    p.after(2)
    assert p.conn.state == "CLOSED"
    p.recv_nothing()


def test_active_close_with_fin_and_ack_in_one():
    p = fin_wait_1()
    p.send("FA", 1, 2)
    p.recv("A", seq=2, ack=2)
    assert p.conn.state == "TIME-WAIT"


def test_passive_close():
    p = last_ack()
    p.send("A", 2, 2)
    assert p.conn.state == "CLOSED"
    assert p.conn.recv() == b""
    assert p.conn.error == 0


def test_simultaneous_close():
    p = closing()
    p.send("A", 2, 2)
    assert p.conn.state == "TIME-WAIT"
    p.recv_nothing()


def test_fin_with_data():
    p = established()
    p.send("FPA", 1, 1, b"bye")
    p.recv("A", ack=5)
    assert p.conn.state == "CLOSE-WAIT"
    assert p.conn.recv() == b"bye"
    assert p.conn.recv() == b""
    assert p.conn.recv() == b""


def test_fin_before_its_data():
    p = established()
    p.send("FA", 4, 1)
    p.recv("A", ack=1)
    assert p.conn.state == "ESTABLISHED"
    p.send("A", 1, 1, b"bye")
    p.recv_all()
    assert p.conn.state == "CLOSE-WAIT"
    assert p.conn.recv() == b"bye"
    assert p.conn.recv() == b""


def test_nothing_follows_a_fin():
    p = close_wait()
    p.send("A", 2, 1, b"more")
    assert p.conn.recv() == b""


def test_lost_fin_is_repeated():
    p = fin_wait_1()
    p.after(0.25)
    p.recv("FA", seq=1)
    p.send("A", 1, 2)
    assert p.conn.state == "FIN-WAIT-2"


def test_repeated_fin_is_acknowledged_again():
    p = close_wait()
    p.send("FA", 1, 1)
    p.recv("A", ack=2)


def test_close_races_with_data():
    p = established()
    p.conn.send(b"last words")
    p.recv("A", data=b"last words")
    p.conn.close()
    p.recv("FA", seq=11)
    p.send("A", 1, 12)
    p.send("FA", 1, 12)
    p.recv("A", seq=12, ack=2)


def test_a_fin_behind_a_gap_is_in_the_selective_acknowledgement():
    p = established(sack=True)
    p.send("FA", 1001, 1, b"x" * 500)
    assert [[(a - p.iss, b - p.iss) for a, b in s.sack] for s in p.recv_all()][-1] == [(1001, 1502)]
    p.send("A", 1, 1, b"x" * 1000)
    p.recv("A", ack=1502, sack=[])


def test_a_fin_without_data_behind_a_gap_is_in_the_selective_acknowledgement():
    """RFC 2018 3, 4: a FIN has a number, and what has just come is in the first block."""
    p = established(sack=True)
    p.send("FA", 1001, 1)
    p.recv("A", ack=1, sack=[(1001, 1002)])
    p.send("A", 301, 1, b"x" * 100)
    p.recv("A", ack=1, sack=[(301, 401), (1001, 1002)])
    p.send("FA", 1001, 1)               # once more: it is acknowledged like any other
    p.recv("A", ack=1, sack=[(1001, 1002), (301, 401)])
    p.send("A", 901, 1, b"z" * 100)
    p.recv("A", ack=1, sack=[(901, 1002), (301, 401)])
    p.conn.send(b"!")
    p.recv("PA", ack=1, sack=[(901, 1002), (301, 401)])
    p.send("A", 401, 2, b"y" * 500)
    p.recv("A", ack=1, sack=[(301, 1002)])
    p.send("A", 1, 2, b"w" * 300)
    p.recv("A", ack=1002, sack=[])
    assert p.conn.recv() == b"w" * 300 + b"x" * 100 + b"y" * 500 + b"z" * 100
    assert p.conn.state == "CLOSE-WAIT"


def test_a_fin_that_comes_twice_is_reported_as_text_is():
    """RFC 2883 4: it has a number of its own."""
    p = established(sack=True)
    p.send("FA", 1, 1, b"x" * 100)
    p.recv("A", ack=102, sack=[])
    p.send("FA", 101, 1)
    p.recv("A", ack=102, sack=[(101, 102)])
    p.send("FA", 1, 1, b"x" * 100)
    p.recv("A", ack=102, sack=[(1, 102)])
    p.send("A", 1, 1, b"x" * 100)
    p.recv("A", ack=102, sack=[(1, 101)])


def test_a_fin_behind_a_gap_is_acknowledged_without_sack():
    p = established()
    for _ in range(2):
        p.send("FA", 1001, 1)
        p.recv("A", ack=1, sack=[])
        p.recv_nothing()


def test_a_fin_in_order_ends_the_stream_whatever_came_from_behind_it():
    p = established(sack=True)
    p.send("A", 1001, 1, b"y" * 2000)
    p.recv("A", ack=1)
    p.send("FA", 1, 1, b"x" * 1000)
    p.recv("A", ack=1002, sack=[])
    assert p.conn.state == "CLOSE-WAIT"
    assert p.conn.recv() == b"x" * 1000
    assert p.conn.recv() == b""


def test_fin_waits_for_the_window():
    p = established(window=1000)
    p.conn.send(b"x" * 1500)
    p.recv("A", length=1000)
    p.conn.close()
    p.recv_nothing()
    p.send("A", 1, 1001)
    p.recv("FPA", seq=1001, length=500)


# --- T3.2 half close ----------------------------------------------------------------------------------------------
def test_half_closed_receives_for_ever():
    p = fin_wait_2()
    p.after(1000)
    for i in range(5):
        p.send("A", 1 + i, 2, b"x")
    assert p.conn.recv() == b"x" * 5
    assert p.conn.state == "FIN-WAIT-2"
    assert p.conn.send(b"no") == -errno.EPIPE


def test_close_wait_sends_for_ever():
    p = close_wait()
    p.after(1000)
    p.conn.send(b"still here")
    p.recv("A", seq=1, data=b"still here")


def test_shutdown_of_reading():
    p = established()
    p.send("A", 1, 1, b"before")
    assert p.conn.shutdown(0) == 0
    assert p.conn.recv() == b"before"
    assert p.conn.recv() == b""
    assert p.conn.send(b"x") == 1
    assert p.host.socket().shutdown(1) == -errno.ENOTCONN


# --- T3.3 close with unread data, data after close ----------------------------------------------------------------
def test_unread_data_resets():
    p = established()
    p.send("A", 1, 1, b"unread")
    p.conn.close()
    p.recv("RA", seq=1, ack=7)
    assert p.host.count == 1


def test_unread_data_does_not_outlive_its_reader_in_time_wait():
    p = fin_wait_2()
    p.send("FA", 1, 2, b"unread" * 200)
    p.recv("A", seq=2, ack=1202)
    assert p.conn.state == "TIME-WAIT"
    assert p.host.live > 0
    p.conn.close()
    assert p.host.live == 0
    assert p.host.count == 2                                # beside the listener: the block waits on
    p.recv_nothing()


def test_data_after_close_resets():
    p = established()
    conn = p.conn
    conn.close()
    p.recv("FA", seq=1)
    p.send("A", 1, 2)
    p.send("A", 1, 2, b"are you there?")
    p.recv("R", seq=2)                                      # RFC 9293 3.10.7.1, as if it had never been
    assert p.host.count == 1


def test_write_after_reset():
    p = established()
    p.send("R", 1)
    assert p.conn.poll & 8
    assert p.conn.send(b"x") == -errno.ECONNRESET
    assert p.conn.send(b"x") == -errno.EPIPE
    assert p.conn.recv() == b""


def test_reading_what_came_before_a_reset():
    p = established()
    p.send("A", 1, 1, b"data")
    p.send("R", 5)
    assert p.conn.recv() == b"data"
    assert p.conn.recv() == -errno.ECONNRESET
    assert p.conn.recv() == b""


# --- T3.4, T3.6 time and linger -----------------------------------------------------------------------------------
def test_orphan_leaves_fin_wait_2_after_a_minute():
    p = fin_wait_2()
    p.conn.close()
    assert p.host.count == 2
    p.after(61)
    assert p.host.count == 1
    assert p.counter("finwait2_timeout") == 1


def test_linger2():
    p = fin_wait_2(linger2=5)
    p.conn.close()
    p.after(6)
    assert p.host.count == 1


def test_linger_zero_resets():
    p = established(linger=0)
    p.conn.send(b"never mind")
    p.recv_all()
    p.conn.close()
    p.recv("RA", seq=11, ack=1)
    assert p.host.count == 1


def test_lingering_waits_for_unacked():
    p = established()
    p.conn.send(b"12345")
    p.conn.shutdown(1)
    assert p.conn.unacked == 6
    p.send("A", 1, 7)
    assert p.conn.unacked == 0


def test_orphan_with_a_closed_window_is_given_up():
    p = established(window=1000)
    p.send("A", 1, 1, window=0)
    p.conn.send(b"x")
    p.conn.close()
    for _ in range(2000):
        p.after(1)
        if p.recv_all():
            p.send("A", 1, 1, window=0)
    assert p.host.count == 1


# --- T3.5 TIME-WAIT -----------------------------------------------------------------------------------------------
def test_time_wait_answers_fins_and_starts_again():
    p = time_wait()
    p.after(50)
    p.send("FA", 1, 2)
    p.recv("A", seq=2, ack=2)
    p.after(50)
    assert p.conn.state == "TIME-WAIT"
    p.after(11)
    assert p.conn.state == "CLOSED"


def test_time_wait_is_not_assassinated():
    p = time_wait()
    p.send("R", 2)
    p.send("RA", 2, 2)
    assert p.conn.state == "TIME-WAIT"
    p.recv_nothing()


def test_time_wait_is_reopened_by_a_newer_syn():
    p = time_wait()
    before = p.ours
    p.send("S", 1000, options=options_bytes(1460))
    s = p.recv("SA", ack=1001)
    assert 0 < (s.seq - before) & 0xFFFFFFFF < 0x7FFFFFFF
    assert p.conn.state == "CLOSED"


def test_time_wait_is_not_reopened_by_an_old_syn():
    p = time_wait()
    p.send("S", -1000)
    p.recv("A", seq=2, ack=2)
    assert p.conn.state == "TIME-WAIT"


def test_time_wait_is_bounded():
    host = Host(US)
    host.set_bounds(timewait_max=5)
    p = listening(host=host)
    for i in range(20):
        q = Peer(host, p.conn, src=(PEER, 5000 + i))
        q.send("S", 0)
        q.ours = q.recv("SA").seq
        q.send("A", 1, 1)
        c = p.conn.accept()
        assert c is not None
        c.close()
        q.recv("FA", seq=1)
        q.send("FA", 1, 2)
        q.recv("A", ack=2)
    assert host.count == 6
    assert p.counter("timewait_limit") == 15


# --- T3.7, T4 resets, SYNs, ACKs where they do not belong ---------------------------------------------------------
SYNCHRONIZED = ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "CLOSE-WAIT", "LAST-ACK"]


def numbers(p: Peer) -> tuple[int, int]:
    """(next number that we expect, next that we send), relative."""
    b = p.conn.block()
    return (b["rcv_nxt"] - p.iss) & 0xFFFFFFFF, (b["snd_nxt"] - p.ours) & 0xFFFFFFFF


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_exact_reset_resets(state: str):
    p = STATES[state]()
    p.send("R", numbers(p)[0])
    p.recv_nothing()
    assert p.conn.state == "CLOSED"
    assert p.conn.error == (errno.EPIPE if state == "CLOSE-WAIT" else errno.ECONNRESET)


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("off", [1, 1000, 60000])
def test_reset_in_the_window_is_challenged(state: str, off: int):
    p = STATES[state]()
    nxt, ours = numbers(p)
    p.send("R", nxt + off)
    p.recv_challenge(seq=ours, ack=nxt)
    assert p.conn.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("off", [-1, -1000, 70000, 1 << 30])
def test_reset_outside_the_window_is_dropped(state: str, off: int):
    p = STATES[state]()
    p.send("R", numbers(p)[0] + off)
    p.recv_nothing()
    assert p.conn.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.parametrize("off", [0, 5, -5, 1 << 30])
def test_syn_is_challenged_and_changes_nothing(state: str, flags: str, off: int):
    p = STATES[state]()
    nxt, ours = numbers(p)
    p.send(flags, nxt + off, ours)
    p.recv_challenge(seq=ours, ack=nxt)
    assert p.conn.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("off", [1, 1000, -(1 << 20), 1 << 30])
def test_ack_of_what_was_never_sent_or_long_ago(state: str, off: int):
    p = STATES[state]()
    nxt, ours = numbers(p)
    before = p.conn.block()
    p.send("A", nxt, ours + off)
    p.recv_challenge(seq=ours, ack=nxt)
    assert p.conn.block() == before


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_segment_without_ack_is_dropped(state: str):
    p = STATES[state]()
    before = p.conn.block()
    p.send("P", numbers(p)[0], data=b"x")
    p.recv_nothing()
    assert p.conn.block() == before


def test_never_a_reset_for_a_reset():
    host = Host(US)
    p = Peer(host, host.socket())
    for flags in ("R", "RA", "SR", "FR", "RPU", "SFRPAU"):
        p.send(flags, 5, 5)
    p.recv_nothing()


@pytest.mark.parametrize("state", list(STATES))
def test_all_flags_in_every_state(state: str):
    """H13: 64 combinations at the expected number, in every state: no crash, nothing leaked."""
    for value in range(64):
        p = STATES[state]()
        flags = "".join(f for i, f in enumerate("FSRPAU") if value >> i & 1)
        nxt = 0 if state in ("LISTEN", "SYN-SENT") else numbers(p)[0] if state != "SYN-RECEIVED" else 1
        p.send(flags, nxt, 1, b"data")
        p.send(flags, nxt, 1)
        for s in p.recv_all():
            assert not ("R" in s.flags and "R" in flags)
        p.after(200)
        assert p.host.close() == 0


def test_fin_that_waited_for_a_gap_is_acknowledged_once():
    p = established()
    p.send("FA", 4, 1, b"def")
    p.recv("A", ack=1)
    p.send("A", 1, 1, b"abc")
    p.recv("A", ack=8)
    p.recv_nothing()


def test_fin_that_fills_the_last_gap_is_acknowledged_once():
    p = established()
    p.send("A", 4, 1, b"def")
    p.recv("A", ack=1)
    p.send("FA", 1, 1, b"abcdef")
    p.recv("A", ack=8)
    p.recv_nothing()


def test_what_has_been_closed_from_both_sides_cannot_be_shut_down():
    p = established()
    assert p.conn.shutdown(1) == 0
    p.recv("FA", seq=1)
    p.send("FA", 1, 2)
    assert p.conn.state == "TIME-WAIT"
    assert p.conn.shutdown(1) == -errno.ENOTCONN
    assert p.conn.shutdown(0) == -errno.ENOTCONN


# --- ACKs that wait for an answer ---------------------------------------------------------------------------------
def ended() -> Peer:
    """A thread sleeps until the stream ends."""
    p = established()
    p.conn.sleeps(True)
    p.send("FA", 1, 1)
    p.recv_nothing()
    p.conn.sleeps(False)
    assert p.conn.state == "CLOSE-WAIT"
    return p


def test_a_fin_is_acknowledged_by_ours():
    p = ended()
    p.conn.close()
    p.recv("FA", seq=1, ack=2)
    p.after(0.1)
    p.recv_nothing()


def test_who_has_more_to_say_acknowledges_a_fin_after_a_millisecond():
    p = ended()
    p.after(0.0011)
    p.recv("A", seq=1, ack=2)


def test_in_time_wait_nobody_answers():
    p = fin_wait_2()
    p.conn.sleeps(True)
    p.send("FA", 1, 2)
    p.recv("A", seq=2, ack=2)
