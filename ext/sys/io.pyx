"""Reading, writing and descriptors: see io.pxd."""

from libc.errno cimport EINTR, errno

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <unistd.h>
    #include <sys/uio.h>
    #include <sys/socket.h>
    """
    ssize_t c_read "read"(int fd, void *p, size_t n) noexcept nogil
    ssize_t c_write "write"(int fd, const void *p, size_t n) noexcept nogil
    ssize_t c_readv "readv"(int fd, const iovec *v, int n) noexcept nogil
    ssize_t c_writev "writev"(int fd, const iovec *v, int n) noexcept nogil
    ssize_t c_send "send"(int fd, const void *p, size_t n, int flags) noexcept nogil
    int c_sendmmsg "sendmmsg"(int fd, mmsghdr *v, unsigned int n, int flags) noexcept nogil
    int c_recvmmsg "recvmmsg"(int fd, mmsghdr *v, unsigned int n, int flags, void *timeout) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    int c_fcntl "fcntl"(int fd, int cmd, int arg) noexcept nogil
    enum:
        F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, O_NONBLOCK


cdef ssize_t sys_read(int fd, void *p, size_t n) noexcept nogil:
    cdef ssize_t r = c_read(fd, p, n)
    while r < 0 and errno == EINTR:
        r = c_read(fd, p, n)
    return r if r >= 0 else -errno


cdef ssize_t sys_write(int fd, const void *p, size_t n) noexcept nogil:
    cdef ssize_t r = c_write(fd, p, n)
    while r < 0 and errno == EINTR:
        r = c_write(fd, p, n)
    return r if r >= 0 else -errno


cdef ssize_t sys_readv(int fd, const iovec *v, int n) noexcept nogil:
    cdef ssize_t r = c_readv(fd, v, n)
    while r < 0 and errno == EINTR:
        r = c_readv(fd, v, n)
    return r if r >= 0 else -errno


cdef ssize_t sys_writev(int fd, const iovec *v, int n) noexcept nogil:
    cdef ssize_t r = c_writev(fd, v, n)
    while r < 0 and errno == EINTR:
        r = c_writev(fd, v, n)
    return r if r >= 0 else -errno


cdef ssize_t sys_send(int fd, const void *p, size_t n, int flags) noexcept nogil:
    cdef ssize_t r = c_send(fd, p, n, flags)
    while r < 0 and errno == EINTR:
        r = c_send(fd, p, n, flags)
    return r if r >= 0 else -errno


cdef int sys_sendmmsg(int fd, mmsghdr *v, unsigned int n, int flags) noexcept nogil:
    cdef int r = c_sendmmsg(fd, v, n, flags)
    while r < 0 and errno == EINTR:
        r = c_sendmmsg(fd, v, n, flags)
    return r if r >= 0 else -errno


cdef int sys_recvmmsg(int fd, mmsghdr *v, unsigned int n, int flags) noexcept nogil:
    cdef int r = c_recvmmsg(fd, v, n, flags, NULL)
    while r < 0 and errno == EINTR:
        r = c_recvmmsg(fd, v, n, flags, NULL)
    return r if r >= 0 else -errno


cdef int sys_close(int fd) noexcept nogil:
    # Not again after EINTR: Linux has released the descriptor, and another thread may have it by now.
    return 0 if c_close(fd) == 0 else -errno


cdef int sys_dup(int fd) noexcept nogil:
    cdef int r = c_fcntl(fd, F_DUPFD_CLOEXEC, 0)
    return r if r >= 0 else -errno


cdef int sys_nonblock(int fd) noexcept nogil:
    cdef int flags = c_fcntl(fd, F_GETFL, 0)
    if flags < 0 or c_fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0:
        return -errno
    return 0
