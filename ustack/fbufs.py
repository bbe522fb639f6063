"""Fbufs: buffers that change hands between processes instead of being copied.

A producer allocates a buffer from a ``Pool`` and fills it; ``Channel.send`` gives it away, and the other process reads
it in place: what crosses is a number, an offset and a length. When the reader frees it, it comes back. The names of
Solaris' interface (Thadani and Khalidi, 1995) are here too: ``uf_get``, ``uf_allocb``, ``uf_write``, ``uf_read``,
``uf_free``.

docs/techniques/fbufs.md says who touches the bytes, what protects them, and what a channel looks like.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from ustack._core.py.fbchannels import Channel, ChannelBroken
from ustack._core.py.fbdemux import Demux
from ustack._core.py.fbpools import Pool
from ustack._core.py.fbufs import Aggregate, Fbuf, FbufLost, fbuf_ledger

__all__ = [
    "Aggregate",
    "Channel",
    "ChannelBroken",
    "Demux",
    "Fbuf",
    "FbufLost",
    "Pool",
    "fbuf_ledger",
    "pair",
    "uf_allocb",
    "uf_free",
    "uf_get",
    "uf_read",
    "uf_write",
]


def pair(*, spin: float = 20e-6) -> tuple[Channel, Channel]:
    """Two connected channels in one process, for threads and for trying things out."""
    ends = socket.socketpair()
    made: list[Channel] = []

    def open_other() -> None:
        with contextlib.suppress(OSError):      # this thread gave up: then it has the reason
            made.append(Channel(ends[1], spin=spin))

    other = threading.Thread(target=open_other)
    other.start()
    try:
        mine = Channel(ends[0], spin=spin)
    except BaseException:
        for end in ends:
            end.close()                         # nobody waits for the other's hello
        raise
    finally:
        other.join()
    return mine, made[0]


def uf_get(pool: Pool, length: int | None = None) -> Fbuf:
    """A buffer for a program to fill: ``pool.alloc``."""
    return pool.alloc(length)


def uf_allocb(demux: Demux, packet: bytes | bytearray | memoryview, length: int) -> Fbuf:
    """A buffer for a driver to fill, of the pool that the packet's reader maps; ``packet`` begins with its IP header.
    BlockingIOError if that pool has none free: the packet is to be dropped, and counted."""
    return demux.pool_for(packet).alloc(length, timeout=0)


def uf_write(channel: Channel, what: Fbuf | Aggregate) -> int:
    """Hand it over; how many bytes. Afterwards it is lost (FbufLost), unless this raises: then it is still ours."""
    n = len(what)
    channel.send(what)
    return n


def uf_read(channel: Channel) -> Fbuf | Aggregate | None:
    """The next message, in place; None at the end."""
    return channel.recv()


def uf_free(what: Fbuf | Aggregate) -> None:
    """Let it go: it returns to its producer with its last window."""
    what.free()
