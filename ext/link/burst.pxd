"""A burst of packets for a device that takes one packet a call: each a virtio header and its blocks where they lie, all
of them handed over by one system call where the kernel has io_uring. What became of each is settled here, too.

A reader that a packet wakes would otherwise run between any two of them, and pay for two switches a packet.
"""

from libc.stdint cimport uint8_t, uint32_t

from ustack._core.link.link cimport link
from ustack._core.mem.mblk cimport mblk
from ustack._core.sys.io cimport iovec, mmsghdr
from ustack._core.sys.uring cimport uring

cdef enum:
    TX_BURST = 64
    TX_IOVECS = 512
    VNET_MAX = 12

cdef enum:
    # What is known of io_uring here.
    RING_UNTRIED = 0
    RING_OPEN = 1               # opened, but no packet has gone through it yet
    RING_PROVEN = 2
    RING_REFUSED = 3

cdef struct tx_burst:
    mmsghdr msg[TX_BURST]
    iovec iov[TX_IOVECS]
    int result[TX_BURST]
    uint8_t facts[TX_BURST][VNET_MAX]
    uint32_t vnet_len           # bytes of virtio header in front of a packet
    uring ring
    int state                   # RING_*

cdef tx_burst *burst_create(uint32_t vnet_len) noexcept nogil
cdef void burst_free(tx_burst *b) noexcept nogil
# Describe the first of n packets in msg[], as many as there is room for and the link can take; how many.
cdef int burst_describe(tx_burst *b, link *l, mblk **pkts, int n) noexcept nogil
# Hand over the first k >= 2 that were described, by writev or sendmsg on fd. What the link's tx would return; or
# -ENOSYS, with nothing done, if there is no io_uring: then it takes another way.
cdef int burst_send(tx_burst *b, link *l, mblk **pkts, int k, int fd, bint socket) noexcept nogil

# What an error of the device means for the link: the result of its tx (-ENETDOWN, -ENODEV), 0 if it concerns one
# packet only.
cdef int device_failed(link *l, int e) noexcept nogil
# A packet has gone, or was refused for good with an error (0: by ourselves): counted and freed.
cdef void burst_sent(link *l, mblk *m, uint32_t extra) noexcept nogil
cdef void burst_dropped(link *l, mblk *m, int e) noexcept nogil
