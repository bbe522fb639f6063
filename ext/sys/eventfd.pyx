"""A counter and a timer that can be slept on like files: see eventfd.pxd."""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from ustack._core.base.types cimport NS_NEVER

cdef extern from "<sys/eventfd.h>" nogil:
    int c_eventfd "eventfd"(unsigned int value, int flags)
    enum:
        EFD_NONBLOCK, EFD_CLOEXEC

cdef extern from "<sys/timerfd.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *old)
    enum:
        TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME, CLOCK_MONOTONIC

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *p, size_t n)
    ssize_t c_write "write"(int fd, const void *p, size_t n)


cdef int sys_eventfd() noexcept nogil:
    cdef int r = c_eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    return r if r >= 0 else -errno


cdef int sys_eventfd_signal(int fd) noexcept nogil:
    cdef uint64_t one = 1
    while c_write(fd, &one, sizeof(one)) < 0:
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            return -errno
    return 0


cdef int sys_eventfd_take(int fd, uint64_t *count) noexcept nogil:
    count[0] = 0
    while c_read(fd, count, sizeof(uint64_t)) < 0:
        count[0] = 0
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            return -errno
    return 0


cdef int sys_timerfd() noexcept nogil:
    cdef int r = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    return r if r >= 0 else -errno


cdef int sys_timerfd_set(int fd, int64_t when) noexcept nogil:
    cdef itimerspec t
    memset(&t, 0, sizeof(t))
    if when != NS_NEVER:
        # Zero would mean: not at all.
        t.it_value.tv_sec = when // 1000000000 if when > 0 else 0
        t.it_value.tv_nsec = when % 1000000000 if when > 0 else 1
    return 0 if timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL) == 0 else -errno
