"""The stack's half of posted receives on a shared-memory link: the other side's device is told where payload belongs.

That device is another process's, and so may be its program. It is told of regions whose owner allows it
(REGION_PEERS), and of no others. What it says it has put there is checked against what was posted, and the headers by
whoever posted. One receive is posted at a time:

    nothing --post--> out --unpost--> (the device is not writing) --> back --(its packets were received)--> nothing
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ustack._core.link.link cimport link
from ustack._core.link.shm_wire cimport SHM_NOT_COUNT, SHM_SINKS, shm_packet, shm_posting
from ustack._core.mem.mblk cimport mblk
from ustack._core.mem.region cimport region
from ustack._core.mem.ring cimport ring

cdef enum:
    POST_NOTHING = 0
    POST_OUT = 1
    POST_ASKED = 2              # taken back; the device may be writing
    POST_BACK = 3               # it is not, but packets may be in the ring

cdef struct shm_post_stats:
    uint64_t placed             # packets whose payload is in its place
    uint64_t placed_bytes
    uint64_t bad_placed         # descriptors refused: nothing like that was posted
    uint64_t stray              # packets dropped: their headers are not those of the payload that was waited for
    uint64_t regions            # that the other side's device was told of
    uint64_t passed[SHM_NOT_COUNT]      # packets that came the ordinary way while something was posted, by reason

cdef struct shm_poster:
    shm_posting *told           # in our face
    int32_t *busy               # likewise; the device's to write
    int fd                      # to the other side's device; -1: it takes no postings
    int state                   # POST_*
    int32_t version             # of what is posted, or was
    uint8_t *base               # of its memory
    uint32_t length
    uint32_t header
    uint32_t mark               # what lies below it is never written to again
    uint32_t floor              # as it was told
    uint32_t spared             # as it is known to have been seen
    int32_t writing             # what the device was at when it was asked; 0: nothing
    uint32_t last               # index in the ring of the last packet that may be in place, plus 1
    region *sinks[SHM_SINKS]
    uint32_t names[SHM_SINKS]
    uint32_t told_of            # regions, ever
    int32_t retired             # regions_retired() when the sinks were looked through
    shm_post_stats n

cdef void shm_poster_init(shm_poster *q, region *face, int fd) noexcept nogil
cdef void shm_poster_close(shm_poster *q) noexcept nogil
# As the operations of link_ops; -ENODEV: the device does not give the memory back.
cdef int shm_poster_post(shm_poster *q, link *l) noexcept nogil
cdef int shm_poster_spare(shm_poster *q, const uint8_t *end, bint last) noexcept nogil
cdef int shm_poster_unpost(shm_poster *q, ring *inbox, bint ended, bint last) noexcept nogil
# The packet of a descriptor that speaks of placed bytes, with what is in the buffer at `data`. NULL: none (counted).
cdef mblk *shm_poster_receive(shm_poster *q, link *l, const shm_packet *d, const uint8_t *data) noexcept nogil
# A packet came the ordinary way.
cdef void shm_poster_passed(shm_poster *q, const shm_packet *d) noexcept nogil
# Regions that nobody receives into any more: let them go, and have the device do so.
cdef void shm_poster_look_through(shm_poster *q) noexcept nogil
