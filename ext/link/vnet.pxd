"""struct virtio_net_hdr (virtio 1.2, 5.1.6): what the packet behind it lacks in checksum or segmentation.

TAP, AF_PACKET and pipes with offloads carry it in the host's byte order. It is checked against the packet
before any of it is believed.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.mem.mblk cimport mblk

cdef enum:
    GSO_USUAL = 65535           # bytes of a super-segment: an IPv4 packet's total length has 16 bits
    GSO_LONG = 3 * 65536        # of a longer one, to Linux: what pays. It would take a little more than 500 KB
    VNET_LEN = 10

cdef struct vnet_hdr:
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset

# Set the facts of a received packet (pkt_len is set) from its header; 0, or -EINVAL if header and packet
# disagree. `caps` (CAP_*) are those of the link: what it does not claim, it may not say.
cdef int vnet_decode(const vnet_hdr *h, mblk *m, uint32_t caps) noexcept nogil
# The header for a packet that is sent.
cdef void vnet_encode(vnet_hdr *h, const mblk *m) noexcept nogil
