"""io_uring: several writes or sends by one system call, in order, all of them done when it returns.

The descriptors must be non-blocking: then the kernel carries every request out as it takes it in, or answers -EAGAIN.
Between the requests of a call nobody else is scheduled on a kernel without preemption; between the system calls of a
loop, and between the messages of sendmmsg, whoever a packet woke is.
"""

from ustack._core.sys.io cimport iovec, msghdr

cdef extern from "uring_sys.h" nogil:
    cdef struct us_uring:
        int fd
        unsigned int entries
        unsigned int queued     # requests put down since the last run

ctypedef us_uring uring

# 0 or -errno: ENOSYS without the system call, EPERM where the administrator forbids it. After an error fd is -1.
cdef int uring_open(uring *u, unsigned int entries) noexcept nogil
cdef void uring_close(uring *u) noexcept nogil
# Put a request down; at most `entries` before a run. What it points to must stay until then.
cdef void uring_writev(uring *u, int fd, const iovec *v, unsigned int n) noexcept nogil
cdef void uring_sendmsg(uring *u, int fd, const msghdr *m, int flags) noexcept nogil
# Carry the requests out: result[i] is what request i returned. Returns how many were, the first ones; the others are
# forgotten; -errno if none was.
cdef int uring_run(uring *u, int *results) noexcept nogil
