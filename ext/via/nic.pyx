"""A NIC: see nic.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.via.loopback cimport loopback_init
from ustack._core.via.queue cimport queue_free
from ustack._core.via.types cimport (
    VC_EVENT_LIMIT, VIA_CODE_COUNT, VIA_COUNT, VIA_EVENT_COUNT, VIA_EVENT_MAX, VIA_PORT_MAX, VIA_VI_MAX,
    VIP_ERROR_RESOURCE, VIP_SUCCESS, via_event, via_listener, via_nic, via_port,
)

cdef extern from *:
    """
    #include "names.h"
    #define X(id, name) #id,
    static const char *const code_names[] = { VIA_CODES(X) };
    #undef X
    #define X(id, name) name,
    static const char *const code_meanings[] = { VIA_CODES(X) };
    static const char *const event_names[] = { VIA_EVENTS(X) };
    #undef X
    #define X(id, name, why) name,
    static const char *const count_names[] = { VIA_COUNTS(X) };
    #undef X
    #define X(id, name, why) why,
    static const char *const count_meanings[] = { VIA_COUNTS(X) };
    #undef X
    """
    const char *code_names[]
    const char *code_meanings[]
    const char *event_names[]
    const char *count_names[]
    const char *count_meanings[]


cdef via_nic *nic_create() noexcept nogil:
    cdef via_nic *nic = <via_nic *>calloc(1, sizeof(via_nic))
    if nic != NULL:
        loopback_init(nic)
    return nic


cdef void nic_free(via_nic *nic) noexcept nogil:
    cdef via_listener *lst
    cdef uint32_t k
    for k in range(VIA_VI_MAX):
        if nic.vis[k] != NULL:
            queue_free(&nic.vis[k].send)
            queue_free(&nic.vis[k].recv)
            free(nic.vis[k])
    while nic.listeners != NULL:
        lst = nic.listeners
        nic.listeners = lst.next
        free(lst)
    free(nic)


cdef void nic_event(via_nic *nic, int code, uint32_t vi) noexcept nogil:
    cdef via_event *e
    if nic.event_tail - nic.event_head == VIA_EVENT_MAX:
        nic.counts[<int>VC_EVENT_LIMIT] += 1
        return
    e = &nic.events[nic.event_tail % VIA_EVENT_MAX]
    e.code = code
    e.vi = vi
    nic.event_tail += 1


cdef bint nic_take_event(via_nic *nic, via_event *out) noexcept nogil:
    if nic.event_head == nic.event_tail:
        return False
    out[0] = nic.events[nic.event_head % VIA_EVENT_MAX]
    nic.event_head += 1
    return True


cdef int nic_add_port(via_nic *nic, via_port *p) noexcept nogil:
    if nic.nports == VIA_PORT_MAX:
        return VIP_ERROR_RESOURCE
    p.nic = nic
    p.next = nic.ports
    nic.ports = p
    nic.nports += 1
    return VIP_SUCCESS


cdef void nic_remove_port(via_nic *nic, via_port *p) noexcept nogil:
    cdef via_port **at = &nic.ports
    while at[0] != NULL:
        if at[0] == p:
            at[0] = p.next
            nic.nports -= 1
            return
        at = &at[0].next


cdef const char *via_code_name(int code) noexcept nogil:
    return code_names[code] if 0 <= code < VIA_CODE_COUNT else NULL


cdef const char *via_code_meaning(int code) noexcept nogil:
    return code_meanings[code] if 0 <= code < VIA_CODE_COUNT else NULL


cdef const char *via_event_name(int code) noexcept nogil:
    return event_names[code] if 0 <= code < VIA_EVENT_COUNT else NULL


cdef const char *via_count_name(int counter) noexcept nogil:
    return count_names[counter] if 0 <= counter < VIA_COUNT else NULL


cdef const char *via_count_meaning(int counter) noexcept nogil:
    return count_meanings[counter] if 0 <= counter < VIA_COUNT else NULL
