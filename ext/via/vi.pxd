"""VIs: an end of a connection, with its states.

                 request               accepted
       IDLE -----------------> CONNECT_PENDING --------> CONNECTED
        ^ ^                        |                       |    |
        | +--- rejected, time-out -+       disconnect      |    | an error, or the peer's disconnection
        +--------------------------------------------------+    v
        +------------------------ disconnect ----------------- ERROR

Who accepts goes from IDLE to CONNECTED at once. Leaving CONNECTED gives all posted descriptors back, flushed.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint8_t

from ustack._core.via.types cimport VIA_VI_MAX, via_cq, via_nic, via_port, via_vi

# A new VI, IDLE. VIP_SUCCESS, VIP_INVALID_RELIABILITY_LEVEL, VIP_INVALID_MTU, VIP_INVALID_PTAG,
# VIP_INVALID_PARAMETER (depth),
# VIP_ERROR_RESOURCE.
cdef int vi_create(via_nic *nic, uint32_t ptag, uint8_t reliability, uint32_t max_transfer, uint32_t qos,
                   uint32_t depth, via_cq *send_cq, via_cq *recv_cq, via_vi **out) noexcept nogil
# VIP_SUCCESS, VIP_INVALID_STATE (not IDLE), VIP_ERROR_RESOURCE (descriptors that were not given back).
cdef int vi_destroy(via_vi *vi) noexcept nogil
# Post, as queue_post; also VIP_INVALID_STATE. In ERROR a descriptor is given back at once, flushed.
cdef int vi_post_send(via_vi *vi, uint8_t *at, uint32_t handle, uint32_t *position) noexcept nogil
cdef int vi_post_recv(via_vi *vi, uint8_t *at, uint32_t handle, uint32_t *position) noexcept nogil
# The connection is over, not by our wish: state ERROR, everything flushed, the asynchronous error `event`.
cdef void vi_break(via_vi *vi, int event) noexcept nogil
# The same, and the other end is told.
cdef void vi_abort(via_vi *vi, int event) noexcept nogil
# Leave CONNECTED, CONNECT_PENDING or ERROR for IDLE, and tell the other end. VIP_SUCCESS, VIP_INVALID_STATE.
cdef int vi_disconnect(via_vi *vi) noexcept nogil
# A port died: every VI on it loses its connection.
cdef void port_die(via_port *p) noexcept nogil
# Deregister memory: descriptors that use it fail first. VIP_SUCCESS, VIP_INVALID_PARAMETER.
cdef int nic_deregister(via_nic *nic, uint32_t handle) noexcept nogil


cdef inline via_vi *vi_find(via_nic *nic, uint32_t id) noexcept nogil:
    """The VI of an id; NULL for one that was destroyed or never was."""
    cdef via_vi *vi = nic.vis[id & (VIA_VI_MAX - 1)]
    return vi if vi != NULL and vi.id == id else NULL
