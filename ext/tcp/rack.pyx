"""RACK: see rack.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.base.counters cimport C_TCP_LOST_RETRANS, C_TCP_RACK_REORDER, count
from ustack._core.base.seq cimport seq_geq, seq_t
from ustack._core.base.types cimport NS_MS, NS_NEVER, ns_t
from ustack._core.tcp.block cimport (
    CA_RECOVERY, TF2_DSACK_ROUND, TF2_FRTO, TF2_FRTO_NEW, TF2_PROBE_DUE, TF2_PROBE_RESENT, TF2_PROBED, TF2_REORDERS,
    TF2_RESENT, TF2_UNDO, sent_run, tcb,
)
from ustack._core.tcp.scoreboard cimport (
    RUN_RESENT, board_end, board_held, board_lose, board_lose_all, board_run, in_flight, scored, sent_after,
)

cdef enum:
    DUP_THRESH = 3              # RFC 6675 2
    REO_PERSIST = 16            # recoveries without a DSACK, after which the window is small again
    REO_LEAST_MS = 1            # below this a difference is the noise of schedulers and of interrupts


cdef void rack_init(tcb *c) noexcept nogil:
    c.rack_at = 0
    c.rack_rtt = 0
    c.rack_end = c.snd_una
    c.rack_highest = c.snd_una
    c.reo_mult = 1
    c.reo_persist = 0
    c.flags2 &= ~<uint32_t>(
        TF2_REORDERS | TF2_DSACK_ROUND | TF2_PROBE_DUE | TF2_PROBED | TF2_PROBE_RESENT | TF2_UNDO | TF2_RESENT
        | TF2_FRTO | TF2_FRTO_NEW)


cdef void rack_update(tcb *c, const scored *s) noexcept nogil:
    if s.at != c.rack_at or s.end != c.rack_end:
        c.rack_at = s.at
        c.rack_end = s.end
        c.rack_rtt = s.now - s.at
    if s.reordered and not c.flags2 & TF2_REORDERS:
        c.flags2 |= TF2_REORDERS
        count(&c.home.ctx.n, C_TCP_RACK_REORDER)


cdef void rack_dsack(tcb *c) noexcept nogil:
    """The window grows once per round trip in which something was sent again for nothing."""
    if c.flags2 & TF2_DSACK_ROUND and seq_geq(c.snd_una, c.dsack_round):
        c.flags2 &= ~<uint32_t>TF2_DSACK_ROUND
    if c.flags2 & TF2_DSACK_ROUND or not c.flags2 & TF2_REORDERS:
        return
    c.flags2 |= TF2_DSACK_ROUND
    c.dsack_round = c.snd_nxt
    c.reo_persist = REO_PERSIST
    if c.reo_mult < 255:
        c.reo_mult += 1


cdef void rack_recovered(tcb *c) noexcept nogil:
    if c.reo_persist:
        c.reo_persist -= 1
    if c.reo_persist == 0:
        c.reo_mult = 1


cdef bint threshold_reached(const tcb *c) noexcept nogil:
    """DupThresh segments are held, as RFC 6675 2 and 4 count them."""
    return (c.sb.held > (DUP_THRESH - 1) * c.snd_mss or (c.sb.held and c.dupacks >= DUP_THRESH)
            or board_held(&c.sb, DUP_THRESH) >= DUP_THRESH)


cdef ns_t reordering_window(const tcb *c) noexcept nogil:
    cdef ns_t wait
    if not c.flags2 & TF2_REORDERS and (c.ca_state >= CA_RECOVERY or threshold_reached(c)):
        return 0
    if c.min_rtt == NS_NEVER:
        return REO_LEAST_MS * NS_MS
    wait = min(c.reo_mult * (c.min_rtt >> 2), c.srtt)
    return wait if wait > REO_LEAST_MS * NS_MS else REO_LEAST_MS * NS_MS


cdef inline bint overtaken(const tcb *c, const sent_run *r, seq_t end) noexcept nogil:
    """Whether something that was sent later has been delivered. At one instant what is sent again comes after what was
    sent before it, whatever the sequence numbers say."""
    if r.at == c.rack_at and r.fate & RUN_RESENT:
        return False
    return sent_after(c.rack_at, c.rack_end, r.at, end)


cdef ns_t rack_detect(tcb *c) noexcept nogil:
    cdef ns_t patience = c.rack_rtt + reordering_window(c)
    cdef ns_t now = c.home.ctx.now
    cdef ns_t longest = 0
    cdef ns_t left
    cdef sent_run *r
    cdef int i
    for i in range(c.sb.n):
        r = board_run(&c.sb, i)
        if not in_flight(r) or not overtaken(c, r, board_end(&c.sb, i)):
            continue
        left = r.at + patience - now
        if left > 0:
            longest = left if left > longest else longest
            continue
        if r.fate & RUN_RESENT:
            count(&c.home.ctx.n, C_TCP_LOST_RETRANS)
        board_lose(&c.sb, i)
    return longest


cdef void rack_timeout(tcb *c) noexcept nogil:
    cdef ns_t now = c.home.ctx.now
    cdef int i
    if c.rack_rtt == 0:
        board_lose_all(&c.sb)
        return
    for i in range(c.sb.n):
        if i == 0 or board_run(&c.sb, i).at + c.rack_rtt <= now:
            board_lose(&c.sb, i)
