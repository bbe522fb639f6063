"""NewReno's windows: see newreno.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.tcp.block cimport cc_ops, flight, tcb
from ustack._core.tcp.congestion cimport CWND_MAX, slow_start


cdef void reno_init(tcb *c) noexcept nogil:
    c.cwnd_acked = 0


cdef void reno_acked(tcb *c, uint32_t acked) noexcept nogil:
    """Counting bytes, not ACKs (RFC 3465), so that splitting ACKs gains a peer nothing."""
    c.cwnd_acked += slow_start(c, acked)
    while c.cwnd_acked >= c.cwnd and c.cwnd < CWND_MAX:
        c.cwnd_acked -= c.cwnd
        c.cwnd += c.snd_mss


cdef uint32_t reno_ssthresh(tcb *c) noexcept nogil:
    cdef uint32_t half = flight(c) >> 1
    return half if half > 2 * c.snd_mss else 2 * c.snd_mss


cdef void reno_undo(tcb *c) noexcept nogil:
    c.cwnd_acked = 0


cdef cc_ops NEWRENO
NEWRENO.name = b"reno"
NEWRENO.init = reno_init
NEWRENO.acked = reno_acked
NEWRENO.ssthresh = reno_ssthresh
NEWRENO.undo = reno_undo


cdef const cc_ops *newreno() noexcept nogil:
    return &NEWRENO
