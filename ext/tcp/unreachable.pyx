"""ICMP errors about our segments: see unreachable.pxd."""

from libc.errno cimport EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENOPROTOOPT
from libc.stdint cimport uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow
from ustack._core.base.counters cimport C_TCP_ICMP_HARD, C_TCP_ICMP_IGNORED, C_TCP_PMTU, count
from ustack._core.base.seq cimport seq_geq, seq_lt
from ustack._core.inet.demux cimport flow_entry, flow_find
from ustack._core.inet.inet cimport (
    ICMP_ERR_ADMIN, ICMP_ERR_HOST, ICMP_ERR_NET, ICMP_ERR_POLICY, ICMP_ERR_PORT, ICMP_ERR_PROTO, ICMP_ERR_TOO_BIG,
    ICMP_ERR_TTL, ip_error,
)
from ustack._core.inet.pmtu cimport pmtu_learn
from ustack._core.tcp.block cimport TF_PATH, flight, has, tcb
from ustack._core.tcp.close cimport conn_end
from ustack._core.tcp.recovery cimport recovery_resend_all
from ustack._core.tcp.segment cimport seg_sizes
from ustack._core.tcp.tcp cimport TCPS_SYN_RECEIVED, TCPS_SYN_SENT, tcp

cdef enum:
    PMTU_MIN = 552              # Linux's: less is not believed
    PMTU_UNKNOWN = 576          # from a router that does not say (RFC 1191 5)


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


cdef int errno_of(int kind) noexcept nogil:
    if kind == ICMP_ERR_NET:
        return ENETUNREACH
    if kind == ICMP_ERR_PROTO:
        return ENOPROTOOPT
    if kind == ICMP_ERR_PORT:
        return ECONNREFUSED
    if kind == ICMP_ERR_POLICY:
        return EACCES
    if kind in (ICMP_ERR_HOST, ICMP_ERR_ADMIN, ICMP_ERR_TTL):
        return EHOSTUNREACH
    return 0


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
    error = errno_of(e.kind)
    # A connection that works is not ended by anybody's say-so (RFC 5927 5.2): only one that is being opened. What was
    # said is remembered: should the connection time out, that is the reason to tell (RFC 1122 4.2.3.9).
    if error == 0 or c.state not in (TCPS_SYN_SENT, TCPS_SYN_RECEIVED):
        if error:
            c.error_soft = error
        count(&t.ctx.n, C_TCP_ICMP_IGNORED)
        return
    count(&t.ctx.n, C_TCP_ICMP_HARD)
    conn_end(c, error)


cdef void too_big(tcb *c, uint32_t mtu) noexcept nogil:
    cdef tcp *t = c.home
    if mtu == 0:
        mtu = PMTU_UNKNOWN
    if mtu < PMTU_MIN:
        mtu = PMTU_MIN
    if not has(c, TF_PATH) or mtu >= c.way.mtu:
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
