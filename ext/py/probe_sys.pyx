"""For tests: the thin wrappers of ``sys`` as Python functions. Values, or -errno, as in the core."""

from libc.stdint cimport int32_t, uint64_t

from ustack._core.base.types cimport atomic_load32, atomic_store32, ns_t
from ustack._core.sys.eventfd cimport sys_eventfd, sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.futex cimport sys_futex_wait, sys_futex_wake
from ustack._core.sys.poll cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, POLLIN, epoll_event, pollfd, sys_epoll_create, sys_epoll_ctl,
    sys_epoll_wait, sys_ppoll,
)
from ustack._core.sys.thread cimport sys_gettid, sys_thread_join, sys_thread_start

cdef struct waiter:
    int32_t word
    int32_t parked
    int32_t seen
    int tid
    int result


cdef void wait_for_word(void *arg) noexcept nogil:
    cdef waiter *w = <waiter *>arg
    w.tid = sys_gettid()
    atomic_store32(&w.parked, 1)
    while atomic_load32(&w.word) == 0:
        w.result = sys_futex_wait(&w.word, 0, 10_000_000_000)
        if w.result == -110:
            return
    atomic_store32(&w.seen, atomic_load32(&w.word))


def poll(list fds, ns_t timeout):
    """How many of ``fds`` are readable within ``timeout`` nanoseconds."""
    cdef pollfd p[8]
    cdef int i, n = min(len(fds), 8), r
    for i in range(n):
        p[i].fd = fds[i]
        p[i].events = POLLIN
    with nogil:
        r = sys_ppoll(p, n, timeout)
    return r


def epoll_once(int fd, ns_t timeout):
    """Readiness of one descriptor through a fresh epoll: (result, data) of the wait."""
    cdef epoll_event e
    cdef int ep = sys_epoll_create(), r
    from os import close
    e.data.u64 = 0
    try:
        r = sys_epoll_ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 0x123456789A)
        if r < 0:
            return r, 0
        with nogil:
            r = sys_epoll_wait(ep, &e, 1, timeout)
        sys_epoll_ctl(ep, EPOLL_CTL_DEL, fd, 0, 0)
        return r, e.data.u64
    finally:
        close(ep)


def eventfd():
    return sys_eventfd()


def eventfd_signal(int fd):
    return sys_eventfd_signal(fd)


def eventfd_take(int fd):
    cdef uint64_t count = 0
    cdef int r = sys_eventfd_take(fd, &count)
    return r if r < 0 else count


def futex_wait(int word, int value, ns_t timeout):
    """Wait on a private word that nobody will wake."""
    cdef int32_t w = word
    cdef int r
    with nogil:
        r = sys_futex_wait(&w, value, timeout)
    return r


def thread_futex_roundtrip():
    """A native thread parks on a word and is woken: (value it saw, its thread id differs from ours)."""
    cdef waiter w
    cdef uint64_t handle = 0
    cdef int r
    w.word = w.seen = w.tid = w.result = w.parked = 0
    r = sys_thread_start(&handle, wait_for_word, &w, b"probe")
    if r < 0:
        return r, False
    with nogil:
        atomic_store32(&w.word, 7)
        sys_futex_wake(&w.word, 1)
        r = sys_thread_join(handle)
    return w.seen, w.tid != 0 and w.tid != sys_gettid()
