"""Loss recovery: NewReno (RFC 6582) and SACK-based (RFC 6675) in one form, and the retransmission time-out.

What is lost is an edge: unacknowledged, not selectively acknowledged data below `lost_edge` is lost, and has been
sent again below `rtx_nxt`. Without SACK each duplicate ACK stands for one segment that has left the network.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_t
from ustack._core.tcp.block cimport tcb
from ustack._core.wire.tcp cimport tcp_options

# Take in the SACK blocks of an ACK; returns the bytes that are new.
cdef uint32_t recovery_sack(tcb *c, const tcp_options *o, seq_t ack) noexcept nogil
# After an ACK: `acked` bytes of progress (snd_una has moved), whether it counts as a duplicate.
cdef void recovery_ack(tcb *c, uint32_t acked, bint duplicate) noexcept nogil
# The retransmission timer fired (RFC 5681 3.1, RFC 6298 5.4 to 5.6).
cdef void recovery_timeout(tcb *c) noexcept nogil
# Bytes thought to be in the network (RFC 6675 4, SetPipe).
cdef uint32_t pipe(const tcb *c) noexcept nogil
# Lost bytes between rtx_nxt and lost_edge.
cdef uint32_t lost_unsent(const tcb *c) noexcept nogil
