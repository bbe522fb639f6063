"""The send queue and the receive queue: chains of blocks by ``cont``, with the stream positions that TCP needs.

Nothing here knows of windows or states. Storage of the send queue is released by acknowledgement; packets in flight
are windows on it. Storage of the receive queue is charged as it is held, not as it is used.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from ustack._core.base.ledger cimport ledger
from ustack._core.base.seq cimport seq_t
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.block cimport tcb

cdef enum:
    SMALL_WRITE = 2048          # up to here bytes are copied into the tail block if it has room
    SMALL_TAIL = 16384          # and while it holds no more than so many

# Queue n bytes behind snd_end.
cdef void sq_append(tcb *c, mblk *taken, uint32_t n) noexcept nogil
# Windows on n queued bytes from `seq` on; NULL without memory.
cdef mblk *sq_window(tcb *c, seq_t seq, uint32_t n) noexcept nogil
# Release everything below `una`.
cdef void sq_release(tcb *c, seq_t una) noexcept nogil
# All of it.
cdef void sq_free(tcb *c) noexcept nogil
# Queue n received bytes; the chain has no empty blocks in front.
cdef void rq_append(tcb *c, mblk *taken, uint32_t n) noexcept nogil
# Detach the first n bytes, n > 0 and at most rq_len; NULL without memory.
cdef mblk *rq_take(tcb *c, size_t n) noexcept nogil
# The same bytes in dense blocks; the rest of the chain as it was when memory runs out. Blocks on storage of somebody
# else's that is charged with what it shows stay as they are: a link that bounds what it lends charges it so.
cdef mblk *chain_collapse(arena *a, ledger *book, mblk *taken) noexcept nogil
# What a chain that is not in the receive queue is charged for.
cdef uint32_t storage_of(const mblk *m) noexcept nogil
# Pack the receive queue and the out-of-order queue where they hold far more storage than data; `pressed`: where they
# hold noticeably more.
cdef void rq_collapse(tcb *c, bint pressed) noexcept nogil


cdef inline uint32_t rcv_held(const tcb *c) noexcept nogil:
    return c.rq_held + c.ooo.held


cdef inline uint32_t snd_queued(const tcb *c) noexcept nogil:
    """Bytes in the send queue, sent or not."""
    return c.snd_end - c.sq_head.seq if c.sq_head != NULL else 0
