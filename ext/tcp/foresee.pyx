"""Foreseeing what packets need: see foresee.pxd. Each round asks for what the round before it has brought."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_from4
from ustack._core.base.codes cimport IPPROTO_TCP_
from ustack._core.base.rng cimport flow_hash
from ustack._core.inet.demux cimport flow_entry
from ustack._core.mem.mblk cimport mblk, mblk_len
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.tcp cimport tcp
from ustack._core.wire.ip4 cimport IP4_OK, ip4_check, ip4_header, ip4_parse
from ustack._core.wire.ip6 cimport IP6_LEN, IP6_OK, ip6_check, ip6_header, ip6_parse
from ustack._core.wire.tcp cimport TCP_LEN, tcp_header, tcp_parse

cdef enum:
    MANY = 4096                 # connections whose blocks do not fit a cache of a core
    MOST = 64                   # packets at a time
    SOCK_FETCH = 128            # of a socket: what is looked at when it has become ready


cdef bint flow_of(const mblk *m, size_t l3, flow *f) noexcept nogil:
    """False: no TCP packet, or its headers do not lie together."""
    cdef const uint8_t *p = m.rptr + l3
    cdef size_t n = mblk_len(m) - l3
    cdef size_t l4
    cdef ip4_header v4
    cdef ip6_header v6
    cdef tcp_header h
    if mblk_len(m) <= l3:
        return False
    if ip4_check(p, n, m.pkt_len - l3) == IP4_OK:
        ip4_parse(p, &v4)
        if v4.proto != IPPROTO_TCP_:
            return False
        l4 = v4.header_len
        f.laddr = ip_from4(v4.dst)
        f.raddr = ip_from4(v4.src)
    elif ip6_check(p, n, m.pkt_len - l3) == IP6_OK:
        ip6_parse(p, &v6)
        if v6.next != IPPROTO_TCP_:
            return False
        l4 = IP6_LEN
        f.laddr = v6.dst
        f.raddr = v6.src
    else:
        return False
    if n < l4 + TCP_LEN:
        return False
    tcp_parse(p + l4, &h)
    f.lport = h.dport
    f.rport = h.sport
    return True


cdef void tcp_foresee(tcp *t, mblk **burst, int n, size_t l3) noexcept nogil:
    cdef flow_entry *e[MOST]
    cdef uint32_t hash[MOST]
    cdef flow f
    cdef int k, found = 0
    if t.conns.used < MANY:
        return
    memset(&f, 0, sizeof(f))
    for k in range(n if n < MOST else MOST):
        if flow_of(burst[k], l3, &f):
            hash[found] = burst[k].mark = <uint32_t>flow_hash(t.conns.key, &f, 0)
            fetch(&t.conns.buckets[hash[found] & t.conns.mask], 1)
            found += 1
    for k in range(found):
        e[k] = t.conns.buckets[hash[k] & t.conns.mask]
        if e[k] != NULL:
            fetch(e[k], sizeof(flow_entry))
    for k in range(found):
        while e[k] != NULL and e[k].hash != hash[k]:
            e[k] = e[k].next
        if e[k] != NULL:
            fetch(e[k].owner, sizeof(tcb))
    for k in range(found):
        if e[k] != NULL and (<tcb *>e[k].owner).rdy.owner != NULL:
            fetch((<tcb *>e[k].owner).rdy.owner, SOCK_FETCH)
