"""Reading, writing and descriptors. Values, or -errno; EINTR is retried (everything here is non-blocking)."""

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    enum:
        MSG_DONTWAIT

cdef ssize_t sys_read(int fd, void *p, size_t n) noexcept nogil
cdef ssize_t sys_write(int fd, const void *p, size_t n) noexcept nogil
cdef ssize_t sys_readv(int fd, const iovec *v, int n) noexcept nogil
cdef ssize_t sys_writev(int fd, const iovec *v, int n) noexcept nogil
cdef ssize_t sys_send(int fd, const void *p, size_t n, int flags) noexcept nogil
# How many messages went: an error is returned only if it hit the first.
cdef int sys_sendmmsg(int fd, mmsghdr *v, unsigned int n, int flags) noexcept nogil
cdef int sys_recvmmsg(int fd, mmsghdr *v, unsigned int n, int flags) noexcept nogil
cdef int sys_close(int fd) noexcept nogil
# A duplicate that is closed by exec.
cdef int sys_dup(int fd) noexcept nogil
cdef int sys_nonblock(int fd) noexcept nogil
