"""Undoing needless reductions: see undo.pxd."""

from libc.stdint cimport int32_t, uint32_t

from ustack._core.base.counters cimport C_TCP_SPURIOUS, count
from ustack._core.base.seq cimport seq_gt, seq_leq, seq_t
from ustack._core.tcp.block cimport TF2_FRTO, TF2_FRTO_NEW, TF2_RESENT, TF2_UNDO, tcb
from ustack._core.tcp.rtt cimport TS_TICK_NS
from ustack._core.tcp.scoreboard cimport scored


cdef void undo_begin(tcb *c) noexcept nogil:
    c.prior_cwnd = c.cwnd
    c.prior_ssthresh = c.ssthresh
    c.undo_una = c.snd_una
    c.undo_resent = c.sb.resent         # a tail loss probe under way may be reported as well
    c.flags2 = (c.flags2 & ~<uint32_t>TF2_RESENT) | TF2_UNDO


cdef void undo_resent(tcb *c, uint32_t n) noexcept nogil:
    if not c.flags2 & TF2_UNDO:
        return
    if not c.flags2 & TF2_RESENT:
        c.flags2 |= TF2_RESENT
        c.resent_ts = <uint32_t>(c.home.ctx.now // TS_TICK_NS)
    c.undo_resent += n


cdef void undo_dsack(tcb *c, seq_t end, uint32_t n) noexcept nogil:
    if c.flags2 & TF2_RESENT and seq_leq(end, c.snd_una) and seq_gt(end, c.undo_una):
        c.undo_resent -= n if n < c.undo_resent else c.undo_resent


cdef bint undo_all_duplicates(const tcb *c) noexcept nogil:
    return c.flags2 & TF2_UNDO and c.flags2 & TF2_RESENT and c.undo_resent == 0


cdef bint undo_was_delayed(const tcb *c, const scored *s) noexcept nogil:
    return (c.flags2 & TF2_UNDO and c.flags2 & TF2_RESENT and s.has_echo
            and <int32_t>(s.echo - c.resent_ts) < 0)


cdef void undo_forget(tcb *c) noexcept nogil:
    c.flags2 &= ~<uint32_t>(TF2_UNDO | TF2_RESENT | TF2_FRTO | TF2_FRTO_NEW)


cdef void undo_window(tcb *c, int why) noexcept nogil:
    count(&c.home.ctx.n, why)
    count(&c.home.ctx.n, C_TCP_SPURIOUS)
    c.cwnd = max(c.cwnd, c.prior_cwnd)
    c.ssthresh = max(c.ssthresh, c.prior_ssthresh)
    undo_forget(c)
