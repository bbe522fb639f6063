"""Two processes with a NIC each: the other one runs a function of this file, named on its command line."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ustack import via

NAME = b"peer"
PATIENCE = 60


def echo(nic: via.Nic, vi: via.Vi) -> None:
    """Send every message back from the buffer that it came into, until the connection ends."""
    while True:
        buffer = vi.recv_wait(PATIENCE)
        if buffer.failed:
            return
        assert isinstance(buffer, via.Buffer)
        buffer.prepare(buffer.length, immediate=buffer.immediate)
        vi.post_send(buffer)
        sent = vi.send_wait(PATIENCE)
        if sent.failed:
            return
        vi.post_recv(sent)


def deaf(nic: via.Nic, vi: via.Vi) -> None:
    """Never look at the NIC again."""
    print("deaf", flush=True)
    sys.stdin.read()


def listening(fd: int, work: str, size: int, count: int, reliability: int) -> None:
    """The other process: attach, accept one connection, do the work."""
    with via.Nic() as nic, via.Listener(nic, NAME) as listener:
        nic.attach(socket.socket(fileno=fd))
        ptag = nic.ptag()
        vi = via.Vi(nic, ptag, reliability=reliability)
        for buffer in via.buffers(nic, ptag, size, count):
            vi.post_recv(buffer)
        listener.wait(PATIENCE).accept(vi)
        globals()[work](nic, vi)


@contextlib.contextmanager
def other_process(*command: str) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """A Python process and our end of a socket; the number of its descriptor for the other end is its last argument."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", *command, str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONSAFEPATH": "1"},
        )
    try:
        with process:
            yield process, ours
            process.stdin.close()
            assert process.wait(PATIENCE) in (0, -9)
    finally:
        if process.poll() is None:
            process.kill()
        ours.close()


@contextlib.contextmanager
def connected(
    work: str, *, size: int = 4096, count: int = 8, reliability: int = via.Reliability.RD, busy_poll: float = 20e-6
) -> Iterator[tuple[via.Nic, via.Ptag, via.Vi, subprocess.Popen[str]]]:
    """A NIC and a VI of ours, connected to one of another process that does the work."""
    command = (str(Path(__file__)), work, str(size), str(count), str(int(reliability)))
    with other_process(*command) as (process, sock), via.Nic(busy_poll=busy_poll) as nic:
        port = nic.attach(sock, timeout=PATIENCE)
        ptag = nic.ptag()
        vi = via.Vi(nic, ptag, reliability=reliability)
        vi.connect(NAME, port, timeout=PATIENCE)
        yield nic, ptag, vi, process


if __name__ == "__main__":
    listening(int(sys.argv[5]), sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
