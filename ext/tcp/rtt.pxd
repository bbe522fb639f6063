"""Round trip time and retransmission time-out (RFC 6298, RFC 7323 4), in ns."""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_t
from ustack._core.base.types cimport ns_t
from ustack._core.tcp.block cimport tcb

# RFC 6298 lets the minimum be a second or less, Linux takes 200 ms. All are Linux's.
cdef enum:
    RTO_MIN_MS = 200
    RTO_MAX_MS = 120000
    RTO_INIT_MS = 1000
    TS_TICK_NS = 1000000        # our timestamps count milliseconds

cdef void rtt_init(tcb *c) noexcept nogil
# Start to time what ends at seq.
cdef void rtt_begin(tcb *c, seq_t seq) noexcept nogil
# One measurement.
cdef void rtt_sample(tcb *c, ns_t rtt) noexcept nogil
# The time-out now, back-offs counted, bounded.
cdef ns_t rto_backed_off(const tcb *c) noexcept nogil
# Our timestamp clock, with an offset of its own per connection.
cdef uint32_t ts_now(const tcb *c) noexcept nogil
