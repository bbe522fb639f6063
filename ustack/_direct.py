"""Memory that is registered with the library, to be sent from and received into where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ustack._core.py.direct import AUTO_LEAST, Completion, Registration

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DIRECT_LEAST", "Completion", "Registration", "register"]

DIRECT_LEAST: int = AUTO_LEAST


def register(buffer: Buffer) -> Registration:
    """Promise that a buffer stays where it is, and have its pages pinned (mlock), until the result is closed.

    Sends in place of any part of it then need not look after its pages, and posted receives may be filled by the
    link. The buffer is held meanwhile: a bytearray cannot be resized, an mmap not closed (BufferError). The same memory
    may be registered several times. Where the system does not pin it (RLIMIT_MEMLOCK), it is registered all the same:
    ``pinned`` is False, ``error`` the errno, and the pages are looked after in each call. Usable in a ``with``.

    Raises ValueError (empty), BufferError (not contiguous), TypeError (no buffer), OSError (ENOSPC: 4,096 ranges).
    """
    return Registration(buffer)
