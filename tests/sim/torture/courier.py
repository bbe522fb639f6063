"""A stream that is sent by one technique after the other, and fetched likewise: every byte is looked at."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

import ustack
from torture.stream import Stream
from ustack import fbufs
from ustack.socket import SO_ZEROCOPY, SOL_SOCKET, socket

PAGE = mmap.PAGESIZE
SIZE = 64 * PAGE                # of each buffer
PIPE = 60_000                   # bytes that a pipe takes at once


class Side:
    """What both do: choose, and count."""

    weights: ClassVar[dict[str, int]]

    def __init__(self, sock: socket, seed: int, counts: Counter[str]):
        self.sock, self.counts = sock, counts
        self.dice, self.stream, self.at = Random(f"{seed}/{type(self).__name__}"), Stream(seed), 0
        self.plain = mmap.mmap(-1, SIZE)
        self.file = os.memfd_create("courier")

    def chosen(self) -> tuple[str, Callable[[Any], Any]]:
        """The name of a technique, and the method for it."""
        name = self.dice.choices(list(self.weights), list(self.weights.values()))[0]
        self.counts[name] += 1
        return name, getattr(self, name)

    def end(self) -> None:
        """No more of it."""
        self.sock.close()
        self.sock.completions(0)
        os.close(self.file)


class Sender(Side):
    """Sends it, a piece for each ``step``."""

    weights: ClassVar = {"copied": 3, "direct": 2, "noticed": 2, "cow": 3, "from_file": 2, "from_pipe": 1, "fbuf": 1}

    def __init__(self, sock: socket, seed: int, counts: Counter[str]):
        super().__init__(sock, seed, counts)
        self.shared = ustack.CowBuffer(SIZE, spare=20)
        self.pool = fbufs.Pool(SIZE, 4)
        sock.setsockopt(SOL_SOCKET, SO_ZEROCOPY, 1)

    def step(self) -> None:
        """The next piece."""
        data = self.stream.at(self.at, self.dice.choice((1, 700, PAGE, 4 * PAGE, 4 * PAGE + 5, SIZE)))
        self.chosen()[1](data)
        self.at += len(data)

    def copied(self, data: bytes) -> None:
        """As ever."""
        self.sock.sendall(data)

    def direct(self, data: bytes) -> None:
        """In place; the memory is written to as soon as the call is over."""
        self.plain[:len(data)] = data
        with memoryview(self.plain) as view, view[:len(data)] as part:
            self.sock.sendall(part, direct=True)

    def noticed(self, data: bytes) -> None:
        """In place, with a notice when it is over."""
        self.sock.sendall(data, zerocopy=True)
        self.sock.completions(0)

    def cow(self, data: bytes) -> None:
        """Shared, and written to at once."""
        with memoryview(self.shared) as view:
            view[:len(data)] = data
            self.sock.sendall(view[:len(data)], cow=True)
            for k in range(0, len(data), PAGE // 2):
                view[k] = 0

    def from_file(self, data: bytes) -> None:
        """Out of the page cache. What was sent of a file in place must not be written to: its pages are used once."""
        os.pwrite(self.file, data, self.at)
        self.sock.sendfile(self.file, self.at, len(data))

    def from_pipe(self, data: bytes) -> None:
        """As much as a pipe holds, again and again."""
        out, into = os.pipe()
        try:
            for k in range(0, len(data), PIPE):
                os.write(into, data[k:k + PIPE])
                ustack.splice(out, self.sock, len(data[k:k + PIPE]))
        finally:
            os.close(out)
            os.close(into)

    def fbuf(self, data: bytes) -> None:
        """Out of a buffer that could be another process's."""
        with self.pool.alloc(len(data), timeout=0) as f:
            f.write(data)
            self.sock.sendall(f, direct=True)


class Fetcher(Side):
    """Receives it, and compares."""

    weights: ClassVar = {"received": 3, "into": 1, "posted": 3, "flipped": 2, "mapped": 2, "lent": 2, "into_file": 1}

    def __init__(self, sock: socket, seed: int, counts: Counter[str]):
        super().__init__(sock, seed, counts)
        self.pages, self.mapping = ustack.FlipBuffer(SIZE), ustack.ReceiveMapping(SIZE)
        self.pinned = ustack.register(self.plain)

    def step(self) -> bool:
        """Some more of it; False at the end."""
        name, technique = self.chosen()
        got = technique(self.dice.choice((1, 1000, PAGE, 3 * PAGE, SIZE // 2)))
        if got != self.stream.at(self.at, len(got)):
            raise AssertionError(f"{name}: other bytes behind {self.at}")
        self.at += len(got)
        return bool(got)

    def received(self, n: int) -> bytes:
        """As ever."""
        return self.sock.recv(n)

    def into(self, n: int) -> bytes:
        """Into memory of ours."""
        with memoryview(self.plain) as view:
            return bytes(view[:self.sock.recv_into(view, n)])

    def posted(self, n: int) -> bytes:
        """The link puts it there."""
        with memoryview(self.plain) as view, view[100:100 + n] as place:
            return bytes(place[:self.sock.recv_posted(place)])

    def flipped(self, n: int) -> bytes:
        """Page by page."""
        with memoryview(self.pages) as view:
            return bytes(view[:self.sock.recv_flip(self.pages, n)])

    def mapped(self, n: int) -> bytes:
        """Pages that are shown, and what is not a page."""
        spare = bytearray(PAGE)
        r = self.sock.recv_zerocopy(self.mapping, spare)
        with memoryview(self.mapping) as view:
            got = bytes(view[:r.length]) + spare[:r.copybuf_len]
        return got + self.sock.recv(r.recv_skip_hint) if r.recv_skip_hint else got

    def lent(self, n: int) -> bytes:
        """Blocks of the stack's."""
        return b"".join(bytes(memoryview(m)) for m in self.sock.recv_buffers(n))

    def into_file(self, n: int) -> bytes:
        """Past the program."""
        os.ftruncate(self.file, 0)
        os.lseek(self.file, 0, os.SEEK_SET)
        return os.pread(self.file, ustack.splice(self.sock, self.file, n), 0)

    def end(self) -> None:
        """Nothing is shown, nothing pinned."""
        super().end()
        self.mapping.release()
        self.pinned.close()
