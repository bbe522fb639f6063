"""Ethernet II headers (RFC 894). No VLAN tags, no 802.3 lengths: those are types that nobody serves."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp, memcpy, memset

from ustack._core.wire.bytes cimport get16, ip_version, put16

cdef enum:
    O_DST = 0
    O_SRC = 6
    O_TYPE = 12

cdef enum:
    ETHER_LEN = 14
    ETHER_ADDR = 6
    ETHER_IP4 = 0x0800
    ETHER_ARP = 0x0806
    ETHER_IP6 = 0x86DD

cdef struct ether_header:
    uint8_t dst[6]
    uint8_t src[6]
    uint16_t type


cdef inline int ether_check(const uint8_t *p, size_t n) noexcept nogil:
    """0, or -1 if there is no whole header."""
    return 0 if n >= ETHER_LEN else -1


cdef inline void ether_parse(const uint8_t *p, ether_header *h) noexcept nogil:
    memcpy(h.dst, p + O_DST, 6)
    memcpy(h.src, p + O_SRC, 6)
    h.type = get16(p + O_TYPE)


cdef inline void ether_emit(uint8_t *p, const uint8_t *dst, const uint8_t *src, uint16_t type) noexcept nogil:
    memcpy(p + O_DST, dst, 6)
    memcpy(p + O_SRC, src, 6)
    put16(p + O_TYPE, type)


cdef inline uint16_t ether_type_of(const uint8_t *ip) noexcept nogil:
    """Of an IP packet, by the version that it begins with."""
    return ETHER_IP6 if ip_version(ip) == 6 else ETHER_IP4


cdef inline bint ether_is_group(const uint8_t *mac) noexcept nogil:
    """Broadcast or multicast."""
    return mac[0] & 1


cdef inline bint ether_is_zero(const uint8_t *mac) noexcept nogil:
    return (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]) == 0


cdef inline bint ether_equal(const uint8_t *a, const uint8_t *b) noexcept nogil:
    return memcmp(a, b, 6) == 0


cdef inline void ether_broadcast(uint8_t *mac) noexcept nogil:
    memset(mac, 0xFF, 6)
