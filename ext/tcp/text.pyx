"""The seventh and eighth step of input: see text.pxd."""

from libc.errno cimport ECONNRESET
from libc.stdint cimport uint32_t

from ustack._core.base.codes cimport EV_HUP, EV_IN
from ustack._core.base.counters cimport (
    C_TCP_ABORT_UNREAD, C_TCP_OOO_LIMIT, C_TCP_OUT_OF_ORDER, C_TCP_RCVBUF, C_TCP_RCV_MEMORY, C_TCP_RX_BYTES,
    count, count_n,
)
from ustack._core.base.seq cimport seq_gt, seq_lt, seq_t
from ustack._core.mem.mblk cimport adjmsg, mblk, msgconsume
from ustack._core.tcp.ack cimport ack_data, ack_loss, ack_soon, ack_with_answer
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport (
    TF_DSACK, TF_FIN_KNOWN, TF_FIN_RCVD, TF_ORPHAN, TF_SACK, TF_SHUT_RD, has, interval, tcb, tcb_post,
)
from ustack._core.tcp.close cimport conn_end, enter_time_wait
from ustack._core.tcp.pressure cimport pressure_keeps
from ustack._core.tcp.queue cimport rcv_held, rq_append, rq_collapse, storage_of
from ustack._core.tcp.reassembly cimport ooo_add, ooo_free, ooo_prune, ooo_take
from ustack._core.tcp.segment cimport seg_ack, seg_reset_reply
from ustack._core.tcp.tcp cimport (
    TCPS_CLOSE_WAIT, TCPS_CLOSING, TCPS_ESTABLISHED, TCPS_FIN_WAIT_1, TCPS_FIN_WAIT_2, TCPS_SYN_RECEIVED,
)
from ustack._core.tcp.tuning cimport tuning_measure
from ustack._core.wire.tcp cimport TH_FIN

cdef enum:
    HELD_SLACK = 64 * 1024      # storage beyond twice the buffer that is no reason to act


# --- seventh: text ------------------------------------------------------------------------------------------------
cdef bint nobody_will_read(const tcb *c) noexcept nogil:
    """The user closed, or shut both directions, and bytes come all the same (RFC 9293 3.10.4, RFC 2525 2.17)."""
    return has(c, TF_ORPHAN) or (has(c, TF_SHUT_RD) and c.state in (TCPS_FIN_WAIT_1, TCPS_FIN_WAIT_2))


cdef bint take_text(tcb *c, arrival *s) noexcept nogil:
    cdef seq_t seq = s.h.seq
    cdef mblk *m
    if s.n == 0:
        return True
    if c.state not in (TCPS_ESTABLISHED, TCPS_FIN_WAIT_1, TCPS_FIN_WAIT_2):
        return True                     # the peer has sent its FIN: there can be no more text
    if nobody_will_read(c) and seq_gt(seq + s.n, c.rcv_nxt):
        count(&s.t.ctx.n, C_TCP_ABORT_UNREAD)
        seg_reset_reply(s.t, s.ip, &s.h, s.n)
        conn_end(c, ECONNRESET)
        return False
    m = trim(c, s)
    if m == NULL:
        ack_soon(c)
    elif s.h.seq == c.rcv_nxt and c.ooo.n == 0:
        tuning_measure(c, s)
        deliver(c, m, s.n, s.size)
    else:
        keep(c, s, m)
    return True


cdef mblk *payload_of(arrival *s) noexcept nogil:
    """The windows on the payload: the header's block goes where nothing of it is needed."""
    cdef mblk *m = s.m
    s.m = NULL
    return msgconsume(m, s.h.data_offset)


cdef mblk *trim(tcb *c, arrival *s) noexcept nogil:
    """Cut off what was received before, what lies beyond the window (or beyond a FIN), and the buffer's last
    resort. s.h.seq and s.n follow. NULL: nothing is left."""
    cdef mblk *m
    cdef seq_t edge = c.rcv_adv
    cdef uint32_t cut
    if has(c, TF_FIN_KNOWN) and seq_lt(c.rcv_fin, edge):
        edge = c.rcv_fin
    if seq_gt(s.h.seq + s.n, edge):
        s.h.flags &= ~TH_FIN
        ack_soon(c)                     # it was told that there is no room
        cut = s.h.seq + s.n - edge
        if cut >= s.n:
            return NULL
        s.n -= cut
        adjmsg(s.m, -<ssize_t>cut)
    cut = 0
    if seq_lt(s.h.seq, c.rcv_nxt):
        cut = c.rcv_nxt - s.h.seq
        ack_loss(c)
        if has(c, TF_SACK):
            c.dsack.start = s.h.seq
            c.dsack.end = c.rcv_nxt if cut < s.n else s.h.seq + s.n
            c.flags |= TF_DSACK
        ack_soon(c)
        if cut >= s.n:
            return NULL
    if not room_for(c, s.m):
        count(&s.t.ctx.n, C_TCP_RCVBUF)
        return NULL
    if not pressure_keeps(c, storage_of(s.m)):
        ooo_free(&c.ooo)                # what is out of order is of use to nobody yet
        count(&s.t.ctx.n, C_TCP_RCV_MEMORY)
        return NULL
    m = payload_of(s)
    if cut:
        m = msgconsume(m, cut)
        s.h.seq += cut
        s.n -= cut
    return m


cdef bint room_for(tcb *c, const mblk *m) noexcept nogil:
    """Storage is bounded by twice the buffer. What is sparse is packed first; then out-of-order data goes, which
    the peer has to send again; data in order is refused last."""
    cdef uint32_t more = storage_of(m)
    cdef uint32_t limit = 2 * c.rcvbuf + HELD_SLACK
    rq_collapse(c, rcv_held(c) + more > limit)
    while rcv_held(c) + more > limit and ooo_prune(&c.ooo):
        count(&c.home.ctx.n, C_TCP_OOO_LIMIT)
    return rcv_held(c) + more <= limit and c.rq_len < c.rcvbuf + HELD_SLACK


cdef void book(tcb *c, mblk *taken, uint32_t n) noexcept nogil:
    rq_append(c, taken, n)
    c.rcv_nxt += n
    c.bytes_received += n
    count_n(&c.home.ctx.n, C_TCP_RX_BYTES, n)


cdef void deliver(tcb *c, mblk *taken, uint32_t n, uint32_t size) noexcept nogil:
    """In order, nothing waiting behind: the fast path."""
    book(c, taken, n)
    ack_data(c, size)
    tell_reader(c)


cdef void tell_reader(tcb *c) noexcept nogil:
    if c.rq_len >= c.rcvlowat or c.rq_len >= c.rcvbuf:
        tcb_post(c, EV_IN)


cdef bint note_fin(tcb *c, const arrival *s) noexcept nogil:
    """Whether the segment brings the FIN for the first time: then it is remembered, and nothing lies behind it."""
    if not s.h.flags & TH_FIN or has(c, TF_FIN_KNOWN):
        return False
    c.rcv_fin = s.h.seq + s.n
    c.flags |= TF_FIN_KNOWN
    if c.ooo.n and seq_gt(c.ooo.v[c.ooo.n - 1].end, c.rcv_fin):
        ooo_free(&c.ooo)                # what came early contradicts it: what lies before it is sent again
    return True


cdef bint fin_is_next(const tcb *c, const arrival *s) noexcept nogil:
    if has(c, TF_FIN_KNOWN):
        return c.rcv_nxt == c.rcv_fin
    return (s.h.flags & TH_FIN) != 0 and s.h.seq + s.n == c.rcv_nxt


cdef void keep(tcb *c, arrival *s, mblk *taken) noexcept nogil:
    """Out of order, or filling a gap: every such segment is acknowledged at once (RFC 5681 4.2)."""
    cdef interval dup
    cdef seq_t before = c.rcv_nxt
    cdef uint32_t more = 0
    cdef uint32_t total = c.ooo.total
    cdef int added
    cdef uint32_t _
    cdef mblk *m
    if s.h.seq != c.rcv_nxt:
        count(&s.t.ctx.n, C_TCP_OUT_OF_ORDER)
        ack_loss(c)
    note_fin(c, s)
    added = ooo_add(&c.ooo, c.home.ctx.mem, taken, s.h.seq, s.n, &dup)
    if added < 0 or c.ooo.total != total + <uint32_t>added:     # dropped, or another run for its sake
        count(&s.t.ctx.n, C_TCP_OOO_LIMIT)
    if dup.start != dup.end and has(c, TF_SACK):
        c.dsack = dup
        c.flags |= TF_DSACK
    while True:
        m = ooo_take(&c.ooo, c.rcv_nxt)
        if m == NULL:
            break
        book(c, m, m.mark)
    if c.rcv_nxt != before:
        tell_reader(c)
    elif not has(c, TF_SACK):
        more = (s.n - 1) // s.size      # coalesced: the peer counts duplicate ACKs, it has nothing else to go by
    if not fin_is_next(c, s):           # else one ACK tells of the FIN as well
        for _ in range(more + 1):
            seg_ack(c)


# --- eighth: FIN --------------------------------------------------------------------------------------------------
cdef void check_fin(tcb *c, arrival *s) noexcept nogil:
    """A FIN counts when everything before it is here; one that came early is remembered."""
    note_fin(c, s)
    if s.h.flags & TH_FIN and s.n == 0 and s.h.seq == c.rcv_fin and seq_gt(c.rcv_fin, c.rcv_nxt):
        if has(c, TF_SACK) and not (c.ooo.n and c.ooo.v[c.ooo.n - 1].end == c.rcv_fin):
            c.dsack.start = c.rcv_fin   # the block of what has just come is the first (RFC 2018 4)
            c.dsack.end = c.rcv_fin + 1
            c.flags |= TF_DSACK
        seg_ack(c)                      # out of order, like data
    if has(c, TF_FIN_KNOWN) and not has(c, TF_FIN_RCVD) and c.rcv_nxt == c.rcv_fin:
        fin_received(c)


cdef void fin_received(tcb *c) noexcept nogil:
    c.flags |= TF_FIN_RCVD
    c.rcv_nxt += 1
    if seq_gt(c.rcv_nxt, c.rcv_adv):
        c.rcv_adv = c.rcv_nxt
    tcb_post(c, EV_IN)
    if c.state == TCPS_ESTABLISHED or c.state == TCPS_SYN_RECEIVED:
        c.state = TCPS_CLOSE_WAIT
    elif c.state == TCPS_FIN_WAIT_1:
        c.state = TCPS_CLOSING          # our FIN is not acknowledged, or it would be FIN-WAIT-2
    elif c.state == TCPS_FIN_WAIT_2:
        enter_time_wait(c)
    if c.state == TCPS_CLOSE_WAIT:
        ack_with_answer(c)
    else:
        ack_soon(c)
    if has(c, TF_SHUT_RD) or c.state != TCPS_CLOSE_WAIT:
        tcb_post(c, EV_HUP)
