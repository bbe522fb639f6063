"""UDP endpoints: see udp.pxd. Who has which port is in ports, how datagrams come in is in receive."""

from libc.errno cimport (EACCES, EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EDESTADDRREQ, EINVAL, EMSGSIZE, ENETUNREACH,
                         ENOBUFS, ENOTCONN, EPIPE)
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_equal, ip_from4, ip_is4, ip_is_any, ip_is_multicast, ip_to4, ipaddr
from ustack._core.base.checksum cimport csum_fold
from ustack._core.base.codes cimport CAP_USO, CSUM_PARTIAL, EV_ERR, EV_HUP, EV_IN, EV_OUT, GSO_UDP, IPPROTO_UDP_
from ustack._core.base.counters cimport C_IP_NOMEM, C_UDP_TX, count
from ustack._core.base.ready cimport ready_forget
from ustack._core.inet.demux cimport flow_any, flow_speaks, flow_table_free, flow_table_init
from ustack._core.inet.inet cimport (IP_DF, inet, inet_is_local, inet_upcall, ip_output, path_check, path_pseudo,
                                     path_release, path_resolve, path_room)
from ustack._core.inet.path cimport path
from ustack._core.inet.pmtu cimport pmtu_of
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport alloc_header, dupmsg, freelist, freemsg, linkb, mblk, msgbytes, unlinkb
from ustack._core.udp.ports cimport port_choose, port_enter, port_free, port_leave, port_rekey
from ustack._core.udp.receive cimport udp_error, udp_input, udp_part
from ustack._core.wire.bytes cimport put_sum
from ustack._core.wire.ip4 cimport IP4_LEN
from ustack._core.wire.ip6 cimport IP6_LEN
from ustack._core.wire.udp cimport UDP_LEN, UDP_MAX, UDP_MAX6, UDP_SUM, udp_emit

cdef enum:
    TTL = 64
    RCVBUF = 3 * 212992         # as many small datagrams as Linux's rmem_default: a block of ours holds three of its
    USO_SEGMENTS = 128          # Linux's UDP_MAX_SEGMENTS
    TRAIN = 60                  # datagrams, a block each: with the headers as many as links gather
    IP_ROOM = 40                # the longest header in front of it


# --- endpoints ------------------------------------------------------------------------------------------------
cdef int udp_init(udp *u, context *ctx, inet *net) noexcept nogil:
    cdef int result
    memset(u, 0, sizeof(udp))
    u.ctx = ctx
    u.net = net
    u.rcvbuf = RCVBUF
    inet_upcall(net, IPPROTO_UDP_, u, udp_input, udp_error)
    result = flow_table_init(&u.table, ctx.dice.key)
    return result if result < 0 else flow_table_init(&u.ports, ctx.dice.key)


cdef void udp_free(udp *u) noexcept nogil:
    """The endpoints are closed already."""
    inet_upcall(u.net, IPPROTO_UDP_, NULL, NULL, NULL)
    flow_table_free(&u.table)
    flow_table_free(&u.ports)


cdef udp_pcb *udp_open(udp *u) noexcept nogil:
    """NULL without memory."""
    cdef udp_pcb *p = <udp_pcb *>calloc(1, sizeof(udp_pcb))
    if p != NULL:
        p.owner = u
        p.ttl = TTL
        p.group_ttl = 1
        p.discover = 1              # IP_PMTUDISC_WANT
        p.rcvbuf = u.rcvbuf
        p.entry.owner = p
        p.port_entry.owner = p
        p.entry.key.laddr = flow_any(&p.entry)
        u.count += 1
    return p


cdef void udp_close(udp_pcb *p) noexcept nogil:
    port_leave(p)
    path_release(p.owner.net, &p.way)
    ready_forget(&p.owner.ctx.ready, &p.rdy)
    freelist(p.head)
    p.owner.count -= 1
    free(p)


cdef bint may_bind(inet *net, const ipaddr *addr) noexcept nogil:
    """Any, ours, or a group or broadcast address to receive from."""
    cdef int i, j
    if ip_is_any(addr) or ip_is_multicast(addr) or inet_is_local(net, addr, NULL):
        return True
    if ip_is4(addr) and ip_to4(addr) == <uint32_t>0xFFFFFFFF:
        return True
    for i in range(net.nifs):
        for j in range(net.ifs[i].naddrs):
            if ip_equal(&net.ifs[i].addrs[j].broadcast, addr):
                return True
    return False


cdef int udp_bind(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil:
    cdef uint16_t chosen = port
    cdef int result = 0
    if p.bound:
        return -EINVAL
    if not flow_speaks(&p.entry, addr):
        return -EINVAL
    if not may_bind(p.owner.net, addr):
        return -EADDRNOTAVAIL
    if port == 0:
        result = port_choose(p, addr, &chosen)
    elif not port_free(p, addr, port):
        return -EADDRINUSE
    if result < 0:
        return result
    port_enter(p, addr, chosen)
    p.addr_bound = not ip_is_any(addr)
    p.port_bound = port != 0
    return 0


cdef int udp_bind_lazily(udp_pcb *p) noexcept nogil:
    cdef ipaddr any = flow_any(&p.entry)
    cdef uint16_t port
    cdef int result
    if p.bound:
        return 0
    result = port_choose(p, &any, &port)
    if result < 0:
        return -EAGAIN          # as Linux has it for a bind that nobody asked for
    port_enter(p, &any, port)
    return 0


cdef const ipaddr *source(const udp_pcb *p, ipaddr *any) noexcept nogil:
    """The local address that is asked of a path; groups are only for receiving."""
    any[0] = ip_from4(0)
    if ip_is_any(&p.entry.key.laddr) or not inet_is_local(p.owner.net, &p.entry.key.laddr, NULL):
        return any
    return &p.entry.key.laddr


cdef int udp_connect(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil:
    """-EACCES, -EAGAIN (no port), and what path_resolve has. Connecting anew is fine."""
    cdef ipaddr any = ip_from4(0)
    cdef ipaddr peer
    cdef path way
    cdef int result
    if not flow_speaks(&p.entry, addr):
        return -ENETUNREACH
    result = path_resolve(p.owner.net, &way, source(p, &any) if p.addr_bound else &any, addr)
    if result < 0:
        return result
    if way.broadcast and not p.broadcast and not ip_is_multicast(addr):
        result = -EACCES
    if result == 0:
        result = udp_bind_lazily(p)
    if result < 0:
        path_release(p.owner.net, &way)
        return result
    path_release(p.owner.net, &p.way)
    p.way = way
    peer = way.dst
    port_rekey(p, &p.entry.key.laddr if p.addr_bound else &way.src, &peer, port)
    p.connected = True
    p.error = 0
    return 0


cdef int udp_disconnect(udp_pcb *p) noexcept nogil:
    """What connect chose is forgotten: the address, and the port. -ENOTCONN."""
    cdef ipaddr any = flow_any(&p.entry)
    if not p.connected:
        return -ENOTCONN
    p.connected = False
    path_release(p.owner.net, &p.way)
    if p.port_bound:
        port_rekey(p, &p.entry.key.laddr if p.addr_bound else &any, NULL, 0)
    else:
        port_leave(p)
        if not p.addr_bound:
            p.entry.key.laddr = any
        p.entry.key.lport = 0
    return 0


# --- out ------------------------------------------------------------------------------------------------------
cdef path *way_to(udp_pcb *p, const ipaddr *to, path *other, int *result) noexcept nogil:
    """The path to a destination: the one that the endpoint holds if it fits. A connected endpoint keeps its own."""
    cdef ipaddr any
    if p.way.ifp != NULL and (to == NULL or ip_equal(&p.way.dst, to)):
        result[0] = path_check(p.owner.net, &p.way)
        return &p.way
    if p.connected and to != NULL and not ip_equal(&p.entry.key.raddr, to):
        result[0] = path_resolve(p.owner.net, other, source(p, &any), to)
        return other
    path_release(p.owner.net, &p.way)
    result[0] = path_resolve(p.owner.net, &p.way, source(p, &any), to if to != NULL else &p.entry.key.raddr)
    return &p.way


cdef int may_send(udp_pcb *p, path *way, const ipaddr *to, size_t n, uint16_t gso_size) noexcept nogil:
    cdef size_t one = gso_size if gso_size < n else n
    cdef size_t headers = UDP_LEN + (IP4_LEN if ip_is4(to) else IP6_LEN)
    if way.broadcast and not p.broadcast and not ip_is_multicast(to):
        return -EACCES
    if gso_size and (one + headers > way.mtu or n > <size_t>gso_size * USO_SEGMENTS):
        return -EINVAL          # as Linux's UDP_SEGMENT
    if p.df and not gso_size:
        way.mtu = pmtu_of(p.owner.net, to, way.ifp.mtu)
        if n + headers > way.mtu:
            return -EMSGSIZE
    if path_room(p.owner.net, way) <= 0:
        return -EAGAIN
    return 0


cdef int transmit(udp_pcb *p, path *way, mblk *taken, size_t n, uint16_t port, uint16_t gso_size) noexcept nogil:
    cdef context *ctx = p.owner.ctx
    cdef int flags = IP_DF if p.df and ip_is4(&way.dst) and not gso_size else 0
    cdef mblk *m = alloc_header(ctx.mem)
    if m == NULL:
        count(&ctx.n, C_IP_NOMEM)
        freemsg(taken)
        return -ENOBUFS
    udp_emit(m.rptr, p.entry.key.lport, port, UDP_LEN + n)
    put_sum(m.rptr + UDP_SUM, csum_fold(path_pseudo(way, IPPROTO_UDP_, UDP_LEN + n)))
    m.wptr = m.rptr + UDP_LEN
    m.pkt_len = UDP_LEN + n
    m.hdr_len = UDP_LEN
    m.csum = CSUM_PARTIAL
    m.csum_start = 0
    m.csum_offset = UDP_SUM
    if gso_size and n > gso_size:
        m.gso_size = gso_size
        m.gso_type = GSO_UDP
    if taken != NULL:
        linkb(m, taken)
    count(&ctx.n, C_UDP_TX)
    return ip_output(p.owner.net, way, m, IPPROTO_UDP_, p.group_ttl if ip_is_multicast(&way.dst) else p.ttl, p.tos,
                     flags)


cdef int ready_to_send(udp_pcb *p, const ipaddr *to, uint16_t port, size_t n) noexcept nogil:
    cdef int result = udp_take_error(p)
    if result < 0:
        return result
    if p.shut_wr:
        return -EPIPE
    if to == NULL and not p.connected:
        return -EDESTADDRREQ
    if to != NULL and port == 0:
        return -EINVAL
    if to != NULL and not flow_speaks(&p.entry, to):
        return -ENETUNREACH
    if n > <size_t>(UDP_MAX if ip_is4(to if to != NULL else &p.entry.key.raddr) else UDP_MAX6):
        return -EMSGSIZE
    return udp_bind_lazily(p)


cdef int udp_send(udp_pcb *p, mblk *taken, const ipaddr *to, uint16_t port, int gso_size) noexcept nogil:
    """Datagrams larger than the path MTU are fragmented unless `df` is set; an empty chain or NULL is an empty one."""
    cdef size_t n = msgbytes(taken) if taken != NULL else 0
    cdef uint16_t step = p.gso_size if gso_size < 0 else gso_size
    cdef path other
    cdef path *way
    cdef int result = ready_to_send(p, to, port, n)
    memset(&other, 0, sizeof(other))
    if result == 0:
        way = way_to(p, to, &other, &result)
    if result == 0:
        result = may_send(p, way, &way.dst, n, step)
    if result < 0:
        freemsg(taken)
    else:
        result = transmit(p, way, taken, n, port if to != NULL else p.entry.key.rport, step)
    path_release(p.owner.net, &other)
    return result


cdef int udp_train(udp_pcb *p, const ipaddr *to, size_t n) noexcept nogil:
    if (p.gso_size or p.df or n == 0 or p.way.ifp == NULL or to != NULL and not ip_equal(&p.way.dst, to)
            or path_check(p.owner.net, &p.way) < 0 or not p.way.caps & CAP_USO or n + UDP_LEN + IP_ROOM > p.way.mtu):
        return 1
    return min(TRAIN, <int>(UDP_MAX // n))


cdef int udp_room(udp_pcb *p) noexcept nogil:
    return path_room(p.owner.net, &p.way)


# --- in -------------------------------------------------------------------------------------------------------
cdef mblk *udp_recv(udp_pcb *p, udp_meta *meta, bint peek) noexcept nogil:
    """An empty datagram is an empty block."""
    cdef mblk *m = p.head
    cdef mblk *data
    if m == NULL:
        return NULL
    memcpy(meta, m.rptr, sizeof(udp_meta))
    if peek:
        return dupmsg(p.owner.ctx.mem, m.cont)
    p.head = m.next
    if p.head == NULL:
        p.tail = NULL
    p.nqueued -= 1
    p.held -= m.mark
    m.next = NULL
    data = unlinkb(m)
    freemsg(m)
    return data


cdef mblk *udp_take(udp_pcb *p, int max) noexcept nogil:
    cdef mblk *first = p.head
    cdef mblk *last = NULL
    cdef mblk *m = first
    cdef uint32_t step
    cdef int n
    while m != NULL and max > 0:
        step = (<udp_meta *>m.rptr).gso_size
        n = <int>((m.pkt_len + step - 1) // step) if step else 1
        if n > max and (last != NULL or udp_part(p, m, max) < 0):
            break
        max -= n
        p.held -= m.mark
        p.nqueued -= 1
        last = m
        m = m.next
    if last == NULL:
        return NULL
    p.head = m
    if m == NULL:
        p.tail = NULL
    last.next = NULL
    return first


cdef uint32_t udp_events(udp_pcb *p) noexcept nogil:
    cdef uint32_t events = 0
    if p.head != NULL or p.error or p.shut_rd:
        events |= EV_IN
    if p.error:
        events |= EV_ERR
    if p.shut_rd and p.shut_wr:
        events |= EV_HUP
    if path_room(p.owner.net, &p.way) > 0:
        events |= EV_OUT
    return events


cdef int udp_take_error(udp_pcb *p) noexcept nogil:
    """0, or -errno, once."""
    cdef int error = p.error
    p.error = 0
    return -error
