"""From a finished IP packet to its link: see transmit.pxd."""

from libc.errno cimport ENOBUFS
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport ip_is_multicast, ip_to4, ipaddr
from ustack._core.base.codes cimport (CAP_TSO4, CAP_TSO6, CAP_TX_CSUM, CAP_USO, CSUM_PARTIAL, GSO_TCP4, GSO_TCP6,
                                      GSO_UDP)
from ustack._core.base.counters cimport C_IP_NOMEM, C_SW_BAD_GSO, count
from ustack._core.inet.cache cimport cache_use
from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif
from ustack._core.inet.offload cimport offload_checksum, offload_segment
from ustack._core.inet.path cimport path
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport alloc_header, freemsg, linkb, mblk, pkt_push
from ustack._core.wire.ether cimport ETHER_LEN, ether_emit, ether_type_of

cdef enum:
    SEGMENTS = 2048             # wire packets of one super-segment


cdef mblk *pkt_prepend(context *ctx, mblk *taken, size_t n) noexcept nogil:
    cdef mblk *head
    if pkt_push(taken, n) != NULL:
        return taken
    head = alloc_header(ctx.mem)
    if head == NULL:
        count(&ctx.n, C_IP_NOMEM)
        freemsg(taken)
        return NULL
    head.wptr = head.rptr + n
    head.pkt_len = taken.pkt_len + n
    head.gso_size = taken.gso_size
    head.gso_type = taken.gso_type
    head.csum = taken.csum
    head.csum_start = taken.csum_start + n if taken.csum == CSUM_PARTIAL else 0
    head.csum_offset = taken.csum_offset
    head.segs = taken.segs
    head.hdr_len = taken.hdr_len + n if taken.hdr_len else 0
    head.seq = taken.seq
    head.mark = taken.mark
    head.stamp = taken.stamp
    linkb(head, taken)
    return head


cdef void group_mac(const ipaddr *dst, uint8_t *mac) noexcept nogil:
    """RFC 1112 6.4: the low 23 bits of a group; everything else that has no neighbour is broadcast."""
    cdef uint32_t v4 = ip_to4(dst)
    memset(mac, 0xFF, 6)
    if ip_is_multicast(dst):
        mac[0] = 0x01
        mac[1] = 0x00
        mac[2] = 0x5E
        mac[3] = (v4 >> 16) & 0x7F
        mac[4] = (v4 >> 8) & 0xFF
        mac[5] = v4 & 0xFF


cdef int ip_send(inet *net, path *p, mblk *taken) noexcept nogil:
    cdef uint8_t mac[6]
    cdef int ready
    if p.nbr == NULL:
        group_mac(&p.dst, mac)
        ip_transmit(net, p.ifp, mac, taken)
        return 0
    ready = cache_use(net, p.nbr, taken)
    if ready > 0:
        ip_transmit(net, p.ifp, p.nbr.mac, taken)
    elif ready < 0:
        freemsg(taken)
        return ready
    return 0


cdef void emit(inet *net, netif *ifp, const uint8_t *mac, mblk *taken) noexcept nogil:
    cdef mblk *m = taken
    cdef uint16_t type
    if ifp.layer == 2:
        type = ether_type_of(taken.rptr)
        m = pkt_prepend(net.ctx, taken, ETHER_LEN)
        if m == NULL:
            return
        ether_emit(m.rptr, mac, ifp.mac, type)
    ifp.xmit(ifp, m)


cdef void cut(inet *net, netif *ifp, const uint8_t *mac, mblk *taken) noexcept nogil:
    """A super-segment for a link that takes none."""
    cdef mblk *out[SEGMENTS]
    cdef int i
    cdef int n = offload_segment(net.ctx, taken, 0, out, SEGMENTS, (ifp.caps & CAP_TX_CSUM) != 0)
    if n < 0:
        count(&net.ctx.n, C_IP_NOMEM if n == -ENOBUFS else C_SW_BAD_GSO)
        freemsg(taken)
        return
    for i in range(n):
        emit(net, ifp, mac, out[i])


cdef inline uint32_t capability(uint8_t gso_type) noexcept nogil:
    """What a link must be able to do to take such a super-segment whole."""
    if gso_type == GSO_TCP4:
        return CAP_TSO4
    if gso_type == GSO_TCP6:
        return CAP_TSO6
    return CAP_USO if gso_type == GSO_UDP else 0


cdef void ip_transmit(inet *net, netif *ifp, const uint8_t *mac, mblk *taken) noexcept nogil:
    if taken.gso_size:
        if not ifp.caps & capability(taken.gso_type) or taken.pkt_len > ifp.gso_max:
            cut(net, ifp, mac, taken)
            return
    elif taken.csum == CSUM_PARTIAL and not ifp.caps & CAP_TX_CSUM:
        if offload_checksum(net.ctx, taken) < 0:
            count(&net.ctx.n, C_SW_BAD_GSO)
            freemsg(taken)
            return
    emit(net, ifp, mac, taken)
