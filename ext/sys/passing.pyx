"""Descriptors passed between processes: see passing.pxd."""

from libc.errno cimport EAGAIN, EINTR, EINVAL, errno
from libc.string cimport memcpy, memset

from ustack._core.sys.io cimport iovec, msghdr

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <sys/socket.h>
    #include <unistd.h>
    """
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *m) noexcept nogil
    cmsghdr *CMSG_NXTHDR(msghdr *m, cmsghdr *c) noexcept nogil
    unsigned char *CMSG_DATA(cmsghdr *c) noexcept nogil
    size_t CMSG_LEN(size_t n) noexcept nogil
    size_t CMSG_SPACE(size_t n) noexcept nogil
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr *m, int flags) noexcept nogil
    ssize_t c_recvmsg "recvmsg"(int fd, msghdr *m, int flags) noexcept nogil
    int c_shutdown "shutdown"(int fd, int how) noexcept nogil
    ssize_t c_recv "recv"(int fd, void *p, size_t n, int flags) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    enum:
        EBADMSG, SOL_SOCKET, SCM_RIGHTS, MSG_NOSIGNAL, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_PEEK, MSG_DONTWAIT
        SHUT_WR

cdef union control:
    cmsghdr align
    unsigned char room[256]


cdef ssize_t sys_pass(int sock, const void *data, size_t n, const int *fds, int nfds) noexcept nogil:
    cdef control c
    cdef msghdr m
    cdef iovec v
    cdef cmsghdr *h
    cdef ssize_t r
    if nfds < 0 or nfds > PASS_MAX or n == 0:
        return -EINVAL
    memset(&m, 0, sizeof(m))
    memset(&c, 0, sizeof(c))
    v.iov_base = <void *>data
    v.iov_len = n
    m.msg_iov = &v
    m.msg_iovlen = 1
    if nfds:
        m.msg_control = &c
        m.msg_controllen = CMSG_SPACE(nfds * sizeof(int))
        h = CMSG_FIRSTHDR(&m)
        h.cmsg_level = SOL_SOCKET
        h.cmsg_type = SCM_RIGHTS
        h.cmsg_len = CMSG_LEN(nfds * sizeof(int))
        memcpy(CMSG_DATA(h), fds, nfds * sizeof(int))
    r = c_sendmsg(sock, &m, MSG_NOSIGNAL)
    while r < 0 and errno == EINTR:
        r = c_sendmsg(sock, &m, MSG_NOSIGNAL)
    return r if r >= 0 else -errno


cdef int collect(msghdr *m, int *fds, int nfds) noexcept nogil:
    """Take the descriptors out of a message; those beyond the room are closed. How many there were."""
    cdef cmsghdr *h = CMSG_FIRSTHDR(m)
    cdef int count = 0, fd
    cdef size_t i, n
    while h != NULL:
        if h.cmsg_level == SOL_SOCKET and h.cmsg_type == SCM_RIGHTS:
            n = (h.cmsg_len - CMSG_LEN(0)) // sizeof(int)
            for i in range(n):
                memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int))
                if count < nfds:
                    fds[count] = fd
                else:
                    c_close(fd)
                count += 1
        h = CMSG_NXTHDR(m, h)
    return count


cdef ssize_t take(int sock, void *data, size_t n, int *fds, int nfds, int flags) noexcept nogil:
    cdef control c
    cdef msghdr m
    cdef iovec v
    cdef ssize_t r
    cdef int got, i
    if nfds < 0 or nfds > PASS_MAX:
        return -EINVAL
    memset(&m, 0, sizeof(m))
    v.iov_base = data
    v.iov_len = n
    m.msg_iov = &v
    m.msg_iovlen = 1
    m.msg_control = &c
    m.msg_controllen = sizeof(c)
    r = c_recvmsg(sock, &m, MSG_CMSG_CLOEXEC | flags)
    while r < 0 and errno == EINTR:
        r = c_recvmsg(sock, &m, MSG_CMSG_CLOEXEC | flags)
    if r < 0:
        return -errno
    got = collect(&m, fds, nfds)
    if (got != nfds or m.msg_flags & MSG_CTRUNC) and (r > 0 or got):
        for i in range(got if got < nfds else nfds):
            c_close(fds[i])
        return -EBADMSG
    return r


cdef ssize_t sys_take_passed(int sock, void *data, size_t n, int *fds, int nfds) noexcept nogil:
    return take(sock, data, n, fds, nfds, 0)


cdef ssize_t sys_take_passed_now(int sock, void *data, size_t n, int *fds, int nfds) noexcept nogil:
    return take(sock, data, n, fds, nfds, MSG_DONTWAIT)


cdef void sys_hang_up(int sock) noexcept nogil:
    c_shutdown(sock, SHUT_WR)


cdef bint sys_hung_up(int sock) noexcept nogil:
    cdef char byte
    cdef ssize_t r = c_recv(sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT)
    while r < 0 and errno == EINTR:
        r = c_recv(sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT)
    return r >= 0 or errno != EAGAIN
