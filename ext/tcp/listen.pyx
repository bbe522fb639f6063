"""Passive open: see listen.pxd."""

from libc.errno cimport EADDRINUSE, EINVAL, ENOMEM
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.codes cimport EV_IN
from ustack._core.base.counters cimport (
    C_TCP_ABORT_NOMEM, C_TCP_ACCEPT_DROP, C_TCP_DEFERRED, C_TCP_FLAGS, C_TCP_OPEN_PASSIVE, C_TCP_SYN_DROP,
    C_TCP_SYN_RX, count,
)
from ustack._core.base.seq cimport seq_gt, seq_t
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport (
    QUEUED_ACCEPT, QUEUED_NOT, QUEUED_SYN, RTX_SYN, TF_BOUND, TF_CORK, TF_KEEPALIVE, TF_NODELAY, TF_OOBINLINE,
    TF_PASSIVE, TF_QUICKACK, TF_REUSEADDR, TF_REUSEPORT, TF_SACK, TF_TS, TF_WSCALE, has, listen_queues, tcb,
    tcb_bury, tcb_enlist, tcb_new, tcb_post, tcb_set_port,
)
from ustack._core.tcp.connect cimport bind_conflict, established, negotiate, synchronize, tcp_bind_any
from ustack._core.tcp.close cimport conn_abort, conn_end
from ustack._core.tcp.cookie cimport cookie_answer, cookie_returned, cookie_wanted
from ustack._core.tcp.isn cimport isn_of, ts_offset_of
from ustack._core.tcp.pacing cimport pacing_rate, pacing_set
from ustack._core.tcp.segment cimport seg_open_path, seg_reset_reply, seg_syn
from ustack._core.tcp.tcp cimport TCPS_CLOSED, TCPS_LISTEN, TCPS_SYN_RECEIVED, tcp
from ustack._core.tcp.timers cimport rtx_arm
from ustack._core.wire.tcp cimport TH_ACK, TH_FIN, TH_RST, TH_SYN

cdef enum:
    INHERITED = (TF_NODELAY | TF_CORK | TF_KEEPALIVE | TF_OOBINLINE | TF_QUICKACK | TF_REUSEADDR | TF_REUSEPORT)
    BACKLOG_MAX = 65535


cdef int listen_start(tcb *c, int backlog) noexcept nogil:
    cdef int err
    if c.state == TCPS_LISTEN:
        c.lq.backlog = clamp(backlog)
        return 0
    if c.state != TCPS_CLOSED:
        return -EINVAL
    if not has(c, TF_BOUND):
        err = tcp_bind_any(c)
        if err < 0:
            return err
    if bind_conflict(c, &c.link.key.laddr, c.link.key.lport, True):
        return -EADDRINUSE
    if c.lq == NULL:
        c.lq = <listen_queues *>calloc(1, sizeof(listen_queues))
    if c.lq == NULL:
        return -ENOMEM
    c.lq.backlog = clamp(backlog)
    err = tcb_enlist(c, True)
    if err < 0:
        free(c.lq)
        c.lq = NULL
        return err
    c.state = TCPS_LISTEN
    return 0


cdef uint32_t clamp(int backlog) noexcept nogil:
    if backlog < 0 or backlog > BACKLOG_MAX:
        return BACKLOG_MAX
    return backlog


# --- the queues ---------------------------------------------------------------------------------------------------
cdef void enqueue(tcb *child, int which) noexcept nogil:
    cdef listen_queues *q = child.parent.lq
    cdef tcb **oldest = &q.syn_oldest if which == QUEUED_SYN else &q.accept_oldest
    cdef tcb **newest = &q.syn_newest if which == QUEUED_SYN else &q.accept_newest
    child.queued = which
    child.q_next = NULL
    child.q_prev = newest[0]
    if child.q_prev != NULL:
        child.q_prev.q_next = child
    else:
        oldest[0] = child
    newest[0] = child
    if which == QUEUED_SYN:
        q.syn_n += 1
    else:
        q.accept_n += 1


cdef void dequeue(tcb *child) noexcept nogil:
    cdef listen_queues *q = child.parent.lq
    cdef bint syn = child.queued == QUEUED_SYN
    if child.q_prev != NULL:
        child.q_prev.q_next = child.q_next
    elif syn:
        q.syn_oldest = child.q_next
    else:
        q.accept_oldest = child.q_next
    if child.q_next != NULL:
        child.q_next.q_prev = child.q_prev
    elif syn:
        q.syn_newest = child.q_prev
    else:
        q.accept_newest = child.q_prev
    if syn:
        q.syn_n -= 1
    else:
        q.accept_n -= 1
    child.queued = QUEUED_NOT
    child.q_next = NULL
    child.q_prev = NULL


cdef bint accept_full(const tcb *listener) noexcept nogil:
    return listener.lq.accept_n > listener.lq.backlog       # one more than the backlog, as in Linux


cdef tcb *listen_take(tcb *c) noexcept nogil:
    cdef tcb *child = c.lq.accept_oldest
    if child != NULL:
        dequeue(child)
        child.parent = NULL
    return child


cdef void listen_forget(tcb *child) noexcept nogil:
    if child.queued != QUEUED_NOT:
        dequeue(child)
    child.parent = NULL


cdef void listen_close(tcb *c) noexcept nogil:
    while c.lq.syn_oldest != NULL:
        conn_abort(c.lq.syn_oldest, 0)
    while c.lq.accept_oldest != NULL:
        conn_abort(c.lq.accept_oldest, 0)


# --- LISTEN (RFC 9293 3.10.7.2) -----------------------------------------------------------------------------------
cdef tcb *arrives_listen(tcb *c, arrival *s) noexcept nogil:
    if s.h.flags & TH_RST:
        return NULL
    if s.h.flags & TH_ACK:
        return ack_for_listener(c, s)
    if not s.h.flags & TH_SYN or s.h.flags & TH_FIN:
        count(&s.t.ctx.n, C_TCP_FLAGS)
    else:
        syn_for_listener(c, s)
    return NULL


cdef tcb *ack_for_listener(tcb *c, arrival *s) noexcept nogil:
    """Second in 3.10.7.2: nobody's, unless it brings a cookie back."""
    cdef arrival syn
    if s.h.flags & TH_SYN or not cookie_returned(c, s, &syn):
        seg_reset_reply(s.t, s.ip, &s.h, s.n)
        return NULL
    if accept_full(c):
        count(&s.t.ctx.n, C_TCP_ACCEPT_DROP)
        return NULL
    return revive(c, &syn, s.h.ack - 1)


cdef void syn_for_listener(tcb *c, arrival *s) noexcept nogil:
    count(&s.t.ctx.n, C_TCP_SYN_RX)
    if accept_full(c):
        count(&s.t.ctx.n, C_TCP_ACCEPT_DROP)
        return
    if cookie_wanted(c):
        cookie_answer(c, s)
        return
    if c.lq.syn_n >= s.t.syn_max:
        count(&s.t.ctx.n, C_TCP_SYN_DROP)
        conn_end(c.lq.syn_oldest, 0)
    open_child(c, s)


cdef void inherit(tcb *child, const tcb *c) noexcept nogil:
    child.link.family = c.link.family
    child.flags |= (c.flags & INHERITED) | TF_PASSIVE | TF_TS | TF_SACK | TF_WSCALE
    child.sndbuf = c.sndbuf
    child.sndbuf_set = c.sndbuf_set
    child.rcvbuf = c.rcvbuf
    child.rcvbuf_set = c.rcvbuf_set
    child.mss_user = c.mss_user
    child.linger = c.linger
    child.linger2 = c.linger2
    child.keep_idle = c.keep_idle
    child.keep_intvl = c.keep_intvl
    child.keep_cnt = c.keep_cnt
    child.user_timeout = c.user_timeout
    child.syn_retries = c.syn_retries
    child.rcvlowat = c.rcvlowat
    child.notsent_lowat = c.notsent_lowat
    child.tos = c.tos
    child.ttl = c.ttl
    child.cc = c.cc
    if c.pace != NULL:
        pacing_set(child, pacing_rate(c))


cdef tcb *new_child(tcb *c, const arrival *s) noexcept nogil:
    """A block in the SYN queue; NULL without memory or path."""
    cdef tcb *child = tcb_new(s.t)
    if child == NULL:
        count(&s.t.ctx.n, C_TCP_ABORT_NOMEM)
        return NULL
    inherit(child, c)
    child.link.key.laddr = s.ip.dst
    child.link.key.raddr = s.ip.src
    child.link.key.rport = s.h.sport
    tcb_set_port(child, s.h.dport)
    if seg_open_path(child) < 0 or tcb_enlist(child, False) < 0:
        count(&s.t.ctx.n, C_TCP_ABORT_NOMEM)
        tcb_bury(child)
        return NULL
    child.parent = c
    enqueue(child, QUEUED_SYN)
    child.ts_offset = ts_offset_of(s.t, &child.link.key)
    return child


cdef tcb *revive(tcb *c, const arrival *syn, seq_t iss) noexcept nogil:
    """The connection as it would be if our SYN-ACK had been sent by it."""
    cdef tcb *child = new_child(c, syn)
    if child == NULL:
        return NULL
    synchronize(child, iss)
    child.rtt_start = 0                 # when that was is not known
    negotiate(child, syn)
    child.state = TCPS_SYN_RECEIVED
    rtx_arm(child, RTX_SYN)
    return child


cdef void open_child(tcb *c, arrival *s) noexcept nogil:
    """Third in 3.10.7.2: text that came with the SYN is not kept; the peer sends it again."""
    cdef tcb *child = new_child(c, s)
    if child == NULL:
        return
    synchronize(child, choose_isn(child))
    negotiate(child, s)
    child.state = TCPS_SYN_RECEIVED
    seg_syn(child)
    rtx_arm(child, RTX_SYN)


cdef uint32_t choose_isn(tcb *child) noexcept nogil:
    """By RFC 6528, and above the incarnation that it follows (RFC 6191)."""
    cdef tcp *t = child.home
    cdef uint32_t isn = isn_of(t, &child.link.key)
    if t.isn_floor_set:
        t.isn_floor_set = False
        if not seq_gt(isn, t.isn_floor):
            isn = t.isn_floor + 65537
    return isn


cdef void resend_synack(tcb *c) noexcept nogil:
    c.rtt_start = 0                     # Karn
    seg_syn(c)


cdef bint handshake_done(tcb *c, arrival *s) noexcept nogil:
    cdef tcb *listener = c.parent
    if listener != NULL:
        if s.n == 0 and c.retries < listener.defer and not s.h.flags & TH_FIN:
            count(&s.t.ctx.n, C_TCP_DEFERRED)
            return False                    # the SYN-ACK is repeated meanwhile; the data completes the handshake
        if accept_full(listener):
            count(&s.t.ctx.n, C_TCP_ACCEPT_DROP)
            return False
        dequeue(c)
        enqueue(c, QUEUED_ACCEPT)
        count(&s.t.ctx.n, C_TCP_OPEN_PASSIVE)
        tcb_post(listener, EV_IN)
    established(c, s)
    return True
