"""Transmit over a packet socket: from where the data lies, in bursts, or through an mmap'd ring.

The first is the default: it costs one copy, the kernel's. The ring costs the copy into its slots, which is
ours, and on a veth the kernel copies again, because a slot may be overwritten as soon as the frame has left
the sender.
"""

from libc.stdint cimport uint8_t

from ustack._core.link.burst cimport tx_burst
from ustack._core.link.link cimport link
from ustack._core.mem.mblk cimport mblk

cdef enum:
    RING_SLOT = 69632           # of either ring, 17 pages: one of headers, 64 KB of payload
    RING_MAX_SG = 64

cdef struct packet_sender:
    int fd
    tx_burst *batch             # described packets
    uint8_t *ring               # mmap'd; NULL: sendmmsg
    int slots
    int pos

cdef int sender_init(packet_sender *s, int fd, uint8_t *ring, int slots) noexcept nogil
cdef void sender_close(packet_sender *s) noexcept nogil
# The link's tx.
cdef int sender_tx(packet_sender *s, link *l, mblk **pkts, int n) noexcept nogil
