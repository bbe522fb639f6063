"""The other process lies: about its memory, its entries, what it has finished. Nobody else is harmed."""

import array
import fcntl
import gc
import mmap
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack import via
from ustack.via import Reliability, State, Status

PATIENCE = 60
LANE_BYTES, FIRST, SLOTS, ENTRY = 20480, 4096, 256, 64
HELLO, LEND = 0x56494131, 2
SEND, ERROR, CONNECT, ACCEPT, REJECT, DISCONNECT = range(1, 7)
CONTROL = struct.Struct("<IIQQ")
HEAD = struct.Struct("<IBBBBIIIII")                         # what follows the stamp, up to the segments
SEGMENT = struct.Struct("<IIQ")
ADD_SEALS, SHRINK, GROW = 1033, 2, 4


def memory_file(length, seals=SHRINK | GROW):
    fd = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, length)
    fcntl.fcntl(fd, ADD_SEALS, seals)
    return fd


def descriptors():
    """How many are open, without what only the collector has to close."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Liar:
    """Speaks the protocol of shared memory by hand, and need not tell the truth."""

    def __init__(self, nic, *, seals=SHRINK | GROW, length=LANE_BYTES, magic=0x76696131, hello=None):
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd, self.wake = memory_file(length, seals), os.eventfd(0)
        self.mine = mmap.mmap(fd, length)
        if length >= 12:
            self.mine[:12] = struct.pack("<III", magic, 1, SLOTS)
        socket.send_fds(self.sock, [CONTROL.pack(HELLO, 0, 0, LANE_BYTES) if hello is None else hello], [fd, self.wake])
        os.close(fd)
        self.files, self.at, self.port = [], 0, None
        try:
            self.port = nic.attach(ours, timeout=PATIENCE)
            _, fds, _, _ = socket.recv_fds(self.sock, 64, 2)
            self.theirs = mmap.mmap(fds[0], LANE_BYTES, prot=mmap.PROT_READ)
            with pytest.raises(PermissionError):            # sealed: what they wrote is theirs
                mmap.mmap(fds[0], LANE_BYTES)
            self.files = fds
        except BaseException:
            self.close()
            raise

    def close(self):
        for fd in (*self.files, self.wake):
            os.close(fd)
        self.mine.close()
        if hasattr(self, "theirs"):
            self.theirs.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def lend(self, handle, fd, offset, length):
        socket.send_fds(self.sock, [CONTROL.pack(LEND, handle, offset, length)], [fd])

    def put(self, kind, *, to=0, source=1, flags=0, n=0, immediate=0, length=0, about=0, ack=0, segments=(), raw=None):
        body = raw if raw is not None else HEAD.pack(ack, kind, flags, n, 0, to, source, immediate, length, about)
        slot = FIRST + self.at % SLOTS * ENTRY
        body = body.ljust(28, b"\0") + b"".join(SEGMENT.pack(*s) for s in segments)
        self.mine[slot + 4:slot + ENTRY] = body[:ENTRY - 4].ljust(ENTRY - 4, b"\0")
        self.mine[slot:slot + 4] = struct.pack("<I", self.at + 1 & 0xFFFFFFFF)
        self.at += 1

    def entries(self):
        """The kinds that we were sent."""
        kinds = []
        for k in range(SLOTS):
            slot = FIRST + k * ENTRY
            if struct.unpack_from("<I", self.theirs, slot)[0] == k + 1:
                kinds.append(self.theirs[slot + 8])
        return kinds

    def connect(self, nic, ptag, listener, **more):
        """A VI of the NIC, connected to our VI 1."""
        vi = via.Vi(nic, ptag, **more)
        request = struct.pack("<IBBBBIIIII", 0, CONNECT, more.get("reliability", 2), 1, 0, 0, 1, 0,
                              more.get("max_transfer", 1 << 20), 9)
        self.put(0, raw=request + b"s".ljust(32, b"\0"))
        listener.wait(PATIENCE).accept(vi)
        return vi


@pytest.fixture
def nic():
    with via.Nic() as one:
        yield one


@pytest.fixture
def bystanders(nic):
    """A connection on the same NIC that goes on, whatever happens."""
    ptag = nic.ptag()
    a, b = via.Vi(nic, ptag), via.Vi(nic, ptag)
    via.pair(a, b)
    source, target = via.buffers(nic, ptag, 64, 2)

    def check():
        source.copy_in(b"unharmed")
        b.post_recv(target)
        a.post_send(source)
        assert (a.send_done(), b.recv_done()) == (source, target)
        assert bytes(target.data[:8]) == b"unharmed"
        assert (a.state, b.state) == (State.CONNECTED, State.CONNECTED)

    yield check
    check()


def test_the_vocabulary_of_these_tests_can_also_tell_the_truth(nic, bystanders):
    ptag = nic.ptag()
    with via.Listener(nic, b"s") as listener, Liar(nic) as peer:
        vi = peer.connect(nic, ptag, listener)
        assert peer.entries() == [ACCEPT]
        target = via.buffers(nic, ptag, 64, 1)[0]
        vi.post_recv(target)
        fd = memory_file(4096)
        os.pwrite(fd, b"honest", 100)
        peer.lend(7, fd, 0, 4096)
        os.close(fd)
        peer.put(SEND, to=vi.id, n=1, length=6, segments=[(7, 6, 100)], flags=1, immediate=5)
        assert vi.recv_wait(PATIENCE) is target
        assert (bytes(target.data[:6]), target.immediate) == (b"honest", 5)


@pytest.mark.parametrize("lie", [
    {"segments": [(7, 64, 4033)]}, {"segments": [(7, 64, 1 << 63)]}, {"segments": [(7, 64, (1 << 64) - 8)]},
    {"segments": [(8, 64, 0)]}, {"segments": [(0, 64, 0)]}, {"segments": [(7 + 1024, 64, 0)]}, {"length": 63},
    {"length": 65},
    {"n": 0}, {"n": 2, "segments": [(7, 32, 0), (7, 33, 0)]}, {"segments": [(7, 0xFFFFFFFF, 0)], "length": 0xFFFFFFFF},
])
@pytest.mark.parametrize("reliability", [Reliability.UD, Reliability.RD, Reliability.RR])
def test_an_entry_that_lies_about_memory(nic, bystanders, lie, reliability):
    ptag = nic.ptag()
    with via.Listener(nic, b"s") as listener, Liar(nic) as peer:
        vi, other = (peer.connect(nic, ptag, listener, reliability=reliability) for _ in range(2))
        target = via.buffers(nic, ptag, 64, 1)[0]
        vi.post_recv(target)
        fd = memory_file(4096)
        peer.lend(7, fd, 0, 4096)
        os.close(fd)
        peer.put(SEND, **{"to": vi.id, "n": 1, "length": 64, "segments": [(7, 64, 0)]} | lie)
        nic.poll()
        assert nic.stats()["via.bad_range"] == 1
        assert bytes(target.data) == bytes(64)
        if reliability == Reliability.UD:
            assert vi.state == State.CONNECTED
        else:
            assert vi.state == State.ERROR
            assert vi.recv_done().status & Status.DESC_FLUSHED_ERROR
            assert peer.entries()[-1] == ERROR
        assert other.state == State.CONNECTED
        assert peer.port.connected


@pytest.mark.parametrize("entry", [
    {"kind": 0}, {"kind": 7}, {"kind": 255}, {"kind": SEND, "n": 17}, {"kind": SEND, "n": 255}, {"kind": SEND, "n": 5},
    {"kind": ERROR, "about": 0, "length": 0x40}, {"kind": ERROR, "about": 1 << 31, "length": 0x40},
    {"kind": CONNECT, "n": 33}, {"kind": DISCONNECT, "ack": 2}, {"kind": DISCONNECT, "ack": (1 << 31) - 1},
])
def test_an_entry_that_cannot_be_ends_the_port_and_nothing_else(nic, bystanders, entry):
    with Liar(nic) as peer:
        peer.put(**entry)
        nic.poll()
        assert not peer.port.connected
        assert nic.stats()["via.hostile"] == 1
        assert nic.errors() == [("CATASTROPHIC", 0)]


def test_a_done_word_that_cannot_be(nic, bystanders):
    with Liar(nic) as peer:
        peer.mine[256:260] = struct.pack("<I", 5)
        nic.poll()
        assert not peer.port.connected
        assert nic.stats()["via.hostile"] == 1


@pytest.mark.parametrize("entry", [
    {"kind": SEND, "to": 0}, {"kind": SEND, "to": 0xFFFFFFFF}, {"kind": ACCEPT, "to": 0x10005},
    {"kind": REJECT, "to": 3},
    {"kind": DISCONNECT, "to": 0x10000}, {"kind": DISCONNECT, "to": 0x10001}, {"kind": SEND, "to": 0x10000},
])
def test_entries_for_vis_of_somebody_else_are_dropped(nic, bystanders, entry):
    with Liar(nic) as peer:
        peer.put(**entry)
        nic.poll()
        bystanders()
        assert nic.stats()["via.stale"] == 1
        assert peer.port.connected


def test_a_connection_cannot_be_used_by_another_vi_or_process(nic, bystanders):
    ptag = nic.ptag()
    with via.Listener(nic, b"s") as listener, Liar(nic) as peer, Liar(nic) as third:
        vi = peer.connect(nic, ptag, listener)
        vi.post_recv(via.buffers(nic, ptag, 64, 1)[0])
        third.put(SEND, to=vi.id)
        third.put(DISCONNECT, to=vi.id)
        peer.put(SEND, to=vi.id, source=2)
        peer.put(DISCONNECT, to=vi.id, source=2)
        nic.poll()
        assert nic.stats()["via.stale"] == 4
        assert vi.recv_done() is None
        assert vi.state == State.CONNECTED


@pytest.mark.parametrize("more", [
    {"seals": 0}, {"seals": GROW}, {"length": 4096}, {"magic": 1}, {"hello": b"short"}, {"hello": bytes(24)},
])
def test_a_greeting_that_is_none(nic, bystanders, more):
    before = descriptors()
    with pytest.raises(via.ViaError) as caught:
        Liar(nic, **more)
    assert caught.value.code == via.Code.NOT_REACHABLE
    del caught
    assert descriptors() == before


@pytest.mark.parametrize("what", ["unsealed", "too long", "offset", "no descriptor", "unknown", "short"])
def test_memory_that_cannot_be_lent_ends_the_port(nic, bystanders, what):
    with Liar(nic) as peer:
        fd = memory_file(4096, 0 if what == "unsealed" else SHRINK)
        if what in ("no descriptor", "short"):
            peer.sock.send(b"x" if what == "short" else CONTROL.pack(LEND, 7, 0, 4096))
        else:
            kind, offset, length = LEND, 0, 4096
            if what == "unknown":
                kind = 9
            elif what == "offset":
                offset = 4096
            elif what == "too long":
                length = 4097
            socket.send_fds(peer.sock, [CONTROL.pack(kind, 7, offset, length)], [fd])
        os.close(fd)
        nic.poll()
        assert not peer.port.connected


def test_many_descriptors_at_once_are_all_closed(nic, bystanders):
    with Liar(nic) as peer:
        fds = array.array("i", [peer.wake] * 20)
        before = descriptors()
        peer.sock.sendmsg([CONTROL.pack(LEND, 7, 0, 1)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        nic.poll()
        assert not peer.port.connected
        assert descriptors() == before - 4                  # the socket, what wakes the other, and two segments


def test_who_never_reads_is_given_up_when_it_must_be_told_something(nic, bystanders):
    """Errors need a slot each: a peer that provokes them and takes none is cut off, not waited for."""
    with Liar(nic) as peer:
        for k in range(SLOTS + 10):
            peer.put(0, raw=struct.pack("<IBBBBIIIII", 0, CONNECT, 2, 1, 0, 0, k, 0, 1, 9) + b"?" * 32)
            nic.poll()
        assert nic.stats()["via.no_match"] == SLOTS + 10
        assert len(peer.entries()) == SLOTS
        assert peer.port.connected                          # what is lost are refusals: a time-out tells the same


@given(st.lists(st.binary(min_size=60, max_size=60), max_size=20), st.integers(0, 2**32 - 1), st.binary(max_size=40))
def test_any_bytes_in_the_lane_and_on_the_socket(entries, done, told):
    with via.Nic() as nic, via.Listener(nic, b"s") as listener, Liar(nic) as peer:
        ptag = nic.ptag()
        vi = peer.connect(nic, ptag, listener, reliability=Reliability.UD)
        for buffer in via.buffers(nic, ptag, 64, 4):
            vi.post_recv(buffer)
        fd = memory_file(4096)
        peer.lend(7, fd, 0, 4096)
        os.close(fd)
        for raw in entries:
            kind = bytes([raw[4] % 8])
            peer.put(0, raw=bytes(4) + kind + raw[5:] if raw[0] % 2 else raw)
        if done % 3 == 0:
            peer.mine[256:260] = struct.pack("<I", done)
        if told:
            peer.sock.send(told)
        for _ in range(3):
            nic.poll()
        assert vi.state in (State.CONNECTED, State.ERROR)


def test_another_process_that_sprays_its_memory_while_we_read_it(nic, bystanders):
    """A real process that overwrites entries, stamps and words all the time; we look meanwhile."""
    program = Path(__file__).with_name("sprayer.py")
    for seed in range(3):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen([sys.executable, "-P", str(program), str(theirs.fileno()), str(seed)],
                                       pass_fds=[theirs.fileno()])
        try:
            port = nic.attach(ours, timeout=PATIENCE)
            for k in range(3000):
                nic.poll()
                if k % 100 == 0:
                    bystanders()
                if not port.connected:                      # it has been found out
                    break
        finally:
            process.kill()
            process.wait(PATIENCE)
        nic.poll()
        assert not port.connected
