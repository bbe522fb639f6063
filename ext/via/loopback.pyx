"""The loopback provider: see loopback.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.via.connect cimport connect_input
from ustack._core.via.deliver cimport (
    deliver_done, deliver_fail, deliver_gather, deliver_match, deliver_move, deliver_report, via_target,
)
from ustack._core.via.types cimport (
    VE_CONN_LOST, VI_CONNECTED, VIP_SUCCESS, via_control, via_message, via_nic, via_ops, via_port, via_span, via_vi,
)
from ustack._core.via.vi cimport vi_break, vi_find
from ustack._core.wire.via cimport CONTROL_IMMEDIATE, SEGMENTS_MAX, desc

cdef via_ops operations


cdef void loopback_init(via_nic *nic) noexcept nogil:
    operations.send = &loopback_send
    operations.control = &loopback_control
    operations.poll = &loopback_poll
    operations.cancel = &loopback_cancel
    nic.loopback.nic = nic
    nic.loopback.ops = &operations


cdef bint pass_on(via_vi *vi, uint32_t position) noexcept nogil:
    """Deliver one descriptor's message. False: the connection is over."""
    cdef via_span spans[SEGMENTS_MAX]
    cdef via_target to
    cdef via_message m
    cdef desc d
    cdef uint32_t bad
    cdef via_vi *peer = vi_find(vi.nic, vi.peer)
    if peer == NULL or peer.state != VI_CONNECTED or peer.peer != vi.id:
        vi_break(vi, VE_CONN_LOST)
        return False
    bad = deliver_gather(vi, position, &d, spans, &m.length)
    if bad:
        return deliver_fail(vi, position, bad)
    m.spans = spans
    m.n = d.c.segments
    m.immediate = d.c.immediate
    m.has_immediate = d.c.control & CONTROL_IMMEDIATE != 0
    bad = deliver_match(peer, m.length, &to)
    if bad == 0:
        deliver_move(vi.nic, &to, &m)
        deliver_done(peer, &to, &m)
    return deliver_report(vi, position, m.length, bad)


cdef int loopback_send(via_vi *vi) noexcept nogil:
    cdef uint32_t position
    while vi.send.next != vi.send.tail:
        position = vi.send.next
        vi.send.next += 1
        if vi.send.slots[position & vi.send.mask].status == 0 and not pass_on(vi, position):
            break
    return VIP_SUCCESS


cdef int loopback_control(via_port *p, const via_control *c) noexcept nogil:
    connect_input(p, c)
    return VIP_SUCCESS


cdef int loopback_poll(via_port *p, int budget) noexcept nogil:
    return 0


cdef void loopback_cancel(via_vi *vi, bint everything) noexcept nogil:
    pass
