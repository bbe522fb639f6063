"""The size of the receive buffer: see tuning.pxd."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from ustack._core.base.seq cimport seq_lt
from ustack._core.base.types cimport NS_MS, NS_NEVER, ns_t
from ustack._core.mem.arena cimport arena
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport TF_TS, drs_state, has, tcb
from ustack._core.tcp.rtt cimport TS_TICK_NS, ts_now
from ustack._core.tcp.tcp cimport tcp
from ustack._core.tcp.window cimport rcv_window

cdef enum:
    SHARE = 8                   # of a memory budget: one connection's part
    FLOOR = 16 * 1024
    PAUSE_MS = 100
    SEGMENTS = 10               # what a round trip is taken to bring before one was measured: an initial window


# --- bounds -------------------------------------------------------------------------------------------------------
cdef uint32_t most(const tcp *t) noexcept nogil:
    cdef int64_t share = t.ctx.mem.budget // SHARE
    if t.ctx.mem.budget == 0 or share > t.rcvbuf:
        return t.rcvbuf
    return <uint32_t>share if share > FLOOR else FLOOR


cdef bint pressed(const arena *a) noexcept nogil:
    return a.budget != 0 and a.held > a.budget >> 1


cdef uint32_t tuning_first(const tcp *t) noexcept nogil:
    return min(<uint32_t>RCVBUF_FIRST, most(t))


cdef void tuning_start(tcb *c) noexcept nogil:
    """For a program that is scheduled now and then on a path as short as those inside a machine, 40 Gbit/s of a round
    trip are added; where it is longer, measuring takes over."""
    cdef ns_t rtt = c.min_rtt if c.min_rtt < NS_MS // 10 else 0
    c.drs.rtt = c.min_rtt if has(c, TF_TS) and c.min_rtt != NS_NEVER else 0
    c.drs.since = c.home.ctx.now
    c.drs.consumed = 0
    c.drs.space = SEGMENTS * c.mss_adv
    c.drs.edge = 0
    c.drs.edge_since = 0
    if not c.rcvbuf_set:
        c.rcvbuf = min(<uint32_t>(RCVBUF_FIRST + 5 * rtt), most(c.home))


# --- round trips --------------------------------------------------------------------------------------------------
cdef void sample(drs_state *d, ns_t rtt) noexcept nogil:
    """A peer that pauses echoes an old timestamp: what is far longer than before counts only in part."""
    if d.rtt == 0:
        d.rtt = rtt
        return
    if rtt > 4 * d.rtt + PAUSE_MS * NS_MS:
        rtt = 4 * d.rtt + PAUSE_MS * NS_MS
    d.rtt += (rtt - d.rtt) >> 3


cdef void by_timestamp(tcb *c, const arrival *s) noexcept nogil:
    """RFC 7323 4.1 in the other direction: what a full segment echoes is an ACK of ours that let it go. A millisecond
    is too coarse for short paths: there the handshake's time is the better one."""
    cdef int32_t ticks = <int32_t>(ts_now(c) - s.o.tsecr)
    if s.o.tsecr == c.drs.edge or s.size < c.rcv_mss or not 0 <= ticks < 60 * 1000:
        return
    c.drs.edge = s.o.tsecr
    if ticks > 1 or c.min_rtt >= 2 * TS_TICK_NS:
        sample(&c.drs, <ns_t>(ticks if ticks else 1) * TS_TICK_NS)
    else:
        sample(&c.drs, c.min_rtt)


cdef void by_window(tcb *c) noexcept nogil:
    """A window's worth of data takes a round trip at least."""
    cdef drs_state *d = &c.drs
    cdef ns_t now = c.home.ctx.now
    cdef ns_t took = now - d.edge_since
    if d.edge_since and seq_lt(c.rcv_nxt, d.edge):
        return
    if d.edge_since and took > 0 and (d.rtt == 0 or took < d.rtt):
        d.rtt = took
    d.edge = c.rcv_nxt + rcv_window(c)
    d.edge_since = now if now else 1


cdef void tuning_measure(tcb *c, const arrival *s) noexcept nogil:
    if c.rcvbuf_set:
        return
    if not has(c, TF_TS):
        by_window(c)
    elif s.o.has_ts and s.o.tsecr:
        by_timestamp(c, s)


# --- growth -------------------------------------------------------------------------------------------------------
cdef uint64_t per_round_trip(tcb *c, ns_t elapsed) noexcept nogil:
    """What the application reads in a round trip, and the start of the next measurement."""
    cdef drs_state *d = &c.drs
    cdef uint64_t consumed = c.bytes_received - c.rq_len
    cdef uint64_t n = consumed - d.consumed
    d.consumed = consumed
    d.since = c.home.ctx.now
    if n > 0x7FFFFFFF:
        n = 0x7FFFFFFF
    return n * (<uint64_t>d.rtt >> 8) // ((<uint64_t>elapsed >> 8) + 1)


cdef void tuning_read(tcb *c) noexcept nogil:
    """Twice of that: the sender's next window is twice as large in slow start. Four times, while it rises: the one
    after the next must not wait for our measurement."""
    cdef drs_state *d = &c.drs
    cdef ns_t elapsed = c.home.ctx.now - d.since
    cdef uint64_t n, wanted
    if c.rcvbuf_set or d.rtt == 0 or elapsed < d.rtt:
        return
    n = per_round_trip(c, elapsed)
    if n <= d.space:
        return
    wanted = n * (4 if 4 * n > 5 * <uint64_t>d.space else 2) + 16 * c.rcv_mss
    d.space = <uint32_t>n
    if wanted > most(c.home):
        wanted = most(c.home)
    if wanted > c.rcvbuf and not pressed(c.home.ctx.mem):
        c.rcvbuf = <uint32_t>wanted
