"""Parking threads on a word: private futexes. Values, or -errno."""

from libc.stdint cimport int32_t

from ustack._core.base.types cimport ns_t

# Sleep while *word == value, at most `timeout` nanoseconds (relative; NS_NEVER: no limit; <= 0: -ETIMEDOUT at
# once or -EAGAIN). 0 when woken (perhaps for no reason), -EAGAIN if the word differs, -ETIMEDOUT, -EINTR.
cdef int sys_futex_wait(int32_t *word, int32_t value, ns_t timeout) noexcept nogil
# Wake up to `n` sleepers on the word; how many there were.
cdef int sys_futex_wake(int32_t *word, int n) noexcept nogil
