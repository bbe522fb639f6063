"""The driver of one engine: its lock, the real or virtual clock, who polls, and the housekeeper.

Whoever waits, polls; the newest waiter polls. Everything here runs without the GIL.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from ustack._core.base.types cimport ns_t
from ustack._core.stack.engine cimport engine
from ustack._core.stack.sockets cimport sock, waiter
from ustack._core.sys.poll cimport pollfd
from ustack._core.zerocopy.cow_owner cimport cow_owner

cdef enum:
    MAX_FDS = 64

cdef enum:
    HK_TIMED = 0                # the housekeeper sleeps for a short while and looks whether anybody polls
    HK_DEEP = 1                 # it sleeps until it is told: somebody else polls
    HK_ON_FDS = 2               # it polls

cdef struct driver:
    engine eng
    int32_t lock                # 0 free, 1 held, 2 held and somebody sleeps on it
    int32_t work_pending        # packets were posted while the lock was busy: its holder polls before it lets go
    bint manual                 # virtual clock: nothing sleeps, nothing runs by itself
    bint foreign                # an event loop of the user's drives: the housekeeper stays out
    bint forked                 # this is a child of the process that made it
    bint closed
    ns_t vnow                   # virtual time
    ns_t busy_poll              # how long a waiting poller spins before it sleeps
    bint adaptive               # busy_poll is only an upper bound
    ns_t spin                   # the adaptive bound now; below 0: sleeps left until spinning is tried again
    int fruitless               # spins in a row that found nothing
    int patience                # sleeps until spinning is tried again, the next time that it is given up
    int32_t inside              # threads inside calls (atomic)
    waiter *poller              # who has the role; NULL: vacant
    waiter *plain               # waiters that wait on no socket, by next
    ns_t lease                  # when a poller last polled
    uint32_t lease_seq          # how often
    bint attending              # by calls that do not wait: the housekeeper looks in every GRACE
    size_t moved                # bytes since then, by such calls
    ns_t called                 # when a call that did not wait last looked after the links
    int32_t nparked
    sock *fired                 # watched sockets on which something happened since loop_take_fired
    int32_t sleeping            # threads asleep on the links' descriptors (poller or displaced)
    int32_t hk_sleeping         # the housekeeper is
    int32_t hk_kicked           # a signal for it is under way (one is enough)
    ns_t sleep_until            # when the newest of them wakes by itself
    uint32_t sleep_generation   # the engine's generation that its descriptors were taken from
    int32_t kicked              # the same for the sleeping threads
    int kick_fd
    int hk_fd
    int32_t hk_state
    bint hk_started
    bint stop
    uint64_t hk_thread
    # For an event loop of the user's (loop.pyx); -1 until asked for.
    int epoll_fd                # holds the links' descriptors and the two below
    int loop_fd                 # readable: something happened that the loop has to look at
    int timer_fd                # readable: the deadline has come
    ns_t timer_at               # what it is set to; NS_NEVER: nothing
    int32_t loop_kicked         # a signal is on its way (one is enough)
    bint loop_polling           # the loop itself holds the lock: it looks without being told
    uint32_t epoll_generation
    int epoll_fds[MAX_FDS]
    int epoll_nfds
    int32_t slot                # in the registry of this process's drivers
    cow_owner *cow              # for the pages that it shares with the application; NULL until there are any

cdef ns_t clock_now() noexcept nogil
cdef ns_t driver_now(driver *d) noexcept nogil

# seed: `words` random words; start: virtual time if manual. 0 or -errno.
cdef int driver_init(driver *d, bint manual, ns_t start, int64_t budget, const uint64_t *seed, int words) noexcept nogil
# Stops the housekeeper and frees the engine. No thread may be inside.
cdef void driver_free(driver *d) noexcept nogil
cdef int driver_start_housekeeper(driver *d) noexcept nogil

cdef bint driver_try_lock(driver *d) noexcept nogil
# Also sets ctx.now.
cdef void driver_lock(driver *d) noexcept nogil
# Makes the wake-ups that came due, then runs what must not run under the lock (free functions of storage).
cdef void driver_unlock(driver *d) noexcept nogil
# For calls that keep the stack busy without ever waiting, such as the sends of a bulk transfer: look after the links
# if nobody else does and it is time. Without this the housekeeper would fight for the lock. Under the lock.
cdef void driver_attend(driver *d, size_t moved) noexcept nogil
# Whether the caller has looked after the links lately, so that nobody need be woken for what may wait a moment.
cdef bint driver_attended(driver *d) noexcept nogil
# Whether, moreover, call follows call.
cdef bint driver_busy(driver *d) noexcept nogil
# The same after making output: egress first.
cdef void driver_flush_unlock(driver *d) noexcept nogil

# Wait, with the lock held on entry and on return, until one of `events` holds on s. 0; -EAGAIN at the deadline
# (absolute, of clock_now; NS_NEVER: none); -EINTR: look at signals and call again; -EBADF: closed meanwhile.
cdef int driver_wait(driver *d, sock *s, uint32_t events, ns_t deadline, bint main_thread) noexcept nogil
# The same for any condition: `check(arg)` under the lock; s may be NULL.
ctypedef bint (*check_fn)(void *arg) noexcept nogil
cdef int driver_wait_until(driver *d, check_fn check, void *arg, ns_t deadline, bint main_thread) noexcept nogil
# Wait for a condition that signals nobody, looking at it at least every 20 ms, with the GIL held by the caller and
# given back meanwhile. Raises what a signal handler raises.
cdef int linger_until(driver *d, check_fn check, void *arg, ns_t deadline) except -1

cdef ns_t driver_deadline(driver *d) noexcept nogil
cdef void driver_advance(driver *d, ns_t t) noexcept nogil
# Poll with the lock held. Whether anything moved.
cdef bint poll_locked(driver *d, ns_t now) noexcept nogil
# The descriptors to sleep on: `own`, and those of the links. Under the lock; returns how many.
cdef int gather(driver *d, pollfd *fds, int own) noexcept nogil
# Hooks for in-memory links.
cdef void driver_notify_inline(void *arg) noexcept nogil
cdef void driver_notify_kick(void *arg) noexcept nogil
# After close of one socket: everybody who waits on it looks again. Under the lock.
cdef void driver_signal_closed(driver *d, sock *s) noexcept nogil
# The driver is closing: everybody who waits looks again. Takes the lock.
cdef void driver_wake_all(driver *d) noexcept nogil
# A descriptor that mirrors the readiness of one socket (select, poll, epoll). Under the lock. -errno.
cdef int sock_fileno(driver *d, sock *s) noexcept nogil
cdef void sock_note(sock *s) noexcept nogil
cdef void sock_unfile(sock *s) noexcept nogil
