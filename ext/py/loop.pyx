"""Drivers in the hands of foreign event loops: see loop.pxd."""

from libc.stdint cimport uint64_t

from ustack._core.base.types cimport NS_NEVER, atomic_store32, atomic_swap32, ns_t
from ustack._core.py.driver cimport MAX_FDS, driver, driver_lock, driver_unlock, gather, poll_locked
from ustack._core.stack.engine cimport engine_deadline
from ustack._core.stack.sockets cimport sock
from ustack._core.sys.eventfd cimport sys_eventfd, sys_eventfd_signal, sys_eventfd_take, sys_timerfd, sys_timerfd_set
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.poll cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, EPOLLOUT, POLLOUT, pollfd, sys_epoll_create, sys_epoll_ctl)


cdef void loop_init(driver *d) noexcept nogil:
    d.epoll_fd = -1
    d.loop_fd = -1
    d.timer_fd = -1
    d.timer_at = NS_NEVER


cdef int open_descriptors(driver *d) noexcept nogil:
    """Make what the loop sleeps on; 0 or -errno with nothing left open."""
    cdef int r
    d.epoll_fd = sys_epoll_create()
    d.loop_fd = sys_eventfd()
    d.timer_fd = sys_timerfd()
    r = d.epoll_fd if d.epoll_fd < 0 else d.loop_fd if d.loop_fd < 0 else d.timer_fd
    if r >= 0:
        r = sys_epoll_ctl(d.epoll_fd, EPOLL_CTL_ADD, d.loop_fd, EPOLLIN, 0)
    if r >= 0:
        r = sys_epoll_ctl(d.epoll_fd, EPOLL_CTL_ADD, d.timer_fd, EPOLLIN, 0)
    if r < 0:
        loop_free(d)
        return r
    return 0


cdef int loop_fileno(driver *d) noexcept nogil:
    cdef int r = 0
    driver_lock(d)
    if d.epoll_fd < 0:
        r = open_descriptors(d)
    if r == 0 and not d.foreign:
        d.foreign = True
        d.epoll_generation = d.eng.generation - 1
        sys_eventfd_signal(d.hk_fd)
    driver_unlock(d)
    return r if r < 0 else d.epoll_fd


cdef void loop_leave(driver *d) noexcept nogil:
    driver_lock(d)
    if d.foreign:
        d.foreign = False
        empty_epoll(d)
        d.timer_at = NS_NEVER
        sys_timerfd_set(d.timer_fd, NS_NEVER)
        sys_eventfd_signal(d.hk_fd)
    driver_unlock(d)


cdef void loop_closed(driver *d) noexcept nogil:
    if d.loop_fd >= 0:
        sys_eventfd_signal(d.loop_fd)


cdef void loop_free(driver *d) noexcept nogil:
    if d.epoll_fd >= 0:
        sys_close(d.epoll_fd)
    if d.loop_fd >= 0:
        sys_close(d.loop_fd)
    if d.timer_fd >= 0:
        sys_close(d.timer_fd)
    loop_init(d)


# --- what the loop sleeps on --------------------------------------------------------------------------------------

cdef void empty_epoll(driver *d) noexcept nogil:
    cdef int k
    for k in range(d.epoll_nfds):
        sys_epoll_ctl(d.epoll_fd, EPOLL_CTL_DEL, d.epoll_fds[k], 0, 0)
    d.epoll_nfds = 0


cdef void sync_epoll(driver *d) noexcept nogil:
    """Make the epoll set what a sleeping thread would sleep on."""
    cdef pollfd fds[MAX_FDS]
    cdef int n, k
    if d.epoll_generation == d.eng.generation:
        return
    empty_epoll(d)
    n = gather(d, fds, d.loop_fd)
    for k in range(1, n):
        d.epoll_fds[k - 1] = fds[k].fd
        sys_epoll_ctl(d.epoll_fd, EPOLL_CTL_ADD, fds[k].fd,
                      EPOLLIN | EPOLLOUT if fds[k].events & POLLOUT else EPOLLIN, 0)
    d.epoll_nfds = n - 1
    d.epoll_generation = d.eng.generation


cdef void set_timer(driver *d, ns_t now, ns_t due) noexcept nogil:
    """One that expires too early costs a wake-up that was not needed, setting it every time a call for each packet:
    it is put off only once it has expired."""
    if d.timer_at > now and due >= d.timer_at:
        return
    if due != d.timer_at:
        d.timer_at = due
        sys_timerfd_set(d.timer_fd, due)


cdef void loop_kick(driver *d) noexcept nogil:
    if atomic_swap32(&d.loop_kicked, 1) == 0:
        sys_eventfd_signal(d.loop_fd)


cdef void loop_tell(driver *d) noexcept nogil:
    sync_epoll(d)
    set_timer(d, d.eng.ctx.now, engine_deadline(&d.eng))
    if d.loop_polling:
        d.loop_polling = False
    elif d.fired != NULL:
        loop_kick(d)


# --- polling ------------------------------------------------------------------------------------------------------

cdef ns_t loop_poll(driver *d) noexcept nogil:
    cdef ns_t t
    cdef uint64_t count
    driver_lock(d)
    # Without asking loop_kicked: who has set it may signal only after an earlier poll has cleared it, and a signal that
    # nobody takes would keep the loop awake for ever. The signal goes before the flag, as in take_kick.
    if d.loop_fd >= 0:
        sys_eventfd_take(d.loop_fd, &count)
    atomic_store32(&d.loop_kicked, 0)
    poll_locked(d, d.eng.ctx.now)
    d.lease = d.eng.ctx.now
    d.lease_seq += 1
    t = engine_deadline(&d.eng)
    d.loop_polling = d.foreign
    driver_unlock(d)
    return t


cdef sock *loop_take_fired(driver *d) noexcept nogil:
    cdef sock *s
    driver_lock(d)
    s = d.fired
    if s != NULL:
        d.fired = s.fired_next
        s.fired = False
        # Having found one the loop looks again without being told; having found none it goes to sleep, and what is
        # processed on the way out of the lock has to wake it.
        d.loop_polling = d.foreign
    driver_unlock(d)
    return s


cdef void loop_forget_fired(driver *d, sock *s) noexcept nogil:
    cdef sock **at = &d.fired
    while at[0] != NULL:
        if at[0] == s:
            at[0] = s.fired_next
            break
        at = &at[0].fired_next
    s.fired = False
