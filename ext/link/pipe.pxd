"""A link whose other side is the caller: a harness, or somebody with a tunnel of their own to feed.

No system call anywhere in it. Injected packets are copied in and drained ones copied out (booked), so the two
sides share nothing. Full queues refuse packets of the caller (counted), and push back on the stack.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from ustack._core.link.link cimport link
from ustack._core.mem.mblk cimport mblk

cdef enum:
    # Bytes of an injected packet: more than any frame has, so that jumbo ones can be tried.
    PIPE_FRAME_MAX = 1 << 17

cdef struct pipe_options:
    uint8_t layer
    uint32_t mtu
    uint32_t gso_max
    uint32_t caps               # CAP_*; with CSUM, TSO or USO every packet carries a virtio_net_hdr in front
    uint16_t max_sg
    int32_t queue               # packets in each direction
    bint split                  # header split: payload behind the usual headers begins a block of its own
    uint8_t mac[6]

cdef link *pipe_create(pipe_options *o) noexcept nogil
# Bytes of virtio_net_hdr in front of every packet that goes through the functions below: 0 or 10.
cdef int pipe_prefix(const link *l) noexcept nogil
# Queue a copy of n bytes for the stack. 0, -ENETDOWN before it is attached, -EAGAIN when full (counted),
# -ENOBUFS, -EMSGSIZE, -EINVAL for a virtio header that does not fit the packet (counted).
cdef int pipe_inject(link *l, const void *data, size_t n) noexcept nogil
# After a burst of injections: wake the stack if it sleeps.
cdef void pipe_wake(link *l) noexcept nogil
# Length of the oldest packet that the stack sent, prefix included; -EAGAIN if there is none.
cdef ssize_t pipe_front(link *l) noexcept nogil
# Take it: the caller frees it. `stamp` is the time it was sent. NULL if there is none.
cdef mblk *pipe_take(link *l) noexcept nogil
# Copy a packet out, prefix included, to `dst`, which has room for it. False: bytes of it are gone, it is not to be
# used.
cdef bint pipe_copyout(link *l, mblk *m, uint8_t *dst) noexcept nogil
# Packets waiting in each direction.
cdef int pipe_waiting(const link *l, bint to_stack) noexcept nogil
