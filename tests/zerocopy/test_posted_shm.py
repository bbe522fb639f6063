"""Receives posted over SharedMemory: the other side's device puts payload in its place, also where we may not look."""

import contextlib
import gc
import mmap
import os
import random
import signal
import socket
import struct

import pytest
from beds import FAR, NEAR, PATIENCE, connected, copied
from dark import DarkRegion
from direct_beds import counted
from helpers import Background

import ustack
from ustack.buffers import Region

DATA = random.Random(31).randbytes(2_000_003)
AT_POSTING = 32768 + 65536 - 4096               # in a face


class Bed:
    """Two stacks over a SharedMemory link; ``left`` and ``right`` are its ends."""

    def __init__(self, impair=None, **options):
        self.near, self.far = ustack.Stack(), ustack.Stack()
        self.left, self.right = ustack.SharedMemory.pair(**options)
        wire = ustack.Impair(self.left, seed=3, tx=impair) if impair else self.left
        for net, link, *addresses in (self.near, wire, f"{NEAR}/24", "fd00::1/64"), (
                self.far, self.right, f"{FAR}/24", "fd00::2/64"):
            net.add_interface(link, addresses=addresses if self.left.layer == 3 else addresses[:1])
        self.face = mmap.mmap(self.right.descriptors["face"], 0)

    def posted(self):
        """What the receiving end counts of posted receives, where that is not zero."""
        return {name: n for name, n in self.right.shared["posted"].items() if n}

    def wait_posted(self):
        """Until the device may know of a receive."""
        while not struct.unpack_from("=i", self.face, AT_POSTING)[0]:
            os.sched_yield()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.near.close()
        self.far.close()
        self.face.close()


@pytest.fixture
def memory():
    region = Region(len(DATA), peers=True)
    with ustack.register(region) as memory:
        if not memory.pinned:
            pytest.skip("receives are posted in pinned memory")
        yield memoryview(region)[:len(DATA)]


@pytest.mark.parametrize("options", [{}, {"layer": 2, "mtu": 1500}, {"device": "thread", "mtu": 9000}], ids=str)
def test_nobody_here_touches_what_is_put_in_its_place(options):
    """Neither mapped for reading nor for writing, the memory is filled all the same."""
    with Bed(**options) as bed, connected(bed.near, bed.far) as (c, s), DarkRegion(len(DATA), peers=True) as memory:
        with ustack.register(memory.region) as registered:
            if not registered.pinned:
                pytest.skip("receives are posted in pinned memory")
            with memory.dark():
                taking = Background(s.recv_posted, memory.region, len(DATA))
                bed.wait_posted()
                c.sendall(DATA)
                assert taking.result(PATIENCE) == len(DATA)
            assert memory.read(0, len(DATA)) == DATA
            assert set(copied(bed.far)) <= {"rx.ring"}      # acknowledgements, and what was sent twice
            assert counted(bed.far, "posted.")["hit_bytes"] == len(DATA)
            found = bed.posted()
            assert found.pop("placed") == counted(bed.far, "posted.")["hit"]
            found.pop("passed_order", 0)                    # what was sent twice
            assert found == {"placed_bytes": len(DATA), "regions": 1}


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize("outboard", [False, True])
def test_checksums_are_verified_as_ever(memory, outboard, ip):
    """Without offloads the stack sums what lies in place; with a device that sums on its way, the device."""
    with Bed(mtu=1500, offloads=["csum"] if outboard else False, outboard=outboard) as bed:
        far, family = ("fd00::2", socket.AF_INET6) if ip == 6 else (FAR, socket.AF_INET)
        with bed.far.create_server((far, 0), family=family) as listener, bed.near.create_connection(
                listener.getsockname()[:2]) as c:
            s, _ = listener.accept()
            with s:
                s.settimeout(PATIENCE)
                taking = Background(s.recv_posted, memory)
                bed.wait_posted()
                c.sendall(DATA)
                assert taking.result(PATIENCE) == len(DATA)
        assert memory == DATA
        assert bed.posted()["placed_bytes"] == len(DATA)
        assert (copied(bed.far).get("rx.checksum", 0) >= len(DATA)) == (not outboard)
        assert (bed.left.shared["device"]["summed"] > 1000) == outboard
        assert "rx.copy" not in copied(bed.far)
        assert "tcp.bad_checksum" not in bed.far.stats()


def test_what_came_before_it_was_posted_is_copied(memory):
    """The sender does not wait for anybody: each byte is put in place or copied once, and lies where it belongs."""
    with Bed() as bed, connected(bed.near, bed.far) as (c, s):
        sending = Background(c.sendall, DATA * 5)
        for _ in range(5):
            assert s.recv_posted(memory) == len(DATA)
            assert memory == DATA
            memory[:] = bytes(len(DATA))
        sending.result(PATIENCE)
        hit = counted(bed.far, "posted.").get("hit_bytes", 0)
        assert hit + copied(bed.far).get("rx.copy", 0) == 5 * len(DATA)
        assert "bad_placed" not in bed.posted()


@pytest.mark.parametrize("fates", [
    {"reorder": 0.05, "reorder_delay": 0.0005}, {"loss": 0.01, "duplicate": 0.02},
    {"corrupt": 0.02, "duplicate": 0.05, "reorder": 0.02, "reorder_delay": 0.001}], ids=str)
def test_the_same_bytes_by_a_bad_wire(memory, fates):
    """Lost, doubled, late and corrupted packets, calls that end early, and a program that scribbles over its memory."""
    dice = random.Random(9)
    data = DATA[:700_000]
    got = bytearray()
    with Bed(fates, mtu=1500, offloads=["csum"]) as bed, connected(bed.near, bed.far) as (c, s):
        sending = Background(c.sendall, data)
        while len(got) < len(data):
            s.settimeout(dice.choice((0.0005, 0.003, PATIENCE)))
            n = min(dice.choice((600, 5000, 100_000, 300_000)), len(data) - len(got))
            at = dice.randrange(5000)
            with contextlib.suppress(TimeoutError):
                got += memory[at:at + s.recv_posted(memory[at:at + n])]
            memory[:] = bytes(len(DATA))
        sending.result(PATIENCE)
        assert got == data
        assert {"bad_placed", "stray"}.isdisjoint(bed.posted())
        assert bed.right.error is None


def test_memory_that_others_may_not_write_to_is_copied_into():
    region = Region(len(DATA))
    with Bed() as bed, connected(bed.near, bed.far) as (c, s), ustack.register(region) as registered:
        taking = Background(s.recv_posted, region, len(DATA))
        c.sendall(DATA)
        assert taking.result(PATIENCE) == len(DATA)
        assert memoryview(region)[:len(DATA)] == DATA
        assert bed.posted() == {}
        if registered.pinned:
            assert "hit" not in counted(bed.far, "posted.")


def test_other_connections_pass_by(memory):
    with Bed() as bed, connected(bed.near, bed.far) as (c, s), connected(bed.near, bed.far) as (c2, s2):
        taking = Background(s.recv_posted, memory)
        bed.wait_posted()
        c2.sendall(DATA[:50_000])
        assert s2.recv(50_000, socket.MSG_WAITALL) == DATA[:50_000]
        c.sendall(DATA)
        assert taking.result(PATIENCE) == len(DATA)
        assert memory == DATA
        assert bed.posted()["passed_flow"] >= 1
        assert bed.posted()["placed_bytes"] == len(DATA)


def test_the_end_of_a_stream_is_none_of_its_business(memory):
    with Bed() as bed, connected(bed.near, bed.far) as (c, s):
        taking = Background(s.recv_posted, memory)
        bed.wait_posted()
        c.sendall(DATA[:3000])
        c.shutdown(socket.SHUT_WR)
        assert taking.result(PATIENCE) == 3000
        assert s.recv_posted(memory) == 0
        assert memory[:3000] == DATA[:3000]


def test_a_device_that_dies(memory):
    """The other side's device is killed while a receive is posted: the link ends, and the memory is the program's."""
    with Bed() as bed, connected(bed.near, bed.far) as (_, s):
        taking = Background(s.recv_posted, memory)
        bed.wait_posted()
        os.kill(bed.left.device_pid, signal.SIGKILL)
        while bed.right.error is None:
            os.sched_yield()
        s.close()
        with pytest.raises(OSError, match="Bad file"):
            taking.result(PATIENCE)
        assert struct.unpack_from("=i", bed.face, AT_POSTING)[0] == 0


def test_closing_the_stack_meanwhile(memory):
    with Bed() as bed, connected(bed.near, bed.far) as (_, s):
        taking = Background(s.recv_posted, memory)
        bed.wait_posted()
        bed.far.close()
        with pytest.raises(OSError, match="Bad file"):
            taking.result(PATIENCE)
        assert struct.unpack_from("=i", bed.face, AT_POSTING)[0] == 0


def test_devices_forget_memory_that_is_gone():
    def knows(bed, file):
        with open(f"/proc/{bed.left.device_pid}/maps") as maps:
            return any(line.split()[4] == str(file) for line in maps)

    with Bed() as bed, connected(bed.near, bed.far) as (c, s):
        region = Region(10_000, peers=True)
        file = os.fstat(region.fileno()).st_ino
        with ustack.register(region) as registered:
            if not registered.pinned:
                pytest.skip("receives are posted in pinned memory")
            taking = Background(s.recv_posted, region, 1000)
            bed.wait_posted()
            c.sendall(DATA[:1000])
            assert taking.result(PATIENCE) == 1000
        assert bed.posted()["placed_bytes"] == 1000
        assert knows(bed, file)
        del region, registered, taking
        gc.collect()
        while knows(bed, file):
            c.sendall(b"x")
            s.recv(1)
