"""Pacing: see pacing.pxd."""

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ustack._core.base.counters cimport C_TCP_PACED, count
from ustack._core.base.types cimport NS_MS, NS_SEC, ns_t
from ustack._core.base.wheel cimport timer_arm, timer_armed, timer_init, timer_stop
from ustack._core.tcp.block cimport TF_PATH, has, mark, pacer, tcb
from ustack._core.tcp.segment cimport seg_sizes


cdef int pacing_set(tcb *c, int64_t rate) noexcept nogil:
    if rate <= 0:
        pacing_free(c)
    else:
        if c.pace == NULL:
            c.pace = <pacer *>calloc(1, sizeof(pacer))
            if c.pace == NULL:
                return -ENOMEM
            timer_init(&c.pace.clock, pace_fire, c)
            c.pace.due = c.home.ctx.now
        c.pace.rate = <uint64_t>rate
    if has(c, TF_PATH):
        seg_sizes(c)
        mark(c)
    return 0


cdef int64_t pacing_rate(const tcb *c) noexcept nogil:
    return <int64_t>c.pace.rate if c.pace != NULL else -1


cdef void pacing_free(tcb *c) noexcept nogil:
    if c.pace != NULL:
        timer_stop(&c.home.ctx.timers, &c.pace.clock)
        free(c.pace)
        c.pace = NULL


cdef uint32_t pacing_packet(const tcb *c, uint32_t most) noexcept nogil:
    """At least two segments, as in Linux: one would cost a timer for each."""
    cdef uint64_t worth
    if c.pace == NULL or most <= 2 * c.snd_mss:
        return most
    worth = c.pace.rate // 1000
    if worth >= most:
        return most
    worth -= worth % c.snd_mss
    return <uint32_t>worth if worth > 2 * c.snd_mss else 2 * c.snd_mss


cdef void pace_fire(void *arg, ns_t now) noexcept nogil:
    mark(<tcb *>arg)


cdef bint pacing_holds(tcb *c) noexcept nogil:
    if c.home.ctx.now >= c.pace.due:
        return False
    if not timer_armed(&c.pace.clock):
        count(&c.home.ctx.n, C_TCP_PACED)
        timer_arm(&c.home.ctx.timers, &c.pace.clock, c.pace.due)
    return True


cdef void pacing_sent(tcb *c, uint32_t n) noexcept nogil:
    cdef pacer *p = c.pace
    cdef ns_t least = c.home.ctx.now - NS_MS
    if p.due < least:
        p.due = least
    p.due += <ns_t>(<uint64_t>n * NS_SEC // p.rate)
