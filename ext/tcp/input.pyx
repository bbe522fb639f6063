"""A segment arrives: see input.pxd."""

from libc.errno cimport ECONNREFUSED, ECONNRESET, EPIPE
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_equal
from ustack._core.base.checksum cimport csum_add, csum_fold
from ustack._core.base.codes cimport CSUM_NONE, IPPROTO_TCP_
from ustack._core.base.counters cimport (
    C_TCP_BROADCAST, C_TCP_CHALLENGE, C_TCP_CHALLENGE_LIMITED, C_TCP_CHECKSUM, C_TCP_DUPLICATE, C_TCP_FLAGS,
    C_TCP_LAND, C_TCP_NO_PORT, C_TCP_OPTION, C_TCP_OUT_OF_WINDOW, C_TCP_PAWS, C_TCP_RST_BAD, C_TCP_RST_RX,
    C_TCP_RX, C_TCP_SHORT, C_TCP_TIMEWAIT_REUSED, count,
)
from ustack._core.base.ledger cimport LR_CSUM_RX
from ustack._core.base.rng cimport rng_below
from ustack._core.base.seq cimport seq_geq, seq_gt, seq_leq, seq_lt, seq_t
from ustack._core.base.types cimport NS_SEC, ns_t
from ustack._core.inet.demux cimport flow_entry, flow_find, flow_find_by, flow_find_local
from ustack._core.inet.inet cimport ip_packet, ip_pseudo
from ustack._core.mem.mblk cimport adjmsg, freemsg, mblk, mblk_len, msgcsum
from ustack._core.tcp.ack cimport ack_loss
from ustack._core.tcp.acknowledge cimport check_ack
from ustack._core.tcp.arrival cimport arrival, seg_end, seg_len
from ustack._core.tcp.block cimport TF_DSACK, TF_PASSIVE, TF_SACK, TF_TS, has, tcb
from ustack._core.tcp.close cimport conn_end, time_wait_restart
from ustack._core.tcp.connect cimport connect_synack, connect_syn
from ustack._core.tcp.foresee cimport fetch
from ustack._core.tcp.listen cimport arrives_listen, resend_synack
from ustack._core.tcp.rtt cimport TS_TICK_NS
from ustack._core.tcp.segment cimport seg_ack, seg_reset_reply
from ustack._core.tcp.tcp cimport (
    TCPS_CLOSE_WAIT, TCPS_SYN_RECEIVED, TCPS_SYN_SENT, TCPS_TIME_WAIT, tcp,
)
from ustack._core.tcp.text cimport check_fin, take_text
from ustack._core.tcp.window cimport rcv_window
from ustack._core.wire.tcp cimport (
    TH_ACK, TH_FIN, TH_RST, TH_SYN, TCP_LEN, tcp_check, tcp_parse, tcp_parse_options,
)

cdef enum:
    CHALLENGES_PER_SECOND = 1000    # on average: the limit of each second is drawn anew
    OOW_ANSWERS = 10                # per connection in OOW_PERIOD (RFC 5961 7)
    OOW_PERIOD_S = 5
    PAWS_IDLE_S = 24 * 24 * 3600    # RFC 7323 5.5


# --- from packet to connection ------------------------------------------------------------------------------------
cdef bint checksum_holds(tcp *t, const mblk *m, const ip_packet *ip) noexcept nogil:
    cdef uint32_t sum
    if m.csum != CSUM_NONE:
        return True
    sum = csum_add(ip_pseudo(&ip.src, &ip.dst, IPPROTO_TCP_, ip.length),
                   msgcsum(&t.ctx.book, LR_CSUM_RX, m, 0, ip.length))
    return csum_fold(sum) == 0xFFFF


cdef bint parse(arrival *s) noexcept nogil:
    """Header and options as values, padding cut off; False: dropped and counted."""
    cdef tcp *t = s.t
    cdef mblk *m = s.m
    if m.pkt_len > s.ip.length:
        adjmsg(m, -<ssize_t>(m.pkt_len - s.ip.length))
        m.pkt_len = s.ip.length
    if m.pkt_len < s.ip.length or tcp_check(m.rptr, mblk_len(m)) < 0:
        count(&t.ctx.n, C_TCP_SHORT)
        return False
    if not checksum_holds(t, m, s.ip):
        count(&t.ctx.n, C_TCP_CHECKSUM)
        return False
    tcp_parse(m.rptr, &s.h)
    tcp_parse_options(m.rptr + TCP_LEN, s.h.data_offset - TCP_LEN, &s.o)
    if s.o.bad:
        count(&t.ctx.n, C_TCP_OPTION)       # what stands before the bad option counts, as in Linux
    s.n = s.ip.length - s.h.data_offset
    s.size = m.gso_size if m.gso_size else s.n
    return True


cdef bint believable(arrival *s) noexcept nogil:
    """RFC 1122 4.2.3.10: nothing from or to a group; nothing from ourselves unless it really is."""
    cdef tcp *t = s.t
    if s.ip.broadcast:
        count(&t.ctx.n, C_TCP_BROADCAST)
        return False
    if (s.h.sport == s.h.dport and ip_equal(&s.ip.src, &s.ip.dst) and s.ip.ifp != NULL and s.ip.ifp.layer != 0):
        count(&t.ctx.n, C_TCP_LAND)
        return False
    return True


cdef tcb *find(arrival *s, bint listener) noexcept nogil:
    cdef flow key
    cdef flow_entry *e
    memset(&key, 0, sizeof(flow))
    key.laddr = s.ip.dst
    key.raddr = s.ip.src
    key.lport = s.h.dport
    key.rport = s.h.sport
    if listener:
        e = flow_find_local(&s.t.listeners, &s.ip.dst, s.h.dport)
    else:
        e = flow_find_by(&s.t.conns, &key, s.m.mark) if s.m.mark else flow_find(&s.t.conns, &key)
    if e == NULL:
        return NULL
    # Among very many connections nothing of this one is in the cache: fetch it in one go, not line by line.
    fetch(e.owner, sizeof(tcb))
    return <tcb *>e.owner


cdef void tcp_input(void *proto, mblk *taken, const ip_packet *ip) noexcept nogil:
    cdef arrival s
    cdef tcb *c
    s.t = <tcp *>proto
    s.ip = ip
    s.m = taken
    count(&s.t.ctx.n, C_TCP_RX)
    if parse(&s) and believable(&s):
        c = find(&s, False)
        if c != NULL and c.state == TCPS_TIME_WAIT and reopens(c, &s):
            c = NULL
        if c != NULL:
            c.segs_in += s.m.segs if s.m.segs else 1
            if c.state == TCPS_SYN_SENT:
                arrives_syn_sent(c, &s)
            else:
                arrives(c, &s)
        else:
            arrives_nowhere(&s)
    freemsg(s.m)


cdef void arrives_nowhere(arrival *s) noexcept nogil:
    cdef tcb *listener = find(s, True)
    cdef tcb *c
    if listener == NULL:
        arrives_closed(s)
        return
    c = arrives_listen(listener, s)
    if c != NULL:
        c.segs_in += 1
        arrives(c, s)


cdef void arrives_closed(arrival *s) noexcept nogil:
    """RFC 9293 3.10.7.1."""
    count(&s.t.ctx.n, C_TCP_NO_PORT)
    seg_reset_reply(s.t, s.ip, &s.h, s.n)


# --- SYN-SENT (RFC 9293 3.10.7.3) ---------------------------------------------------------------------------------
cdef void arrives_syn_sent(tcb *c, arrival *s) noexcept nogil:
    cdef bint acked = (s.h.flags & TH_ACK) != 0
    if acked and (seq_leq(s.h.ack, c.iss) or seq_gt(s.h.ack, c.snd_nxt)):
        seg_reset_reply(s.t, s.ip, &s.h, s.n)
        return
    if s.h.flags & TH_RST:
        if acked:
            count(&s.t.ctx.n, C_TCP_RST_RX)
            conn_end(c, ECONNREFUSED)
        else:
            count(&s.t.ctx.n, C_TCP_RST_BAD)    # a blind one could not know our number
        return
    if not s.h.flags & TH_SYN or s.h.flags & TH_FIN:
        count(&s.t.ctx.n, C_TCP_FLAGS)
        return
    if acked:
        connect_synack(c, s)
        finish(c, s)
    else:
        connect_syn(c, s)


cdef void finish(tcb *c, arrival *s) noexcept nogil:
    """The SYN is dealt with: what else the segment brings goes through the last steps."""
    s.h.flags &= ~TH_SYN
    s.h.seq += 1
    if take_text(c, s):
        check_fin(c, s)


# --- the other states (RFC 9293 3.10.7.4) -------------------------------------------------------------------------
cdef void arrives(tcb *c, arrival *s) noexcept nogil:
    if c.state == TCPS_SYN_RECEIVED:
        strip_syn(c, s)
        if repeats_syn(c, s):
            resend_synack(c)
            return
    if (check_sequence(c, s) and check_reset(c, s) and check_syn(c, s) and check_ack(c, s)
            and take_text(c, s)):
        check_fin(c, s)


cdef void strip_syn(tcb *c, arrival *s) noexcept nogil:
    """Simultaneous open: the peer's SYN-ACK begins with the SYN that we have (RFC 9293 figure 7)."""
    if (not has(c, TF_PASSIVE) and s.h.flags & TH_SYN and s.h.flags & TH_ACK and s.h.seq == c.irs
            and s.h.ack == c.snd_nxt):
        s.h.flags &= ~TH_SYN
        s.h.seq += 1
        s.h.window >>= c.snd_wscale     # in a SYN it is not scaled (RFC 7323 2.2); those who read it will


cdef bint repeats_syn(const tcb *c, const arrival *s) noexcept nogil:
    """The SYN again, whatever text it brings: our SYN-ACK was lost."""
    return (s.h.flags & (TH_SYN | TH_RST | TH_ACK | TH_FIN)) == TH_SYN and s.h.seq == c.irs


cdef bint at_least_recent(const tcb *c, const arrival *s) noexcept nogil:
    return (<int32_t>(s.o.tsval - c.ts_recent) >= 0
            or s.t.ctx.now - c.ts_recent_age >= PAWS_IDLE_S * NS_SEC)


cdef bint fails_paws(tcb *c, arrival *s) noexcept nogil:
    """RFC 7323 5.3 R1: older than what was seen last, and that was not too long ago."""
    return (has(c, TF_TS) and s.o.has_ts and not s.h.flags & TH_RST
            and not at_least_recent(c, s))


cdef bint is_reordered_ack(const tcb *c, const arrival *s) noexcept nogil:
    """A bare ACK that another one has overtaken by less than a time-out: it says nothing new, and to answer it as PAWS
    asks would only make more ACKs (as Linux: tcp_disordered_ack)."""
    return (s.n == 0 and (s.h.flags & (TH_SYN | TH_FIN | TH_ACK)) == TH_ACK and s.h.seq == c.rcv_nxt
            and seq_leq(s.h.ack, c.snd_una)
            and <int32_t>(c.ts_recent - s.o.tsval) <= <int32_t>(c.rto // TS_TICK_NS))


cdef bint in_window(const tcb *c, const arrival *s) noexcept nogil:
    """RFC 9293's four cases. Beyond them, as Linux: a segment at the very edge is heard (its ACK counts), text at a
    closed window too, so that a peer that probes with a byte gets its ACKs through."""
    cdef uint32_t window = rcv_window(c)
    cdef seq_t edge = c.rcv_nxt + window
    if window == 0 or s.h.seq == c.rcv_nxt:
        return s.h.seq == c.rcv_nxt
    if s.h.flags & TH_RST:
        return seq_gt(s.h.seq, c.rcv_nxt) and seq_lt(s.h.seq, edge)
    if seg_len(s) == 0:
        return seq_geq(s.h.seq, c.rcv_nxt) and seq_leq(s.h.seq, edge)
    return seq_gt(seg_end(s), c.rcv_nxt) and seq_lt(s.h.seq, edge)


cdef void note_duplicate(tcb *c, const arrival *s) noexcept nogil:
    """Text that came twice is reported, and a FIN, which has a number as well (RFC 2883 4): who had sent it again for
    nothing can take that back."""
    cdef seq_t end = s.h.seq + s.n + (1 if s.h.flags & TH_FIN else 0)
    if end != s.h.seq and seq_lt(s.h.seq, c.rcv_nxt):
        if s.n:
            count(&s.t.ctx.n, C_TCP_DUPLICATE)
        ack_loss(c)
        if has(c, TF_SACK):
            c.dsack.start = s.h.seq
            c.dsack.end = end if seq_lt(end, c.rcv_nxt) else c.rcv_nxt
            c.flags |= TF_DSACK


cdef bint check_sequence(tcb *c, arrival *s) noexcept nogil:
    """First: acceptable segments go on, others are answered with an ACK unless they are resets."""
    cdef bint old = fails_paws(c, s) and not is_reordered_ack(c, s)
    if old:
        count(&s.t.ctx.n, C_TCP_PAWS)
    elif in_window(c, s):
        return True
    elif s.h.flags & TH_RST:
        count(&s.t.ctx.n, C_TCP_RST_BAD)
        return False
    else:
        count(&s.t.ctx.n, C_TCP_OUT_OF_WINDOW)
    if c.state == TCPS_TIME_WAIT and s.h.flags & TH_FIN and seg_end(s) == c.rcv_nxt:
        time_wait_restart(c)            # that very FIN: anybody else's would keep the block for ever
    note_duplicate(c, s)
    if s.h.flags & TH_SYN:
        challenge(c)                    # whatever its number (RFC 5961 4.2)
    elif s.n or s.h.flags & TH_FIN or may_answer(c):
        seg_ack(c)                      # at once: the peer counts duplicate ACKs
    return False


cdef void update_ts_recent(tcb *c, const arrival *s) noexcept nogil:
    """RFC 7323 4.3: only from the segment that spans the last ACK sent, so that delayed ACKs echo the oldest; and,
    as in Linux, only once its ACK has been found acceptable: a blind one could silence the real peer by PAWS."""
    if (has(c, TF_TS) and s.o.has_ts and at_least_recent(c, s)
            and seq_leq(s.h.seq, c.last_ack_sent)):
        c.ts_recent = s.o.tsval
        c.ts_recent_age = s.t.ctx.now


cdef bint check_reset(tcb *c, arrival *s) noexcept nogil:
    """Second: only the exact number resets (RFC 5961 3.2)."""
    if not s.h.flags & TH_RST:
        return True
    if c.state == TCPS_TIME_WAIT:
        count(&s.t.ctx.n, C_TCP_RST_BAD)        # RFC 1337: no assassination
    elif s.h.seq != c.rcv_nxt:
        count(&s.t.ctx.n, C_TCP_RST_BAD)
        challenge(c)
    else:
        count(&s.t.ctx.n, C_TCP_RST_RX)
        reset_received(c)
    return False


cdef void reset_received(tcb *c) noexcept nogil:
    if c.state == TCPS_SYN_RECEIVED:
        conn_end(c, ECONNREFUSED)
    elif c.state == TCPS_CLOSE_WAIT:
        conn_end(c, EPIPE)              # as Linux reports it
    else:
        conn_end(c, ECONNRESET)


cdef bint check_syn(tcb *c, arrival *s) noexcept nogil:
    """Fourth: a SYN on a synchronized connection is challenged, whatever its number (RFC 5961 4.2)."""
    if not s.h.flags & TH_SYN:
        return True
    challenge(c)
    return False


# --- answers to what is odd ---------------------------------------------------------------------------------------
cdef bint may_answer(tcb *c) noexcept nogil:
    """Without this limit two stacks with desynchronised numbers would answer each other for ever."""
    cdef ns_t now = c.home.ctx.now
    if now - c.oow_since >= OOW_PERIOD_S * NS_SEC:
        c.oow_since = now
        c.oow_sent = 0
    if c.oow_sent >= OOW_ANSWERS:
        count(&c.home.ctx.n, C_TCP_CHALLENGE_LIMITED)
        return False
    c.oow_sent += 1
    return True


cdef bint may_challenge(tcp *t) noexcept nogil:
    if t.ctx.now - t.limit_epoch >= NS_SEC:
        t.limit_epoch = t.ctx.now
        t.limit_challenge = CHALLENGES_PER_SECOND // 2 + rng_below(&t.ctx.dice, CHALLENGES_PER_SECOND)
    if t.limit_challenge == 0:
        count(&t.ctx.n, C_TCP_CHALLENGE_LIMITED)
        return False
    t.limit_challenge -= 1
    return True


cdef void challenge(tcb *c) noexcept nogil:
    if may_answer(c) and may_challenge(c.home):
        count(&c.home.ctx.n, C_TCP_CHALLENGE)
        seg_ack(c)


# --- TIME-WAIT (RFC 9293 3.10.7.4, RFC 6191) ----------------------------------------------------------------------
cdef bint reopens(tcb *c, arrival *s) noexcept nogil:
    """A SYN that cannot be old opens a new incarnation: its number, or its timestamp, lies above all of the last.
    A listener gets it; the block goes away."""
    cdef bint newer
    if (s.h.flags & (TH_SYN | TH_RST | TH_ACK | TH_FIN)) != TH_SYN:
        return False
    newer = seq_gt(s.h.seq, c.rcv_nxt) and not (has(c, TF_TS) and s.o.has_ts and fails_paws(c, s))
    if has(c, TF_TS) and s.o.has_ts and <int32_t>(s.o.tsval - c.ts_recent) > 0:
        newer = True
    if not newer or find(s, True) == NULL:
        return False
    count(&s.t.ctx.n, C_TCP_TIMEWAIT_REUSED)
    s.t.isn_floor = c.snd_nxt
    s.t.isn_floor_set = True
    conn_end(c, 0)
    return True
