"""The virtio packet header: see vnet.pxd."""

from libc.errno cimport EINVAL
from libc.stdint cimport uint32_t
from libc.string cimport memset

from ustack._core.base.codes cimport (
    CAP_TSO4, CAP_TSO6, CAP_USO, CSUM_NONE, CSUM_OK, CSUM_PARTIAL, GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP,
)
from ustack._core.mem.mblk cimport mblk

cdef enum:
    F_NEEDS_CSUM = 1
    F_DATA_VALID = 2
    VGSO_NONE = 0
    VGSO_TCPV4 = 1
    VGSO_UDP = 3                # a datagram that IP would fragment: not a super-datagram
    VGSO_TCPV6 = 4
    VGSO_UDP_L4 = 5
    VGSO_ECN = 0x80


cdef int decode_gso(const vnet_hdr *h, mblk *m, uint32_t caps) noexcept nogil:
    cdef int kind = h.gso_type & ~VGSO_ECN
    m.gso_type = GSO_NONE
    m.gso_size = 0
    if kind == VGSO_NONE or kind == VGSO_UDP:
        return 0
    if kind == VGSO_TCPV4 and caps & CAP_TSO4:
        m.gso_type = GSO_TCP4
    elif kind == VGSO_TCPV6 and caps & CAP_TSO6:
        m.gso_type = GSO_TCP6
    elif kind == VGSO_UDP_L4 and caps & CAP_USO:
        m.gso_type = GSO_UDP
    else:
        return -EINVAL
    if h.gso_size == 0:
        m.gso_type = GSO_NONE
        return -EINVAL
    m.gso_size = h.gso_size
    return 0


cdef int vnet_decode(const vnet_hdr *h, mblk *m, uint32_t caps) noexcept nogil:
    m.csum = CSUM_NONE
    m.csum_start = m.csum_offset = 0
    if h.flags & F_NEEDS_CSUM:
        if <uint32_t>h.csum_start + h.csum_offset + 2 > m.pkt_len:
            return -EINVAL
        m.csum = CSUM_PARTIAL
        m.csum_start = h.csum_start
        m.csum_offset = h.csum_offset
    elif h.flags & F_DATA_VALID:
        m.csum = CSUM_OK
    if h.gso_type and h.hdr_len > m.pkt_len:
        return -EINVAL
    return decode_gso(h, m, caps)


cdef void vnet_encode(vnet_hdr *h, const mblk *m) noexcept nogil:
    memset(h, 0, sizeof(vnet_hdr))
    if m.csum == CSUM_PARTIAL:
        h.flags = F_NEEDS_CSUM
        h.csum_start = m.csum_start
        h.csum_offset = m.csum_offset
        h.hdr_len = m.hdr_len
    elif m.csum == CSUM_OK:
        h.flags = 0             # complete on the wire: receivers of ours verify it themselves
    if m.gso_size:
        h.gso_size = m.gso_size
        h.hdr_len = m.hdr_len
        h.gso_type = (VGSO_TCPV4 if m.gso_type == GSO_TCP4 else
                      VGSO_TCPV6 if m.gso_type == GSO_TCP6 else VGSO_UDP_L4)
