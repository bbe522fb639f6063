"""What is to be sent now: see output.pxd."""

from libc.errno cimport EIO
from libc.stdint cimport uint8_t, uint32_t

from ustack._core.base.counters cimport C_FILE_LOST, C_TCP_RETRANS, C_TCP_RETRANS_BYTES, count, count_n
from ustack._core.base.seq cimport seq_gt, seq_t
from ustack._core.base.types cimport ns_t, unlikely
from ustack._core.mem.mblk cimport freemsg, mblk, msg_intact
from ustack._core.tcp.ack cimport ack_interactive
from ustack._core.tcp.block cimport (
    CA_OPEN, CA_RECOVERY, RTX_DATA, RTX_NONE, RTX_PERSIST, RTX_REORDER, TF2_BULK, TF2_BYTES_LOST, TF2_FRTO,
    TF2_FRTO_NEW, TF2_PROBE_DUE, TF_ACK_NOW, TF_CORK, TF_CWND_LIMITED, TF_FORCE_RTX, TF_MORE,
    TF_NODELAY, TF_PUSH, TF_SHUT_WR, fin_sent, flight, has, interval, snd_limit, tcb, unsent,
)
from ustack._core.tcp.close cimport conn_abort
from ustack._core.tcp.congestion cimport initial_window
from ustack._core.tcp.pacing cimport pacing_holds
from ustack._core.tcp.queue cimport sq_window
from ustack._core.tcp.recovery cimport pipe
from ustack._core.tcp.rtt cimport rtt_begin, ts_now
from ustack._core.tcp.scoreboard cimport board_lost, board_resent, board_sent
from ustack._core.tcp.segment cimport seg_ack, seg_room, seg_send
from ustack._core.tcp.tcp cimport (
    SUPER_SEGMENT, TCPS_CLOSE_WAIT, TCPS_CLOSED, TCPS_CLOSING, TCPS_ESTABLISHED, TCPS_FIN_WAIT_1, TCPS_LAST_ACK,
    TCPS_LISTEN, TCPS_SYN_SENT,
)
from ustack._core.tcp.timers cimport rtx_arm, rtx_resume, rtx_sent
from ustack._core.tcp.tlp cimport tlp_sent, tlp_tail
from ustack._core.tcp.undo cimport undo_resent
from ustack._core.tcp.window cimport snd_window_left
from ustack._core.wire.tcp cimport TH_FIN, TH_PSH


# --- questions ----------------------------------------------------------------------------------------------------
cdef bint may_carry_data(const tcb *c) noexcept nogil:
    return c.state in (TCPS_ESTABLISHED, TCPS_CLOSE_WAIT, TCPS_FIN_WAIT_1, TCPS_CLOSING, TCPS_LAST_ACK)


cdef bint partial_may_go(const tcb *c) noexcept nogil:
    """Whether the last, partial segment of what is queued may leave: Nagle as Minshall has it (at most one partial
    segment unacknowledged), CORK, MSG_MORE. A FIN takes it along (RFC 9293 3.7.4)."""
    if c.flags & (TF_SHUT_WR | TF_PUSH):
        return True
    if c.flags & (TF_CORK | TF_MORE):
        return False
    return has(c, TF_NODELAY) or flight(c) == 0 or not seq_gt(c.snd_sml, c.snd_una)


cdef uint32_t window_worth_filling(const tcb *c, uint32_t n) noexcept nogil:
    """Less than a segment fits the peer's window: send it only if the window never was much larger, or the
    override timer says so (RFC 9293 3.8.6.2.1)."""
    return n if n and (n >= c.snd_wnd_max >> 1 or has(c, TF_PUSH)) else 0


cdef inline uint32_t worth_a_packet(const tcb *c) noexcept nogil:
    """How much a bulk sender's queue must have, or it waits for the next write: a quarter of a usual packet; all of one
    that is longer, while write follows write."""
    if c.gso_payload <= SUPER_SEGMENT:
        return c.gso_payload >> 2
    return c.gso_payload if c.flags2 & TF2_BULK else SUPER_SEGMENT >> 2


cdef uint32_t new_data_to_send(tcb *c) noexcept nogil:
    """How many bytes the next packet of new data has; 0: none now."""
    cdef uint32_t queued = unsent(c)
    cdef uint32_t window = snd_window_left(c)
    cdef uint32_t used = pipe(c)
    cdef uint32_t room = c.cwnd - used if c.cwnd > used else 0
    cdef uint32_t n = queued if queued < window else window
    cdef uint32_t tail
    if queued == 0:
        return 0
    if room < n:
        c.flags |= TF_CWND_LIMITED
        n = room
    if n > c.gso_payload:
        return c.gso_payload
    if n == queued and c.home.late == c and n < worth_a_packet(c):
        return 0                # the next write makes a large packet of it, or tcp_push_late lets it go
    tail = n % c.snd_mss
    if n == queued:
        return n if tail == 0 or partial_may_go(c) else n - tail
    if n >= c.snd_mss:
        return n - tail
    return window_worth_filling(c, n) if n == window else 0


cdef bint fin_to_send(const tcb *c, uint32_t n) noexcept nogil:
    """Whether the FIN goes with (or, n == 0, without) the last n bytes."""
    return (has(c, TF_SHUT_WR) and not fin_sent(c) and c.snd_nxt + n == c.snd_end
            and (snd_window_left(c) > n or has(c, TF_PUSH)))


cdef mblk *take_payload(tcb *c, seq_t seq, uint32_t n) noexcept nogil:
    """Windows on n bytes of the send queue; NULL without memory, or since bytes are gone: of a file that was cut."""
    cdef mblk *m = sq_window(c, seq, n)
    if m != NULL and unlikely(not msg_intact(m)):
        c.flags2 |= TF2_BYTES_LOST
        freemsg(m)
        return NULL
    return m


# --- new data -----------------------------------------------------------------------------------------------------
cdef void restart_after_idle(tcb *c) noexcept nogil:
    """The window is halved for each time-out in which nothing was sent (RFC 5681 4.1, as RFC 2861 and Linux do)."""
    cdef uint32_t least = initial_window(c.snd_mss)
    cdef ns_t idle = c.home.ctx.now - c.last_sent
    if flight(c) or idle <= c.rto or c.cwnd <= least:
        return
    c.ssthresh = max(c.ssthresh, c.cwnd - (c.cwnd >> 2))
    while idle > c.rto and c.cwnd > least:
        c.cwnd >>= 1
        idle -= c.rto
    c.cwnd = max(c.cwnd, least)


cdef void note_new_data(tcb *c, uint32_t n) noexcept nogil:
    """What has to be remembered of a packet just sent."""
    if flight(c) == 0:
        c.progress = c.home.ctx.now
    if c.rtt_start == 0 and c.ca_state < CA_RECOVERY:
        rtt_begin(c, c.snd_nxt + n)
    if n % c.snd_mss:
        c.snd_sml = c.snd_nxt + n
    c.flags &= ~TF_PUSH


cdef bint send_n(tcb *c, uint32_t n, bint fin) noexcept nogil:
    """n bytes of new data, or the FIN, or both."""
    cdef uint8_t flags = 0
    cdef mblk *payload = NULL
    cdef seq_t seq = c.snd_nxt
    if c.flags2 & TF2_BYTES_LOST or not board_sent(&c.sb, seq, seq + n + fin, c.home.ctx.now):
        return False
    if n:
        payload = take_payload(c, seq, n)
        if payload == NULL:
            return False
        if seq + n == c.snd_end:
            flags = TH_PSH
        ack_interactive(c)
    if fin:
        flags |= TH_FIN
    note_new_data(c, n)
    c.snd_nxt = seq + n + fin
    c.prr_out += n + fin
    return seg_send(c, flags, seq, payload, n) >= 0


cdef bint send_new(tcb *c) noexcept nogil:
    cdef uint32_t n = new_data_to_send(c)
    cdef bint fin = fin_to_send(c, n)
    return (n or fin) and send_n(c, n, fin)


# --- what was sent before -----------------------------------------------------------------------------------------
cdef uint32_t lost_to_send(const tcb *c, interval *hole) noexcept nogil:
    """How much of the first hole the next packet repeats; 0: none now."""
    cdef uint32_t used, room, n
    if c.flags2 & TF2_FRTO_NEW or not board_lost(&c.sb, hole):
        return 0
    used = pipe(c)
    room = c.cwnd - used if c.cwnd > used else 0
    if has(c, TF_FORCE_RTX) and room < c.snd_mss:
        room = c.snd_mss
    n = hole.end - hole.start
    if n > c.gso_payload:
        n = c.gso_payload
    if n > room:
        n = room - room % c.snd_mss
    return n


cdef bint send_again(tcb *c, seq_t seq, uint32_t n) noexcept nogil:
    """n sequence numbers from seq on, the FIN's perhaps among them."""
    cdef uint32_t data = n
    cdef uint8_t flags = 0
    cdef mblk *payload = NULL
    if seq_gt(seq + n, c.snd_end):
        flags = TH_FIN
        data -= 1
    if data:
        payload = take_payload(c, seq, data)
        if payload == NULL:
            if c.flags2 & TF2_BYTES_LOST:
                c.snd_nxt = c.snd_una   # where the peer waits: behind a full window it would not hear the reset
            return False
        if seq + data == c.snd_end:
            flags |= TH_PSH
    board_resent(&c.sb, seq, seq + n, c.home.ctx.now)
    c.prr_out += n
    c.rtt_start = 0                     # Karn
    c.rtx_ts = ts_now(c)
    c.total_retrans += (n + c.snd_mss - 1) // c.snd_mss
    c.bytes_retrans += data
    count(&c.home.ctx.n, C_TCP_RETRANS)
    count_n(&c.home.ctx.n, C_TCP_RETRANS_BYTES, data)
    return seg_send(c, flags, seq, payload, data) >= 0


cdef bint send_lost(tcb *c) noexcept nogil:
    cdef interval hole
    cdef uint32_t n
    if c.sb.lost == 0:
        return False
    n = lost_to_send(c, &hole)
    if n == 0:
        return False
    c.flags &= ~TF_FORCE_RTX
    undo_resent(c, n)
    if hole.start == c.snd_una and c.rtx_kind != RTX_REORDER:
        rtx_arm(c, RTX_DATA)
    return send_again(c, hole.start, n)


cdef void send_probe(tcb *c) noexcept nogil:
    """A tail loss probe: a new segment whatever the congestion window and Nagle say, or else the last one again
    (RFC 8985 7.3)."""
    cdef uint32_t n = min(unsent(c), snd_window_left(c), c.snd_mss)
    cdef bint resent = n == 0
    cdef seq_t tail
    c.flags2 &= ~<uint32_t>TF2_PROBE_DUE
    if c.ca_state != CA_OPEN or flight(c) == 0:
        return
    if resent:
        tail = tlp_tail(c)
        if seq_gt(c.snd_nxt, c.snd_una + c.snd_wnd):
            return              # the peer has taken back what it had offered: the time-out's business
        resent = send_again(c, tail, c.snd_nxt - tail)
    elif not send_n(c, n, fin_to_send(c, n)):
        return
    tlp_sent(c, resent)
    rtx_arm(c, RTX_DATA)


# --- all of it ----------------------------------------------------------------------------------------------------
cdef void settle_timer(tcb *c, bint sent) noexcept nogil:
    """What is in flight is timed; what is queued and may not go is probed for."""
    if flight(c):
        if c.rtx_kind in (RTX_NONE, RTX_PERSIST):
            rtx_resume(c)
        if sent:
            rtx_sent(c)
    elif c.snd_nxt != snd_limit(c):
        if c.rtx_kind != RTX_PERSIST:
            c.progress = c.home.ctx.now     # what waits does so from now on, not since the last ACK
            rtx_arm(c, RTX_PERSIST)
    elif c.rtx_kind != RTX_NONE:
        rtx_arm(c, RTX_NONE)


cdef bint send_all(tcb *c) noexcept nogil:
    """All that may go. False: the interface is full before that."""
    cdef seq_t before = c.snd_nxt
    cdef bint room = True
    c.flags &= ~TF_CWND_LIMITED
    if unsent(c):
        restart_after_idle(c)
    while True:
        if seg_room(c) <= 0:
            room = False
            break
        if c.pace != NULL and pacing_holds(c):
            break
        if c.flags2 & TF2_PROBE_DUE:
            send_probe(c)
            before = c.snd_nxt
        elif not send_lost(c) and not send_new(c):
            if not c.flags2 & TF2_FRTO_NEW or c.snd_nxt != c.recover:
                break
            c.flags2 &= ~<uint32_t>(TF2_FRTO | TF2_FRTO_NEW)    # no new data may go: lost data then
    settle_timer(c, c.snd_nxt != before)
    return room


cdef bint output(tcb *c) noexcept nogil:
    cdef bint room = not may_carry_data(c) or send_all(c)
    if unlikely(c.flags2 & TF2_BYTES_LOST != 0):
        count(&c.home.ctx.n, C_FILE_LOST)
        conn_abort(c, EIO)              # better no stream than a wrong one
        return True
    if has(c, TF_ACK_NOW) and c.state not in (TCPS_CLOSED, TCPS_LISTEN, TCPS_SYN_SENT):
        if not room or seg_room(c) <= 0:
            return False
        seg_ack(c)
    return room
