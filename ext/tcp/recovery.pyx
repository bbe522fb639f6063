"""Loss recovery: see recovery.pxd."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.counters cimport (
    C_TCP_DSACK, C_TCP_FAST_RETRANS, C_TCP_SACK_BAD, C_TCP_SACK_RENEGED, C_TCP_UNDO_DSACK, C_TCP_UNDO_FRTO,
    C_TCP_UNDO_FULL, C_TCP_UNDO_LOSS, C_TCP_UNDO_PARTIAL, count,
)
from ustack._core.base.seq cimport seq_geq, seq_gt, seq_leq, seq_max, seq_t
from ustack._core.base.types cimport NS_NEVER, ns_t
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport (
    CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY, RTX_REORDER, TF2_FRTO, TF2_FRTO_NEW, TF2_PROBE_DUE, TF2_PROBED,
    TF2_REORDERS, TF_FORCE_RTX, TF_SACK, TF_TS, flight, has, mark, tcb, unsent,
)
from ustack._core.tcp.congestion cimport congestion_acked
from ustack._core.tcp.rack cimport rack_detect, rack_dsack, rack_recovered, rack_timeout, rack_update
from ustack._core.tcp.scoreboard cimport (
    RUN_HELD, board_lose_all, board_lose_below, board_renege, board_run, board_sack, board_unlose,
)
from ustack._core.tcp.segment cimport seg_usual
from ustack._core.tcp.timers cimport rtx_arm_in
from ustack._core.tcp.tlp cimport tlp_ack
from ustack._core.tcp.undo cimport (
    undo_all_duplicates, undo_begin, undo_dsack, undo_forget, undo_was_delayed, undo_window,
)
from ustack._core.tcp.window cimport snd_window_left

cdef enum:
    DUP_THRESH = 3


# --- what an ACK says ---------------------------------------------------------------------------------------------
cdef void recovery_open(const tcb *c, const arrival *s, ack_news *a) noexcept nogil:
    memset(a, 0, sizeof(ack_news))
    a.acked = s.h.ack - c.snd_una if seq_gt(s.h.ack, c.snd_una) else 0
    a.k.now = c.home.ctx.now
    # A round trip of nothing at all is one that the clock cannot see.
    a.k.min_rtt = c.min_rtt if 1 < c.min_rtt < NS_NEVER else 0
    a.k.has_echo = has(c, TF_TS) and s.o.has_ts and s.o.tsecr != 0
    a.k.echo = s.o.tsecr - c.ts_offset
    a.k.recover = c.recover
    a.k.highest = c.rack_highest
    a.k.at = c.rack_at
    a.k.end = c.rack_end


cdef bint reports_duplicate(const arrival *s, seq_t start, seq_t end) noexcept nogil:
    """RFC 2883 4: the first block lies below the ACK, or inside the second block."""
    if seq_leq(end, s.h.ack):
        return True
    return s.o.nsack > 1 and seq_geq(start, s.o.sack[1][0]) and seq_leq(end, s.o.sack[1][1])


cdef void recovery_sack(tcb *c, const arrival *s, ack_news *a) noexcept nogil:
    cdef seq_t start, end
    cdef int i
    for i in range(s.o.nsack):
        start = s.o.sack[i][0]
        end = s.o.sack[i][1]
        if seq_geq(start, end) or seq_gt(end, c.snd_nxt):
            count(&c.home.ctx.n, C_TCP_SACK_BAD)
        elif i == 0 and reports_duplicate(s, start, end):
            count(&c.home.ctx.n, C_TCP_DSACK)
            a.dsack = True
            a.dsack_end = end
            a.dsack_n = end - start
        elif seq_gt(start, c.snd_una):
            a.held += board_sack(&c.sb, start, end, &a.k)
            c.rack_highest = seq_max(c.rack_highest, end)
        elif seq_gt(end, c.snd_una):
            count(&c.home.ctx.n, C_TCP_SACK_BAD)


cdef bint reneged(tcb *c) noexcept nogil:
    """The peer once held the byte that it now asks for (RFC 2018 8)."""
    if c.sb.held == 0 or not board_run(&c.sb, 0).fate & RUN_HELD:
        return False
    count(&c.home.ctx.n, C_TCP_SACK_RENEGED)
    board_renege(&c.sb)
    return True


cdef uint32_t detect(tcb *c) noexcept nogil:
    """Ask RACK; returns how many bytes it finds lost. The timer is set for what it does not know yet."""
    cdef uint32_t before = c.sb.lost
    cdef ns_t wait = rack_detect(c)
    if wait:
        rtx_arm_in(c, RTX_REORDER, wait)
    return c.sb.lost - before


# --- the window in recovery ---------------------------------------------------------------------------------------
cdef uint32_t threshold(tcb *c, uint32_t acked) noexcept nogil:
    """ssthresh after a loss, from what was in flight before the ACK that showed it."""
    cdef uint32_t ssthresh
    c.snd_una -= acked
    ssthresh = c.cc.ssthresh(c)
    c.snd_una += acked
    return ssthresh


cdef void prr(tcb *c, uint32_t delivered, bint safe) noexcept nogil:
    """RFC 9937 6.2: while more than ssthresh is in flight, ssthresh / flight of what was delivered may be sent; below
    it as much, and a segment more if this ACK made progress and showed no further loss."""
    cdef int64_t used = pipe(c)
    cdef int64_t n
    if delivered == 0:
        return
    c.prr_delivered += delivered
    if used > c.ssthresh:
        n = <int64_t>((<uint64_t>c.prr_delivered * c.ssthresh + c.prr_flight - 1) // c.prr_flight) - c.prr_out
    else:
        n = max(<int64_t>c.prr_delivered - c.prr_out, <int64_t>delivered)
        if safe:
            n += c.snd_mss
        n = min(n, <int64_t>c.ssthresh - used)
    if c.prr_out == 0 and n < c.snd_mss:
        n = c.snd_mss                   # the first retransmission goes at once
    c.cwnd = max(<uint32_t>(used + (n if n > 0 else 0)), c.snd_mss)


# --- entering and leaving -----------------------------------------------------------------------------------------
cdef void enter_recovery(tcb *c, uint32_t acked, uint32_t delivered) noexcept nogil:
    count(&c.home.ctx.n, C_TCP_FAST_RETRANS)
    undo_begin(c)
    seg_usual(c)
    c.ssthresh = threshold(c, acked)
    c.ca_state = CA_RECOVERY
    c.recover = c.snd_nxt
    c.cwnd_acked = 0
    c.prr_delivered = 0
    c.prr_out = 0
    c.prr_flight = flight(c) + delivered - c.sb.held - c.reno_sacked
    c.flags2 &= ~<uint32_t>(TF2_PROBED | TF2_PROBE_DUE)
    prr(c, delivered if delivered else c.snd_mss, False)
    mark(c)


cdef void leave(tcb *c) noexcept nogil:
    c.ca_state = CA_DISORDER if c.sb.held else CA_OPEN
    c.dupacks = 0
    c.reno_sacked = 0
    c.flags2 &= ~<uint32_t>(TF2_FRTO | TF2_FRTO_NEW)
    rack_recovered(c)
    mark(c)


cdef void undo_recovery(tcb *c, int why) noexcept nogil:
    board_unlose(&c.sb)
    undo_window(c, why)
    c.cc.undo(c)
    c.retries = 0
    leave(c)


cdef void recovery_timeout(tcb *c) noexcept nogil:
    cdef bint again = c.ca_state == CA_LOSS and c.retries > 0
    cdef bint distrust = reneged(c)
    seg_usual(c)
    # RFC 5681 3.1: ssthresh is not lowered again for the same loss.
    if not again and (c.ca_state != CA_RECOVERY or seq_geq(c.snd_una, c.recover)):
        undo_begin(c)
        c.ssthresh = c.cc.ssthresh(c)
    c.flags2 &= ~<uint32_t>(TF2_FRTO | TF2_FRTO_NEW | TF2_PROBED | TF2_PROBE_DUE)
    if not distrust and (again or c.ca_state < CA_RECOVERY):
        c.flags2 |= TF2_FRTO
    if has(c, TF_SACK) and not distrust:
        rack_timeout(c)
    else:
        board_lose_all(&c.sb)
    c.ca_state = CA_LOSS
    c.recover = c.snd_nxt
    c.cwnd_acked = 0
    c.dupacks = 0
    c.reno_sacked = 0
    c.rtt_start = 0
    c.cwnd = pipe(c) + c.snd_mss
    c.flags |= TF_FORCE_RTX
    mark(c)


cdef void recovery_resend_all(tcb *c) noexcept nogil:
    board_lose_all(&c.sb)
    if c.ca_state < CA_RECOVERY:
        undo_forget(c)
        c.ca_state = CA_LOSS
        c.recover = c.snd_nxt
        c.dupacks = 0
    c.reno_sacked = 0
    c.flags |= TF_FORCE_RTX
    mark(c)


cdef void recovery_reorder(tcb *c) noexcept nogil:
    if detect(c) and c.ca_state < CA_RECOVERY:
        enter_recovery(c, 0, 0)
    mark(c)


# --- each ACK -----------------------------------------------------------------------------------------------------
cdef uint32_t count_duplicate(tcb *c) noexcept nogil:
    """No more duplicates can be honest than segments were in flight (RFC 5681 3.2 (4)). Returns the bytes that it
    stands for, without SACK."""
    cdef uint32_t most = c.recover - c.snd_una if c.ca_state == CA_RECOVERY else flight(c)
    if c.dupacks < 255:
        c.dupacks += 1
    if has(c, TF_SACK) or c.reno_sacked + c.snd_mss >= most:
        return 0
    c.reno_sacked += c.snd_mss
    return c.snd_mss


cdef uint32_t take_back_duplicates(tcb *c, uint32_t acked) noexcept nogil:
    """What duplicate ACKs stood for is now acknowledged, except for the segment that filled the hole. Returns the bytes
    that no duplicate ACK has announced."""
    cdef uint32_t known = acked - c.snd_mss if acked > c.snd_mss else 0
    if known > c.reno_sacked:
        known = c.reno_sacked
    c.reno_sacked -= known
    if c.reno_sacked >= flight(c):
        c.reno_sacked = 0
    return acked - known


cdef bint loss_is_certain(tcb *c) noexcept nogil:
    if flight(c) == 0:
        return False
    if has(c, TF_SACK):
        return c.sb.lost > 0
    # RFC 6582 3.2 (1): duplicates of data that was sent again by a former recovery prove nothing.
    return c.dupacks >= DUP_THRESH and seq_gt(c.snd_una, c.recover)


cdef void ack_in_order(tcb *c, ack_news *a, bint grows) noexcept nogil:
    cdef uint32_t delivered = a.k.delivered
    if a.acked:
        c.dupacks = 0
        c.reno_sacked = 0
    if a.duplicate:
        delivered += count_duplicate(c)
    if a.dsack and undo_all_duplicates(c):
        undo_recovery(c, C_TCP_UNDO_DSACK)
    if (c.sb.held or c.sb.resent) and (a.acked or a.k.delivered):
        detect(c)
    if loss_is_certain(c):
        if not has(c, TF_SACK):
            board_lose_below(&c.sb, c.snd_una + c.snd_mss)
        enter_recovery(c, a.acked, delivered)
        return
    c.ca_state = CA_DISORDER if c.dupacks or c.sb.held else CA_OPEN
    if a.acked and grows:
        congestion_acked(c, a.acked)
    elif a.duplicate:
        mark(c)                         # limited transmit (RFC 3042): the pipe is emptier by a segment


cdef void recovery_over(tcb *c, ack_news *a) noexcept nogil:
    """Everything that was in flight when it began is acknowledged."""
    if undo_was_delayed(c, &a.k) or undo_all_duplicates(c):
        undo_recovery(c, C_TCP_UNDO_FULL)
    else:
        c.cwnd = c.ssthresh
        leave(c)
    a.duplicate = False
    ack_in_order(c, a, False)


cdef void ack_in_recovery(tcb *c, ack_news *a) noexcept nogil:
    cdef uint32_t delivered = a.k.delivered
    cdef uint32_t more = 0
    if seq_geq(c.snd_una, c.recover):
        recovery_over(c, a)
        return
    if a.duplicate:
        delivered += count_duplicate(c)
    if a.acked and undo_was_delayed(c, &a.k):
        # The hole was filled by what had only been late. If that holds for all of them, nothing was lost.
        c.flags2 |= TF2_REORDERS
        if c.sb.resent == 0:
            undo_recovery(c, C_TCP_UNDO_PARTIAL)
            return
    if a.dsack and undo_all_duplicates(c):
        undo_recovery(c, C_TCP_UNDO_DSACK)
        return
    if has(c, TF_SACK):
        more = detect(c) if a.k.delivered else 0
    elif a.acked:
        # A partial ACK: what it asks for was sent before the recovery began, and is lost too (RFC 6582 3.2 (3)).
        delivered = take_back_duplicates(c, a.acked)
        if board_lose_below(&c.sb, c.snd_una + c.snd_mss):
            c.flags |= TF_FORCE_RTX
    prr(c, delivered, a.acked and not more)
    mark(c)


cdef bint timeout_was_spurious(tcb *c, ack_news *a) noexcept nogil:
    """F-RTO (RFC 5682 2.1, 3.1): the first ACK after the retransmission lets new data out instead of lost data; what is
    acknowledged next although it was sent only once had only been late."""
    if not c.flags2 & TF2_FRTO:
        return False
    if a.k.original:
        return True
    if seq_gt(c.snd_nxt, c.recover):
        if a.duplicate:
            c.flags2 &= ~<uint32_t>TF2_FRTO
    elif a.acked and seq_gt(c.recover, c.snd_una):
        c.recover = c.snd_nxt
        if unsent(c) and snd_window_left(c):
            c.flags2 |= TF2_FRTO_NEW
        else:
            c.flags2 &= ~<uint32_t>TF2_FRTO
    return False


cdef void ack_in_loss(tcb *c, ack_news *a) noexcept nogil:
    c.flags2 &= ~<uint32_t>TF2_FRTO_NEW
    if a.acked and (undo_was_delayed(c, &a.k) or undo_all_duplicates(c)):
        undo_recovery(c, C_TCP_UNDO_LOSS)
        return
    if timeout_was_spurious(c, a):
        undo_recovery(c, C_TCP_UNDO_FRTO)
        return
    if a.acked:
        congestion_acked(c, a.acked)
        c.reno_sacked = 0
    elif a.duplicate and seq_gt(c.snd_nxt, c.recover):
        count_duplicate(c)              # new data has arrived, sent since: room for lost data
    if has(c, TF_SACK) and a.k.delivered:
        detect(c)
    if seq_geq(c.snd_una, c.recover):
        leave(c)
        a.duplicate = False
        ack_in_order(c, a, False)
    mark(c)


cdef void repaired_by_probe(tcb *c, uint32_t acked) noexcept nogil:
    """A loss like any other, for the window (RFC 8985 7.4.2)."""
    c.ssthresh = threshold(c, acked)
    c.cwnd = min(c.cwnd, c.ssthresh)
    c.cwnd_acked = 0


cdef bint recovery_ack(tcb *c, const arrival *s, ack_news *a) noexcept nogil:
    cdef int kind = c.rtx_kind
    cdef ns_t expires = c.rtx.expires
    rack_update(c, &a.k)
    if a.dsack:
        undo_dsack(c, a.dsack_end, a.dsack_n)
        if not (c.flags2 & TF2_PROBED and a.dsack_end == c.probe_end):
            rack_dsack(c)
    if tlp_ack(c, s.h.ack, a.plain, a.dsack, a.dsack_end) and c.ca_state == CA_OPEN:
        repaired_by_probe(c, a.acked)
    if reneged(c):
        recovery_timeout(c)
    elif c.ca_state == CA_RECOVERY:
        ack_in_recovery(c, a)
    elif c.ca_state == CA_LOSS:
        ack_in_loss(c, a)
    else:
        ack_in_order(c, a, True)
    return c.rtx_kind == RTX_REORDER and (kind != RTX_REORDER or c.rtx.expires != expires)
