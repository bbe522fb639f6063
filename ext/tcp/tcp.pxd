"""TCP, whole, as the engine and the sockets call it (RFC 9293). No sockets in here, no waiting, no clock.

The control block is in block.pxd; who only uses TCP needs nothing but this file. All functions run under the engine's
lock, with ctx.now set.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.ready cimport ready
from ustack._core.base.types cimport ns_t
from ustack._core.base.wheel cimport timer
from ustack._core.inet.demux cimport flow_table
from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport IF_MAX
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.block cimport cc_ops, tcb

cdef enum:
    # States, numbered as Linux's TCP_INFO has them
    TCPS_ESTABLISHED = 1
    TCPS_SYN_SENT = 2
    TCPS_SYN_RECEIVED = 3
    TCPS_FIN_WAIT_1 = 4
    TCPS_FIN_WAIT_2 = 5
    TCPS_TIME_WAIT = 6
    TCPS_CLOSED = 7
    TCPS_CLOSE_WAIT = 8
    TCPS_LAST_ACK = 9
    TCPS_LISTEN = 10
    TCPS_CLOSING = 11

cdef enum:
    # Options of tcp_setopt and tcp_getopt; values are int64
    TCPO_NODELAY = 1            # 0, 1
    TCPO_MAXSEG = 2             # bytes; before connect or listen
    TCPO_KEEPALIVE = 3          # 0, 1
    TCPO_KEEPIDLE = 4           # seconds
    TCPO_KEEPINTVL = 5          # seconds
    TCPO_KEEPCNT = 6
    TCPO_LINGER = 7             # -1: off; else seconds (0: reset on close)
    TCPO_LINGER2 = 8            # seconds in FIN-WAIT-2 after close
    TCPO_USER_TIMEOUT = 9       # milliseconds; 0: default
    TCPO_SNDBUF = 10            # bytes
    TCPO_RCVBUF = 11            # bytes
    TCPO_REUSEADDR = 12
    TCPO_REUSEPORT = 13
    TCPO_CORK = 14
    TCPO_QUICKACK = 15
    TCPO_TOS = 16
    TCPO_TTL = 17
    TCPO_OOBINLINE = 18
    TCPO_RCVLOWAT = 19
    TCPO_MAX_PACING_RATE = 20   # bytes per second, at least 1; -1: none
    TCPO_SYNCNT = 21            # SYNs, or a listener's SYN-ACKs, that are sent again
    TCPO_NOTSENT_LOWAT = 22     # bytes not yet sent, from which on nothing more is taken; 0: none
    TCPO_DEFER_ACCEPT = 23      # seconds for which a listener's connections wait for data before they are accepted
    TCPO_V6ONLY = 40            # of AF_INET6, before it is bound: serve no IPv4 (RFC 3493 5.3)

cdef enum:
    # When a listener answers with SYN cookies (RFC 4987 3.6)
    TCP_COOKIES_AUTO = 0        # while its SYN queue is full
    TCP_COOKIES_NEVER = 1       # the oldest unfinished handshake makes way
    TCP_COOKIES_ALWAYS = 2

cdef enum:
    SUPER_SEGMENT = 65536       # storage of the blocks that senders copy into, and of the packets that any link takes

cdef enum:
    TCP_SEND_MORE = 1           # MSG_MORE: more follows, hold a partial segment
    TCP_SEND_EOR = 2
    TCP_SEND_LATE = 4           # hold a partial segment until tcp_push_late, which the caller sees to; not with NODELAY
    TCP_SEND_BULK = 8           # and, where packets may be longer than 64 KB, a partial packet: writes come quickly
    TCP_RECV_PEEK = 1

# Connections in line, oldest first.
cdef struct tcp_line:
    tcb *first
    tcb *last

cdef struct tcp:
    context *ctx
    inet *net
    flow_table conns            # by four-tuple
    flow_table listeners        # by local address and port
    uint64_t secret[2]          # of RFC 6528 and RFC 6056
    tcp_line due                # connections with output to make in the next tcp_egress
    tcp_line full[IF_MAX]       # those that wait until the interface of that number has room
    uint32_t full_set           # which of these lines are not empty, a bit each
    uint32_t full_generation    # of the internet layer: what the numbers meant
    tcb *all                    # every control block
    tcb *ports[256]             # every control block with a local port, by its low byte
    tcb *late                   # holds back a partial segment (TCP_SEND_LATE)
    tcb *grave                  # to be freed in the next tcp_egress
    tcb *hungry                 # senders that wait for memory (pressure.pxd)
    timer hunger
    ns_t hunger_wait
    uint32_t count
    uint32_t timewait           # how many of them are in TIME-WAIT, and the bound
    uint32_t timewait_max
    tcb *timewait_oldest
    tcb *timewait_newest
    uint32_t sndbuf             # defaults, bytes
    uint32_t rcvbuf
    uint32_t syn_max            # bound of a listener's SYN queue
    int cookies                 # TCP_COOKIES_*
    const cc_ops *cc            # congestion control of new connections
    ns_t limit_epoch            # global limits of challenge ACKs and, below, of resets: per second
    ns_t reset_epoch
    uint32_t limit_challenge
    uint32_t limit_reset
    uint32_t isn_floor          # the next connection to a listener starts above this (RFC 6191)
    bint isn_floor_set

# What TCP_INFO tells, in our own words; ns and bytes.
cdef struct tcp_info:
    uint8_t state
    uint8_t options             # 1 timestamps, 2 SACK, 4 window scaling (Linux's TCPI_OPT_*)
    uint8_t snd_wscale
    uint8_t rcv_wscale
    uint8_t ca_state            # 0 open, 1 disorder, 3 recovery, 4 loss (Linux's TCP_CA_*)
    uint8_t retransmits         # back-offs of the running time-out
    ns_t rto
    ns_t srtt
    ns_t rttvar
    ns_t min_rtt
    ns_t ato
    uint32_t snd_mss
    uint32_t rcv_mss
    uint32_t advmss
    uint32_t pmtu
    uint32_t cwnd               # bytes
    uint32_t ssthresh           # bytes
    uint32_t snd_wnd            # bytes the peer offers
    uint32_t rcv_wnd            # bytes we offer
    uint32_t unacked            # bytes in flight
    uint32_t sacked
    uint32_t lost               # and not sent again since
    uint32_t retrans            # sent again and in flight
    uint32_t notsent
    uint32_t rcv_queued
    uint64_t bytes_acked
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t bytes_retrans
    uint64_t segs_out
    uint64_t segs_in
    uint64_t total_retrans
    uint32_t accept_queue       # listeners: waiting, and the bound
    uint32_t accept_max

cdef int tcp_init(tcp *t, context *ctx, inet *net) noexcept nogil
# Frees every control block without a word on the wire.
cdef void tcp_free(tcp *t) noexcept nogil

# --- a connection's life; int: 0 or -errno ----------------------------------------------------------------------
cdef tcb *tcp_open(tcp *t) noexcept nogil
# Make a fresh block one of AF_INET6.
cdef void tcp_use_ip6(tcb *c) noexcept nogil
# -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL if bound. port 0: an ephemeral one (RFC 6056).
cdef int tcp_bind(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil
# Sends the SYN and returns -EINPROGRESS; -EISCONN, -EALREADY, -EADDRNOTAVAIL, -ENETUNREACH, ... otherwise.
cdef int tcp_connect(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil
cdef int tcp_listen(tcb *c, int backlog) noexcept nogil
# The oldest established connection of a listener, or NULL. The caller owns it as if from tcp_open.
cdef tcb *tcp_accept(tcb *listener) noexcept nogil
# The user lets go: FIN after what is queued, or RST (unread data, linger 0). The block lives on by itself as long as
# the protocol needs it; the caller must not touch it again. The ready entry is forgotten.
cdef void tcp_close(tcb *c) noexcept nogil
# RST, and the caller must not touch it again.
cdef void tcp_abort(tcb *c) noexcept nogil
# how: 0 read, 1 write, 2 both (SHUT_*). -ENOTCONN.
cdef int tcp_shutdown(tcb *c, int how) noexcept nogil
# A thread goes to sleep on the connection, or has woken up: what it does then may carry an ACK.
cdef void tcp_await(tcb *c, bint sleeps) noexcept nogil

# --- data -------------------------------------------------------------------------------------------------------
# Bytes that tcp_send takes now; 0: wait for EV_OUT; -errno: the error to report (-EPIPE, -ECONNRESET, -ENOTCONN, ...).
cdef int64_t tcp_send_room(tcb *c) noexcept nogil
# For a sender that is short of memory: how many of n bytes it may copy; 0: no EV_OUT holds until there is memory.
cdef size_t tcp_send_memory(tcb *c, size_t n) noexcept nogil
# Memory was promised, and was not to be had: no EV_OUT holds for a moment.
cdef void tcp_send_wait(tcb *c) noexcept nogil
# How senders should cut what they copy: returns how many bytes make whole super-segments of what is queued (0: not
# known yet); *stride: keep partial sums of so many bytes each, 0 if the path sums by itself; *phase: so many bytes of
# a stride are queued already.
cdef uint32_t tcp_send_hint(const tcb *c, uint32_t *stride, uint32_t *phase) noexcept nogil
# Queue a chain (any size; the caller has asked for room, but more is taken). Marks the connection for output.
# Takes the data. The bytes taken, or -errno.
cdef int64_t tcp_send(tcb *c, mblk *taken, int flags) noexcept nogil
# Bytes ready to be read; -1 at the end of the stream; -errno < -1 as for tcp_recv.
cdef int64_t tcp_recv_ready(tcb *c) noexcept nogil
# A chain of at most n in-order bytes, detached from the queue (windows, no copy); peek: left queued, dup'ed. NULL:
# *err says why: 0 end of stream, -EAGAIN, -ECONNRESET, -ETIMEDOUT, -ENOTCONN. Sends a window update when due.
cdef mblk *tcp_recv(tcb *c, size_t n, int flags, int *err) noexcept nogil

# --- state ------------------------------------------------------------------------------------------------------
cdef uint32_t tcp_events(tcb *c) noexcept nogil         # EV_* that hold now
cdef ready *tcp_ready(tcb *c) noexcept nogil            # its readiness entry: set .owner to be told
cdef int tcp_take_error(tcb *c) noexcept nogil          # pending errno (positive), cleared
cdef int tcp_take_any_error(tcb *c) noexcept nogil      # SO_ERROR: also what ICMP said, though it ends nothing
cdef int tcp_state(const tcb *c) noexcept nogil
cdef int tcp_connect_result(tcb *c) noexcept nogil      # -EINPROGRESS, 0 once established, or -errno once
cdef void tcp_local(const tcb *c, ipaddr *addr, uint16_t *port) noexcept nogil
cdef void tcp_remote(const tcb *c, ipaddr *addr, uint16_t *port) noexcept nogil
cdef int tcp_setopt(tcb *c, int option, int64_t value) noexcept nogil
cdef int tcp_getopt(tcb *c, int option, int64_t *value) noexcept nogil
# TCP_CONGESTION: n bytes of a name, up to a NUL; -ENOENT.
cdef int tcp_set_congestion(tcb *c, const char *name, size_t n) noexcept nogil
cdef const char *tcp_get_congestion(const tcb *c) noexcept nogil
# The same for connections to be made.
cdef int tcp_default_congestion(tcp *t, const char *name, size_t n) noexcept nogil
cdef void tcp_get_info(tcb *c, tcp_info *info) noexcept nogil
# Let go of what TCP_SEND_LATE held back; it leaves with the next egress.
cdef void tcp_push_late(tcp *t) noexcept nogil
# Bytes of ours not yet acknowledged, FIN included: SO_LINGER waits for 0.
cdef uint32_t tcp_unacked(const tcb *c) noexcept nogil

# --- the engine's verbs -------------------------------------------------------------------------------------------
# Output of every connection marked since the last call; stops early where an interface's queue is full (those stay
# marked). Returns whether any is still marked.
cdef bint tcp_egress(tcp *t) noexcept nogil
