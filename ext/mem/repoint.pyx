"""Moving storage under its windows: see repoint.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ustack._core.base.types cimport atomic_load32, spin_lock, spin_unlock
from ustack._core.mem.types cimport CELL, arena, dblk, mblk

cdef extern from "<malloc.h>" nogil:
    size_t malloc_usable_size(void *p)


cdef inline void follow(mblk *m, dblk *d, uint8_t *base) noexcept nogil:
    if m.dp == d and d.base <= m.rptr <= d.lim:
        m.wptr = base + (m.wptr - d.base)
        m.rptr = base + (m.rptr - d.base)


cdef void dblk_repoint(dblk *d, mblk *hint, uint8_t *base) noexcept nogil:
    cdef arena *a = d.owner
    cdef uint8_t *chunk
    cdef size_t at
    if atomic_load32(&d.refs) == 1 and hint.dp == d and d.base <= hint.rptr <= d.lim:
        follow(hint, d, base)
    else:
        # All mblk structures there are, free ones too. In a slab entry that is none nothing looks like a pointer to d.
        spin_lock(&a.lock)
        chunk = <uint8_t *>a.chunks
        while chunk != NULL:
            at = CELL
            while at + CELL <= malloc_usable_size(chunk):
                follow(<mblk *>(chunk + at), d, base)
                at += CELL
            chunk = (<uint8_t **>chunk)[0]
        spin_unlock(&a.lock)
    d.lim = base + (d.lim - d.base)
    d.base = base
