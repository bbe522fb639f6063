"""The driver: see driver.pxd.

The role of the poller. A call that has to wait stores itself as the poller. A displaced poller notices at its next
wake-up and parks on its own word. A leaving poller wakes nobody: the role stays vacant for GRACE, in which its next
call takes it back; then the housekeeper takes over, a native thread that never needs the GIL. While anybody polls,
the housekeeper stays off the links' descriptors, so no frame wakes two threads; while nobody does anything, it sleeps
on them without a timeout of its own, so an idle system wakes nobody.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBADF, EINTR
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.codes cimport EV_ERR, EV_HUP, EV_IN, EV_OUT
from ustack._core.base.types cimport (
    NS_MS, NS_NEVER, NS_US, atomic_cas32, atomic_dec32, atomic_inc32, atomic_load32, atomic_store32, atomic_swap32,
    cpu_relax, fence_full, ns_t, spin_lock, spin_unlock)
from ustack._core.mem.arena cimport arena_has_reap, arena_reap
from ustack._core.py.loop cimport loop_closed, loop_init, loop_kick, loop_tell
from ustack._core.stack.engine cimport (
    engine_deadline, engine_egress, engine_free, engine_init, engine_pending, engine_poll, iface)
from ustack._core.stack.sockets cimport (
    sock, sock_collect, sock_events, waiter, waiter_link, waiter_link_to, waiter_unlink, wakes)
from ustack._core.sys.eventfd cimport sys_eventfd, sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.futex cimport sys_futex_wait, sys_futex_wake
from ustack._core.sys.io cimport sys_close, sys_read, sys_write
from ustack._core.sys.pair cimport sys_socketpair
from ustack._core.sys.poll cimport POLLIN, POLLOUT, pollfd, sys_ppoll
from ustack._core.sys.thread cimport sys_thread_join, sys_thread_start
from ustack._core.zerocopy.cow_owner cimport owner_gone
from ustack._core.tcp.tcp cimport tcp_push_late

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *t)
    enum:
        CLOCK_MONOTONIC

cdef enum:
    # Packets and timers between two looks at the caller's condition. One burst: what it brought is still in the L2
    # cache when the application copies it out.
    POLL_BUDGET = 32
    LOCK_SPINS = 600            # about 20 us of pause instructions before sleeping on the lock
    REGISTRY = 256
    SPIN_FAILURES = 3           # fruitless spins in a row before an adaptive poller stops spinning
    SPIN_RETRY = 256            # sleeps before it tries again; twice as many each time that it fails
    SPIN_PATIENCE = 2048        # up to so many

cdef ns_t GRACE = 1 * NS_MS
cdef ns_t HELD = 20 * NS_MS     # a role held this long without polls lets the housekeeper sleep for good
cdef ns_t SIGNALS = 50 * NS_MS  # a busy poller on the main thread looks at signals this often
cdef ns_t SPIN_MAX = 60 * NS_US     # about what it costs to sleep and be woken by another core
cdef ns_t ATTEND = 50 * NS_US   # calls that do not wait look at the links this often, or after so many bytes:
cdef ns_t BUSY = 200 * NS_US    # what calls that follow one another as quickly as this hold back hardly waits
cdef size_t ATTEND_BYTES = 128 * 1024


# --- time ---------------------------------------------------------------------------------------------------------

cdef ns_t clock_now() noexcept nogil:
    """Nanoseconds of the monotonic clock."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <ns_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef ns_t driver_now(driver *d) noexcept nogil:
    return d.vnow if d.manual else clock_now()


# --- the drivers of this process, so that a thread that waits can help a neighbour whose packets it produced --------

cdef driver *registry[REGISTRY]
cdef int32_t registry_lock = 0
cdef int32_t vacant_work = 0    # > 0: some driver nobody polls was given packets by another


cdef void register(driver *d) noexcept nogil:
    cdef int k
    d.slot = -1
    spin_lock(&registry_lock)
    for k in range(REGISTRY):
        if registry[k] == NULL:
            registry[k] = d
            d.slot = k
            break
    spin_unlock(&registry_lock)


cdef void unregister(driver *d) noexcept nogil:
    if d.slot < 0:
        return
    spin_lock(&registry_lock)
    registry[d.slot] = NULL
    spin_unlock(&registry_lock)
    d.slot = -1


cdef driver *take_vacant(driver *mine) noexcept nogil:
    """A driver with posted packets that nobody polls, locked and marked as entered; NULL if there is none."""
    cdef driver *found = NULL
    cdef driver *d
    cdef int k
    spin_lock(&registry_lock)
    for k in range(REGISTRY):
        d = registry[k]
        if d != NULL and d != mine and d.work_pending and driver_try_lock(d):
            atomic_inc32(&d.inside)
            found = d
            break
    spin_unlock(&registry_lock)
    return found


cdef bint help_neighbours(driver *mine) noexcept nogil:
    """Poll engines of this process that got packets from ours and have nobody to poll them."""
    cdef driver *d
    cdef bint helped = False
    if atomic_load32(&vacant_work) == 0:
        return False
    atomic_store32(&vacant_work, 0)
    while True:
        d = take_vacant(mine)
        if d == NULL:
            return helped
        helped = True
        poll_locked(d, driver_now(d))
        driver_unlock(d)
        atomic_dec32(&d.inside)


# --- the lock -----------------------------------------------------------------------------------------------------

cdef bint driver_try_lock(driver *d) noexcept nogil:
    if atomic_load32(&d.lock) != 0 or not atomic_cas32(&d.lock, 0, 1):
        return False
    d.eng.ctx.now = driver_now(d)
    return True


cdef void driver_lock(driver *d) noexcept nogil:
    cdef int _spins
    for _spins in range(LOCK_SPINS):
        if driver_try_lock(d):
            return
        cpu_relax()
    while atomic_swap32(&d.lock, 2) != 0:
        sys_futex_wait(&d.lock, 2, NS_NEVER)
    d.eng.ctx.now = driver_now(d)


cdef inline void release(driver *d) noexcept nogil:
    if atomic_swap32(&d.lock, 0) == 2:
        sys_futex_wake(&d.lock, 1)


cdef bint poll_locked(driver *d, ns_t now) noexcept nogil:
    atomic_store32(&d.work_pending, 0)
    return engine_poll(&d.eng, now, POLL_BUDGET) != 0


cdef bint sleeper_outdated(driver *d) noexcept nogil:
    """Whether somebody sleeps for longer, or on other descriptors, than the engine now needs."""
    if not anybody_asleep(d):
        return False
    return d.sleep_generation != d.eng.generation or engine_deadline(&d.eng) < d.sleep_until


cdef inline bint anybody_asleep(driver *d) noexcept nogil:
    return atomic_load32(&d.sleeping) != 0 or atomic_load32(&d.hk_sleeping) != 0


cdef void kick(driver *d) noexcept nogil:
    """Wake whoever sleeps on the links. Each descriptor has a flag of its own for a signal under way: a housekeeper
    that has not risen yet must not keep a poller, perhaps a displaced one, from being woken."""
    if atomic_load32(&d.hk_sleeping) and atomic_swap32(&d.hk_kicked, 1) == 0:
        sys_eventfd_signal(d.hk_fd)
    if atomic_load32(&d.sleeping) and atomic_swap32(&d.kicked, 1) == 0:
        sys_eventfd_signal(d.kick_fd)


cdef void driver_unlock(driver *d) noexcept nogil:
    cdef wakes w
    cdef sock *s
    cdef int k
    cdef bint must_kick = False
    w.n = 0
    w.kick = False
    w.notes = NULL
    w.fired = d.fired
    while True:
        if d.work_pending:
            poll_locked(d, driver_now(d))
        if d.eng.ctx.ready.head != NULL:
            sock_collect(&d.eng, &w)
        while w.notes != NULL:
            s = w.notes
            w.notes = s.next
            s.noted = False
            sock_note(s)
        d.fired = w.fired
        if d.foreign:
            loop_tell(d)
        must_kick = must_kick or (anybody_asleep(d) and (w.kick or sleeper_outdated(d)))
        release(d)
        for k in range(w.n):
            sys_futex_wake(w.words[k], 1)
        w.n = 0
        # Whoever found the lock busy after our last look relies on us.
        if not d.work_pending or not driver_try_lock(d):
            break
        w.fired = d.fired
    if must_kick:
        kick(d)
    if arena_has_reap(d.eng.ctx.mem):
        arena_reap(d.eng.ctx.mem)


cdef void driver_flush_unlock(driver *d) noexcept nogil:
    engine_egress(&d.eng, d.eng.ctx.now)
    if d.manual and d.eng.loopback.ntx:
        engine_poll(&d.eng, d.eng.ctx.now, POLL_BUDGET)
    driver_unlock(d)


# --- sleeping -----------------------------------------------------------------------------------------------------

cdef int gather(driver *d, pollfd *fds, int own) noexcept nogil:
    """The links' descriptors and one of ours; returns how many. Under the lock."""
    cdef iface *i = d.eng.ifs
    cdef int raw[8]
    cdef int n = 1
    cdef int got, k
    fds[0].fd = own
    fds[0].events = POLLIN
    while i != NULL:
        if i.dev != NULL and i.dev.ops.fds != NULL and i.ifp.up:
            got = i.dev.ops.fds(i.dev, raw, 8)
            for k in range(got):
                if n < MAX_FDS:
                    fds[n].fd = raw[k]
                    fds[n].events = POLLIN | POLLOUT if i.tx_blocked else POLLIN
                    n += 1
        i = i.next
    return n


cdef int sleep_on_links(driver *d, int own, ns_t deadline) noexcept nogil:
    """Release the lock, sleep until a link, a kick or the deadline, take the lock. 1 woken, 0 time, -EINTR."""
    cdef pollfd fds[MAX_FDS]
    cdef int n = gather(d, fds, own)
    cdef int32_t *asleep = &d.hk_sleeping if own == d.hk_fd else &d.sleeping
    cdef int r
    asleep[0] += 1
    d.sleep_until = deadline
    d.sleep_generation = d.eng.generation
    # Posters of packets look at `sleeping` after posting; we look at what was posted after setting it.
    fence_full()
    if atomic_load32(&d.work_pending):
        asleep[0] -= 1
        return 1
    driver_unlock(d)
    r = sys_ppoll(fds, n, NS_NEVER if deadline == NS_NEVER else deadline - clock_now())
    if own == d.hk_fd:
        hk_lock(d)
    else:
        driver_lock(d)
    asleep[0] -= 1
    # Displaced pollers may sleep on the same kick, and it may be meant for one of them: it stays until all are up.
    if r > 0 and fds[0].revents and asleep[0] == 0:
        take_kick(d, own)
    return r


cdef void take_kick(driver *d, int own) noexcept nogil:
    """Take the signal before the flag: a kicker that finds the flag set relies on the signal being there still."""
    cdef uint64_t count
    sys_eventfd_take(own, &count)
    atomic_store32(&d.hk_kicked if own == d.hk_fd else &d.kicked, 0)


cdef void park(driver *d, waiter *w, ns_t deadline, int *result) noexcept nogil:
    """Sleep on the waiter's own word, without the lock."""
    w.parked = 1
    d.nparked += 1
    driver_unlock(d)
    result[0] = sys_futex_wait(&w.word, 0, NS_NEVER if deadline == NS_NEVER else deadline - clock_now())
    driver_lock(d)
    d.nparked -= 1
    w.parked = 0


# --- the role -----------------------------------------------------------------------------------------------------

cdef void take_role(driver *d, waiter *w) noexcept nogil:
    d.poller = w
    if d.hk_state == HK_ON_FDS:
        d.hk_state = HK_TIMED
        sys_eventfd_signal(d.hk_fd)


cdef void leave_role(driver *d, waiter *w) noexcept nogil:
    if d.poller != w:
        return
    d.poller = NULL
    d.lease = d.eng.ctx.now
    d.lease_seq += 1
    if d.hk_state == HK_DEEP and not d.foreign:
        d.hk_state = HK_TIMED
        sys_eventfd_signal(d.hk_fd)


cdef void driver_attend(driver *d, size_t moved) noexcept nogil:
    cdef ns_t now = d.eng.ctx.now
    cdef bint again = now - d.called < GRACE
    if d.poller != NULL or d.manual or d.foreign:
        return
    d.moved += moved
    if not again or (d.moved < ATTEND_BYTES and now - d.lease < ATTEND):
        d.called = now if not again else d.called
        return
    d.called = now
    d.moved = 0
    if d.hk_state != HK_TIMED:
        d.hk_state = HK_TIMED
        sys_eventfd_signal(d.hk_fd)
    d.attending = True
    poll_locked(d, now)
    d.lease = now
    d.lease_seq += 1


cdef bint driver_attended(driver *d) noexcept nogil:
    if d.poller != NULL or d.foreign or d.manual:
        return False
    return d.hk_state == HK_TIMED and d.eng.ctx.now - d.called < GRACE and is_wired(d)


cdef bint driver_busy(driver *d) noexcept nogil:
    return d.eng.ctx.now - d.called < BUSY


cdef bint is_wired(driver *d) noexcept nogil:
    """Whether a link has a device behind it, so that each packet costs a system call. Whoever reads at the other end
    of a link in memory may be this very thread, which nothing could tell to wait."""
    cdef iface *i = d.eng.ifs
    cdef int raw[8]
    while i != NULL:
        if i.dev != NULL and i.dev.ops.fds != NULL and i.dev.ops.fds(i.dev, raw, 8) > 0:
            return True
        i = i.next
    return False


cdef void adapt(driver *d, bint found) noexcept nogil:
    """Spinning pays where the answer comes within the bound; where it does not, it only burns the core that the
    peer may need. So a few failures switch it off, and it is tried again now and then, less and less often."""
    if not d.adaptive:
        return
    if found:
        d.spin = d.busy_poll
        d.fruitless = 0
        d.patience = SPIN_RETRY
    else:
        d.fruitless += 1
        if d.fruitless >= SPIN_FAILURES:
            d.spin = -<ns_t>d.patience
            d.patience = min(2 * d.patience, <int>SPIN_PATIENCE)


cdef ns_t spin_bound(driver *d) noexcept nogil:
    if d.adaptive and d.spin < 0:
        d.spin += 1
        return 0
    if d.adaptive and d.spin == 0:
        d.spin = d.busy_poll
    return d.busy_poll


cdef bint spin_once(driver *d) noexcept nogil:
    """A moment without the lock; True if the links may have something."""
    cdef int _k
    help_neighbours(d)
    if engine_pending(&d.eng) != 0 or d.work_pending:
        return True
    for _k in range(16):
        cpu_relax()
    return False


cdef inline bint satisfied(sock *s, uint32_t events, check_fn check, void *arg) noexcept nogil:
    if s == NULL:
        return check(arg)
    return sock_events(s) & (events | EV_ERR | EV_HUP) != 0


cdef int wait_loop(driver *d, waiter *w, sock *s, check_fn check, void *arg, ns_t deadline,
                   bint main_thread) noexcept nogil:
    cdef ns_t now = d.eng.ctx.now
    cdef ns_t began = now
    cdef ns_t spin_end = now + spin_bound(d)
    cdef ns_t until
    cdef bint slept = False
    cdef int r = 0
    while True:
        if d.poller == NULL:
            take_role(d, w)
        if d.poller == w:
            poll_locked(d, now)
            d.lease = now
            d.lease_seq += 1
        if s != NULL and s.closed:
            return -EBADF
        if d.closed:
            return -EBADF
        if satisfied(s, w.events, check, arg):
            if not slept and spin_end > began:
                adapt(d, True)
            return 0
        if now >= deadline:
            return -EAGAIN
        if r == -EINTR or (main_thread and now - began > SIGNALS):
            return -EINTR
        w.word = 0
        if d.poller != w:
            park(d, w, deadline, &r)
        elif now < spin_end:
            driver_unlock(d)
            while not spin_once(d) and not atomic_load32(&w.word) and clock_now() < spin_end:
                pass
            driver_lock(d)
        else:
            if not slept and spin_end > began:
                adapt(d, False)
            slept = True
            until = engine_deadline(&d.eng)
            if help_neighbours_unlocked(d):
                r = 0
            elif until > now:
                r = sleep_on_links(d, d.kick_fd, until if until < deadline else deadline)
            else:
                driver_unlock(d)
                driver_lock(d)
        now = d.eng.ctx.now


cdef bint help_neighbours_unlocked(driver *d) noexcept nogil:
    """help_neighbours for a caller that holds the lock: lets go of it meanwhile."""
    cdef bint helped
    if atomic_load32(&vacant_work) == 0:
        return False
    driver_unlock(d)
    helped = help_neighbours(d)
    driver_lock(d)
    return helped


cdef int wait_as(driver *d, sock *s, uint32_t events, check_fn check, void *arg, ns_t deadline,
                 bint main_thread) noexcept nogil:
    cdef waiter w
    cdef int r
    memset(&w, 0, sizeof(waiter))
    if d.manual:
        poll_locked(d, d.vnow)
        return 0 if satisfied(s, events, check, arg) else -EAGAIN
    if s != NULL:
        waiter_link(&w, s, events)
    else:
        waiter_link_to(&w, &d.plain)
    # A sender that waits for room goes on where it was: what it holds back goes with what it sends then.
    if d.eng.tcp.late != NULL and (s == NULL or s.tcp != d.eng.tcp.late or events != EV_OUT):
        tcp_push_late(&d.eng.tcp)
    take_role(d, &w)
    r = wait_loop(d, &w, s, check, arg, deadline, main_thread)
    waiter_unlink(&w)
    leave_role(d, &w)
    return r


cdef int driver_wait(driver *d, sock *s, uint32_t events, ns_t deadline, bint main_thread) noexcept nogil:
    return wait_as(d, s, events, NULL, NULL, deadline, main_thread)


cdef int driver_wait_until(driver *d, check_fn check, void *arg, ns_t deadline, bint main_thread) noexcept nogil:
    return wait_as(d, NULL, 0, check, arg, deadline, main_thread)


cdef int linger_until(driver *d, check_fn check, void *arg, ns_t deadline) except -1:
    cdef ns_t slice_end
    cdef int r = -EAGAIN
    while r != 0 and clock_now() < deadline:
        with nogil:
            slice_end = clock_now() + HELD
            driver_lock(d)
            r = driver_wait_until(d, check, arg, slice_end if slice_end < deadline else deadline, False)
            driver_unlock(d)
        PyErr_CheckSignals()
        if r == -EBADF:
            break
    return 0


cdef void driver_signal_closed(driver *d, sock *s) noexcept nogil:
    cdef waiter *w = s.waiters
    while w != NULL:
        atomic_store32(&w.word, 1)
        sys_futex_wake(&w.word, 1)
        w = w.next
    if d.sleeping and s.waiters != NULL:
        kick(d)


cdef void driver_wake_all(driver *d) noexcept nogil:
    cdef waiter *w
    driver_lock(d)
    w = d.plain
    while w != NULL:
        atomic_store32(&w.word, 1)
        sys_futex_wake(&w.word, 1)
        w = w.next
    if d.sleeping:
        sys_eventfd_signal(d.kick_fd)
    driver_unlock(d)


# --- the housekeeper ----------------------------------------------------------------------------------------------

cdef ns_t hk_watch(driver *d, ns_t now, uint32_t *seen, ns_t *seen_at, int *fresh) noexcept nogil:
    """How long to sleep while others poll, or did so a moment ago; 0: the role is ours."""
    if d.foreign:
        d.hk_state = HK_DEEP
        return NS_NEVER
    if d.lease_seq != seen[0]:
        seen[0] = d.lease_seq
        seen_at[0] = now
        fresh[0] += 1
    if d.poller != NULL:
        if now - seen_at[0] >= HELD:
            d.hk_state = HK_DEEP
            return NS_NEVER
        d.hk_state = HK_TIMED
        return HELD
    if now >= d.lease + GRACE:
        return 0
    d.hk_state = HK_TIMED
    # A caller that comes back again and again need not be watched so closely, unless somebody is parked.
    if fresh[0] > 8 and not d.nparked and not d.attending:
        return 8 * GRACE
    return d.lease + GRACE - now


cdef void hk_nap(driver *d, ns_t timeout) noexcept nogil:
    cdef pollfd own
    own.fd = d.hk_fd
    own.events = POLLIN
    own.revents = 0
    if sys_ppoll(&own, 1, timeout) > 0:
        take_kick(d, d.hk_fd)


cdef void hk_lock(driver *d) noexcept nogil:
    """The housekeeper does not queue for the lock: each release would wake it in vain. Whoever holds the lock polls
    in its place before letting go."""
    while not driver_try_lock(d):
        atomic_store32(&d.work_pending, 1)
        if driver_try_lock(d):
            return
        d.hk_state = HK_TIMED
        hk_nap(d, GRACE)


cdef void hk_sleep(driver *d, ns_t timeout) noexcept nogil:
    driver_unlock(d)
    hk_nap(d, timeout)
    hk_lock(d)


cdef void hk_poll(driver *d) noexcept nogil:
    """Poll in the place of threads that are elsewhere, then sleep on the links."""
    cdef ns_t until
    d.attending = False
    tcp_push_late(&d.eng.tcp)
    poll_locked(d, d.eng.ctx.now)
    until = engine_deadline(&d.eng)
    if until <= d.eng.ctx.now:
        driver_unlock(d)
        driver_lock(d)
        return
    d.hk_state = HK_ON_FDS
    sleep_on_links(d, d.hk_fd, until)
    if d.hk_state == HK_ON_FDS:
        d.hk_state = HK_TIMED


cdef void housekeeper(void *arg) noexcept nogil:
    cdef driver *d = <driver *>arg
    cdef uint32_t seen = 0
    cdef ns_t seen_at = 0
    cdef int fresh = 0
    cdef ns_t timeout
    driver_lock(d)
    while not d.stop:
        timeout = hk_watch(d, d.eng.ctx.now, &seen, &seen_at, &fresh)
        if timeout > 0:
            hk_sleep(d, timeout)
        else:
            fresh = 0
            hk_poll(d)
    driver_unlock(d)


cdef int driver_start_housekeeper(driver *d) noexcept nogil:
    cdef int r = 0
    if not d.hk_started and not d.manual:
        r = sys_thread_start(&d.hk_thread, housekeeper, d, b"ustack")
        d.hk_started = r == 0
    return r


# --- virtual clock ------------------------------------------------------------------------------------------------

cdef ns_t driver_deadline(driver *d) noexcept nogil:
    cdef ns_t t
    driver_lock(d)
    t = engine_deadline(&d.eng)
    if d.work_pending and t > d.eng.ctx.now:
        t = d.eng.ctx.now
    driver_unlock(d)
    return t


cdef void driver_advance(driver *d, ns_t t) noexcept nogil:
    """Virtual time goes to t, stopping at every deadline on the way."""
    cdef ns_t due
    cdef int stuck = 0
    driver_lock(d)
    poll_locked(d, d.vnow)
    while True:
        due = engine_deadline(&d.eng)
        if due > t:
            break
        if due > d.vnow:
            d.vnow = due
            stuck = 0
        else:
            stuck += 1
            if stuck > 1000000:
                break
        poll_locked(d, d.vnow)
    if t > d.vnow:
        d.vnow = t
        poll_locked(d, t)
    driver_unlock(d)


cdef void driver_notify_inline(void *arg) noexcept nogil:
    """A pipe was given packets: the thread that brought them processes them."""
    cdef driver *d = <driver *>arg
    atomic_store32(&d.work_pending, 1)
    if driver_try_lock(d):
        driver_unlock(d)


cdef void driver_notify_kick(void *arg) noexcept nogil:
    """Another engine posted packets (under its own lock): only leave word, and wake a sleeper."""
    cdef driver *d = <driver *>arg
    atomic_store32(&d.work_pending, 1)
    fence_full()
    if d.manual:
        return
    if anybody_asleep(d):
        kick(d)
        return
    if d.foreign:
        loop_kick(d)
    if d.poller == NULL:
        atomic_store32(&vacant_work, 1)


# --- descriptors that mirror readiness ------------------------------------------------------------------------------
#
# The application holds one end of a local socket pair. It is readable while a byte of ours lies in it, and not
# writable while we keep its own sending direction full. Only changes cost system calls.

cdef void show_readable(sock *s, bint on) noexcept nogil:
    cdef char byte = 0
    if on:
        sys_write(s.note_peer, &byte, 1)
    else:
        sys_read(s.note_fd, &byte, 1)


cdef void show_writable(sock *s, bint on) noexcept nogil:
    cdef char filler[1024]
    if on:
        while sys_read(s.note_peer, filler, sizeof(filler)) > 0:
            pass
    else:
        memset(filler, 0, sizeof(filler))
        while sys_write(s.note_fd, filler, sizeof(filler)) > 0:
            pass


cdef void sock_note(sock *s) noexcept nogil:
    """Bring the descriptor up to date with what holds now."""
    cdef uint32_t events
    cdef uint8_t show = 0
    if s.note_fd < 0:
        return
    events = sock_events(s)
    if events & (EV_IN | EV_ERR | EV_HUP):
        show |= EV_IN
    if events & (EV_OUT | EV_ERR | EV_HUP):
        show |= EV_OUT
    if (show ^ s.note_state) & EV_IN:
        show_readable(s, show & EV_IN != 0)
    if (show ^ s.note_state) & EV_OUT:
        show_writable(s, show & EV_OUT != 0)
    s.note_state = show


cdef int sock_fileno(driver *d, sock *s) noexcept nogil:
    cdef int r
    if s.note_fd >= 0:
        return s.note_fd
    r = sys_socketpair(&s.note_fd, &s.note_peer)
    if r < 0:
        s.note_fd = -1
        return r
    s.note_state = EV_OUT       # what a fresh pair shows
    sock_note(s)
    return s.note_fd


cdef void sock_unfile(sock *s) noexcept nogil:
    if s.note_fd < 0:
        return
    sys_close(s.note_fd)
    sys_close(s.note_peer)
    s.note_fd = s.note_peer = -1


# --- life ---------------------------------------------------------------------------------------------------------

cdef int driver_init(driver *d, bint manual, ns_t start, int64_t budget, const uint64_t *seed,
                     int words) noexcept nogil:
    cdef int r
    memset(d, 0, sizeof(driver))
    d.manual = manual
    d.vnow = start
    d.kick_fd = -1
    d.hk_fd = -1
    loop_init(d)
    d.slot = -1
    d.busy_poll = SPIN_MAX
    d.adaptive = True
    d.spin = SPIN_MAX
    d.patience = SPIN_RETRY
    d.sleep_until = NS_NEVER
    r = engine_init(&d.eng, driver_now(d), budget, seed, words)
    if r != 0:
        return r
    if not manual:
        d.kick_fd = sys_eventfd()
        d.hk_fd = sys_eventfd()
        if d.kick_fd < 0:
            return d.kick_fd
        if d.hk_fd < 0:
            return d.hk_fd
        register(d)
    return 0


cdef void driver_free(driver *d) noexcept nogil:
    unregister(d)
    d.stop = True
    if d.hk_started and not d.forked:
        sys_eventfd_signal(d.hk_fd)
        sys_thread_join(d.hk_thread)
    d.hk_started = False
    owner_gone(d.cow)
    d.cow = NULL
    engine_free(&d.eng)
    if d.kick_fd >= 0:
        sys_close(d.kick_fd)
    if d.hk_fd >= 0:
        sys_close(d.hk_fd)
    d.kick_fd = d.hk_fd = -1
    loop_closed(d)
