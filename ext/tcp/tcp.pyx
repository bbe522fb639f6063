"""TCP as the engine and the sockets call it: see tcp.pxd. The work is done in the other files of this room."""

from libc.errno cimport EAGAIN, EINPROGRESS, ENOENT, ENOMEM, ENOTCONN, EPIPE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.codes cimport CAP_TX_CSUM, EV_ERR, EV_HUP, EV_IN, EV_OUT, IPPROTO_TCP_
from ustack._core.base.ready cimport ready
from ustack._core.base.rng cimport rng_next
from ustack._core.base.types cimport NS_SEC
from ustack._core.inet.demux cimport FLOW_V6, flow_any, flow_table_free, flow_table_init
from ustack._core.inet.inet cimport inet, inet_upcall
from ustack._core.inet.netif cimport IF_MAX
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport dup_range, freemsg, mblk, msgbytes
from ustack._core.tcp.ack cimport ack_soon, ack_unanswered
from ustack._core.tcp.acknowledge cimport tell_writer
from ustack._core.tcp.block cimport (
    TF2_AWAITED, TF2_BULK, TF2_WANT_OUT, TF_CONNECTING, TF_FIN_RCVD, TF_MORE, TF_NODELAY, TF_NOSPACE, TF_ORPHAN,
    TF_PATH, TF_SHUT_RD, TF_SHUT_WR, cc_ops, has, mark, mark_full, mostly_sent, snd_limit, tcb, tcb_bury, tcb_new,
    tcb_reap, unmark, unsent,
)
from ustack._core.tcp.close cimport conn_abort, user_close, user_shutdown
from ustack._core.tcp.congestion cimport congestion_find, congestion_use
from ustack._core.tcp.connect cimport bind_to, connect_to
from ustack._core.tcp.cubic cimport cubic
from ustack._core.tcp.input cimport tcp_input
from ustack._core.tcp.listen cimport listen_close, listen_start, listen_take
from ustack._core.tcp.options cimport info_fill, option_get, option_set, options_default
from ustack._core.tcp.output cimport output
from ustack._core.tcp.pressure cimport pressure_init, pressure_look, pressure_room, pressure_wait
from ustack._core.tcp.queue cimport rq_take, snd_queued, sq_append
from ustack._core.tcp.segment cimport seg_room
from ustack._core.tcp.tuning cimport tuning_read
from ustack._core.tcp.unreachable cimport tcp_error
from ustack._core.tcp.window cimport window_update_due

cdef enum:
    SNDBUF = 4 * 1024 * 1024
    RCVBUF = 4 * 1024 * 1024
    SYN_MAX = 1024
    TIMEWAIT_MAX = 8192


# --- the whole ----------------------------------------------------------------------------------------------------
cdef int tcp_init(tcp *t, context *ctx, inet *net) noexcept nogil:
    cdef int err
    memset(t, 0, sizeof(tcp))
    t.ctx = ctx
    t.net = net
    t.sndbuf = SNDBUF
    t.rcvbuf = RCVBUF
    t.syn_max = SYN_MAX
    t.cc = cubic()
    pressure_init(t)
    t.timewait_max = TIMEWAIT_MAX
    t.limit_epoch = ctx.now - NS_SEC    # the first answers find full limits, at any time of any clock
    t.reset_epoch = ctx.now - NS_SEC
    # Of the keyed hash's own key, so that with real entropy the secret is as good as that.
    t.secret[0] = ctx.dice.key[0] ^ rng_next(&ctx.dice)
    t.secret[1] = ctx.dice.key[1] ^ rng_next(&ctx.dice)
    err = flow_table_init(&t.conns, ctx.dice.key)
    if err < 0:
        return err
    err = flow_table_init(&t.listeners, ctx.dice.key)
    if err < 0:
        flow_table_free(&t.conns)
        return err
    inet_upcall(net, IPPROTO_TCP_, t, tcp_input, tcp_error)
    return 0


cdef void tcp_free(tcp *t) noexcept nogil:
    while t.all != NULL:
        tcb_bury(t.all)
    tcb_reap(t)
    flow_table_free(&t.conns)
    flow_table_free(&t.listeners)


cdef bint tcp_egress(tcp *t) noexcept nogil:
    """Each marked connection once, in the order of marking; those whose interface is full wait for it in line."""
    cdef tcb *c
    cdef tcb *last
    cdef bint more = True
    if t.full_set:
        resume(t)
    last = t.due.last
    while more and t.due.first != NULL:
        c = t.due.first
        more = c != last
        put_out(c)
    tcb_reap(t)
    if t.hungry != NULL:
        pressure_look(t)
    return t.due.first != NULL or t.full_set != 0


cdef bint put_out(tcb *c) noexcept nogil:
    """Its output now, as far as its interface has room for it; False: it waits for more."""
    cdef inet *net = c.home.net
    cdef int number = 0
    unmark(c)
    if output(c):
        if c.flags2 & TF2_WANT_OUT and c.notsent_lowat:
            tell_writer(c)
        return True
    while number < net.nifs and net.ifs[number] != c.way.ifp:
        number += 1
    if number < net.nifs:
        mark_full(c, number)
    else:
        mark(c)
    return False


cdef void resume(tcp *t) noexcept nogil:
    """Those at the heads of the lines, while interfaces have room: how many wait behind them costs nothing."""
    cdef int k
    cdef bint renumbered = t.full_generation != t.net.generation
    t.full_generation = t.net.generation
    for k in range(IF_MAX):
        if not t.full_set >> k & 1:
            continue
        while renumbered and t.full[k].first != NULL:
            mark(t.full[k].first)
        while t.full[k].first != NULL and seg_room(t.full[k].first) > 0 and put_out(t.full[k].first):
            pass


# --- a connection's life ------------------------------------------------------------------------------------------
cdef tcb *tcp_open(tcp *t) noexcept nogil:
    cdef tcb *c = tcb_new(t)
    if c != NULL:
        options_default(c)
    return c


cdef void tcp_use_ip6(tcb *c) noexcept nogil:
    c.link.family |= FLOW_V6
    c.link.key.laddr = flow_any(&c.link)


cdef int tcp_bind(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil:
    return bind_to(c, addr, port)


cdef int tcp_connect(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil:
    return connect_to(c, addr, port)


cdef int tcp_listen(tcb *c, int backlog) noexcept nogil:
    return listen_start(c, backlog)


cdef tcb *tcp_accept(tcb *listener) noexcept nogil:
    return listen_take(listener) if listener.state == TCPS_LISTEN else NULL


cdef void tcp_close(tcb *c) noexcept nogil:
    user_close(c)


cdef void tcp_abort(tcb *c) noexcept nogil:
    if c.state == TCPS_LISTEN:
        listen_close(c)
    c.rdy.owner = NULL
    c.flags |= TF_ORPHAN
    conn_abort(c, 0)


cdef int tcp_shutdown(tcb *c, int how) noexcept nogil:
    return user_shutdown(c, how)


# --- data ---------------------------------------------------------------------------------------------------------
cdef bint connected(const tcb *c) noexcept nogil:
    return c.state not in (TCPS_CLOSED, TCPS_LISTEN, TCPS_SYN_SENT, TCPS_SYN_RECEIVED)


cdef int send_error(tcb *c) noexcept nogil:
    """Why nothing can be sent; 0 if it can."""
    if c.error:
        return -tcp_take_error(c)
    if has(c, TF_SHUT_WR):
        return -EPIPE
    return -EPIPE if c.state in (TCPS_CLOSED, TCPS_LISTEN) else 0     # as Linux; POSIX would have ENOTCONN


cdef void no_more(tcb *c) noexcept nogil:
    """The sender has to wait: what MSG_MORE held back for its next bytes is not to wait for them, or, where the buffer
    is smaller than a segment, each would wait for the other (as Linux pushes before it sleeps). What a bulk sender
    holds back stays if it is little against the buffer: ACKs make room, and the sender goes on."""
    if c.home.late == c:
        if c.sndbuf >= 2 * c.gso_payload:
            return
        c.home.late = NULL
    if has(c, TF_MORE):
        c.flags &= ~TF_MORE
        mark(c)


cdef int64_t tcp_send_room(tcb *c) noexcept nogil:
    """Once the buffer has been full, nothing until a third of it is free: no dribbling."""
    cdef int err = send_error(c)
    cdef uint32_t queued
    if err < 0:
        return err
    if not connected(c) or c.hungry_pprev != NULL:
        return 0
    queued = snd_queued(c)
    if queued >= c.sndbuf:
        c.flags |= TF_NOSPACE
    if has(c, TF_NOSPACE):
        if queued > c.sndbuf - c.sndbuf // 3:
            no_more(c)
            return 0
        c.flags &= ~TF_NOSPACE
    if c.notsent_lowat and unsent(c) >= c.notsent_lowat:
        c.flags2 |= TF2_WANT_OUT
        no_more(c)
        return 0
    return c.sndbuf - queued


cdef size_t tcp_send_memory(tcb *c, size_t n) noexcept nogil:
    n = pressure_room(c, n)
    if n == 0:
        tcp_send_wait(c)
    return n


cdef void tcp_send_wait(tcb *c) noexcept nogil:
    no_more(c)
    pressure_wait(c)


cdef void tcp_await(tcb *c, bint sleeps) noexcept nogil:
    if sleeps:
        ack_unanswered(c)
        c.flags2 |= TF2_AWAITED
    else:
        c.flags2 &= ~<uint32_t>TF2_AWAITED


cdef void tcp_push_late(tcp *t) noexcept nogil:
    cdef tcb *c = t.late
    if c == NULL:
        return
    t.late = NULL
    c.flags &= ~TF_MORE
    mark(c)


cdef int64_t tcp_send(tcb *c, mblk *taken, int flags) noexcept nogil:
    cdef int err = send_error(c)
    cdef size_t n = msgbytes(taken)
    if err == 0 and not connected(c):
        err = -EAGAIN
    if err < 0 or n == 0 or n > 0x3FFFFFFF:
        freemsg(taken)
        return err
    sq_append(c, taken, <uint32_t>n)
    if c.home.late == c:
        c.home.late = NULL
    if flags & TCP_SEND_LATE and not has(c, TF_NODELAY):
        tcp_push_late(c.home)
        c.home.late = c
        c.flags2 = c.flags2 | TF2_BULK if flags & TCP_SEND_BULK else c.flags2 & ~<uint32_t>TF2_BULK
        flags |= TCP_SEND_MORE
    if flags & TCP_SEND_MORE:
        c.flags |= TF_MORE
    else:
        c.flags &= ~TF_MORE
    if snd_queued(c) >= c.sndbuf:
        c.flags |= TF_NOSPACE
    mark(c)
    return <int64_t>n


cdef int recv_error(tcb *c) noexcept nogil:
    """With nothing queued: 0 at the end of the stream, else -errno."""
    if c.error:
        return -tcp_take_error(c)
    if has(c, TF_FIN_RCVD) or has(c, TF_SHUT_RD):
        return 0
    if c.state == TCPS_CLOSED:
        return 0 if c.irs or c.iss else -ENOTCONN
    return -ENOTCONN if c.state == TCPS_LISTEN else -EAGAIN


cdef int64_t tcp_recv_ready(tcb *c) noexcept nogil:
    cdef int err
    if c.rq_len:
        return c.rq_len
    err = recv_error(c)
    if err == -EAGAIN:
        return 0
    return -1 if err == 0 else err


cdef mblk *tcp_recv(tcb *c, size_t n, int flags, int *err) noexcept nogil:
    cdef mblk *m
    if c.rq_len == 0 or n == 0:
        err[0] = recv_error(c) if c.rq_len == 0 else 0
        return NULL
    if n > c.rq_len:
        n = c.rq_len
    m = dup_range(c.home.ctx.mem, c.rq_head, 0, n) if flags & TCP_RECV_PEEK else rq_take(c, n)
    if m == NULL:
        err[0] = -ENOMEM
        return NULL
    err[0] = 0
    if not flags & TCP_RECV_PEEK and connected(c):
        tuning_read(c)
        if window_update_due(c):
            ack_soon(c)
    return m


# --- state --------------------------------------------------------------------------------------------------------
cdef uint32_t tcp_events(tcb *c) noexcept nogil:
    cdef uint32_t events = 0
    if c.state == TCPS_LISTEN:
        return EV_IN if c.lq.accept_n else 0
    if c.error:
        events |= EV_ERR | EV_IN | EV_OUT
    if c.state == TCPS_CLOSED:
        return events | EV_HUP | EV_OUT | (EV_IN if c.irs or c.iss else 0)
    if (c.rq_len and c.rq_len >= c.rcvlowat) or has(c, TF_FIN_RCVD) or has(c, TF_SHUT_RD):
        events |= EV_IN
    if has(c, TF_SHUT_WR) or (connected(c) and c.hungry_pprev == NULL
                              and snd_queued(c) <= c.sndbuf - c.sndbuf // 3 and mostly_sent(c)):
        events |= EV_OUT
    else:
        c.flags2 |= TF2_WANT_OUT
    if has(c, TF_SHUT_WR) and (has(c, TF_SHUT_RD) or has(c, TF_FIN_RCVD)):
        events |= EV_HUP
    return events


cdef ready *tcp_ready(tcb *c) noexcept nogil:
    return &c.rdy


cdef int tcp_take_error(tcb *c) noexcept nogil:
    cdef int error = c.error
    c.error = 0
    return error


cdef int tcp_take_any_error(tcb *c) noexcept nogil:
    cdef int error = tcp_take_error(c)
    if error == 0:
        error = c.error_soft            # RFC 1122 4.2.3.9: the application may want to know
        c.error_soft = 0
    return error


cdef int tcp_state(const tcb *c) noexcept nogil:
    return c.state


cdef int tcp_connect_result(tcb *c) noexcept nogil:
    if c.state in (TCPS_SYN_SENT, TCPS_SYN_RECEIVED):
        return -EINPROGRESS
    c.flags &= ~TF_CONNECTING
    return -tcp_take_error(c)


cdef void tcp_local(const tcb *c, ipaddr *addr, uint16_t *port) noexcept nogil:
    addr[0] = c.link.key.laddr
    port[0] = c.link.key.lport


cdef void tcp_remote(const tcb *c, ipaddr *addr, uint16_t *port) noexcept nogil:
    addr[0] = c.link.key.raddr
    port[0] = c.link.key.rport


cdef int tcp_setopt(tcb *c, int option, int64_t value) noexcept nogil:
    return option_set(c, option, value)


cdef int tcp_getopt(tcb *c, int option, int64_t *value) noexcept nogil:
    return option_get(c, option, value)


cdef int tcp_set_congestion(tcb *c, const char *name, size_t n) noexcept nogil:
    cdef const cc_ops *cc = congestion_find(name, n)
    if cc == NULL:
        return -ENOENT
    if cc != c.cc:
        congestion_use(c, cc)
    return 0


cdef const char *tcp_get_congestion(const tcb *c) noexcept nogil:
    return c.cc.name


cdef int tcp_default_congestion(tcp *t, const char *name, size_t n) noexcept nogil:
    cdef const cc_ops *cc = congestion_find(name, n)
    if cc == NULL:
        return -ENOENT
    t.cc = cc
    return 0


cdef void tcp_get_info(tcb *c, tcp_info *info) noexcept nogil:
    info_fill(c, info)


cdef uint32_t tcp_send_hint(const tcb *c, uint32_t *stride, uint32_t *phase) noexcept nogil:
    cdef uint32_t whole, begun
    stride[0] = 0
    phase[0] = 0
    if c.snd_mss == 0 or not has(c, TF_PATH):
        return 0
    if not c.way.caps & CAP_TX_CSUM:
        stride[0] = c.snd_mss
        phase[0] = unsent(c) % c.snd_mss
    whole = SUPER_SEGMENT - SUPER_SEGMENT % c.snd_mss
    begun = unsent(c) % whole
    if begun < min(c.gso_payload, whole) >> 2:
        whole -= begun
    return whole if whole < c.sndbuf else c.sndbuf      # so that a small buffer is overrun by its own size at most


cdef uint32_t tcp_unacked(const tcb *c) noexcept nogil:
    if c.state == TCPS_CLOSED or c.state == TCPS_LISTEN:
        return 0
    return snd_limit(c) - c.snd_una
