"""An internet address as a value: IPv6 of any kind, IPv4 as its mapped form ::ffff:a.b.c.d (RFC 4291 2.5.5.2).

Numbers are in host order; only ``wire`` knows how they look in a packet. Text forms live in Python.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef struct ipaddr:
    uint64_t hi
    uint64_t lo

# The five-tuple without the protocol, seen from us.
cdef struct flow:
    ipaddr laddr
    ipaddr raddr
    uint16_t lport
    uint16_t rport


cdef inline ipaddr ip_from4(uint32_t v4) noexcept nogil:
    cdef ipaddr a
    a.hi = 0
    a.lo = (<uint64_t>0xFFFF << 32) | v4
    return a


cdef inline bint ip_is4(const ipaddr *a) noexcept nogil:
    return a.hi == 0 and (a.lo >> 32) == 0xFFFF


cdef inline uint32_t ip_to4(const ipaddr *a) noexcept nogil:
    return <uint32_t>a.lo


cdef inline bint ip_equal(const ipaddr *a, const ipaddr *b) noexcept nogil:
    return a.hi == b.hi and a.lo == b.lo


cdef inline bint ip_is_any(const ipaddr *a) noexcept nogil:
    """0.0.0.0 or ::."""
    return a.hi == 0 and (a.lo == 0 or a.lo == (<uint64_t>0xFFFF << 32))


cdef inline bint ip_is_loopback(const ipaddr *a) noexcept nogil:
    """127/8 or ::1."""
    return a.hi == 0 and (a.lo == 1 or (a.lo >> 24) == 0xFFFF7F)


cdef inline bint ip_is_multicast(const ipaddr *a) noexcept nogil:
    """224/4 or ff00::/8."""
    return (a.hi >> 56) == 0xFF or (a.hi == 0 and (a.lo >> 28) == 0xFFFFE)


cdef inline bint ip_in_prefix(const ipaddr *a, const ipaddr *net, int bits) noexcept nogil:
    """Whether the first ``bits`` (0 to 128; IPv4 prefixes count from 96) of both agree."""
    if bits <= 0:
        return True
    if bits <= 64:
        return ((a.hi ^ net.hi) >> (64 - bits)) == 0
    if a.hi != net.hi:
        return False
    return bits > 128 or ((a.lo ^ net.lo) >> (128 - bits)) == 0
