"""Streams over VIs for the tests: both ends here, or one of them spoken by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from helpers import in_thread

from ustack import via
from ustack._viacredits import END, ERROR, GRANT, HELLO, STOP, WORDS

__all__ = ["END", "ERROR", "GRANT", "HELLO", "PATIENCE", "STOP", "WORDS", "Hand", "attached", "by_hand", "streams"]
PATIENCE = 60


@contextlib.contextmanager
def attached() -> Iterator[tuple[via.Nic, via.Port, via.Nic]]:
    """Two NICs of this process, attached to each other as those of two processes are."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with via.Nic() as a, via.Nic() as b:
        with in_thread(b.attach, theirs):
            port = a.attach(ours, timeout=PATIENCE)
        yield a, port, b


def join(x: via.Vi, y: via.Vi, port: via.Port | None) -> None:
    """Connect two VIs: by loopback, or through a port."""
    if port is None:
        via.pair(x, y)
        return
    with via.Listener(y.nic, b"s") as listener, in_thread(x.connect, b"s", port, PATIENCE):
        listener.wait(PATIENCE).accept(y)


@contextlib.contextmanager
def streams(way: str = "loopback", **options: Any) -> Iterator[tuple[via.Stream, via.Stream]]:
    """The two ends of a stream, over a way: "loopback" or "shared"."""
    with contextlib.ExitStack() as stack:
        if way == "loopback":
            a = b = stack.enter_context(via.Nic())
            port = None
        else:
            a, port, b = stack.enter_context(attached())
        x, y = (via.Stream(via.Vi(nic, nic.ptag()), **options) for nic in (a, b))
        x.settimeout(PATIENCE)
        y.settimeout(PATIENCE)
        join(x.vi, y.vi, port)
        yield x, y


class Hand:
    """A VI that speaks the protocol, or something else, by hand."""

    def __init__(self, vi: via.Vi, places: int, size: int):
        self.vi = vi
        self.out, *self.ring = via.buffers(vi.nic, vi.ptag, size, places + 1)
        for buffer in self.ring:
            vi.post_recv(buffer)

    def say(self, kind: int, number: int = 0) -> None:
        """A word."""
        self.message(b"", kind << 24 | number)

    def message(self, data: bytes, immediate: int | None = None) -> None:
        """Any message."""
        self.out.copy_in(data, immediate=immediate)
        self.vi.post_send(self.out)
        self.vi.send_wait(PATIENCE)

    def hear(self) -> tuple[bytes, int | None]:
        """The next message; its place is posted again."""
        got = self.vi.recv_wait(PATIENCE)
        assert isinstance(got, via.Buffer)
        assert not got.failed
        one = bytes(got.data[:got.length]), got.immediate
        self.vi.post_recv(got)
        return one


@contextlib.contextmanager
def by_hand(places: int = 16, size: int = 4096, **options: Any) -> Iterator[tuple[via.Stream, Hand]]:
    """A stream whose other end is spoken by hand, over loopback."""
    with via.Nic() as nic:
        ptag = nic.ptag()
        stream, hand = via.Stream(via.Vi(nic, ptag), **options), Hand(via.Vi(nic, ptag), places, size)
        stream.settimeout(PATIENCE)
        via.pair(stream.vi, hand.vi)
        yield stream, hand
