"""Receives posted over SharedMemory against others that lie: a stack believes no placement that cannot be, and a device
writes nowhere but where it may."""

import os
import random
import struct
import threading

import pytest
from helpers import Background
from posted_liar import HEADER, Attacker
from shm_liar import AT_POSTING, FORGET, POSTING_HEADER, SLOT, Device, buffer, memory_file

import ustack
from ustack.buffers import Region

SIZE = 8192
DATA = random.Random(5).randbytes(SIZE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "link"


@pytest.fixture
def attacker(path):
    with Attacker(path) as attacker:
        yield attacker


@pytest.fixture
def memory():
    region = Region(SIZE + 4096, peers=True)
    memoryview(region)[:] = b"." * len(region)
    with ustack.register(region) as memory:
        if not memory.pinned:
            pytest.skip("receives are posted in pinned memory")
        yield memoryview(region)


def counted(attacker):
    return {name: n for name, n in attacker.link.shared["posted"].items() if n}


class TestPlacementsThatWereNotMade:
    """What the other side puts into the receive ring of a stack that has posted."""

    @pytest.mark.parametrize(("lie", "reason"), [
        ({"version": 77}, "bad_placed"), ({"at": SIZE}, "bad_placed"), ({"at": 0xFFFFFFFF}, "bad_placed"),
        ({"at": SIZE - 100}, "bad_placed"), ({"placed": 999}, "stray"), ({"placed": 65535}, "bad_placed"),
        ({"hdr_len": 39}, "bad_placed"), ({"hdr_len": 0}, "bad_placed"), ({"hdr_len": 256}, "bad_placed"),
        ({"at": 1}, "stray")], ids=str)
    def test_lies_are_dropped_and_the_next_is_believed(self, attacker, memory, lie, reason):
        taking = Background(attacker.accepted.recv_posted, memory, SIZE)
        version = attacker.wait_posting()
        attacker.place(version, 0, DATA[:1000], lie=lie)
        # The same bytes without a word about the memory: what was refused has changed nothing.
        attacker.give(attacker.data(0, DATA[:2000]))
        attacker.place(version, 2000, DATA[2000:SIZE])
        assert taking.result(60) == SIZE
        assert memory[:SIZE] == DATA
        assert memory[SIZE:] == b"." * 4096
        assert counted(attacker) == {reason: 1, "placed": 1, "placed_bytes": SIZE - 2000, "regions": 1}
        assert attacker.link.stats["rx_bad"] == 1

    def test_headers_of_another_connection(self, attacker, memory):
        taking = Background(attacker.accepted.recv_posted, memory, SIZE)
        version = attacker.wait_posting()
        raw = bytearray(attacker.data(0, DATA[:500])[:HEADER])
        for at in (12, 16, 20, 22, 33, 6):              # addresses, ports, flags, fragment
            lie = bytearray(raw)
            lie[at] ^= 1 if at != 33 else 4
            attacker.give(lie, hdr_len=HEADER, at=0, placed=500, version=version)
            attacker.give(raw, hdr_len=HEADER, at=0, placed=500, version=version)   # backwards now: refused as well
        attacker.give(attacker.data(0, DATA))
        assert taking.result(60) == SIZE
        assert memory[:SIZE] == DATA
        assert counted(attacker)["stray"] == 1          # the first; the device's mark is behind it then
        assert counted(attacker)["bad_placed"] == 11

    def test_nothing_is_posted(self, attacker, memory):
        """Before the first, and after the last: nothing is believed, and the stream goes on."""
        attacker.give(attacker.data(0, DATA[:100])[:HEADER], hdr_len=HEADER, at=0, placed=100, version=1)
        while not counted(attacker):
            attacker.kick()
            os.sched_yield()
        taking = Background(attacker.accepted.recv_posted, memory, 100)
        version = attacker.wait_posting()
        attacker.place(version, 0, DATA[:100])
        assert taking.result(60) == 100
        assert attacker.posting[0] == 0
        attacker.give(attacker.data(100, DATA[100:200])[:HEADER], hdr_len=HEADER, at=100, placed=100, version=version)
        attacker.give(attacker.data(100, DATA[100:200]))
        assert attacker.accepted.recv(1000) == DATA[100:200]
        assert counted(attacker) == {"bad_placed": 2, "placed": 1, "placed_bytes": 100, "regions": 1}
        assert memory[100:] == b"." * (len(memory) - 100)

    def test_bytes_that_are_not_there_do_not_pass_the_checksum(self, attacker, memory):
        taking = Background(attacker.accepted.recv_posted, memory, SIZE)
        version = attacker.wait_posting()
        attacker.place(version, 0, DATA[:SIZE], write=False)
        attacker.give(attacker.data(0, DATA))
        assert taking.result(60) == SIZE
        assert memory[:SIZE] == DATA
        assert attacker.net.stats()["tcp.bad_checksum"] == 1

    def test_the_rest_of_a_packet_is_in_the_buffer(self, attacker, memory):
        taking = Background(attacker.accepted.recv_posted, memory, 1000)
        version = attacker.wait_posting()
        raw = attacker.data(0, DATA[:3000])
        where = attacker.posting[4]
        attacker.memory[where:where + 1000] = DATA[:1000]
        attacker.give(raw[:HEADER] + raw[HEADER + 1000:], hdr_len=HEADER, at=0, placed=1000, version=version)
        assert taking.result(60) == 1000
        assert memory[:1000] == DATA[:1000]
        assert attacker.accepted.recv(5000) == DATA[1000:3000]

    def test_random_descriptors(self, attacker, memory):
        """Whatever it says: the stream is what came with sums that are right, and no byte behind the memory changes."""
        rng = random.Random(11)
        s, at = attacker.accepted, 0
        got = bytearray()
        while at < 20 * SIZE:
            taking = Background(s.recv_posted, memory, SIZE)
            version = attacker.wait_posting(at)
            for _ in range(rng.randrange(12)):
                n = rng.choice((1, 100, 1448))
                lie = {"at": rng.choice((0, rng.randrange(SIZE), rng.randrange(1 << 32))),
                       "placed": rng.choice((n, rng.randrange(1 << 16))),
                       "hdr_len": rng.choice((HEADER, HEADER, rng.randrange(1 << 16))),
                       "version": rng.choice((version, version, rng.randrange(1 << 16)))}
                raw = attacker.data(at + rng.choice((0, lie["at"])), rng.randbytes(n))
                attacker.give(raw[:HEADER + rng.choice((0, 0, n))], **lie)
            attacker.give(attacker.data(at, DATA))
            n = taking.result(60)
            got += memory[:n]
            at += SIZE
            assert n == SIZE
            assert memory[SIZE:] == b"." * 4096
        assert got == DATA * 20
        assert counted(attacker)["bad_placed"] > 50


class TestDevicesThatKeepMemory:
    def test_one_that_never_says_that_it_is_done(self, attacker, memory):
        """The call ends in bounded time, and the link with it: what it still does with the memory, nobody knows."""
        taking = Background(attacker.accepted.recv_posted, memory, SIZE)
        attacker.wait_posting()
        attacker.busy(5)
        attacker.accepted.close()
        with pytest.raises(OSError, match="Bad file"):
            taking.result(60)
        assert "did not give back memory" in attacker.link.error

    def test_one_that_is_gone(self, attacker, memory):
        """It was killed while it was writing: it writes no more, and the link lives on as long as its stack says so."""
        taking = Background(attacker.accepted.recv_posted, memory, SIZE)
        attacker.wait_posting()
        attacker.busy(5)
        attacker.hang_up_sinks()
        attacker.accepted.close()
        with pytest.raises(OSError, match="Bad file"):
            taking.result(60)
        assert attacker.link.error is None
        assert attacker.posting[0] == 0

    def test_one_that_is_late(self, attacker, memory):
        """What it has put in place when it is asked for the memory is received first."""
        attacker.accepted.settimeout(1)
        taking = Background(attacker.accepted.recv_posted, memory, SIZE)
        version = attacker.wait_posting()
        attacker.busy(9)
        while attacker.posting[0]:
            os.sched_yield()
        attacker.memory[:100] = DATA[:100]
        attacker.place_late(version, DATA[:100])
        attacker.busy(0)
        with pytest.raises(TimeoutError):
            taking.result(60)
        memory[:] = bytes(len(memory))
        assert attacker.accepted.recv(1000) == DATA[:100]
        assert attacker.link.error is None

    def test_a_device_that_no_longer_listens(self, attacker, memory):
        """Its socket for regions is gone before anything was posted: received and copied."""
        attacker.hang_up_sinks()
        taking = Background(attacker.accepted.recv_posted, memory, SIZE)
        attacker.give(attacker.data(0, DATA))
        assert taking.result(60) == SIZE
        assert memory[:SIZE] == DATA
        assert attacker.posting[0] == 0


class TestPostingsOfThePeer:
    """What the other side's stack tells a device of where it may write."""

    NUMBER_AT, HEADER = 4, 16
    ROOM = 16384

    @pytest.fixture
    def device(self):
        with Device() as device:
            fd, source = memory_file(1 << 20)
            sink, memory = memory_file(self.ROOM + 8192)
            memory[:] = b"." * len(memory)
            device.tell(1, fd)
            device.tell_sink(0x10003, sink)
            device.fill.put(*(buffer(k % 8 * SLOT, SLOT, k) for k in range(1000)))
            device.source, device.memory, device.sink = source, memory, sink
            yield device
            source.close()
            memory.close()
            os.close(fd)
            os.close(sink)

    def post(self, device, version=1, **lie):
        good = {"offset": 4096, "length": self.ROOM, "name": 0x10003, "origin": 100, "header": self.HEADER,
                "number_at": self.NUMBER_AT, "value": b"flow", "flow": b"\xff" * 4}
        device.post(version, **good | lie)

    def send(self, device, seq, payload, flow=b"flow"):
        """A packet; (at, placed, posting) as its descriptor says, and what is in the buffer."""
        raw = (flow + struct.pack("!I", seq & 0xFFFFFFFF)).ljust(self.HEADER, b"h") + payload
        device.source[:len(raw)] = raw
        cookie = seq % 256
        assert device.send(cookie, [(0, 10, 1), (10, len(raw) - 10, 1)]) == (cookie, 0)
        entry = device.rx.take()
        slot, start, length = struct.unpack_from("=III", entry)
        at, placed, posting = struct.unpack_from("=IHH", entry, 24)
        assert length + placed == len(raw)
        where = slot % 8 * SLOT + start
        return at, placed, posting, bytes(device.room[where:where + length])

    def untouched(self, device):
        return bytes(device.memory) == b"." * len(device.memory)

    def test_payload_goes_to_its_place_once(self, device):
        self.post(device)
        assert self.send(device, 100, b"a" * 500)[:3] == (0, 500, 1)
        assert self.send(device, 700, b"b" * 100)[:3] == (600, 100, 1)      # behind a gap
        for seq in (100, 600, 699, 99, 100 + self.ROOM, 50):
            assert self.send(device, seq, b"x" * 100)[:3] == (3, 0, 1)
        assert self.send(device, 800, b"x" * 10, b"wolf")[:3] == (1, 0, 1)
        assert self.send(device, 800, b"c" * 20000)[1:3] == (self.ROOM - 700, 1)
        memory = bytes(device.memory)
        assert memory[:4096] == b"." * 4096
        assert memory[4096:] == b"a" * 500 + b"." * 100 + b"b" * 100 + b"c" * (self.ROOM - 700) + b"." * 4096
        assert device.counts["placed"] == 3
        assert device.refused() == {}

    @pytest.mark.parametrize("lie", [
        {"offset": 8193 + 4096}, {"offset": 1 << 63}, {"offset": (1 << 64) - 4096}, {"length": 1 << 30}, {"length": 0},
        {"length": 0xFFFFFFFF}, {"length": 20481}, {"name": 3}, {"name": 0x20003}, {"name": 0x10004},
        {"name": 0xFFFFFFFF}, {"header": 0}, {"header": 3}, {"header": POSTING_HEADER + 1}, {"header": 0xFFFF},
        {"number_at": 13}, {"number_at": 0xFFFF}, {"number_at": 0xFFFD}], ids=str)
    def test_memory_or_rules_that_cannot_be(self, device, lie):
        self.post(device, **lie)
        at, placed, _, body = self.send(device, 100, b"a" * 500)
        assert (at, placed, body[-500:]) == (5, 0, b"a" * 500)
        assert self.send(device, 600, b"a" * 500)[:2] == (5, 0)
        assert self.untouched(device)
        assert device.refused() == {"bad_posting": 1}
        self.post(device, 2)
        assert self.send(device, 100, b"a")[:3] == (0, 1, 2)

    def test_a_region_that_can_shrink_or_is_none(self, device):
        fd, memory = memory_file(1 << 16, sealed=False)
        r, w = os.pipe()
        for k, bad in enumerate((fd, r, w)):
            device.tell_sink(0x20003, bad)
            self.post(device, k + 1, name=0x20003)
            assert self.send(device, 100, b"a" * 500)[:2] == (5, 0)
        memory.close()
        for one in (fd, r, w):
            os.close(one)

    def test_a_region_that_was_forgotten(self, device):
        self.post(device)
        assert self.send(device, 100, b"a" * 5)[:2] == (0, 5)
        device.tell_sink(0x10003, device.sink, FORGET)
        self.post(device, 2)
        assert self.send(device, 100, b"a" * 500)[:2] == (5, 0)

    def test_a_flood_of_regions(self, device):
        for k in range(100):
            device.tell_sink(0x10000 + k, device.sink)
        self.post(device, name=0x10000 + 99)
        while self.send(device, 100, b"a" * 500)[0] == 5:
            self.post(device, device.posted + 1, name=0x10000 + 99)
        assert bytes(device.memory[4096:4596]) == b"a" * 500

    def test_what_was_taken_back_is_not_written_to(self, device):
        self.post(device)
        assert self.send(device, 100, b"a" * 100)[:2] == (0, 100)
        device.face[AT_POSTING + 4:AT_POSTING + 8] = struct.pack("=I", 300)     # floor
        assert self.send(device, 200, b"b" * 100)[:2] == (4, 0)
        assert self.send(device, 400, b"c" * 100)[:2] == (300, 100)
        device.face[AT_POSTING:AT_POSTING + 4] = bytes(4)
        assert self.send(device, 500, b"d" * 100)[:3] == (0, 0, 0)
        assert bytes(device.memory[4096:4596]) == b"a" * 100 + b"." * 200 + b"c" * 100 + b"." * 100

    def test_a_posting_that_changes_while_it_is_read(self, device):
        """A thread rewrites it all the time: whatever is believed lies inside, and around it nothing changes."""
        stop = threading.Event()

        def flip():
            version = 1
            while not stop.is_set():
                version = version % 1000 + 1
                self.post(device, version)
                self.post(device, version, offset=4096 + version, length=(1 << 30) - version)
                self.post(device, version, header=0xFFFF, number_at=0xFFFF)

        thread = threading.Thread(target=flip)
        thread.start()
        try:
            for k in range(500):
                _, n, _, body = self.send(device, 100 + k * 30, b"p" * 3000)
                assert len(body) == self.HEADER + 3000 - n
        finally:
            stop.set()
            thread.join()
        memory = bytes(device.memory)
        assert memory[:4096] == b"." * 4096
        assert memory[4096 + self.ROOM:] == b"." * 4096
        assert set(device.refused()) <= {"bad_posting"}
