"""When received data is acknowledged: see ack.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.base.counters cimport C_TCP_DELACK, count
from ustack._core.base.types cimport NS_MS, ns_t
from ustack._core.base.wheel cimport timer_arm
from ustack._core.tcp.block cimport TF_ACK_DELAYED, TF_ACK_NOW, TF_QUICKACK, has, mark, tcb


cdef void ack_soon(tcb *c) noexcept nogil:
    c.flags |= TF_ACK_NOW
    mark(c)


cdef void learn_segment_size(tcb *c, uint32_t n) noexcept nogil:
    """The peer's full segments are as large as the largest that has come, up to what we offered."""
    if n > c.rcv_mss:
        c.rcv_mss = n if n < c.mss_adv else c.mss_adv


cdef void ack_data(tcb *c, uint32_t n) noexcept nogil:
    learn_segment_size(c, n)
    if c.rcv_nxt - c.last_ack_sent > c.rcv_mss or c.quick or has(c, TF_QUICKACK):
        if c.quick:
            c.quick -= 1
        ack_soon(c)
    elif not has(c, TF_ACK_DELAYED):
        c.flags |= TF_ACK_DELAYED
        timer_arm(&c.home.ctx.timers, &c.delack, c.home.ctx.now + DELACK_MS * NS_MS)


cdef void delack_fire(void *arg, ns_t now) noexcept nogil:
    cdef tcb *c = <tcb *>arg
    count(&c.home.ctx.n, C_TCP_DELACK)
    ack_soon(c)
