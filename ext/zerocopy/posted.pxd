"""Receives that were posted before their data came: the flow is predicted, and the link puts payload in its place.

A posting stands for the bytes of one connection from a stream position on. The next segment is expected to be the next
in order, with a header of the usual length, no flag that ends or begins anything, and no fragment. A hit is a block on
the user's memory, at the very place where its bytes belong: where they do not come in order after all, the position is
still right. A posting only moves forward; it may be set anew when nothing of its connection waits. A link that guesses
asks about what lies at the base; one whose device knows the rule may have put payload further on. Under the engine's
lock.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ustack._core.base.addr cimport flow
from ustack._core.base.counters cimport counters
from ustack._core.base.seq cimport seq_t
from ustack._core.mem.mblk cimport mblk
from ustack._core.mem.posting cimport posting
from ustack._core.tcp.tcp cimport tcb

cdef struct posted:
    posting face                # first
    flow key                    # of the connection, which may end before its posting
    mblk *whole                 # all of the memory: holds its storage; the caller's
    uint8_t *start              # where the byte of stream position `origin` belongs
    seq_t origin
    size_t length
    uint8_t link_header         # bytes
    counters *n

# For a connection of which nothing is queued: bytes from rcv_nxt on belong at the beginning of `whole`.
cdef void posted_open(posted *p, tcb *c, mblk *whole, uint8_t link_header, counters *n) noexcept nogil
# Expect what comes next in order, if nothing of the connection waits.
cdef void posted_resume(posted *p, const tcb *c) noexcept nogil
# The caller goes: make copies of what queues hold of its memory. 0 or -ENOMEM.
cdef int posted_rescue(tcb *c, mblk *whole) noexcept nogil
