"""UDP headers (RFC 768)."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t

from ustack._core.wire.bytes cimport get16, get_sum, put16, put_sum

cdef enum:
    O_SPORT = 0
    O_DPORT = 2
    O_LENGTH = 4
    O_CHECKSUM = 6

cdef enum:
    UDP_LEN = 8
    UDP_SUM = 6                 # where the checksum lies
    UDP_MAX = 65507             # payload of the largest IPv4 datagram
    UDP_MAX6 = 65527            # and of the largest IPv6 datagram without a jumbo payload

cdef struct udp_header:
    uint16_t sport
    uint16_t dport
    uint16_t length             # header and payload
    bint summed                 # the checksum is not 0


cdef inline int udp_check(const uint8_t *p, size_t n, size_t length) noexcept nogil:
    """Of n contiguous bytes of a datagram of ``length`` bytes: -1 if there is no whole header, or if its
    length field is below 8 or beyond the datagram. A shorter length is fine: the rest is no part of
    it."""
    if n < UDP_LEN or get16(p + O_LENGTH) < UDP_LEN or get16(p + O_LENGTH) > length:
        return -1
    return 0


cdef inline void udp_parse(const uint8_t *p, udp_header *h) noexcept nogil:
    h.sport = get16(p + O_SPORT)
    h.dport = get16(p + O_DPORT)
    h.length = get16(p + O_LENGTH)
    h.summed = get_sum(p + O_CHECKSUM) != 0


cdef inline void udp_emit(uint8_t *p, uint16_t sport, uint16_t dport, uint16_t length) noexcept nogil:
    """Write the header with a checksum of 0."""
    put16(p + O_SPORT, sport)
    put16(p + O_DPORT, dport)
    put16(p + O_LENGTH, length)
    put_sum(p + O_CHECKSUM, 0)


cdef inline void udp_set_length(uint8_t *p, uint16_t length) noexcept nogil:
    put16(p + O_LENGTH, length)
