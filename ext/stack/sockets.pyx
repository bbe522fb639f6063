"""Sockets and their waiters: see sockets.pxd."""

from libc.errno cimport EBADF
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.codes cimport EV_ERR, EV_HUP, EV_IN, EV_OUT
from ustack._core.base.ready cimport ready, ready_take
from ustack._core.base.types cimport atomic_store32
from ustack._core.inet.demux cimport FLOW_V6, flow_any
from ustack._core.inet.ping cimport ping_close, ping_events, ping_open, ping_pcb
from ustack._core.stack.engine cimport engine
from ustack._core.sys.futex cimport sys_futex_wake
from ustack._core.tcp.tcp cimport tcb, tcp_abort, tcp_close, tcp_events, tcp_open, tcp_ready, tcp_use_ip6
from ustack._core.udp.udp cimport udp_close, udp_events, udp_open
from ustack._core.zerocopy.relay cimport relay_dissolve, relay_turn


cdef sock *blank(engine *e, int kind) noexcept nogil:
    cdef sock *s = <sock *>calloc(1, sizeof(sock))
    if s != NULL:
        s.eng = e
        s.kind = kind
        s.refs = 1
        s.note_fd = -1
        s.note_peer = -1
    return s


cdef sock *sock_new(engine *e, int kind, bint v6) noexcept nogil:
    """A socket with a fresh endpoint of its protocol; NULL without memory."""
    cdef sock *s = blank(e, kind)
    cdef int err = 0
    if s == NULL:
        return NULL
    if kind == SOCK_TCP:
        s.tcp = tcp_open(&e.tcp)
        if s.tcp != NULL:
            tcp_ready(s.tcp).owner = s
    elif kind == SOCK_UDP:
        s.udp = udp_open(&e.udp)
        if s.udp != NULL:
            s.udp.rdy.owner = s
    else:
        s.ping = ping_open(&e.ping, 0, &err)
        if s.ping != NULL:
            s.ping.rdy.owner = s
    if s.tcp == NULL and s.udp == NULL and s.ping == NULL:
        free(s)
        return NULL
    if v6:
        use_ip6(s)
    return s


cdef void use_ip6(sock *s) noexcept nogil:
    s.v6 = True
    if s.tcp != NULL:
        tcp_use_ip6(s.tcp)
    elif s.udp != NULL:
        s.udp.entry.family = FLOW_V6
        s.udp.entry.key.laddr = flow_any(&s.udp.entry)
    else:
        s.ping.entry.family = FLOW_V6


cdef int sock_bind_ping(sock *s, uint16_t identifier) noexcept nogil:
    """Give an echo socket the identifier of its choice, as Linux does with bind. 0 or -errno."""
    cdef int err = 0
    cdef ping_pcb *chosen = ping_open(&s.eng.ping, identifier, &err)
    if chosen == NULL:
        return err
    chosen.entry.family = s.ping.entry.family
    ping_close(s.ping)
    s.ping = chosen
    chosen.rdy.owner = s
    return 0


cdef sock *sock_of_tcb(engine *e, tcb *c) noexcept nogil:
    """The socket of an accepted connection; NULL without memory (the connection is then the caller's still)."""
    cdef sock *s = blank(e, SOCK_TCP)
    if s != NULL:
        s.tcp = c
        s.bound = True
        s.v6 = c.link.family & FLOW_V6 != 0
        tcp_ready(c).owner = s
    return s


cdef void sock_close(sock *s, bint abort) noexcept nogil:
    if s.closed:
        return
    s.closed = True
    if s.out != NULL:
        relay_dissolve(s.out, EBADF)
    if s.into != NULL:
        relay_dissolve(s.into, EBADF)
    if s.tcp != NULL:
        if abort:
            tcp_abort(s.tcp)
        else:
            tcp_close(s.tcp)
    elif s.udp != NULL:
        udp_close(s.udp)
    elif s.ping != NULL:
        ping_close(s.ping)
    s.tcp = NULL
    s.udp = NULL
    s.ping = NULL


cdef void sock_free(sock *s) noexcept nogil:
    free(s)


cdef uint32_t sock_events(sock *s) noexcept nogil:
    """EV_* that hold now; a closed socket is everything at once, so that nobody keeps waiting for it."""
    if s.tcp != NULL:
        if s.out != NULL:               # what comes is not for the application
            return tcp_events(s.tcp) & ~<uint32_t>EV_IN
        return tcp_events(s.tcp)
    if s.udp != NULL:
        return udp_events(s.udp)
    if s.ping != NULL:
        return ping_events(s.ping)
    return EV_IN | EV_OUT | EV_ERR | EV_HUP


cdef void waiter_link(waiter *w, sock *s, uint32_t events) noexcept nogil:
    w.s = s
    w.events = events
    waiter_link_to(w, &s.waiters)


cdef void waiter_link_to(waiter *w, waiter **head) noexcept nogil:
    w.word = 0
    w.parked = 0
    w.next = head[0]
    w.pprev = head
    if w.next != NULL:
        w.next.pprev = &w.next
    head[0] = w


cdef void waiter_unlink(waiter *w) noexcept nogil:
    if w.pprev == NULL:
        return
    w.pprev[0] = w.next
    if w.next != NULL:
        w.next.pprev = w.pprev
    w.pprev = NULL


cdef void signal(waiter *w, wakes *out) noexcept nogil:
    if w.word:
        return
    atomic_store32(&w.word, 1)
    if not w.parked:
        out.kick = True
    elif out.n < WAKE_MAX:
        # Only the address is kept: should the thread have gone by the time of the wake-up, nobody sleeps there.
        out.words[out.n] = &w.word
        out.n += 1
    else:
        sys_futex_wake(&w.word, 1)


cdef void sock_signal(sock *s, wakes *out) noexcept nogil:
    cdef uint32_t events = sock_events(s)
    cdef waiter *w = s.waiters
    while w != NULL:
        if w.events & events or events & (EV_ERR | EV_HUP):
            signal(w, out)
        w = w.next
    if s.note_fd >= 0 and not s.noted:
        s.noted = True
        s.next = out.notes
        out.notes = s
    if s.watched and events & (s.watched | EV_ERR | EV_HUP) and not s.fired:
        s.watched = 0
        s.fired = True
        s.fired_next = out.fired
        out.fired = s


cdef void take_turns(sock *s) noexcept nogil:
    if s.out != NULL:
        relay_turn(s.out)
    if s.into != NULL:
        relay_turn(s.into)


cdef void sock_relays(engine *e) noexcept nogil:
    cdef ready *r = e.ctx.ready.head
    while r != NULL:
        if r.owner != NULL:
            take_turns(<sock *>r.owner)
        r = r.next


cdef void sock_collect(engine *e, wakes *out) noexcept nogil:
    cdef ready *r = ready_take(&e.ctx.ready)
    while r != NULL:
        r.events = 0
        if r.owner != NULL:
            take_turns(<sock *>r.owner)
            sock_signal(<sock *>r.owner, out)
        r = ready_take(&e.ctx.ready)
