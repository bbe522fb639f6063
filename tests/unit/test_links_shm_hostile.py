"""SharedMemory against peers and stacks that lie: everything is copied, then checked, refused and counted."""

import errno
import itertools
import os
import random
import struct
import threading

import pytest
from shm_liar import AT_MAP, FILE, FORGET, HELLO, MAGIC, PLAIN, SLOT, Device, Peer, buffer, head, memory_file, packet

from ustack._core.py.probe_links import Harness

GONE = os.strerror(errno.ENODEV)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "link"


def poll(harness, times=3):
    """Packets of a few looks, as a poller looks."""
    return [p for k in range(times) for p in harness.rx(now=(k + 1) * 10**9)]


def look_for_ever(harness, before=lambda k: None):
    for k in itertools.count():
        before(k)
        harness.rx(now=(k + 1) * 10**9)


def until_gone(harness):
    now = 0
    with pytest.raises(OSError, match=GONE):
        look_for_ever(harness)
    while harness.deadline is not None:
        now += 10**9
        with pytest.raises(OSError, match=GONE):
            harness.rx(now=now)


class TestHandshake:
    @pytest.mark.parametrize(("hello", "fds"), [
        (b"x" * HELLO.size, 5), (b"", 5), (b"x", 5), (HELLO.pack(MAGIC, 2, 65535, 0, 0, bytes(6)), 5),
        (HELLO.pack(MAGIC, 3, 7, 0, 0, bytes(6)), 5), (HELLO.pack(MAGIC, 3, 1 << 31, 0, 0, bytes(6)), 5),
        (HELLO.pack(MAGIC, 3, 65535, 0, 0, bytes(6)), 4), (HELLO.pack(MAGIC, 3, 65535, 0, 0, bytes(6)) + b"x", 5)])
    def test_a_peer_of_another_kind_is_an_error(self, path, hello, fds):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="other side"):
            Peer(path, hello=hello, fds=fds)
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("bad", [{"sealed": False}, {"face": 4096}, {"room": 4096}])
    def test_memory_that_could_vanish_or_is_too_small_is_refused(self, path, bad):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="refused what the other side offered"):
            Peer(path, **bad)
        assert len(os.listdir("/proc/self/fd")) == before


class TestDescriptorsOfThePeer:
    """What it puts into the receive ring of a stack."""

    @pytest.mark.parametrize(("entry", "reason"), [
        (packet(4, 0, 100), "bad_slot"), (packet(0xFFFFFFFF, 0, 100), "bad_slot"),
        (packet(0, SLOT + 1, 1), "bad_extent"), (packet(0, 0xFFFFFFFF, 2), "bad_extent"),
        (packet(0, SLOT - 10, 11), "bad_extent"), (packet(0, 0, SLOT + 1), "bad_extent"),
        (packet(0, 100, 0xFFFFFFFF), "bad_extent"), (packet(0, 0, 0), "bad_extent"),
        (packet(0, 0, 100, facts=(1, 0, 0, 0, 99, 2)), "bad_facts"),
        (packet(0, 0, 100, facts=(1, 1, 0, 0, 20, 16)), "bad_facts"),
        (packet(0, 0, 100, facts=(0, 77, 0, 0, 0, 0)), "bad_facts")])
    def test_lies_are_counted_and_the_link_goes_on(self, path, entry, reason):
        with Peer(path) as peer, Harness(peer.link) as victim:
            peer.rx.put(entry)
            assert poll(victim) == []
            assert peer.link.shared["rx"][reason] == 1
            peer.room[SLOT:SLOT + 100] = b"y" * 100
            peer.rx.put(packet(1, 0, 100))
            assert [p["data"] for p in poll(victim)] == [b"y" * 100]
            assert peer.link.stats["rx_bad"] == 1
            assert victim.close() == 0

    def test_a_buffer_counts_once(self, path):
        """What was given for a packet is not ours to give again until it is posted again."""
        with Peer(path) as peer, Harness(peer.link) as victim:
            peer.rx.put(packet(2, 0, 5000), packet(2, 0, 5000), packet(2, 0, 60))
            held = victim.hold(now=10**9)
            assert len(held) == 1
            assert peer.link.shared["rx"] == {"bad_slot": 2, "bad_extent": 0, "bad_facts": 0, "lent": 1}
            victim.let_go()
            assert victim.close() == 0

    @pytest.mark.parametrize("jump", [1025, 1 << 31, 0xFFFFFFFF])
    def test_an_index_that_cannot_be_ends_the_link(self, path, jump):
        with Peer(path) as peer, Harness(peer.link) as victim:
            peer.rx.set(0, jump)
            until_gone(victim)
            assert "broke the rules" in peer.link.error
            assert victim.close() == 0

    @pytest.mark.parametrize("jump", [5, 1 << 31, 0xFFFFFFFF])
    def test_a_consumer_that_cannot_be_ends_the_link(self, path, jump):
        """Of four posted buffers it says that it took so many; the next posting notices."""
        with Peer(path) as peer, Harness(peer.link) as victim:
            peer.fill.set(1, jump)
            with pytest.raises(OSError, match=GONE):
                look_for_ever(victim, lambda k: peer.rx.put(packet(k % 4, 0, 100)))
            assert "broke the rules" in peer.link.error
            assert victim.close() == 0

    def test_random_descriptors(self, path):
        rng = random.Random(7)
        with Peer(path) as peer, Harness(peer.link) as victim:
            for k in range(2000):
                sizes = (rng.choice((0, 1, 60, 4096, SLOT - 1, SLOT, 0xFFFFFFFF, rng.randrange(1 << 32))) for _ in "ab")
                facts = [rng.randrange(256), rng.randrange(256), *(rng.randrange(1 << 16) for _ in "abcd")]
                peer.rx.put(packet(rng.randrange(6), *sizes, rng.randrange(1 << 16),
                                   rng.choice((PLAIN, facts))))
                peer.fill.set(1, peer.fill.get(0))
                victim.rx(now=k * 10**6)
            seen = peer.link.shared["rx"]
            assert seen["bad_slot"] > 100
            assert seen["bad_extent"] > 100
            assert seen["bad_facts"] > 10
            assert peer.link.stats["rx"] > 100
            assert victim.close() == 0

    def test_descriptors_that_change_while_they_are_read(self, path):
        """A thread flips the extent of entries that are in the ring: whatever is believed is inside the buffer."""
        stop = threading.Event()
        with Peer(path, slots=8) as peer, Harness(peer.link) as victim:
            peer.room[:] = b"r" * len(peer.room)

            def flip():
                good, bad = packet(0, 0, 5000)[4:12], struct.pack("=II", SLOT - 5, 0x80000000)
                where = peer.rx.at + 256 + 4
                while not stop.is_set():
                    for k in range(0, 1024 * 32, 32):
                        peer.face[where + k:where + k + 8] = good if k & 32 else bad

            thread = threading.Thread(target=flip)
            thread.start()
            try:
                fine = 0
                for k in range(3000):
                    peer.rx.put(packet(k % 8, 0, 5000))
                    peer.fill.set(1, peer.fill.get(0))
                    for p in victim.rx(now=k * 10**6):
                        assert p["data"] == b"r" * 5000
                        fine += 1
            finally:
                stop.set()
                thread.join()
            assert fine + peer.link.stats["rx_bad"] == peer.rx.get(0)
            assert victim.close() == 0


class TestBuffersOfThePeer:
    """What it posts for the stack's device."""

    @pytest.mark.parametrize("bad", [buffer(4 * SLOT, SLOT, 0), buffer(1 << 63, SLOT, 0), buffer(3 * SLOT + 1, SLOT, 0),
                                     buffer(0, SLOT - 1, 0), buffer(0, 0xFFFFFFFF, 0)])
    def test_buffers_outside_its_memory_are_not_used(self, path, bad):
        with Peer(path) as peer, Harness(peer.link) as victim:
            peer.our_fill.put(bad, buffer(SLOT, SLOT, 77))
            assert victim.tx([b"z" * 100]) == 1
            while (entry := peer.our_rx.take()) is None:
                os.sched_yield()
            slot, start, length = struct.unpack_from("=III", entry)
            assert (slot, length) == (77, 100)
            assert peer.files[1][1][SLOT + start:SLOT + start + 100] == b"z" * 100
            assert peer.link.shared["device"]["bad_buffer"] == 1
            assert victim.close() == 0

    @pytest.mark.parametrize(("ring", "side", "index"), [("our_fill", 0, 5000), ("our_rx", 1, 2000)])
    def test_a_ring_that_cannot_be_ends_the_device_and_the_link_says_why(self, path, ring, side, index):
        with Peer(path) as peer, Harness(peer.link) as victim:
            getattr(peer, ring).set(side, index)

            def send(k):
                if ring == "our_rx":            # it is looked at when there seems to be no room left
                    peer.our_fill.put(buffer(0, SLOT, 0))
                victim.tx([b"z" * 100])

            with pytest.raises(OSError, match=GONE):
                look_for_ever(victim, send)
            assert "rings that it shares with the other side are broken" in peer.link.error
            assert victim.close() == 0


class TestDescriptorsOfTheStack:
    """What a device refuses of its own stack: hardware that is given a wrong address would do worse."""

    @pytest.fixture
    def device(self):
        with Device(max_sg=4, max_seg=8192, align=8, limit=1 << 20) as device:
            fd, memory = memory_file(1 << 21)
            memory[:4096] = b"m" * 4096
            device.tell(1, fd)
            device.fill.put(*(buffer(k * SLOT, SLOT, k) for k in range(8)))
            yield device
            memory.close()
            os.close(fd)

    @pytest.mark.parametrize(("pieces", "more", "reason"), [
        ([(0, 100, 2)], {}, "bad_region"), ([(0, 100, 0x10001)], {}, "bad_region"),
        ([(0, 100, 0xFFFFFFFF)], {}, "bad_region"),
        ([(1 << 21, 8, 1)], {}, "bad_range"), ([((1 << 21) - 8, 16, 1)], {}, "bad_range"),
        ([(1 << 63, 8, 1)], {}, "bad_range"), ([(0, 0, 1)], {}, "bad_range"),
        ([(4, 100, 1)], {}, "bad_align"), ([(0, 8193, 1)], {}, "bad_seg"), ([(1 << 20, 8, 1)], {}, "bad_limit"),
        ([((1 << 20) - 8, 16, 1)], {}, "bad_limit"), ([(0, 100, 1)], {"length": 99}, "bad_length"),
        ([(0, 100, 1, 1)], {}, "bad_entry"), ([(0, 100, 1)] * 5, {}, "bad_count"), ([], {}, "bad_count"),
        ([(0, 100, 1)], {"count": 3}, "bad_count"),
        ([(0, 100, 1)], {"facts": (1, 0, 0, 0, 99, 0)}, "bad_facts"),
        ([(0, 100, 1)], {"stamp": 0}, "unmapped"), ([(0, 100, 1)], {"stamp": 77}, "unmapped")])
    def test_lies_are_refused_counted_and_completed(self, device, pieces, more, reason):
        assert device.send(3, pieces, **more) == (3, -errno.EINVAL)
        assert device.refused().pop(reason) >= 1
        device.forget()
        assert device.send(5, [(8, 100, 1), (0, 4, 1)]) == (5, 0)
        assert device.counts["packets"] == 1

    def test_a_cookie_beyond_the_table(self, device):
        device.tx.put(head(256, 1, 100, 1), struct.pack("=QIIH", 0, 100, 1, 0x5050))
        assert device.completion() == (256, -errno.EINVAL)
        assert set(device.refused()) == {"unmapped"}

    def test_a_piece_without_a_head(self, device):
        device.tx.put(struct.pack("=QIIH", 0, 100, 1, 0x5050))
        assert device.send(1, [(0, 100, 1)]) == (1, 0)
        assert device.refused() == {"bad_entry": 1}

    def test_unmapped_under_its_hands(self, device):
        """The mapping is withdrawn while packets are under way: what was read then goes nowhere."""
        for k in range(200):
            stamp = device.map(1)
            device.tx.put(head(1, stamp, 8192 * 4, 4), *(struct.pack("=QIIH", 0, 8192, 1, 0x5050),) * 4)
            device.ring()
            for _ in range(k * 20):
                pass
            struct.pack_into("=I", device.own, AT_MAP + 4, 0)
            _, status = device.completion()
            while (entry := device.rx.take()) is not None:
                slot = struct.unpack_from("=I", entry)[0]
                assert status == 0
                device.fill.put(buffer(slot * SLOT, SLOT, slot))
            assert status in (0, -errno.EINVAL)
            assert set(device.refused()) <= {"unmapped", "unmapped_early"}
            if status < 0 and "unmapped_early" in device.refused():
                device.fill.put(buffer(0, SLOT, 0))

    @pytest.mark.parametrize("jump", [1025, 1 << 31, 0xFFFFFFFF])
    def test_a_broken_ring_ends_it(self, device, jump):
        device.tx.set(0, jump)
        device.ring()
        device.thread.join(60)
        assert device.refused() == {"bad_ring": 1}

    def test_orders_that_cannot_be(self, device, tmp_path):
        fd, memory = memory_file(4096, sealed=False)
        with open(tmp_path / "file", "w+b") as f:
            f.write(b"f" * 10000)
            f.flush()
            device.tell(7, fd)                                  # could shrink
            device.tell(8, f.fileno(), FILE, 1, 4096)           # no whole pages
            device.tell(9, f.fileno(), FILE, 0, 1 << 40)        # too much
            device.tell(10, f.fileno(), 12345)
            device.sock.send(b"nonsense")
            device.tell(11, f.fileno(), FILE, 4096, 8192)
            for name in (7, 8, 9, 10):
                assert device.send(1, [(0, 8, name)]) == (1, -errno.EINVAL)
            assert device.send(1, [(0, 1000, 11)]) == (1, 0)
            assert device.send(1, [(8192 - 4096 - 8, 4000, 11)]) == (1, 0)     # to the end of its last page
            device.tell(11, f.fileno(), FORGET)
            while device.send(1, [(0, 8, 11)])[1] == 0:         # it looks at orders when it has to
                device.fill.put(buffer(0, SLOT, 0))
            assert device.send(1, [(0, 1000, 1)]) == (1, 0)
        memory.close()
        os.close(fd)

    def test_a_file_that_was_cut(self, device, tmp_path):
        with open(tmp_path / "file", "w+b") as f:
            f.write(b"f" * 16384)
            f.flush()
            device.tell(2, f.fileno(), FILE, 0, 16384)
            assert device.send(1, [(8192, 4096, 2)]) == (1, 0)
            os.ftruncate(f.fileno(), 8192)
            assert device.send(1, [(0, 8192, 2), (8192, 4096, 2)]) == (1, -errno.EFAULT)
            assert device.refused() == {"lost": 1}
            assert device.send(1, [(0, 8192, 2)]) == (1, 0)

    @pytest.mark.parametrize("bad", [{"sealed": False}, {"own": 4096}, {"face": 4096}, {"room": 4096}, {"align": 0},
                                     {"max_sg": 0}, {"max_sg": 65}])
    def test_a_beginning_that_cannot_be(self, bad):
        with Device(**bad) as device:
            assert device.status in (-errno.EPERM, -errno.EMSGSIZE, -errno.EINVAL)
