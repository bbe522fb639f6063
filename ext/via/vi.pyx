"""VIs: see vi.pxd."""

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack._core.via.cq cimport cq_purge
from ustack._core.via.deliver cimport deliver_inspect
from ustack._core.via.memory cimport memory_deregister, memory_find, ptag_use
from ustack._core.via.nic cimport nic_event
from ustack._core.via.queue cimport queue_complete, queue_flush, queue_forget, queue_free, queue_init, queue_post
from ustack._core.via.types cimport (
    RELIABLE_DELIVERY, RELIABLE_RECEPTION, UNRELIABLE, VC_BAD_DESC, VC_CONN_LOST, VE_COMP_PROT, VE_CONN_LOST,
    VI_CONNECTED, VI_CONNECT_PENDING, VI_ERROR, VI_IDLE, VIA_DEPTH_MAX, VIA_TRANSFER_MAX, VIA_VI_MAX,
    VIP_ERROR_RESOURCE, VIP_INVALID_MTU, VIP_INVALID_PARAMETER, VIP_INVALID_PTAG, VIP_INVALID_RELIABILITY_LEVEL,
    VIP_INVALID_STATE, VIP_NOT_REACHABLE, VIP_SUCCESS, via_control, via_cq, via_nic, via_port, via_vi,
)
from ustack._core.wire.via cimport ENTRY_DISCONNECT, STATUS_FLUSHED


cdef int vi_check(via_nic *nic, uint8_t reliability, uint32_t max_transfer, uint32_t depth) noexcept nogil:
    if reliability != UNRELIABLE and reliability != RELIABLE_DELIVERY and reliability != RELIABLE_RECEPTION:
        return VIP_INVALID_RELIABILITY_LEVEL
    if max_transfer == 0 or max_transfer > VIA_TRANSFER_MAX:
        return VIP_INVALID_MTU
    if depth == 0 or depth > VIA_DEPTH_MAX:
        return VIP_INVALID_PARAMETER
    return VIP_SUCCESS if nic.nvis < VIA_VI_MAX else VIP_ERROR_RESOURCE


cdef void enter(via_nic *nic, via_vi *vi) noexcept nogil:
    """Give it a place and an id that no VI before it had for long."""
    cdef uint32_t k = 0
    while nic.vis[k] != NULL:
        k += 1
    nic.generations[k] = nic.generations[k] + 1 if nic.generations[k] < 0xFFFF else 1
    vi.id = nic.generations[k] << 16 | k
    nic.vis[k] = vi
    nic.nvis += 1


cdef int vi_create(via_nic *nic, uint32_t ptag, uint8_t reliability, uint32_t max_transfer, uint32_t qos,
                   uint32_t depth, via_cq *send_cq, via_cq *recv_cq, via_vi **out) noexcept nogil:
    cdef via_vi *vi
    cdef int r = vi_check(nic, reliability, max_transfer, depth)
    if r != VIP_SUCCESS:
        return r
    if ptag_use(nic, ptag, 1) != VIP_SUCCESS:
        return VIP_INVALID_PTAG
    vi = <via_vi *>calloc(1, sizeof(via_vi))
    if vi == NULL or not queue_init(&vi.send, vi, False, depth) or not queue_init(&vi.recv, vi, True, depth):
        ptag_use(nic, ptag, -1)
        if vi != NULL:
            queue_free(&vi.send)
            free(vi)
        return VIP_ERROR_RESOURCE
    vi.nic = nic
    vi.ptag = ptag
    vi.reliability = reliability
    vi.max_transfer = max_transfer
    vi.qos = qos
    vi.send.cq = send_cq
    vi.recv.cq = recv_cq
    if send_cq != NULL:
        send_cq.users += 1
    if recv_cq != NULL:
        recv_cq.users += 1
    enter(nic, vi)
    out[0] = vi
    return VIP_SUCCESS


cdef int vi_destroy(via_vi *vi) noexcept nogil:
    cdef via_nic *nic = vi.nic
    if vi.state != VI_IDLE:
        return VIP_INVALID_STATE
    if vi.send.head != vi.send.tail or vi.recv.head != vi.recv.tail:
        return VIP_ERROR_RESOURCE
    if vi.send.cq != NULL:
        cq_purge(vi.send.cq, vi.id)
        vi.send.cq.users -= 1
    if vi.recv.cq != NULL:
        cq_purge(vi.recv.cq, vi.id)
        vi.recv.cq.users -= 1
    ptag_use(nic, vi.ptag, -1)
    nic.vis[vi.id & (VIA_VI_MAX - 1)] = NULL
    nic.nvis -= 1
    queue_free(&vi.send)
    queue_free(&vi.recv)
    free(vi)
    return VIP_SUCCESS


cdef int vi_post_send(via_vi *vi, uint8_t *at, uint32_t handle, uint32_t *position) noexcept nogil:
    cdef int r
    if vi.state != VI_CONNECTED and vi.state != VI_ERROR:
        return VIP_INVALID_STATE
    r = queue_post(&vi.send, at, handle, position)
    if r != VIP_SUCCESS:
        return r
    if vi.state == VI_ERROR:
        queue_complete(&vi.send, position[0], STATUS_FLUSHED, 0, 0)
        return VIP_SUCCESS
    return vi.port.ops.send(vi)


cdef int vi_post_recv(via_vi *vi, uint8_t *at, uint32_t handle, uint32_t *position) noexcept nogil:
    cdef int r = queue_post(&vi.recv, at, handle, position)
    cdef uint32_t bad
    if r != VIP_SUCCESS:
        return r
    if vi.state == VI_ERROR:
        queue_complete(&vi.recv, position[0], STATUS_FLUSHED, 0, 0)
        return VIP_SUCCESS
    bad = deliver_inspect(vi, position[0])
    if bad:
        vi.nic.counts[<int>VC_BAD_DESC] += 1
        queue_complete(&vi.recv, position[0], bad, 0, 0)
        if vi.reliability != UNRELIABLE:
            vi_abort(vi, VE_COMP_PROT)
    return VIP_SUCCESS


cdef void leave(via_vi *vi) noexcept nogil:
    """Nothing of it is under way any more; all descriptors are given back."""
    if vi.port != NULL and vi.state == VI_CONNECTED:
        vi.port.ops.cancel(vi, True)
    queue_flush(&vi.send)
    queue_flush(&vi.recv)


cdef void vi_break(via_vi *vi, int event) noexcept nogil:
    if vi.state != VI_CONNECTED:
        return
    leave(vi)
    vi.state = VI_ERROR
    vi.nic.counts[<int>VC_CONN_LOST] += 1
    vi.nic.completions += 1
    nic_event(vi.nic, event, vi.id)


cdef void farewell(via_vi *vi) noexcept nogil:
    """Tell the other end that the connection is over."""
    cdef via_control c
    if vi.state != VI_CONNECTED or vi.port.dead:
        return
    memset(&c, 0, sizeof(c))
    c.kind = ENTRY_DISCONNECT
    c.to = vi.peer
    c.source = vi.id
    vi.port.ops.control(vi.port, &c)


cdef void vi_abort(via_vi *vi, int event) noexcept nogil:
    farewell(vi)
    vi_break(vi, event)


cdef int vi_disconnect(via_vi *vi) noexcept nogil:
    if vi.state == VI_IDLE:
        return VIP_INVALID_STATE
    leave(vi)
    farewell(vi)
    vi.state = VI_IDLE
    vi.attempt += 1
    vi.port = NULL
    vi.peer = 0
    return VIP_SUCCESS


cdef void port_die(via_port *p) noexcept nogil:
    cdef via_nic *nic = p.nic
    cdef via_vi *vi
    cdef int k
    if p.dead:
        return
    p.dead = True
    for k in range(VIA_VI_MAX):
        vi = nic.vis[k]
        if vi == NULL or vi.port != p:
            continue
        if vi.state == VI_CONNECT_PENDING:
            vi.outcome = VIP_NOT_REACHABLE
        vi_break(vi, VE_CONN_LOST)
    nic.completions += 1


cdef int nic_deregister(via_nic *nic, uint32_t handle) noexcept nogil:
    cdef via_vi *vi
    cdef int k, n
    if memory_find(nic, handle) == NULL:
        return VIP_INVALID_PARAMETER
    for k in range(VIA_VI_MAX):
        vi = nic.vis[k]
        if vi == NULL:
            continue
        n = queue_forget(&vi.send, handle)
        if n and vi.state == VI_CONNECTED:
            vi.port.ops.cancel(vi, False)
        n += queue_forget(&vi.recv, handle)
        if n and vi.reliability != UNRELIABLE:
            vi_abort(vi, VE_COMP_PROT)
    return memory_deregister(nic, handle)
