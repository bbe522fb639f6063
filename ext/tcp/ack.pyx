"""When received data is acknowledged: see ack.pxd."""

from libc.stdint cimport uint16_t, uint32_t

from ustack._core.base.counters cimport C_TCP_DELACK, count
from ustack._core.base.types cimport NS_MS, ns_t
from ustack._core.base.wheel cimport timer_arm
from ustack._core.tcp.block cimport (
    TF2_ACK_LATE, TF2_AWAITED, TF2_DIALOGUE, TF2_HEARD, TF_ACK_DELAYED, TF_ACK_NOW, TF_QUICKACK, has, mark, tcb,
)
from ustack._core.tcp.segment cimport seg_ack


cdef void ack_soon(tcb *c) noexcept nogil:
    c.flags |= TF_ACK_NOW
    mark(c)


cdef void ack_loss(tcb *c) noexcept nogil:
    c.quick = QUICK_ACKS
    c.flags2 &= ~<uint32_t>TF2_DIALOGUE
    c.wary = WARY_SEGMENTS


cdef void learn_segment_size(tcb *c, uint32_t n) noexcept nogil:
    """The peer's full segments are as large as the largest that has come, up to what we offered, until two in a row
    are smaller and equal: then its path has become narrower."""
    if n > c.rcv_mss:
        c.rcv_mss = n if n < c.mss_adv else c.mss_adv
    elif n < c.rcv_mss and n == c.rcv_size and n >= LEAST_FULL:
        c.rcv_mss = n
    c.rcv_size = <uint16_t>(n if n < 0xFFFF else 0xFFFF)


cdef void ack_data(tcb *c, uint32_t n) noexcept nogil:
    cdef bint at_once = acks_at_once(c)
    cdef bint full
    c.flags2 |= TF2_HEARD
    learn_segment_size(c, n)
    full = c.rcv_nxt - c.last_ack_sent > c.rcv_mss
    if full and (at_once or c.wary):
        seg_ack(c)                      # also in the midst of a burst
    elif full or at_once or has(c, TF_QUICKACK):
        ack_soon(c)
    elif not has(c, TF_ACK_DELAYED):
        c.flags |= TF_ACK_DELAYED
        timer_arm(&c.home.ctx.timers, &c.delack, c.home.ctx.now + DELACK_MS * NS_MS)
    if c.quick:
        c.quick -= 1
    if c.wary:
        c.wary -= 1


cdef void ack_with_answer(tcb *c) noexcept nogil:
    if not c.flags2 & TF2_AWAITED or c.flags & (TF_ACK_NOW | TF_ACK_DELAYED):
        ack_soon(c)
        return
    c.flags |= TF_ACK_DELAYED
    c.flags2 |= TF2_ACK_LATE
    timer_arm(&c.home.ctx.timers, &c.delack, c.home.ctx.now + ANSWER_MS * NS_MS)


cdef void ack_unanswered(tcb *c) noexcept nogil:
    if c.flags2 & TF2_ACK_LATE and has(c, TF_ACK_DELAYED):
        ack_soon(c)


cdef void delack_fire(void *arg, ns_t now) noexcept nogil:
    cdef tcb *c = <tcb *>arg
    count(&c.home.ctx.n, C_TCP_DELACK)
    ack_soon(c)
