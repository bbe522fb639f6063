"""Active open: see connect.pxd."""

from libc.errno cimport (
    EADDRINUSE, EADDRNOTAVAIL, EALREADY, EINPROGRESS, EINVAL, EISCONN, ENETUNREACH,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_is4, ip_is_any
from ustack._core.base.codes cimport EV_OUT
from ustack._core.base.counters cimport C_TCP_ESTABLISHED, C_TCP_OPEN_ACTIVE, C_TCP_TIMEWAIT_REUSED, count
from ustack._core.base.seq cimport seq_gt, seq_t
from ustack._core.base.types cimport NS_SEC
from ustack._core.inet.demux cimport flow_any, flow_clash, flow_entry, flow_find, flow_speaks
from ustack._core.inet.inet cimport inet_is_local, path_release
from ustack._core.mem.mblk cimport freemsg
from ustack._core.tcp.ack cimport QUICK_ACKS, ack_with_answer
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport (
    CA_OPEN, RTX_NONE, RTX_SYN, TF_BOUND, TF_CONNECTING, TF_FIN_KNOWN, TF_FIN_RCVD, TF_PASSIVE, TF_PATH, TF_REUSEADDR,
    TF_REUSEPORT, TF_SACK, TF_SHUT_RD, TF_SHUT_WR, TF_TS, TF_WSCALE, has, mark, tcb, tcb_enlist, tcb_post,
    tcb_set_port,
)
from ustack._core.tcp.close cimport conn_end
from ustack._core.tcp.congestion cimport congestion_start
from ustack._core.tcp.isn cimport PORT_FIRST, PORT_LAST, isn_of, port_candidate, port_start, ts_offset_of
from ustack._core.tcp.rack cimport rack_init
from ustack._core.tcp.rtt cimport rtt_begin, rtt_init, rtt_sample
from ustack._core.tcp.segment cimport mss_default, seg_open_path, seg_sizes, seg_syn
from ustack._core.tcp.tcp cimport (
    TCPS_CLOSED, TCPS_ESTABLISHED, TCPS_FIN_WAIT_1, TCPS_LISTEN, TCPS_SYN_RECEIVED, TCPS_SYN_SENT, TCPS_TIME_WAIT,
    tcp, tcp_connect_result,
)
from ustack._core.tcp.timers cimport keepalive_restart, rtx_arm
from ustack._core.tcp.tuning cimport tuning_start
from ustack._core.tcp.window cimport rcv_scale

cdef enum:
    PORTS = PORT_LAST - PORT_FIRST + 1
    REUSE_AFTER_S = 1           # TIME-WAIT with timestamps may be reopened by us after this (RFC 6191), as in Linux


# --- local ports --------------------------------------------------------------------------------------------------
cdef bint may_share(const tcb *c, const tcb *o) noexcept nogil:
    if has(c, TF_REUSEPORT) and has(o, TF_REUSEPORT):
        return True
    return has(c, TF_REUSEADDR) and has(o, TF_REUSEADDR) and o.state != TCPS_LISTEN


cdef bint bind_conflict(const tcb *c, const ipaddr *addr, uint16_t port, bint to_listen) noexcept nogil:
    """To bind, everybody with the port counts; to listen, other listeners do (the rest was settled by bind)."""
    cdef tcb *o = c.home.ports[port & 0xFF]
    while o != NULL:
        if (o != c and o.link.key.lport == port and (o.state == TCPS_LISTEN or not to_listen)
                and flow_clash(&c.link, addr, &o.link)
                and not may_share(c, o)):
            return True
        o = o.port_next
    return False


cdef int pick_free_port(tcb *c, const ipaddr *addr) noexcept nogil:
    """An ephemeral port that nobody has at all; -EADDRINUSE if there is none."""
    cdef flow key
    cdef uint32_t start, i
    cdef uint16_t port
    memset(&key, 0, sizeof(flow))
    key.laddr = addr[0]
    start = port_start(c.home, &key)
    for i in range(PORTS):
        port = port_candidate(c.home, start, i)
        if not bind_conflict(c, addr, port, False):
            return port
    return -EADDRINUSE


cdef int bind_to(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil:
    cdef int got = port
    if c.state != TCPS_CLOSED or has(c, TF_BOUND):
        return -EINVAL
    if not flow_speaks(&c.link, addr):
        return -EINVAL
    if not ip_is_any(addr) and not inet_is_local(c.home.net, addr, NULL):
        return -EADDRNOTAVAIL
    if port == 0:
        got = pick_free_port(c, addr)
        if got < 0:
            return got
    elif bind_conflict(c, addr, port, False):
        return -EADDRINUSE
    c.link.key.laddr = addr[0]
    tcb_set_port(c, <uint16_t>got)
    c.flags |= TF_BOUND
    return 0


cdef int tcp_bind_any(tcb *c) noexcept nogil:
    cdef ipaddr everywhere = flow_any(&c.link)
    return bind_to(c, &everywhere, 0)


# --- the four-tuple of an active open -----------------------------------------------------------------------------
cdef bint give_way(tcb *c, tcb *old) noexcept nogil:
    """A connection in TIME-WAIT may be followed by a new one whose timestamps are newer (RFC 6191)."""
    if old.state != TCPS_TIME_WAIT or not has(old, TF_TS):
        return False
    if c.home.ctx.now - old.last_rcv < REUSE_AFTER_S * NS_SEC:
        return False
    count(&c.home.ctx.n, C_TCP_TIMEWAIT_REUSED)
    c.home.isn_floor = old.snd_nxt
    c.home.isn_floor_set = True
    conn_end(old, 0)
    return True


cdef bint port_bound(const tcb *c, uint16_t port) noexcept nogil:
    """Whether somebody has bound the port or listens on it: an ephemeral connection stays away from it."""
    cdef tcb *o = c.home.ports[port & 0xFF]
    while o != NULL:
        if o.link.key.lport == port and (has(o, TF_BOUND) or o.state == TCPS_LISTEN):
            return True
        o = o.port_next
    return False


cdef bint tuple_free(tcb *c, bint ephemeral) noexcept nogil:
    """Whether nobody has the four-tuple; a connection that can be followed makes way."""
    cdef flow_entry *e = flow_find(&c.home.conns, &c.link.key)
    if e == NULL:
        return not (ephemeral and port_bound(c, c.link.key.lport))
    return give_way(c, <tcb *>e.owner)


cdef int choose_port(tcb *c) noexcept nogil:
    """RFC 6056: a random walk; 0 or -EADDRNOTAVAIL."""
    cdef uint32_t start, i
    if c.link.key.lport:
        return 0 if tuple_free(c, False) else -EADDRNOTAVAIL
    start = port_start(c.home, &c.link.key)
    for i in range(PORTS):
        c.link.key.lport = port_candidate(c.home, start, i)
        if tuple_free(c, True):
            tcb_set_port(c, c.link.key.lport)
            return 0
    c.link.key.lport = 0
    return -EADDRNOTAVAIL


# --- SYN ----------------------------------------------------------------------------------------------------------
cdef void forget_former(tcb *c) noexcept nogil:
    """A block may be connected again after it failed."""
    c.flags &= ~(TF_SHUT_RD | TF_SHUT_WR | TF_FIN_KNOWN | TF_FIN_RCVD)
    c.flags |= TF_TS | TF_SACK | TF_WSCALE | TF_CONNECTING
    freemsg(c.rq_head)
    c.rq_head = NULL
    c.rq_tail = NULL
    c.rq_len = 0
    c.rq_held = 0
    c.mss_peer = 0
    c.error = 0
    c.error_soft = 0
    c.rcv_nxt = 0
    c.rcv_adv = 0
    c.total_retrans = 0
    if not has(c, TF_BOUND):
        c.link.key.lport = 0
        c.link.key.laddr = flow_any(&c.link)


cdef int may_connect(const tcb *c, uint16_t port) noexcept nogil:
    if c.state == TCPS_SYN_SENT or c.state == TCPS_SYN_RECEIVED:
        return -EALREADY
    if c.state != TCPS_CLOSED:
        return -EISCONN
    return 0 if port else -EADDRNOTAVAIL


cdef int open_flow(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil:
    """Path, local address and port; 0 or -errno with nothing held."""
    cdef int err
    cdef ipaddr bound = c.link.key.laddr
    c.link.key.raddr = addr[0]
    c.link.key.rport = port
    if ip_is_any(addr):
        c.link.key.raddr.lo |= 0x7F000001 if ip_is4(addr) else 1    # as Linux: to ourselves
    err = seg_open_path(c)
    if err == 0 and c.way.broadcast:
        err = -ENETUNREACH
    if err == 0:
        err = choose_port(c)
    if err == 0:
        err = tcb_enlist(c, False)
    if err < 0:
        if has(c, TF_PATH):
            c.flags &= ~TF_PATH
            path_release(c.home.net, &c.way)
        c.link.key.laddr = bound
        c.link.key.rport = 0
    return err


cdef seq_t first_number(tcb *c) noexcept nogil:
    cdef tcp *t = c.home
    cdef seq_t isn = isn_of(t, &c.link.key)
    if t.isn_floor_set:
        t.isn_floor_set = False
        if not seq_gt(isn, t.isn_floor):
            isn = t.isn_floor + 65537
    return isn


cdef bint outcome_untold(const tcb *c) noexcept nogil:
    """An earlier call did not wait for what the handshake would bring, and nobody has asked since."""
    return has(c, TF_CONNECTING) and (c.error != 0 if c.state == TCPS_CLOSED else
                                      c.state != TCPS_SYN_SENT and c.state != TCPS_SYN_RECEIVED)


cdef int connect_to(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil:
    cdef int err
    if outcome_untold(c):
        return tcp_connect_result(c)    # as Linux: the second call tells
    err = may_connect(c, port)
    if err == 0 and not flow_speaks(&c.link, addr):
        err = -ENETUNREACH
    if err < 0:
        return err
    forget_former(c)
    err = open_flow(c, addr, port)
    if err < 0:
        c.flags &= ~TF_CONNECTING
        return err
    c.ts_offset = ts_offset_of(c.home, &c.link.key)
    synchronize(c, first_number(c))
    c.rcv_wscale = <uint8_t>rcv_scale(c)
    c.state = TCPS_SYN_SENT
    count(&c.home.ctx.n, C_TCP_OPEN_ACTIVE)
    err = seg_syn(c)
    if err == -ENETUNREACH:
        conn_end(c, 0)
        c.flags &= ~TF_CONNECTING
        return err
    if c.state == TCPS_SYN_SENT:
        rtx_arm(c, RTX_SYN)
    return -EINPROGRESS


cdef void synchronize(tcb *c, seq_t iss) noexcept nogil:
    c.iss = iss
    c.snd_una = iss
    c.snd_nxt = iss + 1
    c.snd_end = iss + 1
    c.snd_sml = iss
    c.recover = iss
    c.snd_wnd = 0
    c.snd_wnd_max = 0
    c.backoff = 0
    c.retries = 0
    c.dupacks = 0
    c.reno_sacked = 0
    c.ca_state = CA_OPEN
    rtt_init(c)
    rtt_begin(c, iss + 1)
    c.progress = c.home.ctx.now


cdef void negotiate(tcb *c, const arrival *s) noexcept nogil:
    c.irs = s.h.seq
    c.rcv_nxt = c.irs + 1
    c.last_ack_sent = c.rcv_nxt
    c.rcv_adv = c.rcv_nxt + (c.rcvbuf if c.rcvbuf < 65535 else 65535)
    if has(c, TF_TS) and s.o.has_ts:
        c.ts_recent = s.o.tsval
        c.ts_recent_age = s.t.ctx.now
    else:
        c.flags &= ~TF_TS
    if not s.o.sack_permitted:
        c.flags &= ~TF_SACK
    if has(c, TF_WSCALE) and s.o.wscale >= 0:
        c.snd_wscale = <uint8_t>s.o.wscale
        if has(c, TF_PASSIVE):          # else our SYN has said it, and the buffer may have changed since
            c.rcv_wscale = <uint8_t>rcv_scale(c)
    else:
        c.flags &= ~TF_WSCALE
        c.snd_wscale = 0
        c.rcv_wscale = 0
    c.mss_peer = s.o.mss if s.o.mss else mss_default(c)
    seg_sizes(c)
    c.rcv_mss = mss_default(c) if c.mss_adv > mss_default(c) else c.mss_adv
    c.last_rcv = s.t.ctx.now


# --- SYN-SENT -----------------------------------------------------------------------------------------------------
cdef void connect_synack(tcb *c, arrival *s) noexcept nogil:
    negotiate(c, s)
    established(c, s)
    c.snd_wnd = s.h.window              # in a SYN it is not scaled (RFC 7323 2.2)
    c.snd_wnd_max = c.snd_wnd
    ack_with_answer(c)


cdef void connect_syn(tcb *c, arrival *s) noexcept nogil:
    """Simultaneous open (RFC 9293 figure 7)."""
    negotiate(c, s)
    c.state = TCPS_SYN_RECEIVED
    c.rtt_start = 0
    seg_syn(c)
    rtx_arm(c, RTX_SYN)


# --- ESTABLISHED --------------------------------------------------------------------------------------------------
cdef void established(tcb *c, const arrival *s) noexcept nogil:
    if c.rtt_start:
        rtt_sample(c, s.t.ctx.now - c.rtt_start)
        c.rtt_start = 0
    elif c.retries:
        c.rto = 3 * NS_SEC              # RFC 6298 5.7: the SYN was lost, or the path is slow
    c.backoff = 0
    c.retries = 0
    rtx_arm(c, RTX_NONE)
    c.snd_una = c.iss + 1
    c.snd_wnd = <uint32_t>s.h.window << c.snd_wscale
    c.snd_wnd_max = c.snd_wnd
    c.snd_wl1 = s.h.seq
    c.snd_wl2 = s.h.ack
    rack_init(c)
    c.quick = QUICK_ACKS
    c.last_sent = s.t.ctx.now
    congestion_start(c)
    tuning_start(c)
    if c.total_retrans > 1:             # RFC 5681 3.1: a network that loses SYNs is not to be burst into
        c.cwnd = c.snd_mss
    c.state = TCPS_FIN_WAIT_1 if has(c, TF_SHUT_WR) else TCPS_ESTABLISHED
    count(&s.t.ctx.n, C_TCP_ESTABLISHED)
    keepalive_restart(c)
    tcb_post(c, EV_OUT)
    mark(c)
