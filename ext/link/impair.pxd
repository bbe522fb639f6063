"""A link that wraps another and spoils its wire: loss, duplication, reordering, corruption, delay, jitter, rate, MTU.

Super-segments are cut before the dice are rolled: what is lost is a wire packet, whatever the stack and the
device agree on. Each direction has its own lane and its own dice.
"""

from libc.stdint cimport uint64_t

from ustack._core.link.around cimport knowledge
from ustack._core.link.lane cimport lane_options, lane_stats
from ustack._core.link.link cimport link

# NULL without memory. `inner` is not closed with it.
cdef link *impair_create(link *inner, const lane_options *tx, const lane_options *rx, uint64_t seed,
                         const knowledge *know) noexcept nogil
# What has happened to packets so far; how many are on the wire.
cdef lane_stats *impair_stats(link *l, bint tx) noexcept nogil
cdef int impair_waiting(link *l, bint tx) noexcept nogil
