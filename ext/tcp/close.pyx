"""How connections end: see close.pxd."""

from libc.errno cimport ECONNRESET, EINVAL, ENOTCONN

from ustack._core.base.codes cimport EV_ERR, EV_HUP, EV_IN, EV_OUT
from ustack._core.base.counters cimport C_TCP_ABORT_UNREAD, C_TCP_CLOSED, C_TCP_TIMEWAIT_LIMIT, count
from ustack._core.base.ready cimport ready_forget
from ustack._core.base.types cimport NS_SEC
from ustack._core.mem.mblk cimport freemsg
from ustack._core.tcp.block cimport (
    LIFE_FIN_WAIT_2, LIFE_NONE, LIFE_TIME_WAIT, RTX_NONE, TF_ORPHAN, TF_SHUT_RD, TF_SHUT_WR, TF_TIMEWAIT, has,
    mark, tcb, tcb_bury, tcb_post, tcb_shed,
)
from ustack._core.tcp.listen cimport listen_close, listen_forget
from ustack._core.tcp.reassembly cimport ooo_free
from ustack._core.tcp.scoreboard cimport board_free
from ustack._core.tcp.segment cimport seg_reset
from ustack._core.tcp.tcp cimport (
    TCPS_CLOSE_WAIT, TCPS_CLOSED, TCPS_CLOSING, TCPS_ESTABLISHED, TCPS_FIN_WAIT_1, TCPS_FIN_WAIT_2,
    TCPS_LAST_ACK, TCPS_LISTEN, TCPS_SYN_SENT, TCPS_TIME_WAIT, tcp,
)
from ustack._core.tcp.timers cimport TIME_WAIT_S, life_arm, rtx_arm


# --- the end ------------------------------------------------------------------------------------------------------
cdef void conn_end(tcb *c, int error) noexcept nogil:
    if c.parent != NULL:
        listen_forget(c)                # no user ever had it
        c.flags |= TF_ORPHAN
    tcb_shed(c)
    c.state = TCPS_CLOSED
    count(&c.home.ctx.n, C_TCP_CLOSED)
    if error:
        c.error = error
    if has(c, TF_ORPHAN):
        tcb_bury(c)
    else:
        tcb_post(c, EV_IN | EV_OUT | EV_HUP | (EV_ERR if error else 0))


cdef void conn_abort(tcb *c, int error) noexcept nogil:
    if c.state not in (TCPS_CLOSED, TCPS_LISTEN, TCPS_SYN_SENT, TCPS_TIME_WAIT):
        seg_reset(c)
    conn_end(c, error)


# --- FIN from us --------------------------------------------------------------------------------------------------
cdef void queue_fin(tcb *c) noexcept nogil:
    if has(c, TF_SHUT_WR):
        return
    c.flags |= TF_SHUT_WR
    if c.state == TCPS_ESTABLISHED:
        c.state = TCPS_FIN_WAIT_1
    elif c.state == TCPS_CLOSE_WAIT:
        c.state = TCPS_LAST_ACK
    mark(c)                             # in SYN-RECEIVED it waits for the handshake


cdef bint fin_acknowledged(tcb *c) noexcept nogil:
    if c.state == TCPS_FIN_WAIT_1:
        c.state = TCPS_FIN_WAIT_2
        if has(c, TF_ORPHAN):
            life_arm(c, LIFE_FIN_WAIT_2, c.linger2 * NS_SEC)
        tcb_post(c, EV_OUT)
    elif c.state == TCPS_CLOSING:
        enter_time_wait(c)
    elif c.state == TCPS_LAST_ACK:
        conn_end(c, 0)
        return False
    return True


# --- the user lets go ---------------------------------------------------------------------------------------------
cdef void drop_unread(tcb *c) noexcept nogil:
    """Nobody will read it, the peer has been told that it came and is gone: it is not held for a minute more."""
    freemsg(c.rq_head)
    c.rq_head = NULL
    c.rq_tail = NULL
    c.rq_len = 0
    c.rq_held = 0


cdef void user_close(tcb *c) noexcept nogil:
    if c.state == TCPS_LISTEN:
        listen_close(c)
    ready_forget(&c.home.ctx.ready, &c.rdy)
    c.rdy.owner = NULL
    c.flags |= TF_ORPHAN
    if c.state in (TCPS_CLOSED, TCPS_LISTEN, TCPS_SYN_SENT):
        conn_end(c, 0)
    elif c.state == TCPS_TIME_WAIT:
        drop_unread(c)
    elif c.rq_len or c.linger == 0:
        if c.rq_len:
            count(&c.home.ctx.n, C_TCP_ABORT_UNREAD)        # RFC 2525 2.17: the peer must learn of the loss
        conn_abort(c, 0)
    else:
        life_arm(c, LIFE_NONE, 0)       # keep-alive is the user's
        if c.state == TCPS_FIN_WAIT_2:
            life_arm(c, LIFE_FIN_WAIT_2, c.linger2 * NS_SEC)
        queue_fin(c)


cdef int user_shutdown(tcb *c, int how) noexcept nogil:
    if how < 0 or how > 2:
        return -EINVAL
    if c.state == TCPS_LISTEN:          # as on Linux: SHUT_RD ends the listening, and wakes who waits in accept()
        if how != 1:
            listen_close(c)
            conn_end(c, 0)
        return 0
    if c.state == TCPS_SYN_SENT:
        conn_end(c, ECONNRESET)
        return 0
    if c.state == TCPS_CLOSED or c.state == TCPS_TIME_WAIT:
        return -ENOTCONN
    if how != 1:
        c.flags |= TF_SHUT_RD
        tcb_post(c, EV_IN)
    if how != 0:
        queue_fin(c)
        tcb_post(c, EV_OUT)
    if has(c, TF_SHUT_RD) and has(c, TF_SHUT_WR):
        tcb_post(c, EV_HUP)
    return 0


# --- TIME-WAIT ----------------------------------------------------------------------------------------------------
cdef void append_timewait(tcb *c) noexcept nogil:
    cdef tcp *t = c.home
    c.flags |= TF_TIMEWAIT
    c.tw_next = NULL
    c.tw_prev = t.timewait_newest
    if c.tw_prev != NULL:
        c.tw_prev.tw_next = c
    else:
        t.timewait_oldest = c
    t.timewait_newest = c
    t.timewait += 1


cdef void enter_time_wait(tcb *c) noexcept nogil:
    """2 MSL, but no more blocks than the bound: the oldest leave early."""
    cdef tcp *t = c.home
    c.state = TCPS_TIME_WAIT
    rtx_arm(c, RTX_NONE)
    ooo_free(&c.ooo)
    board_free(&c.sb)
    append_timewait(c)
    life_arm(c, LIFE_TIME_WAIT, TIME_WAIT_S * NS_SEC)
    tcb_post(c, EV_IN | EV_OUT | EV_HUP)
    while t.timewait > t.timewait_max and t.timewait_oldest != c:
        count(&t.ctx.n, C_TCP_TIMEWAIT_LIMIT)
        conn_end(t.timewait_oldest, 0)


cdef void time_wait_restart(tcb *c) noexcept nogil:
    """The peer's FIN again: our ACK was lost. The block stays where it is in the order of age, so that a peer
    cannot push others out by repeating itself."""
    life_arm(c, LIFE_TIME_WAIT, TIME_WAIT_S * NS_SEC)
