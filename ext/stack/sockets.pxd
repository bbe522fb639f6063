"""Sockets: endpoints of the protocols as the application sees them, and the list of threads that wait on each.

Nothing here waits, and nothing reads a clock: a driver calls these functions under the engine's lock, sleeps without
it, and is woken through ``sock_collect``.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.ready cimport ready
from ustack._core.mem.mblk cimport mblk
from ustack._core.stack.engine cimport engine
from ustack._core.tcp.tcp cimport tcb
from ustack._core.udp.udp cimport udp_meta, udp_pcb
from ustack._core.inet.ping cimport ping_pcb
from ustack._core.zerocopy.relay cimport relay

cdef enum:
    SOCK_TCP = 1
    SOCK_UDP = 2
    SOCK_PING = 3

# A thread that waits for something on one socket; it lives on that thread's stack.
cdef struct waiter:
    waiter *next
    waiter **pprev              # NULL: not linked
    sock *s
    uint32_t events             # EV_* it waits for
    int32_t word                # 0: nothing happened; 1: look again. A futex
    int32_t parked              # it sleeps on the futex, not on the link's descriptors

cdef struct sock:
    engine *eng
    uint8_t kind
    bint closed                 # the application closed it: whoever still waits gets EBADF
    bint bound
    bint v6                     # of AF_INET6
    int32_t refs                # the handle, and every thread inside a call
    tcb *tcp
    udp_pcb *udp
    ping_pcb *ping
    waiter *waiters
    sock *next                  # in the driver's list of those to be told through a descriptor
    int note_fd                 # descriptor that mirrors readiness for select(2); -1: none
    int note_peer
    uint8_t note_state          # what it shows at present: EV_IN, EV_OUT
    bint noted                  # in that list
    uint32_t watched            # EV_* of which an event loop wants to hear once, through the driver's fired sockets
    bint fired                  # it is in that list
    sock *fired_next
    uint32_t chunk              # bytes that a send copies into one block: one super-segment; 0: not known yet
    uint32_t csum_stride        # > 0: sum while copying, one partial sum per so many bytes (the path has no TX_CSUM)
    uint32_t csum_phase         # so many bytes of a stride are queued already
    relay *out                  # the splice that takes what this socket receives; NULL: none
    relay *into                 # the splice that sends on it

# A wake-up to be made once the lock is released: the words of parked threads, and whether a sleeper must be kicked.
cdef enum:
    WAKE_MAX = 64

cdef struct wakes:
    int32_t *words[WAKE_MAX]
    int n
    bint kick                   # some signalled waiter sleeps on the links' descriptors
    sock *notes                 # sockets whose descriptor has to be brought up to date
    sock *fired                 # watched sockets on which something happened

# v6: of AF_INET6.
cdef sock *sock_new(engine *e, int kind, bint v6) noexcept nogil
cdef int sock_bind_ping(sock *s, uint16_t identifier) noexcept nogil
cdef sock *sock_of_tcb(engine *e, tcb *c) noexcept nogil
# The application lets go of the endpoint; the structure stays until refs is 0.
cdef void sock_close(sock *s, bint abort) noexcept nogil
# Frees the structure (not under the lock); only with refs == 0.
cdef void sock_free(sock *s) noexcept nogil

cdef uint32_t sock_events(sock *s) noexcept nogil
cdef void waiter_link(waiter *w, sock *s, uint32_t events) noexcept nogil
cdef void waiter_link_to(waiter *w, waiter **head) noexcept nogil
cdef void waiter_unlink(waiter *w) noexcept nogil
# Signal one socket's waiters whose events hold (all of them if it is closed).
cdef void sock_signal(sock *s, wakes *out) noexcept nogil
# Move what the splices of those sockets have on which something happened.
cdef void sock_relays(engine *e) noexcept nogil
# Drain the engine's ready list into wake-ups.
cdef void sock_collect(engine *e, wakes *out) noexcept nogil
