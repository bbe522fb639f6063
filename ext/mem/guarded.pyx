"""Copies to memory that may be gone: see guarded.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ustack._core.base.ledger cimport ledger, ledger_book
from ustack._core.mem.mblk cimport mblk_len
from ustack._core.mem.types cimport mblk
from ustack._core.sys.guard cimport guard_copy_to


cdef size_t msgcopyout_guarded(ledger *l, int reason, const mblk *m, size_t offset, void *dst, size_t n) noexcept nogil:
    cdef uint8_t *to = <uint8_t *>dst
    cdef size_t done = 0, here, got
    while m != NULL and done < n:
        here = mblk_len(m)
        if offset >= here:
            offset -= here
        else:
            here -= offset
            if here > n - done:
                here = n - done
            got = guard_copy_to(to + done, m.rptr + offset, here)
            done += got
            offset = 0
            if got < here:
                break
        m = m.cont
    if l != NULL and done:
        ledger_book(l, reason, done)
    return done
