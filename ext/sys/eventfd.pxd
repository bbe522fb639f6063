"""A counter that can be slept on like a file. Values, or -errno."""

from libc.stdint cimport uint64_t

# A new descriptor, non-blocking and close-on-exec, counting from 0.
cdef int sys_eventfd() noexcept nogil
# Make it readable. Never blocks: a counter at its limit is readable already.
cdef int sys_eventfd_signal(int fd) noexcept nogil
# Take the whole count (0 if nobody signalled).
cdef int sys_eventfd_take(int fd, uint64_t *count) noexcept nogil
