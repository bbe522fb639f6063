"""Connected pairs of local stream sockets: see pair.pxd."""

from libc.errno cimport errno

cdef extern from "<sys/socket.h>" nogil:
    int socketpair(int domain, int type, int protocol, int *sv)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length)
    enum:
        AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_SNDBUF


cdef int sys_socketpair(int *a, int *b) noexcept nogil:
    cdef int both[2]
    cdef int small = 1
    if socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) != 0:
        return -errno
    setsockopt(both[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small))
    a[0] = both[0]
    b[0] = both[1]
    return 0
