"""Posted receives: see posted.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_equal, ip_from4, ip_is4, ipaddr
from ustack._core.base.counters cimport C_POSTED_BYTES, C_POSTED_HIT, C_POSTED_MISS, count, count_n, counters
from ustack._core.base.seq cimport seq_t
from ustack._core.mem.mblk cimport dblk, dblk_ref, mblk
from ustack._core.mem.posting cimport posting
from ustack._core.tcp.block cimport TF_TS, has, tcb
from ustack._core.wire.bytes cimport get16
from ustack._core.wire.ether cimport ETHER_IP4, ETHER_IP6, O_TYPE
from ustack._core.wire.ip4 cimport IP4_LEN, ip4_check, ip4_header, ip4_parse
from ustack._core.wire.ip6 cimport IP6_LEN, ip6_check, ip6_header, ip6_parse
from ustack._core.wire.tcp cimport (
    TCP_LEN, TH_ACK, TH_FIN, TH_RST, TH_SYN, TH_URG, tcp_check, tcp_header, tcp_parse)
from ustack._core.zerocopy.direct cimport direct_rescue
from ustack._core.zerocopy.rule cimport posting_rule_make

cdef enum:
    TIMESTAMPS = 12             # the option as stacks send it, with two bytes of padding
    PROTO_TCP = 6


cdef size_t addresses(const uint8_t *p, size_t n, ipaddr *src, ipaddr *dst) noexcept nogil:
    """The length of an IP header with TCP behind it and all of that in the packet; 0: another packet."""
    cdef ip4_header four
    cdef ip6_header six
    if p[0] >> 4 == 4:
        if ip4_check(p, n, n) != 0:
            return 0
        ip4_parse(p, &four)
        if four.header_len != IP4_LEN or four.mf or four.frag_offset or four.proto != PROTO_TCP or four.total_len != n:
            return 0
        src[0] = ip_from4(four.src)
        dst[0] = ip_from4(four.dst)
        return IP4_LEN
    if ip6_check(p, n, n) != 0:
        return 0
    ip6_parse(p, &six)
    if six.next != PROTO_TCP or <size_t>six.payload + IP6_LEN != n:
        return 0
    src[0] = six.src
    dst[0] = six.dst
    return IP6_LEN


cdef bint expected(const posted *p, const uint8_t *head, size_t n, seq_t seq) noexcept nogil:
    """Whether the packet is the segment of the connection that begins at `seq`, with its payload where it was thought
    to begin. All headers that are looked at lie within the first face.header bytes, of which n has more."""
    cdef const flow *key = &p.key
    cdef tcp_header h
    cdef ipaddr src, dst
    cdef size_t ip
    if n <= p.face.header:
        return False
    if p.link_header and get16(head + O_TYPE) != (ETHER_IP4 if ip_is4(&key.raddr) else ETHER_IP6):
        return False
    head += p.link_header
    n -= p.link_header
    ip = addresses(head, n, &src, &dst)
    if ip == 0 or p.face.header < p.link_header + ip + TCP_LEN:
        return False
    if tcp_check(head + ip, p.face.header - p.link_header - ip) < 0:
        return False
    tcp_parse(head + ip, &h)
    return (h.data_offset == p.face.header - p.link_header - ip and h.seq == seq
            and h.flags & (TH_SYN | TH_FIN | TH_RST | TH_URG | TH_ACK) == TH_ACK
            and h.sport == key.rport and h.dport == key.lport
            and ip_equal(&src, &key.raddr) and ip_equal(&dst, &key.laddr))


cdef dblk *claim(posting *face, const uint8_t *head, size_t n, const uint8_t *where) noexcept nogil:
    cdef posted *p = <posted *>face
    cdef size_t payload, here
    if face.room == 0 or where < face.base or where >= face.base + face.room:
        return NULL
    if not expected(p, head, n, p.origin + <uint32_t>(where - p.start)):
        return NULL
    payload = n - face.header
    here = face.base + face.room - where
    if payload > here:
        face.room = 0           # what follows does not belong here
    else:
        here = payload
        face.room -= (where - face.base) + here
    face.base = <uint8_t *>where + here
    count(p.n, C_POSTED_HIT)
    count_n(p.n, C_POSTED_BYTES, here)
    dblk_ref(p.whole.dp)
    return p.whole.dp


cdef void missed(posting *face) noexcept nogil:
    count((<posted *>face).n, C_POSTED_MISS)


cdef void posted_open(posted *p, tcb *c, mblk *whole, uint8_t link_header, counters *n) noexcept nogil:
    memset(p, 0, sizeof(posted))
    p.face.claim = claim
    p.face.missed = missed
    p.key = c.link.key
    p.whole = whole
    p.start = whole.dp.base
    p.length = whole.dp.lim - whole.dp.base
    p.origin = c.rcv_nxt
    p.link_header = link_header
    p.n = n
    p.face.header = link_header + TCP_LEN + (IP4_LEN if ip_is4(&c.link.key.raddr) else IP6_LEN)
    p.face.header += TIMESTAMPS if has(c, TF_TS) else 0
    posting_rule_make(&p.face.rule, &p.key, link_header, p.face.header, p.origin)
    posted_resume(p, c)


cdef void posted_resume(posted *p, const tcb *c) noexcept nogil:
    cdef seq_t at
    if c.rq_len or c.ooo.n:
        return                  # bytes that lie in their place already must not be written over
    at = c.rcv_nxt - p.origin
    if at >= p.length:
        p.face.room = 0
        return
    p.face.base = p.start + at
    p.face.room = p.length - at


cdef int posted_rescue(tcb *c, mblk *whole) noexcept nogil:
    cdef mblk *m
    cdef uint16_t k
    cdef int r = direct_rescue(c.home.ctx.mem, &c.home.ctx.book, c.rq_head, whole.dp)
    for k in range(c.ooo.n):
        m = c.ooo.v[k].head
        while m != NULL and r == 0:
            r = direct_rescue(c.home.ctx.mem, &c.home.ctx.book, m, whole.dp)
            m = m.next
    return r
