"""Loss recovery: what an ACK means for what is in flight, and how much may be in flight while losses are repaired.

With SACK RACK finds the losses (rack), without it three duplicate ACKs and partial ACKs do (NewReno, RFC 6582); then
each duplicate ACK stands for a segment that has left the network. In both cases PRR (RFC 9937) leads the window down
to ssthresh. After a time-out the window starts again from one segment (RFC 5681 3.1), unless F-RTO (RFC 5682) or undo
find that nothing was lost.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_t
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport flight, tcb
from ustack._core.tcp.scoreboard cimport scored

# What an ACK says, to be handed through the steps of its processing.
cdef struct ack_news:
    scored k
    uint32_t acked              # bytes of progress
    uint32_t held               # bytes that are news in its SACK blocks
    bint duplicate              # counts as a duplicate ACK
    bint plain                  # makes no progress, has no SACK blocks
    bint dsack                  # its first block reports a duplicate: so many bytes, that end there
    seq_t dsack_end
    uint32_t dsack_n

# Begin to process an ACK whose round trip time has been measured; before snd_una moves.
cdef void recovery_open(const tcb *c, const arrival *s, ack_news *a) noexcept nogil
# Take in its SACK blocks; snd_una has moved.
cdef void recovery_sack(tcb *c, const arrival *s, ack_news *a) noexcept nogil
# All is known: what follows from it. Returns whether the timer now waits for what may only be reordered.
cdef bint recovery_ack(tcb *c, const arrival *s, ack_news *a) noexcept nogil
# The retransmission timer fired (RFC 5681 3.1, RFC 6298 5.4 to 5.6).
cdef void recovery_timeout(tcb *c) noexcept nogil
# What might only have been late has not come (RFC 8985 6.2 step 5).
cdef void recovery_reorder(tcb *c) noexcept nogil
# Everything in flight was dropped for a reason that is not congestion: send it again, the window stays.
cdef void recovery_resend_all(tcb *c) noexcept nogil


cdef inline uint32_t pipe(const tcb *c) noexcept nogil:
    """Bytes thought to be in the network (RFC 6675 4, SetPipe)."""
    cdef uint32_t out = c.sb.held + c.sb.lost + c.reno_sacked
    return flight(c) - out if flight(c) > out else 0
