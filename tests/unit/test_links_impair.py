"""Impaired wires: every fate by itself, the same seed the same fates, super-segments cut before the dice are rolled."""

import os
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether

import ustack
from ustack._core.py.links import pair
from ustack._core.py.pipe import Pipe
from ustack._core.py.probe_links import Harness
from ustack._core.py.wrappers import Impair

MS = 1_000_000
SUPER = {"csum": 2, "csum_start": 20, "csum_offset": 16, "gso_type": 1, "gso_size": 1000, "hdr_len": 40}


def datagram(i, n=100):
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=i) / UDP(sport=1, dport=2) / bytes([i % 256] * n))


def send(packets, **options):
    """Everything that comes out of a wire, as (time, packet), however long it takes, and the fates."""
    pipe = Pipe(queue=100_000)
    wire = Impair(pipe, **options)
    with Harness(wire) as stack:
        for i in range(0, len(packets), 50):
            assert stack.tx(packets[i : i + 50], now=i) == len(packets[i : i + 50])
        out = pipe.drain()
        while stack.deadline is not None:
            now = stack.deadline
            stack.rx(now=now)
            out += [(now, p) for _, p in pipe.drain()]
        fates = wire.fates["tx"]
        assert stack.live == 0
    return out, fates


PACKETS = [datagram(i) for i in range(200)]


def test_a_perfect_wire_changes_nothing():
    out, fates = send(PACKETS)
    assert [p for _, p in out] == PACKETS
    assert fates["passed"] == 200
    pipe = Pipe()
    with Harness(Impair(pipe)) as stack:
        assert pipe.inject_many(PACKETS[:20]) == 20  # attached through the wrapper
        assert stack.notified == 1
        assert [p["data"] for p in stack.rx()] == PACKETS[:20]


def test_loss():
    out, fates = send(PACKETS, loss=0.3, seed=1)
    assert fates["lost"] == 200 - len(out)
    assert 30 < fates["lost"] < 90
    assert send(PACKETS, loss=1)[0] == []


def test_duplication():
    out, fates = send(PACKETS, duplicate=0.5, seed=2)
    assert len(out) == 200 + fates["duplicated"]
    assert 60 < fates["duplicated"] < 140
    assert sorted({p for _, p in out}, key=PACKETS.index) == PACKETS


def test_corruption_flips_one_bit_and_is_not_vouched_for():
    out, fates = send(PACKETS, corrupt=1, seed=3)
    assert fates["corrupted"] == 200
    where = set()
    for before, (_, after) in zip(PACKETS, out, strict=True):
        difference = int.from_bytes(before, "big") ^ int.from_bytes(after, "big")
        assert difference.bit_count() == 1
        where.add(len(before) - 1 - (difference.bit_length() - 1) // 8)
    assert min(where) < 28 < max(where)  # headers and payload
    pipe = Pipe(offloads=["csum"])
    with Harness(Impair(pipe, rx={"corrupt": 1})) as stack:
        pipe.inject(struct.pack("=BBHHHH", 2, 0, 0, 0, 0, 0) + PACKETS[0])
        assert stack.rx()[0]["csum"] == 0


def test_partial_checksums_are_completed_before_they_are_spoilt():
    whole = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / (b"\x5a" * 64))
    words = struct.unpack(">4H", whole[12:20])
    pseudo = sum(words) + 17 + len(whole) - 20
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    partial = whole[:26] + pseudo.to_bytes(2, "big") + whole[28:]
    a, b = pair()
    with Harness(Impair(a, corrupt=1)) as left, Harness(b) as right:
        left.tx([partial], csum=2, csum_start=20, csum_offset=6)
        [got] = right.rx()
        difference = int.from_bytes(whole, "big") ^ int.from_bytes(got["data"], "big")
        assert difference.bit_count() == 1
        assert got["csum"] == 0


def test_arp_is_spared():
    frame = bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.0.0.1"))
    pipe = Pipe(layer=2)
    with Harness(Impair(pipe, corrupt=1)) as stack:
        stack.tx([frame])
        assert pipe.drain() == [(0, frame)]


def test_reordering_delays_some_and_loses_none():
    out, fates = send(PACKETS, reorder=0.2, reorder_delay=0.005, seed=4)
    assert fates["reordered"] > 20
    got = [p for _, p in out]
    assert got != PACKETS
    assert sorted(got) == sorted(PACKETS)
    late = [t for t, _ in out if t >= 5 * MS]
    assert len(late) == fates["reordered"]


def test_delay_and_jitter_keep_the_order():
    out, _ = send(PACKETS, delay=0.02)
    assert [(t, p) for t, p in out] == [(20 * MS + i // 50 * 50, p) for i, p in enumerate(PACKETS)]
    out, _ = send(PACKETS, delay=0.02, jitter=0.01, seed=5)
    assert [p for _, p in out] == PACKETS
    assert min(t for t, _ in out) >= 20 * MS
    assert max(t for t, _ in out) <= 30 * MS + 200
    assert len({t for t, _ in out}) > 1


def test_rate_spaces_packets():
    out, _ = send(PACKETS[:10], rate=8_000_000)  # a byte each microsecond
    assert [t for t, _ in out] == [len(PACKETS[0]) * 1000 * (i + 1) for i in range(10)]


def test_a_full_wire_drops():
    out, fates = send(PACKETS[:50], delay=0.1, limit=20)
    assert (len(out), fates["overflow"]) == (20, 30)


def test_a_smaller_mtu_swallows():
    out, fates = send([datagram(0, 500), datagram(1, 1400)], mtu=576)
    assert [len(p) for _, p in out] == [528]
    assert fates["too_big"] == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), mix=st.fixed_dictionaries({
    "loss": st.floats(0, 0.3), "duplicate": st.floats(0, 0.3), "corrupt": st.floats(0, 0.3),
    "reorder": st.floats(0, 0.3), "delay": st.floats(0, 0.1), "jitter": st.floats(0, 0.1),
}))
def test_the_same_seed_gives_the_same_fates(seed, mix):
    assert send(PACKETS[:60], seed=seed, **mix) == send(PACKETS[:60], seed=seed, **mix)


def test_other_seeds_and_directions_give_other_fates():
    fates = {tuple(p for _, p in send(PACKETS, loss=0.5, seed=s)[0]) for s in range(10)}
    assert len(fates) == 10
    a, b = pair()
    with Harness(Impair(a, loss=0.5, seed=1)) as left, Harness(b) as right:
        for i in range(0, 100, 50):
            left.tx(PACKETS[i : i + 50])
            right.tx(PACKETS[i : i + 50])
        there = [p["data"] for p in right.rx() + right.rx()]
        back = [p["data"] for p in left.rx() + left.rx()]
        assert there != back


def test_directions_are_set_apart():
    a, b = pair()
    wire = Impair(a, tx={"loss": 1}, rx={"duplicate": 1})
    with Harness(wire) as left, Harness(b) as right:
        left.tx(PACKETS[:5])
        right.tx(PACKETS[:5])
        assert right.rx() == []
        assert len(left.rx()) == 10
        assert (wire.fates["tx"]["lost"], wire.fates["rx"]["duplicated"]) == (5, 5)


class TestSuperSegments:
    SEGMENT = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2, seq=7) / os.urandom(10_500))

    def test_are_cut_before_the_dice_are_rolled(self):
        a, b = pair(mtu=1500)
        wire = Impair(a, loss=0.4, seed=9)
        assert wire.gso_max == 65535
        with Harness(wire) as left, Harness(b) as right:
            left.tx([self.SEGMENT] * 3, **SUPER)
            got = right.rx()
            lost = wire.fates["tx"]["lost"]
            assert 0 < lost < 33
            assert len(got) == 33 - lost
            assert all(len(p["data"]) <= 1040 and p["gso_size"] == 0 for p in got)
            assert left.live == 0

    def test_come_out_complete_where_the_wire_is_perfect(self):
        a, b = pair(mtu=1500)
        with Harness(Impair(a)) as left, Harness(b) as right:
            left.tx([[self.SEGMENT[:40], self.SEGMENT[40:]]], **SUPER)
            got = [IP(p["data"]) for p in right.rx()]
            assert b"".join(bytes(p[TCP].payload) for p in got) == self.SEGMENT[40:]
            assert [p[TCP].seq for p in got] == [7 + 1000 * i for i in range(11)]

    def test_that_are_received_are_cut_too(self):
        pipe = Pipe(offloads=True)
        with Harness(Impair(pipe, rx={"duplicate": 1})) as stack:
            pipe.inject(struct.pack("=BBHHHH", 1, 1, 40, 1000, 20, 16) + self.SEGMENT)
            assert len(stack.rx()) == 22

    def test_with_impossible_facts_are_dropped(self):
        a, b = pair(mtu=1500)
        wire = Impair(a)
        with Harness(wire) as left, Harness(b) as right:
            left.tx([b"\xff" * 5000], **SUPER)
            assert right.rx() == []
            assert wire.fates["tx"]["bad"] == 1
            assert left.live == 0


def test_a_busy_device_is_tried_again():
    a, b = pair(queue=4)
    wire = Impair(a, delay=0.001)
    with Harness(wire) as left, Harness(b) as right:
        left.tx(PACKETS[:10])
        left.rx(now=MS)
        assert left.tx(PACKETS[10:11], now=MS) == 0
        assert wire.fates["tx"]["waiting"] == 6
        got = right.rx()
        while left.deadline is not None:
            left.rx(now=left.deadline)
            got += right.rx()
        assert [p["data"] for p in got] == PACKETS[:10]


def test_a_closed_peer_is_seen_through_the_wrapper():
    a, b = pair()
    with Harness(Impair(a)) as left:
        b.close()
        with pytest.raises(OSError, match="down"):
            left.rx()
        left.tx(PACKETS[:1])  # the wire took it before it was known
        left.tx(PACKETS[:1])
        assert left.live == 0


def test_what_is_on_the_wire_at_the_end_is_freed():
    wire = Impair(Pipe(), delay=1)
    stack = Harness(wire)
    stack.tx(PACKETS[:30])
    assert stack.close() == 0
    assert wire.state == "closed"
    assert wire.inner.state == "closed"
    assert wire.fates == {"tx": {}, "rx": {}}


def test_wrappers_nest_and_take_the_link_over():
    pipe = Pipe()
    inner = Impair(pipe, delay=0.001)
    outer = Impair(inner, delay=0.002)
    with pytest.raises(ValueError, match="in use by a Impair"):
        pipe.close()
    with pytest.raises(ValueError, match="in use"):
        Impair(pipe)
    with Harness(outer) as stack:
        stack.tx(PACKETS[:1])
        while stack.deadline is not None:
            now = stack.deadline
            stack.rx(now=now)
        assert pipe.drain() == [(now, PACKETS[0])]
        assert now == 3 * MS
    assert pipe.state == "closed"


@pytest.mark.parametrize(
    "bad", [{"loss": 1.5}, {"corrupt": -1}, {"delay": -1}, {"rate": 0}, {"mtu": 10}, {"limit": 0}, {"tx": {"loss": 2}}]
)
def test_wrong_arguments(bad):
    with pytest.raises(ValueError, match=r".{15}"):
        Impair(Pipe(), **bad)


def test_unknown_arguments():
    with pytest.raises(TypeError, match="no impairment"):
        Impair(Pipe(), lose=1)


def test_tcp_survives_a_bad_wire():
    a, b = pair(mtu=1500)
    data = os.urandom(300_000)
    wire = Impair(a, seed=11, loss=0.02, duplicate=0.02, corrupt=0.01, reorder=0.02, delay=0.0005)
    with ustack.Stack() as left, ustack.Stack() as right:
        left.add_interface(wire, addresses=["10.9.0.1/24"])
        right.add_interface(b, addresses=["10.9.0.2/24"])
        got = bytearray()
        server = right.create_server(("10.9.0.2", 80))

        def receive():
            s, _ = server.accept()
            with s:
                while piece := s.recv(65536):
                    got.extend(piece)

        receiver = threading.Thread(target=receive, daemon=True)
        receiver.start()
        with left.create_connection(("10.9.0.2", 80), timeout=30) as s:
            s.sendall(data)
            s.shutdown(1)
            assert s.recv(1) == b""
        receiver.join(30)
        server.close()
        assert bytes(got) == data
        assert wire.fates["tx"]["lost"] > 0
