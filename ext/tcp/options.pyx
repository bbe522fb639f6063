"""What a user may set and ask: see options.pxd."""

from libc.errno cimport EINVAL, EISCONN, ENOPROTOOPT
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from ustack._core.base.types cimport NS_MS, NS_NEVER
from ustack._core.inet.demux cimport FLOW_V6, FLOW_V6ONLY
from ustack._core.tcp.ack cimport DELACK_MS, ack_soon
from ustack._core.tcp.block cimport (
    TF2_DIALOGUE, TF_ACK_DELAYED, TF_BOUND, TF_CORK, TF_KEEPALIVE, TF_NODELAY, TF_OOBINLINE, TF_PATH, TF_QUICKACK,
    TF_REUSEADDR, TF_REUSEPORT, TF_SACK, TF_TS, TF_WSCALE, flight, has, mark, tcb, unsent,
)
from ustack._core.tcp.pacing cimport pacing_rate, pacing_set
from ustack._core.tcp.rtt cimport RTO_INIT_MS, rto_backed_off
from ustack._core.tcp.tcp cimport (
    TCPO_CORK, TCPO_DEFER_ACCEPT, TCPO_KEEPALIVE, TCPO_KEEPCNT, TCPO_KEEPIDLE, TCPO_KEEPINTVL, TCPO_LINGER,
    TCPO_LINGER2, TCPO_MAXSEG, TCPO_MAX_PACING_RATE, TCPO_NODELAY, TCPO_NOTSENT_LOWAT, TCPO_OOBINLINE,
    TCPO_QUICKACK, TCPO_RCVBUF, TCPO_RCVLOWAT, TCPO_REUSEADDR, TCPO_REUSEPORT, TCPO_SNDBUF, TCPO_SYNCNT,
    TCPO_TOS, TCPO_TTL, TCPO_USER_TIMEOUT, TCPO_V6ONLY, TCPS_CLOSED, TCPS_LISTEN, tcp_info,
)
from ustack._core.tcp.timers cimport KEEP_COUNT, KEEP_IDLE_S, KEEP_INTVL_S, SYN_RETRIES, keepalive_restart
from ustack._core.tcp.tuning cimport tuning_first
from ustack._core.tcp.window cimport RCVBUF_MAX, rcv_window

cdef enum:
    BUF_MIN = 2048
    KEEP_MAX_S = 32767          # Linux's bounds
    LINGER2_MAX_S = 120
    TTL_DEFAULT = 64
    KEEP_MAX_COUNT = 127
    LINGER2_S = 60
    DEFER_STEP_S = 120
    TTL = 64


cdef void options_default(tcb *c) noexcept nogil:
    c.sndbuf = c.home.sndbuf
    c.rcvbuf = tuning_first(c.home)
    c.linger = -1
    c.linger2 = LINGER2_S
    c.keep_idle = KEEP_IDLE_S
    c.keep_intvl = KEEP_INTVL_S
    c.keep_cnt = KEEP_COUNT
    c.rcvlowat = 1
    c.ttl = TTL
    c.rto = RTO_INIT_MS * NS_MS
    c.min_rtt = NS_NEVER
    c.cc = c.home.cc


# --- flags --------------------------------------------------------------------------------------------------------
cdef uint32_t flag_of(int option) noexcept nogil:
    """The options that are a bit."""
    if option == TCPO_NODELAY:
        return TF_NODELAY
    if option == TCPO_KEEPALIVE:
        return TF_KEEPALIVE
    if option == TCPO_REUSEADDR:
        return TF_REUSEADDR
    if option == TCPO_REUSEPORT:
        return TF_REUSEPORT
    if option == TCPO_CORK:
        return TF_CORK
    if option == TCPO_QUICKACK:
        return TF_QUICKACK
    if option == TCPO_OOBINLINE:
        return TF_OOBINLINE
    return 0


cdef int set_flag(tcb *c, int option, uint32_t flag, bint on) noexcept nogil:
    if on:
        c.flags |= flag
    else:
        c.flags &= ~flag
    if option == TCPO_KEEPALIVE:
        keepalive_restart(c)
    elif option == TCPO_QUICKACK and on:
        c.flags2 &= ~<uint32_t>TF2_DIALOGUE
        if has(c, TF_ACK_DELAYED):
            ack_soon(c)
    elif option == TCPO_QUICKACK:
        c.flags2 |= TF2_DIALOGUE
    elif option == TCPO_NODELAY or option == TCPO_CORK:
        mark(c)                         # what was held back may be free to go
    return 0


# --- numbers ------------------------------------------------------------------------------------------------------
cdef int set_within(uint32_t *field, int64_t value, int64_t least, int64_t most) noexcept nogil:
    if value < least or value > most:
        return -EINVAL
    field[0] = <uint32_t>value
    return 0


cdef uint32_t clamped(int64_t value, uint32_t least, uint32_t most) noexcept nogil:
    if value < least:
        return least
    return <uint32_t>value if value < most else most


cdef int set_counts(tcb *c, int option, int64_t value) noexcept nogil:
    cdef int err
    if option == TCPO_KEEPINTVL:
        return set_within(&c.keep_intvl, value, 1, KEEP_MAX_S)
    if option == TCPO_KEEPCNT:
        if value < 1 or value > KEEP_MAX_COUNT:
            return -EINVAL
        c.keep_cnt = <int>value
        return 0
    if option == TCPO_SYNCNT:
        if value < 1 or value > KEEP_MAX_COUNT:
            return -EINVAL
        c.syn_retries = <uint8_t>value
        return 0
    err = set_within(&c.keep_idle, value, 1, KEEP_MAX_S)
    if err == 0 and has(c, TF_KEEPALIVE):
        keepalive_restart(c)
    return err


cdef int set_buffer(tcb *c, int option, int64_t value) noexcept nogil:
    """Clamped, as Linux does. The scale of the window is fixed by the handshake, the window can shrink only as the
    peer fills it: both hold for a connection that exists."""
    if value < 0:
        return -EINVAL
    if option == TCPO_SNDBUF:
        c.sndbuf = clamped(value, BUF_MIN, RCVBUF_MAX)
        c.sndbuf_set = True
    else:
        c.rcvbuf = clamped(value, BUF_MIN, RCVBUF_MAX)
        c.rcvbuf_set = True
    return 0


cdef int64_t defer_seconds(const tcb *c) noexcept nogil:
    """When the last of so many SYN-ACKs is sent (RFC 6298's 1 s, doubled to 120)."""
    cdef int64_t waited = 0
    cdef int64_t step = 1
    cdef int _
    for _ in range(c.defer):
        waited += step
        step = min(2 * step, <int64_t>DEFER_STEP_S)
    return waited


cdef int set_defer(tcb *c, int64_t seconds) noexcept nogil:
    """As Linux, in SYN-ACKs."""
    c.defer = 0
    while c.defer < 255 and defer_seconds(c) < seconds:
        c.defer += 1
    return 0


cdef int set_segment(tcb *c, int option, int64_t value) noexcept nogil:
    if option == TCPO_MAXSEG:
        if c.state != TCPS_CLOSED and c.state != TCPS_LISTEN:
            return -EISCONN
        if value and (value < 88 or value > 32767):
            return -EINVAL
        c.mss_user = <int>value
    elif option == TCPO_TOS:
        c.tos = <int>(value & 0xFC)     # the other two bits are ECN's, which is TCP's own business
    elif value == -1:
        c.ttl = TTL_DEFAULT
    elif value < 1 or value > 255:
        return -EINVAL
    else:
        c.ttl = <int>value
    return 0


cdef int set_waiting(tcb *c, int option, int64_t value) noexcept nogil:
    if option == TCPO_LINGER:
        c.linger = <int>value if -1 <= value < 0x7FFFFFFF else -1
    elif option == TCPO_LINGER2:
        c.linger2 = <int>min(value, <int64_t>LINGER2_MAX_S) if value > 0 else LINGER2_S
    elif option == TCPO_RCVLOWAT:
        c.rcvlowat = clamped(value, 1, c.rcvbuf)
    else:
        return set_within(&c.user_timeout, value, 0, 0x7FFFFFFF)
    return 0


cdef int set_v6only(tcb *c, bint on) noexcept nogil:
    if not c.link.family & FLOW_V6:
        return -ENOPROTOOPT
    if c.state != TCPS_CLOSED or has(c, TF_BOUND):
        return -EINVAL
    c.link.family = FLOW_V6 | FLOW_V6ONLY if on else FLOW_V6
    return 0


cdef int option_set(tcb *c, int option, int64_t value) noexcept nogil:
    cdef uint32_t flag = flag_of(option)
    if flag:
        return set_flag(c, option, flag, value != 0)
    if option in (TCPO_KEEPIDLE, TCPO_KEEPINTVL, TCPO_KEEPCNT, TCPO_SYNCNT):
        return set_counts(c, option, value)
    if option in (TCPO_SNDBUF, TCPO_RCVBUF):
        return set_buffer(c, option, value)
    if option in (TCPO_MAXSEG, TCPO_TOS, TCPO_TTL):
        return set_segment(c, option, value)
    if option == TCPO_MAX_PACING_RATE:
        return pacing_set(c, value)
    if option in (TCPO_LINGER, TCPO_LINGER2, TCPO_USER_TIMEOUT, TCPO_RCVLOWAT):
        return set_waiting(c, option, value)
    if option == TCPO_V6ONLY:
        return set_v6only(c, value != 0)
    if option == TCPO_NOTSENT_LOWAT:
        c.notsent_lowat = <uint32_t>value
        mark(c)                         # who waits may write now
        return 0
    if option == TCPO_DEFER_ACCEPT:
        return set_defer(c, value)
    return -ENOPROTOOPT


cdef int option_get(tcb *c, int option, int64_t *value) noexcept nogil:
    cdef uint32_t flag = flag_of(option)
    if option == TCPO_QUICKACK:
        value[0] = c.flags2 & TF2_DIALOGUE == 0
    elif flag:
        value[0] = 1 if has(c, flag) else 0
    elif option == TCPO_MAXSEG:
        value[0] = c.snd_mss if has(c, TF_PATH) else (c.mss_user if c.mss_user else 536)
    elif option == TCPO_KEEPIDLE:
        value[0] = c.keep_idle
    elif option == TCPO_KEEPINTVL:
        value[0] = c.keep_intvl
    elif option == TCPO_KEEPCNT:
        value[0] = c.keep_cnt
    elif option == TCPO_SYNCNT:
        value[0] = c.syn_retries if c.syn_retries else SYN_RETRIES
    elif option == TCPO_LINGER:
        value[0] = c.linger
    elif option == TCPO_LINGER2:
        value[0] = c.linger2
    elif option == TCPO_USER_TIMEOUT:
        value[0] = c.user_timeout
    elif option == TCPO_SNDBUF:
        value[0] = c.sndbuf
    elif option == TCPO_RCVBUF:
        value[0] = c.rcvbuf
    elif option == TCPO_TOS:
        value[0] = c.tos
    elif option == TCPO_TTL:
        value[0] = c.ttl
    elif option == TCPO_RCVLOWAT:
        value[0] = c.rcvlowat
    elif option == TCPO_NOTSENT_LOWAT:
        value[0] = c.notsent_lowat
    elif option == TCPO_DEFER_ACCEPT:
        value[0] = defer_seconds(c)
    elif option == TCPO_MAX_PACING_RATE:
        value[0] = pacing_rate(c)
    elif option == TCPO_V6ONLY and c.link.family & FLOW_V6:
        value[0] = c.link.family & FLOW_V6ONLY != 0
    else:
        return -ENOPROTOOPT
    return 0


# --- tcp_info -----------------------------------------------------------------------------------------------------
cdef void info_times(const tcb *c, tcp_info *info) noexcept nogil:
    info.rto = rto_backed_off(c)
    info.srtt = c.srtt
    info.rttvar = c.rttvar
    info.min_rtt = c.min_rtt if c.min_rtt != NS_NEVER else 0
    info.ato = DELACK_MS * NS_MS


cdef void info_windows(const tcb *c, tcp_info *info) noexcept nogil:
    info.snd_mss = c.snd_mss
    info.rcv_mss = c.rcv_mss
    info.advmss = c.mss_adv
    info.pmtu = c.pmtu
    info.cwnd = c.cwnd
    info.ssthresh = c.ssthresh
    info.snd_wnd = c.snd_wnd
    info.rcv_wnd = rcv_window(c)
    info.unacked = flight(c)
    info.sacked = c.sb.held
    info.lost = c.sb.lost
    info.retrans = c.sb.resent
    info.notsent = unsent(c)
    info.rcv_queued = c.rq_len


cdef void info_totals(const tcb *c, tcp_info *info) noexcept nogil:
    info.bytes_acked = c.bytes_acked
    info.bytes_received = c.bytes_received
    info.bytes_sent = c.bytes_sent
    info.bytes_retrans = c.bytes_retrans
    info.segs_out = c.segs_out
    info.segs_in = c.segs_in
    info.total_retrans = c.total_retrans


cdef void info_fill(tcb *c, tcp_info *info) noexcept nogil:
    memset(info, 0, sizeof(tcp_info))
    info.state = c.state
    info.options = ((1 if has(c, TF_TS) else 0) | (2 if has(c, TF_SACK) else 0) | (4 if has(c, TF_WSCALE) else 0))
    info.snd_wscale = c.snd_wscale
    info.rcv_wscale = c.rcv_wscale
    info.ca_state = c.ca_state
    info.retransmits = c.retries
    info_times(c, info)
    if c.state == TCPS_LISTEN:
        info.accept_queue = c.lq.accept_n
        info.accept_max = c.lq.backlog
        return
    if c.state != TCPS_CLOSED:
        info_windows(c, info)
    info_totals(c, info)
