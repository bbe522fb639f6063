"""Round trip time: see rtt.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_t
from ustack._core.base.types cimport NS_MS, NS_NEVER, NS_SEC, ns_t
from ustack._core.tcp.block cimport tcb

cdef enum:
    ROOM_LEAST = 512 * 1024


cdef void rtt_init(tcb *c) noexcept nogil:
    c.srtt = 0
    c.rttvar = 0
    c.rto = RTO_INIT_MS * NS_MS
    c.min_rtt = NS_NEVER
    c.rtt_start = 0


cdef void fit_sndbuf(tcb *c) noexcept nogil:
    """A send buffer that keeps a path of this round trip time busy at 40 Gbit/s, and a program that is scheduled now
    and then. More only queues: in our caches, or in a device's ring, which loses what it cannot hold."""
    cdef ns_t room = ROOM_LEAST + 5 * (c.min_rtt if c.min_rtt < NS_SEC else NS_SEC)
    if not c.sndbuf_set:
        c.sndbuf = <uint32_t>room if room < c.home.sndbuf else c.home.sndbuf


cdef void rtt_begin(tcb *c, seq_t seq) noexcept nogil:
    # 0 says that nothing is timed: a clock that starts there is read a nanosecond late.
    c.rtt_start = c.home.ctx.now if c.home.ctx.now else 1
    c.rtt_seq = seq


cdef void rtt_sample(tcb *c, ns_t rtt) noexcept nogil:
    """RFC 6298 2: alpha 1/8, beta 1/4, K 4. The variance counts for no less than the minimum, as in Linux: the peer may
    wait so long with an ACK on a path of any length."""
    cdef ns_t error
    if rtt < 1:
        rtt = 1
    c.backoff = 0                       # RFC 6298 5.7's note, and Karn: only now
    if rtt < c.min_rtt:
        c.min_rtt = rtt
        fit_sndbuf(c)
    if c.srtt == 0:
        c.srtt = rtt
        c.rttvar = rtt >> 1
    else:
        error = c.srtt - rtt if c.srtt > rtt else rtt - c.srtt
        c.rttvar += (error - c.rttvar) >> 2
        c.srtt += (rtt - c.srtt) >> 3
    c.rto = c.srtt + max(4 * c.rttvar, <ns_t>RTO_MIN_MS * NS_MS)
    if c.rto > RTO_MAX_MS * NS_MS:
        c.rto = RTO_MAX_MS * NS_MS


cdef ns_t rto_backed_off(const tcb *c) noexcept nogil:
    cdef int shift = c.backoff if c.backoff < 20 else 20
    cdef ns_t timeout = c.rto << shift
    return timeout if timeout < RTO_MAX_MS * NS_MS else RTO_MAX_MS * NS_MS


cdef uint32_t ts_now(const tcb *c) noexcept nogil:
    return <uint32_t>(c.home.ctx.now // TS_TICK_NS) + c.ts_offset
