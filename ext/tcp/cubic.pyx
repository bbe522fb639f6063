"""CUBIC's windows: see cubic.pxd."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.types cimport NS_SEC, ns_t
from ustack._core.tcp.block cimport CA_LOSS, CA_RECOVERY, cc_ops, cubic_state, flight, tcb
from ustack._core.tcp.congestion cimport CWND_MAX, slow_start

cdef enum:
    SPAN_MAX = 1 << 20          # 1024 s from K the curve is flat: a cube of it still fits 64 bits


cdef void cubic_init(tcb *c) noexcept nogil:
    memset(&c.cubic, 0, sizeof(cubic_state))
    memset(&c.cubic_undo, 0, sizeof(cubic_state))


# --- the curve ----------------------------------------------------------------------------------------------------
cdef uint32_t cube_root(uint64_t x) noexcept nogil:
    """Rounded down, bit by bit."""
    cdef uint64_t root = 0
    cdef uint64_t more
    cdef int bit
    for bit in range(20, -1, -1):
        more = root | <uint64_t>1 << bit
        if more * more * more <= x:
            root = more
    return <uint32_t>root


cdef uint32_t window_at(const tcb *c, int64_t t) noexcept nogil:
    """W_cubic(t) in bytes (RFC 9438 4.2), between 0 and CWND_MAX; t in 1/1024 s."""
    cdef int64_t span = t - c.cubic.k
    cdef int64_t way = span if span >= 0 else -span
    cdef int64_t rise
    if way > SPAN_MAX:
        way = SPAN_MAX
    rise = ((way * way * way >> 20) * c.snd_mss * 2 // 5) >> 10
    if span < 0:
        return <uint32_t>(c.cubic.w_max - rise) if rise < c.cubic.w_max else 0
    return <uint32_t>(c.cubic.w_max + rise) if c.cubic.w_max + rise < CWND_MAX else CWND_MAX


cdef int64_t ticks(ns_t t) noexcept nogil:
    return t * 1024 // NS_SEC


# --- congestion avoidance -----------------------------------------------------------------------------------------
cdef void begin_epoch(tcb *c) noexcept nogil:
    """K = cbrt((W_max - cwnd) / C). After a time-out the curve begins at its turning point (RFC 9438 4.8), as it does
    where nothing larger is known."""
    cdef cubic_state *q = &c.cubic
    q.epoch = c.home.ctx.now
    q.w_est = <uint64_t>c.cwnd << 10
    q.credit = 0
    if q.timed_out or c.cwnd >= q.w_max:
        q.w_max = c.cwnd
        q.k = 0
    else:
        q.k = cube_root((<uint64_t>(q.w_max - c.cwnd) << 29) * 5 // c.snd_mss)


cdef void leave_out_unused_time(tcb *c) noexcept nogil:
    """Time in which the window was not used must not make it grow (RFC 9438 5.8): there are ACKs in each round trip
    in which it is."""
    cdef ns_t gap = c.home.ctx.now - c.cubic.grown
    if gap > 2 * c.srtt:
        c.cubic.epoch += gap - c.srtt


cdef uint32_t reno_friendly(tcb *c, uint32_t acked) noexcept nogil:
    """W_est (RFC 9438 4.3), with alpha = 3 (1 - beta) / (1 + beta) = 9/17 until it has reached the window before the
    last reduction, then 1."""
    cdef cubic_state *q = &c.cubic
    cdef uint64_t step = (<uint64_t>c.snd_mss * acked << 10) // c.cwnd
    q.w_est += step if q.w_est >> 10 >= q.w_before else step * 9 // 17
    return <uint32_t>(q.w_est >> 10)


cdef uint32_t whole(const tcb *c, uint32_t window) noexcept nogil:
    """Rounded up to segments: only whole ones are sent, and of a small window the rest would be a good part. Linux,
    which counts windows in segments, grows as fast."""
    return (window + c.snd_mss - 1) // c.snd_mss * c.snd_mss


cdef void approach(tcb *c, uint32_t target, uint32_t acked) noexcept nogil:
    """Grow so that a window of ACKs brings cwnd to the target, but not beyond half as much again (RFC 9438 4.2)."""
    cdef cubic_state *q = &c.cubic
    cdef uint32_t most = c.cwnd + (c.cwnd >> 1)
    if target > most:
        target = most
    if target <= c.cwnd:
        return
    q.credit += <uint64_t>(target - c.cwnd) * acked
    target = c.cwnd
    c.cwnd += <uint32_t>(q.credit // target)
    q.credit %= target


cdef void cubic_acked(tcb *c, uint32_t acked) noexcept nogil:
    cdef cubic_state *q = &c.cubic
    cdef int64_t t
    cdef uint32_t est, wanted
    if c.ca_state == CA_LOSS:
        q.timed_out = True
    acked = slow_start(c, acked)
    if acked == 0:
        return
    if q.epoch == 0:
        begin_epoch(c)
    else:
        leave_out_unused_time(c)
    q.grown = c.home.ctx.now
    t = ticks(c.home.ctx.now - q.epoch)
    est = reno_friendly(c, acked)
    if window_at(c, t) < est:
        wanted = whole(c, est)
        if wanted > c.cwnd:
            c.cwnd = wanted
    else:
        approach(c, window_at(c, t + ticks(c.srtt)), acked)
    if c.cwnd > CWND_MAX:
        c.cwnd = CWND_MAX


# --- congestion events --------------------------------------------------------------------------------------------
cdef uint32_t cubic_ssthresh(tcb *c) noexcept nogil:
    """beta times what was in flight (RFC 9438 4.6); a window that is smaller than the last time makes room for a
    newcomer (4.7)."""
    cdef cubic_state *q = &c.cubic
    cdef uint32_t used = flight(c) if flight(c) < c.cwnd else c.cwnd
    if c.ca_state < CA_RECOVERY:
        c.cubic_undo = q[0]
    q.w_before = c.cwnd
    q.w_max = <uint32_t>(<uint64_t>c.cwnd * 17 // 20) if c.cwnd < q.w_max else c.cwnd
    q.epoch = 0
    q.timed_out = False
    used = <uint32_t>(<uint64_t>used * 7 // 10)
    return used if used > 2 * c.snd_mss else 2 * c.snd_mss


cdef void cubic_undo(tcb *c) noexcept nogil:
    c.cubic = c.cubic_undo


cdef cc_ops CUBIC
CUBIC.name = b"cubic"
CUBIC.init = cubic_init
CUBIC.acked = cubic_acked
CUBIC.ssthresh = cubic_ssthresh
CUBIC.undo = cubic_undo


cdef const cc_ops *cubic() noexcept nogil:
    return &CUBIC
