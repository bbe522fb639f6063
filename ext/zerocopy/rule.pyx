"""The rule of a posted receive: see rule.pxd."""

from libc.stddef cimport size_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_is4, ip_to4
from ustack._core.base.codes cimport IPPROTO_TCP_
from ustack._core.base.seq cimport seq_t
from ustack._core.mem.posting cimport posting_rule
from ustack._core.wire.bytes cimport put16
from ustack._core.wire.ether cimport ETHER_IP4, ETHER_IP6, O_TYPE
from ustack._core.wire.ip4 cimport IP4_LEN, IP4_MF, IP4_OFFSET_MASK, ip4_emit, ip4_header
from ustack._core.wire.ip4 cimport O_DST as IP4_DST
from ustack._core.wire.ip4 cimport O_FRAG as IP4_FRAG
from ustack._core.wire.ip4 cimport O_PROTO as IP4_PROTO
from ustack._core.wire.ip4 cimport O_SRC as IP4_SRC
from ustack._core.wire.ip6 cimport IP6_LEN, IP6_NEXT, ip6_emit, ip6_header
from ustack._core.wire.ip6 cimport O_DST as IP6_DST
from ustack._core.wire.ip6 cimport O_SRC as IP6_SRC
from ustack._core.wire.tcp cimport (
    O_DPORT, O_FLAGS, O_OFFSET, O_SEQ, O_SPORT, TH_ACK, TH_FIN, TH_RST, TH_SYN, TH_URG, tcp_emit_header, tcp_header)

cdef enum:
    VERSION = 0xF0              # of the first byte of an IP header
    OFFSET = 0xF0               # of the byte with TCP's


cdef size_t rule_ip4(posting_rule *r, const flow *key, size_t at) noexcept nogil:
    cdef ip4_header h
    memset(&h, 0, sizeof(h))
    h.header_len = IP4_LEN
    h.proto = IPPROTO_TCP_
    h.src = ip_to4(&key.raddr)
    h.dst = ip_to4(&key.laddr)
    ip4_emit(r.value + at, &h)
    r.flow[at + IP4_PROTO] = 0xFF
    memset(r.flow + at + IP4_SRC, 0xFF, 4)
    memset(r.flow + at + IP4_DST, 0xFF, 4)
    r.form[at] = 0xFF           # version and length
    put16(r.form + at + IP4_FRAG, IP4_MF | IP4_OFFSET_MASK)
    return IP4_LEN


cdef size_t rule_ip6(posting_rule *r, const flow *key, size_t at) noexcept nogil:
    cdef ip6_header h
    memset(&h, 0, sizeof(h))
    h.next = IPPROTO_TCP_
    h.src = key.raddr
    h.dst = key.laddr
    ip6_emit(r.value + at, &h)
    r.flow[at + IP6_NEXT] = 0xFF
    memset(r.flow + at + IP6_SRC, 0xFF, 16)
    memset(r.flow + at + IP6_DST, 0xFF, 16)
    r.form[at] = VERSION
    return IP6_LEN


cdef void posting_rule_make(posting_rule *r, const flow *key, size_t link_header, size_t header,
                            seq_t origin) noexcept nogil:
    cdef bint four = ip_is4(&key.raddr)
    cdef tcp_header h
    cdef size_t at = link_header
    memset(r, 0, sizeof(posting_rule))
    memset(&h, 0, sizeof(h))
    if link_header:
        put16(r.value + O_TYPE, ETHER_IP4 if four else ETHER_IP6)
        put16(r.form + O_TYPE, 0xFFFF)
    at += rule_ip4(r, key, at) if four else rule_ip6(r, key, at)
    h.sport = key.rport
    h.dport = key.lport
    h.data_offset = header - at
    h.flags = TH_ACK
    tcp_emit_header(r.value + at, &h)
    memset(r.flow + at + O_SPORT, 0xFF, 2)
    memset(r.flow + at + O_DPORT, 0xFF, 2)
    r.form[at + O_OFFSET] = OFFSET
    r.form[at + O_FLAGS] = TH_SYN | TH_FIN | TH_RST | TH_URG | TH_ACK
    r.origin = origin
    r.number_at = at + O_SEQ
    r.header = header
