"""Making connections: see connect.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from ustack._core.via.types cimport (
    VC_BACKLOG_LIMIT, VC_NO_MATCH, VC_STALE, VE_CONN_LOST, VI_CONNECTED, VI_CONNECT_PENDING, VI_IDLE, VIA_BACKLOG_MAX,
    VIA_LISTENER_MAX, VIP_ERROR_RESOURCE, VIP_INVALID_MTU, VIP_INVALID_PARAMETER, VIP_INVALID_QOS,
    VIP_INVALID_RELIABILITY_LEVEL, VIP_INVALID_STATE, VIP_NOT_DONE, VIP_NOT_REACHABLE, VIP_NO_MATCH, VIP_REJECT,
    VIP_SUCCESS, via_control, via_listener, via_nic, via_port, via_request, via_vi,
)
from ustack._core.via.vi cimport vi_break, vi_find
from ustack._core.wire.via cimport (
    DISCRIMINATOR_MAX, ENTRY_ACCEPT, ENTRY_CONNECT, ENTRY_DISCONNECT, ENTRY_REJECT,
)


cdef via_listener *find(via_nic *nic, const uint8_t *name, size_t n) noexcept nogil:
    cdef via_listener *lst = nic.listeners
    while lst != NULL and not (lst.name_length == n and memcmp(lst.name, name, n) == 0):
        lst = lst.next
    return lst


cdef int listener_create(via_nic *nic, const uint8_t *name, size_t n, via_listener **out) noexcept nogil:
    cdef via_listener *lst
    if n == 0 or n > DISCRIMINATOR_MAX:
        return VIP_INVALID_PARAMETER
    if nic.nlisteners == VIA_LISTENER_MAX or find(nic, name, n) != NULL:
        return VIP_ERROR_RESOURCE
    lst = <via_listener *>calloc(1, sizeof(via_listener))
    if lst == NULL:
        return VIP_ERROR_RESOURCE
    memcpy(lst.name, name, n)
    lst.name_length = <uint32_t>n
    lst.nic = nic
    lst.next = nic.listeners
    nic.listeners = lst
    nic.nlisteners += 1
    out[0] = lst
    return VIP_SUCCESS


cdef void listener_destroy(via_listener *lst) noexcept nogil:
    cdef via_request r
    cdef via_listener **at = &lst.nic.listeners
    while connect_take(lst, &r):
        refuse(r.port, r.source, r.attempt, VIP_NO_MATCH)
    while at[0] != lst:
        at = &at[0].next
    at[0] = lst.next
    lst.nic.nlisteners -= 1
    free(lst)


cdef bint connect_take(via_listener *lst, via_request *out) noexcept nogil:
    if lst.head == lst.tail:
        return False
    out[0] = lst.waiting[lst.head % VIA_BACKLOG_MAX]
    lst.head += 1
    return True


cdef void refuse(via_port *p, uint32_t to, uint32_t attempt, uint32_t code) noexcept nogil:
    cdef via_control c
    memset(&c, 0, sizeof(c))
    c.kind = ENTRY_REJECT
    c.to = to
    c.attempt = attempt
    c.code = code
    p.ops.control(p, &c)


cdef int connect_start(via_vi *vi, via_port *p, const uint8_t *name, size_t n) noexcept nogil:
    cdef via_control c
    if n == 0 or n > DISCRIMINATOR_MAX:
        return VIP_INVALID_PARAMETER
    if vi.state != VI_IDLE:
        return VIP_INVALID_STATE
    if p.dead:
        return VIP_NOT_REACHABLE
    memset(&c, 0, sizeof(c))
    vi.attempt += 1
    vi.state = VI_CONNECT_PENDING
    vi.outcome = VIP_NOT_DONE
    vi.port = p
    c.kind = ENTRY_CONNECT
    c.reliability = vi.reliability
    c.source = vi.id
    c.attempt = vi.attempt
    c.max_transfer = vi.max_transfer
    c.qos = vi.qos
    c.name_length = <uint32_t>n
    memcpy(c.name, name, n)
    if p.ops.control(p, &c) != VIP_SUCCESS:
        connect_abandon(vi)
        return VIP_NOT_REACHABLE
    return VIP_SUCCESS


cdef void connect_abandon(via_vi *vi) noexcept nogil:
    if vi.state == VI_CONNECT_PENDING:
        vi.state = VI_IDLE
        vi.attempt += 1
        vi.port = NULL


cdef int match(const via_vi *vi, uint8_t reliability, uint32_t max_transfer, uint32_t qos) noexcept nogil:
    if vi.state != VI_IDLE:
        return VIP_INVALID_STATE
    if vi.reliability != reliability:
        return VIP_INVALID_RELIABILITY_LEVEL
    if vi.max_transfer != max_transfer:
        return VIP_INVALID_MTU
    return VIP_SUCCESS if vi.qos == qos else VIP_INVALID_QOS


cdef int connect_accept(via_vi *vi, const via_request *r) noexcept nogil:
    cdef via_control c
    cdef int found
    if r.port.dead:
        return VIP_NOT_REACHABLE
    found = match(vi, r.reliability, r.max_transfer, r.qos)
    if found != VIP_SUCCESS:
        return found
    memset(&c, 0, sizeof(c))
    c.kind = ENTRY_ACCEPT
    c.to = r.source
    c.source = vi.id
    c.attempt = r.attempt
    vi.state = VI_CONNECTED
    vi.port = r.port
    vi.peer = r.source
    if r.port.ops.control(r.port, &c) != VIP_SUCCESS:
        vi.state = VI_IDLE
        vi.port = NULL
        return VIP_NOT_REACHABLE
    return VIP_SUCCESS


cdef void connect_reject(via_nic *nic, const via_request *r) noexcept nogil:
    if not r.port.dead:
        refuse(r.port, r.source, r.attempt, VIP_REJECT)


cdef int connect_pair(via_vi *a, via_vi *b) noexcept nogil:
    cdef int r = match(a, b.reliability, b.max_transfer, b.qos)
    if r == VIP_SUCCESS:
        r = match(b, a.reliability, a.max_transfer, a.qos)
    if r != VIP_SUCCESS or a == b:
        return r if r != VIP_SUCCESS else VIP_INVALID_PARAMETER
    a.state = b.state = VI_CONNECTED
    a.port = b.port = &a.nic.loopback
    a.peer = b.id
    b.peer = a.id
    return VIP_SUCCESS


cdef void requested(via_port *p, const via_control *c) noexcept nogil:
    cdef via_listener *lst = find(p.nic, c.name, c.name_length)
    cdef via_request *r
    if lst == NULL:
        p.nic.counts[<int>VC_NO_MATCH] += 1
        refuse(p, c.source, c.attempt, VIP_NO_MATCH)
        return
    if lst.tail - lst.head == VIA_BACKLOG_MAX:
        p.nic.counts[<int>VC_BACKLOG_LIMIT] += 1
        refuse(p, c.source, c.attempt, VIP_REJECT)
        return
    r = &lst.waiting[lst.tail % VIA_BACKLOG_MAX]
    r.port = p
    r.source = c.source
    r.attempt = c.attempt
    r.max_transfer = c.max_transfer
    r.qos = c.qos
    r.reliability = c.reliability
    lst.tail += 1
    p.nic.completions += 1


cdef void accepted(via_port *p, via_vi *vi, const via_control *c) noexcept nogil:
    """The server's VI is CONNECTED already: if we no longer want it, it must hear of that."""
    cdef via_control bye
    if vi != NULL and vi.state == VI_CONNECT_PENDING and vi.attempt == c.attempt:
        vi.state = VI_CONNECTED
        vi.peer = c.source
        vi.outcome = VIP_SUCCESS
        p.nic.completions += 1
        return
    p.nic.counts[<int>VC_STALE] += 1
    memset(&bye, 0, sizeof(bye))
    bye.kind = ENTRY_DISCONNECT
    bye.to = c.source
    bye.source = c.to
    p.ops.control(p, &bye)


cdef void connect_input(via_port *p, const via_control *c) noexcept nogil:
    cdef via_vi *vi
    if c.kind == ENTRY_CONNECT:
        requested(p, c)
        return
    vi = vi_find(p.nic, c.to)
    if vi != NULL and vi.port != p:
        vi = NULL
    if c.kind == ENTRY_ACCEPT:
        accepted(p, vi, c)
    elif vi == NULL:
        p.nic.counts[<int>VC_STALE] += 1
    elif c.kind == ENTRY_REJECT:
        if vi.state == VI_CONNECT_PENDING and vi.attempt == c.attempt:
            vi.outcome = VIP_NO_MATCH if c.code == VIP_NO_MATCH else VIP_REJECT
            p.nic.completions += 1
    elif vi.state == VI_CONNECTED and vi.peer == c.source:
        vi_break(vi, VE_CONN_LOST)
    else:
        p.nic.counts[<int>VC_STALE] += 1


cdef void connect_purge(via_nic *nic, via_port *p) noexcept nogil:
    cdef via_listener *lst = nic.listeners
    cdef uint32_t k, kept
    while lst != NULL:
        kept = lst.head
        k = lst.head
        while k != lst.tail:
            if lst.waiting[k % VIA_BACKLOG_MAX].port != p:
                lst.waiting[kept % VIA_BACKLOG_MAX] = lst.waiting[k % VIA_BACKLOG_MAX]
                kept += 1
            k += 1
        lst.tail = kept
        lst = lst.next
