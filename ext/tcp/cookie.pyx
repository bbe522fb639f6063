"""SYN cookies: see cookie.pxd."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow
from ustack._core.base.counters cimport C_TCP_COOKIE_BAD, C_TCP_COOKIE_OK, C_TCP_COOKIE_SENT, count
from ustack._core.base.rng cimport flow_hash
from ustack._core.base.seq cimport seq_t
from ustack._core.base.types cimport NS_SEC
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.isn cimport SALT_COOKIE, SALT_COOKIE_DATA, ts_offset_of
from ustack._core.tcp.rtt cimport TS_TICK_NS
from ustack._core.tcp.segment cimport seg_reply
from ustack._core.tcp.tcp cimport TCP_COOKIES_ALWAYS, TCP_COOKIES_NEVER, tcp
from ustack._core.tcp.window cimport rcv_scale
from ustack._core.wire.tcp cimport TH_ACK, TH_SYN, tcp_clear_options, tcp_header, tcp_options

cdef enum:
    DATA_MASK = 0xFFFFFF
    AGE_MAX = 2                 # minutes
    TS_BITS = 63
    TS_SCALE = 15               # all of it: no window scale
    TS_SACK = 16
    TS_UNUSED = 32
    SIZES = 8


# The sizes that a cookie can tell: from the default to what fits Ethernet, jumbo frames, and a whole packet.
cdef extern from *:
    """
    static const unsigned short cookie_mss[8] = {536, 1220, 1300, 1440, 1460, 4312, 8960, 65495};
    """
    const uint16_t cookie_mss[8]


cdef uint32_t index_of(uint16_t mss) noexcept nogil:
    """The largest that is no more than the peer takes; for one that says nothing, or less, the default."""
    cdef uint32_t i = SIZES - 1
    while i and cookie_mss[i] > mss:
        i -= 1
    return i


cdef flow flow_of(const arrival *s) noexcept nogil:
    cdef flow key
    memset(&key, 0, sizeof(flow))
    key.laddr = s.ip.dst
    key.raddr = s.ip.src
    key.lport = s.h.dport
    key.rport = s.h.sport
    return key


# --- the number ---------------------------------------------------------------------------------------------------
cdef uint32_t minute(const tcp *t) noexcept nogil:
    return <uint32_t>(t.ctx.now // (60 * NS_SEC))


cdef uint32_t base_of(const tcp *t, const flow *key, seq_t irs) noexcept nogil:
    return <uint32_t>flow_hash(t.secret, key, SALT_COOKIE) + irs


cdef uint32_t mask_of(const tcp *t, const flow *key, uint32_t when) noexcept nogil:
    return <uint32_t>flow_hash(t.secret, key, SALT_COOKIE_DATA | <uint64_t>when << 8)


cdef seq_t bake(const tcp *t, const flow *key, seq_t irs, uint32_t data) noexcept nogil:
    cdef uint32_t when = minute(t)
    return base_of(t, key, irs) + (when << 24) + ((mask_of(t, key, when) + data) & DATA_MASK)


cdef int taste(const tcp *t, const flow *key, seq_t irs, seq_t cookie) noexcept nogil:
    """The data of a cookie; -1: it is none of ours, or too old."""
    cdef uint32_t now = minute(t)
    cdef uint32_t inner = cookie - base_of(t, key, irs)
    cdef uint32_t age = (now - (inner >> 24)) & 0xFF
    cdef uint32_t data
    if age >= AGE_MAX:
        return -1
    data = (inner - mask_of(t, key, now - age)) & DATA_MASK
    return <int>data if data < SIZES else -1


# --- the timestamp ------------------------------------------------------------------------------------------------
cdef uint32_t stamp(const tcp *t, const flow *key, const tcp_options *o) noexcept nogil:
    """Now or a little earlier: never more than what comes after the handshake."""
    cdef uint32_t ticks = <uint32_t>(t.ctx.now // TS_TICK_NS)
    cdef uint32_t bits = (<uint32_t>o.wscale if o.wscale >= 0 else TS_SCALE) | (TS_SACK if o.sack_permitted else 0)
    cdef uint32_t value = ticks & ~<uint32_t>TS_BITS | bits
    if value > ticks:
        value -= TS_BITS + 1
    return value + ts_offset_of(t, key)


cdef bint unstamp(const tcp *t, const flow *key, const arrival *s, tcp_options *o) noexcept nogil:
    cdef uint32_t bits
    if not s.o.has_ts:
        return True
    bits = (s.o.tsecr - ts_offset_of(t, key)) & TS_BITS
    o.has_ts = True
    o.tsval = s.o.tsval
    o.wscale = <int>(bits & TS_SCALE) if bits & TS_SCALE != TS_SCALE else -1
    o.sack_permitted = (bits & TS_SACK) != 0
    return not bits & TS_UNUSED


# --- SYN and ACK --------------------------------------------------------------------------------------------------
cdef bint cookie_wanted(const tcb *listener) noexcept nogil:
    cdef const tcp *t = listener.home
    return t.cookies == TCP_COOKIES_ALWAYS or (t.cookies != TCP_COOKIES_NEVER and listener.lq.syn_n >= t.syn_max)


cdef void cookie_answer(tcb *listener, const arrival *s) noexcept nogil:
    cdef tcp *t = s.t
    cdef flow key = flow_of(s)
    cdef tcp_header h
    cdef tcp_options o
    t.isn_floor_set = False             # a cookie cannot be moved above the incarnation that it follows
    memset(&h, 0, sizeof(tcp_header))
    tcp_clear_options(&o)
    h.sport = s.h.dport
    h.dport = s.h.sport
    h.flags = TH_SYN | TH_ACK
    h.seq = bake(t, &key, s.h.seq, index_of(s.o.mss))
    h.ack = s.h.seq + 1
    h.window = <uint16_t>min(listener.rcvbuf, 65535)
    if s.o.has_ts:
        o.has_ts = True
        o.tsval = stamp(t, &key, &s.o)
        o.tsecr = s.o.tsval
        o.sack_permitted = s.o.sack_permitted
        if s.o.wscale >= 0:
            o.wscale = <int>rcv_scale(listener)
    if seg_reply(t, s.ip, &h, &o, listener) == 0:
        listener.lq.cookie_sent = t.ctx.now if t.ctx.now else 1
        count(&t.ctx.n, C_TCP_COOKIE_SENT)


cdef bint expected(const tcb *listener) noexcept nogil:
    """Where none was sent lately none is looked at: guessing gains nothing then."""
    cdef int64_t since = listener.home.ctx.now - listener.lq.cookie_sent
    return listener.lq.cookie_sent != 0 and since < AGE_MAX * 60 * NS_SEC


cdef bint cookie_returned(const tcb *listener, const arrival *s, arrival *syn) noexcept nogil:
    cdef flow key = flow_of(s)
    cdef int data
    if not expected(listener):
        return False
    syn[0] = s[0]
    syn.m = NULL
    syn.n = 0
    syn.h.seq = s.h.seq - 1
    syn.h.flags = TH_SYN
    tcp_clear_options(&syn.o)
    data = taste(s.t, &key, syn.h.seq, s.h.ack - 1)
    if data < 0 or not unstamp(s.t, &key, s, &syn.o):
        count(&s.t.ctx.n, C_TCP_COOKIE_BAD)
        return False
    syn.o.mss = cookie_mss[data]
    count(&s.t.ctx.n, C_TCP_COOKIE_OK)
    return True
