"""io_uring: see uring.pxd. Thin wrappers, no policy."""

from ustack._core.sys.io cimport iovec, msghdr

cdef extern from "uring_sys.h" nogil:
    int us_uring_open(us_uring *u, unsigned int entries)
    void us_uring_close(us_uring *u)
    void us_uring_writev(us_uring *u, int fd, const iovec *v, unsigned int n)
    void us_uring_sendmsg(us_uring *u, int fd, const msghdr *m, int flags)
    int us_uring_run(us_uring *u, int *results)


cdef int uring_open(uring *u, unsigned int entries) noexcept nogil:
    cdef int e = us_uring_open(u, entries)
    if e < 0:
        u.fd = -1
    return e


cdef void uring_close(uring *u) noexcept nogil:
    us_uring_close(u)


cdef void uring_writev(uring *u, int fd, const iovec *v, unsigned int n) noexcept nogil:
    us_uring_writev(u, fd, v, n)


cdef void uring_sendmsg(uring *u, int fd, const msghdr *m, int flags) noexcept nogil:
    us_uring_sendmsg(u, fd, m, flags)


cdef int uring_run(uring *u, int *results) noexcept nogil:
    return us_uring_run(u, results)
