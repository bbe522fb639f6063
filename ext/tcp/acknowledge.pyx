"""The fifth step of input: see acknowledge.pxd."""

from libc.stdint cimport int32_t, uint32_t

from ustack._core.base.codes cimport EV_OUT
from ustack._core.base.counters cimport C_TCP_ACK_FUTURE, C_TCP_ACK_OLD, C_TCP_FLAGS, count
from ustack._core.base.seq cimport seq_geq, seq_gt, seq_leq, seq_lt, seq_max, seq_t
from ustack._core.base.types cimport ns_t
from ustack._core.inet.inet cimport path_confirm
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport (
    CA_LOSS,
    RTX_NONE, RTX_PERSIST, TF2_WANT_OUT, TF_NOSPACE, TF_PATH, TF_SACK, TF_SHUT_WR, TF_TS, flight, has, mark,
    mostly_sent, snd_limit, tcb, tcb_post,
)
from ustack._core.tcp.close cimport fin_acknowledged
from ustack._core.tcp.input cimport challenge, update_ts_recent
from ustack._core.tcp.listen cimport handshake_done
from ustack._core.tcp.queue cimport snd_queued, sq_release
from ustack._core.tcp.recovery cimport ack_news, recovery_ack, recovery_open, recovery_sack
from ustack._core.tcp.rtt cimport TS_TICK_NS, rtt_sample, ts_now
from ustack._core.tcp.scoreboard cimport board_ack
from ustack._core.tcp.segment cimport seg_reset_reply
from ustack._core.tcp.tcp cimport TCPS_SYN_RECEIVED
from ustack._core.tcp.timers cimport rtx_arm, rtx_restart
from ustack._core.wire.tcp cimport TH_ACK, TH_FIN, TH_SYN


cdef bint check_ack(tcb *c, arrival *s) noexcept nogil:
    if not s.h.flags & TH_ACK:
        count(&s.t.ctx.n, C_TCP_FLAGS)
        return False
    if c.state == TCPS_SYN_RECEIVED and not completes_handshake(c, s):
        return False
    if not acceptable(c, s):
        return False
    update_ts_recent(c, s)
    c.last_rcv = s.t.ctx.now
    c.error_soft = 0
    process(c, s)
    # Our FIN may have been acknowledged: the block may be in another state now, or gone.
    return not (has(c, TF_SHUT_WR) and c.snd_una == c.snd_end + 1) or fin_acknowledged(c)


cdef bint completes_handshake(tcb *c, arrival *s) noexcept nogil:
    """SYN-RECEIVED: the ACK of our SYN and nothing else."""
    if seq_leq(s.h.ack, c.snd_una) or seq_gt(s.h.ack, c.snd_nxt):
        seg_reset_reply(s.t, s.ip, &s.h, s.n)
        return False
    return handshake_done(c, s)


cdef uint32_t oldest(const tcb *c) noexcept nogil:
    """How far behind SND.UNA an ACK may be."""
    return c.snd_wnd_max if c.bytes_acked >= c.snd_wnd_max else <uint32_t>c.bytes_acked + 1     # and the SYN


cdef bint acceptable(tcb *c, arrival *s) noexcept nogil:
    """SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT, or a challenge (RFC 5961 5.2); and as on Linux, no ACK of what was
    never sent, however large the window: it would let whoever guesses add text to a young connection."""
    if seq_gt(s.h.ack, c.snd_nxt):
        count(&s.t.ctx.n, C_TCP_ACK_FUTURE)
        challenge(c)
        return False
    if seq_lt(s.h.ack, c.snd_una) and c.snd_una - s.h.ack > oldest(c):
        count(&s.t.ctx.n, C_TCP_ACK_OLD)
        challenge(c)
        return False
    return True


cdef void process(tcb *c, arrival *s) noexcept nogil:
    """Round trip time, progress, SACK, window, recovery: in the order in which they need each other."""
    cdef ack_news a
    cdef bint window_changed, reordering
    if seq_gt(s.h.ack, c.snd_una):
        measure(c, s)
    recovery_open(c, s, &a)
    if a.acked:
        advance(c, s.h.ack, &a)
    if s.o.nsack and has(c, TF_SACK):
        recovery_sack(c, s, &a)
    window_changed = take_window(c, s, a.acked)
    a.plain = not a.acked and s.n == 0 and s.o.nsack == 0 and not window_changed
    a.duplicate = not a.acked and is_duplicate(c, s, a.held, window_changed)
    if a.acked or a.duplicate or a.held or a.dsack or a.plain:
        reordering = recovery_ack(c, s, &a)
        if a.acked:
            restart_timer(c, reordering)
            tell_writer(c)
    if not a.acked and c.rtx_kind == RTX_PERSIST:
        c.probes = 0                    # the peer lives; the window is its own business (RFC 9293 3.8.6.1)
    if c.snd_nxt != snd_limit(c):
        mark(c)


cdef bint is_duplicate(const tcb *c, const arrival *s, uint32_t held, bint window_changed) noexcept nogil:
    """RFC 5681 2; with SACK an ACK that brings a new block counts, and no other (RFC 6675 2)."""
    if has(c, TF_SACK):
        return held > 0
    return (s.h.ack == c.snd_una and flight(c) > 0 and s.n == 0 and not s.h.flags & (TH_SYN | TH_FIN)
            and not window_changed)


cdef bint take_window(tcb *c, arrival *s, uint32_t acked) noexcept nogil:
    """SND.WND from the newest segment (RFC 9293 3.10.7.4); whether it changed."""
    cdef uint32_t window = <uint32_t>s.h.window << c.snd_wscale
    cdef bint changed
    if seq_lt(s.h.ack, c.snd_una):
        return False
    # What acknowledges more is newer, whatever its number: the window counts from what it acknowledges, and the old
    # one counted from there would reach farther than was ever offered.
    if not (acked or seq_lt(c.snd_wl1, s.h.seq) or (c.snd_wl1 == s.h.seq and seq_leq(c.snd_wl2, s.h.ack))):
        return False
    c.snd_wl1 = s.h.seq
    c.snd_wl2 = s.h.ack
    changed = window != c.snd_wnd
    if changed:
        c.snd_wnd = window
        if window > c.snd_wnd_max:
            c.snd_wnd_max = window
        if window and c.rtx_kind == RTX_PERSIST:
            c.backoff = 0
            rtx_arm(c, RTX_NONE)
    return changed


cdef void measure(tcb *c, const arrival *s) noexcept nogil:
    """RFC 6298 3 by the one segment that is timed, to the ns; else, and while segments are sent again, by the echo
    of our timestamp (RFC 7323 4.1), to the ms.

    After a time-out the echo may be that of an earlier transmission whose ACK was lost: the peer does not take the
    timestamp of a duplicate that lies outside its window (RFC 7323 5.3 R2). What passed since then is the time-out
    itself, and taken for a round trip it would double the next one, again and again."""
    cdef int32_t ticks
    if c.rtt_start and seq_geq(s.h.ack, c.rtt_seq):
        rtt_sample(c, s.t.ctx.now - c.rtt_start)
        c.rtt_start = 0
    elif has(c, TF_TS) and s.o.has_ts and s.o.tsecr and c.rtt_start == 0:
        if c.ca_state == CA_LOSS and <int32_t>(s.o.tsecr - c.rtx_ts) < 0:
            return
        ticks = <int32_t>(ts_now(c) - s.o.tsecr)
        if 0 <= ticks < 10 * 60 * 1000:
            rtt_sample(c, <ns_t>ticks * TS_TICK_NS)


cdef void advance(tcb *c, seq_t ack, ack_news *a) noexcept nogil:
    c.snd_una = ack
    board_ack(&c.sb, ack, &a.k)
    c.rack_highest = seq_max(c.rack_highest, ack)
    c.bytes_acked += a.acked
    c.progress = c.home.ctx.now
    sq_release(c, c.snd_end if seq_gt(ack, c.snd_end) else ack)
    if has(c, TF_PATH) and c.way.nbr != NULL:
        path_confirm(c.home.net, &c.way)


cdef void restart_timer(tcb *c, bint reordering) noexcept nogil:
    """RFC 6298 5.2 and 5.3. The back-off stays until a segment that was sent once is acknowledged."""
    c.retries = 0
    c.probes = 0
    if flight(c) == 0:
        rtx_arm(c, RTX_NONE)
    elif not reordering:
        rtx_restart(c)


cdef void tell_writer(tcb *c) noexcept nogil:
    if ((has(c, TF_NOSPACE) or c.flags2 & TF2_WANT_OUT) and snd_queued(c) <= c.sndbuf - c.sndbuf // 3
            and mostly_sent(c)):
        c.flags &= ~TF_NOSPACE
        c.flags2 &= ~<uint32_t>TF2_WANT_OUT
        tcb_post(c, EV_OUT)
