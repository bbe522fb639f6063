"""Source addresses: see source.pxd."""

from ustack._core.base.addr cimport ip_in_prefix, ip_is4, ip_is_loopback, ip_is_multicast, ipaddr
from ustack._core.base.types cimport bit_highest64
from ustack._core.inet.netif cimport ifaddr, netif


cdef int scope_of(const ipaddr *a) noexcept nogil:
    """RFC 4291 2.7's numbers: 2 link-local, 5 site-local, 14 global; of a group: its own."""
    if ip_is_multicast(a) and not ip_is4(a):
        return (a.hi >> 48) & 0xF
    if a.hi >> 54 == 0x3FA or ip_is_loopback(a):
        return 2
    return 5 if a.hi >> 54 == 0x3FB else 14


cdef int common_bits(const ipaddr *a, const ipaddr *b) noexcept nogil:
    if a.hi != b.hi:
        return 63 - bit_highest64(a.hi ^ b.hi)
    return 64 + (63 - bit_highest64(a.lo ^ b.lo) if a.lo != b.lo else 64)


cdef bint better_source(const ipaddr *a, const ipaddr *b, const ipaddr *dst) noexcept nogil:
    """RFC 6724 5, rules 2 and 8: the smallest scope that is large enough, then the longest common prefix."""
    cdef int sa = scope_of(a)
    cdef int sb = scope_of(b)
    cdef int sd = scope_of(dst)
    if sa != sb:
        return sb < sd if sa > sb else sa >= sd
    return common_bits(a, dst) > common_bits(b, dst)


cdef bint source_choose(const netif *ifp, const ipaddr *next_hop, const ipaddr *dst, ipaddr *src) noexcept nogil:
    """IPv4: the address in the subnet of the next hop, else the first. IPv6: the one that suits the destination."""
    cdef const ifaddr *found = NULL
    cdef bint v4 = ip_is4(dst)
    cdef int i
    for i in range(ifp.naddrs):
        if ip_is4(&ifp.addrs[i].addr) != v4:
            continue
        if v4 and ip_in_prefix(next_hop, &ifp.addrs[i].addr, ifp.addrs[i].bits):
            found = &ifp.addrs[i]
            break
        if found == NULL or (not v4 and better_source(&ifp.addrs[i].addr, &found.addr, dst)):
            found = &ifp.addrs[i]
    if found == NULL:
        return False
    src[0] = found.addr
    return True
