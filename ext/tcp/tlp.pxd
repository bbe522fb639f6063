"""Tail loss probes (RFC 8985 7): two round trips after the last of a flight one segment more is sent, new or the last
one again, so that its ACK shows what is missing long before the time-out would. One probe at a time; only with SACK.
"""

from ustack._core.base.seq cimport seq_t
from ustack._core.base.types cimport ns_t
from ustack._core.tcp.block cimport tcb

# When a probe is due, in ns from now; 0: none is. `limit`: ns until the time-out, which it does not outlast.
cdef ns_t tlp_wait(const tcb *c, ns_t limit) noexcept nogil
# The last segment of what is in flight: where it begins. Something is in flight.
cdef seq_t tlp_tail(const tcb *c) noexcept nogil
# A probe was sent, a new segment or one sent again.
cdef void tlp_sent(tcb *c, bint resent) noexcept nogil
# An ACK, and what is special about it; returns whether the probe has repaired a loss (7.4).
cdef bint tlp_ack(tcb *c, seq_t ack, bint plain, bint dsack, seq_t dsack_end) noexcept nogil
