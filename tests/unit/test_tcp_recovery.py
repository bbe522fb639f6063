"""Loss recovery packet by packet: what is sent when. RACK-TLP, PRR, F-RTO, undo (RFC 8985, 9937, 5682, 3522, 3708)."""

from __future__ import annotations

import pytest
from tcp_script import MASK, US, syn_received

from ustack._core.py.probe_tcp import Host

M = 1460
RTT = 0.1
OPEN, DISORDER, RECOVERY, LOSS = 0, 1, 3, 4


def at(*segments: int) -> list[tuple[int, int]]:
    """SACK blocks that hold the segments with these indices, neighbours as one."""
    out: list[tuple[int, int]] = []
    for i in sorted(segments):
        start, end = 1 + i * M, 1 + (i + 1) * M
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out[::-1][:4]


class Path:
    """A connection over a path of 100 ms that a scripted peer opened, with segments in flight; reno unless said."""

    def __init__(
        self, data: int = 0, *, sack: bool = True, ts: int | None = None, congestion: str = "reno",
        host: Host | None = None, rtt: float = RTT, window: int = 65535,
    ):
        p = syn_received(sack=sack, ts=ts, congestion=congestion, host=host, window=window)
        p.after(rtt)
        p.send("A", 1, 1)
        conn = p.conn.accept()
        assert conn is not None
        p.listener, p.conn = p.conn, conn
        self.p = p
        self.m = M if ts is None else M - 12
        if data:
            p.conn.send(bytes(data * self.m))

    def sent(self) -> list[int]:
        """Indices of the segments that were sent since the last time; data of full segments only."""
        segments = [s for s in self.p.recv_all() if s.data]
        for s in segments:
            self.p.tsecr = s.ts[0] if s.ts is not None else 0
        return [((s.seq - self.p.ours) & MASK) // self.m for s in segments]

    def ack(self, segments: int, *held: int) -> list[int]:
        """An ACK for the first so many segments, the peer holding others; what is sent on it."""
        self.p.send("A", 1, 1 + segments * self.m,
                    sack=[(1 + (a - 1) // M * self.m, 1 + (b - 1) // M * self.m) for a, b in at(*held)])
        return self.sent()

    def duplicate(self, segments: int, start: int, end: int, *held: int) -> list[int]:
        """The same, and a report that segments start to end - 1 came twice."""
        blocks = [(1 + start * self.m, 1 + end * self.m),
                  *((1 + (a - 1) // M * self.m, 1 + (b - 1) // M * self.m) for a, b in at(*held))]
        self.p.send("A", 1, 1 + segments * self.m, sack=blocks[:4])
        return self.sent()

    def after(self, seconds: float) -> list[int]:
        self.p.after(seconds)
        return self.sent()

    @property
    def state(self) -> int:
        return self.p.conn.info()["ca_state"]

    @property
    def cwnd(self) -> float:
        return self.p.conn.info()["cwnd"] / self.m

    @property
    def ssthresh(self) -> float:
        return self.p.conn.info()["ssthresh"] / self.m

    def counter(self, name: str) -> int:
        return self.p.counter(name)


def ten(data: int = 10, **options: object) -> Path:
    """The first ten segments in flight for one round trip: their ACKs are due now."""
    w = Path(data, **options)       # type: ignore[arg-type]
    assert w.sent() == list(range(min(data, 10)))
    w.p.after(RTT)
    return w


# --- RACK ---------------------------------------------------------------------------------------------------------
def test_a_single_gap_waits_a_quarter_of_the_round_trip():
    w = ten()
    assert w.ack(0, 1) == []
    assert w.state == DISORDER
    assert w.after(0.024) == []
    assert w.after(0.002) == [0]
    assert w.state == RECOVERY
    assert w.counter("fast_retransmit") == 1


def test_a_gap_that_closes_meanwhile_is_reordering_and_no_loss():
    w = ten()
    w.ack(0, 1)
    w.after(0.02)
    assert w.ack(2) == []
    assert w.state == OPEN
    assert w.counter("rack_reorder") == 1
    assert w.after(0.1) == []
    assert w.counter("fast_retransmit") == 0


def test_three_segments_above_a_gap_prove_the_loss_at_once():
    w = ten()
    assert w.ack(0, 1) == []
    assert w.ack(0, 1, 2) == []
    assert w.ack(0, 1, 2, 3) == [0]


def test_every_gap_below_what_was_delivered_is_lost_then():
    """With the threshold reached RACK does not wait at all: one segment above a gap is enough."""
    w = ten()
    w.ack(0, 1)
    w.ack(0, 1, 2)
    w.ack(0, 1, 2, 3, 5)
    assert w.p.conn.info()["lost"] + w.p.conn.info()["retrans"] == 2 * M


def test_where_the_network_reorders_the_threshold_does_not_count():
    w = ten(20)
    w.ack(0, 1)
    w.ack(2)                                    # segment 0 was late: this network reorders
    w.after(RTT)
    assert w.ack(2, 3, 4, 5, 6) != []           # new data, as the pipe empties
    assert w.state == DISORDER
    assert 2 not in w.after(0.023)
    assert w.after(0.004) == [2]
    assert w.state == RECOVERY


def test_duplicates_widen_the_window_until_sixteen_recoveries_pass_without():
    w = ten(400, window=65535)
    w.ack(0, 1)
    w.ack(2)
    una = 2
    assert w.p.conn.block()["reo_mult"] == 1
    w.duplicate(una, 0, 1)
    assert w.p.conn.block()["reo_mult"] == 2
    w.duplicate(una, 1, 2)                      # once per round trip
    assert w.p.conn.block()["reo_mult"] == 2
    for i in range(16):
        assert w.p.conn.block()["reo_mult"] == 2, i
        w.after(RTT)
        top = w.p.conn.info()["unacked"] // M + una
        w.ack(una, *range(una + 1, top))
        w.after(0.06)
        assert w.state == RECOVERY
        w.after(RTT)
        una = (w.p.conn.block()["snd_nxt"] - w.p.ours - 1) // M
        w.ack(una)
        assert w.state == OPEN
    assert w.p.conn.block()["reo_mult"] == 1


def test_a_retransmission_that_is_lost_is_sent_again():
    """What was sent after it has been delivered; there is no time-out."""
    w = ten(30)
    w.ack(0, 1)
    w.ack(0, 1, 2)
    assert 0 in w.ack(0, 1, 2, 3)               # sent again, and lost again
    w.after(RTT / 2)
    more = [x for i in range(4, 10) for x in w.ack(0, *range(1, i + 1))]
    assert more                                 # new data, later than the retransmission
    assert 0 not in more
    w.after(RTT)
    again = w.ack(0, *range(1, 10), *more)
    assert again[0] == 0
    assert w.counter("lost_retransmit") == 1
    assert w.counter("rto") == 0


def test_only_the_holes_of_a_super_segment_are_sent_again():
    host = Host(US, caps=1 | 2 | 4)
    w = Path(10, host=host)
    (one,) = w.p.recv_all()
    assert (len(one.data), one.gso) == (10 * M, M)
    w.p.after(RTT)
    w.p.send("A", 1, 1, sack=at(0 + 1, 2, 5, 8))
    # 0, 3, 4, 6 and 7 are lost; ssthresh is 5, and 1 in flight: room for 4
    holes = [((s.seq - w.p.ours) // M, len(s.data) // M) for s in w.p.recv_all()]
    assert holes == [(0, 1), (3, 2), (6, 1)]
    w.p.after(RTT)
    w.p.send("A", 1, 1 + 3 * M, sack=at(5, 8))
    holes = [((s.seq - w.p.ours) // M, len(s.data) // M) for s in w.p.recv_all()]
    assert holes == [(7, 1)]
    assert w.counter("lost_retransmit") == 0


def test_a_burst_is_one_run_and_an_idle_connection_has_none():
    w = ten(12)
    assert w.p.conn.block()["runs"] == 1
    assert w.ack(10) == [10, 11]
    assert w.p.conn.block()["runs"] == 1
    w.after(RTT)
    w.ack(12)
    assert w.p.conn.block()["runs"] == 0
    assert Host.block_size() <= 1300


# --- tail loss probes ---------------------------------------------------------------------------------------------
def test_the_last_segment_is_sent_again_after_two_round_trips():
    w = Path(3)
    w.sent()
    assert w.after(0.199) == []
    assert w.after(0.002) == [2]
    assert w.counter("tlp_probes") == 1
    assert w.state == OPEN
    assert w.after(0.25) == []                  # one probe, then the time-out, counted anew from it
    assert w.after(0.1) == [0]
    assert w.counter("rto") == 1


def test_no_probe_beyond_a_window_that_was_taken_back():
    w = Path(5)
    w.sent()
    w.p.send("A", 1, 1 + M, window=M + 100)
    assert w.after(0.337) == []
    assert w.counter("tlp_probes") == 0
    assert w.after(0.001) == [1]                # the time-out, as if there had been no probe to send
    assert w.counter("rto") == 1


def test_a_probe_of_the_rest_of_a_write():
    w = Path()
    w.p.conn.send(bytes(2 * M + 100))
    w.sent()
    w.p.after(0.201)
    w.p.recv("A", seq=1 + 2 * M, length=100)


def test_a_probe_prefers_new_data_and_asks_neither_window_nor_nagle():
    w = Path(12)
    assert len(w.sent()) == 10
    assert w.after(0.201) == [10]
    assert w.p.conn.info()["total_retrans"] == 0
    w.p.after(0)
    assert w.ack(11) == [11]
    assert w.state == OPEN
    assert w.cwnd >= 10


def test_a_single_segment_is_given_the_time_of_a_delayed_ack():
    w = Path(1)
    w.sent()
    assert w.after(0.299) == []
    assert w.after(0.002) == [0]                # not later than the time-out would be
    assert (w.counter("tlp_probes"), w.counter("rto")) == (1, 0)


def test_the_ack_of_a_probe_uncovers_the_loss_before_it():
    w = Path(4)
    w.sent()
    w.p.after(RTT)
    assert w.ack(1) == []
    assert w.after(0.201) == [3]
    w.p.after(RTT)
    again = w.ack(1, 3)                         # 1 and 2 were sent two round trips before
    assert again[0] == 1
    w.p.after(RTT)
    assert w.ack(2, 3) == [2]
    assert w.counter("rto") == 0


def test_a_loss_that_the_probe_repairs_counts_as_one():
    w = ten(11)
    assert w.ack(9) == [10]
    assert w.after(0.251) == [10]
    w.p.after(RTT)
    before = w.cwnd
    assert w.ack(11) == []
    assert w.cwnd == before
    w.p.conn.send(bytes(3 * M))
    assert w.sent() == [11, 12, 13]
    w.p.after(RTT)
    w.ack(14)
    assert w.counter("tlp_repaired") == 1
    assert w.cwnd < before


@pytest.mark.parametrize("how", ["dsack", "plain"])
def test_a_probe_that_arrives_beside_the_original_costs_nothing(how: str):
    w = ten(2)
    assert w.after(0.101) == [1]
    w.ack(2)
    cwnd = w.cwnd
    if how == "dsack":
        w.duplicate(2, 1, 2)
    else:
        w.ack(2)
    w.p.conn.send(bytes(2 * M))
    w.p.after(RTT)
    w.ack(4)
    assert w.counter("tlp_repaired") == 0
    assert w.cwnd >= cwnd
    assert w.p.conn.block()["reo_mult"] == 1


def test_without_sack_there_are_no_probes():
    w = Path(3, sack=False)
    w.sent()
    assert w.after(0.299) == []
    assert w.after(0.002) == [0]
    assert w.counter("rto") == 1


def test_a_fin_is_probed_with():
    w = Path(2)
    w.sent()
    w.p.conn.shutdown(1)
    w.p.recv("FA", seq=1 + 2 * M)
    w.p.after(0.201)
    w.p.recv("FA", seq=1 + 2 * M, length=0)
    w.p.send("A", 1, 2 + 2 * M)
    assert w.p.conn.state == "FIN-WAIT-2"


def test_new_data_puts_the_probe_off():
    w = Path(2)
    w.sent()
    w.p.after(0.15)
    w.p.conn.send(bytes(M))
    assert w.sent() == [2]
    assert w.after(0.1) == []
    assert w.after(0.05) == [2]                 # at 300 ms: the time-out of the first is the limit


# --- PRR ----------------------------------------------------------------------------------------------------------
def test_window_falls_to_ssthresh_in_proportion():
    """Ten in flight, the first is lost, every later segment is reported: RFC 9937 6.2 worked out by hand."""
    w = ten(40)
    assert w.ack(0, 1) == [10]
    assert w.ack(0, 1, 2) == [11]
    assert w.ack(0, 1, 2, 3) == [0]             # RecoverFS 10, ssthresh 6, in flight 8
    assert w.ssthresh == 6
    counts = [len(w.ack(0, *range(1, i + 1))) for i in range(4, 12)]
    assert counts == [0, 0, 0, 1, 1, 1, 1, 1]   # 0.6 for each, until 6 are in flight; then one for each
    w.after(RTT)
    w.ack(12)
    assert w.state == OPEN
    assert w.cwnd == 6


def test_heavy_loss_is_repaired_by_slow_start():
    """Far below ssthresh a segment more than was delivered goes, while ACKs make progress and show no new loss."""
    w = ten(40)
    assert w.ack(0, 7) == [10]
    assert w.ack(0, 7, 8) == [11]
    assert w.ack(0, 7, 8, 9)[0] == 0            # 0 to 6 are lost
    w.p.after(RTT)
    held = range(7, 12)
    assert w.ack(1, *held) == [1, 2, 3, 4]      # nothing was in flight; 4 delivered, 1 sent, and one more
    w.p.after(RTT)
    assert w.ack(2, *held) == [5, 6]
    assert w.ack(3, *held) == [12, 13]
    assert w.ack(4, *held) == [14]              # ssthresh, 6, is in flight
    assert w.counter("rto") == 0


# --- undo ---------------------------------------------------------------------------------------------------------
def recovering(**options: object) -> Path:
    """Ten in flight, three reported above a gap: the first segment has just been sent again."""
    w = ten(20, **options)
    w.ack(0, 1)
    w.ack(0, 1, 2)
    assert 0 in w.ack(0, 1, 2, 3)
    assert w.state == RECOVERY
    assert w.cwnd < 10
    return w


def test_late_original_is_known_by_its_timestamp_at_the_end():
    w = Path(20, ts=1000)
    first = w.p.take()
    w.sent()
    w.p.after(RTT)
    w.ack(0, 1)
    w.ack(0, 1, 2)
    assert w.ack(0, 1, 2, 3)[0] == 0
    w.p.after(0.01)
    assert first.ts is not None
    w.p.tsecr = first.ts[0]
    w.ack((w.p.conn.block()["snd_nxt"] - w.p.ours - 1) // w.m)
    assert (w.state, w.cwnd) == (OPEN, 10)
    assert w.ssthresh > 1000
    assert (w.counter("undo_full"), w.counter("spurious")) == (1, 1)


def test_late_original_is_known_by_its_timestamp_on_the_way():
    w = Path(20, ts=1000)
    first = w.p.take()
    w.sent()
    w.p.after(RTT)
    w.ack(0, 1)
    w.ack(0, 1, 2)
    assert w.ack(0, 1, 2, 3)[0] == 0
    w.p.after(0.01)
    assert first.ts is not None
    w.p.tsecr = first.ts[0]
    w.ack(4)                                    # segment 0 came after all; nothing else was sent again
    assert (w.state, w.cwnd) == (OPEN, 10)
    assert (w.counter("undo_partial"), w.counter("rack_reorder")) == (1, 0)


def test_a_retransmission_is_no_reason_to_undo():
    w = Path(20, ts=1000)
    w.sent()
    w.p.after(RTT)
    w.ack(0, 1)
    w.ack(0, 1, 2)
    w.ack(0, 1, 2, 3)                           # taken: the echo is that of what was sent last
    w.p.after(RTT)
    w.ack((w.p.conn.block()["snd_nxt"] - w.p.ours - 1) // w.m)
    assert w.state == OPEN
    assert w.counter("spurious") == 0
    assert w.cwnd < 10


def test_reports_of_duplicates_undo_when_every_retransmission_is_among_them():
    w = recovering()
    w.p.after(0.01)
    top = (w.p.conn.block()["snd_nxt"] - w.p.ours - 1) // M
    w.ack(top)
    assert w.cwnd == w.ssthresh < 10
    w.p.after(RTT)
    w.duplicate(top, 0, 1)
    assert w.cwnd >= 10
    assert w.ssthresh > 1000
    assert w.counter("undo_dsack") == 1


def test_a_duplicate_from_before_undoes_nothing():
    w = recovering()
    top = (w.p.conn.block()["snd_nxt"] - w.p.ours - 1) // M
    w.p.after(RTT)
    w.ack(top)
    w.p.send("A", 1, 1 + top * M, sack=[(-999, 1)])
    assert w.counter("spurious") == 0


# --- time-outs ----------------------------------------------------------------------------------------------------
def timed_out(data: int = 12, **options: object) -> Path:
    """Ten in flight, no ACK, the time-out has sent the first again (without SACK no probe comes before it)."""
    w = Path(data, sack=False, **options)       # type: ignore[arg-type]
    assert len(w.sent()) == min(data, 10)
    assert w.after(0.302) == [0]
    assert (w.state, w.cwnd) == (LOSS, 1)
    return w


def test_frto_finds_a_needless_time_out_without_timestamps():
    w = timed_out()
    w.p.after(0.01)
    assert w.ack(1) == [10, 11]                 # new data instead of lost data
    assert w.state == LOSS
    w.ack(2)                                    # sent once, acknowledged: it had only been late
    assert (w.state, w.counter("undo_frto")) == (OPEN, 1)
    assert w.cwnd >= 10
    assert w.ssthresh > 1000
    assert w.p.conn.info()["total_retrans"] == 1


def test_frto_goes_on_as_usual_when_the_loss_was_real():
    w = timed_out()
    w.p.after(RTT)
    assert w.ack(1) == [10, 11]
    w.p.after(RTT)
    assert w.ack(1) == [1]
    assert w.ack(1) == [2]
    assert w.counter("spurious") == 0


def test_frto_needs_new_data():
    w = timed_out(10)
    w.p.after(RTT)
    assert w.ack(1) == [1, 2]


def test_frto_with_sack():
    w = Path(12)
    assert len(w.sent()) == 10
    assert w.after(0.202) == [10]               # the probe
    assert w.after(0.301) == [0]
    assert w.state == LOSS
    w.p.after(0.01)
    w.ack(0, 5)                                 # sent once, and delivered
    assert (w.state, w.counter("undo_frto")) == (DISORDER, 1)
    assert w.cwnd >= 10


def test_needless_time_out_is_known_by_its_timestamp():
    w = Path(12, ts=1000, sack=False)
    first = w.p.take()
    w.sent()
    assert w.after(0.302) == [0]
    assert first.ts is not None
    w.p.tsecr = first.ts[0]
    w.ack(1)
    assert (w.state, w.counter("undo_loss")) == (OPEN, 1)
    assert w.cwnd >= 10


def test_window_is_not_reduced_twice_for_one_loss():
    w = recovering()
    ssthresh = w.ssthresh
    assert w.after(0.5)[-1] == 0                # the time-out in the middle of a recovery
    assert (w.counter("rto"), w.state) == (1, LOSS)
    assert w.ssthresh == ssthresh


def test_what_the_peer_held_and_holds_no_more_is_sent_again():
    w = ten(10)
    w.ack(0, 3, 4, 5)
    assert w.state == RECOVERY
    w.p.after(RTT)
    got = w.ack(3)                              # asks for what it had reported
    assert w.counter("sack_reneged") == 1
    assert got[0] == 3
    for una in range(4, 11):
        w.p.after(RTT)
        w.ack(una)
    assert w.p.conn.info()["unacked"] == 0
    assert w.p.conn.block()["runs"] == 0


def test_path_mtu_cut_in_recovery_resends_smaller_and_keeps_the_window():
    w = recovering()
    before = w.cwnd * M
    w.p.host.icmp(5, (US, 80), (w.p.src[0], w.p.src[1]), w.p.ours + 1, mtu=1000)
    again = w.p.recv_all()
    assert max(len(s.data) for s in again) == 960
    assert (again[0].seq - w.p.ours) & MASK == 1
    assert w.p.conn.info()["cwnd"] >= before - M


def test_totals_in_tcp_info():
    w = recovering()
    info = w.p.conn.info()
    assert (info["sacked"], info["lost"], info["retrans"]) == (3 * M, 0, M)
