"""Pacing: SO_MAX_PACING_RATE, as a gap after each packet (Linux's sk_pacing).

A paced connection sends packets of about a millisecond's worth, so that a super-segment is not a burst. What a timer
that fires late has cost is made up for, up to one such packet: the rate is exact over time and never exceeded by more.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ustack._core.tcp.block cimport tcb

# Bytes of payload per second, or -1: none. 0 or -ENOMEM.
cdef int pacing_set(tcb *c, int64_t rate) noexcept nogil
cdef int64_t pacing_rate(const tcb *c) noexcept nogil
cdef void pacing_free(tcb *c) noexcept nogil
# The most payload that a packet should have; `most` without a rate.
cdef uint32_t pacing_packet(const tcb *c, uint32_t most) noexcept nogil
# For connections with c.pace: whether the next packet has to wait, and then a timer is set; n bytes have left.
cdef bint pacing_holds(tcb *c) noexcept nogil
cdef void pacing_sent(tcb *c, uint32_t n) noexcept nogil
