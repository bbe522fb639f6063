"""The engine: links below, protocols above, and the verbs that move packets between them.

A passive object: it reads no clock, never blocks, calls no Python. Everything above it (blocking sockets, event loops,
the simulator) is a driver of these verbs. All functions run under the engine's lock, which belongs to the driver.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.types cimport ns_t
from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif
from ustack._core.inet.ping cimport ping
from ustack._core.link.link cimport link
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk
from ustack._core.mem.source cimport source
from ustack._core.tcp.tcp cimport tcp
from ustack._core.udp.udp cimport udp

cdef enum:
    BURST = 32                  # packets asked of a link at a time
    TXQ_MAX = 1024              # packets that wait for a busy link; beyond it they are dropped and counted
    LOOP_ROUNDS = 64            # bursts that one poll takes from one source of packets before others get their turn

# One interface: what the internet layer sees of it, and the link behind it (NULL: loopback).
cdef struct iface:
    netif ifp
    engine *eng
    link *dev
    iface *next
    mblk *txq                   # waiting packets, by next
    mblk *txq_tail
    int ntx
    bint tx_blocked             # the link was busy: go on when its fds say POLLOUT, or at the next poll
    bint detached
    uint64_t seen_gone          # link.state as last reported
    ns_t retry                  # when to look at a link that is down again

cdef struct engine:
    context ctx
    inet net
    udp udp
    tcp tcp
    ping ping
    source src
    iface *ifs
    iface *loopback
    uint32_t generation         # of the set of links and of tx_blocked: a sleeper's list of fds is stale if it moved
    bint egress_pending         # something may wait for egress
    int relays                  # splices between sockets that are open, or were a moment ago
    bint rx_more                # the last ingress ended at its budget

# budget: bytes of storage (0: unbounded); seed: `words` random words. 0 or -errno.
cdef int engine_init(engine *e, ns_t now, int64_t budget, const uint64_t *seed, int words) noexcept nogil
# Ends every connection without a word; the arena lives on while blocks are lent.
cdef void engine_free(engine *e) noexcept nogil

# Attach a link; the engine uses it from now on. NULL in *out on error. 0, -ENOMEM, -EMFILE.
cdef int engine_add_link(engine *e, link *dev, iface **out) noexcept nogil
cdef void engine_remove_link(engine *e, iface *i) noexcept nogil

# Take bursts from the links, at most `budget` packets; returns how many.
cdef int engine_ingress(engine *e, ns_t now, int budget) noexcept nogil
# Give output to the links; returns how many packets went.
cdef int engine_egress(engine *e, ns_t now) noexcept nogil
# Due timers; returns how many fired.
cdef int engine_timers(engine *e, ns_t now) noexcept nogil
# When to come back at the latest; NS_NEVER if nothing waits. `now` or earlier: at once.
cdef ns_t engine_deadline(engine *e) noexcept nogil
# The three together; returns packets moved plus timers fired.
cdef int engine_poll(engine *e, ns_t now, int budget) noexcept nogil
# 1 if some link has packets, 0 if none has, -1 if only a system call can tell.
cdef int engine_pending(engine *e) noexcept nogil
