"""Flow control: see window.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.tcp.block cimport tcb


cdef int rcv_scale(const tcb *c) noexcept nogil:
    cdef uint32_t most = c.rcvbuf
    cdef int scale = 0
    if not c.rcvbuf_set and c.home.rcvbuf > most:
        most = c.home.rcvbuf
    while scale < 14 and (most >> scale) > 65535:
        scale += 1
    return scale


cdef uint32_t update_step(const tcb *c) noexcept nogil:
    """The least growth worth telling: min(Eff.rcv.MSS, buffer / 2) (RFC 9293 3.8.6.2.2)."""
    return c.rcv_mss if c.rcv_mss < c.rcvbuf >> 1 else c.rcvbuf >> 1


cdef uint32_t window_offer(tcb *c, bint syn) noexcept nogil:
    cdef uint32_t unit = 1 if syn else (<uint32_t>1 << c.rcv_wscale)
    cdef uint32_t limit = <uint32_t>65535 * unit
    cdef uint32_t promised = rcv_window(c)
    cdef uint32_t window = rcv_space(c)
    if window > limit:
        window = limit
    window &= ~(unit - 1)
    if window < promised + update_step(c):
        # Not worth moving the edge, or there is less room than was promised: keep the promise, which the
        # scale may force us to round up.
        window = (promised + unit - 1) & ~(unit - 1)
        if window > limit:
            window = limit
    if window > promised:
        c.rcv_adv = c.rcv_nxt + window
    return window // unit


cdef bint window_update_due(const tcb *c) noexcept nogil:
    """Told when the window has become less than half of what it can be, and can grow by an MSS or half the buffer.
    Before that the ACKs of arriving data tell it."""
    cdef uint32_t most = min(c.rcvbuf, <uint32_t>65535 << c.rcv_wscale)
    cdef uint32_t promised = rcv_window(c)
    cdef uint32_t window = min(rcv_space(c), most)
    return promised <= most >> 1 and window >= promised + update_step(c) and window >= 2 * promised
