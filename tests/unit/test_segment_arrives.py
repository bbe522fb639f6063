"""RFC 9293 3.10.7.4, step by step, in every state; RFC 5961 and RFC 7323 where they change it; else as Linux has it."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from tcp_script import (
    MASK,
    PEER,
    STATES,
    US,
    Host,
    Peer,
    build,
    close_wait,
    closing,
    connected,
    established,
    fin_wait_1,
    fin_wait_2,
    last_ack,
    listening,
    options_bytes,
    syn_received,
    syn_sent,
    time_wait,
)

SYNCHRONIZED = ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "CLOSE-WAIT", "LAST-ACK", "TIME-WAIT"]
RECEIVING = ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2"]


def numbers(p: Peer) -> tuple[int, int]:
    """(RCV.NXT, SND.NXT), relative."""
    b = p.conn.block()
    return (b["rcv_nxt"] - p.iss) & MASK, (b["snd_nxt"] - p.ours) & MASK


# --- first: the sequence number -----------------------------------------------------------------------------------
@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize(("off", "data"), [(-1, b""), (-1, b"x"), (-1000, b"x" * 1000), (100_000, b""),
                                           (100_000, b"x"), (1 << 30, b"x"), (-(1 << 30), b"x")])
def test_unacceptable_segments_are_answered_with_an_ack_and_dropped(state: str, off: int, data: bytes):
    p = STATES[state]()
    nxt, ours = numbers(p)
    before = p.conn.block()
    p.send("A", nxt + off, ours, data)
    p.recv_challenge(seq=ours, ack=nxt)
    assert p.conn.block() == before
    assert p.conn.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_the_ack_of_an_unacceptable_segment_does_not_count(state: str):
    p = STATES[state](window=60000) if state != "TIME-WAIT" else time_wait()
    nxt, ours = numbers(p)
    before = p.conn.info()["snd_wnd"]
    p.send("A", nxt + 200_000, ours, window=1)
    assert p.conn.info()["snd_wnd"] == before


def test_a_closed_window_takes_only_what_begins_at_its_edge():
    p = established(rcvbuf=4096)
    p.send("A", 1, 1, b"d" * 4096)
    p.recv_all()
    nxt = numbers(p)[0]
    b = p.conn.block()
    while (b["rcv_adv"] - b["rcv_nxt"]) & MASK:
        p.send("A", nxt, 1, b"d")
        p.recv_all()
        b = p.conn.block()
        nxt = numbers(p)[0]
    p.conn.send(b"ours")
    p.recv("A", data=b"ours")
    p.send("A", nxt, 5)                         # an ACK is heard
    assert p.conn.unacked == 0
    p.conn.send(b"more")
    p.recv("A", data=b"more")
    p.send("A", nxt, 9, b"?")                   # and that of a probe with a byte, which itself is not taken
    p.recv("A", seq=9, ack=nxt, window=0)
    assert p.conn.unacked == 0
    p.send("A", nxt + 1, 9)
    p.recv("A", ack=nxt, window=0)
    p.send("R", nxt + 1)                        # a reset beside the edge is nothing
    p.recv_nothing()
    assert p.conn.state == "ESTABLISHED"
    p.send("FA", nxt, 9)                        # a FIN at the edge needs no room
    p.recv("A", ack=nxt + 1)
    assert p.conn.state == "CLOSE-WAIT"


@pytest.mark.parametrize("edge", [0, 1])
def test_a_segment_that_begins_below_and_ends_inside_is_trimmed(edge: int):
    p = established()
    p.send("A", 1, 1, b"abc")
    p.recv_all()
    p.send("A", 1 + edge, 1, b"abcdef"[edge:])
    assert p.conn.recv() == b"abcdef"


def test_a_fin_beyond_the_window_is_cut_off_with_the_text():
    p = established(rcvbuf=4096, window=65535)
    wnd = p.conn.info()["rcv_wnd"]
    p.send("FA", 1, 1, b"x" * (wnd + 100))
    p.recv("A", ack=1 + wnd)
    assert p.conn.state == "ESTABLISHED"
    assert len(p.conn.recv()) == wnd
    p.recv_all()
    p.send("FA", 1 + wnd, 1, b"y" * 100)
    assert p.conn.state == "CLOSE-WAIT"


# --- our own numbers stay inside the peer's window ----------------------------------------------------------------
def test_acks_stay_inside_a_window_that_the_peer_has_shrunk():
    """RFC 9293 3.8.6: a sender must be robust against shrinking: the peer hears nothing that begins beyond it."""
    p = established(nodelay=1)
    p.conn.send(b"x" * 7300)
    assert len(p.recv_all()) == 5
    p.send("A", 1, 1461, window=0)
    p.recv_all()
    p.send("A", 1, 1461, b"text", window=0)
    p.after(0.1)
    assert [(s.seq - p.ours) & MASK for s in p.recv_all() if not s.data] == [1461]
    p.conn.close()                              # unread text: a reset, which must be heard as well
    assert [(s.seq - p.ours) & MASK for s in p.recv_all() if "R" in s.flags] == [1461]


def test_rounding_of_a_scaled_window_is_no_shrinking():
    p = established(nodelay=1, wscale=7, window=100)
    p.send("A", 1, 1, window=100)
    p.conn.send(b"x" * 12750)
    sent = sum(len(s.data) for s in p.recv_all())
    p.send("A", 1, 1, b"t", window=(sent - 1) >> 7)
    p.after(0.1)
    acks = [s for s in p.recv_all() if not s.data]
    assert [(s.seq - p.ours) & MASK for s in acks] == [sent + 1]


# --- second: RST --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_a_reset_counts_only_at_the_exact_number(state: str):
    p = STATES[state]()
    nxt, ours = numbers(p)
    for off in (1, 2, 1000, 60000):
        p.send("R", nxt + off)
    if state == "TIME-WAIT":                    # RFC 1337: ignored there
        p.recv_nothing()
        p.send("R", nxt)
        p.recv_nothing()
        assert p.conn.state == "TIME-WAIT"
        return
    assert [(s.flags, (s.seq - p.ours) & MASK) for s in p.recv_all()] == [("A", ours)] * 4
    for off in (-1, -1000, 70000, 1 << 31):
        p.send("R", nxt + off)
    p.recv_nothing()
    assert p.conn.state == state
    p.send("R", nxt)
    assert p.conn.state == "CLOSED"


@pytest.mark.parametrize("state", SYNCHRONIZED[:-1])
def test_a_reset_needs_no_ack_and_its_ack_is_not_looked_at(state: str):
    for flags, ack in (("R", None), ("RA", 0x12345678), ("RA", 1), ("RSFPU", None)):
        p = STATES[state]()
        p.send(flags, numbers(p)[0], ack)
        p.recv_nothing()
        assert p.conn.state == "CLOSED", flags


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2"])
def test_a_reset_ends_sending_and_flushes_the_queues(state: str):
    p = STATES[state]()
    p.send("R", numbers(p)[0])
    p.after(300)
    p.recv_nothing()
    assert p.conn.recv() == -errno.ECONNRESET
    assert p.conn.recv() == b""
    p.conn.close()
    p.recv_nothing()


def test_a_reset_with_an_old_timestamp_still_resets():
    """RFC 7323 5.2: PAWS does not look at resets."""
    p = established(ts=1000)
    p.send("R", 1, tsval=1)
    assert p.conn.state == "CLOSED"


def test_a_reset_in_syn_received_of_an_active_open_is_a_refusal():
    p = syn_sent()
    p.send("S", 0)
    p.recv("SA", ack=1)
    p.send("R", 1)
    assert p.conn.state == "CLOSED"
    assert p.conn.error == errno.ECONNREFUSED


# --- fourth: SYN --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", SYNCHRONIZED[:-1])
@pytest.mark.parametrize("off", [0, 1, -1, 70000, 1 << 30])
def test_each_syn_counts_as_a_challenge(state: str, off: int):
    """RFC 5961 4.2: whatever its number; so the limit over all connections holds outside the window too."""
    p = STATES[state]()
    nxt, ours = numbers(p)
    p.send("S", nxt + off)
    p.recv_challenge(seq=ours, ack=nxt)
    assert p.counter("challenge_ack") == 1
    assert p.conn.state == state


def test_a_peer_that_has_rebooted_gets_through():
    """RFC 9293 figure 9 with RFC 5961: its SYN is challenged, its reset fits, the next SYN opens."""
    p = established()
    q = Peer(p.host, p.listener, iss=0x70000000)
    q.send("S", 0, options=options_bytes(1460))
    s = q.take()
    assert s.flags == "A"
    p.send("R", (s.ack - p.iss) & MASK)
    assert p.conn.state == "CLOSED"
    q.send("S", 0, options=options_bytes(1460))
    q.ours = q.recv("SA", ack=1).seq
    q.send("A", 1, 1)
    assert p.listener.accept() is not None


@pytest.mark.parametrize("data", [b"", b"early"])
def test_a_syn_repeated_with_or_without_text_draws_the_syn_ack_again(data: bytes):
    p = syn_received()
    p.send("S", 0, data=data)
    p.recv("SA", seq=0, ack=1)
    p.recv_nothing()
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


def test_another_syn_in_syn_received_is_challenged():
    p = syn_received()
    p.send("S", 5)
    p.recv_challenge(seq=1, ack=1)
    p.send("S", 100_000)
    p.recv_challenge(seq=1, ack=1)
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


def test_a_syn_ack_again_is_acknowledged_again():
    """Our ACK of it was lost."""
    p = connected()
    p.send("SA", 0, 1)
    p.recv_challenge(seq=1, ack=1)


# --- fifth: ACK ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("flags", ["", "P", "F", "FP", "U"])
def test_without_ack_nothing_happens(state: str, flags: str):
    p = STATES[state]()
    before = p.conn.block()
    p.send(flags, numbers(p)[0], data=b"text")
    p.recv_nothing()
    assert p.conn.block() == before
    assert p.conn.state == state


@pytest.mark.parametrize(("ack", "good"), [(1, True), (0, False), (2, False), (-5, False), (1 << 31, False)])
def test_syn_received_wants_exactly_its_syn_acknowledged(ack: int, good: bool):
    p = syn_received()
    p.send("A", 1, ack)
    if good:
        p.recv_nothing()
    else:
        s = p.recv("R", seq=ack)
        assert "A" not in s.flags
    assert (p.conn.accept() is not None) == good


def test_fin_wait_1_needs_its_fin_acknowledged():
    p = established()
    p.conn.send(b"bye")
    p.recv_all()
    p.conn.shutdown(1)
    p.recv("FA", seq=4)
    p.send("A", 1, 4)
    assert p.conn.state == "FIN-WAIT-1"
    p.send("A", 1, 5)
    assert p.conn.state == "FIN-WAIT-2"


def test_closing_and_last_ack_need_their_fin_acknowledged():
    for make in (closing, last_ack):
        p = make()
        state = p.conn.state
        p.send("A", 2, 1)
        assert p.conn.state == state
        p.send("A", 2, 2)
        assert p.conn.state == ("TIME-WAIT" if state == "CLOSING" else "CLOSED")


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN-WAIT-1", "CLOSE-WAIT"])
def test_duplicates_of_old_acks_are_ignored(state: str):
    """SND.UNA - MAX.SND.WND <= SEG.ACK < SND.UNA: nothing changes, nothing is answered, text is taken."""
    p = established()
    p.conn.send(bytes(2000))
    p.send("A", 1, 2001)
    if state == "FIN-WAIT-1":
        p.conn.shutdown(1)
    elif state == "CLOSE-WAIT":
        p.send("FA", 1, 2001)
    assert p.conn.state == state
    p.recv_all()
    nxt, ours = numbers(p)
    p.send("A", nxt, ours - 1000)
    p.recv_nothing()
    if state != "CLOSE-WAIT":
        p.send("A", nxt, ours - 1000, b"text")
        assert p.conn.recv() == b"text"


def test_the_window_is_that_of_the_newest_segment():
    """SND.WL1 and SND.WL2."""
    p = established(window=60000)
    p.send("A", 1, 1, b"a", window=50000)
    assert p.conn.info()["snd_wnd"] == 50000
    p.send("A", 3, 1, b"c", window=40000)
    assert p.conn.info()["snd_wnd"] == 40000
    p.send("A", 2, 1, b"b", window=30000)       # older than the one before
    assert p.conn.info()["snd_wnd"] == 40000
    p.conn.send(b"xyz")
    p.send("A", 4, 4, window=20000)
    p.send("A", 4, 1, window=10000)             # the same number, an older ACK
    assert p.conn.info()["snd_wnd"] == 20000


# --- sixth and seventh: URG and text ------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"])
@pytest.mark.parametrize("flags", ["A", "UA", "PA"])
def test_text_after_the_peers_fin_is_ignored(state: str, flags: str):
    p = STATES[state]()
    nxt, ours = numbers(p)
    p.send(flags, nxt, ours if state not in ("CLOSING", "LAST-ACK") else 1, b"text", urgent=2)
    assert all("R" not in s.flags for s in p.recv_all())
    assert numbers(p)[0] == nxt
    assert p.conn.recv() == b""
    assert p.conn.state == state


@pytest.mark.parametrize("state", RECEIVING)
def test_text_is_taken_acknowledged_and_pushed(state: str):
    p = STATES[state]()
    nxt, ours = numbers(p)
    p.send("PA", nxt, ours if state != "FIN-WAIT-1" else 1, b"text")
    p.after(0.3)
    assert {(s.ack - p.iss) & MASK for s in p.recv_all()} == {nxt + 4}
    assert p.conn.recv() == b"text"


# --- eighth: FIN --------------------------------------------------------------------------------------------------
FIN_LEADS: list[tuple[Callable[[], Peer], int, str]] = [
    (established, 1, "CLOSE-WAIT"), (fin_wait_1, 1, "CLOSING"), (fin_wait_1, 2, "TIME-WAIT"),
    (fin_wait_2, 2, "TIME-WAIT"),
]


@pytest.mark.parametrize(("make", "ack", "state"), FIN_LEADS)
@pytest.mark.parametrize("data", [b"", b"last"])
def test_where_a_fin_leads(make: Callable[[], Peer], ack: int, state: str, data: bytes):
    p = make()
    p.send("FA", 1, ack, data)
    p.recv("A", ack=2 + len(data))
    assert p.conn.state == state
    if data:
        assert p.conn.recv() == data
    assert p.conn.recv() == b""


@pytest.mark.parametrize("make", [close_wait, closing, last_ack])
def test_a_fin_again_is_acknowledged_and_nothing_else(make: Callable[[], Peer]):
    p = make()
    state = p.conn.state
    nxt, ours = numbers(p)
    p.send("FA", nxt - 1, 1)
    p.recv_challenge(seq=ours, ack=nxt)
    assert p.conn.state == state


def test_fin_in_syn_received_opens_and_half_closes():
    p = syn_received()
    p.send("FA", 1, 1)
    p.recv("A", seq=1, ack=2)
    c = p.conn.accept()
    assert c is not None
    assert c.state == "CLOSE-WAIT"
    assert c.recv() == b""
    assert c.send(b"still") == 5
    p.recv("A", seq=1, data=b"still")


def test_fin_is_not_processed_where_nothing_was_synchronized():
    p = listening()
    p.send("F", 0)
    p.recv_nothing()
    q = syn_sent()
    q.send("FA", 0, 1)
    q.send("F", 0)
    q.recv_nothing()
    assert q.conn.state == "SYN-SENT"


def test_only_the_peers_own_fin_restarts_time_wait():
    p = time_wait()
    p.after(50)
    p.send("FA", -5000, 2)                      # a number that the FIN never had
    p.recv("A", ack=2)
    p.after(11)
    assert p.conn.state == "CLOSED"


def test_time_wait_acknowledges_what_comes_again():
    p = time_wait()
    p.send("A", -99, 2, b"x" * 100)
    p.recv("A", seq=2, ack=2)
    p.send("FA", 1, 2)
    p.recv("A", seq=2, ack=2)


# --- timestamps (RFC 7323) ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("ack", [5000, -(1 << 20), 1 << 30])
def test_a_bad_ack_does_not_poison_paws(ack: int):
    """In the window by its number, but not by its ACK: whoever sent it does not know the connection."""
    p = established(ts=1000)
    p.send("A", 1, ack, b"evil", tsval=0x60000000)
    p.recv_all()
    assert p.conn.block()["ts_recent"] == 1000
    p.send("A", 1, 1, b"good", tsval=1001)
    assert p.conn.recv() == b"good"


def test_a_reset_or_syn_does_not_move_the_clock_of_the_peer():
    p = established(ts=1000)
    p.send("R", 5, tsval=0x60000000)
    p.send("S", 1, tsval=0x60000000)
    assert p.conn.block()["ts_recent"] == 1000


def test_timestamps_are_in_every_segment_once_agreed_and_never_otherwise():
    p = established(ts=7, nodelay=1)
    p.conn.send(b"data")
    p.send("A", 1, 1, b"text")
    p.send("A", 100, 1, b"gap")
    p.send("A", 1 << 20, 1, b"out")
    p.send("S", 1)
    p.conn.shutdown(1)
    p.after(1)
    segments = p.recv_all()
    assert len(segments) > 5
    assert all(s.ts is not None for s in segments)
    q = established(nodelay=1)
    q.conn.send(b"data")
    q.send("A", 1, 1, b"text", options=options_bytes(ts=(5, 6)))
    q.after(0.1)
    assert all(s.ts is None for s in q.recv_all())
    assert q.conn.recv() == b"text"


def test_timestamps_wrap():
    p = established(ts=0xFFFFFFF0)
    for i, tsval in enumerate((0xFFFFFFFF, 0, 5)):
        p.send("A", 1 + i, 1, b"x", tsval=tsval)
        p.after(0.1)                            # acknowledged: what spans the last ACK counts
    assert p.conn.recv() == b"xxx"
    p.send("A", 4, 1, b"o", tsval=0xFFFFFFFF)
    p.recv_all()
    assert p.conn.recv() == -errno.EAGAIN
    assert p.counter("paws") == 1


# --- what the network says (RFC 1122 4.2.3.9) ---------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "error"), [(1, errno.ENETUNREACH), (2, errno.EHOSTUNREACH), (7, errno.EHOSTUNREACH),
                                             (8, errno.EPROTO)])
def test_a_soft_error_is_what_a_time_out_is_then_called(kind: int, error: int):
    p = established()
    p.conn.send(b"x")
    p.recv_all()
    p.host.icmp(kind, (US, 80), (PEER, 4000), p.ours + 1)
    assert p.conn.state == "ESTABLISHED"
    p.after(3600)
    p.recv_all()
    assert p.conn.error == error


def test_a_soft_error_is_there_for_who_asks():
    """SO_ERROR tells it once, and the connection goes on."""
    p = established()
    p.conn.send(b"x")
    p.recv_all()
    p.host.icmp(2, (US, 80), (PEER, 4000), p.ours + 1)
    assert p.conn.any_error == errno.EHOSTUNREACH
    assert p.conn.any_error == 0
    p.send("A", 1, 2)
    assert p.conn.state == "ESTABLISHED"


def test_a_soft_error_is_forgotten_when_the_peer_answers():
    p = established()
    p.conn.send(b"x")
    p.host.icmp(2, (US, 80), (PEER, 4000), p.ours + 1)
    p.recv_all()
    p.send("A", 1, 2)
    p.conn.send(b"y")
    p.after(3600)
    assert p.conn.error == errno.ETIMEDOUT


# --- CLOSED (3.10.7.1) --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", range(64))
@pytest.mark.parametrize("data", [b"", b"12345"])
def test_what_closed_answers(value: int, data: bytes):
    """No answer to a reset; with ACK: its number; without: everything acknowledged."""
    host = Host(US)
    p = Peer(host, host.socket())
    flags = "".join(f for i, f in enumerate("FSRPAU") if value >> i & 1)
    p.send(flags, 100, 200, data)
    if "R" in flags:
        p.recv_nothing()
    elif "A" in flags:
        s = p.recv("R", seq=200, data=b"")
        assert s.ack == 0
    else:
        p.recv("RA", seq=0, ack=100 + len(data) + ("S" in flags) + ("F" in flags), data=b"")
    p.recv_nothing()
    assert host.count == 1


@pytest.mark.parametrize("src", [0xFFFFFFFF, 0xE0000001, 0x0AFFFFFF, 0, 0x7F000001])
def test_nobody_who_is_not_one_host_is_answered(src: int):
    p = listening()
    for flags in (2, 16, 1):
        p.host.input(build(flags, 1, 1, src=(src, 4000)))
        p.host.input(build(flags, 1, 1, src=(src, 4000), dst=(US, 81)))
    p.recv_nothing()
    assert p.host.count == 1
