"""SIGBUS: what touching a mapped file behind its end does to a process, turned into a short count.

Two ways. ``guard_copy`` copies and stops where the file ends. A *watched* range is memory that other code reads in
passing, a device under the engine's lock for instance: a fault there maps zeros over the page and marks the range
broken. Faults elsewhere go to whoever had the signal before (faulthandler, a debugger, nobody). No policy.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t

cdef enum:
    GUARD_RANGES = 512          # ranges that can be watched at a time

# Copies n bytes; returns how many of them were there: fewer if the source ended.
cdef size_t guard_copy(void *dst, const void *src, size_t n) noexcept nogil
# The same, if it is the destination that may end.
cdef size_t guard_copy_to(void *dst, const void *src, size_t n) noexcept nogil
# Watch a range: `broken` becomes 1 when a page of it was replaced. The slot, to be given back; -ENOSPC, or what
# sigaction said.
cdef int guard_watch(void *base, size_t n, int32_t *broken) noexcept nogil
cdef void guard_forget(int slot) noexcept nogil
# Have the signal, if somebody has taken it since (they are called for what is not ours).
cdef int guard_install() noexcept nogil
# Faults dealt with since the process began: copies stopped, pages replaced.
cdef void guard_counts(long *stopped, long *replaced) noexcept nogil
