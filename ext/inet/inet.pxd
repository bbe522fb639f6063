"""The internet layer of one engine, whole: what the engine and the transports call. Its state is one structure.

Upcalls to the transports are filled in by ``stack`` at start-up and constant afterwards.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.inet.netif cimport ifaddr, netif
from ustack._core.inet.path cimport path
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk

# An IP packet on its way to a transport, as a value. The mblk's rptr is at the transport header, which lies whole in
# the first block as far as the packet has it (at least 60 bytes of TCP, 8 of UDP and ICMP, or pkt_len).
cdef struct ip_packet:
    ipaddr src
    ipaddr dst
    uint8_t proto
    uint8_t ttl
    uint8_t tos
    uint16_t header_len         # IP header and options or extension headers
    uint32_t length             # transport header and payload
    bint broadcast              # dst is broadcast or multicast (or came in such a frame)
    netif *ifp
    uint8_t *header             # the IP header, in front of rptr in the same block: for quoting

cdef enum:
    # Kinds of ICMP error, whatever the version
    ICMP_ERR_NET = 1            # net, host unreachable (soft for TCP)
    ICMP_ERR_HOST = 2
    ICMP_ERR_PROTO = 3
    ICMP_ERR_PORT = 4
    ICMP_ERR_TOO_BIG = 5        # `mtu` says to what
    ICMP_ERR_ADMIN = 6
    ICMP_ERR_TTL = 7
    ICMP_ERR_OTHER = 8
    ICMP_ERR_POLICY = 9         # IPv6: prohibited on the way (EACCES)

# What an ICMP error quotes of our packet. src is ours.
cdef struct ip_error:
    ipaddr src
    ipaddr dst
    ipaddr reporter
    uint8_t proto
    uint8_t kind                # ICMP_ERR_*
    uint8_t type                # as on the wire
    uint8_t code
    uint32_t mtu
    uint16_t sport              # first 8 bytes of the quoted transport header
    uint16_t dport
    uint32_t seq                # TCP only

ctypedef void (*ip_input_fn)(void *proto, mblk *taken, const ip_packet *ip) noexcept nogil
ctypedef void (*ip_error_fn)(void *proto, const ip_error *e) noexcept nogil

cdef struct upcall:
    void *owner
    ip_input_fn input
    ip_error_fn error

cdef enum:
    IP_DF = 1                   # do not fragment: -EMSGSIZE if it does not fit the path MTU
    IP_NO_CSUM = 2

cdef struct inet:
    context *ctx
    netif *ifs[32]
    int nifs
    uint32_t generation         # of addresses and routes: a path made under an older one is made anew
    upcall protocols[256]
    void *routes                # private to route.pyx, cache.pyx, fragment.pyx, icmp.pyx
    void *neighbours
    void *fragments
    void *limits
    void *pmtus                 # private to pmtu.pyx
    uint16_t ids[256]           # next IPv4 identification, by keyed hash of (src, dst, protocol): RFC 6864, 7739
    upcall echo                 # ICMP echo replies and errors about echo requests: for ping endpoints
    # A neighbour could not be resolved: transports hear of it by their error upcall with ICMP_ERR_HOST.

cdef int inet_init(inet *net, context *ctx) noexcept nogil
cdef void inet_free(inet *net) noexcept nogil
cdef void inet_upcall(inet *net, int protocol, void *owner, ip_input_fn input, ip_error_fn error) noexcept nogil

# --- configuration; 0 or -errno. `bits` count in 128, as in ifaddr: an IPv4 /24 is 120 -------------------------
cdef int inet_add_if(inet *net, netif *ifp) noexcept nogil
cdef void inet_remove_if(inet *net, netif *ifp) noexcept nogil
# Adds the route to the prefix, and announces the address on its link (RFC 5227 2.3). -EEXIST, -ENOSPC, -EINVAL;
# -EAFNOSUPPORT for IPv6 on layer 2 (there is no neighbour discovery), -EMSGSIZE where the MTU is below 1280.
cdef int inet_add_addr(inet *net, netif *ifp, const ipaddr *addr, int bits) noexcept nogil
# The gateway may be NULL or the any-address (on link), ifp may be NULL (the one that reaches the gateway). -EEXIST,
# -ENETUNREACH (nothing reaches the gateway), -ENOSPC. inet_del_route: -ESRCH.
cdef int inet_add_route(inet *net, const ipaddr *prefix, int bits, const ipaddr *gateway, netif *ifp) noexcept nogil
cdef int inet_del_route(inet *net, const ipaddr *prefix, int bits) noexcept nogil
# Whether an address is one of ours (127/8 is); the netif that has it in *ifp unless that is NULL.
cdef bint inet_is_local(inet *net, const ipaddr *addr, netif **ifp) noexcept nogil

# --- in -------------------------------------------------------------------------------------------------------
# One received packet, from its link header on (layer 2) or its IP header on (layer 3, loopback). Never from inside
# netif.xmit: a loopback interface queues what it is given.
cdef void inet_input(inet *net, netif *ifp, mblk *taken) noexcept nogil

# --- out ------------------------------------------------------------------------------------------------------
# Fill in a path to dst. `src` may be the any-address: then one is chosen. -ENETUNREACH, -EHOSTUNREACH,
# -EADDRNOTAVAIL. A path holds a neighbour: release it with path_release.
cdef int path_resolve(inet *net, path *p, const ipaddr *src, const ipaddr *dst) noexcept nogil
cdef void path_release(inet *net, path *p) noexcept nogil
# Whether the path still holds; if routes or addresses have changed it is made anew. 0 or -errno.
cdef int path_check(inet *net, path *p) noexcept nogil
# How many more packets the path's interface takes now; as many as you like if that is not known without resolving.
cdef int path_room(inet *net, const path *p) noexcept nogil
# The partial sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1) for `length` bytes of transport.
cdef uint32_t ip_pseudo(const ipaddr *src, const ipaddr *dst, uint8_t proto, uint32_t length) noexcept nogil
cdef uint32_t path_pseudo(const path *p, uint8_t proto, uint32_t length) noexcept nogil
# Prepend the IP header (and the link header) and send. The chain begins with the transport header, in a block with
# headroom; pkt_len, csum and gso facts are set. Fragments if it must and may. Takes the packet, whatever it returns:
# 0 (sent, queued, or waiting for ARP) or -errno (-EMSGSIZE, -EHOSTUNREACH, -ENETUNREACH, -ENOBUFS).
cdef int ip_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos, int flags) noexcept nogil
# Send an ICMP error about a received packet, whose first block still holds its IP header (rate limited; never about
# errors, fragments, broadcasts). Does not take the packet.
cdef void icmp_error(inet *net, mblk *about, const ip_packet *ip, int kind, uint32_t mtu) noexcept nogil
# A transport confirms that its peer hears us: the neighbour stays fresh without probes (RFC 4861 7.3.1's idea).
cdef void path_confirm(inet *net, path *p) noexcept nogil

# --- errors in detail -----------------------------------------------------------------------------------------
# The errno that a kind of ICMP error means to an application.
cdef int icmp_errno(int kind) noexcept nogil
