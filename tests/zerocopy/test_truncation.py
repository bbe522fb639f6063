"""Files that shrink under a transfer. To touch a mapped page that is gone is a SIGBUS."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap

import pytest
from beds import PATIENCE, connected, two_stacks
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


