"""Endpoints that send ICMP echo requests and queue what comes back, as Linux's SOCK_DGRAM, IPPROTO_ICMP sockets do.

The kernel's port of such a socket is our identifier: it is ours alone, and finds the endpoint. One whose entry says
FLOW_V6 speaks ICMPv6. No sockets in here.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.ready cimport ready
from ustack._core.base.types cimport ns_t
from ustack._core.inet.demux cimport flow_entry, flow_table
from ustack._core.inet.inet cimport inet, ip_error
from ustack._core.inet.path cimport path
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk

cdef struct ping:
    context *ctx
    inet *net
    flow_table table            # by identifier, as lport
    int64_t rcvbuf

cdef struct ping_pcb:
    ping *owner
    flow_entry entry
    uint16_t id
    uint8_t ttl
    uint8_t tos
    bint df                     # -EMSGSIZE instead of fragments
    bint broadcast              # may send to broadcast addresses
    int error                   # pending errno from ICMP, given once
    uint8_t error_type          # and what it was made from
    uint8_t error_code
    ipaddr error_from
    path way
    mblk *head                  # replies by next, each with a ping_meta in front
    mblk *tail
    uint32_t nqueued
    int64_t held
    int64_t rcvbuf
    ready rdy

cdef struct ping_meta:
    ipaddr src
    ipaddr dst
    uint16_t id
    uint16_t seq
    uint8_t ttl
    uint8_t tos
    ns_t received

cdef int ping_init(ping *g, context *ctx, inet *net) noexcept nogil
cdef void ping_free(ping *g) noexcept nogil
# id 0: a random one. NULL with *err -EADDRINUSE or -ENOMEM.
cdef ping_pcb *ping_open(ping *g, uint16_t id, int *err) noexcept nogil
cdef void ping_close(ping_pcb *p) noexcept nogil
# Send an echo request with this payload (NULL: none). Takes it. 0 or -errno, as udp_send; -EMSGSIZE above 65507.
cdef int ping_send(ping_pcb *p, mblk *taken, const ipaddr *to, uint16_t seq) noexcept nogil
# Take the first reply's payload, or NULL. The caller frees it.
cdef mblk *ping_recv(ping_pcb *p, ping_meta *meta, bint peek) noexcept nogil
cdef uint32_t ping_events(ping_pcb *p) noexcept nogil
cdef int ping_take_error(ping_pcb *p) noexcept nogil
