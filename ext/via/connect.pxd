"""Making connections: who waits for whom. Common to all providers; what crosses is a ``via_control``.

       client                                              server
       connect_start: CONNECT_PENDING  --- CONNECT --->    a listener of that discriminator queues it, else NO_MATCH
                                                           connect_take, then:
       CONNECTED  <--------------------- ACCEPT ------     connect_accept: its VI is CONNECTED, or
       IDLE       <--------------------- REJECT ------     connect_reject
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ustack._core.via.types cimport via_control, via_listener, via_nic, via_port, via_request, via_vi

# Wait for requests under a name. VIP_SUCCESS, VIP_INVALID_PARAMETER (its length), VIP_ERROR_RESOURCE (taken, or too
# many).
cdef int listener_create(via_nic *nic, const uint8_t *name, size_t n, via_listener **out) noexcept nogil
# Requests that still wait are told VIP_NO_MATCH.
cdef void listener_destroy(via_listener *l) noexcept nogil
# The oldest request; False if there is none.
cdef bint connect_take(via_listener *l, via_request *out) noexcept nogil
# Ask for a connection. VIP_SUCCESS (the outcome comes in vi.outcome), VIP_INVALID_STATE, VIP_INVALID_PARAMETER,
# VIP_NOT_REACHABLE.
cdef int connect_start(via_vi *vi, via_port *p, const uint8_t *name, size_t n) noexcept nogil
# Ask no longer: IDLE.
cdef void connect_abandon(via_vi *vi) noexcept nogil
# VIP_SUCCESS, or what keeps this VI from it: the request stays, and can be accepted by another. VIP_INVALID_STATE,
# VIP_INVALID_RELIABILITY_LEVEL, VIP_INVALID_MTU, VIP_INVALID_QOS, VIP_NOT_REACHABLE (it is gone).
cdef int connect_accept(via_vi *vi, const via_request *r) noexcept nogil
cdef void connect_reject(via_nic *nic, const via_request *r) noexcept nogil
# Connect two VIs of one NIC to each other, without asking. As connect_accept.
cdef int connect_pair(via_vi *a, via_vi *b) noexcept nogil
# Something has come in through a port.
cdef void connect_input(via_port *p, const via_control *c) noexcept nogil
# Forget requests that came through a port which goes away.
cdef void connect_purge(via_nic *nic, via_port *p) noexcept nogil
