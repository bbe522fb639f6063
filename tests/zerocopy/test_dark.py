"""TCP whose payload the stack's process cannot touch: SharedMemory devices gather it, and the bytes arrive."""

import contextlib
import os
import random
import signal
import socket
import tempfile

import pytest
from beds import PATIENCE, connected, reading
from dark import DarkRegion, copied_out, dark_stacks

import ustack
from ustack._core.py.probe_shm import completed, darken_files, queue_external

SIZE = 1 << 20
DATA = random.Random(5).randbytes(SIZE)


def send_dark(c, memory, n, piece):
    """Queue the region piece by piece, as it lies there."""
    at = 0
    while at < n:
        took = queue_external(c, memory.address + at, min(piece, n - at))
        assert took > 0
        at += took


@pytest.mark.parametrize("outboard", [False, True])
@pytest.mark.parametrize("offloads", [True, ["csum"]])
@pytest.mark.parametrize("piece", [SIZE, 10_000])
def test_payload_in_the_dark_arrives(piece, offloads, outboard):
    """Every byte is as it was, none was copied, and all of the memory is let go when it is acknowledged."""
    before = completed()
    options = {"offloads": offloads, "outboard": outboard, "mtu": 1500 if offloads is not True else 9000}
    with (dark_stacks(options) as (near, far), connected(near, far) as (c, s), DarkRegion(SIZE) as memory,
          memory.dark()):
        memory.write(0, DATA)
        with reading(s) as got:
            send_dark(c, memory, SIZE, piece)
            c.shutdown(1)
        assert got.result(PATIENCE) == DATA
        assert copied_out(near) == {}
        assert near.ledger()["device.tx"][0] > SIZE
    assert completed() - before == -(-SIZE // piece)


def test_the_proof_can_fail():
    """A device that wants other alignment has the stack copy what it must not touch: it dies of it."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        with (dark_stacks({"align": 64, "device": "thread"}) as (near, far), connected(near, far) as (c, s),
              DarkRegion(SIZE) as memory, memory.dark(), reading(s)):
            queue_external(c, memory.address + 1, 10_000)
            c.shutdown(1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV


@contextlib.contextmanager
def file_of(data):
    """A file with these bytes, and no window on it left behind."""
    with tempfile.TemporaryFile() as f:
        f.write(data)
        f.flush()
        yield f
    ustack.drop_file_windows()


@contextlib.contextmanager
def dark_files():
    darken_files(True)
    try:
        yield
    finally:
        darken_files(False)


@pytest.mark.parametrize("at", [0, 4097, (2 << 20) - 5])
def test_a_file_is_sent_by_who_could_not_read_it(at):
    """sendfile in place: descriptors of the page cache enter the stack, and its device maps the file by itself."""
    body = DATA[:700_001] * 5
    with (file_of(body) as f, dark_stacks() as (near, far), connected(near, far) as (c, s), reading(s) as got,
          dark_files()):
        assert c.sendfile(f, at, how="gather") == len(body) - at
        c.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == body[at:]
        assert copied_out(near) == {}
        assert near.stats()["file.gathered"] >= 2


def test_the_proof_of_files_can_fail():
    """Where it is copied nothing is sent: whoever copies a file in the dark finds that none of it is there."""
    pid = os.fork()
    if pid == 0:
        with (file_of(DATA) as f, dark_stacks({"device": "thread"}) as (near, far), connected(near, far) as (c, _s),
              dark_files()):
            sent = 0
            with contextlib.suppress(OSError):
                sent = c.sendfile(f, how="mmap")
            os._exit(sent != 0)
    assert os.waitpid(pid, 0)[1] == 0


def test_descriptors_of_files_are_kept_only_while_a_device_can_use_them():
    def held():
        return [name for name in map(os.readlink, descriptors()) if name == mine]

    def descriptors():
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                os.stat(path := f"/proc/self/fd/{fd}")
                yield path

    with file_of(DATA) as f:
        mine = os.readlink(f"/proc/self/fd/{f.fileno()}")
        with dark_stacks() as (near, far), connected(near, far) as (c, s), reading(s):
            assert c.sendfile(f, how="gather") == SIZE
            assert len(held()) == 3         # and one to ask how long the file is
            c.shutdown(socket.SHUT_WR)
        ustack.drop_file_windows()
        assert len(held()) == 1


def test_pages_that_vanish_before_the_device_reads_them_end_the_connection_with_an_error():
    """As over a TAP: EIO here, a reset there, and no wrong byte. The device serves other connections as before."""
    size = 3_000_000
    body = (DATA * 3)[:size].replace(b"\0", b"\1")
    with (file_of(body) as f, dark_stacks() as (near, far), connected(near, far) as (c, s),
          connected(near, far) as (other, its_peer)):
        c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)
        assert c.sendfile(f, how="gather") == size      # nobody reads: most of it waits in the queue
        os.ftruncate(f.fileno(), 4096)
        got = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := s.recv(1 << 16):
                got += part
            pytest.fail("the stream ended as if it were whole")
        assert bytes(got) == body[:len(got)]
        with pytest.raises(OSError, match="Input/output error"):
            c.sendall(b"x")
        assert near.stats()["file.lost"] == 1
        other.sendall(b"still there")
        assert its_peer.recv(100) == b"still there"
