"""What happens when time passes: see timers.pxd."""

from libc.errno cimport EIO, ETIMEDOUT

from ustack._core.base.counters cimport (
    C_FILE_LOST, C_TCP_ABORT_TIMEOUT, C_TCP_FINWAIT2_TIMEOUT, C_TCP_KEEPALIVE, C_TCP_PROBE, C_TCP_RETRANS, C_TCP_RTO,
    count,
)
from ustack._core.base.types cimport NS_MS, NS_NEVER, NS_SEC, ns_t
from ustack._core.base.wheel cimport timer_arm, timer_init, timer_stop
from ustack._core.mem.mblk cimport DB_BROKEN
from ustack._core.tcp.ack cimport delack_fire
from ustack._core.tcp.block cimport (
    CA_OPEN, LIFE_FIN_WAIT_2, LIFE_KEEPALIVE, LIFE_NONE, LIFE_TIME_WAIT, RTX_DATA, RTX_NONE, RTX_PERSIST, RTX_PROBE,
    RTX_REORDER, RTX_SYN, TF2_PROBE_DUE, TF_KEEPALIVE, TF_ORPHAN, TF_PUSH, flight, has, mark, snd_limit, tcb,
)
from ustack._core.tcp.close cimport conn_abort, conn_end
from ustack._core.tcp.recovery cimport recovery_reorder, recovery_timeout
from ustack._core.tcp.rtt cimport rto_backed_off
from ustack._core.tcp.scoreboard cimport board_run
from ustack._core.tcp.segment cimport seg_probe, seg_syn
from ustack._core.tcp.tcp cimport TCPS_CLOSE_WAIT, TCPS_ESTABLISHED, TCPS_FIN_WAIT_2, TCPS_SYN_SENT
from ustack._core.tcp.tlp cimport tlp_wait
from ustack._core.tcp.window cimport snd_window_left


cdef void timers_init(tcb *c) noexcept nogil:
    timer_init(&c.rtx, rtx_fire, c)
    timer_init(&c.delack, delack_fire, c)
    timer_init(&c.life, life_fire, c)


# --- the timer rtx ------------------------------------------------------------------------------------------------
cdef void rtx_arm(tcb *c, int kind) noexcept nogil:
    cdef ns_t wait = rto_backed_off(c)
    c.rtx_kind = kind
    if kind == RTX_NONE:
        timer_stop(&c.home.ctx.timers, &c.rtx)
        return
    if kind == RTX_PERSIST and wait > PERSIST_MAX_S * NS_SEC:
        wait = PERSIST_MAX_S * NS_SEC
    rtx_arm_in(c, kind, wait)


cdef ns_t bounded(const tcb *c, ns_t wait) noexcept nogil:
    """Not beyond the end of the user timeout (as Linux's tcp_clamp_rto_to_user_timeout)."""
    cdef ns_t left
    if c.user_timeout == 0:
        return wait
    left = c.progress + c.user_timeout * NS_MS - c.home.ctx.now
    if left >= wait:
        return wait
    return left if left > 0 else 1


cdef void rtx_arm_in(tcb *c, int kind, ns_t wait) noexcept nogil:
    c.rtx_kind = kind
    if kind != RTX_PROBE and kind != RTX_REORDER:
        wait = bounded(c, wait)
    timer_arm(&c.home.ctx.timers, &c.rtx, c.home.ctx.now + wait)


cdef ns_t timeout_left(const tcb *c) noexcept nogil:
    """How long until the oldest byte in flight has waited for a time-out; negative: it has."""
    return board_run(&c.sb, 0).at + rto_backed_off(c) - c.home.ctx.now


cdef void rtx_restart(tcb *c) noexcept nogil:
    cdef ns_t wait = tlp_wait(c, rto_backed_off(c))
    if wait:
        rtx_arm_in(c, RTX_PROBE, wait)
    else:
        rtx_arm(c, RTX_DATA)


cdef void rtx_sent(tcb *c) noexcept nogil:
    cdef ns_t wait
    if c.rtx_kind == RTX_REORDER:
        return
    wait = tlp_wait(c, timeout_left(c))
    if wait:
        rtx_arm_in(c, RTX_PROBE, wait)


cdef void rtx_resume(tcb *c) noexcept nogil:
    cdef ns_t wait = timeout_left(c)
    rtx_arm_in(c, RTX_DATA, wait if wait > 0 else 1)


cdef void rtx_fire(void *arg, ns_t now) noexcept nogil:
    cdef tcb *c = <tcb *>arg
    cdef int kind = c.rtx_kind
    c.rtx_kind = RTX_NONE
    if kind == RTX_SYN:
        syn_timeout(c)
    elif kind == RTX_DATA:
        data_timeout(c, now)
    elif kind == RTX_PERSIST:
        persist_timeout(c, now)
    elif kind == RTX_REORDER:
        recovery_reorder(c)
    elif kind == RTX_PROBE and c.ca_state == CA_OPEN:
        c.flags2 |= TF2_PROBE_DUE
        mark(c)
    elif kind == RTX_PROBE:
        mark(c)


cdef bint user_timeout_over(tcb *c, ns_t now) noexcept nogil:
    """RFC 5482: how long sent data may stay unacknowledged, or a window closed."""
    return c.user_timeout and now - c.progress >= c.user_timeout * NS_MS


cdef void give_up(tcb *c) noexcept nogil:
    """The peer is gone: nothing more is sent (RFC 9293 3.10.8)."""
    count(&c.home.ctx.n, C_TCP_ABORT_TIMEOUT)
    conn_end(c, c.error_soft if c.error_soft else ETIMEDOUT)


cdef void syn_timeout(tcb *c) noexcept nogil:
    cdef int most = SYN_RETRIES if c.state == TCPS_SYN_SENT else SYNACK_RETRIES
    if c.syn_retries:
        most = c.syn_retries
    if c.retries >= most or user_timeout_over(c, c.home.ctx.now):
        give_up(c)
        return
    c.backoff += 1
    c.retries += 1
    c.total_retrans += 1
    c.rtt_start = 0                     # Karn: which SYN is acknowledged cannot be known
    count(&c.home.ctx.n, C_TCP_RETRANS)
    seg_syn(c)
    rtx_arm(c, RTX_SYN)


cdef void data_timeout(tcb *c, ns_t now) noexcept nogil:
    cdef int most = ORPHAN_RETRIES if has(c, TF_ORPHAN) else DATA_RETRIES
    if flight(c) == 0:
        return
    if c.sq_head != NULL and c.sq_head.dp.flags & DB_BROKEN:
        count(&c.home.ctx.n, C_FILE_LOST)
        c.snd_nxt = c.snd_una           # where the peer waits: behind a full window it would not hear the reset
        conn_abort(c, EIO)              # the bytes are gone: better no stream than a wrong one
        return
    # A peer that shrank its window to nothing and still answers is slow, not gone.
    if user_timeout_over(c, now) or (c.retries >= most and not (c.snd_wnd == 0 and now - c.last_rcv < 120 * NS_SEC)):
        give_up(c)
        return
    count(&c.home.ctx.n, C_TCP_RTO)
    recovery_timeout(c)
    if c.backoff < 20:
        c.backoff += 1
    if c.retries < 255:
        c.retries += 1
    rtx_arm(c, RTX_DATA)
    mark(c)


cdef void persist_timeout(tcb *c, ns_t now) noexcept nogil:
    if c.snd_nxt == snd_limit(c):
        return
    if snd_window_left(c):              # a segment held back by the silly window rules or by CORK goes now
        c.flags |= TF_PUSH
        mark(c)
        return
    if user_timeout_over(c, now) or c.probes >= DATA_RETRIES or (has(c, TF_ORPHAN) and c.backoff > ORPHAN_RETRIES):
        give_up(c)
        return
    c.probes += 1
    if c.backoff < 20:
        c.backoff += 1
    count(&c.home.ctx.n, C_TCP_PROBE)
    seg_probe(c)
    rtx_arm(c, RTX_PERSIST)


# --- the timer life -----------------------------------------------------------------------------------------------
cdef void life_arm(tcb *c, int kind, ns_t wait) noexcept nogil:
    c.life_kind = kind
    timer_arm(&c.home.ctx.timers, &c.life, NS_NEVER if kind == LIFE_NONE else c.home.ctx.now + wait)


cdef void life_fire(void *arg, ns_t now) noexcept nogil:
    cdef tcb *c = <tcb *>arg
    cdef int kind = c.life_kind
    c.life_kind = LIFE_NONE
    if kind == LIFE_KEEPALIVE:
        keepalive_timeout(c, now)
    elif kind == LIFE_FIN_WAIT_2:
        count(&c.home.ctx.n, C_TCP_FINWAIT2_TIMEOUT)
        conn_end(c, 0)
    elif kind == LIFE_TIME_WAIT:
        conn_end(c, 0)


cdef void keepalive_restart(tcb *c) noexcept nogil:
    c.keep_probes = 0
    if c.state not in (TCPS_ESTABLISHED, TCPS_CLOSE_WAIT, TCPS_FIN_WAIT_2) or has(c, TF_ORPHAN):
        return
    if has(c, TF_KEEPALIVE):
        life_arm(c, LIFE_KEEPALIVE, c.keep_idle * NS_SEC)
    else:
        life_arm(c, LIFE_NONE, 0)


cdef void keepalive_timeout(tcb *c, ns_t now) noexcept nogil:
    """RFC 9293 3.8.4. The clock is not re-armed by each segment: it looks back at the last one when it fires."""
    cdef ns_t idle = now - c.last_rcv
    if flight(c) or c.snd_nxt != snd_limit(c) or idle < c.keep_idle * NS_SEC:
        if idle >= c.keep_idle * NS_SEC:
            idle = 0                    # data is outstanding: its own timer watches the peer
        c.keep_probes = 0
        life_arm(c, LIFE_KEEPALIVE, c.keep_idle * NS_SEC - idle)
        return
    if c.keep_probes >= c.keep_cnt or (c.user_timeout and c.keep_probes and idle >= c.user_timeout * NS_MS):
        count(&c.home.ctx.n, C_TCP_ABORT_TIMEOUT)
        # With a word: a peer that has rebooted learns of it, as with Linux.
        conn_abort(c, c.error_soft if c.error_soft else ETIMEDOUT)
        return
    c.keep_probes += 1
    count(&c.home.ctx.n, C_TCP_KEEPALIVE)
    seg_probe(c)
    life_arm(c, LIFE_KEEPALIVE, c.keep_intvl * NS_SEC)
