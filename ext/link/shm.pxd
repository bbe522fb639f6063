"""A link through shared memory, with a device process at each end that moves the bytes.

Nothing is lost on the way: a device waits while the other stack has posted no buffers, and the transmit ring pushes
back. What the other side writes into our buffers is checked as a packet from any wire; headers are copied to memory of
our own before they are looked at, since a hostile peer could change them meanwhile. Payload is lent from the buffers.

       created  --(own, face, room, bell, irq exist)-->  started  --(a process dies, or lies)-->  ended
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ustack._core.link.link cimport link
from ustack._core.link.shm_post cimport shm_post_stats
from ustack._core.link.shm_tx cimport shm_sender_stats
from ustack._core.link.shm_wire cimport D_COUNT, shm_limits

cdef enum:
    SHM_FINE = 0                # why a link ended
    SHM_DEVICE_ENDED = 1        # our device process is no more
    SHM_PEER_LEFT = 2           # the other side closed the link, or was killed
    SHM_PEER_LIED = 3           # what it put into the rings cannot be
    SHM_DEVICE_LIED = 4
    SHM_PEER_KEEPS = 5          # its device did not give back memory that was posted

cdef struct shm_options:
    uint8_t layer
    uint8_t mac[6]
    uint32_t mtu
    uint32_t gso_max
    uint32_t caps               # CAP_*: offloads
    uint32_t slots              # receive buffers
    shm_limits limits

cdef struct shm_stats:
    shm_sender_stats tx
    shm_post_stats posted
    uint64_t device[D_COUNT]    # what our device counts: shm_count_name
    uint64_t bad_slot           # received descriptors refused: of no buffer that was posted
    uint64_t bad_extent         # … of bytes outside the buffer
    uint64_t bad_facts          # … whose virtio header is impossible
    uint64_t lent               # received buffers lent just now
    uint64_t in_flight          # packets that the device has
    int ended                   # SHM_*

cdef struct shm_ends:           # descriptors; owned by the link
    int own
    int face
    int room
    int bell                    # our device sleeps on it
    int irq                     # we do

# The memory of one end. 0 or -errno.
cdef int shm_create(shm_options *o, link **made, shm_ends *ends) noexcept nogil
# How the other side's device hears of our regions: a socket whose other end it is given. Taken.
cdef void shm_set_sinks(link *l, int fd) noexcept nogil
# Both sides and the device are there. Takes the sockets `control` (to the device) and `peer`, `peer_bell` (the other
# device sleeps on it), and the device: a child process (`pid` > 0) or a thread's handle. 0 or -errno, and then nothing
# was taken.
cdef int shm_start(link *l, int control, int peer, int peer_bell, int pid, uint64_t thread) noexcept nogil
# What both sides can.
cdef void shm_agree(link *l, uint32_t caps, uint32_t mtu, uint32_t gso_max) noexcept nogil
# Before close, if the last counts are wanted: the device sends what it has, and ends; then nothing is in flight.
cdef void shm_quiesce(link *l) noexcept nogil
cdef void shm_get_stats(const link *l, shm_stats *s) noexcept nogil
