"""The proof behind "no CPU copies": payload that this process may not touch still reaches the peer.

``dark_stacks`` are two stacks over a ``SharedMemory`` link. ``DarkRegion`` is memory that a device reaches and whose
mapping here is PROT_NONE while it is dark: whoever reads or writes it then dies of SIGSEGV, and the test with him (a
call that copies to or from the memory that it is given fails with EFAULT). The test itself looks through a second
mapping.

    with dark_stacks() as (near, far), connected(near, far) as (c, s), DarkRegion(1 << 20) as memory:
        memory.write(0, data)
        with memory.dark(), reading(s) as got:
            ...                             # send memory.region[:n], or memory.address, by your technique
            c.close()
        assert got.result(60) == data
        assert copied_out(near) == {}       # the ledger says the same

What the device can reach in place: buffers of the stack's own pools; ``ustack.buffers.Region`` and all memory inside
one (also a numpy array on it); in the core every region that is on the list of mem/share (``region_publish``): a memory
file, sealed against shrinking, mapped once for each region structure; windows on files, while a SharedMemory link is
open. All else is bounced, which in the dark is SIGSEGV, and in the light ``tx.bounce`` in the ledger.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

from beds import FAR, NEAR, copied

import ustack
from ustack._core.py.probe_shm import protect
from ustack.buffers import Region


@contextlib.contextmanager
def dark_stacks(link: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    """Two stacks (near, far) on the ends of a SharedMemory link with device processes; ``link`` are its options."""
    with ustack.Stack(**options) as near, ustack.Stack() as far:
        ends = ustack.SharedMemory.pair(**(link or {}))
        for net, end, ip in zip((near, far), ends, (NEAR, FAR), strict=True):
            net.add_interface(end, addresses=[f"{ip}/24"])
        yield near, far


def copied_out(net: ustack.Stack) -> dict[str, int]:
    """Bytes that a CPU has copied or summed on their way out, by reason (acknowledgements come in by copying)."""
    return {name: n for name, n in copied(net).items() if not name.startswith("rx.")}


class DarkRegion:
    """A region of ``length`` bytes with a second mapping, for the test, of the same memory."""

    def __init__(self, length: int, *, peers: bool = False):
        self.region = Region(length, peers=peers)
        self.length = length
        self.address: int = self.region.address
        self.other = mmap.mmap(self.region.fileno(), length)

    def write(self, at: int, data: bytes) -> None:
        """Through the other mapping."""
        self.other[at:at + len(data)] = data

    def read(self, at: int, n: int) -> bytes:
        """Through the other mapping."""
        return self.other[at:at + n]

    @contextlib.contextmanager
    def dark(self) -> Iterator[None]:
        """While the body runs, nobody in this process can read or write the region where it is mapped."""
        protect(self.address, self.length, "none")
        try:
            yield
        finally:
            protect(self.address, self.length, "write")

    def __enter__(self) -> DarkRegion:
        return self

    def __exit__(self, *exc: object) -> None:
        self.other.close()
