"""One parameter for what a send or a receive promises of its memory: the taxonomy of Genie, over what the stack has.

Three questions make the table: who allocates the memory (the *application*, or the *system*, which takes buffers
away and hands new ones out), whether the bytes of the moment of the call are what counts (*strong* integrity) or later
writing may show (*weak*), and whether the plain form is meant or one that is *emulated* with less work:
docs/techniques/genie.md.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, NamedTuple

from ustack._core.py.direct import Registration

if TYPE_CHECKING:
    from ustack._core.py.buffers import Mblk
    from ustack.socket import socket

__all__ = ["SEMANTICS", "Buffer", "Semantics", "recv", "send"]

CACHED = 16  # buffers of a size that are kept for the next one who wants one
_cache: dict[int, list[mmap.mmap]] = {}


class Semantics(NamedTuple):
    """Who allocates ("application", "system"), the integrity ("strong", "weak"), and whether it is ``emulated``."""

    allocation: str
    integrity: str
    emulated: bool


SEMANTICS: dict[str, Semantics] = {
    "copy": Semantics("application", "strong", False),
    "emulated_copy": Semantics("application", "strong", True),
    "share": Semantics("application", "weak", False),
    "emulated_share": Semantics("application", "weak", True),
    "move": Semantics("system", "strong", False),
    "emulated_move": Semantics("system", "strong", True),
    "weak_move": Semantics("system", "weak", False),
    "emulated_weak_move": Semantics("system", "weak", True),
}


def _rounded(n: int) -> int:
    return max(1, -(-n // mmap.PAGESIZE)) * mmap.PAGESIZE


def _exported(memory: mmap.mmap) -> bool:
    """Whether somebody has a view on it."""
    try:
        memory.resize(len(memory))
    except BufferError:
        return True
    return False


class Buffer:
    """Memory that the system allocates, ``nbytes`` long, to be filled by the program and given away by ``send``.

    What was sent with a move is gone: ``view()`` raises ValueError from then on, and ``moved`` is True.
    """

    def __init__(self, nbytes: int):
        if nbytes <= 0:
            raise ValueError("a buffer has at least one byte")
        kept = _cache.get(_rounded(nbytes))
        self._memory = kept.pop() if kept else mmap.mmap(-1, _rounded(nbytes))
        self.nbytes = nbytes
        self.moved = False

    def view(self) -> memoryview:
        """A writable view on all of it. ValueError once it was moved away."""
        if self.moved:
            raise ValueError("this buffer was given away")
        return memoryview(self._memory)[:self.nbytes]

    def _take(self, hide: bool) -> memoryview:
        if self.moved:
            raise ValueError("this buffer was given away")
        if hide and _exported(self._memory):
            raise BufferError("a buffer with views cannot be moved: release them, or use weak_move")
        view = self.view()
        self.moved = True
        return view

    def _drop(self, keep: bool) -> None:
        if _exported(self._memory):
            return                          # weak moves: it goes with the last view
        kept = _cache.setdefault(len(self._memory), [])
        if keep and len(kept) < CACHED:
            kept.append(self._memory)
        else:
            self._memory.close()


def _chosen(semantics: str) -> Semantics:
    try:
        return SEMANTICS[semantics]
    except (KeyError, TypeError):
        raise ValueError(f"semantics is one of {', '.join(SEMANTICS)}, not {semantics!r}") from None


def send(sock: socket, data: Any, semantics: str = "copy") -> int:
    """Send all of ``data`` with a choice of SEMANTICS; returns how many bytes.

    Of the application's: any buffer ("emulated_copy": without a copy if its pages can be shared copy-on-write, best
    of a ``ustack.CowBuffer``; it may be written to at once). Of the system's: a Buffer, which is gone afterwards. In
    place where the path allows it (docs/techniques/direct.md), else copied: the promise is the same. Raises what
    ``sock.sendall`` raises, ValueError (unknown semantics, a buffer given away), TypeError (not a Buffer),
    BufferError (a strong move, views).
    """
    chosen = _chosen(semantics)
    if chosen.allocation == "system":
        return _give(sock, data, chosen)
    with memoryview(data) as view:
        n = view.nbytes
        if semantics == "copy" or n == 0:
            sock.sendall(view)
        elif semantics == "emulated_copy":
            sock.sendall(view, cow=True)
        elif chosen.emulated:
            sock.sendall(view, direct=True)
        else:
            with Registration(view):
                sock.sendall(view, direct=True)
    return n


def _give(sock: socket, data: Any, chosen: Semantics) -> int:
    if not isinstance(data, Buffer):
        raise TypeError(f"system-allocated semantics send a genie.Buffer, not {type(data).__name__}")
    view = data._take(chosen.integrity == "strong")
    try:
        sock.sendall(view, direct=True)
    finally:
        view.release()
        data._drop(chosen.emulated)
    return data.nbytes


def recv(sock: socket, into: Any, semantics: str = "copy") -> int | list[Mblk]:
    """Receive with a choice of SEMANTICS.

    Of the application's: ``into`` is a writable buffer; returns the number of bytes, 0 at the end of the stream
    ("emulated_copy" exchanges whole pages of a ``ustack.FlipBuffer`` with those received). Of the system's: ``into``
    is how many bytes at most; returns a list of ``ustack.buffers.Mblk``, read-only, [] at the end. Raises what
    ``sock.recv_into`` and ``sock.recv_buffers`` raise, ValueError (unknown semantics), TypeError.
    """
    chosen = _chosen(semantics)
    if chosen.allocation == "system":
        if not isinstance(into, int):
            raise TypeError(f"system-allocated semantics take a number of bytes, not {type(into).__name__}")
        return sock.recv_buffers(into)
    if semantics == "emulated_copy":
        return sock.recv_flip(into)
    return sock.recv_into(into)
