"""The proof behind "no CPU copies", as a program: ``python -m ustack._lab.dark TECHNIQUE``.

Payload that this process may not touch (its pages are PROT_NONE) is sent over a SharedMemory link, whose device reads
it. Whoever here touched it would die of SIGSEGV; so exit status 0 is the proof, and a process of its own is needed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ustack._lab.bench import FAR, NEAR, connected, file_of

SIZE = 1 << 20
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


def send_file(a: Any, b: Any) -> bool:
    """sendfile in place, with windows on the file that nobody here can read."""
    from ustack._core.py.probe_shm import darken_files

    got: list[bytes] = []
    with file_of(SIZE) as file:
        reader = threading.Thread(target=lambda: got.append(received(b, SIZE)))
        darken_files(True)
        reader.start()
        a.sendfile(file, 0, SIZE, how="gather")
        reader.join(PATIENCE)
        darken_files(False)
        return got == [os.pread(file, SIZE, 0)]


def send_direct(a: Any, b: Any) -> bool:
    """A registered region, dark while it is sent; it is looked at through another mapping."""
    import mmap

    import ustack
    from ustack._core.py.probe_shm import protect
    from ustack.buffers import Region

    region = Region(SIZE)
    other = mmap.mmap(region.fileno(), SIZE)
    other[:] = data = os.urandom(SIZE)
    got: list[bytes] = []
    with ustack.register(region):
        reader = threading.Thread(target=lambda: got.append(received(b, SIZE)))
        protect(region.address, SIZE, "none")
        reader.start()
        a.sendall(region, direct=True)
        reader.join(PATIENCE)
        protect(region.address, SIZE, "write")
    other.close()
    return got == [data]


PROOFS: dict[str, Callable[[Any, Any], bool]] = {"sendfile_gather": send_file, "direct": send_direct}


def main() -> int:
    """One technique."""
    with shared_stacks() as (near, far), connected(near, far) as (a, b):
        arrived = PROOFS[sys.argv[1]](a, b)
        copied = sum(n for reason, (n, _) in near.ledger().items() if reason.startswith(("tx.", "file.")))
        return 0 if arrived and not copied else 1


if __name__ == "__main__":
    sys.exit(main())
