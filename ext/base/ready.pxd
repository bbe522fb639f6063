"""Readiness: intrusive list of the endpoints on which something happened since it was last drained.

A protocol posts what became true; the engine drains the list after each verb and wakes who waits. Entries hint at
readiness; the truth is asked of the endpoint.
"""

from libc.stdint cimport uint32_t

cdef struct ready:
    ready *next                 # in the posted list
    uint32_t events             # EV_* posted and not yet drained
    bint posted
    void *owner                 # the socket that waits on it; NULL if nobody can

cdef struct ready_list:
    ready *head


cdef inline void ready_post(ready_list *l, ready *r, uint32_t events) noexcept nogil:
    if r.owner == NULL:
        return
    r.events |= events
    if not r.posted:
        r.posted = True
        r.next = l.head
        l.head = r


cdef inline ready *ready_take(ready_list *l) noexcept nogil:
    cdef ready *r = l.head
    if r != NULL:
        l.head = r.next
        r.posted = False
        r.next = NULL
    return r


cdef inline void ready_forget(ready_list *l, ready *r) noexcept nogil:
    """Take an entry off the list before its structure goes away."""
    cdef ready **at = &l.head
    if not r.posted:
        return
    while at[0] != NULL:
        if at[0] == r:
            at[0] = r.next
            break
        at = &at[0].next
    r.posted = False
    r.next = NULL
