"""What touching memory that is not there does to a process, turned into a short count: SIGBUS, behind the end of a
mapped file, and SIGSEGV, where nothing is mapped or what is may not be touched so.

Two ways. ``guard_call`` does something with a range of memory and stops where it cannot be touched. A *watched* range
is memory of files that other code reads in passing, a device under the engine's lock for instance: a fault behind the
end maps zeros over the page and marks the range broken. Faults elsewhere go to whoever had the signal before
(faulthandler, a debugger, nobody). No policy.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t

cdef enum:
    GUARD_RANGES = 512          # ranges that can be watched at a time

ctypedef void (*guard_fn)(void *arg, size_t n) noexcept nogil
ctypedef int (*first_fn)(void *at) noexcept nogil

# Calls fn(arg, n), which touches the n bytes at `base`. n; or, if some of them could not be touched, how many lie in
# front of that page: then fn has done a part of its work, in any order, and was left in the middle. It holds no lock
# and owns nothing while it touches the range.
cdef size_t guard_call(guard_fn fn, void *arg, const void *base, size_t n) noexcept nogil
# Copies n bytes; returns how many of them were there: fewer if the source ended.
cdef size_t guard_copy(void *dst, const void *src, size_t n) noexcept nogil
# The same, if it is the destination that may end.
cdef size_t guard_copy_to(void *dst, const void *src, size_t n) noexcept nogil
# Watch a range: `broken` becomes 1 when a page of it was replaced. The slot, to be given back; -ENOSPC, or what
# sigaction said.
cdef int guard_watch(void *base, size_t n, int32_t *broken) noexcept nogil
cdef void guard_forget(int slot) noexcept nogil
# Have SIGBUS, if somebody has taken it since (they are called for what is not ours).
cdef int guard_install() noexcept nogil
# SIGSEGV as well.
cdef int guard_install_all() noexcept nogil
# Asked first about an access that a page does not allow: 1, it does now. One in a process.
cdef void guard_ask_first(first_fn fn) noexcept nogil
# Faults dealt with since the process began: copies stopped, pages replaced.
cdef void guard_counts(long *stopped, long *replaced) noexcept nogil
