"""Short of memory: see pressure.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from ustack._core.base.codes cimport EV_OUT
from ustack._core.base.counters cimport C_TCP_SND_MEMORY, count
from ustack._core.base.types cimport NS_MS, ns_t
from ustack._core.base.wheel cimport timer_arm, timer_armed, timer_init, timer_stop
from ustack._core.mem.arena cimport (
    KEEP_LAST, KEEP_SHARE, SEND_LAST, SEND_SHARE, arena, arena_may_keep, arena_may_send, class_for, pool,
)
from ustack._core.tcp.block cimport tcb, tcb_post
from ustack._core.tcp.queue cimport rcv_held, snd_queued


cdef uint32_t default_buffer(const arena *a, uint32_t most) noexcept nogil:
    return <uint32_t>(a.budget // BUFFER_SHARE) if a.budget and a.budget // BUFFER_SHARE < most else most


cdef void pressure_init(tcp *t) noexcept nogil:
    timer_init(&t.hunger, hunger_fire, t)
    t.sndbuf = default_buffer(t.ctx.mem, t.sndbuf)
    t.rcvbuf = default_buffer(t.ctx.mem, t.rcvbuf)


# --- senders ------------------------------------------------------------------------------------------------------
cdef bint may_send(tcb *c, size_t n, int less) noexcept nogil:
    cdef arena *a = c.home.ctx.mem
    cdef pool *p = class_for(a, n)
    cdef size_t storage = p.footprint if p != NULL else n
    return arena_may_send(a, storage, (SEND_SHARE if snd_queued(c) else SEND_LAST) - less)


cdef size_t pressure_room(tcb *c, size_t n) noexcept nogil:
    if arena_may_send(c.home.ctx.mem, n, SEND_SHARE):
        return n
    if n > SEND_LITTLE:
        n = SEND_LITTLE
    if may_send(c, n, 0):
        return n
    if n > SEND_LEAST:
        n = SEND_LEAST
    return n if may_send(c, n, 0) else 0


cdef void pressure_wait(tcb *c) noexcept nogil:
    cdef tcp *t = c.home
    count(&t.ctx.n, C_TCP_SND_MEMORY)
    if c.hungry_pprev == NULL:
        c.hungry_next = t.hungry
        if c.hungry_next != NULL:
            c.hungry_next.hungry_pprev = &c.hungry_next
        c.hungry_pprev = &t.hungry
        t.hungry = c
    if not timer_armed(&t.hunger):
        t.hunger_wait = LOOK_MS * NS_MS
        timer_arm(&t.ctx.timers, &t.hunger, t.ctx.now + t.hunger_wait)


cdef void pressure_forget(tcb *c) noexcept nogil:
    if c.hungry_pprev == NULL:
        return
    c.hungry_pprev[0] = c.hungry_next
    if c.hungry_next != NULL:
        c.hungry_next.hungry_pprev = c.hungry_pprev
    c.hungry_next = NULL
    c.hungry_pprev = NULL
    if c.home.hungry == NULL:
        timer_stop(&c.home.ctx.timers, &c.home.hunger)


cdef void pressure_look(tcp *t) noexcept nogil:
    """Those who wait start when there is a little more than they stopped at."""
    cdef tcb *c = t.hungry
    cdef tcb *following
    while c != NULL:
        following = c.hungry_next
        if may_send(c, SEND_LEAST, 1):
            pressure_forget(c)
            tcb_post(c, EV_OUT)
        c = following


cdef void hunger_fire(void *arg, ns_t now) noexcept nogil:
    """Memory may have come back by what is no verb of ours: an application that let go of what it had received."""
    cdef tcp *t = <tcp *>arg
    pressure_look(t)
    if t.hungry != NULL:
        t.hunger_wait = min(2 * t.hunger_wait, <ns_t>LOOK_MOST_MS * NS_MS)
        timer_arm(&t.ctx.timers, &t.hunger, now + t.hunger_wait)


# --- receivers ----------------------------------------------------------------------------------------------------
cdef bint pressure_keeps(const tcb *c, uint32_t storage) noexcept nogil:
    return arena_may_keep(c.home.ctx.mem, storage, KEEP_SHARE if rcv_held(c) else KEEP_LAST)
