"""The device's half of posted receives on a shared-memory link: payload to the place that the other side has posted.

The posting is the other side's word: it is copied out of the face, the copy is checked, and only the copy is used. It
can make the device write nowhere but into regions that the other side has passed to it.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.link.shm_wire cimport SHM_SINKS, shm_packet, shm_posting
from ustack._core.mem.region cimport region

cdef struct shm_placer:
    shm_posting *told           # in the other side's face
    int32_t *busy               # likewise; ours to write
    shm_posting mine            # what was told, checked; length 0: of no use
    uint32_t mark               # nothing is put below it, for whatever reason
    int32_t writes              # how often it has said that it is writing
    int fd                      # the other side tells of its regions there; -1: no more
    region *sinks[SHM_SINKS]
    uint32_t names[SHM_SINKS]

# Takes the descriptor; the caller keeps the face.
cdef void shm_placer_init(shm_placer *q, region *face, int fd) noexcept nogil
cdef void shm_placer_end(shm_placer *q) noexcept nogil
# Read what the other side tells of its regions.
cdef void shm_placer_hear(shm_placer *q) noexcept nogil
# Bytes of headers to look at, if something is posted; 0: nothing is, -1: it cannot be used, -2: nor could it ever be.
cdef int shm_placer_look(shm_placer *q) noexcept nogil
# With these headers, where the payload of so many bytes belongs. Sets p.at and p.placed; until `release` the memory is
# not given back. NULL: nowhere, and p.at says why.
cdef uint8_t *shm_placer_claim(shm_placer *q, const uint8_t *head, uint32_t payload, shm_packet *p) noexcept nogil
# After the packet was put into its ring, or was not.
cdef void shm_placer_release(shm_placer *q) noexcept nogil
