"""A counter, and a timer, that can be slept on like files. Values, or -errno."""

from libc.stdint cimport int64_t, uint64_t

# A new descriptor, non-blocking and close-on-exec, counting from 0.
cdef int sys_eventfd() noexcept nogil
# Make it readable. Never blocks: a counter at its limit is readable already.
cdef int sys_eventfd_signal(int fd) noexcept nogil
# Take the whole count (0 if nobody signalled).
cdef int sys_eventfd_take(int fd, uint64_t *count) noexcept nogil

# A descriptor that becomes readable at a point of the monotonic clock; non-blocking and close-on-exec, set to nothing.
cdef int sys_timerfd() noexcept nogil
# Set it to an absolute time in nanoseconds (one that has passed: at once; NS_NEVER: not at all).
cdef int sys_timerfd_set(int fd, int64_t when) noexcept nogil
