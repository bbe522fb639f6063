"""Instants, numbers and options, exactly: when timers fire, which option means what where, what ends when."""

from __future__ import annotations

import errno
import itertools
import struct

import pytest
from tcp_script import (
    MASK,
    MS,
    STATES,
    US,
    Host,
    Peer,
    S,
    Segment,
    bits,
    build,
    checksum,
    close_wait,
    closing,
    connected,
    established,
    fin_wait_1,
    fin_wait_2,
    last_ack,
    listening,
    options_bytes,
    parse,
    syn_received,
    syn_sent,
    time_wait,
)

FULL = b"x" * 1460
TICK = 0.001                        # the timer wheel's, and a segment's own: instants are compared to this


def instants(p: Peer, seconds: float, step: int = MS) -> list[tuple[float, Segment]]:
    """What we send in so many seconds, and when."""
    out = []
    begin, end = p.host.now, p.host.now + round(seconds * S)
    while p.host.now < end:
        p.host.advance(min(step, end - p.host.now))
        p.fetch()
        out += [((p.host.now - begin) / S, p.take()) for _ in range(len(p.inbox))]
    return out


def times(p: Peer, seconds: float, step: int = MS) -> list[float]:
    return [round(at, 2) for at, _ in instants(p, seconds, step)]


# --- RFC 6298 -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rtt", "rto"), [(0.05, 0.25), (0.1, 0.3), (0.4, 1.2), (0.9, 2.7)])
def test_the_first_round_trip_sets_the_time_out(rtt: float, rto: float):
    """2.2: SRTT = R, RTTVAR = R / 2, RTO = SRTT + 4 RTTVAR, of which 200 ms at least."""
    p = syn_sent()
    p.after(rtt)
    p.send("SA", 0, 1, options=options_bytes(1460))
    p.recv("A", seq=1)
    p.conn.send(b"x")
    p.recv("A", seq=1)
    [first, *_] = times(p, 4)
    assert first == pytest.approx(rto, abs=0.01)


def test_the_second_round_trip_moves_it_by_an_eighth_and_a_quarter():
    """2.3: RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R'|, then SRTT = 7/8 SRTT + 1/8 R'."""
    p = syn_sent()
    p.after(0.8)
    p.send("SA", 0, 1, options=options_bytes(1460))
    p.recv_all()
    p.conn.send(b"x")
    p.recv_all()
    p.after(0.4)
    p.send("A", 1, 2)
    srtt, var = 0.8 * 7 / 8 + 0.4 / 8, 0.4 * 3 / 4 + 0.4 / 4
    p.conn.send(b"y")
    p.recv_all()
    assert times(p, 4)[0] == pytest.approx(srtt + 4 * var, abs=0.01)


def test_a_lost_syn_makes_the_first_time_out_three_seconds():
    """5.7, where timestamps say nothing."""
    p = syn_sent()
    p.after(1.1)
    p.recv("S")
    p.send("SA", 0, 1, options=options_bytes(1460))
    p.recv("A")
    p.conn.send(b"x")
    p.recv("A", data=b"x")
    assert times(p, 4) == [pytest.approx(3.0, abs=0.01)]


def test_a_retransmission_that_is_acknowledged_leaves_the_back_off():
    """5.7 and Karn: until a segment that was sent once is acknowledged the time-out stays doubled."""
    p = established()
    p.conn.send(b"x")
    p.recv("A", data=b"x")
    first, second = times(p, 0.9)[:2]
    assert second - first == pytest.approx(2 * first, abs=0.01)
    p.send("A", 1, 2)
    p.conn.send(b"y")
    p.recv("A", data=b"y")
    assert times(p, 4 * first + 0.1)[0] == pytest.approx(4 * first, abs=0.01)
    p.send("A", 1, 3)
    p.conn.send(b"z")
    p.recv("A", data=b"z")
    p.after(0.01)
    p.send("A", 1, 4)
    p.conn.send(b"!")
    p.recv("A", data=b"!")
    assert times(p, 1)[0] == pytest.approx(0.2, abs=0.02)


def test_only_the_oldest_segment_is_sent_again_by_a_time_out():
    p = established(nodelay=1)
    for _ in range(5):
        p.conn.send(FULL)
    assert len(p.recv_all()) == 5
    [(_, first)] = instants(p, 0.3)
    assert (first.seq - p.ours) & MASK == 1
    assert first.data == FULL


def test_after_a_time_out_slow_start_goes_to_half_of_what_was_in_flight():
    """RFC 5681 3.1 (4)."""
    p = established(congestion="reno", nodelay=1)
    p.conn.send(FULL * 10)
    assert len(p.recv_all()) == 10
    p.after(0.25)
    p.recv("A", seq=1, length=1460)
    assert p.conn.info()["ssthresh"] == 5 * 1460
    assert p.conn.info()["cwnd"] == 1460


def test_a_time_out_for_the_same_segment_does_not_lower_the_threshold_again():
    p = established(congestion="reno", nodelay=1)
    p.conn.send(FULL * 10)
    p.recv_all()
    p.after(0.25)
    before = p.conn.info()["ssthresh"]
    p.after(1.0)
    assert p.conn.info()["ssthresh"] == before


# --- the handshake's and the end's timers -------------------------------------------------------------------------
def test_syns_are_repeated_at_1_3_7_15_31_63_s():
    p = syn_sent()
    assert times(p, 130, 10 * MS) == [pytest.approx(t, abs=0.02) for t in (1, 3, 7, 15, 31, 63)]
    assert p.conn.error == errno.ETIMEDOUT


def test_a_repeated_syn_is_the_same_segment_with_a_new_timestamp():
    p = Peer(Host(US, seed=1), None)
    conn = p.host.socket()
    conn.connect(0x0A000002, 80)
    first = p.take()
    p.host.advance(S + 10 * MS)
    again = p.take()
    assert (again.seq, again.mss, again.wscale, again.sackok) == (first.seq, first.mss, first.wscale, first.sackok)
    assert again.ts is not None
    assert first.ts is not None
    assert again.ts[0] - first.ts[0] in (1000, 1010)


def test_syn_acks_are_repeated_at_1_3_7_15_31_s():
    p = syn_received()
    assert times(p, 70, 10 * MS) == [pytest.approx(t, abs=0.02) for t in (1, 3, 7, 15, 31)]
    assert p.host.count == 1            # the listener


@pytest.mark.parametrize("make", [fin_wait_1, closing, last_ack])
def test_a_fin_that_nobody_acknowledges_is_repeated_then_given_up(make):
    p = make()
    p.conn.close()
    fins = [s for _, s in instants(p, 400, 50 * MS)]
    assert len(fins) == 8
    assert all("F" in s.flags and (s.seq - p.ours) & MASK == 1 for s in fins)
    assert p.host.count == 1


def test_time_wait_lasts_a_minute():
    p = time_wait()
    p.conn.close()
    p.after(59.9)
    assert p.host.count == 2
    p.after(0.2)
    assert p.host.count == 1
    p.send("A", 2, 2)
    p.recv("R", seq=2)                  # the listener knows nothing of it


def test_a_keepalive_is_an_empty_segment_below_the_window():
    p = established(keepalive=1, keepidle=10, keepintvl=3, keepcnt=4)
    out = instants(p, 30, 10 * MS)
    probes = [(round(at), (s.seq - p.ours) & MASK, s.data, s.flags) for at, s in out]
    assert probes[:4] == [(10, 0, b"", "A"), (13, 0, b"", "A"), (16, 0, b"", "A"), (19, 0, b"", "A")]
    assert [(round(at), "R" in s.flags) for at, s in out[4:]] == [(22, True)]
    assert p.conn.recv() == -errno.ETIMEDOUT


def test_an_answered_keepalive_begins_anew():
    p = established(keepalive=1, keepidle=10, keepintvl=3, keepcnt=2)
    for _ in range(5):
        [(at, _)] = instants(p, 11, 10 * MS)
        assert at == pytest.approx(10, abs=0.02)
        p.host.advance(0)
        p.send("A", 1, 1)
    assert p.conn.state == "ESTABLISHED"


def test_data_of_the_peer_puts_the_keepalive_off():
    p = established(keepalive=1, keepidle=10, keepintvl=3, keepcnt=2)
    p.after(7)
    p.send("A", 1, 1, b"x")
    p.after(0.05)
    p.recv("A", ack=2)
    out = times(p, 9.9, 10 * MS)
    assert out == []
    assert len(times(p, 0.2, 10 * MS)) == 1


def test_data_in_flight_is_watched_by_its_own_timer():
    """RFC 9293 3.8.4: keep-alives only when nothing is outstanding."""
    p = established(keepalive=1, keepidle=1, keepintvl=1, keepcnt=1)
    p.conn.send(b"x")
    p.recv("A", data=b"x")
    assert all(s.data == b"x" for _, s in instants(p, 20, 10 * MS))
    assert p.conn.state == "ESTABLISHED"


# --- RFC 9293 3.8.6.1: closed windows -----------------------------------------------------------------------------
def shut(**options: int) -> Peer:
    """A byte waits at a closed window."""
    p = established(nodelay=1, **options)
    p.send("A", 1, 1, window=0)
    p.conn.send(b"waiting")
    p.recv_nothing()
    return p


def test_probes_double_from_the_time_out_to_a_minute():
    p = shut()
    at = []
    begin = p.host.now
    while len(at) < 14:
        p.host.run(p.host.deadline)
        p.fetch()
        for s in p.inbox:
            assert (s.seq - p.ours) & MASK == 0
            assert s.data == b""
            at.append((p.host.now - begin) / S)
        if p.inbox:
            p.inbox = []
            p.send("A", 1, 1, window=0)
    gaps = [b - a for a, b in zip([0.0, *at], at, strict=False)]
    assert gaps[0] == pytest.approx(0.2, abs=0.05)
    for a, b in itertools.pairwise(gaps):
        assert b == pytest.approx(min(2 * a, 60), abs=0.1)
    assert gaps[-1] == pytest.approx(60, abs=0.1)


def test_a_window_that_opens_in_answer_to_a_probe_lets_all_out_at_once():
    p = shut()
    p.after(0.3)
    p.recv("A", seq=0, data=b"")
    p.send("A", 1, 1, window=1000)
    p.recv("A", seq=1, data=b"waiting")


def test_a_window_that_opens_unasked_does_as_well_and_ends_the_probes():
    p = shut()
    p.send("A", 1, 1, window=1000)
    p.recv("A", seq=1, data=b"waiting")
    p.send("A", 1, 8, window=1000)
    p.after(100)
    p.recv_nothing()


def test_a_fin_behind_a_closed_window_waits_with_its_data():
    p = shut()
    p.conn.shutdown(1)
    p.recv_nothing()
    p.send("A", 1, 1, window=1000)
    p.recv("FA", seq=1, data=b"waiting")


def test_what_was_in_flight_when_the_window_closed_is_sent_again_all_the_same():
    """RFC 9293 3.8.6: SHLD-15."""
    p = established(nodelay=1)
    p.conn.send(FULL * 3)
    assert len(p.recv_all()) == 3
    p.send("A", 1, 1461, window=0)
    out = instants(p, 3, 5 * MS)
    assert out
    assert {(s.seq - p.ours) & MASK for _, s in out} == {1461}


def test_a_probe_is_answered_by_where_we_are():
    p = established(rcvbuf=4096)
    p.send("A", 1, 1, b"d" * 4096)
    while p.recv_all()[-1].window:
        p.send("A", 4097, 1, b"d" * 512)
    nxt = (p.conn.block()["rcv_nxt"] - p.iss) & MASK
    for data in (b"", b"?"):
        p.send("A", nxt - 1, 1, data)
        p.recv("A", seq=1, ack=nxt, data=b"", window=0)


# --- options where they do not belong -----------------------------------------------------------------------------
def test_an_mss_option_counts_in_a_syn_only():
    p = established(nodelay=1)
    p.send("A", 1, 1, options=options_bytes(mss=100))
    p.conn.send(FULL)
    p.recv("A", length=1460)


def test_a_window_scale_counts_in_a_syn_only():
    p = established(nodelay=1, wscale=2)
    p.send("A", 1, 1, window=1000, options=options_bytes(wscale=10))
    assert p.conn.info()["snd_wnd"] == 4000


def test_sack_blocks_where_sack_was_not_agreed_mean_nothing():
    p = established(sack=False, nodelay=1)
    p.conn.send(FULL * 5)
    p.recv_all()
    for _ in range(2):
        p.send("A", 1, 1, sack=[(1461, 7301)])
    p.recv_all()
    p.after(0.3)
    assert [len(s.data) for s in p.recv_all()] == [1460]


def test_timestamps_where_none_were_agreed_mean_nothing():
    p = established()
    for value in (1000, 1, 5):
        p.send("A", 1, 1, options=options_bytes(ts=(value, 0)))
    p.recv_nothing()
    p.send("A", 1, 1, b"abc", options=options_bytes(ts=(0, 0)))
    assert p.conn.recv() == b"abc"


def test_a_segment_size_that_the_link_cannot_take_is_cut_down():
    p = established(mss=65535, nodelay=1)
    p.conn.send(b"x" * 3000)
    assert [len(s.data) for s in p.recv_all()] == [1460, 1460, 80]


def test_timestamps_take_twelve_bytes_of_each_segment():
    p = established(mss=1460, ts=100, nodelay=1)
    p.conn.send(b"x" * 3000)
    assert [len(s.data) for s in p.recv_all()] == [1448, 1448, 104]


# --- RFC 7323 -----------------------------------------------------------------------------------------------------
def test_the_echo_while_a_gap_is_open_and_when_it_is_filled():
    """4.3 (B), (C): the segment that last moved the left edge; then that of the segment which filled the gap."""
    p = established(ts=100)
    p.send("A", 1, 1, b"a" * 1000, tsval=101)
    p.after(0.05)
    assert p.recv("A", ack=1001).ts[1] == 101
    p.send("A", 2001, 1, b"c" * 1000, tsval=103)
    assert p.recv("A", ack=1001).ts[1] == 101
    p.send("A", 1001, 1, b"b" * 1000, tsval=102)
    assert p.recv("A", ack=3001).ts[1] == 102


def test_the_echo_of_two_segments_with_one_ack_is_the_earlier():
    """4.3 (A)."""
    p = established(ts=100)
    p.send("A", 1, 1, b"a" * 100, tsval=101)
    p.send("A", 101, 1, b"b" * 100, tsval=105)
    p.after(0.05)
    assert p.recv("A", ack=201).ts[1] == 101


def test_our_clock_ticks_a_thousand_times_a_second():
    """5.4: between a millisecond and a second."""
    p = established(ts=100)
    seen = []
    for i in range(3):
        p.send("A", 1 + i, 1, b"x")
        p.after(0.5)
        seen.append(p.recv("A").ts[0])
    assert [(b - a) & MASK for a, b in itertools.pairwise(seen)] == [500, 500]


@pytest.mark.parametrize(("age", "taken"), [
    (1, True), (0, True), (-1, False), (-(1 << 31) + 2, False), ((1 << 31) - 1, True),
])
def test_what_is_older_is_by_half_of_the_numbers(age: int, taken: bool):
    p = established(ts=0x7FFFFFF0)
    p.send("A", 1, 1, b"x", tsval=(0x7FFFFFF0 + age) & MASK)
    assert (p.conn.recv() == b"x") is taken


def test_a_segment_that_paws_drops_is_told_where_we_are():
    p = established(ts=100)
    p.send("A", 1, 1, b"x", tsval=99)
    s = p.recv("A", seq=1, ack=1)
    assert s.ts[1] == 100
    p.send("FA", 1, 1, tsval=99)
    p.recv("A", ack=1)
    assert p.conn.state == "ESTABLISHED"


# --- RFC 2018 and 2883 --------------------------------------------------------------------------------------------
def test_the_duplicate_part_alone_is_reported():
    """RFC 2883 4.2.1: partly old."""
    p = established(sack=True)
    p.send("A", 1, 1, b"a" * 1000)
    p.after(0.1)
    p.recv_all()
    p.send("A", 501, 1, b"a" * 1000)
    p.recv("A", ack=1501, sack=[(501, 1001)])


def test_a_duplicate_of_what_waits_is_followed_by_the_block_that_holds_it():
    """RFC 2883 4.1.2, 4.1.3."""
    p = established(sack=True)
    p.send("A", 1001, 1, b"b" * 1000)
    p.send("A", 2001, 1, b"c" * 1000)
    p.recv_all()
    p.send("A", 2001, 1, b"c" * 1000)
    p.recv("A", ack=1, sack=[(2001, 3001), (1001, 3001)])
    p.send("A", 4001, 1, b"e" * 1000)
    p.recv("A", ack=1, sack=[(4001, 5001), (1001, 3001)])           # it is reported once


def test_blocks_that_touch_are_one():
    p = established(sack=True)
    p.send("A", 1001, 1, b"b" * 1000)
    p.send("A", 3001, 1, b"d" * 1000)
    p.recv_all()
    p.send("A", 2001, 1, b"c" * 1000)
    p.recv("A", ack=1, sack=[(1001, 4001)])


def test_data_of_ours_tells_of_what_waits_as_well():
    """RFC 2018 4: all ACKs that do not acknowledge the highest number SHOULD have the option."""
    p = established(sack=True, nodelay=1)
    p.send("A", 1001, 1, b"b" * 1000)
    p.recv("A", ack=1, sack=[(1001, 2001)])
    p.conn.send(b"ours")
    p.recv("A", ack=1, data=b"ours", sack=[(1001, 2001)])
    p.conn.send(FULL)
    s = p.recv("A", ack=1)
    assert 20 + 20 + (12 if s.sack else 0) + len(s.data) <= 1500


def test_without_sack_there_are_no_blocks():
    p = established(sack=False)
    p.send("A", 1001, 1, b"b" * 1000)
    p.recv("A", ack=1, sack=[])
    p.send("A", 1001, 1, b"b" * 1000)
    p.recv("A", ack=1, sack=[])


# --- RFC 5681, 3042 -----------------------------------------------------------------------------------------------
def test_each_of_the_first_two_duplicates_lets_out_one_new_segment():
    p = established(nodelay=1)
    p.conn.send(FULL * 20)
    assert len(p.recv_all()) == 10
    for k in range(2):
        p.send("A", 1, 1)
        [s] = p.recv_all()
        assert (s.seq - p.ours) & MASK == 1 + 1460 * (10 + k)
    p.send("A", 1, 1)
    assert (p.recv_all()[0].seq - p.ours) & MASK == 1


def test_limited_transmit_obeys_the_peers_window():
    p = established(nodelay=1, window=14600)
    p.conn.send(FULL * 20)
    assert len(p.recv_all()) == 10
    p.send("A", 1, 1)
    p.send("A", 1, 1)
    p.recv_nothing()


def test_a_fin_that_is_lost_with_its_data_is_recovered_with_it():
    p = established(sack=True, nodelay=1)
    p.conn.send(FULL * 5 + b"end")
    p.conn.shutdown(1)
    p.recv_all()
    p.send("A", 1, 1, sack=[(1461, 7305)])              # all but the first, the FIN included
    p.after(0.05)
    [s] = [s for s in p.recv_all() if s.data]
    assert (s.seq - p.ours) & MASK == 1
    assert s.data == FULL
    p.send("A", 1, 7305)
    assert p.conn.state == "FIN-WAIT-2"


# --- what is said in each state -----------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [fin_wait_1, fin_wait_2])
def test_half_closed_text_is_acknowledged_with_the_number_after_our_fin(make):
    p = make()
    p.send("A", 1, 2, b"late")
    p.after(0.1)
    p.recv("A", seq=2, ack=5)
    assert p.conn.recv() == b"late"


def test_close_wait_sends_and_its_fin_comes_last():
    p = close_wait(nodelay=1)
    p.conn.send(b"more")
    p.recv("A", seq=1, ack=2, data=b"more")
    p.conn.shutdown(1)
    p.recv("FA", seq=5, ack=2)
    assert p.conn.state == "LAST-ACK"
    p.send("A", 2, 5)
    assert p.conn.state == "LAST-ACK"
    p.send("A", 2, 6)
    assert p.conn.state == "CLOSED"


def test_a_half_acknowledged_flight_in_fin_wait_1_stays_there():
    p = established(nodelay=1)
    p.conn.send(b"abcdef")
    p.conn.shutdown(1)
    p.recv_all()
    p.send("A", 1, 4)
    assert p.conn.state == "FIN-WAIT-1"
    p.send("A", 1, 7)
    assert p.conn.state == "FIN-WAIT-1"
    p.send("A", 1, 8)
    assert p.conn.state == "FIN-WAIT-2"


def test_a_fin_and_the_ack_of_ours_in_one_lead_to_time_wait():
    p = fin_wait_1()
    p.send("FA", 1, 2)
    p.recv("A", seq=2, ack=2)
    assert p.conn.state == "TIME-WAIT"


def test_syn_received_answers_what_lies_outside_the_window():
    """RFC 9293 3.10.7.4, first: <SEQ=SND.NXT><ACK=RCV.NXT>, and drops it."""
    p = syn_received()
    p.send("A", 200_000, 1, b"x")
    p.recv("A", seq=1, ack=1)
    p.send("A", 1, 1)
    assert p.conn.accept() is not None


def test_text_before_the_handshake_ends_is_taken_with_its_ack_only():
    p = syn_received()
    p.send("P", 1, None, b"early")
    p.recv_nothing()
    p.send("PA", 1, 1, b"early")
    conn = p.conn.accept()
    assert conn.recv() == b"early"


def test_resets_of_ours_are_numbered_by_the_segment_that_they_answer():
    """3.10.7.1: the length counts SYN, FIN and text."""
    p = Peer(Host(US, seed=1), None)
    p.send("SF", 5, None, b"abc")
    p.recv("RA", seq=-p.ours, ack=10)
    p.send("A", 5, 77, b"abc")
    s = p.take()
    assert (s.flags, s.seq, s.data) == ("R", 77, b"")


def test_a_listener_answers_an_ack_with_its_number():
    p = listening()
    p.send("A", 9, 4711)
    s = p.take()
    assert (s.flags, s.seq) == ("R", 4711)
    assert s.ts is None


def test_a_reset_of_nobodys_segment_travels_as_the_segment_did():
    """In the class of service of what it answers, as in Linux; the two bits of ECN are not answered."""
    host = Host(US, seed=1)
    packet = build(bits("S"), 1, 0)
    head = packet[:1] + b"\xbb" + packet[2:10] + b"\0\0" + packet[12:20]
    host.input(head[:10] + struct.pack("!H", checksum(head)) + packet[12:])
    ((answer, _gso, _csum),) = host.drain()
    assert parse(answer).flags == "RA"
    assert answer[1] == 0xB8


@pytest.mark.parametrize("state", sorted(set(STATES) - {"LISTEN", "SYN-SENT", "SYN-RECEIVED"}))
def test_a_syn_is_answered_with_the_numbers_of_the_connection(state: str):
    """RFC 5961 4.2: <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>, and nothing else happens."""
    p = STATES[state]()
    b = p.conn.block()
    p.send("S", -5 if state == "TIME-WAIT" else 77_000, None)       # a newer one would open it again
    s = p.take()
    assert (s.flags, s.seq, s.ack) == ("A", b["snd_nxt"], b["rcv_nxt"])
    assert p.conn.state == state


def test_what_we_send_may_not_be_cut_and_lives_for_64_hops():
    p = Peer(Host(US, seed=1), None)
    p.host.socket().connect(0x0A000002, 80)
    [(packet, _, _)] = p.host.drain()
    assert packet[6] & 0x40
    assert packet[4:6] == b"\0\0"                       # RFC 6864 4.1: an atomic datagram needs no identification
    assert packet[8] == 64


def test_idle_time_shrinks_the_window_but_not_below_the_first():
    p = established(nodelay=1)
    p.conn.send(FULL * 10)
    p.recv_all()
    p.send("A", 1, 14601)
    p.after(30)
    p.conn.send(FULL * 30)
    assert len(p.recv_all()) == 10


def test_unread_text_is_counted_by_the_window():
    p = connected(rcvbuf=65536)
    first = p.conn.info()["rcv_wnd"]
    p.send("A", 1, 1, b"x" * 1000)
    s = p.take()
    assert p.conn.info()["rcv_wnd"] <= first
    assert (s.window << p.conn.info()["rcv_wscale"]) <= 65536


# --- options of the socket, as Linux bounds them ------------------------------------------------------------------
def test_the_two_bits_of_ecn_are_not_the_users():
    """RFC 3168 5: without ECN nothing may be marked as capable of it."""
    p = established(tos=0xFF, nodelay=1)
    p.conn.send(b"x")
    [(packet, _, _)] = p.host.drain()
    assert packet[1] == 0xFC


def test_a_ttl_of_minus_one_is_the_default():
    p = established(nodelay=1)
    assert p.conn.set("ttl", 9) == 0
    assert p.conn.set("ttl", -1) == 0
    p.conn.send(b"x")
    assert p.recv("A").ttl == 64
    for bad in (0, -2, 256):
        assert p.conn.set("ttl", bad) == -errno.EINVAL


@pytest.mark.parametrize(("asked", "seconds"), [(5, 5), (90, 90), (500, 120), (0, 60)])
def test_linger2_is_two_minutes_at_most(asked: int, seconds: int):
    p = fin_wait_2(linger2=asked)
    p.conn.close()
    p.after(seconds - 0.5)
    assert p.host.count == 2
    p.after(1)
    assert p.host.count == 1


def test_what_is_not_connected_has_no_other_end_to_send_to():
    """EPIPE in Linux; receiving is ENOTCONN."""
    host = Host(US, seed=1)
    for conn in (host.socket(), listening(host=host).conn):
        assert conn.send(b"x") == -errno.EPIPE
        assert conn.recv() == -errno.ENOTCONN
