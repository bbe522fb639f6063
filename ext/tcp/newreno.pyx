"""NewReno's windows: see newreno.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.tcp.block cimport cc_ops, flight, tcb

cdef enum:
    CWND_MAX = 1 << 30


cdef uint32_t initial_window(uint32_t mss) noexcept nogil:
    return 10 * mss


cdef void reno_init(tcb *c) noexcept nogil:
    c.cwnd = initial_window(c.snd_mss)
    c.ssthresh = CWND_MAX
    c.cwnd_acked = 0


cdef void reno_acked(tcb *c, uint32_t acked) noexcept nogil:
    """Counting bytes, not ACKs (RFC 3465), so that splitting ACKs gains a peer nothing."""
    cdef uint32_t room
    if c.cwnd < c.ssthresh:
        room = c.ssthresh - c.cwnd
        room = acked if acked < room else room
        c.cwnd = c.cwnd + room if c.cwnd + room < CWND_MAX else CWND_MAX
        acked -= room
    c.cwnd_acked += acked
    while c.cwnd_acked >= c.cwnd and c.cwnd < CWND_MAX:
        c.cwnd_acked -= c.cwnd
        c.cwnd += c.snd_mss


cdef uint32_t reno_ssthresh(tcb *c) noexcept nogil:
    cdef uint32_t half = flight(c) >> 1
    return half if half > 2 * c.snd_mss else 2 * c.snd_mss


cdef cc_ops NEWRENO
NEWRENO.name = b"reno"
NEWRENO.init = reno_init
NEWRENO.acked = reno_acked
NEWRENO.ssthresh = reno_ssthresh


cdef const cc_ops *newreno() noexcept nogil:
    return &NEWRENO
