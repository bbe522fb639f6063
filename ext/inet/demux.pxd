"""Flow tables: intrusive hash tables from (local, remote) to an endpoint, used by TCP and by UDP. Keyed hashing, so
that nobody who chooses ports can make the chains long; grows with what it holds.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ustack._core.base.addr cimport flow, ipaddr

cdef struct flow_entry:
    flow_entry *next
    flow key
    uint32_t hash
    void *owner                 # the endpoint

cdef struct flow_table:
    flow_entry **buckets
    uint32_t mask
    uint32_t used
    uint64_t key[2]

cdef int flow_table_init(flow_table *t, const uint64_t *key) noexcept nogil
cdef void flow_table_free(flow_table *t) noexcept nogil
cdef flow_entry *flow_find(flow_table *t, const flow *key) noexcept nogil
# The next entry with the same key as e, or NULL: the other members of an SO_REUSEPORT group.
cdef flow_entry *flow_again(flow_entry *e) noexcept nogil
# Most specific listener for a flow to us: (laddr, lport) first, then (any, lport); raddr and rport zero in both.
cdef flow_entry *flow_find_local(flow_table *t, const ipaddr *laddr, uint16_t lport) noexcept nogil
# -ENOMEM, or 0. The key may be there already (SO_REUSEPORT): the newest is found first.
cdef int flow_insert(flow_table *t, flow_entry *e) noexcept nogil
cdef void flow_remove(flow_table *t, flow_entry *e) noexcept nogil
# Visit every entry, in no order: start with cursor 0 and prev NULL, NULL ends.
cdef flow_entry *flow_next(flow_table *t, uint32_t *cursor, flow_entry *prev) noexcept nogil
