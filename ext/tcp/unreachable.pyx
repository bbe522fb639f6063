"""ICMP errors about our segments: see unreachable.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_is4
from ustack._core.base.counters cimport C_TCP_ICMP_HARD, C_TCP_ICMP_IGNORED, C_TCP_PMTU, count
from ustack._core.base.seq cimport seq_geq, seq_lt
from ustack._core.inet.demux cimport flow_entry, flow_find
from ustack._core.inet.inet cimport ICMP_ERR_TOO_BIG, ip_error
from ustack._core.inet.pmtu cimport pmtu_learn
from ustack._core.inet.verdict cimport icmp_verdict
from ustack._core.tcp.block cimport TF_PATH, TF_TS, flight, has, tcb
from ustack._core.tcp.close cimport conn_end
from ustack._core.tcp.recovery cimport recovery_resend_all
from ustack._core.tcp.segment cimport seg_sizes
from ustack._core.tcp.tcp cimport TCPS_SYN_RECEIVED, TCPS_SYN_SENT, tcp
from ustack._core.wire.ip4 cimport IP4_LEN
from ustack._core.wire.ip6 cimport IP6_LEN
from ustack._core.wire.tcp cimport TCP_LEN

cdef enum:
    PMTU_MIN = 552              # Linux's: less is not believed
    PMTU_UNKNOWN = 576          # from a router that does not say (RFC 1191 5)
    MAX_OPTIONS = 40
    TS_OPTION = 12


cdef tcb *find(tcp *t, const ip_error *e) noexcept nogil:
    """The connection that is meant, if the quoted number is one of ours that is in flight (RFC 5927 4.1)."""
    cdef flow key
    cdef flow_entry *entry
    cdef tcb *c
    memset(&key, 0, sizeof(flow))
    key.laddr = e.src
    key.raddr = e.dst
    key.lport = e.sport
    key.rport = e.dport
    entry = flow_find(&t.conns, &key)
    if entry == NULL:
        return NULL
    c = <tcb *>entry.owner
    return c if seq_geq(e.seq, c.snd_una) and seq_lt(e.seq, c.snd_nxt) else NULL


cdef void tcp_error(void *proto, const ip_error *e) noexcept nogil:
    cdef tcp *t = <tcp *>proto
    cdef tcb *c = find(t, e)
    cdef int error
    if c == NULL:
        count(&t.ctx.n, C_TCP_ICMP_IGNORED)
        return
    if e.kind == ICMP_ERR_TOO_BIG:
        too_big(c, e.mtu)
        return
    error = icmp_verdict(e)
    # A connection that works is not ended by anybody's say-so (RFC 5927 5.2): only one that is being opened. What was
    # said is remembered: should the connection time out, that is the reason to tell (RFC 1122 4.2.3.9).
    if c.state not in (TCPS_SYN_SENT, TCPS_SYN_RECEIVED):
        c.error_soft = error
        count(&t.ctx.n, C_TCP_ICMP_IGNORED)
        return
    count(&t.ctx.n, C_TCP_ICMP_HARD)
    conn_end(c, error)


cdef uint32_t largest_in_flight(const tcb *c) noexcept nogil:
    """Bytes of the largest packet that may be meant: none larger was sent (RFC 5927 7.2)."""
    cdef uint32_t header = (IP4_LEN if ip_is4(&c.link.key.raddr) else IP6_LEN) + TCP_LEN
    cdef uint32_t n = flight(c)
    if c.state in (TCPS_SYN_SENT, TCPS_SYN_RECEIVED):
        return header + MAX_OPTIONS
    return header + (TS_OPTION if has(c, TF_TS) else 0) + (n if n < c.snd_mss else c.snd_mss)


cdef void too_big(tcb *c, uint32_t mtu) noexcept nogil:
    cdef tcp *t = c.home
    if mtu == 0:
        mtu = PMTU_UNKNOWN
    if mtu < PMTU_MIN:
        mtu = PMTU_MIN
    if not has(c, TF_PATH) or mtu >= c.way.mtu or mtu >= largest_in_flight(c):
        count(&t.ctx.n, C_TCP_ICMP_IGNORED)
        return
    count(&t.ctx.n, C_TCP_PMTU)
    pmtu_learn(t.net, &c.way.dst, mtu)
    if c.way.gso_max <= c.way.mtu:
        c.way.gso_max = mtu
    c.way.mtu = mtu
    seg_sizes(c)
    if flight(c) and c.state not in (TCPS_SYN_SENT, TCPS_SYN_RECEIVED):
        # What is in flight was dropped for its size, which says nothing about congestion.
        recovery_resend_all(c)
