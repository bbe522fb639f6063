"""AF_XDP sockets, and the program that steers a queue's frames to one (Documentation/networking/af_xdp.rst). Values, or
-errno."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    XDP_FILL = 0                # which ring
    XDP_COMPLETION = 1
    XDP_RX = 2
    XDP_TX = 3

cdef enum:
    # of bind()
    XDP_BIND_COPY = 1 << 1
    XDP_BIND_ZEROCOPY = 1 << 2
    XDP_BIND_WAKEUP = 1 << 3
    XDP_BIND_SG = 1 << 4
    # of attaching
    XDP_MODE_SKB = 1 << 1
    XDP_MODE_DRV = 1 << 2
    # in a ring's flags
    XDP_NEEDS_WAKEUP = 1
    # in a descriptor's options: the packet goes on in the next one
    XDP_CONTINUED = 1

cdef enum:
    XDP_STATISTICS_COUNT = 6

cdef struct xdp_desc:
    uint64_t addr
    uint32_t len
    uint32_t options

cdef struct xdp_mapped:         # one of the four rings, shared with the kernel
    void *map
    size_t length
    uint32_t *producer
    uint32_t *consumer
    uint32_t *flags
    void *entries

cdef int sys_xdp_socket() noexcept nogil
# The memory of frames: whole chunks of a power of two bytes, up to a page.
cdef int sys_xdp_umem(int fd, void *base, uint64_t length, uint32_t chunk) noexcept nogil
# A ring of n entries, a power of two, mapped.
cdef int sys_xdp_ring(int fd, int which, uint32_t n, xdp_mapped *r) noexcept nogil
cdef void sys_xdp_unmap(xdp_mapped *r) noexcept nogil
cdef int sys_xdp_bind(int fd, int ifindex, uint32_t queue, int flags) noexcept nogil
cdef bint sys_xdp_is_zerocopy(int fd) noexcept nogil
# rx_dropped, rx_invalid, tx_invalid, rx_ring_full, fill_empty, tx_empty
cdef int sys_xdp_statistics(int fd, uint64_t *out) noexcept nogil
# Have the kernel look at the transmit ring; at the fill ring.
cdef int sys_xdp_kick(int fd) noexcept nogil
cdef int sys_xdp_nudge(int fd) noexcept nogil
# A map with the socket at its queue; a program that redirects to it; and the program on a device (XDP_MODE_*): until
# the descriptor of that attachment is closed, if only by the end of the process. Descriptors.
cdef int sys_xdp_map(int sock, uint32_t queue) noexcept nogil
cdef int sys_xdp_program(int map, bint frags) noexcept nogil
cdef int sys_xdp_attach(int program, int ifindex, uint32_t mode) noexcept nogil
