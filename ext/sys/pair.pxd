"""Connected pairs of local stream sockets, with small buffers: for descriptors that only show readiness."""

# Two ends, non-blocking and close-on-exec. 0 or -errno.
cdef int sys_socketpair(int *a, int *b) noexcept nogil
