"""Descriptors passed between processes, over UNIX sockets (SCM_RIGHTS), and how such sockets end. Values, or -errno."""

cdef enum:
    PASS_MAX = 8                # descriptors of one message

# Send `n` bytes and `nfds` descriptors as one message. The bytes sent, or -errno.
cdef ssize_t sys_pass(int sock, const void *data, size_t n, const int *fds, int nfds) noexcept nogil
# Receive a message: up to `n` bytes, and exactly `nfds` descriptors, close-on-exec, into fds[]. The bytes received, 0
# at the end of the stream, or -errno; -EBADMSG if the message had another number of descriptors, which are closed then.
cdef ssize_t sys_take_passed(int sock, void *data, size_t n, int *fds, int nfds) noexcept nogil
# The same; -EAGAIN if there is none, however the socket was made.
cdef ssize_t sys_take_passed_now(int sock, void *data, size_t n, int *fds, int nfds) noexcept nogil
# We send no more: the other side reads the end of the stream, when it has read the rest.
cdef void sys_hang_up(int sock) noexcept nogil
# Whether the other side has hung up, or sent what nobody asked for. Does not wait.
cdef bint sys_hung_up(int sock) noexcept nogil
