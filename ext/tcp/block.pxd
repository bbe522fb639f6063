"""The TCP control block (RFC 9293 3.3.1): the one structure that sender, receiver and timers are functions over.

Here are its fields, its birth and its burial, and the lists that every block is on. What happens to a connection is
decided elsewhere: input, output, recovery, timers, close.

    sequence space of the sender                          of the receiver

    snd_una                           snd_nxt   snd_end    rcv_nxt             rcv_adv
    -+---------------------------------+---------+-       -+-------------------+-
     | on the scoreboard                | unsent  |         | window promised    |
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.base.addr cimport flow
from ustack._core.base.ready cimport ready
from ustack._core.base.seq cimport seq_t
from ustack._core.base.types cimport ns_t
from ustack._core.base.wheel cimport timer
from ustack._core.inet.demux cimport flow_entry
from ustack._core.inet.path cimport path
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.tcp cimport tcp

cdef enum:
    # What the user asked for
    TF_NODELAY = 1 << 0
    TF_CORK = 1 << 1
    TF_KEEPALIVE = 1 << 2
    TF_REUSEADDR = 1 << 3
    TF_REUSEPORT = 1 << 4
    TF_OOBINLINE = 1 << 5
    TF_QUICKACK = 1 << 6
    TF_BOUND = 1 << 7           # has a local port of its own
    TF_SHUT_WR = 1 << 8         # FIN is queued behind snd_end
    TF_SHUT_RD = 1 << 9
    TF_ORPHAN = 1 << 10         # the user let go
    TF_CONNECTING = 1 << 11     # connect's outcome has not been told yet
    # What was negotiated
    TF_TS = 1 << 12             # timestamps (RFC 7323)
    TF_SACK = 1 << 13           # selective acknowledgement (RFC 2018)
    TF_WSCALE = 1 << 14
    # What is due
    TF_ACK_NOW = 1 << 15        # an ACK in the next egress
    TF_ACK_DELAYED = 1 << 16    # an ACK by the delayed-ACK timer, or with the next data
    TF_MORE = 1 << 17           # MSG_MORE: the last bytes queued are not to be sent alone yet
    TF_PUSH = 1 << 18           # a held-back partial segment is to be sent all the same
    TF_FORCE_RTX = 1 << 19      # the next retransmission does not ask the congestion window (RFC 6675 5 (4.3))
    TF_NOSPACE = 1 << 20        # a sender found the buffer full: EV_OUT is due when a third is free
    # Where it is
    TF_DIRTY = 1 << 21          # on the list of output to make
    TF_LISTED = 1 << 22         # in one of the flow tables
    TF_PATH = 1 << 23           # holds a path
    TF_DEAD = 1 << 24           # buried: memory goes at the next egress
    TF_FIN_KNOWN = 1 << 25      # rcv_fin is the sequence number of the peer's FIN
    TF_FIN_RCVD = 1 << 26       # and everything before it has come
    TF_DSACK = 1 << 27          # dsack is to be told (RFC 2883)
    TF_CWND_LIMITED = 1 << 28   # the congestion window, and nothing else, held the last output back
    TF_TIMEWAIT = 1 << 29       # on the TIME-WAIT list
    TF_PASSIVE = 1 << 30        # came from a listener

cdef enum:
    # Of `flags2`, for which `flags` has no bit left
    TF2_REORDERS = 1 << 0       # the network has been seen to reorder (RFC 8985)
    TF2_DSACK_ROUND = 1 << 1    # dsack_round holds
    TF2_PROBE_DUE = 1 << 2      # a tail loss probe in the next egress
    TF2_PROBED = 1 << 3         # one is unanswered: probe_end holds
    TF2_PROBE_RESENT = 1 << 4   # it repeated data
    TF2_UNDO = 1 << 5           # the last reduction of the window may turn out to be needless: prior_* hold
    TF2_RESENT = 1 << 6         # something has been sent again since: resent_ts and undo_resent hold
    TF2_FRTO = 1 << 7           # whether a time-out was spurious is being found out (RFC 5682)
    TF2_FRTO_NEW = 1 << 8       # new data goes before lost data, to find it out
    TF2_BYTES_LOST = 1 << 9     # bytes that are to be sent (again) are gone: the connection ends
    TF2_HEARD = 1 << 10         # data has come since we sent some
    TF2_DIALOGUE = 1 << 11      # data answers data: ACKs wait to ride on answers
    TF2_WANT_OUT = 1 << 12      # somebody was told that nothing can be written: EV_OUT is due when it can
    TF2_AWAITED = 1 << 13       # a thread sleeps on this connection: what it does next may carry the ACK
    TF2_ACK_LATE = 1 << 14      # for that an ACK waits
    TF2_ACK_RODE = 1 << 15      # one that waited went with a segment
    TF2_USUAL = 1 << 16         # something was lost: no packets longer than any link takes
    TF2_BULK = 1 << 17          # write follows write: the next one is waited for until a packet is full

cdef enum:
    # What the timer `rtx` stands for
    RTX_NONE = 0
    RTX_SYN = 1                 # our SYN or SYN-ACK
    RTX_DATA = 2                # retransmission time-out (RFC 6298)
    RTX_PERSIST = 3             # zero-window probe
    RTX_REORDER = 4             # what may only be late becomes lost (RFC 8985 6.3)
    RTX_PROBE = 5               # tail loss probe (RFC 8985 7)

cdef enum:
    # What the timer `life` stands for
    LIFE_NONE = 0
    LIFE_KEEPALIVE = 1
    LIFE_FIN_WAIT_2 = 2
    LIFE_TIME_WAIT = 3

cdef enum:
    # Congestion states, numbered as Linux's
    CA_OPEN = 0
    CA_DISORDER = 1
    CA_RECOVERY = 3
    CA_LOSS = 4

cdef enum:
    QUEUED_NOT = 0
    QUEUED_SYN = 1              # SYN-RECEIVED
    QUEUED_ACCEPT = 2           # waits for accept

# A half-open interval of sequence numbers.
cdef struct interval:
    seq_t start
    seq_t end

cdef enum:
    RUNS_FEW = 2

# Sender: bytes next to each other that left together and share their fate (see scoreboard.pxd).
cdef struct sent_run:
    ns_t at                     # when they were sent last
    seq_t start
    uint8_t fate                # RUN_*

# What became of everything in flight.
cdef struct scoreboard:
    sent_run *heap              # NULL: there are few
    uint16_t first
    uint16_t n
    uint16_t cap
    seq_t end
    uint32_t held               # bytes that the peer holds
    uint32_t lost               # bytes lost, and not sent again since
    uint32_t resent             # bytes sent again and in flight
    sent_run few[RUNS_FEW]

# Receiver: a run of contiguous data that came out of order: packets linked by next.
cdef struct ooo_run:
    seq_t start
    seq_t end
    mblk *head
    mblk *tail

# See reassembly.pxd.
cdef struct ooo_queue:
    ooo_run *v
    uint16_t n
    uint16_t cap
    uint8_t nrecent
    uint32_t total              # bytes of data
    uint32_t held               # bytes of storage
    seq_t recent[4]             # a number in each run that came last, newest first (RFC 2018 4)

# What only listeners have.
cdef struct listen_queues:
    tcb *syn_oldest             # SYN-RECEIVED
    tcb *syn_newest
    tcb *accept_oldest          # ESTABLISHED (or later), not yet accepted
    tcb *accept_newest
    uint32_t syn_n
    uint32_t accept_n
    uint32_t backlog
    ns_t cookie_sent            # when the last SYN cookie was; 0: never

# The functions that a congestion control consists of: how the window grows, and where it falls to. Windows in bytes.
# What it falls to on the way into and out of a recovery is recovery's business.
cdef struct cc_ops:
    const char *name            # as TCP_CONGESTION has it
    # The connection begins, or has changed over: nothing is remembered.
    void (*init)(tcb *c) noexcept nogil
    # `acked` new bytes, bounded by RFC 3465's rule, were acknowledged outside fast recovery, and cwnd was in use.
    void (*acked)(tcb *c, uint32_t acked) noexcept nogil
    # A congestion event: the slow start threshold. Called while ca_state, cwnd and snd_una are as before it.
    uint32_t (*ssthresh)(tcb *c) noexcept nogil
    # There was no congestion (RFC 9438 4.9): what was remembered before the events since ca_state was last below
    # CA_RECOVERY holds again. cwnd and ssthresh are the caller's.
    void (*undo)(tcb *c) noexcept nogil

# See cubic.pxd. Time in 1/1024 s where it is cubed.
cdef struct cubic_state:
    uint32_t w_max              # bytes
    uint32_t w_before           # cwnd before the last reduction: RFC 9438's cwnd_prior
    uint32_t k                  # 1/1024 s from the epoch's start to w_max
    bint timed_out              # since the last congestion event
    ns_t epoch                  # when congestion avoidance began, unused time left out; 0: has not yet
    ns_t grown                  # when the window was last let grow
    uint64_t w_est              # 1/1024 byte: what Reno's window would be
    uint64_t credit             # growth owed: bytes times cwnd

# How fast the application reads, round trip by round trip (see tuning.pxd).
cdef struct drs_state:
    ns_t rtt                    # as the receiver sees it; 0: not known
    ns_t since                  # start of the round trip that is measured
    uint64_t consumed           # bytes read before it
    uint32_t space              # bytes read in the one before
    seq_t edge                  # without timestamps: a window's worth has come when this has
    ns_t edge_since

# Only where a rate is set (see pacing.pxd).
cdef struct pacer:
    uint64_t rate               # bytes per second
    ns_t due                    # when the next packet may leave
    timer clock

cdef struct tcb:
    # --- the fields of the fast path first
    tcp *home
    uint32_t flags              # TF_*
    uint32_t flags2             # TF2_*
    uint8_t state               # TCPS_*
    uint8_t ca_state            # CA_*
    uint8_t snd_wscale          # shift of windows that the peer sends
    uint8_t rcv_wscale          # shift of windows that we send
    # sender
    seq_t snd_una
    seq_t snd_nxt               # highest sent, plus 1
    seq_t snd_end               # end of the data queued; the FIN's number
    seq_t snd_sml               # end of the last partial segment sent (Nagle, as Minshall has it)
    seq_t snd_wl1
    seq_t snd_wl2
    uint32_t snd_wnd
    uint32_t snd_wnd_max
    uint32_t snd_mss            # payload of a full segment, options deducted
    uint32_t gso_payload        # the most payload of one packet: a multiple of snd_mss
    uint32_t cwnd
    uint32_t ssthresh
    uint32_t cwnd_acked         # bytes acknowledged since cwnd grew (NewReno's congestion avoidance)
    const cc_ops *cc
    cubic_state cubic
    cubic_state cubic_undo
    pacer *pace                 # NULL: packets leave as soon as the windows let them
    mblk *sq_head               # send queue, by cont; .seq of each block is that of its first byte
    mblk *sq_tail
    mblk *sq_cursor             # the block of snd_nxt, or before it; NULL: the head
    uint32_t sndbuf
    bint sndbuf_set             # by the user: does not follow the path
    bint rcvbuf_set
    # receiver
    seq_t rcv_nxt
    seq_t rcv_adv               # right edge of the window promised: never moves left
    seq_t last_ack_sent
    seq_t rcv_fin
    uint32_t ts_recent
    uint32_t ts_offset
    ns_t ts_recent_age
    uint32_t rcv_mss            # what the peer's full segments look like
    uint32_t rcvbuf
    mblk *rq_head               # in-order data, by cont
    mblk *rq_tail
    uint32_t rq_len
    uint32_t rq_held            # storage of it
    uint8_t quick               # ACKs still to be sent at once
    uint8_t wary                # segments for which a burst draws more than one ACK: ACKs may get lost
    uint16_t rcv_size           # the size of the last segment with data
    drs_state drs
    # --- recovery
    uint8_t dupacks
    uint8_t backoff             # doublings of the time-out, until a round trip is measured again
    uint8_t retries             # time-outs since the last progress
    seq_t recover               # snd_nxt when the recovery began
    uint32_t reno_sacked        # bytes that duplicate ACKs stand for, without SACK
    scoreboard sb
    # RACK (see rack.pxd): the segment delivered that was sent last
    ns_t rack_at
    ns_t rack_rtt
    seq_t rack_end
    seq_t rack_highest          # the end of all that was delivered
    seq_t dsack_round           # until this is acknowledged further DSACKs do not count
    uint8_t reo_mult            # quarters of min_rtt, minus 1
    uint8_t reo_persist         # recoveries until it is one again
    seq_t probe_end             # snd_nxt when the tail loss probe was sent
    # PRR (RFC 9937), bytes since the recovery began
    uint32_t prr_delivered
    uint32_t prr_out
    uint32_t prr_flight         # RecoverFS
    # undo (see undo.pxd)
    uint32_t prior_cwnd
    uint32_t prior_ssthresh
    seq_t undo_una              # snd_una then
    uint32_t undo_resent        # bytes sent again since, less those that were reported as duplicates
    uint32_t resent_ts          # the timestamp of the first of them
    # --- round trip time, ns (RFC 6298)
    ns_t srtt
    ns_t rttvar
    ns_t rto
    ns_t min_rtt
    ns_t rtt_start              # when the timed segment left; 0: none is timed
    seq_t rtt_seq               # it is acknowledged by this
    uint32_t rtx_ts             # the timestamp of the latest retransmission
    # --- timers
    uint8_t rtx_kind
    uint8_t life_kind
    uint8_t probes              # zero-window or keep-alive probes unanswered
    uint8_t keep_probes
    timer rtx
    timer delack
    timer life
    ns_t last_sent              # data
    ns_t last_rcv               # anything acceptable
    ns_t progress               # since when the oldest unacknowledged data waits
    # --- out of order
    ooo_queue ooo
    interval dsack
    # --- limits of what is sent in answer to bad segments
    ns_t oow_since
    uint8_t oow_sent
    # --- the handshake
    uint16_t mss_peer           # from the SYN's option, or the default
    uint16_t mss_user           # TCPO_MAXSEG; 0: none
    uint16_t mss_adv
    uint32_t pmtu               # the path MTU that snd_mss was computed from
    seq_t iss
    seq_t irs
    # --- options and errors
    int32_t linger              # seconds, -1: off
    int32_t linger2
    uint32_t keep_idle
    uint32_t keep_intvl
    uint32_t user_timeout       # ms
    uint32_t rcvlowat
    uint32_t notsent_lowat      # TCP_NOTSENT_LOWAT, bytes; 0: none
    uint16_t keep_cnt
    uint8_t tos
    uint8_t ttl
    uint8_t syn_retries         # TCPO_SYNCNT; 0: the default
    uint8_t defer               # TCPO_DEFER_ACCEPT: SYN-ACKs for which a connection without data waits; 0: none
    int error                   # pending, positive
    int error_soft              # what ICMP said of the path since the last ACK: the reason of a time-out, if it comes
    # --- where it is
    flow_entry link             # .key: the four-tuple
    path way
    ready rdy
    tcb *all_next
    tcb **all_pprev
    tcb *port_next              # of the blocks whose local port has the same low byte
    tcb **port_pprev
    tcb *dirty_next             # in the line that it waits in
    tcb *dirty_prev
    tcb *hungry_next            # of the senders that wait for memory
    tcb **hungry_pprev
    tcb *parent                 # the listener, until accepted
    uint8_t queued              # in which of its queues: QUEUED_*
    uint8_t full                # 0: the line of those due; else 1 + number of the interface that it waits for
    tcb *q_next
    tcb *q_prev
    tcb *tw_next
    tcb *tw_prev
    listen_queues *lq
    # --- for tcp_info
    uint64_t bytes_acked
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t bytes_retrans
    uint64_t segs_out
    uint64_t segs_in
    uint64_t total_retrans

cdef tcb *tcb_new(tcp *t) noexcept nogil
# Take it out of every list and table, release what it holds, and free it at the next egress.
cdef void tcb_bury(tcb *c) noexcept nogil
# Free the buried ones.
cdef void tcb_reap(tcp *t) noexcept nogil
# Release path, queues, timers: everything but the block itself, which stays CLOSED for its user to look at.
cdef void tcb_shed(tcb *c) noexcept nogil
# Put it into the table of connections or of listeners under link.key; 0 or -ENOMEM.
cdef int tcb_enlist(tcb *c, bint listener) noexcept nogil
cdef void tcb_delist(tcb *c) noexcept nogil
cdef void tcb_set_port(tcb *c, uint16_t port) noexcept nogil
# There is output to make, or to think about, in the next egress.
cdef void mark(tcb *c) noexcept nogil
# There is none any more, or not in the line that it is in.
cdef void unmark(tcb *c) noexcept nogil
# Marked, but not to be looked at before the interface of this number has room again.
cdef void mark_full(tcb *c, int number) noexcept nogil
# Post readiness: the user hears of it after the verb.
cdef void tcb_post(tcb *c, uint32_t events) noexcept nogil


cdef inline bint has(const tcb *c, uint32_t flag) noexcept nogil:
    return (c.flags & flag) != 0


cdef inline bint synchronized(const tcb *c) noexcept nogil:
    """Whether the peer's sequence numbers are known (RFC 9293 3.3.2)."""
    return c.state != 2 and c.state != 7 and c.state != 10


cdef inline uint32_t flight(const tcb *c) noexcept nogil:
    """Sequence numbers sent and not yet acknowledged."""
    return c.snd_nxt - c.snd_una


cdef inline bint fin_sent(const tcb *c) noexcept nogil:
    return has(c, TF_SHUT_WR) and c.snd_nxt == c.snd_end + 1


cdef inline uint32_t unsent(const tcb *c) noexcept nogil:
    """Bytes queued behind snd_nxt."""
    return 0 if fin_sent(c) else c.snd_end - c.snd_nxt


cdef inline bint mostly_sent(const tcb *c) noexcept nogil:
    """TCP_NOTSENT_LOWAT: who waits is woken when less than half of it is unsent, as on Linux."""
    return c.notsent_lowat == 0 or unsent(c) < (c.notsent_lowat + 1) >> 1


cdef inline seq_t snd_limit(const tcb *c) noexcept nogil:
    """The end of everything to be sent, a queued FIN included."""
    return c.snd_end + (1 if has(c, TF_SHUT_WR) else 0)
