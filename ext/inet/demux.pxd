"""Flow tables: intrusive hash tables from (local, remote) to an endpoint, used by TCP and by UDP. Keyed hashing, so
that nobody who chooses ports can make the chains long; grows with what it holds.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.base.addr cimport flow, ip_equal, ip_from4, ip_is4, ip_is_any, ipaddr

cdef enum:
    # Of an endpoint's family
    FLOW_V6 = 1                 # of AF_INET6: its any-address is ::, and it serves IPv4 too (RFC 3493 5.3) ...
    FLOW_V6ONLY = 2             # ... unless it has said that it does not

cdef struct flow_entry:
    flow_entry *next
    flow key
    uint32_t hash
    uint8_t family              # FLOW_*
    void *owner                 # the endpoint

cdef struct flow_table:
    flow_entry **buckets
    uint32_t mask
    uint32_t used
    uint64_t key[2]

cdef int flow_table_init(flow_table *t, const uint64_t *key) noexcept nogil
cdef void flow_table_free(flow_table *t) noexcept nogil
cdef flow_entry *flow_find(flow_table *t, const flow *key) noexcept nogil
# The same, by a hash that was computed before, or is none at all: then by one that is computed now.
cdef flow_entry *flow_find_by(flow_table *t, const flow *key, uint32_t hash) noexcept nogil
# The next entry with the same key as e, or NULL: the other members of an SO_REUSEPORT group.
cdef flow_entry *flow_again(flow_entry *e) noexcept nogil
# Most specific listener for a flow to us: (laddr, lport) first, then (any, lport); raddr and rport zero in both.
cdef flow_entry *flow_find_local(flow_table *t, const ipaddr *laddr, uint16_t lport) noexcept nogil
# -ENOMEM, or 0. The key may be there already (SO_REUSEPORT): the newest is found first.
cdef int flow_insert(flow_table *t, flow_entry *e) noexcept nogil
cdef void flow_remove(flow_table *t, flow_entry *e) noexcept nogil
# Visit every entry, in no order: start with cursor 0 and prev NULL, NULL ends.
cdef flow_entry *flow_next(flow_table *t, uint32_t *cursor, flow_entry *prev) noexcept nogil


cdef inline ipaddr flow_any(const flow_entry *e) noexcept nogil:
    """The any-address of an endpoint's family."""
    cdef ipaddr a = ip_from4(0)
    if e.family & FLOW_V6:
        a.lo = 0
    return a


cdef inline bint flow_takes(const flow_entry *e, const ipaddr *dst) noexcept nogil:
    """Whether an endpoint serves packets to this address, as far as the local address goes."""
    if not ip_is_any(&e.key.laddr):
        return ip_equal(&e.key.laddr, dst)
    if ip_is4(&e.key.laddr):
        return ip_is4(dst)
    return not (e.family & FLOW_V6ONLY and ip_is4(dst))


cdef inline bint flow_speaks(const flow_entry *e, const ipaddr *addr) noexcept nogil:
    """Whether an endpoint may use an address at all."""
    return not (e.family & FLOW_V6ONLY and ip_is4(addr))


cdef inline bint flow_clash(const flow_entry *a, const ipaddr *addr, const flow_entry *b) noexcept nogil:
    """Whether a, if it had the local address ``addr``, and b as it is would serve a common address (Linux's
    inet_rcv_saddr_equal)."""
    if not ip_is_any(addr):
        return flow_takes(b, addr)
    if not ip_is_any(&b.key.laddr):
        return not ip_is4(&b.key.laddr) if a.family & FLOW_V6ONLY else ip_is4(&b.key.laddr) or not ip_is4(addr)
    if ip_is4(addr):
        return flow_takes(b, addr)
    return not (a.family & FLOW_V6ONLY and ip_is4(&b.key.laddr))
