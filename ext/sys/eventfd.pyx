"""A counter that can be slept on like a file: see eventfd.pxd."""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t

cdef extern from "<sys/eventfd.h>" nogil:
    int c_eventfd "eventfd"(unsigned int value, int flags)
    enum:
        EFD_NONBLOCK, EFD_CLOEXEC

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
