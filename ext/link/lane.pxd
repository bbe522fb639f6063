"""One direction of an impaired wire: what it does to packets, and the packets that are on it.

The dice are rolled once per wire packet, always in the same order, so that a seed and a sequence of packets
determine everything. Packets come out ordered by (time due, order of entry).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ustack._core.base.rng cimport rng
from ustack._core.base.types cimport ns_t
from ustack._core.link.around cimport around
from ustack._core.mem.mblk cimport mblk

cdef struct lane_options:
    double loss                 # probabilities, per wire packet
    double duplicate
    double corrupt              # one bit of the IP packet is flipped
    double reorder              # held back for reorder_delay while others pass
    ns_t reorder_delay
    ns_t delay
    ns_t jitter                 # added delay, uniform in [0, jitter]; it does not reorder
    int64_t rate                # bits per second; 0: no limit
    uint32_t mtu                # longer IP packets vanish; 0: no limit
    uint32_t limit              # packets on the wire; beyond it they are dropped

cdef struct lane_stats:
    uint64_t passed, lost, duplicated, corrupted, reordered, overflow, too_big, bad, nomem

cdef struct waiting:
    ns_t due
    uint64_t order
    mblk *pkt

cdef struct lane:
    lane_options o
    lane_stats n
    rng dice
    waiting *heap               # o.limit places
    uint32_t count
    uint64_t order
    ns_t busy_until             # the transmitter of a wire with a rate
    ns_t last_due               # jitter does not overtake

# 0 or -ENOMEM.
cdef int lane_init(lane *q, const lane_options *o, uint64_t seed, uint64_t direction) noexcept nogil
cdef void lane_free(lane *q) noexcept nogil
# Put a packet (perhaps a super-segment, which is cut) on the wire; takes it.
cdef void lane_put(lane *q, around *a, mblk *taken, ns_t now) noexcept nogil
# The next packet that is due by `now`; NULL if there is none.
cdef mblk *lane_take(lane *q, ns_t now) noexcept nogil
# When the next packet is due; NS_NEVER if there is none.
cdef ns_t lane_deadline(const lane *q) noexcept nogil
