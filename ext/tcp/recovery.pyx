"""Loss recovery: see recovery.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.base.counters cimport C_TCP_FAST_RETRANS, C_TCP_SACK_BAD, C_TCP_SACK_RENEGED, count
from ustack._core.base.seq cimport seq_geq, seq_gt, seq_max, seq_min, seq_t
from ustack._core.tcp.block cimport (
    CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY, TF_FORCE_RTX, TF_SACK, flight, has, mark, tcb,
)
from ustack._core.tcp.congestion cimport congestion_acked
from ustack._core.tcp.sack cimport sack_add, sack_advance, sack_clear, sack_lost_below, sack_within
from ustack._core.wire.tcp cimport tcp_options

cdef enum:
    DUP_THRESH = 3


# --- what is in the network ---------------------------------------------------------------------------------------
cdef uint32_t lost_unsent(const tcb *c) noexcept nogil:
    cdef seq_t start = seq_max(c.rtx_nxt, c.snd_una)
    cdef seq_t end = seq_min(c.lost_edge, c.snd_nxt)
    if seq_geq(start, end):
        return 0
    return (end - start) - sack_within(&c.sb, start, end)


cdef uint32_t pipe(const tcb *c) noexcept nogil:
    cdef uint32_t out = c.sb.total + c.reno_sacked
    if c.ca_state >= CA_RECOVERY:
        out += lost_unsent(c)
    return flight(c) - out if flight(c) > out else 0


# --- selective acknowledgements -----------------------------------------------------------------------------------
cdef uint32_t recovery_sack(tcb *c, const tcp_options *o, seq_t ack) noexcept nogil:
    """Blocks at or below the ACK are reports of duplicates (RFC 2883) and bring nothing; others must lie in
    (ack, snd_nxt]."""
    cdef uint32_t fresh = 0
    cdef seq_t start, end
    cdef int i
    for i in range(o.nsack):
        start = o.sack[i][0]
        end = o.sack[i][1]
        if seq_geq(start, end) or seq_gt(end, c.snd_nxt):
            count(&c.home.ctx.n, C_TCP_SACK_BAD)
        elif seq_gt(start, ack):
            fresh += sack_add(&c.sb, start, end)
        elif seq_gt(end, ack):
            count(&c.home.ctx.n, C_TCP_SACK_BAD)
    return fresh


cdef bint reneged(tcb *c) noexcept nogil:
    """The peer once held the byte that it now asks for (RFC 2018 8)."""
    if c.sb.n == 0 or c.sb.v[0].start != c.snd_una:
        return False
    count(&c.home.ctx.n, C_TCP_SACK_RENEGED)
    sack_clear(&c.sb)
    return True


# --- entering and leaving -----------------------------------------------------------------------------------------
cdef bint loss_is_certain(const tcb *c) noexcept nogil:
    if flight(c) == 0:
        return False
    if has(c, TF_SACK):
        return (c.dupacks >= DUP_THRESH and c.sb.n) or sack_lost_below(&c.sb, c.snd_una, c.snd_mss) != c.snd_una
    # RFC 6582 3.2 (1): duplicates of data that was sent again by a former recovery prove nothing.
    return c.dupacks >= DUP_THRESH and seq_gt(c.snd_una, c.recover)


cdef void enter_recovery(tcb *c) noexcept nogil:
    count(&c.home.ctx.n, C_TCP_FAST_RETRANS)
    c.ssthresh = c.cc.ssthresh(c)
    c.ca_state = CA_RECOVERY
    c.recover = c.snd_nxt
    c.cwnd = c.ssthresh
    c.cwnd_acked = 0
    c.rtx_nxt = c.snd_una
    c.lost_edge = seq_max(c.snd_una + c.snd_mss, sack_lost_below(&c.sb, c.snd_una, c.snd_mss))
    c.flags |= TF_FORCE_RTX
    mark(c)


cdef void leave(tcb *c) noexcept nogil:
    c.ca_state = CA_DISORDER if c.sb.n else CA_OPEN
    c.dupacks = 0
    c.reno_sacked = 0
    c.lost_edge = c.snd_una
    c.rtx_nxt = c.snd_una


cdef void recovery_timeout(tcb *c) noexcept nogil:
    if c.retries == 0:                  # RFC 5681 3.1: ssthresh is not lowered again for the same loss
        c.ssthresh = c.cc.ssthresh(c)
    reneged(c)
    c.ca_state = CA_LOSS
    c.recover = c.snd_nxt
    c.cwnd = c.snd_mss
    c.cwnd_acked = 0
    c.dupacks = 0
    c.reno_sacked = 0
    c.rtx_nxt = c.snd_una
    c.lost_edge = c.snd_nxt
    c.rtt_start = 0
    c.flags |= TF_FORCE_RTX


# --- each ACK -----------------------------------------------------------------------------------------------------
cdef void count_duplicate(tcb *c) noexcept nogil:
    # No more duplicates can be honest than segments were in flight (RFC 5681 3.2 (4)).
    cdef uint32_t most = c.recover - c.snd_una if c.ca_state == CA_RECOVERY else flight(c)
    if c.dupacks < 255:
        c.dupacks += 1
    if not has(c, TF_SACK) and c.reno_sacked + c.snd_mss < most:
        c.reno_sacked += c.snd_mss


cdef void ack_in_order(tcb *c, uint32_t acked, bint duplicate) noexcept nogil:
    if acked:
        c.dupacks = 0
        c.reno_sacked = 0
    if duplicate:
        count_duplicate(c)
    if loss_is_certain(c):
        enter_recovery(c)
        return
    c.ca_state = CA_DISORDER if c.dupacks or c.sb.n else CA_OPEN
    if acked:
        congestion_acked(c, acked)
    elif duplicate:
        mark(c)                         # limited transmit (RFC 3042): the pipe is emptier by a segment


cdef void ack_in_recovery(tcb *c, uint32_t acked, bint duplicate) noexcept nogil:
    if seq_geq(c.snd_una, c.recover):
        leave(c)
        return
    if duplicate:
        count_duplicate(c)
    if acked and not has(c, TF_SACK):
        c.reno_sacked -= acked - c.snd_mss if c.snd_mss < acked < c.reno_sacked + c.snd_mss else 0
        if c.reno_sacked >= flight(c):
            c.reno_sacked = 0
    if acked and (not has(c, TF_SACK) or c.sb.n) and seq_geq(c.snd_una, c.rtx_nxt):
        # A partial ACK: what it asks for was sent before the recovery began, and is lost too (RFC 6582 3.2 (3)).
        c.rtx_nxt = c.snd_una
        c.lost_edge = seq_max(c.lost_edge, c.snd_una + c.snd_mss)
        c.flags |= TF_FORCE_RTX
    c.lost_edge = seq_max(c.lost_edge, sack_lost_below(&c.sb, c.snd_una, c.snd_mss))
    mark(c)


cdef void ack_in_loss(tcb *c, uint32_t acked) noexcept nogil:
    if seq_geq(c.snd_una, c.recover):
        leave(c)
    if acked:
        congestion_acked(c, acked)
    mark(c)


cdef void recovery_ack(tcb *c, uint32_t acked, bint duplicate) noexcept nogil:
    if c.sb.n:
        sack_advance(&c.sb, c.snd_una)
        if reneged(c):
            recovery_timeout(c)
            mark(c)
            return
    if c.ca_state == CA_RECOVERY:
        ack_in_recovery(c, acked, duplicate)
    elif c.ca_state == CA_LOSS:
        ack_in_loss(c, acked)
    else:
        ack_in_order(c, acked, duplicate)
