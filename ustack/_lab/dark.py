"""The proof behind "no CPU copies", as a program: ``python -m ustack._lab.dark TECHNIQUE``.

Payload that this process may not touch (its pages are PROT_NONE) is sent over a SharedMemory link, whose device reads
it. Whoever here touched it would die of SIGSEGV; so exit status 0 is the proof, and a process of its own is needed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ustack._lab.bench import FAR, NEAR, connected, file_of

SIZE = 1 << 20
PIECE = 16 << 10  # of what is relayed: whole, it would weigh on the receive buffer with all that each packet holds
PATIENCE = 30.0


def proves(technique: str) -> bool:
    """Whether a technique reaches the peer with payload that this process cannot read."""
    if technique not in PROOFS:
        return False
    command = [sys.executable, "-P", "-m", "ustack._lab.dark", technique]
    try:
        done = subprocess.run(command, timeout=PATIENCE, capture_output=True, check=False,
                              env=os.environ | {"PYTHONSAFEPATH": "1"})  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


# --- beds -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def shared_stacks(**options: Any) -> Iterator[tuple[Any, Any]]:
    """Two stacks on the ends of a SharedMemory link with device processes."""
    import ustack

    with ustack.Stack() as near, ustack.Stack() as far:
        for net, link, ip in zip((near, far), ustack.SharedMemory.pair(**options), (NEAR, FAR), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        yield near, far


def received(s: Any, n: int) -> bytes:
    """n bytes."""
    got = bytearray()
    while len(got) < n:
        got += s.recv(n - len(got))
    return bytes(got)


@contextlib.contextmanager
def reading(s: Any, n: int) -> Iterator[list[bytes]]:
    """A thread that receives n bytes while the body runs; it has done so behind the body."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(received(s, n)))
    reader.start()
    yield got
    reader.join(PATIENCE)


@contextlib.contextmanager
def dark(*ranges: tuple[int, int]) -> Iterator[None]:
    """(address, length) that nobody here may read while the body runs."""
    from ustack._core.py.probe_shm import protect

    for address, length in ranges:
        protect(address, length, "none")
    yield
    for address, length in ranges:
        protect(address, length, "write")


def copied_out(net: Any) -> int:
    """Bytes that a CPU has copied or summed on their way out (acknowledgements come in by copying)."""
    return sum(n for reason, (n, _) in net.ledger().items() if reason.startswith(("tx.", "file.", "cow.")))


class Dark:
    """A region with a second mapping, for who made it."""

    def __init__(self, data: bytes) -> None:
        from ustack.buffers import Region

        self.region = Region(len(data))
        self.place = self.region.address, len(data)
        with contextlib.closing(mmap.mmap(self.region.fileno(), len(data))) as other:
            other[:] = data


# --- proofs -----------------------------------------------------------------------------------------------------------


def by_tcp(send: Callable[[Any, bytes, Callable[[], bool]], None]) -> Callable[[], bool]:
    """A proof: what ``send`` sends over the socket arrives, and the ledger says that nobody has copied it."""

    def proof() -> bool:
        data = os.urandom(SIZE)
        with shared_stacks() as (near, far), connected(near, far) as (a, b):
            with reading(b, SIZE) as got:
                send(a, data, lambda: bool(got))
            return got == [data] and copied_out(near) == 0

    return proof


def until(arrived: Callable[[], bool]) -> None:
    """Wait until it has arrived."""
    from time import monotonic, sleep

    end = monotonic() + PATIENCE
    while not arrived() and monotonic() < end:
        sleep(0.001)


def send_file(a: Any, data: bytes, arrived: Callable[[], bool]) -> None:
    """sendfile in place, with windows on the file that nobody here can read."""
    from ustack._core.py.probe_shm import darken_files

    with file_of(SIZE) as file:
        os.pwrite(file, data, 0)
        darken_files(True)
        a.sendfile(file, 0, SIZE, how="gather")
        until(arrived)
        darken_files(False)


def send_direct(a: Any, data: bytes, arrived: Callable[[], bool]) -> None:
    """A registered region."""
    import ustack

    memory = Dark(data)
    with ustack.register(memory.region), dark(memory.place):
        a.sendall(memory.region, direct=True)


def send_cow(a: Any, data: bytes, arrived: Callable[[], bool]) -> None:
    """Pages that are shared with the stack: its alias; and, where mprotect is not what protects them, theirs."""
    import ustack
    from ustack._core.py.probe_cow import alias

    buffer = ustack.CowBuffer(SIZE)
    with memoryview(buffer) as view:
        view[:] = data
    ranges = [(alias(buffer.address)[0], SIZE)]
    if ustack.cow_mechanism() == "userfaultfd":
        ranges.append((buffer.address, SIZE))
    with dark(*ranges):
        a.sendall(buffer, cow=True)
        until(arrived)


def send_fbuf(a: Any, data: bytes, arrived: Callable[[], bool]) -> None:
    """What another has produced, and handed over through a channel."""
    import ustack
    from ustack import fbufs
    from ustack._core.py.probe_shm import protect

    one, other = fbufs.pair()
    with one, other:
        f = fbufs.Pool(SIZE, 4).alloc()
        f.write(data)
        one.send(f)
        got = other.recv(PATIENCE)
        assert isinstance(got, fbufs.Fbuf)
        with got, ustack.register(got):
            protect(got.address, SIZE, "none")
            a.sendall(got, direct=True)
            protect(got.address, SIZE, "read")


def splice() -> bool:
    """From a socket to another of a stack in the middle: its first link passes references, its second has devices."""
    import ustack
    from ustack._core.py.probe_shm import queue_external

    data = os.urandom(SIZE)
    with ustack.Stack() as first, shared_stacks() as (middle, last):
        for net, link, ip in zip((first, middle), ustack.pair(), ("10.9.1.1", "10.9.1.2"), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        with connected(first, middle, "10.9.1.2") as (a, m), connected(middle, last) as (n, b):
            job = ustack.splice(m, n, SIZE, wait=False)
            memory = Dark(data)
            with dark(memory.place), reading(b, SIZE) as got:
                at = 0
                while at < SIZE:
                    at += queue_external(a, memory.place[0] + at, min(PIECE, SIZE - at))
                until(lambda: bool(got))
            job.cancel()
            return got == [data] and copied_out(middle) == 0


@contextlib.contextmanager
def attached() -> Iterator[tuple[Any, Any]]:
    """Two connected VIs, of two NICs that are attached to each other as those of two processes are: (nic, ptag, vi)."""
    from ustack import via

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with via.Nic() as a, via.Nic() as b:
        tags = a.ptag(), b.ptag()
        x, y = via.Vi(a, tags[0]), via.Vi(b, tags[1])

        def serve() -> None:
            with via.Listener(b, b"lab") as listener:
                b.attach(theirs, timeout=PATIENCE)
                listener.wait(PATIENCE).accept(y)

        thread = threading.Thread(target=serve)
        thread.start()
        x.connect(b"lab", a.attach(ours, timeout=PATIENCE), PATIENCE)
        thread.join(PATIENCE)
        yield (a, tags[0], x), (b, tags[1], y)


def send_message() -> bool:
    """A message from registered memory; whoever receives it has a NIC of his own."""
    from ustack import via

    data = os.urandom(1 << 16)
    with attached() as ((a, tag, x), (b, other_tag, y)):
        memory = Dark(data)
        sent, work = a.register(memory.region, tag), a.allocate(4096, tag)
        message = via.Descriptor(work, 0)
        message.set([(sent, 0, len(data))])
        (target,) = via.buffers(b, other_tag, len(data), 1)
        y.post_recv(target)
        with dark(memory.place):
            x.post_send(message)
            y.recv_wait(PATIENCE)
            x.send_wait(PATIENCE)
        return bytes(target.data) == data and a.ledger() == {}


PROOFS: dict[str, Callable[[], bool]] = {
    "sendfile_gather": by_tcp(send_file), "direct": by_tcp(send_direct), "cow": by_tcp(send_cow),
    "fbuf": by_tcp(send_fbuf), "splice": splice, "via": send_message,
}  # fmt: skip


def main() -> int:
    """One technique."""
    return 0 if PROOFS[sys.argv[1]]() else 1


if __name__ == "__main__":
    sys.exit(main())
