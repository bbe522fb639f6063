"""Receiving into a mapped file that is cut: an error or a short count, never a crash; no byte of a stream is lost."""

import contextlib
import ctypes
import errno
import mmap
import os
import random
import select
import socket
import tempfile

import pytest
from beds import FAR, NEAR, PATIENCE, connected, copied, two_stacks
from helpers import Background

import ustack

PAGE = mmap.PAGESIZE
SIZE = 16 * PAGE
DATA = random.Random(4).randbytes(SIZE)


@pytest.fixture
def file():
    with tempfile.TemporaryFile() as f:
        os.ftruncate(f.fileno(), SIZE)
        yield f


@pytest.fixture
def mapped(file):
    with mmap.mmap(file.fileno(), SIZE) as memory:
        yield memory


def arrived(s, n):
    while len(s.recv(n, socket.MSG_PEEK)) < n:
        os.sched_yield()


@pytest.mark.parametrize("view", ["mmap", "memoryview", "array", "scattered"])
def test_what_has_no_place_is_the_next_to_be_received(file, mapped, view):
    """A page and a half is left of the file: two pages are, for the kernel; the rest of the stream waits."""
    place = {"mmap": lambda: mapped, "memoryview": lambda: memoryview(mapped), "scattered": lambda: memoryview(mapped),
             "array": lambda: (ctypes.c_char * SIZE).from_buffer(mapped)}[view]()
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        c.sendall(DATA)
        arrived(s, SIZE)
        os.ftruncate(file.fileno(), PAGE + PAGE // 2)

        def receive():
            if view == "scattered":
                return s.recvmsg_into([place[:100], place[100:5000], place[5000:]])[0]
            return s.recv_into(place)

        assert receive() == 2 * PAGE
        assert mapped[:2 * PAGE] == DATA[:2 * PAGE]
        place = memoryview(mapped)[2 * PAGE:]
        for _ in range(2):
            with pytest.raises(OSError, match="cut") as caught:
                s.recv_into(place)
            assert caught.value.errno == errno.EFAULT
        assert s.recv(SIZE) == DATA[2 * PAGE:]
        c.sendall(b"more")
        assert s.recv(10) == b"more"
        assert copied(far)["rx.copy"] >= SIZE
        place.release()


@pytest.mark.parametrize("flags", [socket.MSG_PEEK, socket.MSG_WAITALL, socket.MSG_DONTWAIT])
def test_flags(file, mapped, flags):
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        c.sendall(DATA)
        arrived(s, SIZE)
        os.ftruncate(file.fileno(), PAGE)
        assert s.recv_into(mapped, 0, flags) == PAGE
        rest = DATA if flags == socket.MSG_PEEK else DATA[PAGE:]
        assert s.recv(len(rest), socket.MSG_WAITALL) == rest


def test_who_waits_is_told_of_what_came_back(file, mapped):
    """Readiness by a descriptor, and by a thread that waits, is as it was before the call."""
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        os.ftruncate(file.fileno(), 0)
        c.sendall(DATA)
        arrived(s, SIZE)
        assert select.select([s], [], [], PATIENCE)[0]
        with pytest.raises(OSError, match="cut"):
            s.recv_into(mapped)
        assert select.select([s], [], [], PATIENCE)[0]
        assert s.recv(SIZE) == DATA


def test_the_end_of_the_stream_waits_behind_it(file, mapped):
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        c.sendall(DATA)
        c.shutdown(socket.SHUT_WR)
        arrived(s, SIZE)
        os.ftruncate(file.fileno(), PAGE)
        assert s.recv_into(mapped) == PAGE
        with pytest.raises(OSError, match="cut"):
            s.recv_into(memoryview(mapped)[PAGE:])
        assert s.recv(2 * SIZE, socket.MSG_WAITALL) == DATA[PAGE:]
        assert s.recv(1) == b""


@pytest.mark.parametrize("call", ["recv_into", "recvfrom_into", "recvmsg_into", "recvmmsg_into"])
def test_datagrams_are_lost_and_the_next_one_comes(file, mapped, call):
    os.ftruncate(file.fileno(), 0)
    with two_stacks() as (near, far), near.socket(type=socket.SOCK_DGRAM) as a, far.socket(
            type=socket.SOCK_DGRAM) as b:
        a.bind((NEAR, 0))
        b.bind((FAR, 0))
        b.settimeout(PATIENCE)
        a.sendto(b"first", b.getsockname())
        with pytest.raises(OSError, match="cut"):
            {"recvmsg_into": lambda: b.recvmsg_into([mapped]), "recvmmsg_into": lambda: b.recvmmsg_into(mapped, 100),
             }.get(call, lambda: getattr(b, call)(mapped))()
        a.sendto(b"second", b.getsockname())
        assert b.recv(100) == b"second"


def test_cut_at_any_moment(file, mapped):
    """A file that grows and is cut under a receiver: whatever it is told to have received is the stream."""
    dice = random.Random(6)
    total = 200 * SIZE
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        sending = Background(lambda: [c.sendall(DATA) for _ in range(total // SIZE)])
        at = 0
        while at < total:
            cut = Background(os.ftruncate, file.fileno(), dice.randrange(SIZE))
            with contextlib.suppress(OSError):
                at += s.recv_into(mapped)
            cut.result(PATIENCE)
            os.ftruncate(file.fileno(), SIZE)
            n = min(total - at, PAGE)
            assert s.recv(n, socket.MSG_WAITALL) == (DATA * 2)[at % SIZE:at % SIZE + n]
            at += n
        sending.result(PATIENCE)


def test_registered_or_posted(file, mapped):
    """Pages of a file are not pinned by registering them: a posted receive copies, and meets the same end."""
    with two_stacks() as (near, far), connected(near, far) as (c, s), ustack.register(mapped) as memory:
        assert not memory.pinned
        c.sendall(DATA)
        arrived(s, SIZE)
        os.ftruncate(file.fileno(), PAGE)
        assert s.recv_posted(mapped) == PAGE
        assert s.recv(SIZE - PAGE, socket.MSG_WAITALL) == DATA[PAGE:]
