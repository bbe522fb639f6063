"""A wire between two links that have descriptors: what one receives, the other sends. Its loop needs a thread.

Super-segments are cut by the impaired link that one of the two is; a full device drops, as a wire does.
"""

from libc.stdint cimport int32_t, uint64_t

from ustack._core.base.types cimport ns_t
from ustack._core.link.around cimport knowledge
from ustack._core.link.link cimport link
from ustack._core.mem.arena cimport arena

cdef struct bridge_stats:
    uint64_t packets[2]         # a to b, b to a
    uint64_t dropped            # the device was busy
    uint64_t sleeps

cdef struct bridge:
    link *end[2]
    arena *mem
    int stop_fd                 # an eventfd: bridge_stop wakes the loop with it
    int32_t stopping
    ns_t (*clock)() noexcept nogil
    knowledge know
    bridge_stats n
    int error                   # -errno of what ended the loop

# Carry packets until bridge_stop, or until a device has vanished.
cdef void bridge_run(bridge *b) noexcept nogil
# From any thread.
cdef void bridge_stop(bridge *b) noexcept nogil
