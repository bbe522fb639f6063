"""Control blocks: birth, lists, burial. See block.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.ready cimport ready_forget, ready_post
from ustack._core.base.wheel cimport timer_stop
from ustack._core.inet.demux cimport flow_insert, flow_remove
from ustack._core.inet.inet cimport path_release
from ustack._core.mem.mblk cimport freemsg
from ustack._core.tcp.pacing cimport pacing_free
from ustack._core.tcp.pressure cimport pressure_forget
from ustack._core.tcp.queue cimport sq_free
from ustack._core.tcp.reassembly cimport ooo_free
from ustack._core.tcp.scoreboard cimport board_free
from ustack._core.tcp.tcp cimport TCPS_CLOSED, TCPS_LISTEN, tcp, tcp_line
from ustack._core.tcp.timers cimport timers_init


cdef tcb *tcb_new(tcp *t) noexcept nogil:
    cdef tcb *c = <tcb *>calloc(1, sizeof(tcb))
    if c == NULL:
        return NULL
    c.home = t
    c.state = TCPS_CLOSED
    c.link.owner = c
    timers_init(c)
    c.all_next = t.all
    if c.all_next != NULL:
        c.all_next.all_pprev = &c.all_next
    c.all_pprev = &t.all
    t.all = c
    t.count += 1
    return c


cdef void tcb_set_port(tcb *c, uint16_t port) noexcept nogil:
    cdef tcb **head = &c.home.ports[port & 0xFF]
    unlink_port(c)
    c.link.key.lport = port
    if port == 0:
        return
    c.port_next = head[0]
    if c.port_next != NULL:
        c.port_next.port_pprev = &c.port_next
    c.port_pprev = head
    head[0] = c


cdef void unlink_port(tcb *c) noexcept nogil:
    if c.port_pprev == NULL:
        return
    c.port_pprev[0] = c.port_next
    if c.port_next != NULL:
        c.port_next.port_pprev = c.port_pprev
    c.port_next = NULL
    c.port_pprev = NULL


cdef int tcb_enlist(tcb *c, bint listener) noexcept nogil:
    cdef int err = flow_insert(&c.home.listeners if listener else &c.home.conns, &c.link)
    if err == 0:
        c.flags |= TF_LISTED
    return err


cdef void tcb_delist(tcb *c) noexcept nogil:
    if has(c, TF_LISTED):
        c.flags &= ~TF_LISTED
        flow_remove(&c.home.listeners if c.state == TCPS_LISTEN else &c.home.conns, &c.link)


cdef void mark(tcb *c) noexcept nogil:
    if c.flags & TF_DIRTY:
        if c.full == 0:
            return
        unmark(c)                       # to be thought about all the same: its timers are settled there
    c.full = 0
    append(&c.home.due, c)


cdef void mark_full(tcb *c, int number) noexcept nogil:
    unmark(c)
    c.full = <uint8_t>(number + 1)
    c.home.full_set |= <uint32_t>1 << number
    append(&c.home.full[number], c)


cdef void append(tcp_line *line, tcb *c) noexcept nogil:
    c.flags |= TF_DIRTY
    c.dirty_next = NULL
    c.dirty_prev = line.last
    if line.last != NULL:
        line.last.dirty_next = c
    else:
        line.first = c
    line.last = c


cdef void unmark(tcb *c) noexcept nogil:
    cdef tcp_line *line = &c.home.full[c.full - 1] if c.full else &c.home.due
    if not has(c, TF_DIRTY):
        return
    c.flags &= ~TF_DIRTY
    if c.dirty_prev != NULL:
        c.dirty_prev.dirty_next = c.dirty_next
    else:
        line.first = c.dirty_next
    if c.dirty_next != NULL:
        c.dirty_next.dirty_prev = c.dirty_prev
    else:
        line.last = c.dirty_prev
    if line.first == NULL and c.full:
        c.home.full_set &= ~(<uint32_t>1 << (c.full - 1))


cdef void tcb_post(tcb *c, uint32_t events) noexcept nogil:
    ready_post(&c.home.ctx.ready, &c.rdy, events)


cdef void unlink_timewait(tcb *c) noexcept nogil:
    cdef tcp *t = c.home
    if not has(c, TF_TIMEWAIT):
        return
    c.flags &= ~TF_TIMEWAIT
    if c.tw_prev != NULL:
        c.tw_prev.tw_next = c.tw_next
    else:
        t.timewait_oldest = c.tw_next
    if c.tw_next != NULL:
        c.tw_next.tw_prev = c.tw_prev
    else:
        t.timewait_newest = c.tw_prev
    c.tw_next = NULL
    c.tw_prev = NULL
    t.timewait -= 1


cdef void tcb_shed(tcb *c) noexcept nogil:
    tcb_delist(c)
    if not has(c, TF_BOUND):
        unlink_port(c)
    unlink_timewait(c)
    pressure_forget(c)
    timer_stop(&c.home.ctx.timers, &c.rtx)
    timer_stop(&c.home.ctx.timers, &c.delack)
    timer_stop(&c.home.ctx.timers, &c.life)
    if has(c, TF_PATH):
        c.flags &= ~TF_PATH
        path_release(c.home.net, &c.way)
    sq_free(c)
    ooo_free(&c.ooo)
    board_free(&c.sb)
    pacing_free(c)


cdef void tcb_bury(tcb *c) noexcept nogil:
    cdef tcp *t = c.home
    if has(c, TF_DEAD):
        return
    c.flags |= TF_DEAD
    tcb_shed(c)
    unmark(c)
    if t.late == c:
        t.late = NULL
    unlink_port(c)
    ready_forget(&t.ctx.ready, &c.rdy)
    c.rdy.owner = NULL
    freemsg(c.rq_head)
    c.rq_head = NULL
    c.rq_tail = NULL
    free(c.lq)
    c.lq = NULL
    c.all_pprev[0] = c.all_next
    if c.all_next != NULL:
        c.all_next.all_pprev = c.all_pprev
    t.count -= 1
    c.state = TCPS_CLOSED
    c.all_next = t.grave
    t.grave = c


cdef void tcb_reap(tcp *t) noexcept nogil:
    cdef tcb *c
    while t.grave != NULL:
        c = t.grave
        t.grave = c.all_next
        free(c)
