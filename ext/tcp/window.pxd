"""Flow control: the window that we offer, and what the peer's window and the silly window rules let us send
(RFC 9293 3.8.6). The right edge that was offered never moves back.
"""

from libc.stdint cimport uint32_t, uint64_t

from ustack._core.base.seq cimport seq_t
from ustack._core.base.types cimport NS_NEVER
from ustack._core.tcp.block cimport tcb

cdef enum:
    RCVBUF_MAX = 256 * 1024 * 1024
    LOOK = 1 << 20              # nanoseconds: every link is looked at so often, while packets come

# Decide what to offer now, move rcv_adv, and return it as the header's window field (scaled; not in a SYN).
cdef uint32_t window_offer(tcb *c, bint syn) noexcept nogil
# Whether the application has read so much that the peer should be told (RFC 9293 3.8.6.2.2).
cdef bint window_update_due(const tcb *c) noexcept nogil
# The shift that lets the receive buffer be offered whole, also when it has grown (RFC 7323 2.3).
cdef int rcv_scale(const tcb *c) noexcept nogil


cdef inline uint32_t rcv_window(const tcb *c) noexcept nogil:
    """What is left of the window promised: RCV.WND."""
    return c.rcv_adv - c.rcv_nxt


cdef inline uint32_t rcv_space(const tcb *c) noexcept nogil:
    """Room in the receive buffer, counted in bytes of data; no more than can come in LOOK while nobody looks and the
    link still holds. On a longer path that is a part of the window."""
    cdef uint32_t space = c.rcvbuf - c.rq_len if c.rq_len < c.rcvbuf else 0
    cdef uint64_t room = c.way.ifp.rx_room if c.way.ifp != NULL else 0
    if room and LOOK < c.min_rtt < NS_NEVER:
        room = room * (<uint64_t>c.min_rtt >> 10) // (LOOK >> 10)
    return <uint32_t>room if room and room < space else space


cdef inline uint32_t snd_window_left(const tcb *c) noexcept nogil:
    """How much more the peer's window takes; 0 if it has shrunk below what was sent."""
    cdef uint32_t sent = c.snd_nxt - c.snd_una
    return c.snd_wnd - sent if c.snd_wnd > sent else 0
