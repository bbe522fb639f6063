"""ARP packets for IPv4 over Ethernet (RFC 826). Addresses as host-order numbers."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from ustack._core.wire.bytes cimport get16, get32, put16, put32

cdef enum:
    O_HTYPE = 0
    O_PTYPE = 2
    O_HLEN = 4
    O_PLEN = 5
    O_OP = 6
    O_SHA = 8
    O_SPA = 14
    O_THA = 18
    O_TPA = 24

cdef enum:
    ARP_LEN = 28
    ARP_REQUEST = 1
    ARP_REPLY = 2

cdef struct arp_packet:
    uint16_t op
    uint8_t sha[6]
    uint32_t spa
    uint8_t tha[6]
    uint32_t tpa


cdef inline int arp_check(const uint8_t *p, size_t n) noexcept nogil:
    """0, or -1 if it is too short or not about IPv4 over Ethernet, or neither a request nor a reply."""
    if n < ARP_LEN or get16(p + O_HTYPE) != 1 or get16(p + O_PTYPE) != 0x0800:
        return -1
    if p[O_HLEN] != 6 or p[O_PLEN] != 4:
        return -1
    return 0 if get16(p + O_OP) == ARP_REQUEST or get16(p + O_OP) == ARP_REPLY else -1


cdef inline void arp_parse(const uint8_t *p, arp_packet *a) noexcept nogil:
    a.op = get16(p + O_OP)
    memcpy(a.sha, p + O_SHA, 6)
    a.spa = get32(p + O_SPA)
    memcpy(a.tha, p + O_THA, 6)
    a.tpa = get32(p + O_TPA)


cdef inline void arp_emit(uint8_t *p, const arp_packet *a) noexcept nogil:
    put16(p + O_HTYPE, 1)
    put16(p + O_PTYPE, 0x0800)
    p[O_HLEN] = 6
    p[O_PLEN] = 4
    put16(p + O_OP, a.op)
    memcpy(p + O_SHA, a.sha, 6)
    put32(p + O_SPA, a.spa)
    memcpy(p + O_THA, a.tha, 6)
    put32(p + O_TPA, a.tpa)
