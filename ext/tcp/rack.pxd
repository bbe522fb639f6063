"""RACK (RFC 8985 3 to 6): a segment is lost when one that was sent enough later has been delivered.

How much later: not at all once three segments have been delivered out of order (RFC 6675's threshold) and as long
as this network has never been seen to reorder; else a quarter of the shortest round trip, more for each round trip
in which the peer reports duplicates. Retransmissions are judged like anything else that was sent. Only with SACK.
"""

from ustack._core.base.types cimport ns_t
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.scoreboard cimport scored

# Nothing has been delivered yet.
cdef void rack_init(tcb *c) noexcept nogil
# What an ACK has delivered (6.2, steps 1 to 3).
cdef void rack_update(tcb *c, const scored *s) noexcept nogil
# It reported a duplicate (step 4).
cdef void rack_dsack(tcb *c) noexcept nogil
# A recovery is over (step 4).
cdef void rack_recovered(tcb *c) noexcept nogil
# Mark what is lost (step 5); returns after how many ns more may be, 0: nothing.
cdef ns_t rack_detect(tcb *c) noexcept nogil
# The retransmission timer fired: the oldest segment is lost, and what was sent a round trip ago (6.3).
cdef void rack_timeout(tcb *c) noexcept nogil
