"""Checksums, segmentation and coalescing in software: see offload.pxd.

What depends on the version of IP is in ``layout``, and in ``set_length``.
"""

from libc.errno cimport E2BIG, EINVAL, ENOBUFS
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from ustack._core.base.addr cimport ip_equal, ip_from4, ipaddr
from ustack._core.base.checksum cimport csum_add, csum_block_add, csum_finish, csum_fold, csum_partial
from ustack._core.base.codes cimport (CSUM_NONE, CSUM_OK, CSUM_PARTIAL, GSO_TCP4, GSO_TCP6, GSO_UDP, IPPROTO_TCP_,
                                      IPPROTO_UDP_)
from ustack._core.base.counters cimport C_SW_COALESCE, C_SW_CSUM, C_SW_SEGMENT, count
from ustack._core.base.ledger cimport LR_COPYB, LR_CSUM_RX, LR_CSUM_TX, LR_FLATTEN
from ustack._core.inet.inet cimport ip_pseudo
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport (HEADER_SIZE, HEADROOM, alloc_header, allocb, dup_range, freemsg, linkb, mblk,
                                    mblk_len, msgconsume, msgcopyout, msgcsum, pullupmsg, writable)
from ustack._core.wire.bytes cimport ip_version, put_sum
from ustack._core.wire.ip4 cimport (IP4_LEN, IP4_MAX, IP4_MAX_HEADER, IP4_OK, ip4_check, ip4_header, ip4_id,
                                    ip4_parse, ip4_set_length, ip4_total)
from ustack._core.wire.ip6 cimport IP6_LEN, IP6_OK, ip6_check, ip6_header, ip6_parse, ip6_set_payload
from ustack._core.wire.tcp cimport (TCP_MAX_HEADER, TCP_SUM, TH_ACK, TH_CWR, TH_FIN, TH_PSH, tcp_check, tcp_flags,
                                    tcp_header_len, tcp_same_but_seq, tcp_seq, tcp_set_flags, tcp_set_segment)
from ustack._core.wire.udp cimport UDP_LEN, UDP_SUM, udp_set_length

cdef enum:
    MAX_LINK_HEADER = 64
    MAX_HEADERS = MAX_LINK_HEADER + IP4_MAX_HEADER + TCP_MAX_HEADER
    FLOWS = 8                   # flows of one burst that are joined at a time

# What a packet is, and where its parts are, from its first byte on.
cdef struct layout:
    ipaddr src
    ipaddr dst
    uint8_t version
    uint8_t proto
    uint8_t tos
    uint8_t ttl
    bint df
    uint32_t label              # IPv6: flow label
    uint32_t l4
    uint32_t payload            # offset of it
    uint32_t length             # of the payload
    uint16_t sum                # offset of the checksum in the transport header


# --- front ----------------------------------------------------------------------------------------------------
cdef mblk *header_block(context *ctx, size_t n) noexcept nogil:
    """An empty block with HEADROOM in front of room for n bytes."""
    cdef mblk *m
    if n <= HEADER_SIZE - HEADROOM:
        return alloc_header(ctx.mem)
    m = allocb(ctx.mem, HEADROOM + n)
    if m != NULL:
        m.rptr += HEADROOM
        m.wptr = m.rptr
    return m


cdef bint own_front(context *ctx, mblk *m, size_t n) noexcept nogil:
    """See to it that the first n bytes lie together in storage that is m's alone. Copies them at most."""
    cdef mblk *fresh
    cdef size_t got
    if mblk_len(m) < n and not pullupmsg(ctx.mem, m, n):
        return False
    if writable(m):
        return True
    fresh = header_block(ctx, n)
    if fresh == NULL:
        return False
    got = msgcopyout(&ctx.book, LR_COPYB, m, 0, fresh.rptr, n)
    fresh.wptr = fresh.rptr + got
    # m has to stay the head: it takes the new storage, and the new block the rest of the old window.
    fresh.dp, m.dp = m.dp, fresh.dp
    fresh.rptr, m.rptr = m.rptr + got, fresh.rptr
    fresh.wptr, m.wptr = m.wptr, fresh.wptr
    fresh.cont = m.cont
    m.cont = fresh
    return True


# --- checksum -------------------------------------------------------------------------------------------------
cdef inline size_t header_length(const uint8_t *p, uint16_t csum_offset) noexcept nogil:
    if csum_offset == TCP_SUM:
        return tcp_header_len(p)
    return UDP_LEN if csum_offset == UDP_SUM else 0


cdef int offload_checksum(context *ctx, mblk *pkt) noexcept nogil:
    cdef size_t field = <size_t>pkt.csum_start + pkt.csum_offset
    cdef size_t head
    cdef uint32_t partial = 0
    cdef uint16_t sum
    if pkt.csum != CSUM_PARTIAL:
        return 0
    if field + 2 > pkt.pkt_len or field + 2 > MAX_HEADERS:
        return -EINVAL
    if not own_front(ctx, pkt, field + 2):
        return -EINVAL
    # Headers are not payload: they are not booked.
    head = header_length(pkt.rptr + pkt.csum_start, pkt.csum_offset)
    if head > mblk_len(pkt) - pkt.csum_start:
        head = 0
    partial = csum_partial(pkt.rptr + pkt.csum_start, head)
    partial = csum_block_add(partial, msgcsum(&ctx.book, LR_CSUM_TX, pkt, pkt.csum_start + head,
                                              pkt.pkt_len - pkt.csum_start - head), head)
    sum = csum_finish(partial)
    if sum == 0 and pkt.csum_offset == UDP_SUM:
        sum = 0xFFFF            # 0 would say that there is none
    put_sum(pkt.rptr + field, sum)
    pkt.csum = CSUM_OK
    count(&ctx.n, C_SW_CSUM)
    return 0


# --- segmentation ---------------------------------------------------------------------------------------------
cdef int read_ip4(const uint8_t *p, size_t n, size_t packet, layout *at) noexcept nogil:
    """The length of the header; -1 if this is not a whole packet."""
    cdef ip4_header h
    if ip4_check(p, n, packet) != IP4_OK:
        return -1
    ip4_parse(p, &h)
    if ip4_total(p, packet) != packet or h.mf or h.frag_offset:
        return -1
    at.src = ip_from4(h.src)
    at.dst = ip_from4(h.dst)
    at.proto = h.proto
    at.tos = h.tos
    at.ttl = h.ttl
    at.df = h.df
    at.label = 0
    return h.header_len


cdef int read_ip6(const uint8_t *p, size_t n, size_t packet, layout *at) noexcept nogil:
    """The same; packets with extension headers travel as they are."""
    cdef ip6_header h
    if ip6_check(p, n, packet) != IP6_OK:
        return -1
    ip6_parse(p, &h)
    if <size_t>h.payload + IP6_LEN != packet:
        return -1
    at.src = h.src
    at.dst = h.dst
    at.proto = h.next
    at.tos = h.tclass
    at.ttl = h.hops
    at.df = True
    at.label = h.label
    return IP6_LEN


cdef int read_layout(const uint8_t *headers, size_t n, size_t packet, int l3, layout *at) noexcept nogil:
    """From n copied bytes of headers; -1 if this is not a whole TCP or UDP packet."""
    cdef const uint8_t *l4
    cdef int header
    if n < <size_t>l3 + IP4_LEN:
        return -1
    at.version = ip_version(headers + l3)
    if at.version == 6:
        header = read_ip6(headers + l3, n - l3, packet - l3, at)
    else:
        header = read_ip4(headers + l3, n - l3, packet - l3, at)
    if header < 0:
        return -1
    at.l4 = l3 + header
    l4 = headers + at.l4
    if at.proto == IPPROTO_TCP_:
        if tcp_check(l4, n - at.l4) < 0:
            return -1
        at.payload = at.l4 + tcp_header_len(l4)
        at.sum = TCP_SUM
    elif at.proto == IPPROTO_UDP_ and n >= at.l4 + UDP_LEN:
        at.payload = at.l4 + UDP_LEN
        at.sum = UDP_SUM
    else:
        return -1
    at.length = packet - at.payload
    return 0


cdef inline uint8_t gso_of(const layout *at) noexcept nogil:
    if at.proto == IPPROTO_UDP_:
        return GSO_UDP
    return GSO_TCP4 if at.version == 4 else GSO_TCP6


cdef inline void set_length(uint8_t *p, const layout *at, uint32_t length, int later) noexcept nogil:
    """Give an IP header another length, its own included, and (IPv4) a later identification."""
    if at.version == 4:
        ip4_set_length(p, length, ip4_id(p) + later)
    else:
        ip6_set_payload(p, length - IP6_LEN)


cdef int segments_of(const mblk *pkt, int l3, uint8_t *headers, layout *at) noexcept nogil:
    cdef size_t n
    if l3 < 0 or l3 > MAX_LINK_HEADER:
        return -EINVAL
    n = msgcopyout(NULL, LR_COPYB, pkt, 0, headers, min(<size_t>pkt.pkt_len, <size_t>MAX_HEADERS))
    if read_layout(headers, n, pkt.pkt_len, l3, at) < 0:
        return -EINVAL
    if pkt.gso_size == 0:
        return 1
    if pkt.gso_type != gso_of(at):
        return -EINVAL
    return (at.length + pkt.gso_size - 1) // pkt.gso_size if at.length else 1


cdef int offload_count(const mblk *pkt, int l3) noexcept nogil:
    cdef uint8_t headers[MAX_HEADERS]
    cdef layout at
    cdef int n = segments_of(pkt, l3, headers, &at)
    return n if n > 0 else 1


cdef void patch(uint8_t *p, int l3, const layout *at, int i, bint last, uint32_t offset, uint32_t n) noexcept nogil:
    """Turn the copied headers of the whole into those of segment i; the checksum field becomes 0."""
    cdef uint8_t *l4 = p + at.l4
    cdef uint8_t flags
    set_length(p + l3, at, at.payload - l3 + n, i)
    if at.proto == IPPROTO_TCP_:
        flags = tcp_flags(l4)
        if not last:
            flags &= ~(TH_FIN | TH_PSH)
        if i > 0:
            flags &= ~TH_CWR    # RFC 3168 6.1.2: once for a window
        tcp_set_segment(l4, tcp_seq(l4) + offset, flags)
    else:
        udp_set_length(l4, UDP_LEN + n)
    put_sum(l4 + at.sum, 0)


cdef mblk *segment(context *ctx, mblk *pkt, const uint8_t *headers, int l3, const layout *at, int i,
                   bint keep_partial) noexcept nogil:
    """Wire packet i of a super-segment."""
    cdef uint32_t offset = <uint32_t>i * pkt.gso_size
    cdef uint32_t n = min(at.length - offset, <uint32_t>pkt.gso_size)
    cdef uint32_t sum = ip_pseudo(&at.src, &at.dst, at.proto, at.payload - at.l4 + n)
    cdef mblk *m = header_block(ctx, at.payload)
    cdef mblk *data = NULL
    if m == NULL:
        return NULL
    memcpy(m.rptr, headers, at.payload)
    m.wptr = m.rptr + at.payload
    m.pkt_len = at.payload + n
    m.hdr_len = at.payload
    m.stamp = pkt.stamp
    m.mark = pkt.mark
    patch(m.rptr, l3, at, i, offset + n == at.length, offset, n)
    if n:
        data = dup_range(ctx.mem, pkt, at.payload + offset, n)
        if data == NULL:
            freemsg(m)
            return NULL
        linkb(m, data)
    if keep_partial:
        m.csum = CSUM_PARTIAL
        m.csum_start = at.l4
        m.csum_offset = at.sum
        put_sum(m.rptr + at.l4 + at.sum, csum_fold(sum))
    else:
        complete(ctx, pkt, m, at, offset, n, sum)
    return m


cdef void complete(context *ctx, const mblk *pkt, mblk *m, const layout *at, uint32_t offset, uint32_t n,
                   uint32_t pseudo) noexcept nogil:
    """Payload is summed where it lies in the whole, so that sums kept on its blocks are of use. Transport headers
    have an even length: halves add without swapping."""
    cdef uint16_t sum
    pseudo = csum_add(pseudo, csum_partial(m.rptr + at.l4, at.payload - at.l4))
    if n:
        pseudo = csum_add(pseudo, csum_fold(msgcsum(&ctx.book, LR_CSUM_TX, pkt, at.payload + offset, n)))
    sum = csum_finish(pseudo)
    if sum == 0 and at.sum == UDP_SUM:
        sum = 0xFFFF
    put_sum(m.rptr + at.l4 + at.sum, sum)
    m.csum = CSUM_OK


cdef int offload_segment(context *ctx, mblk *pkt, int l3, mblk **out, int max, bint keep_partial) noexcept nogil:
    cdef uint8_t headers[MAX_HEADERS]
    cdef layout at
    cdef int i
    cdef int n = segments_of(pkt, l3, headers, &at)
    if n < 0:
        return n
    if n > max:
        return -E2BIG
    if pkt.gso_size == 0:
        if not keep_partial and offload_checksum(ctx, pkt) < 0:
            return -EINVAL
        out[0] = pkt
        return 1
    for i in range(n):
        out[i] = segment(ctx, pkt, headers, l3, &at, i, keep_partial)
        if out[i] == NULL:
            while i > 0:
                i -= 1
                freemsg(out[i])
            return -ENOBUFS
    count(&ctx.n, C_SW_SEGMENT)
    freemsg(pkt)
    return n


cdef mblk *offload_flatten(context *ctx, mblk *taken) noexcept nogil:
    """NULL without memory; the chain is freed either way."""
    cdef mblk *m = allocb(ctx.mem, HEADROOM + taken.pkt_len)
    if m != NULL:
        m.rptr += HEADROOM
        m.wptr = m.rptr + msgcopyout(&ctx.book, LR_FLATTEN, taken, 0, m.rptr, taken.pkt_len)
        m.pkt_len = taken.pkt_len
        m.gso_size = taken.gso_size
        m.gso_type = taken.gso_type
        m.csum = taken.csum
        m.csum_start = taken.csum_start
        m.csum_offset = taken.csum_offset
        m.segs = taken.segs
        m.hdr_len = taken.hdr_len
        m.mark = taken.mark
        m.stamp = taken.stamp
    freemsg(taken)
    return m


# --- coalescing -----------------------------------------------------------------------------------------------
# A packet that others may be joined to.
cdef struct run:
    mblk *head
    mblk *tail                  # last block
    layout at                   # of the first packet
    uint32_t next_seq


cdef bint same_flow(const run *r, const mblk *m, const layout *at) noexcept nogil:
    return (ip_equal(&r.at.src, &at.src) and ip_equal(&r.at.dst, &at.dst)
            and memcmp(r.head.rptr + r.at.l4, m.rptr + at.l4, 4) == 0)


cdef bint verified(context *ctx, mblk *m, const layout *at) noexcept nogil:
    cdef uint32_t sum
    if m.csum == CSUM_NONE:
        sum = ip_pseudo(&at.src, &at.dst, IPPROTO_TCP_, m.pkt_len - at.l4)
        sum = csum_add(sum, csum_fold(msgcsum(&ctx.book, LR_CSUM_RX, m, at.l4, m.pkt_len - at.l4)))
        if csum_fold(sum) != 0xFFFF:
            return False
    m.csum = CSUM_OK
    return True


cdef bint read_tcp(mblk *m, int l3, layout *at) noexcept nogil:
    """Whether it is a TCP packet with its headers in the first block, without IP options."""
    if m.gso_size or read_layout(m.rptr, mblk_len(m), m.pkt_len, l3, at) < 0:
        return False
    return (at.proto == IPPROTO_TCP_ and at.l4 == <uint32_t>l3 + (IP4_LEN if at.version == 4 else IP6_LEN)
            and mblk_len(m) >= at.payload)


cdef inline bint plain_data(const mblk *m, const layout *at) noexcept nogil:
    return at.length > 0 and (tcp_flags(m.rptr + at.l4) & ~TH_PSH) == TH_ACK


cdef bint fits(const run *r, const mblk *m, const layout *at) noexcept nogil:
    cdef size_t header_len = at.payload - at.l4
    return (tcp_seq(m.rptr + at.l4) == r.next_seq
            and at.payload == r.at.payload and at.length <= r.at.length
            and at.tos == r.at.tos and at.ttl == r.at.ttl and at.df == r.at.df and at.label == r.at.label
            and r.head.pkt_len + at.length <= IP4_MAX
            and tcp_same_but_seq(r.head.rptr + at.l4, m.rptr + at.l4, header_len))


cdef mblk *last_block(mblk *m) noexcept nogil:
    while m.cont != NULL:
        m = m.cont
    return m


cdef void join(context *ctx, run *r, mblk *taken, const layout *at, int l3) noexcept nogil:
    cdef uint8_t *p = r.head.rptr
    cdef bint push = tcp_flags(taken.rptr + at.l4) & TH_PSH
    cdef mblk *data = msgconsume(taken, at.payload)
    r.tail.cont = data
    r.tail = last_block(data)
    r.head.pkt_len += at.length
    r.head.gso_size = r.at.length
    r.head.gso_type = gso_of(at)
    r.head.segs = (r.head.segs if r.head.segs else 1) + 1
    r.next_seq += at.length
    set_length(p + l3, at, r.head.pkt_len - l3, 0)
    if push:
        tcp_set_flags(p + at.l4, tcp_flags(p + at.l4) | TH_PSH)
    count(&ctx.n, C_SW_COALESCE)


cdef void open_run(run *runs, int *nruns, mblk *m, const layout *at) noexcept nogil:
    """The oldest run makes room."""
    if nruns[0] == FLOWS:
        nruns[0] -= 1
        memcpy(&runs[0], &runs[FLOWS - 1], sizeof(run))
    runs[nruns[0]].head = m
    runs[nruns[0]].tail = last_block(m)
    runs[nruns[0]].at = at[0]
    runs[nruns[0]].next_seq = tcp_seq(m.rptr + at.l4) + at.length
    nruns[0] += 1


cdef bint take(context *ctx, run *runs, int *nruns, mblk *m, int l3) noexcept nogil:
    """Join m to a run (then it is gone: True), or begin one with it, or end the run that it follows."""
    cdef layout at
    cdef int i
    cdef bint data
    if not read_tcp(m, l3, &at):
        return False
    data = plain_data(m, &at) and verified(ctx, m, &at)
    for i in range(nruns[0]):
        if same_flow(&runs[i], m, &at):
            break
    else:
        i = -1
    if i >= 0:
        if data and fits(&runs[i], m, &at):
            data = at.length == runs[i].at.length and not tcp_flags(m.rptr + at.l4) & TH_PSH
            join(ctx, &runs[i], m, &at, l3)
            if not data:        # a short or pushed one is the last of its run
                nruns[0] -= 1
                runs[i] = runs[nruns[0]]
            return True
        nruns[0] -= 1
        runs[i] = runs[nruns[0]]
    if data and writable(m) and not tcp_flags(m.rptr + at.l4) & TH_PSH:
        open_run(runs, nruns, m, &at)
    return False


cdef int offload_coalesce(context *ctx, mblk **pkts, int n, int l3) noexcept nogil:
    cdef run runs[FLOWS]
    cdef int nruns = 0
    cdef int kept = 0
    cdef int i
    if n < 2:
        return n
    for i in range(n):
        if not take(ctx, runs, &nruns, pkts[i], l3):
            pkts[kept] = pkts[i]
            kept += 1
    return kept
