"""Flow tables: see demux.pxd. Open hashing with intrusive entries, SipHash under a key of the engine."""

from libc.errno cimport ENOMEM
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_equal, ip_from4, ip_is4, ipaddr
from ustack._core.base.rng cimport flow_hash

cdef enum:
    FIRST_BUCKETS = 64
    MAX_BUCKETS = 1 << 22


cdef inline bint same(const flow *a, const flow *b) noexcept nogil:
    return (a.lport == b.lport and a.rport == b.rport
            and ip_equal(&a.laddr, &b.laddr) and ip_equal(&a.raddr, &b.raddr))


cdef int flow_table_init(flow_table *t, const uint64_t *key) noexcept nogil:
    """-ENOMEM, or 0."""
    t.key[0] = key[0]
    t.key[1] = key[1]
    t.used = 0
    t.mask = FIRST_BUCKETS - 1
    t.buckets = <flow_entry **>calloc(FIRST_BUCKETS, sizeof(flow_entry *))
    return 0 if t.buckets != NULL else -ENOMEM


cdef void flow_table_free(flow_table *t) noexcept nogil:
    """The entries belong to their owners and are left alone."""
    free(t.buckets)
    memset(t, 0, sizeof(flow_table))


cdef flow_entry *find_hashed(flow_table *t, const flow *key, uint32_t hash) noexcept nogil:
    cdef flow_entry *e = t.buckets[hash & t.mask]
    while e != NULL:
        if e.hash == hash and same(&e.key, key):
            return e
        e = e.next
    return NULL


cdef flow_entry *flow_find(flow_table *t, const flow *key) noexcept nogil:
    return find_hashed(t, key, <uint32_t>flow_hash(t.key, key, 0))


cdef flow_entry *flow_find_by(flow_table *t, const flow *key, uint32_t hash) noexcept nogil:
    cdef flow_entry *e = find_hashed(t, key, hash)
    cdef uint32_t own
    if e != NULL:
        return e
    own = <uint32_t>flow_hash(t.key, key, 0)
    return find_hashed(t, key, own) if own != hash else NULL


cdef flow_entry *flow_again(flow_entry *e) noexcept nogil:
    """The next entry with the same key as ``e``, or NULL."""
    cdef flow_entry *other = e.next
    while other != NULL:
        if other.hash == e.hash and same(&other.key, &e.key):
            return other
        other = other.next
    return NULL


cdef flow_entry *flow_find_local(flow_table *t, const ipaddr *laddr, uint16_t lport) noexcept nogil:
    """An endpoint bound to :: serves both versions, unless it has said that it does not (RFC 3493 5.3)."""
    cdef flow key
    cdef flow_entry *e
    memset(&key, 0, sizeof(key))
    key.laddr = laddr[0]
    key.lport = lport
    e = flow_find(t, &key)
    if e == NULL and ip_is4(laddr):
        key.laddr = ip_from4(0)
        e = flow_find(t, &key)
    if e == NULL:
        memset(&key, 0, sizeof(key))
        key.lport = lport
        e = flow_find(t, &key)
        while e != NULL and not flow_takes(e, laddr):
            e = flow_again(e)
    return e


cdef void grow(flow_table *t) noexcept nogil:
    """Twice the buckets; the order of equal keys is kept, so that the newest stays first."""
    cdef uint32_t size = (t.mask + 1) * 2
    cdef uint32_t i
    cdef flow_entry **wider
    cdef flow_entry **low
    cdef flow_entry **high
    cdef flow_entry *e
    if size > MAX_BUCKETS:
        return
    wider = <flow_entry **>calloc(size, sizeof(flow_entry *))
    if wider == NULL:
        return                  # longer chains are slower, not wrong
    for i in range(t.mask + 1):
        low = &wider[i]
        high = &wider[i + t.mask + 1]
        e = t.buckets[i]
        while e != NULL:
            if e.hash & (t.mask + 1):
                high[0] = e
                high = &e.next
            else:
                low[0] = e
                low = &e.next
            e = e.next
        low[0] = NULL
        high[0] = NULL
    free(t.buckets)
    t.buckets = wider
    t.mask = size - 1


cdef int flow_insert(flow_table *t, flow_entry *e) noexcept nogil:
    cdef flow_entry **head
    if t.buckets == NULL:
        return -ENOMEM
    if t.used > t.mask:
        grow(t)
    e.hash = <uint32_t>flow_hash(t.key, &e.key, 0)
    head = &t.buckets[e.hash & t.mask]
    e.next = head[0]
    head[0] = e
    t.used += 1
    return 0


cdef void flow_remove(flow_table *t, flow_entry *e) noexcept nogil:
    """Nothing happens if it is not in the table."""
    cdef flow_entry **at
    if t.buckets == NULL:
        return
    at = &t.buckets[e.hash & t.mask]
    while at[0] != NULL:
        if at[0] == e:
            at[0] = e.next
            e.next = NULL
            t.used -= 1
            return
        at = &at[0].next


cdef flow_entry *flow_next(flow_table *t, uint32_t *cursor, flow_entry *prev) noexcept nogil:
    """The table must not grow meanwhile; removing the entry just visited ends its chain early, so collect first."""
    cdef flow_entry *e
    if prev != NULL and prev.next != NULL:
        return prev.next
    while t.buckets != NULL and cursor[0] <= t.mask:
        e = t.buckets[cursor[0]]
        cursor[0] += 1
        if e != NULL:
            return e
    return NULL
