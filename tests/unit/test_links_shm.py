"""SharedMemory: packets arrive as they were sent, within the limits of the device, and nothing leaks."""

import contextlib
import errno
import mmap
import os
import select
import signal
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ustack import SharedMemory
from ustack._core.py.probe_links import Harness
from ustack._core.py.probe_shm import protect
from ustack.buffers import Region

CSUM_OK, CSUM_PARTIAL = 1, 2
GSO_TCP4 = 1
GONE = os.strerror(errno.ENODEV)
HEADROOM = 160                  # where the harness begins a block, from a multiple of 64


@contextlib.contextmanager
def wire(device="thread", **options):
    """Two ends that harnesses hold; at the end nothing may be outstanding."""
    a, b = SharedMemory.pair(device=device, **options)
    with Harness(a) as left, Harness(b) as right:
        yield left, right, a, b
        assert left.close() == right.close() == 0
        for end in (a, b):
            assert end.shared["tx"]["mapped"] == end.shared["tx"]["unmapped"]
            assert end.shared["tx"]["in_flight"] == 0
            assert end.shared["device"]["unmapped"] == end.shared["device"]["unmapped_early"] == 0


def take(harness, n):
    """The next n packets; sleeps on the link's descriptors as a poller does."""
    got = []
    now = 0
    while len(got) < n:
        now += 10**9
        more = harness.rx(now=now)
        if not more:
            assert harness.wait()
        got += more
    return got


def drain(harness):
    """Receive and wait, until the link is no more."""
    now = 0
    while True:
        now += 10**9
        if not harness.rx(now=now):
            assert harness.wait()


def landed(harness, link):
    """All that the device had is done with."""
    now = 0
    while link.shared["tx"]["in_flight"]:
        now += 10**9
        harness.rx(now=now)
        os.sched_yield()


def body(n, seed=1):
    return bytes((i * seed + (i >> 8)) & 255 for i in range(256)) * (n // 256) + b"z" * (n % 256)


def test_who_finds_a_packet_at_the_first_look_is_woken_for_the_next():
    with wire() as (left, right, a, _b):
        assert left.tx([body(100)]) == 1
        landed(left, a)
        assert len(right.rx(now=10**9)) == 1
        assert left.tx([body(200)]) == 1
        assert select.select(right.fds, [], [], 30)[0]
        assert len(take(right, 1)) == 1


@pytest.mark.parametrize("device", ["thread", "process"])
@pytest.mark.parametrize("layer", [2, 3])
def test_packets_and_facts_pass_in_order(device, layer):
    facts = {"csum": CSUM_PARTIAL, "csum_start": 34, "csum_offset": 16, "gso_type": GSO_TCP4, "gso_size": 1448}
    with wire(device, layer=layer) as (left, right, a, _b):
        assert a.layer == layer
        for round in range(5):
            packets = [[body(54), body(n, round + 2)] for n in (1, 1000, 3000, 9000, 30000, 65000)] * 3
            assert left.tx(packets, hdr_len=54, **facts) == len(packets)
            got = take(right, len(packets))
            assert [p["data"] for p in got] == [b"".join(p) for p in packets]
            assert all({k: p[k] for k in facts} == facts for p in got)
            assert right.tx([b"answer" * 10]) == 1
            assert take(left, 1)[0]["data"] == b"answer" * 10
        landed(left, a)
        assert "tx.bounce" not in left.ledger
        assert "tx.flatten" not in left.ledger
        sent = left.ledger["device.tx"]
        assert sent == right.ledger["device.rx"] == a.shared["device"]["bytes"]


def test_headers_are_copied_and_payload_is_lent_page_aligned():
    with wire() as (left, right, _a, b):
        left.tx([[body(54), body(60000, 7)]], hdr_len=54)
        now = 0
        while not (got := right.hold(now=(now := now + 10**9))):
            right.wait()
        [p] = got
        assert p["data"] == body(54) + body(60000, 7)
        assert p["blocks"] == [54, 60000]
        assert p["addresses"][1] % 4096 == 0
        assert b.shared["rx"]["lent"] == 1
        assert "rx.ring" not in right.ledger            # no payload was copied
        right.let_go()
        assert b.shared["rx"]["lent"] == 0


def test_a_reader_that_keeps_everything_gets_copies_when_half_is_lent():
    with wire(slots=8) as (left, right, _a, b):
        now = 0
        for i in range(24):
            assert left.tx([[body(54), body(8000, i)]], hdr_len=54) == 1
            while not (got := right.hold(now=(now := now + 10**9))):
                right.wait()
            assert got[0]["data"] == body(54) + body(8000, i)
            assert b.shared["rx"]["lent"] == min(i + 1, 4)
        assert right.ledger["rx.ring"] == 20 * 8054
        right.let_go()


def test_nothing_is_lost_when_nobody_receives():
    """The device waits for buffers, the ring pushes back, and what was not taken can be sent later."""
    with wire(slots=4) as (left, right, a, _b):
        sent = 0
        while left.tx([[b"%54d" % sent, body(60000)]], hdr_len=54):
            sent += 1
        assert sent >= 200
        assert a.stats["tx_busy"] == 1
        got = take(right, sent)
        assert [int(p["data"][:54]) for p in got] == list(range(sent))
        landed(left, a)
        assert left.tx([b"more"]) == 1
        assert take(right, 1)[0]["data"] == b"more"


def test_a_sender_that_was_refused_is_woken_when_there_is_room():
    with wire(slots=4) as (left, right, _a, _b):
        while left.tx([body(60000)]):
            pass
        left.rx(now=10**9)                  # as a poller does before it sleeps
        left.rx(now=2 * 10**9)
        assert right.wait()
        got = right.rx(now=10**9)
        while not left.wait(10**7):
            got += right.rx(now=10**9)
        assert got


class TestLimits:
    @pytest.mark.parametrize("max_sg", [1, 2, 4, 16])
    def test_the_same_bytes_whatever_it_gathers(self, max_sg):
        """More pieces than it gathers: one flatten of the whole packet, counted; else nothing is copied."""
        pieces = [body(54), body(3000, 3), body(20000, 5), body(7, 7)]
        with wire(max_sg=max_sg, max_seg=65549 * 2) as (left, right, a, _b):
            assert left.tx([pieces], hdr_len=54) == 1
            assert take(right, 1)[0]["data"] == b"".join(pieces)
            landed(left, a)
            whole = sum(map(len, pieces))
            assert left.ledger.get("tx.flatten", 0) == (whole if max_sg < 4 else 0)
            assert a.shared["tx"]["flattened"] == left.ledger.get("tx.flatten", 0)
            assert "tx.bounce" not in left.ledger

    @pytest.mark.parametrize("align", [64, 512])
    def test_what_is_not_aligned_is_bounced_and_nothing_else(self, align):
        straight = -HEADROOM % align
        with wire(align=align, max_seg=65536 * 2, slots=8) as (left, right, a, _b):
            packet = [body(54), (body(40000, 3), straight), (body(6000, 5), straight + 8)]
            assert left.tx([packet], hdr_len=54) == 1
            assert take(right, 1)[0]["data"] == body(54) + body(40000, 3) + body(6000, 5)
            landed(left, a)
            # Pages begin at multiples of 512, blocks of 256 bytes do not: those of headers are bounced either way.
            assert left.ledger["tx.bounce"] == 54 + 6000 == a.shared["tx"]["bounced_align"]

    def test_what_it_does_not_reach_is_bounced_to_the_byte(self):
        limit = 16 * 69632
        with Mapped(2 * limit) as memory, wire(address_limit=limit) as (left, right, a, _b):
            memory.write(limit - 1000, body(3000, 9))
            start = memory.address + limit - 1000
            assert left.tx([[(start, 3000)]]) == 1                # the last 2000 bytes lie beyond
            assert take(right, 1)[0]["data"] == body(3000, 9)
            assert left.tx([[(start, 1000)]]) == 1                # none of them
            assert left.tx([[(start + 1000, 500)]]) == 1          # all of them
            assert [len(p["data"]) for p in take(right, 2)] == [1000, 500]
            landed(left, a)
            assert left.ledger["tx.bounce"] == 2500 == a.shared["tx"]["bounced_limit"]

    def test_long_pieces_are_cut_not_copied(self):
        with wire(max_seg=4096, max_sg=20) as (left, right, a, _b):
            assert left.tx([[body(54), body(60000, 3)]], hdr_len=54) == 1
            assert take(right, 1)[0]["data"] == body(54) + body(60000, 3)
            landed(left, a)
            assert "tx.bounce" not in left.ledger
            assert "tx.flatten" not in left.ledger
            assert a.shared["device"]["pieces"] == 1 + 15

    def test_memory_that_cannot_be_shared_is_bounced(self):
        with mmap.mmap(-1, 8192) as private, wire() as (left, right, a, _b):
            private[:5000] = body(5000, 3)
            address = Address(private)
            assert left.tx([[body(54), (address.at, 5000)]], hdr_len=54) == 1
            assert take(right, 1)[0]["data"] == body(54) + body(5000, 3)
            landed(left, a)
            assert left.ledger["tx.bounce"] == 5000 == a.shared["tx"]["bounced_memory"]
            address.close()

    def test_more_regions_than_it_can_know(self):
        """The oldest ones that nobody uses are forgotten; what is sent is right all the same."""
        with wire() as (left, right, a, _b):
            for i in range(300):
                with Mapped(4096) as memory:
                    memory.write(0, body(4096, i))
                    assert left.tx([[(memory.address, 4096)]]) == 1
                    assert take(right, 1)[0]["data"] == body(4096, i)
                    landed(left, a)
            assert a.shared["tx"]["regions"] >= 300
            assert "tx.bounce" not in left.ledger

    @given(pieces=st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 130)), min_size=1, max_size=7),
           max_sg=st.integers(1, 8), align=st.sampled_from([1, 8, 64]))
    @settings(max_examples=60, deadline=None)
    def test_any_packet(self, pieces, max_sg, align):
        """Right bytes, and what was copied is what the rules say: misaligned pieces, or everything once."""
        blocks = [(body(n, n % 251 + 1), shift) for n, shift in pieces]
        bad = [(HEADROOM + shift) % align != 0 for _, shift in blocks]
        whole = sum(len(data) for data, _ in blocks)
        runs = sum(1 for i, b in enumerate(bad) if not b or i == 0 or not bad[i - 1])
        with wire(max_sg=max_sg, align=align, max_seg=1 << 17, slots=4) as (left, right, a, _b):
            assert left.tx([blocks]) == 1
            assert take(right, 1)[0]["data"] == b"".join(data for data, _ in blocks)
            landed(left, a)
            if runs > max_sg:
                assert left.ledger["tx.flatten"] == whole
                assert "tx.bounce" not in left.ledger
            else:
                assert left.ledger.get("tx.bounce", 0) == sum(n for (n, _), b in zip(pieces, bad, strict=True) if b)
                assert "tx.flatten" not in left.ledger

    @pytest.mark.parametrize("options", [
        {"max_sg": 0}, {"max_sg": 65}, {"align": 3}, {"align": 8192}, {"slots": 3}, {"slots": 1025}, {"mtu": 10},
        {"max_sg": 1, "max_seg": 4096}, {"max_seg": 100, "align": 64}, {"address_limit": 1000}, {"layer": 4},
        {"device": "magic"}, {"offloads": ["tso"]}])
    def test_options_that_cannot_be(self, options):
        with pytest.raises(ValueError, match=rf"{next(reversed(options))}|max_s|'tso'"):
            SharedMemory.pair(**options)

    def test_it_is_not_made_by_calling_it(self):
        with pytest.raises(TypeError, match="pair"):
            SharedMemory()
        with pytest.raises(TypeError):
            SharedMemory.pair(colour="blue")


class Mapped:
    """A region of ours whose bytes are written through a second mapping."""

    def __init__(self, length):
        self.region = Region(length)
        self.address = self.region.address
        self.other = mmap.mmap(self.region.fileno(), length)

    def write(self, at, data):
        self.other[at:at + len(data)] = data

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.other.close()


class Address:
    """Where a buffer lies."""

    def __init__(self, buffer):
        import ctypes
        self.view = ctypes.c_char.from_buffer(buffer)
        self.at = ctypes.addressof(self.view)

    def close(self):
        del self.view


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[:len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class TestOutboard:
    @pytest.mark.parametrize("n", [1, 2, 999, 1400])
    def test_the_device_completes_the_checksum(self, n):
        """The stack puts the pseudo-header's sum into the field; the device adds what lies behind csum_start."""
        header = bytearray(body(40))
        header[36:38] = b"\x12\x34"
        with wire(outboard=True) as (left, right, a, _b):
            left.tx([[bytes(header), (body(n, 3), 1)]], hdr_len=40, csum=CSUM_PARTIAL, csum_start=20, csum_offset=16)
            [p] = take(right, 1)
            expected = checksum(bytes(header)[20:] + body(n, 3))
            assert p["csum"] == CSUM_OK
            assert struct.unpack("!H", p["data"][36:38])[0] == expected
            assert p["data"][:36] + p["data"][38:] == bytes(header)[:36] + bytes(header)[38:] + body(n, 3)
            assert left.ledger.get("tx.checksum", 0) == 0
            assert a.shared["device"]["summed"] == 1

    def test_super_segments_stay_as_they_are(self):
        with wire(outboard=True) as (left, right, a, _b):
            left.tx([[body(40), body(9000)]], hdr_len=40, csum=CSUM_PARTIAL, csum_start=20, csum_offset=16,
                    gso_type=GSO_TCP4, gso_size=1448)
            [p] = take(right, 1)
            assert p["csum"] == CSUM_PARTIAL
            assert p["data"] == body(40) + body(9000)
            assert a.shared["device"]["summed"] == 0


class TestDark:
    """Payload that the stack's process may not touch: any access would be SIGSEGV."""

    def test_the_device_reads_what_the_stack_cannot(self):
        with Mapped(1 << 20) as memory, wire("process") as (left, right, a, _b):
            memory.write(0, body(1 << 20, 11))
            protect(memory.address, 1 << 20, "none")
            try:
                for at in range(0, 1 << 20, 1 << 16):
                    assert left.tx([[body(54), (memory.address + at, 60000)]], hdr_len=54) == 1
                    assert take(right, 1)[0]["data"] == body(54) + body(1 << 20, 11)[at:at + 60000]
                landed(left, a)
            finally:
                protect(memory.address, 1 << 20, "write")
            assert set(left.ledger) == {"device.tx"}        # no byte was copied by us

    def test_the_check_can_fail(self):
        """A device that wants other alignment makes the stack copy: then it dies of it."""
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            region = Region(1 << 16)
            protect(region.address, 1 << 16, "none")
            bytes(region)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV


class TestEnds:
    @pytest.mark.parametrize("who", ["ours", "theirs"])
    def test_a_killed_device_ends_the_link(self, who):
        a, b = SharedMemory.pair()
        with Harness(a) as left, Harness(b) as right:
            for _ in range(20):
                left.tx([[body(54), body(50000)]], hdr_len=54)
            os.kill(a.device_pid if who == "ours" else b.device_pid, signal.SIGKILL)
            ends = [(left, a), (right, b)]
            # Whose device it is learns it from the device, the other one from the stack that has learnt it.
            for harness, link in ends if who == "ours" else reversed(ends):
                with pytest.raises(OSError, match=GONE):
                    drain(harness)
                assert link.state == "gone"
                mine = (link is a) == (who == "ours")
                assert ("device" if mine else "other side") in link.error
                assert not link.device_alive
                with pytest.raises(OSError, match=GONE):
                    harness.tx([b"x"])
                # What the device had is freed as soon as it is certain that it reads no more.
                now = 0
                while harness.live:
                    assert harness.deadline is not None
                    now += 10**9
                    with pytest.raises(OSError, match=GONE):
                        harness.rx(now=now)
                assert link.shared["tx"]["in_flight"] == 0
            assert left.close() == right.close() == 0

    def test_what_was_sent_before_the_end_still_arrives(self):
        a, b = SharedMemory.pair()
        with Harness(a) as left, Harness(b) as right:
            packets = [b"%60d" % i for i in range(20)]
            assert left.tx(packets) == 20
            assert left.close() == 0
            assert [p["data"] for p in take(right, 20)] == packets
            with pytest.raises(OSError, match=GONE):
                take(right, 1)
            assert "closed the link" in b.error
        assert b.error == "closed"
        assert b.state == "closed"

    def test_processes_and_descriptors_are_given_back(self):
        before = len(os.listdir("/proc/self/fd"))
        for device in ("process", "thread"):
            a, b = SharedMemory.pair(device=device)
            pids = [p for p in (a.device_pid, b.device_pid) if p]
            assert len(pids) == (2 if device == "process" else 0)
            a.close()
            del b
            for pid in pids:
                with pytest.raises(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_an_idle_link_sleeps(self):
        with wire("process") as (left, right, a, _b):
            left.tx([b"x" * 60])
            take(right, 1)
            landed(left, a)
            pid = a.device_pid
            while True:                     # it looks for a moment, then it sleeps
                with open(f"/proc/{pid}/stat") as f:
                    if f.read().rsplit(")", 1)[1].split()[0] == "S":
                        break
                os.sched_yield()
            left.rx(now=10**12)
            right.rx(now=10**12)
            assert not left.wait(0)
            assert not right.wait(0)
