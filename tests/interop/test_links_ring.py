"""Packet rings on veths and TAPs: frames both ways, super-frames, lent slots, overruns, devices that go away."""

import ctypes
import errno
import os
import socket
import subprocess
import sys

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from ustack import testbed
from ustack._core.py.devices import PacketRing, Tap
from ustack._core.py.probe_links import Harness

pytestmark = pytest.mark.root

MAC, PEER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
TYPE = 0x88B5  # IEEE 802 local experimental
LENT = 4
MS = 1_000_000


@pytest.fixture
def bed():
    """The kernel's end ``k0`` of a veth in one namespace, ``us0`` for a ring in another."""
    with testbed.Namespace("kernel") as kernel, testbed.Namespace("ours") as ours:
        testbed.veth(kernel, "k0", ours, "us0", mtu=9000)
        kernel.set("k0", address="02:00:00:00:00:02")
        yield kernel, ours


def make(ns, name="us0", **options):
    with ns.entered():
        return PacketRing(name, mac=MAC, **options)


def raw_socket(ns, device="k0", protocol=TYPE):
    s = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    s.bind((device, protocol))
    s.settimeout(5)
    return s


def collect(harness, wanted, receive=None, ethertype=TYPE):
    got = []
    while len(got) < wanted:
        assert harness.wait(), f"only {len(got)} of {wanted} frames came"
        got += [p for p in (receive or harness.rx)() if p["data"][12:14] == ethertype.to_bytes(2, "big")]
    return got


def frame(n, payload=b"\xab", source=PEER, to=MAC):
    return to + source + TYPE.to_bytes(2, "big") + (payload * n)[: n - 14]


@pytest.mark.parametrize("tx", ["sendmmsg", "ring"])
def test_frames_both_ways(bed, tx):
    kernel, ours = bed
    ring = make(ours, tx=tx)
    assert (ring.kind, ring.mtu, ring.mac, ring.name) == ("packet_ring", 9000, MAC, "us0")
    sizes = [60, 511, 512, 1514, 4096, 9014]
    with Harness(ring) as h, raw_socket(kernel) as s:
        for n in sizes:
            s.send(frame(n, bytes(range(251))))
        got = collect(h, len(sizes))
        assert [p["data"] for p in got] == [frame(n, bytes(range(251))) for n in sizes]
        for n in sizes:
            assert h.tx([frame(n, bytes(range(249)))]) == 1
            assert s.recv(65536) == frame(n, bytes(range(249)))
        data = frame(3000)
        calls = ring.stats["tx_calls"]
        h.tx([[data[:14], data[14:15], b"", data[15:2000], data[2000:]]] + [frame(60)] * 9)
        assert [len(s.recv(65536)) for _ in range(10)] == [3000] + [60] * 9
        assert ring.stats["tx_calls"] == calls + 1
        assert ring.stats["rx_calls"] == 0  # bulk receive makes no system call
        assert ("tx.ring" in h.ledger) == (tx == "ring")


def test_our_own_frames_do_not_come_back(bed):
    kernel, ours = bed
    ring = make(ours)
    with Harness(ring) as h, raw_socket(kernel) as s:
        h.tx([frame(60)])
        s.send(frame(61))
        assert [len(p["data"]) for p in collect(h, 1)] == [61]


@pytest.mark.parametrize("tx", ["sendmmsg", "ring"])
def test_super_frames_both_ways(bed, tx):
    kernel, ours = bed
    kernel.add_address("k0", "10.9.0.1/24")
    kernel.run("ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:01", "dev", "k0", check=True)
    ring = make(ours, tx=tx)
    assert ring.gso_max == 65535
    with Harness(ring) as h:
        with kernel.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.setsockopt(socket.SOL_UDP, 103, 1000)  # UDP_SEGMENT
            payload = os.urandom(60_000)
            s.sendto(payload, ("10.9.0.2", 9))
        [got] = collect(h, 1, ethertype=0x0800)
        assert got["data"][42:] == payload
        assert (got["gso_type"], got["gso_size"]) == (3, 1000)
        assert (got["csum"], got["csum_start"], got["csum_offset"]) == (2, 34, 6)
        ip = IP(src="10.9.0.2", dst="10.9.0.1") / TCP() / bytes(60000)
        segment = bytes(Ether(src=MAC, dst=PEER) / ip)
        with raw_socket(kernel, protocol=0x0800) as s:
            facts = {"csum": 2, "csum_start": 34, "csum_offset": 16, "gso_type": 1, "gso_size": 1448, "hdr_len": 54}
            assert h.tx([segment], **facts) == 1
            assert len(s.recv(1 << 17)) == len(segment)
            assert h.tx([segment, frame(60)]) == 2
            assert ring.stats["tx_drop"] == 1


def test_a_partial_checksum_from_a_veth_is_told(bed):
    kernel, ours = bed
    kernel.add_address("k0", "10.9.0.1/24")
    kernel.run("ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:01", "dev", "k0", check=True)
    with Harness(make(ours, offloads=False)) as h, kernel.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"hello", ("10.9.0.2", 9))
        [got] = collect(h, 1, ethertype=0x0800)
        assert (got["csum"], got["csum_start"], got["csum_offset"]) == (2, 34, 6)


class TestLending:
    def test_long_frames_are_lent(self, bed):
        kernel, ours = bed
        ring = make(ours)
        with Harness(ring) as h, raw_socket(kernel) as s:
            for n in (5000, 60, 6000, 7000):
                s.send(frame(n))
            got = collect(h, 4, h.hold)
            assert [p["flags"] & LENT for p in got] == [LENT, 0, LENT, LENT]
            base, length = ring.extent
            inside = [base <= p["addresses"][0] < base + length for p in got]
            assert inside == [True, False, True, True]
            assert h.ledger["rx.ring"] == 60
            # A sleeper is not kept awake by what is lent.
            assert not h.wait(0)
            h.let_go()

    @pytest.mark.parametrize("rx_slots", [4, 5, 8])
    def test_the_newest_is_lent_and_nobody_is_woken_for_it(self, bed, rx_slots):
        kernel, ours = bed
        with Harness(make(ours, rx_slots=rx_slots)) as h, raw_socket(kernel) as s:
            for i in range(3 * rx_slots):       # wherever in the ring it lies
                s.send(frame(5000 + i))
                [one] = collect(h, 1, h.hold)
                assert one["flags"] & LENT
                assert not h.wait(0)
                h.let_go()

    @pytest.mark.parametrize("before", range(6))
    def test_the_kernel_does_not_fill_the_newest_again_while_it_is_lent(self, bed, before):
        kernel, ours = bed
        with Harness(make(ours, rx_slots=4)) as h, raw_socket(kernel) as s:
            for i in range(before):
                s.send(frame(60 + i))
                collect(h, 1)
            s.send(frame(5000))
            [one] = collect(h, 1, h.hold)
            assert one["flags"] & LENT
            for i in range(20):
                s.send(frame(6000 + i))
            assert ctypes.string_at(one["addresses"][0], 5000) == frame(5000)
            came = collect(h, 4)
            assert [len(p["data"]) for p in came] == [6000, 6001, 6002, 6003]
            h.let_go()

    def test_payload_of_lent_frames_is_page_aligned(self, bed):
        kernel, ours = bed
        with Harness(make(ours)) as h, raw_socket(kernel) as s:
            for _ in range(2):
                s.send(frame(8000))
            [first, _] = collect(h, 2, h.hold)
            assert (first["addresses"][0] + 14 + 20 + 32) % 4096 == 0
            h.let_go()

    def test_at_most_half_of_the_slots_are_lent(self, bed):
        kernel, ours = bed
        with Harness(make(ours, rx_slots=8)) as h, raw_socket(kernel) as s:
            for _ in range(7):
                s.send(frame(5000))
            flags = [bool(p["flags"] & LENT) for p in collect(h, 7, h.hold)]
            assert flags == [True] * 4 + [False] * 3
            h.let_go()

    def test_who_never_lets_go_does_not_stop_the_others(self, bed):
        """The kernel waits for a slot that is lent: a new ring takes over, and no more than four times."""
        kernel, ours = bed
        ring = make(ours, rx_slots=4)
        kept, seen = [], 0
        with Harness(ring) as h, raw_socket(kernel) as s:
            for i in range(100):
                s.send(frame(5000 + i))
                s.send(frame(5000 + i))
                for p in h.hold(now=i * 20 * MS) + h.rx(now=i * 20 * MS + 1):
                    seen += p["data"][12:14] == TYPE.to_bytes(2, "big")
                    kept.append(p)
            assert ring.replaced == 4
            assert seen >= 190  # what came just when a ring was replaced is lost
            # Everything that is held is intact.
            assert all(p["data"] == frame(len(p["data"])) for p in kept if p["data"][12:14] == b"\x88\xb5")
            h.let_go()
            h.rx(now=5000 * MS)
            s.send(frame(5000))
            s.send(frame(5000))
            assert collect(h, 2, h.hold)[0]["flags"] & LENT  # lending goes on
            assert h.close() == 0

    def test_lent_slots_outlive_the_link(self, bed):
        kernel, ours = bed
        ring = make(ours)
        h = Harness(ring)
        with raw_socket(kernel) as s:
            for _ in range(3):
                s.send(frame(5000))
            collect(h, 3, h.hold)
        assert h.close() == 0
        assert ring.state == "closed"

    def test_lend_false_copies(self, bed):
        kernel, ours = bed
        ring = make(ours, lend=False)
        assert "zerocopy_rx" not in ring.capabilities
        with Harness(ring) as h, raw_socket(kernel) as s:
            for _ in range(3):
                s.send(frame(5000))
            assert not any(p["flags"] & LENT for p in collect(h, 3, h.hold))
            h.let_go()


def overrun(h, s):
    """Of 20 frames a ring of 4 slots holds 4."""
    for i in range(20):
        s.send(frame(100 + i))
    assert len(collect(h, 4)) == 4


def test_an_overrun_is_counted_and_survived(bed):
    kernel, ours = bed
    ring = make(ours, rx_slots=4)
    with Harness(ring) as h, raw_socket(kernel) as s:
        overrun(h, s)
        s.send(frame(200))
        assert len(collect(h, 1)[0]["data"]) == 200
        assert ring.stats["rx_overrun"] == 16
        assert h.live == 0


def test_an_overrun_is_counted_though_nothing_follows(bed):
    kernel, ours = bed
    ring = make(ours, rx_slots=4)
    with Harness(ring) as h, raw_socket(kernel) as s:
        overrun(h, s)
        assert h.rx(now=1000 * MS) == []
        assert ring.stats["rx_overrun"] == 16


def test_vlan_tags_are_not_lost(bed):
    kernel, ours = bed
    tagged = MAC + PEER + b"\x81\x00\x00\x07" + TYPE.to_bytes(2, "big") + bytes(100)
    priority = MAC + PEER + b"\x81\x00\xe0\x00" + TYPE.to_bytes(2, "big") + bytes(100)
    with Harness(make(ours)) as h, raw_socket(kernel) as s:
        s.send(tagged)
        [got] = collect(h, 1, ethertype=0x8100)
        assert got["data"] == tagged
        s.send(priority)
        [got] = collect(h, 1)
        assert got["data"] == priority[:12] + priority[16:]


def test_a_device_that_goes_down_and_comes_back(bed):
    kernel, ours = bed
    ring = make(ours)
    with Harness(ring) as h:
        ours.down("us0")
        with pytest.raises(OSError, match="down") as e:
            h.tx([frame(60)])
        assert e.value.errno == errno.ENETDOWN
        assert h.wait()  # a sleeper is woken
        with pytest.raises(OSError, match="down"):
            h.rx(now=10 * MS)
        assert ring.state == "down"
        assert not h.wait(0)  # and can sleep again
        ours.up("us0")
        h.rx(now=20 * MS)
        assert ring.state == "up"
        with raw_socket(kernel) as s:
            assert h.tx([frame(60)]) == 1
            assert s.recv(100) == frame(60)
            s.send(frame(61))
            assert len(collect(h, 1)) == 1


def test_a_device_deleted_while_running(bed):
    _, ours = bed
    ring = make(ours)
    with Harness(ring) as h:
        ours.remove("us0")
        assert h.wait()
        with pytest.raises(OSError, match="device") as e:
            h.rx(now=10 * MS)
        assert e.value.errno == errno.ENODEV
        assert ring.state == "gone"
        with pytest.raises(OSError, match="device"):
            h.tx([frame(60)])


@pytest.mark.tun
def test_a_ring_on_the_netdev_of_a_tap(bed):
    _, ours = bed
    with ours.entered():
        tap = Tap("t0", mac=PEER)
    ring = make(ours, "t0")
    facts = {"csum": 2, "csum_start": 34, "csum_offset": 16, "gso_type": 1, "gso_size": 1448, "hdr_len": 54}
    ip = IP(src="10.9.0.2", dst="10.9.0.1") / TCP() / os.urandom(50000)
    with Harness(tap) as a, Harness(ring) as b:
        for sender, receiver, to in ((a, b, MAC), (b, a, PEER)):
            sender.tx([frame(100, to=to)])
            assert collect(receiver, 1)[0]["data"] == frame(100, to=to)
            segment = bytes(Ether(src=MAC, dst=to) / ip)
            sender.tx([segment], **facts)
            [got] = collect(receiver, 1, ethertype=0x0800)
            assert got["data"] == segment
            assert {k: got[k] for k in facts if k in got} == {k: v for k, v in facts.items() if k != "hdr_len"}


def test_fanout_shares_flows(bed):
    kernel, ours = bed
    first, second = (make(ours, fanout=(7, "lb")) for _ in range(2))
    with Harness(first) as a, Harness(second) as b, raw_socket(kernel) as s:
        for _ in range(6):
            s.send(frame(60))
        kinds = [[p for p in h.rx() if p["data"][12:14] == b"\x88\xb5"] for h in (a, b)]
        assert len(kinds[0]) + len(kinds[1]) == 6
        assert len(kinds[0]) > 0
        assert len(kinds[1]) > 0
        with pytest.raises(OSError, match="fanout group"):
            make(ours, fanout=(7, "hash"))


def test_no_memory_drops_and_counts(bed):
    kernel, ours = bed
    ring = make(ours)
    with Harness(ring, budget=100) as h, raw_socket(kernel) as s:
        s.send(frame(60))
        assert h.wait()
        h.rx()
        assert ring.stats["rx_nomem"] >= 1
        assert h.pending == 0


def test_wrong_arguments(bed):
    _, ours = bed
    with pytest.raises(OSError, match="no device 'nope'") as e:
        make(ours, "nope")
    assert e.value.errno == errno.ENODEV
    with pytest.raises(ValueError, match="no Ethernet"):
        make(ours, "lo")
    with pytest.raises(ValueError, match="sendmmsg"):
        make(ours, tx="carrier pigeon")
    with pytest.raises(ValueError, match="fanout mode"):
        make(ours, fanout=(1, "luck"))
    with pytest.raises(ValueError, match="rx_slots"):
        make(ours, rx_slots=1)


def test_without_privilege_the_remedy_is_named():
    code = (
        "from ustack._core.py.devices import PacketRing\n"
        "import os, socket\n"
        "name = next(n for _, n in socket.if_nameindex() if n != 'lo')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: PacketRing(name)\n"
        "except PermissionError as e: print(e)\n"
    )
    with testbed.Namespace() as ns:
        ns.run("ip", "link", "add", "v0", "type", "veth", "peer", "v1", check=True)
        out = ns.run(sys.executable, "-P", "-c", code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                     capture_output=False)
    assert "CAP_NET_RAW" in out.stdout
