"""Data transfer (RFC 9293 3.8, 3.10.7.4): reassembly, acknowledgement, windows, Nagle, retransmission."""

from __future__ import annotations

import errno

import pytest
from tcp_script import MASK, PEER, US, Host, Peer, S, Segment, connected, established, options_bytes, syn_sent

FULL = b"x" * 1460
EV_OUT = 4


def offered(p: Peer, s: Segment) -> int:
    """The right edge of the window that a segment offers, relative to the peer's ISN."""
    return ((s.ack - p.iss) & MASK) + (s.window << p.conn.info()["rcv_wscale"])


# --- T2.1 reassembly ----------------------------------------------------------------------------------------------
def test_in_order():
    p = established()
    p.send("A", 1, 1, b"one")
    p.send("A", 4, 1, b"two")
    assert p.conn.recv() == b"onetwo"
    assert p.conn.recv() == -errno.EAGAIN


def test_gap_then_fill():
    p = established(sack=True)
    p.send("A", 4, 1, b"two")
    p.recv("A", ack=1, sack=[(4, 7)])
    p.send("A", 10, 1, b"four")
    p.recv("A", ack=1, sack=[(10, 14), (4, 7)])
    p.send("A", 1, 1, b"one")
    p.recv("A", ack=7, sack=[(10, 14)])
    p.send("A", 7, 1, b"333")
    p.recv("A", ack=14, sack=[])
    assert p.conn.recv() == b"onetwo333four"


@pytest.mark.parametrize("first", [b"ab", b"abcdefgh"])
def test_a_gap_at_the_front_is_filled_however_many_runs_there_are(first: bytes):
    """What lies furthest makes way, or the connection would stand still for ever."""
    p = established(rcvbuf=1 << 20, wscale=5)
    for at in range(5000, 11, -2):
        p.send("A", at, 1, b"x", egress=False)
    assert p.counter("ooo_limit") > 0
    runs = p.conn.block()["ooo_runs"]
    p.send("A", 1, 1, first)
    assert p.conn.recv() == first
    p.send("A", 1 + len(first), 1, b"y" * 6000)
    assert len(p.conn.recv()) == 6000
    assert p.conn.block()["ooo_runs"] < runs


def test_sack_blocks_newest_first_and_at_most_three_with_timestamps():
    p = established(sack=True, ts=100)
    for seq in (10, 20, 30, 40):
        p.send("A", seq, 1, b"ab")
    blocks = p.recv_all()[-1].sack
    assert [a - p.iss for a, b in blocks] == [40, 30, 20]
    p.send("A", 22, 1, b"cd")
    p.recv("A", ack=1, sack=[(20, 24), (40, 42), (30, 32)])


def test_overlaps_keep_what_came_first():
    p = established()
    p.send("A", 3, 1, b"cdef")
    p.send("A", 1, 1, b"ABCDEFGH")
    assert p.conn.recv() == b"ABcdefGH"


def test_dsack_for_what_came_twice():
    p = established(sack=True)
    p.send("A", 1, 1, b"hello")
    p.recv_all()
    p.send("A", 1, 1, b"hello")
    p.recv("A", ack=6, sack=[(1, 6)])
    p.send("A", 10, 1, b"world")
    p.recv("A", ack=6, sack=[(10, 15)])
    p.send("A", 10, 1, b"world")
    p.recv("A", ack=6, sack=[(10, 15), (10, 15)])
    p.send("A", 3, 1, b"lloNEW")
    p.recv("A", ack=9, sack=[(3, 6), (10, 15)])
    assert p.conn.recv() == b"helloNEW"


def test_data_beyond_the_window_is_cut_off():
    p = established(rcvbuf=4096)
    p.send("A", 1, 1, b"a" * 4000)
    p.recv_all()
    p.send("A", 4001, 1, b"b" * 1000)
    edge = offered(p, p.recv_all()[-1])
    got = p.conn.recv()
    assert isinstance(got, bytes)
    assert got == b"a" * 4000 + b"b" * (edge - 4001)
    assert 4096 <= edge <= 4097


def test_super_segment_is_taken_whole_and_uncopied():
    p = established()
    p.send("A", 1, 1, b"z" * 60000, gso=1460)
    p.recv("A", ack=60001)
    p.recv_nothing()
    assert p.host.ledger()["rx.copy"] == 1          # that of the handshake
    assert not {"rx.collapse", "copyb", "rx.ring"} & set(p.host.ledger())
    assert p.conn.recv() == b"z" * 60000


# --- T2.2 when ACKs are sent --------------------------------------------------------------------------------------
def test_single_segment_is_acknowledged_after_40_ms():
    p = established()
    p.send("A", 1, 1, b"x")
    p.recv_nothing()
    p.after(0.039)
    p.recv_nothing()
    p.after(0.002)
    p.recv("A", ack=2)


def test_every_second_full_segment_at_once():
    p = established()
    p.send("A", 1, 1, FULL)
    p.after(0.05)
    p.recv("A", ack=1461)
    p.conn.recv()
    for i in range(1, 9, 2):
        p.send("A", 1 + 1460 * i, 1, FULL)
        p.recv_nothing()
        p.send("A", 1 + 1460 * (i + 1), 1, FULL)
        p.recv("A", ack=1 + 1460 * (i + 2))
        p.conn.recv()
        p.recv_nothing()


def test_an_answer_that_comes_at_once_makes_it_a_dialogue():
    """Also if its question has been acknowledged already: the next one is not, before its answer."""
    p = established(quick=True)
    p.send("A", 1, 1, b"?")
    p.recv("A", ack=2)
    p.conn.send(b"!")
    p.recv("PA", seq=1, ack=2)
    p.send("A", 2, 2, b"?")
    p.recv_nothing()
    p.conn.send(b"!")
    p.recv("PA", seq=2, ack=3)
    p.recv_nothing()


def test_what_is_said_later_is_no_answer():
    p = established(quick=True)
    p.send("A", 1, 1, b"?")
    p.recv("A", ack=2)
    p.after(0.05)
    p.conn.send(b"!")
    p.recv("PA", seq=1, ack=2)
    p.send("A", 2, 2, b"?")
    p.recv("A", ack=3)


def test_quickack_off_and_on():
    p = established(quick=True)
    assert p.conn.get("quickack") == 1
    p.conn.set("quickack", 0)
    assert p.conn.get("quickack") == 0
    p.send("A", 1, 1, b"x")
    p.recv_nothing()
    p.after(0.04)
    p.recv("A", ack=2)
    p.conn.set("quickack", 1)
    p.send("A", 2, 1, b"x")
    p.recv("A", ack=3)


def test_first_segments_are_acknowledged_at_once():
    p = established(quick=True)
    for i in range(16):
        p.send("A", 1 + i, 1, b"x")
        p.recv("A", ack=2 + i)
    p.send("A", 17, 1, b"x")
    p.recv_nothing()


def test_ack_rides_on_data():
    p = established()
    p.send("A", 1, 1, b"ping")
    p.conn.send(b"pong")
    p.recv("PA", seq=1, ack=5, data=b"pong")
    p.after(0.1)
    p.recv_nothing()


def test_a_burst_in_one_verb_gets_one_ack_but_disorder_gets_one_each():
    p = established()
    for i in range(10):
        p.send("A", 1 + 1460 * i, 1, FULL, egress=False)
    p.host.egress()
    p.recv("A", ack=14601)
    p.recv_nothing()
    for i in range(11, 21):
        p.send("A", 1 + 1460 * i, 1, FULL, egress=False)
    assert len(p.recv_all()) == 10


def test_after_a_loss_the_next_segments_are_acknowledged_at_once():
    """As in Linux: the peer's window is small then, and waits for each ACK."""
    p = established(sack=True)
    p.send("A", 1461, 1, FULL)
    p.recv("A", ack=1, sack=[(1461, 2921)])
    p.send("A", 1, 1, FULL)
    p.recv("A", ack=2921)
    for i in range(2, 18):
        p.send("A", 1 + 1460 * i, 1, FULL)
        p.recv("A", ack=1461 + 1460 * i)
        p.conn.recv()
    p.send("A", 1 + 1460 * 18, 1, FULL)
    p.recv_nothing()


def test_after_a_duplicate_the_next_segments_are_acknowledged_at_once():
    """Our ACK was lost, or late."""
    p = established(sack=True)
    p.send("A", 1, 1, FULL)
    p.send("A", 1, 1, FULL)
    p.recv("A", ack=1461, sack=[(1, 1461)])
    for i in range(1, 17):
        p.send("A", 1 + 1460 * i, 1, FULL)
        p.recv("A", ack=1461 + 1460 * i)


def test_after_a_loss_a_burst_draws_an_ack_for_each_second_segment():
    """ACKs may be lost as well: one alone for all of it would cost the peer a time-out."""
    p = established(sack=True, rcvbuf=1 << 20, wscale=5)
    p.send("A", 1461, 1, FULL)
    p.send("A", 1, 1, FULL)
    p.recv_all()
    for i in range(2, 12):
        p.send("A", 1 + 1460 * i, 1, FULL, egress=False)
    p.host.egress()
    assert [(s.ack - p.iss - 1) // 1460 for s in p.recv_all()] == [4, 6, 8, 10, 12]
    at = 12
    while at < 260:
        p.send("A", 1 + 1460 * at, 1, FULL)
        at += 1
    p.conn.recv()
    p.recv_all()
    for i in range(at, at + 10):
        p.send("A", 1 + 1460 * i, 1, FULL, egress=False)
    p.host.egress()
    p.recv("A", ack=1 + 1460 * (at + 10))
    p.recv_nothing()


def test_the_peers_segment_size_follows_its_path_down():
    """Two in a row that are smaller and equal: from then on each second one of those is acknowledged."""
    p = established(mss=8960)
    p.conn.set("quickack", 0)
    small = b"y" * 1000
    p.send("A", 1, 1, FULL)
    p.after(0.05)
    p.recv("A", ack=1461)
    p.send("A", 1461, 1, small)
    p.recv_nothing()
    p.send("A", 2461, 1, small)
    p.recv("A", ack=3461)
    p.conn.recv()
    p.send("A", 3461, 1, small)
    p.recv_nothing()
    p.send("A", 4461, 1, small)
    p.recv("A", ack=5461)
    for i in range(3):                              # a few bytes are no segment size
        p.send("A", 5461 + i, 1, b"z")
    p.recv_nothing()


def test_quickack_option():
    p = established(quickack=1)
    p.send("A", 1, 1, b"x")
    p.recv("A", ack=2)


# --- T2.3 our window ----------------------------------------------------------------------------------------------
def test_window_goes_to_zero_and_reopens_after_enough_is_read():
    p = established(rcvbuf=8192)
    sent = []
    for i in range(8):
        p.send("A", 1 + 1024 * i, 1, b"d" * 1024)
        p.after(0.05)
        sent += p.recv_all()
    edges = [offered(p, s) for s in sent]
    assert sent[-1].window == 0
    assert edges == sorted(edges)
    full = (sent[-1].ack - p.iss) & MASK
    p.send("A", full, 1, b"!")
    p.recv("A", ack=full, window=0)
    assert len(p.conn.recv(500)) == 500
    p.recv_nothing()                    # silly window avoidance: less than a segment
    assert len(p.conn.recv(4000)) == 4000
    s = p.recv("A", ack=full)
    assert 4500 <= s.window <= 4501
    assert len(p.conn.recv()) == full - 4501


def test_right_edge_never_shrinks_when_the_buffer_does():
    p = established(rcvbuf=16384, wscale=0)
    p.send("A", 1, 1, b"a" * 100)
    p.after(0.1)
    edge = offered(p, p.recv_all()[-1])
    assert p.conn.set("rcvbuf", 4096) == 0
    for i in range(1, 8):
        p.send("A", 1 + 100 * i, 1, b"a" * 100)
        p.after(0.1)
        assert offered(p, p.recv_all()[-1]) == edge


def test_lost_window_update_is_recovered_by_the_peers_probe():
    p = established(rcvbuf=4096)
    p.send("A", 1, 1, b"d" * 4096)
    p.recv_all()
    p.conn.recv()
    p.recv_all()                        # the update, which is lost
    nxt = (p.conn.block()["rcv_nxt"] - p.iss) & MASK
    p.send("A", nxt - 1, 1)             # zero-window probe as Linux sends it
    s = p.recv("A", ack=nxt)
    assert s.window == 4096


# --- T2.3, T2.4 the peer's window ---------------------------------------------------------------------------------
def test_peer_window_is_respected():
    p = established(window=3000, nodelay=1)
    p.conn.send(b"x" * 10000)
    assert sum(len(s.data) for s in p.recv_all()) == 2920       # not the 80 bytes behind two full segments
    p.send("A", 1, 2921, window=3000)
    assert sum(len(s.data) for s in p.recv_all()) == 2920


def test_small_windows_are_not_filled_but_half_the_largest_is():
    p = established(window=2000, mss=1460)
    p.conn.send(b"x" * 10000)
    p.recv("A", length=1460)
    p.recv_nothing()
    p.send("A", 1, 1461, window=1000)
    p.recv("A", seq=1461, length=1000)  # half the largest window ever offered
    p.send("A", 1, 2461, window=900)
    p.recv_nothing()


def test_zero_window_probes_back_off_to_60_seconds_and_never_stop_while_answered():
    p = established(window=1000)
    p.conn.send(b"x" * 1000)
    p.recv("A", length=1000)
    p.send("A", 1, 1001, window=0)
    p.conn.send(b"more")
    p.recv_nothing()
    waits = []
    for _ in range(20):
        before = p.host.now
        while p.host.deadline is not None and not p.host.queued:
            p.host.run(p.host.deadline)
        s = p.recv("A", data=b"")
        assert (s.seq - p.ours) & MASK == 1000
        waits.append((p.host.now - before) / S)
        p.send("A", 1, 1001, window=0)
        p.recv_nothing()
    assert waits[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6], rel=0.01)
    assert waits[-1] == pytest.approx(60, rel=0.01)
    p.send("A", 1, 1001, window=1000)
    p.recv("PA", seq=1001, data=b"more")


def test_no_probes_without_data():
    p = established(window=1000)
    p.send("A", 1, 1, window=0)
    p.after(600)
    p.recv_nothing()


def test_unanswered_probes_end_in_a_time_out():
    p = established(window=1000)
    p.send("A", 1, 1, window=0)
    p.conn.send(b"more")
    p.after(3600)
    assert len(p.recv_all()) == 15
    assert p.conn.error == errno.ETIMEDOUT


def test_user_timeout_bounds_a_closed_window():
    p = established(window=1000, user_timeout=5000)
    p.send("A", 1, 1, window=0)
    p.conn.send(b"more")
    for _ in range(100):
        p.after(0.1)
        if p.recv_all():
            p.send("A", 1, 1, window=0)
    assert p.conn.error == errno.ETIMEDOUT


# --- T2.5 Nagle, CORK ---------------------------------------------------------------------------------------------
def test_no_more_is_taken_than_may_be_unsent():
    """TCP_NOTSENT_LOWAT: what the peer's window does not let out counts, what is in flight does not. Who waits hears of
    it when less than half is left (Linux)."""
    p = established(window=7300, notsent_lowat=4000)
    assert p.conn.get("notsent_lowat") == 4000
    assert p.conn.room() > 0
    assert p.conn.send(bytes(9300)) == 9300
    assert sum(len(s.data) for s in p.recv_all()) == 7300
    assert p.conn.room() > 0                        # 2000 are not sent
    assert p.conn.poll & EV_OUT == 0
    assert p.conn.send(bytes(2000)) == 2000
    assert p.conn.room() == 0
    p.host.events()
    p.send("A", 1, 1461)
    assert p.conn.room() > 0
    assert p.conn.poll & EV_OUT == 0                # 2540 still
    assert not any(events & EV_OUT for events in p.host.events().values())
    p.send("A", 1, 2921)
    assert p.conn.poll & EV_OUT
    assert any(events & EV_OUT for events in p.host.events().values())


def test_who_asks_whether_there_is_room_is_told_when_there_is():
    """Two thirds of the buffer are full, and no more: no send has had to wait."""
    p = established(sndbuf=30000, window=1000)
    assert p.conn.send(bytes(25000)) == 25000
    assert p.conn.poll & EV_OUT == 0
    p.host.events()
    p.recv_all()
    p.window = 65535
    p.send("A", 1, 1001)
    p.recv_all()
    assert not any(events & EV_OUT for events in p.host.events().values())
    p.send("A", 1, 10001)
    assert any(events & EV_OUT for events in p.host.events().values())


def test_nagle_holds_a_second_small_segment():
    p = established()
    p.conn.send(b"a")
    p.recv("PA", seq=1, data=b"a")
    p.conn.send(b"b")
    p.conn.send(b"c")
    p.recv_nothing()
    p.send("A", 1, 2)
    p.recv("PA", seq=2, data=b"bc")


def test_nagle_sends_full_segments():
    p = established()
    p.conn.send(b"a")
    p.recv("PA", data=b"a")
    p.conn.send(FULL + b"tail")
    p.recv("A", seq=2, length=1460)
    p.recv_nothing()


def test_nodelay():
    p = established(nodelay=1)
    p.conn.send(b"a")
    p.conn.send(b"b")
    assert [s.data for s in p.recv_all()] == [b"a", b"b"]


def test_setting_nodelay_releases_what_was_held():
    p = established()
    p.conn.send(b"a")
    p.conn.send(b"b")
    p.conn.set("nodelay", 1)
    p.host.egress()
    assert [s.data for s in p.recv_all()] == [b"a", b"b"]


@pytest.mark.parametrize("how", ["cork", "more"])
def test_cork_and_msg_more_hold_partial_segments_for_200_ms(how: str):
    p = established(nodelay=1)
    if how == "cork":
        p.conn.set("cork", 1)
    p.conn.send(FULL + b"tail", more=how == "more")
    p.recv("A", length=1460)
    p.recv_nothing()
    p.send("A", 1, 1461)
    p.recv_nothing()
    p.after(0.21)
    p.recv("PA", seq=1461, data=b"tail")


def test_uncork_sends():
    p = established(nodelay=1)
    p.conn.set("cork", 1)
    p.conn.send(b"a")
    p.conn.send(b"b")
    p.recv_nothing()
    p.conn.set("cork", 0)
    p.host.egress()
    p.recv("PA", data=b"ab")


def test_fin_is_not_held_by_nagle():
    p = established()
    p.conn.send(b"a")
    p.conn.send(b"b")
    p.recv("PA", data=b"a")
    p.conn.close()
    p.recv("FPA", seq=2, data=b"b")


def test_psh_at_the_end_of_a_write():
    p = established()
    p.conn.send(b"x" * 3000)
    segments = p.recv_all()
    assert [len(s.data) for s in segments] == [1460, 1460, 80]
    assert ["P" in s.flags for s in segments] == [False, False, True]


# --- T2.6 time-outs -----------------------------------------------------------------------------------------------
def test_rto_doubles_to_two_minutes_and_gives_up():
    p = established()
    p.conn.send(b"x")
    p.recv("A", data=b"x")
    waits, last = [], p.host.now
    while p.conn.state == "ESTABLISHED":
        assert p.host.deadline is not None
        p.host.run(p.host.deadline)
        for s in p.recv_all():
            assert s.data == b"x"
            waits.append((p.host.now - last) / S)
            last = p.host.now
    assert waits[:5] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2], rel=0.01)
    assert max(waits) == pytest.approx(120, rel=0.01)
    assert len(waits) == 15
    assert p.conn.error == errno.ETIMEDOUT
    assert p.conn.send(b"y") == -errno.EPIPE


def test_rto_follows_the_round_trip_time():
    p = established(nodelay=1)
    for i in range(20):
        p.conn.send(b"x")
        p.recv("A", data=b"x")
        p.after(0.5)
        p.recv_all()
        p.send("A", 1, 2 + i)
    info = p.conn.info()
    # The back-off is kept until one is sent once only: so the time-out learns (RFC 6298 5.7, Karn).
    assert 0.4 * S < info["srtt"] < 0.6 * S
    assert info["rto"] > 0.5 * S


def test_karn_no_sample_from_what_was_sent_twice():
    p = established()
    before = p.conn.info()["srtt"]
    p.conn.send(b"x")
    p.after(0.3)
    assert len(p.recv_all()) == 2
    p.after(0.2)
    p.send("A", 1, 2)
    assert p.conn.info()["srtt"] == before


def test_timestamps_measure_what_was_sent_twice():
    p = established(ts=1)
    p.conn.send(b"x")
    p.after(0.25)
    assert len(p.recv_all()) == 2
    p.tsecr = 0
    info = p.conn.info()
    p.host.advance(100_000_000)
    # The echo is that of the first transmission: 350 ms
    first = p.host.now // 1_000_000
    assert first
    assert info["rto"] >= 0.2 * S


def test_after_an_rto_one_segment_then_slow_start():
    p = established()
    p.conn.send(b"x" * 14600)
    assert len(p.recv_all()) == 10
    p.after(0.21)
    p.recv("A", seq=1, length=1460)
    p.recv_nothing()
    assert p.conn.info()["cwnd"] == 1460
    p.send("A", 1, 1461)
    assert [(s.seq - p.ours) & MASK for s in p.recv_all()] == [1461, 2921]


def test_retransmission_uses_the_same_storage():
    p = established()
    before = p.host.ledger()
    p.conn.send(b"x" * 1460)
    copied = p.host.ledger()["tx.copy"] - before.get("tx.copy", 0)
    p.after(10)
    assert len(p.recv_all()) > 3
    assert p.host.ledger()["tx.copy"] - before.get("tx.copy", 0) == copied


def test_user_timeout():
    p = established(user_timeout=3000)
    p.conn.send(b"x")
    p.after(2.9)
    assert p.conn.error == 0
    p.after(4)
    assert p.conn.error == errno.ETIMEDOUT


def test_user_timeout_is_exact():
    """Not rounded up to the next of the doubled time-outs (Linux: tcp_clamp_rto_to_user_timeout)."""
    p = established(user_timeout=10_000)
    p.conn.send(b"x")
    p.after(9.9)
    assert p.conn.state == "ESTABLISHED"
    p.after(0.2)
    assert p.conn.error == errno.ETIMEDOUT


def test_user_timeout_of_a_connect():
    p = syn_sent(user_timeout=5000)
    p.after(4.9)
    assert p.conn.state == "SYN-SENT"
    p.after(0.2)
    assert p.conn.connect_result == -errno.ETIMEDOUT


def test_user_timeout_of_a_closed_window_begins_with_what_waits():
    """Not with the last ACK: an idle connection may have a closed window for ever."""
    p = established(user_timeout=3000)
    p.send("A", 1, 1, window=0)
    p.after(100)
    p.conn.send(b"waits")
    p.after(2.9)
    assert p.conn.state == "ESTABLISHED"
    p.after(0.2)
    assert p.conn.error == errno.ETIMEDOUT


# --- T2.7 fast retransmit -----------------------------------------------------------------------------------------
def ten_in_flight(**options: int | str) -> Peer:
    p = established(**options)
    p.conn.send(FULL * 30)
    assert len(p.recv_all()) == 10
    return p


@pytest.mark.parametrize(("congestion", "ssthresh"), [("reno", 5 * 1460), ("cubic", 7 * 1460)])
def test_three_duplicates_and_not_two(congestion: str, ssthresh: int):
    p = ten_in_flight(congestion=congestion)
    p.send("A", 1, 1)
    p.send("A", 1, 1)
    sent = p.recv_all()
    assert [(s.seq - p.ours) & MASK for s in sent] == [14601, 16061]     # limited transmit (RFC 3042)
    p.send("A", 1, 1)
    p.recv("A", seq=1, length=1460)
    assert p.conn.info()["ssthresh"] in (ssthresh, ssthresh + 1460)
    assert p.counter("fast_retransmit") == 1


@pytest.mark.parametrize("odd", ["window", "data"])
def test_what_is_no_duplicate(odd: str):
    p = ten_in_flight()
    for i in range(5):
        if odd == "window":
            p.send("A", 1, 1, window=60000 - i)
        else:
            p.send("A", 1 + i, 1, b"d")
    assert p.counter("fast_retransmit") == 0


def test_newreno_partial_ack():
    p = ten_in_flight()
    for _ in range(3):
        p.send("A", 1, 1)
    p.recv_all()
    p.send("A", 1, 2921)                # the third segment is lost as well
    p.recv("A", seq=2921, length=1460)
    p.recv_all()
    nxt = p.conn.block()["snd_nxt"]
    p.send("A", 1, (nxt - p.ours) & MASK)
    assert p.conn.info()["ca_state"] == 0
    assert p.conn.info()["total_retrans"] == 2


def test_sack_recovery_sends_only_the_holes():
    p = ten_in_flight(sack=True)
    m = 1460
    p.send("A", 1, 1, sack=[(1 + m, 1 + 2 * m)])
    p.send("A", 1, 1, sack=[(1 + 3 * m, 1 + 4 * m), (1 + m, 1 + 2 * m)])
    assert p.counter("fast_retransmit") == 0
    p.recv_all()
    p.send("A", 1, 1, sack=[(1 + 5 * m, 1 + 6 * m), (1 + 3 * m, 1 + 4 * m), (1 + m, 1 + 2 * m)])
    p.recv("A", seq=1, length=m)
    p.recv_all()
    for i in range(6, 10):
        p.send("A", 1, 1, sack=[(1 + 5 * m, 1 + (i + 1) * m), (1 + 3 * m, 1 + 4 * m), (1 + m, 1 + 2 * m)])
    again = [(s.seq - p.ours) & MASK for s in p.recv_all() if (s.seq - p.ours) & MASK < 14601]
    assert again == [1 + 2 * m, 1 + 4 * m]
    assert p.conn.info()["sacked"] == 7 * m


def test_nothing_is_sent_twice_in_recovery():
    p = ten_in_flight(sack=True)
    m = 1460
    for i in range(1, 10):
        p.send("A", 1, 1, sack=[(1 + m, 1 + (i + 1) * m)])
    again = [s for s in p.recv_all() if s.seq == (p.ours + 1) & MASK]
    assert len(again) == 1


# --- T2.8 congestion ----------------------------------------------------------------------------------------------
def test_initial_window_is_ten_and_doubles():
    p = ten_in_flight()
    for i in range(2, 11, 2):
        p.send("A", 1, 1 + i * 1460)
    assert len(p.recv_all()) == 20


def test_one_ack_counts_for_two_segments():
    """RFC 3465 2.1 and 2.3: L = 2."""
    p = ten_in_flight()
    p.send("A", 1, 14601)
    assert len(p.recv_all()) == 12
    assert p.conn.info()["cwnd"] == 12 * 1460


def test_one_ack_counts_for_two_super_segments():
    p = established(host=Host(US, caps=15))
    p.conn.send(FULL * 30)
    assert [len(s.data) for s in p.recv_all()] == [14600]
    p.send("A", 1, 14601)
    assert [len(s.data) for s in p.recv_all()] == [29200]


def test_ack_division_gains_nothing():
    p = ten_in_flight()
    for i in range(1, 1460, 146):
        p.send("A", 1, 1 + i)
    p.send("A", 1, 1461)
    assert p.conn.info()["cwnd"] <= 11 * 1460
    assert len(p.recv_all()) == 2


def test_idle_connection_starts_slowly_again():
    p = ten_in_flight()
    for i in range(2, 31, 2):
        p.send("A", 1, 1 + i * 1460)
    p.recv_all()
    assert p.conn.info()["cwnd"] > 20 * 1460
    p.after(10)
    p.conn.send(FULL * 40)
    assert len(p.recv_all()) == 10


# --- T2.9 timestamps ----------------------------------------------------------------------------------------------
def test_echo_is_of_the_segment_that_moved_the_window():
    p = established(ts=100)
    p.send("A", 1, 1, b"a", tsval=200)
    p.send("A", 2, 1, b"b", tsval=300)     # not acknowledged yet: the echo stays with the first (RFC 7323 4.3)
    p.after(0.1)
    s = p.recv_all()[-1]
    assert s.ts is not None
    assert s.ts[1] == 200


def test_paws_drops_and_acks():
    p = established(ts=1000)
    p.send("A", 1, 1, b"old", tsval=999)
    p.recv("A", ack=1)
    assert p.counter("paws") == 1
    assert p.conn.recv() == -errno.EAGAIN
    p.send("A", 1, 1, b"new", tsval=1000)
    assert p.conn.recv() == b"new"


def test_paws_is_not_poisoned_by_what_lies_outside_the_window():
    p = established(ts=1000)
    p.send("A", -5000, 1, b"x", tsval=0x70000000)
    p.send("A", 0x7000000, 1, b"x", tsval=0x70000000)
    p.recv_all()
    p.send("A", 1, 1, b"fine", tsval=1001)
    assert p.conn.recv() == b"fine"


def test_paws_is_forgotten_after_24_days():
    p = established(ts=1000)
    p.after(25 * 24 * 3600)
    p.send("A", 1, 1, b"new", tsval=1)
    assert p.conn.recv() == b"new"


def test_every_segment_but_a_reset_has_timestamps():
    p = established(ts=1000)
    p.conn.send(b"x")
    assert p.recv("A").ts is not None
    p.send("A", 1, 2, b"unread")
    p.conn.close()
    assert p.recv("RA").ts is None


# --- T2.10 wrap ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("iss", [0xFFFFFFF0, 0x7FFFFFF0, 0xFFFFFFFF])
def test_sequence_numbers_wrap_in_receive(iss: int):
    host = Host(US)
    listener = host.socket()
    listener.bind(US, 80)
    listener.listen()
    p = Peer(host, listener, iss=iss)
    p.send("S", 0, options=options_bytes(1460, sackok=True))
    p.ours = p.recv("SA", ack=1).seq
    p.send("A", 1, 1)
    c = listener.accept()
    assert c is not None
    p.send("A", 11, 1, b"b" * 10)
    p.recv("A", ack=1, sack=[(11, 21)])
    p.send("A", 1, 1, b"a" * 10)
    p.recv("A", ack=21)
    assert c.recv() == b"a" * 10 + b"b" * 10


# --- T2.12 keep-alive ---------------------------------------------------------------------------------------------
def test_keepalive_probes_and_gives_up():
    p = established(keepalive=1, keepidle=10, keepintvl=2, keepcnt=3)
    p.after(9.9)
    p.recv_nothing()
    for wait in (0.2, 2, 2):
        p.after(wait)
        p.recv("A", seq=0, ack=1, data=b"")
    p.after(2.1)
    p.recv("RA")
    assert p.conn.error == errno.ETIMEDOUT


def test_keepalive_answered():
    p = established(keepalive=1, keepidle=10, keepintvl=2, keepcnt=3)
    for _ in range(5):
        p.after(10)
        p.recv("A", seq=0)
        p.send("A", 1, 1)
    assert p.conn.state == "ESTABLISHED"


@pytest.mark.parametrize("data", [b"", b"?"])
def test_we_answer_keepalives(data: bytes):
    p = established()
    p.send("A", 0, 1, data)
    p.recv("A", seq=1, ack=1)


# --- T2.14 urgent -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pointer", [0, 1, 3, 60000])
def test_urgent_data_stays_in_line(pointer: int):
    p = established()
    p.send("UA", 1, 1, b"abc", urgent=pointer)
    assert p.conn.recv() == b"abc"


# --- super-segments out -------------------------------------------------------------------------------------------
def test_one_packet_of_many_segments():
    host = Host(US, caps=1 | 2 | 4)         # TX_CSUM, RX_CSUM, TSO4
    p = established(host=host, ts=5, nodelay=1)
    p.conn.send(b"x" * 20000)
    s = p.recv("A", seq=1)
    assert s.gso == 1448
    assert len(s.data) == 10 * 1448
    p.recv_nothing()
    p.send("A", 1, 14481)
    s = p.recv("PA", seq=14481, length=20000 - 14480)


def test_full_interface_loses_nothing():
    host = Host(US, limit=4)
    p = established(host=host, nodelay=1)
    p.conn.send(b"x" * 14600)
    assert host.queued == 4
    assert host.egress()
    got = b""
    while True:
        segments = p.recv_all()
        if not segments:
            break
        got += b"".join(s.data for s in segments)
        host.egress()
    assert got == b"x" * 14600
    assert p.conn.info()["total_retrans"] == 0


def test_small_writes_share_blocks():
    p = established()
    p.send("A", 1, 1, window=0)
    live = p.host.live
    for _ in range(1000):
        p.conn.send(b"x")
    assert p.host.live - live < 40
    p.send("A", 1, 1, window=60000)
    assert b"".join(s.data for s in p.recv_all()) == b"x" * 1000


def test_writer_is_told_when_a_third_is_free():
    p = established(sndbuf=9000, window=60000)
    p.host.events()
    assert p.conn.send(b"x" * 9000) == 9000
    assert p.conn.room() == 0
    p.send("A", 1, 1461)
    assert p.conn.room() == 0
    assert p.host.events() == {}
    p.send("A", 1, 1461 + 2920)
    assert p.host.events() == {p.conn: 4}
    assert p.conn.room() == 4380


def test_connected_side_has_the_same_rules():
    p = connected(ts=7, sack=True, wscale=7)
    p.conn.send(b"hello")
    p.recv("PA", seq=1, data=b"hello")
    assert p.conn.info()["options"] == 7
    assert p.conn.remote == (PEER, 80)


def test_timestamp_of_a_peer_that_was_silent_for_24_days_is_taken_and_echoed():
    """RFC 7323 5.5: its clock may have wrapped; what we remember is invalid."""
    p = established(ts=1000)
    p.send("A", 1, 1, b"a", tsval=2000)
    p.after(25 * 86400)
    p.recv_all()
    p.send("A", 2, 1, b"b", tsval=500)
    p.after(0.1)
    assert p.recv("A", ack=3).ts[1] == 500
    p.send("A", 3, 1, b"c", tsval=400)
    p.recv("A", ack=3)


@pytest.mark.parametrize(("sack", "acks"), [(False, 4), (True, 1)])
def test_coalesced_segments_out_of_order_count_as_many_without_sack(sack: bool, acks: int):
    """RFC 5681 4.2: each makes a duplicate ACK; a block of SACK says it all in one."""
    p = established(sack=sack)
    p.send("A", 1001, 1, b"x" * 3500, gso=1000)
    for _ in range(acks):
        p.recv("A", ack=1)
    p.recv_nothing()


def test_the_window_counts_from_what_its_segment_acknowledges():
    """A segment with an older number that acknowledges more brings its window along: the old window, counted from the
    new acknowledgement, would reach beyond what the peer ever offered."""
    p = established(window=3000)
    p.conn.send(bytes(3000))
    p.recv_all()
    p.send("A", 500, 1, b"early", window=3000)
    p.send("A", 1, 3001, b"on time", window=100)
    p.recv_all()
    p.conn.send(bytes(3000))
    p.after(5)
    assert max((s.seq - p.ours & MASK) + len(s.data) for s in p.recv_all()) <= 3101
