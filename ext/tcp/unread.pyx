"""Bytes that go back to a receive queue: see unread.pxd."""

from libc.stdint cimport uint32_t, uint64_t

from ustack._core.base.codes cimport EV_IN
from ustack._core.mem.mblk cimport mblk, msgbytes
from ustack._core.tcp.block cimport tcb, tcb_post
from ustack._core.tcp.queue cimport rq_append


cdef void tcp_unread(tcb *c, mblk *taken) noexcept nogil:
    cdef mblk *rest = c.rq_head
    cdef uint32_t n = c.rq_len
    cdef uint64_t consumed
    c.rq_head = c.rq_tail = NULL
    c.rq_len = c.rq_held = 0
    rq_append(c, taken, <uint32_t>msgbytes(taken))
    if rest != NULL:
        rq_append(c, rest, n)
    consumed = c.bytes_received - c.rq_len
    if c.drs.consumed > consumed:
        c.drs.consumed = consumed       # or the buffer would be sized by what nobody has read
    tcb_post(c, EV_IN)
