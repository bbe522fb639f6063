"""A splice between two connections of one stack: see relay.pxd."""

from libc.errno cimport EAGAIN, ETIMEDOUT
from libc.stddef cimport size_t
from libc.stdint cimport int64_t

from ustack._core.base.codes cimport EV_IN
from ustack._core.base.counters cimport C_SPLICE_IDLE, count
from ustack._core.base.types cimport atomic_store32, ns_t
from ustack._core.base.wheel cimport timer_arm, timer_init, timer_stop
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport freemsg, mblk
from ustack._core.sys.eventfd cimport sys_eventfd_signal
from ustack._core.tcp.block cimport tcb_post
from ustack._core.tcp.tcp cimport tcb, tcp_recv, tcp_send, tcp_send_room, tcp_shutdown


cdef void finish(relay *r, int why, int error) noexcept nogil:
    cdef mblk *farewell = r.farewell
    if r.source == NULL:
        return
    timer_stop(&r.ctx.timers, &r.clock)
    tcb_post(r.source, EV_IN)           # whoever waits to receive may do so again
    r.source = r.sink = NULL
    r.at_source[0] = NULL
    r.at_sink[0] = NULL
    r.error = error
    r.farewell = NULL
    if r.event >= 0:
        sys_eventfd_signal(r.event)
    atomic_store32(&r.done, why)        # the owner may free it from now on
    freemsg(farewell)


cdef void idle_fire(void *arg, ns_t now) noexcept nogil:
    """The clock is not wound by each packet: it looks back at the last one when it fires."""
    cdef relay *r = <relay *>arg
    if now - r.last >= r.idle:
        count(&r.ctx.n, C_SPLICE_IDLE)
        finish(r, RELAY_IDLE, ETIMEDOUT)
    else:
        timer_arm(&r.ctx.timers, &r.clock, r.last + r.idle)


cdef void relay_start(relay *r, context *ctx, tcb *source, tcb *sink, relay **at_source,
                      relay **at_sink) noexcept nogil:
    r.ctx = ctx
    r.source = source
    r.sink = sink
    r.at_source = at_source
    r.at_sink = at_sink
    at_source[0] = r
    at_sink[0] = r
    r.last = ctx.now
    timer_init(&r.clock, idle_fire, r)
    if r.idle:
        timer_arm(&ctx.timers, &r.clock, ctx.now + r.idle)


cdef bint move_some(relay *r) noexcept nogil:
    """One piece; False when there is no more to do now."""
    cdef int64_t room = tcp_send_room(r.sink)
    cdef int64_t n
    cdef int err = 0
    cdef mblk *m
    if room < 0:
        finish(r, RELAY_SINK, <int>-room)
        return False
    if room == 0:
        return False
    n = room if r.left < 0 or room < r.left else r.left
    m = tcp_recv(r.source, <size_t>n, 0, &err)
    if m == NULL:
        if err == 0:
            r.ended = True
            if r.pass_end:
                tcp_shutdown(r.sink, 1)
        if err != -EAGAIN:
            finish(r, RELAY_SOURCE, -err)
        return False
    n = tcp_send(r.sink, m, 0)
    if n < 0:
        finish(r, RELAY_SINK, <int>-n)
        return False
    r.moved += n
    r.last = r.ctx.now
    if r.left > 0:
        r.left -= n
    return True


cdef void relay_turn(relay *r) noexcept nogil:
    while r.source != NULL:
        if r.left == 0:
            finish(r, RELAY_SOURCE, 0)
            return
        if not move_some(r):
            return


cdef void relay_dissolve(relay *r, int error) noexcept nogil:
    finish(r, RELAY_DISSOLVED, error)
