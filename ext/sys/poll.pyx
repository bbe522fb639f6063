"""Sleeping on file descriptors: see poll.pxd."""

from libc.errno cimport ENOSYS, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.types cimport NS_NEVER, NS_SEC, ns_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <poll.h>
    #include <time.h>
    #include <unistd.h>
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #ifndef SYS_epoll_pwait2
    #define SYS_epoll_pwait2 441
    #endif
    """
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int c_ppoll "ppoll"(pollfd *fds, unsigned long n, const timespec *t, const void *mask) noexcept nogil
    int c_epoll_create1 "epoll_create1"(int flags) noexcept nogil
    int c_epoll_ctl "epoll_ctl"(int ep, int op, int fd, epoll_event *e) noexcept nogil
    int c_epoll_wait "epoll_wait"(int ep, epoll_event *e, int n, int ms) noexcept nogil
    long c_syscall "syscall"(long nr, int ep, epoll_event *e, int n, timespec *t, void *mask,
                             size_t size) noexcept nogil
    enum:
        EPOLL_CLOEXEC
        SYS_epoll_pwait2


cdef inline timespec *interval(timespec *t, ns_t timeout) noexcept nogil:
    if timeout == NS_NEVER:
        return NULL
    if timeout < 0:
        timeout = 0
    t.tv_sec = timeout // NS_SEC
    t.tv_nsec = timeout % NS_SEC
    return t


cdef int sys_ppoll(pollfd *fds, int n, ns_t timeout) noexcept nogil:
    cdef timespec t
    cdef int r = c_ppoll(fds, n, interval(&t, timeout), NULL)
    return r if r >= 0 else -errno


cdef int sys_epoll_create() noexcept nogil:
    cdef int r = c_epoll_create1(EPOLL_CLOEXEC)
    return r if r >= 0 else -errno


cdef int sys_epoll_ctl(int ep, int op, int fd, uint32_t events, uint64_t data) noexcept nogil:
    cdef epoll_event e
    memset(&e, 0, sizeof(e))
    e.events = events
    e.data.u64 = data
    return 0 if c_epoll_ctl(ep, op, fd, &e) == 0 else -errno


cdef int sys_epoll_wait(int ep, epoll_event *events, int max, ns_t timeout) noexcept nogil:
    cdef timespec t
    cdef ns_t ms
    cdef int r = c_syscall(SYS_epoll_pwait2, ep, events, max, interval(&t, timeout), NULL, 8)
    if r < 0 and errno == ENOSYS:
        ms = -1
        if timeout != NS_NEVER:
            ms = 0 if timeout <= 0 else (timeout - 1) // 1000000 + 1
            ms = ms if ms < 0x7FFFFFFF else 0x7FFFFFFF
        r = c_epoll_wait(ep, events, max, ms)
    return r if r >= 0 else -errno
