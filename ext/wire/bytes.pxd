"""Numbers in network order at any alignment; checksum words in memory order, as they are."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

cdef extern from "arpa/inet.h" nogil:
    uint16_t htons(uint16_t v)
    uint32_t htonl(uint32_t v)
    uint16_t ntohs(uint16_t v)
    uint32_t ntohl(uint32_t v)


cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return ntohs(v)


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return ntohl(v)


cdef inline void put16(uint8_t *p, uint16_t v) noexcept nogil:
    v = htons(v)
    memcpy(p, &v, 2)


cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    v = htonl(v)
    memcpy(p, &v, 4)


cdef inline uint16_t get_sum(const uint8_t *p) noexcept nogil:
    """A checksum field, in the memory order of ``base/checksum``."""
    cdef uint16_t v
    memcpy(&v, p, 2)
    return v


cdef inline void put_sum(uint8_t *p, uint16_t sum) noexcept nogil:
    memcpy(p, &sum, 2)


cdef inline uint8_t ip_version(const uint8_t *p) noexcept nogil:
    """Of an IP packet of which at least a byte is here."""
    return p[0] >> 4
