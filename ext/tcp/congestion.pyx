"""Congestion control as the rest of TCP sees it: see congestion.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.string cimport strlen, strncmp

from ustack._core.tcp.block cimport CA_LOSS, TF_CWND_LIMITED, cc_ops, flight, has, tcb
from ustack._core.tcp.cubic cimport cubic
from ustack._core.tcp.newreno cimport newreno


cdef bint named(const cc_ops *cc, const char *name, size_t n) noexcept nogil:
    cdef size_t length = strlen(cc.name)
    return n >= length and strncmp(cc.name, name, length) == 0 and (n == length or name[length] == 0)


cdef const cc_ops *congestion_find(const char *name, size_t n) noexcept nogil:
    if named(cubic(), name, n):
        return cubic()
    return newreno() if named(newreno(), name, n) else NULL


cdef uint32_t initial_window(uint32_t mss) noexcept nogil:
    return 10 * mss


cdef void congestion_start(tcb *c) noexcept nogil:
    c.cwnd = initial_window(c.snd_mss)
    c.ssthresh = CWND_MAX
    c.cc.init(c)


cdef void congestion_use(tcb *c, const cc_ops *cc) noexcept nogil:
    c.cc = cc
    c.cc.init(c)


cdef bint was_used(const tcb *c, uint32_t acked) noexcept nogil:
    """Only a window that was used may grow (RFC 7661's idea, Linux's rule): it held output back, or, in slow start, at
    least half of it was in flight."""
    return (has(c, TF_CWND_LIMITED) or c.ca_state == CA_LOSS
            or (c.cwnd < c.ssthresh and c.cwnd < 2 * (flight(c) + acked)))


cdef uint32_t countable(const tcb *c, uint32_t acked) noexcept nogil:
    """RFC 3465: in slow start an ACK counts for at most L = 2 packets, after a time-out for one: then it may tell of
    data that had arrived before. A packet is what leaves in one piece here. Peers that receive super-segments
    acknowledge super-segments."""
    cdef uint32_t most = c.gso_payload if c.ca_state == CA_LOSS else 2 * c.gso_payload
    return acked if acked < most or c.cwnd >= c.ssthresh else most


cdef void congestion_acked(tcb *c, uint32_t acked) noexcept nogil:
    if was_used(c, acked):
        c.cc.acked(c, countable(c, acked))


cdef uint32_t slow_start(tcb *c, uint32_t acked) noexcept nogil:
    cdef uint32_t room
    if c.cwnd >= c.ssthresh:
        return acked
    room = c.ssthresh - c.cwnd
    room = acked if acked < room else room
    c.cwnd = c.cwnd + room if c.cwnd + room < CWND_MAX else CWND_MAX
    return acked - room
