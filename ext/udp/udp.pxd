"""UDP (RFC 768, 1122 4.1): endpoints that send and queue datagrams. No sockets in here, no waiting."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport flow, ipaddr
from ustack._core.base.ready cimport ready
from ustack._core.inet.demux cimport flow_entry, flow_table
from ustack._core.inet.inet cimport inet
from ustack._core.inet.path cimport path
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk

cdef struct udp:
    context *ctx
    inet *net
    flow_table table
    flow_table ports            # every bound endpoint again, by local port alone: for conflicts and broadcasts
    uint32_t rcvbuf             # default SO_RCVBUF, in bytes of storage held
    uint32_t count

cdef struct udp_pcb:
    udp *owner
    flow_entry entry            # key: local, and remote once connected
    flow_entry port_entry
    bint bound
    bint addr_bound             # the local address was asked for, not chosen by connect
    bint port_bound             # the local port was asked for, not chosen by us
    bint connected
    bint reuse_addr
    bint reuse_port
    bint broadcast
    uint8_t ttl
    uint8_t tos
    uint8_t group_ttl           # IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS
    uint8_t discover            # IP_MTU_DISCOVER, as it was set
    bint df                     # -EMSGSIZE instead of fragments (IPV6_DONTFRAG, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE)
    int error                   # pending errno from ICMP, given once
    path way                    # of the connected peer, or of the last destination
    mblk *head                  # received datagrams by next; source address and port in the datagram's meta block
    mblk *tail
    uint32_t nqueued
    int64_t held                # storage charged
    int64_t rcvbuf
    uint16_t gso_size           # UDP_SEGMENT: what is sent is cut into datagrams of this size; 0: it is one
    bint gro                    # UDP_GRO: datagrams of one size that come together are queued as one
    bint shut_rd
    bint shut_wr
    ready rdy

# A received datagram's source, found in front of its payload.
cdef struct udp_meta:
    ipaddr src
    ipaddr dst
    uint16_t sport
    uint16_t gso_size           # of the datagrams that were joined (the last may be shorter); 0: there is only one
    uint8_t ttl
    uint8_t tos
    uint16_t device             # 1 + the number of the interface that it came by

# What lies in the meta block of a queued datagram: that, and for those who join what follows, the payload's last block.
cdef struct queued:
    udp_meta meta               # first: others read it alone
    mblk *last

cdef enum:
    UDP_OWN_SIZE = -1           # as gso_size of udp_send: that of the endpoint

cdef int udp_init(udp *u, context *ctx, inet *net) noexcept nogil
cdef void udp_free(udp *u) noexcept nogil
cdef udp_pcb *udp_open(udp *u) noexcept nogil
# Frees everything queued; the pcb is gone afterwards.
cdef void udp_close(udp_pcb *p) noexcept nogil
# port 0: an ephemeral one (RFC 6056). -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL if bound already.
cdef int udp_bind(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil
# As sending does it for who has not: 0, or -EAGAIN.
cdef int udp_bind_lazily(udp_pcb *p) noexcept nogil
cdef int udp_connect(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil
cdef int udp_disconnect(udp_pcb *p) noexcept nogil
# Send the payload chain; `to` NULL: to the connected peer. gso_size > 0: cut into datagrams of that size (USO).
# Takes the data. 0 or -errno: -EDESTADDRREQ, -EMSGSIZE, -EACCES (broadcast), -ENETUNREACH, -EHOSTUNREACH,
# -ENOBUFS, -EAGAIN (interface queue full), or the pending error.
cdef int udp_send(udp_pcb *p, mblk *taken, const ipaddr *to, uint16_t port, int gso_size) noexcept nogil
# How many datagrams of n bytes may be sent as one, with n as gso_size, for the link to part again; 1: each alone.
cdef int udp_train(udp_pcb *p, const ipaddr *to, size_t n) noexcept nogil
# Packets for which its path has room now; more than 0 if that is not known yet.
cdef int udp_room(udp_pcb *p) noexcept nogil
# Take the first queued datagram (payload chain; *meta filled in), or NULL. peek leaves it queued and returns a dup.
cdef mblk *udp_recv(udp_pcb *p, udp_meta *meta, bint peek) noexcept nogil
# Take the first queued datagrams, at most max: a list by next of meta blocks (a struct udp_meta), the payload in cont.
# Joined ones count as what they consist of. NULL: none, or no memory to part joined ones.
cdef mblk *udp_take(udp_pcb *p, int max) noexcept nogil
cdef uint32_t udp_events(udp_pcb *p) noexcept nogil
cdef int udp_take_error(udp_pcb *p) noexcept nogil
