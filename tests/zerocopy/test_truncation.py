"""Files that shrink under a transfer. To touch a mapped page that is gone is a SIGBUS."""

import collections
import contextlib
import ctypes
import errno
import gc
import hashlib
import mmap
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap

import pytest
from beds import PATIENCE, Lossy, connected, two_stacks
from direct_beds import two_devices
from helpers import Background

import ustack
from ustack import testbed

SIZE = 40_000
DATA = random.Random(3).randbytes(SIZE).replace(b"\0", b"\1")       # so that a zero is never part of the file

TRUNCATER = """
import os, sys
fd = int(sys.argv[1])
for line in sys.stdin:
    spins, size = map(int, line.split())
    for _ in range(spins):
        pass
    os.ftruncate(fd, size)
    print("done", flush=True)
"""


class Truncater:
    """Another process that cuts a file when it is told to, after so many turns of a loop."""

    def __init__(self, f):
        self.process = subprocess.Popen([sys.executable, "-c", TRUNCATER, str(f.fileno())], pass_fds=[f.fileno()],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def cut(self, spins, size):
        self.process.stdin.write(f"{spins} {size}\n")
        self.process.stdin.flush()

    def wait(self):
        assert self.process.stdout.readline() == "done\n"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@pytest.mark.parametrize(("how", "runs"), [("mmap", 1000), ("copy", 1000), ("read", 300), ("auto", 300)])
def test_cut_by_another_process_at_any_time(how, runs):
    """No crash, no garbage; the count is what was delivered, and the connection goes on."""
    rng = random.Random(11)
    counts = set()
    with two_stacks() as (near, far), connected(near, far) as (c, s), tempfile.TemporaryFile() as f:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with Truncater(f) as other:
            for _ in range(runs):
                os.pwrite(f.fileno(), DATA, 0)
                size = rng.randrange(SIZE)
                other.cut(rng.randrange(2000), size)
                n = c.sendfile(f, how=how)
                assert size <= n <= SIZE
                assert s.recv(n, socket.MSG_WAITALL) == DATA[:n] if n else True
                other.wait()
                counts.add(n)
        assert c.sendall(b"still there") is None
        assert s.recv(100) == b"still there"
    ustack.drop_file_windows()
    assert counts


def test_a_file_that_was_cut_is_sent_as_long_as_it_is():
    rng = random.Random(12)
    with two_stacks() as (near, far), connected(near, far) as (c, s), tempfile.TemporaryFile() as f:
        os.pwrite(f.fileno(), DATA, 0)
        for _ in range(20):
            size = rng.randrange(1, SIZE)
            got = Background(s.recv, size, socket.MSG_WAITALL)
            os.ftruncate(f.fileno(), size)
            assert c.sendfile(f, how="mmap") == size
            assert got.result(PATIENCE) == DATA[:size]
            os.pwrite(f.fileno(), DATA[size:], size)


@pytest.mark.parametrize("view", [lambda m: m, memoryview, lambda m: memoryview(m)[100:]])
def test_a_mapping_of_the_programs_own_that_is_cut_under_send(view):
    """EFAULT, as of send(2), or as much as is there; the process lives, and so does the connection."""
    with two_stacks() as (near, far), connected(near, far) as (c, s), tempfile.TemporaryFile() as f:
        os.pwrite(f.fileno(), DATA, 0)
        with mmap.mmap(f.fileno(), SIZE, access=mmap.ACCESS_READ) as m:
            data = view(m)
            skipped = SIZE - len(data)
            got = Background(s.recv, SIZE - skipped, socket.MSG_WAITALL)
            assert c.sendall(data) is None
            assert got.result(PATIENCE) == DATA[skipped:]
            os.ftruncate(f.fileno(), 2 * mmap.PAGESIZE)
            there = 2 * mmap.PAGESIZE - skipped
            assert c.send(data) == there
            assert s.recv(there, socket.MSG_WAITALL) == DATA[skipped:2 * mmap.PAGESIZE]
            with pytest.raises(OSError, match="Bad address") as caught:
                c.sendall(data)
            assert caught.value.errno == errno.EFAULT
            assert caught.value.moved == there
            assert s.recv(there, socket.MSG_WAITALL) == DATA[skipped:2 * mmap.PAGESIZE]
            os.ftruncate(f.fileno(), 0)
            with pytest.raises(OSError, match="Bad address"):
                c.send(data)
            del data
        c.sendall(b"still there")
        assert s.recv(100) == b"still there"


@contextlib.contextmanager
def mapping(kind, size):
    """A file, and a writable mapping of it in a buffer of some kind."""
    with tempfile.TemporaryFile() as f:
        f.write(b"m" * size)
        f.flush()
        m = mmap.mmap(f.fileno(), size)
        if kind == "mmap":
            yield f, m
        elif kind == "view":
            with memoryview(m) as whole, whole[:] as view:
                yield f, view
        else:
            array = (ctypes.c_char * size).from_buffer(m)
            yield f, array
            del array
        gc.collect()
        m.close()


LENDING = [{"direct": True}, {"direct": "auto"}, {"zerocopy": True}, {"cow": True}]


@pytest.mark.parametrize("how", LENDING, ids=str)
@pytest.mark.parametrize("kind", ["mmap", "view", "ctypes"])
@pytest.mark.parametrize("bed", [two_devices, two_stacks])
def test_a_mapping_that_is_to_be_lent_is_copied(bed, kind, how):
    """It might be cut while it waits, which a device's read, or ours under a lock, would not survive."""
    with mapping(kind, 200_000) as (f, buffer), bed() as (near, far), connected(near, far) as (c, s):
        c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        c.sendall(buffer, **how)
        os.ftruncate(f.fileno(), 4096)
        assert s.recv(200_000, socket.MSG_WAITALL) == b"m" * 200_000
        with pytest.raises(OSError, match="Bad address") as caught:
            c.sendall(buffer, **how)
        assert caught.value.errno == errno.EFAULT
        assert s.recv(4096, socket.MSG_WAITALL) == b"m" * 4096
        assert not {"direct.sent", "cow.pages"} & {name for name, n in near.stats().items() if n}
        if "cow" in how:
            assert near.stats()["cow.refused"] == 2
        else:
            assert sum(n for name, n in near.stats().items() if name.startswith("direct.fallback.")) == 2
        if "zerocopy" in how:
            assert c.completions() == [(0, 0, True)]
        del buffer


def test_a_mapping_is_registered_but_not_pinned():
    """So that no link writes to it, either."""
    with mapping("mmap", 8192) as (f, m), ustack.register(m) as memory:
        assert not memory.pinned
        assert memory.error == errno.EOPNOTSUPP
        os.ftruncate(f.fileno(), 0)


def test_memory_without_a_file_is_known_as_such():
    """Anonymous mappings, private and shared, are lent."""
    with two_devices() as (near, far), connected(near, far) as (c, s):
        for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
            with mmap.mmap(-1, 8192, flags=flags | mmap.MAP_ANONYMOUS) as m:
                with reading_some(s, 8192):
                    c.sendall(m, direct=True)
        assert near.stats()["direct.sent"] == 2


@contextlib.contextmanager
def reading_some(s, n):
    taking = Background(s.recv, n, socket.MSG_WAITALL)
    yield
    assert len(taking.result(PATIENCE)) == n


def test_a_mapping_over_a_link_that_does_not_sum():
    with ustack.Stack() as near, ustack.Stack() as far, tempfile.TemporaryFile() as f:
        for net, link, k in zip((near, far), ustack.pair(offloads=False), (1, 2), strict=True):
            net.add_interface(link, addresses=[f"10.9.0.{k}/24"])
        os.pwrite(f.fileno(), DATA, 0)
        with connected(near, far) as (c, s), mmap.mmap(f.fileno(), SIZE, access=mmap.ACCESS_READ) as m:
            assert c.send(m) == SIZE
            assert s.recv(SIZE, socket.MSG_WAITALL) == DATA
            c.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += c.send(m)
            assert s.recv(sent, socket.MSG_WAITALL) == (DATA * (sent // SIZE + 1))[:sent]


GUARDED = textwrap.dedent("""
    import faulthandler, mmap, os, signal, sys, tempfile
    from ustack._core.py.probe_guard import copy_guarded, touch_watched
    {setup}
    f = tempfile.TemporaryFile()
    f.truncate(5 * 4096)
    os.pwrite(f.fileno(), b"x" * 20480, 0)
    m = mmap.mmap(f.fileno(), 20480, access=mmap.ACCESS_READ)
    os.ftruncate(f.fileno(), {size})
    {act}
""")


def run(setup="", size=0, act=""):
    script = GUARDED.format(setup=setup, size=size, act=act)
    return subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("setup", [
    "", "faulthandler.enable()", "copy_guarded(m0, 1) if (m0 := mmap.mmap(-1, 4096)) else 0; faulthandler.enable()",
    "import threading; threading.stack_size(1 << 20)",
])
def test_copying_stops_at_the_end(setup):
    """Also with faulthandler, installed before or after."""
    done = run(setup, 2 * 4096, "print(copy_guarded(m, 20480))")
    assert (done.returncode, done.stdout) == (0, f"{2 * 4096}\n"), done.stderr


def test_a_watched_range_reads_as_zeros_and_is_marked():
    done = run("", 4096, "print(touch_watched(m))")
    assert (done.returncode, done.stdout) == (0, "4096 16384 1\n"), done.stderr


@pytest.mark.parametrize("setup", ["", "faulthandler.enable()", "copy_guarded(mmap.mmap(-1, 4096), 1)",
                                   "copy_guarded(mmap.mmap(-1, 4096), 1); faulthandler.enable()",
                                   "faulthandler.enable(); copy_guarded(mmap.mmap(-1, 4096), 1)"])
def test_faults_of_others_stay_theirs(setup):
    """A program that touches its own mapping behind the end dies as it would have, with its traceback."""
    done = run(setup, 0, "print(m[0])")
    assert done.returncode == -signal.SIGBUS
    assert ("Fatal Python error: Bus error" in done.stderr) == ("faulthandler" in setup)


def test_a_signal_that_was_sent_is_not_a_fault():
    done = run("copy_guarded(mmap.mmap(-1, 4096), 1)", 0, "os.kill(os.getpid(), signal.SIGBUS); print('alive')")
    assert done.returncode == -signal.SIGBUS
    assert "alive" not in done.stdout


def test_a_handler_of_python_hears_of_what_was_sent():
    setup = "signal.signal(signal.SIGBUS, lambda *a: print('heard')); copy_guarded(mmap.mmap(-1, 4096), 1)"
    done = run(setup, 0, "os.kill(os.getpid(), signal.SIGBUS)")
    assert (done.returncode, done.stdout) == (0, "heard\n")


@pytest.mark.parametrize("cut", [1, 4096, 10_000, SIZE - 1])
def test_bytes_that_are_cut_off_before_they_are_sent_are_never_sent(cut):
    """Sent in place, with what the packet holds read later still: the stream ends in a reset, in front of the cut."""
    with Lossy(lambda raw: False) as wire, tempfile.TemporaryFile() as f:
        os.pwrite(f.fileno(), DATA, 0)
        c, s = wire.connect()
        with c, s:
            assert c.sendfile(f, how="gather") == SIZE      # a packet or two wait in the pipe, the rest in the queue
            os.ftruncate(f.fileno(), cut)
            got = bytearray()
            wire.run(lambda: ended(s, got))
            assert bytes(got) == DATA[:len(got)]
            assert len(got) <= cut
            with pytest.raises(OSError, match="Input/output error") as caught:
                c.send(b"x")
            assert caught.value.errno == errno.EIO
        assert wire.stacks[0].stats()["file.lost"] == 1
    ustack.drop_file_windows()


def ended(s, got):
    """Read what is there; whether the connection was reset."""
    try:
        while part := s.recv(1 << 16):
            got += part
        raise AssertionError("the stream ended as if it were whole")
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_bytes_that_are_cut_off_and_written_again_are_the_new_ones():
    with Lossy(lambda raw: False) as wire, tempfile.TemporaryFile() as f:
        os.pwrite(f.fileno(), DATA, 0)
        c, s = wire.connect()
        with c, s:
            assert c.sendfile(f, how="gather") == SIZE
            os.ftruncate(f.fileno(), 0)
            os.pwrite(f.fileno(), b"new" * SIZE, 0)
            got = bytearray()

            def received():
                with contextlib.suppress(BlockingIOError):
                    got.extend(s.recv(1 << 20))
                return len(got) == SIZE

            wire.run(received)
            assert bytes(got) == (b"new" * SIZE)[:SIZE]


def test_a_file_has_one_descriptor_of_ours_while_it_has_windows():
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    ustack.drop_file_windows()
    with Lossy(lambda raw: False) as wire, tempfile.TemporaryFile() as f:
        f.truncate(5 << 20)
        c, s = wire.connect()
        with c, s:
            before = descriptors()
            for offset in (0, 2 << 20, 4 << 20):
                c.sendfile(f, offset, 1000, how="gather")
            assert descriptors() == before + 1
            wire.carry()
            assert len(s.recv(10_000)) == 3000
            wire.run(lambda: ustack.drop_file_windows() or descriptors() == before)


@pytest.mark.root
@pytest.mark.tun
def test_pages_that_vanish_before_they_are_sent_end_the_connection_with_an_error():
    """Gathered pages of a file that is cut cannot be sent any more: EIO here, a reset there, and no wrong byte."""
    size = 3_000_000
    body = DATA * 75
    with testbed.over_tap() as bed, ustack.Stack() as net, tempfile.TemporaryFile() as f:
        net.add_interface(bed.link, addresses=[bed.address])
        f.write(body[:size])
        f.flush()
        with bed.peer.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            listener.bind((bed.peer_ip, 0))
            listener.listen()
            with net.create_connection(listener.getsockname()) as c:
                s, _ = listener.accept()
                with s:
                    s.settimeout(PATIENCE)
                    c.settimeout(PATIENCE)
                    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)
                    assert c.sendfile(f, how="gather") == size     # nobody reads: most of it waits in the queue
                    os.ftruncate(f.fileno(), 4096)
                    got = bytearray()
                    with contextlib.suppress(ConnectionResetError):
                        while part := s.recv(1 << 16):
                            got += part
                        pytest.fail("the stream ended as if it were whole")
                    assert bytes(got) == body[:len(got)]
                    with pytest.raises(OSError, match="Input/output error"):
                        c.sendall(b"x")
        assert net.stats()["file.lost"] == 1
    ustack.drop_file_windows()




READER = """
import hashlib, socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
while True:
    s, _ = listener.accept()
    with s:
        total, error = bytearray(), ""
        try:
            while part := s.recv(1 << 20):
                total += part
        except OSError as e:
            error = type(e).__name__
    print(len(total), hashlib.sha256(total).hexdigest(), error or "end", "x" + total[-4096:].hex(), flush=True)
"""


@contextlib.contextmanager
def linux_reader(bed):
    """A process of the other end's that says of each connection: bytes, their hash, how it ended, the last page."""
    with bed.peer.popen(sys.executable, "-c", READER, bed.peer_ip, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            yield (bed.peer_ip, port), process.stdout.readline
        finally:
            process.kill()


@pytest.mark.root
@pytest.mark.tun
def test_cut_by_another_process_at_any_time_while_it_is_sent_in_place():
    """The form that does not copy, to Linux, 1,000 times. What was sent when the file was cut has been sent: zeros in
    the page of the cut can have been among it; then the connection is reset. One that ends well has no wrong byte."""
    rng = random.Random(13)
    outcomes = collections.Counter()
    with testbed.over_tap() as bed, ustack.Stack() as net, tempfile.TemporaryFile() as f:
        net.add_interface(bed.link, addresses=[bed.address])
        with linux_reader(bed) as (address, heard), Truncater(f) as other:
            for _ in range(1000):
                os.pwrite(f.fileno(), DATA, 0)
                cut = rng.randrange(SIZE)
                with net.create_connection(address) as c:
                    c.settimeout(PATIENCE)
                    other.cut(rng.randrange(4000), cut)
                    sent = None
                    with contextlib.suppress(OSError):
                        sent = c.sendfile(f, how="gather")
                        other.wait()
                        c.shutdown(socket.SHUT_WR)
                        c.recv(1)
                    if sent is None:
                        other.wait()
                size, digest, end, tail = heard().split()
                whole = hashlib.sha256(DATA[:int(size)]).hexdigest() == digest
                outcomes[end, whole] += 1
                if end == "end":
                    assert whole
                    assert int(size) == sent
                elif not whole:
                    assert cut < int(size) <= -(-cut // mmap.PAGESIZE) * mmap.PAGESIZE
                    assert not bytes.fromhex(tail[1:])[cut - int(size):].strip(b"\0")
    ustack.drop_file_windows()
    assert outcomes["end", True]


@pytest.mark.root
@pytest.mark.tun
def test_64_megabytes_to_linux_in_place():
    data = random.Random(14).randbytes(64 << 20)
    with testbed.over_tap() as bed, ustack.Stack() as net, tempfile.TemporaryFile() as f:
        net.add_interface(bed.link, addresses=[bed.address])
        f.write(data)
        f.flush()
        with linux_reader(bed) as (address, heard):
            with net.create_connection(address) as c:
                assert c.sendfile(f) == len(data)
                c.shutdown(socket.SHUT_WR)
                assert c.recv(1) == b""
            assert heard().split()[:3] == [str(len(data)), hashlib.sha256(data).hexdigest(), "end"]
        books = net.ledger()
        assert sum(books.get(reason, (0, 0))[0] for reason in ("tx.copy", "file.read", "tx.checksum")) == 0
        assert books["device.tx"][0] > len(data)
    ustack.drop_file_windows()
