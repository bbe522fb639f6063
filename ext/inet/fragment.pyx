"""Fragmentation and reassembly: see fragment.pxd."""

from libc.errno cimport ENOBUFS, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack._core.base.addr cimport ip_equal, ip_to4, ipaddr
from ustack._core.base.codes cimport CSUM_NONE, CSUM_OK, CSUM_PARTIAL, GSO_NONE, IPPROTO_TCP_
from ustack._core.base.counters cimport (C_IP_FRAG_BAD, C_IP_FRAG_LIMIT, C_IP_FRAG_OK, C_IP_FRAG_OVERLAP,
                                         C_IP_FRAG_TIMEOUT, C_IP_FRAG_TX, C_IP_NOMEM, C_SW_BAD_GSO, count)
from ustack._core.base.rng cimport siphash
from ustack._core.base.types cimport NS_SEC, ns_t
from ustack._core.base.wheel cimport timer, timer_arm, timer_init, timer_stop
from ustack._core.inet.icmp cimport icmp_send
from ustack._core.inet.icmp6 cimport icmp6_send
from ustack._core.inet.inet cimport inet, ip_packet
from ustack._core.inet.ip4 cimport ip4_frame, ip4_ids
from ustack._core.inet.offload cimport offload_checksum
from ustack._core.inet.path cimport path
from ustack._core.inet.transmit cimport ip_send
from ustack._core.mem.arena cimport KEEP_SHARE, arena_may_keep
from ustack._core.mem.mblk cimport (DB_LENT, copymsg, dup_range, freelist, freemsg, linkb, mblk,
                                    mblk_len, msgtruesize, pkt_pull, writable)
from ustack._core.wire.icmp cimport EXCEEDED_REASSEMBLY, ICMP_TIME_EXCEEDED
from ustack._core.wire.icmp6 cimport EXCEEDED6_REASSEMBLY, ICMP6_TIME_EXCEEDED
from ustack._core.wire.ip4 cimport IP4_LEN, ip4_header, ip4_set_whole

cdef enum:
    ECN_CE = 3                  # RFC 3168 5
    NOT_ECT_SEEN = 1
    CE_SEEN = 1 << 3

cdef struct datagram:
    datagram *hash_next
    datagram *older             # in the order in which they began
    datagram *newer
    inet *net
    ipaddr src
    ipaddr dst
    uint32_t id
    uint8_t version
    uint8_t proto
    bint void_                  # overlapped: nothing more is accepted until the time is up
    uint8_t marks               # which of the four ECN marks its fragments have
    mblk *first                 # by offset (in mark); rptr at the payload, pkt_len of it
    mblk *last
    int pieces
    uint32_t have               # bytes
    uint32_t total              # payload bytes; 0: the last fragment is not here yet
    size_t held                 # storage
    uint32_t most               # what the header of the first leaves room for
    ip_packet head              # of the fragment at offset 0, whose header lies in front of first.rptr
    timer clock

cdef struct fragments:
    datagram *buckets[FRAG_BUCKETS]
    datagram *oldest
    datagram *newest
    int n
    size_t held


cdef int fragment_init(inet *net) noexcept nogil:
    net.fragments = calloc(1, sizeof(fragments))
    return 0 if net.fragments != NULL else -ENOMEM


cdef void fragment_free(inet *net) noexcept nogil:
    cdef fragments *f = <fragments *>net.fragments
    if f == NULL:
        return
    while f.oldest != NULL:
        forget(f.oldest)
    free(f)
    net.fragments = NULL


# --- incomplete datagrams -------------------------------------------------------------------------------------
cdef datagram **bucket(inet *net, const ipaddr *src, const ipaddr *dst, uint32_t id, uint8_t proto) noexcept nogil:
    cdef uint64_t words[5]
    words[0] = src.hi
    words[1] = src.lo
    words[2] = dst.hi
    words[3] = dst.lo
    words[4] = (<uint64_t>proto << 32) | id
    return &(<fragments *>net.fragments).buckets[siphash(net.ctx.dice.key, words, 40) & (FRAG_BUCKETS - 1)]


cdef datagram *find(inet *net, const fragment *h) noexcept nogil:
    cdef datagram *d = bucket(net, &h.src, &h.dst, h.id, h.proto)[0]
    while d != NULL:
        if d.id == h.id and d.proto == h.proto and ip_equal(&d.src, &h.src) and ip_equal(&d.dst, &h.dst):
            return d
        d = d.hash_next
    return NULL


cdef datagram *begin(inet *net, const fragment *h) noexcept nogil:
    cdef fragments *f = <fragments *>net.fragments
    cdef datagram **head
    cdef datagram *d
    if f.n >= FRAG_DATAGRAMS:
        count(&net.ctx.n, C_IP_FRAG_LIMIT)
        forget(f.oldest)
    d = <datagram *>calloc(1, sizeof(datagram))
    if d == NULL:
        return NULL
    d.net = net
    d.src = h.src
    d.dst = h.dst
    d.id = h.id
    d.version = h.version
    d.proto = h.proto
    head = bucket(net, &h.src, &h.dst, h.id, h.proto)
    d.hash_next = head[0]
    head[0] = d
    d.older = f.newest
    if f.newest != NULL:
        f.newest.newer = d
    else:
        f.oldest = d
    f.newest = d
    f.n += 1
    timer_init(&d.clock, on_timer, d)
    timer_arm(&net.ctx.timers, &d.clock, net.ctx.now + (FRAG_SECONDS if h.version == 4 else FRAG6_SECONDS) * NS_SEC)
    return d


cdef void release(datagram *d) noexcept nogil:
    """Its storage, but not the entry itself."""
    (<fragments *>d.net.fragments).held -= d.held
    freelist(d.first)
    d.held = 0
    d.first = NULL
    d.last = NULL


cdef void forget(datagram *d) noexcept nogil:
    cdef fragments *f = <fragments *>d.net.fragments
    cdef datagram **at = bucket(d.net, &d.src, &d.dst, d.id, d.proto)
    release(d)
    timer_stop(&d.net.ctx.timers, &d.clock)
    while at[0] != d:
        at = &at[0].hash_next
    at[0] = d.hash_next
    if d.older != NULL:
        d.older.newer = d.newer
    else:
        f.oldest = d.newer
    if d.newer != NULL:
        d.newer.older = d.older
    else:
        f.newest = d.older
    f.n -= 1
    free(d)


cdef void on_timer(void *arg, ns_t now) noexcept nogil:
    """RFC 1122 3.3.2, RFC 8200 4.5: the source hears of it only if the first fragment is here to be quoted."""
    cdef datagram *d = <datagram *>arg
    if not d.void_:
        count(&d.net.ctx.n, C_IP_FRAG_TIMEOUT)
        if d.first == NULL or d.first.mark != 0:
            pass
        elif d.version == 6:
            icmp6_send(d.net, d.first, &d.head, ICMP6_TIME_EXCEEDED, EXCEEDED6_REASSEMBLY, 0)
        else:
            icmp_send(d.net, d.first, &d.head, ICMP_TIME_EXCEEDED, EXCEEDED_REASSEMBLY, 0)
    forget(d)


# --- one fragment ---------------------------------------------------------------------------------------------
cdef bint sane(const fragment *h) noexcept nogil:
    if h.length == 0 or (h.more and h.length & 7):
        return False
    if h.offset + h.length > h.most:
        return False            # "ping of death"
    # A second fragment that begins inside the TCP header only ever tried to slip by a filter (RFC 1858, 3128).
    return not (h.proto == IPPROTO_TCP_ and h.offset == 8)


cdef bint consistent(datagram *d, const fragment *h) noexcept nogil:
    """Whether its end agrees with what is known of the datagram's end."""
    cdef uint32_t end = h.offset + h.length
    if d.total:
        return end == d.total if not h.more else end < d.total
    return h.more or d.last == NULL or d.last.mark + d.last.pkt_len <= end


cdef int place(datagram *d, mblk *m) noexcept nogil:
    """Link m in by its offset (in mark): 0; 1 if it is here already; -1 if it overlaps."""
    cdef mblk *before = d.last
    cdef mblk *after
    if before != NULL and before.mark > m.mark:
        before = NULL
        after = d.first
        while after != NULL and after.mark <= m.mark:
            before = after
            after = after.next
    after = before.next if before != NULL else d.first
    if before != NULL:
        if before.mark == m.mark and before.pkt_len == m.pkt_len:
            return 1
        if before.mark + before.pkt_len > m.mark:
            return -1
    if after != NULL and m.mark + m.pkt_len > after.mark:
        return -1
    m.next = after
    if before != NULL:
        before.next = m
    else:
        d.first = m
    if after == NULL:
        d.last = m
    return 0


cdef void overlap(datagram *d) noexcept nogil:
    count(&d.net.ctx.n, C_IP_FRAG_OVERLAP)
    release(d)
    d.void_ = True


cdef int congestion_mark(uint8_t marks) noexcept nogil:
    """What RFC 3168 5.3 makes of the marks of all fragments: CE if one has it, nothing (-1) of those that a sender of
    one datagram cannot have set, as Linux has it; 0: that of the first."""
    if marks & NOT_ECT_SEEN:
        return 0 if marks == NOT_ECT_SEEN else -1
    return ECN_CE if marks & CE_SEEN else 0


cdef mblk *complete(datagram *d, ip_packet *ip) noexcept nogil:
    """All fragments are here: one chain, from the IP header of the first on."""
    cdef inet *net = d.net
    cdef mblk *m = d.first
    cdef mblk *rest = m.next
    cdef mblk *following
    cdef uint32_t total = d.total
    cdef uint32_t most = d.most
    cdef uint8_t version = d.version
    cdef int congested = congestion_mark(d.marks)
    d.head.tos |= congested if congested > 0 else 0
    d.head.broadcast = ip.broadcast or d.head.broadcast
    d.head.ifp = ip.ifp         # that of the first fragment may have been removed since
    ip[0] = d.head
    m.next = NULL
    m.mark = 0
    while rest != NULL:
        following = rest.next
        rest.next = NULL
        linkb(m, rest)
        rest = following
    (<fragments *>net.fragments).held -= d.held
    d.held = 0
    d.first = NULL
    m.rptr -= ip.header_len
    m.pkt_len = d.total + ip.header_len
    m.csum = CSUM_NONE
    m.gso_size = 0
    m.gso_type = GSO_NONE
    m.hdr_len = 0
    forget(d)
    if total > most or congested < 0:
        count(&net.ctx.n, C_IP_FRAG_BAD)        # options on the first fragment only; marks that do not agree
        freemsg(m)
        return NULL
    if version == 4 and writable(m):
        ip4_set_whole(m.rptr, m.pkt_len)
    count(&net.ctx.n, C_IP_FRAG_OK)
    return m


cdef mblk *own(inet *net, mblk *taken) noexcept nogil:
    """Slots of a link's ring must not wait here for half a minute: they are copied (booked)."""
    cdef mblk *m = taken
    cdef mblk *copy
    while m != NULL and not m.dp.flags & DB_LENT:
        m = m.cont
    if m == NULL:
        return taken
    copy = copymsg(net.ctx.mem, taken)
    freemsg(taken)
    if copy == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
    return copy


cdef mblk *fragment_input(inet *net, mblk *taken, const fragment *h, ip_packet *ip) noexcept nogil:
    cdef datagram *d
    cdef int placed
    if not sane(h) or mblk_len(taken) < h.header_len:
        count(&net.ctx.n, C_IP_FRAG_BAD)
        freemsg(taken)
        return NULL
    d = find(net, h)
    if d != NULL and d.void_:
        count(&net.ctx.n, C_IP_FRAG_BAD)
        freemsg(taken)
        return NULL
    taken = own(net, taken)
    if taken == NULL:
        return NULL
    if d == NULL:
        d = begin(net, h)
    if d == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
        freemsg(taken)
        return NULL
    ip.header = taken.rptr
    ip.header_len = h.header_len
    ip.length = h.length
    pkt_pull(taken, h.header_len)
    taken.pkt_len = h.length
    taken.mark = h.offset
    placed = place(d, taken)
    if placed == 0 and not consistent(d, h):
        # Linked in already, and released with the rest.
        placed = -1
    elif placed != 0:
        freemsg(taken)
    if placed < 0:
        overlap(d)
    if placed != 0:
        return NULL
    return account(d, taken, h, ip)


cdef mblk *account(datagram *d, mblk *m, const fragment *h, ip_packet *ip) noexcept nogil:
    cdef inet *net = d.net
    cdef fragments *f = <fragments *>net.fragments
    cdef size_t size = msgtruesize(m)
    d.held += size
    f.held += size
    d.pieces += 1
    d.have += h.length
    d.marks |= 1 << (ip.tos & ECN_CE)
    if not h.more:
        d.total = h.offset + h.length
    if h.offset == 0:
        d.head = ip[0]
        d.most = h.most
    if d.total and d.have == d.total:
        return complete(d, ip)
    if d.pieces >= FRAG_PIECES:
        count(&d.net.ctx.n, C_IP_FRAG_LIMIT)
        release(d)
        d.void_ = True
    while f.oldest != NULL and (f.held > FRAG_BYTES or not arena_may_keep(net.ctx.mem, 0, KEEP_SHARE)):
        count(&net.ctx.n, C_IP_FRAG_LIMIT)
        forget(f.oldest)
    return NULL


# --- out ------------------------------------------------------------------------------------------------------
cdef int fragment_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos) noexcept nogil:
    """Cut a packet (transport header and payload) into fragments; payload is shared, headers are new."""
    cdef ip4_header h
    cdef uint32_t whole = taken.pkt_len
    cdef uint32_t step = (p.mtu - IP4_LEN) & ~<uint32_t>7
    cdef uint32_t offset = 0
    cdef uint32_t n
    cdef int result = 0
    cdef mblk *m
    if taken.csum == CSUM_PARTIAL and offload_checksum(net.ctx, taken) < 0:
        count(&net.ctx.n, C_SW_BAD_GSO)
        freemsg(taken)
        return -ENOBUFS
    memset(&h, 0, sizeof(h))
    h.header_len = IP4_LEN
    h.tos = tos
    h.id = ip4_ids(net, p, proto, 1)
    h.ttl = ttl
    h.proto = proto
    h.src = ip_to4(&p.src)
    h.dst = ip_to4(&p.dst)
    while offset < whole and result == 0:
        n = min(step, whole - offset)
        m = dup_range(net.ctx.mem, taken, offset, n)
        if m == NULL:
            count(&net.ctx.n, C_IP_NOMEM)
            result = -ENOBUFS
            break
        m.pkt_len = n
        m.csum = CSUM_OK
        h.frag_offset = offset
        h.mf = offset + n < whole
        m = ip4_frame(net, m, &h)
        if m == NULL:
            result = -ENOBUFS
            break
        count(&net.ctx.n, C_IP_FRAG_TX)
        result = ip_send(net, p, m)
        offset += n
    freemsg(taken)
    return result
