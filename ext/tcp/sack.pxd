"""The SACK scoreboard (RFC 2018, RFC 6675): which intervals above snd_una the peer says it holds.

A sorted array of disjoint intervals, never tied to blocks of the send queue. It is advice: at its bound new
intervals are forgotten, which costs retransmissions and nothing else.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_t
from ustack._core.tcp.block cimport interval, scoreboard

cdef enum:
    SACK_INTERVALS = 512

# Add [start, end); returns how many bytes were not known before. The caller has checked the edges.
cdef uint32_t sack_add(scoreboard *b, seq_t start, seq_t end) noexcept nogil
# Forget what lies below una.
cdef void sack_advance(scoreboard *b, seq_t una) noexcept nogil
# Forget everything, keep the memory.
cdef void sack_clear(scoreboard *b) noexcept nogil
cdef void sack_free(scoreboard *b) noexcept nogil
# Bytes held by the peer within [start, end).
cdef uint32_t sack_within(const scoreboard *b, seq_t start, seq_t end) noexcept nogil
# The first hole at or above `start`, ending at `end` at the latest: False if there is none.
cdef bint sack_hole(const scoreboard *b, seq_t start, seq_t end, interval *hole) noexcept nogil
# RFC 6675 IsLost for all at once: everything not held below the returned number is lost (una: nothing is).
cdef seq_t sack_lost_below(const scoreboard *b, seq_t una, uint32_t mss) noexcept nogil


cdef inline seq_t sack_highest(const scoreboard *b, seq_t una) noexcept nogil:
    """One past the highest byte that the peer holds."""
    return b.v[b.n - 1].end if b.n else una
