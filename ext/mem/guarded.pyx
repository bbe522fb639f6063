"""Copies to and from memory that may be gone: see guarded.pxd."""

from libc.errno cimport EFAULT, ENOBUFS
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from ustack._core.base.ledger cimport LR_CSUM_FUSED, ledger, ledger_book
from ustack._core.base.types cimport likely
from ustack._core.mem.mblk cimport DB_EXTERNAL, DB_LENT, allocb, freemsg, mblk_len, msgcopyout
from ustack._core.mem.sums cimport msgfill
from ustack._core.mem.types cimport arena, mblk
from ustack._core.sys.guard cimport guard_call, guard_copy

cdef enum:
    BLOCK = 65536               # bytes that a block is filled with

cdef struct out:
    const mblk *m
    size_t offset
    uint8_t *dst

cdef struct into:
    mblk *m
    const uint8_t *src
    uint32_t stride
    uint32_t phase


# --- out of blocks ----------------------------------------------------------------------------------------------------

cdef void copy_out(void *arg, size_t n) noexcept nogil:
    cdef out *x = <out *>arg
    msgcopyout(NULL, 0, x.m, x.offset, x.dst, n)


cdef size_t msgcopyout_guarded(ledger *l, int reason, const mblk *m, size_t offset, void *dst, size_t n) noexcept nogil:
    cdef out x = out(m, offset, <uint8_t *>dst)
    cdef size_t have = 0, there
    while m != NULL and have < offset + n:
        have += mblk_len(m)
        m = m.cont
    have = have - offset if have > offset else 0
    if have < n:
        n = have
    while n:
        there = guard_call(copy_out, &x, dst, n)
        if likely(there == n):
            break
        n = there               # there may be gaps in front of it, too
    if l != NULL and n:
        ledger_book(l, reason, n)
    return n


cdef size_t msgcopyout_outside(ledger *l, int reason, const mblk *m, size_t offset, void *dst, size_t n) noexcept nogil:
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
            got = here
            if m.dp.flags & DB_EXTERNAL and not m.dp.flags & DB_LENT:
                got = guard_copy(to + done, m.rptr + offset, here)
            else:
                memcpy(to + done, m.rptr + offset, here)
            done += got
            offset = 0
            if got < here:
                break
        m = m.cont
    if l != NULL and done:
        ledger_book(l, reason, done)
    return done


# --- into blocks ------------------------------------------------------------------------------------------------------

cdef mblk *empty_blocks(arena *a, size_t n) noexcept nogil:
    cdef mblk *head = NULL
    cdef mblk **at = &head
    cdef size_t here
    while head == NULL or n:
        here = n if n < BLOCK else BLOCK
        at[0] = allocb(a, here)
        if at[0] == NULL:
            freemsg(head)
            return NULL
        at = &at[0].cont
        n -= here
    return head


cdef void copy_in(void *arg, size_t n) noexcept nogil:
    cdef into *x = <into *>arg
    msgfill(x.m, x.src, n, x.stride, x.phase)


cdef mblk *msgcopyin_guarded(arena *a, ledger *l, int reason, const void *src, size_t *n, uint32_t stride,
                             uint32_t phase, int *err) noexcept nogil:
    cdef into x = into(NULL, <const uint8_t *>src, stride, phase)
    cdef size_t there
    err[0] = -ENOBUFS
    while True:
        x.m = empty_blocks(a, n[0])
        if x.m == NULL:
            return NULL
        there = guard_call(copy_in, &x, src, n[0])
        if likely(there == n[0]):
            break
        freemsg(x.m)
        n[0] = there
        if there == 0:
            err[0] = -EFAULT
            return NULL
    x.m.pkt_len = <uint32_t>there
    ledger_book(l, reason, there)
    if stride:
        ledger_book(l, LR_CSUM_FUSED, there)
    return x.m
