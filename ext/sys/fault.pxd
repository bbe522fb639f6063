"""Write faults: pages whose next write somebody wants to be told of before it happens. No policy.

Two mechanisms. With userfaultfd a thread of ours answers, and whoever writes waits, also a system call. With mprotect a
SIGSEGV handler answers, in the writing thread, and a system call that would write fails with EFAULT instead. Faults
that are nobody's go to whoever had the signal before.

The answer runs with nothing held but what the writer holds; it must not wait for a lock under which anybody writes to
protected pages.
"""

from libc.stddef cimport size_t

cdef enum:
    # As in fault_sys.h
    FAULT_NONE = 0
    FAULT_MPROTECT = 1
    FAULT_USERFAULTFD = 2

# 1: the page can be written now; 0: not ours, or not any more: what was protected is lifted; -1: ask again in a moment.
ctypedef int (*fault_fn)(void *page) noexcept nogil
# A range was moved by mremap(2), and stays protected where it is now. Only userfaultfd tells.
ctypedef void (*moved_fn)(void *before, void *now, size_t n) noexcept nogil
ctypedef void (*fork_fn)() noexcept nogil

# One lock for whatever the answer looks at; signal handlers can take it. Nobody who holds it may write to protected
# pages.
cdef void fault_lock() noexcept nogil
cdef void fault_unlock() noexcept nogil
# Under the lock, with nothing protected: begin, or change the mechanism; then fault_attend without it. What was
# obtained, or -errno.
cdef int fault_choose(int how, fault_fn answer, moved_fn moved) noexcept nogil
cdef int fault_mechanism() noexcept nogil
# Before anything is protected. mprotect: have the signal, if somebody has taken it since (they are called for what is
# not ours). 0 or -errno.
cdef int fault_attend() noexcept nogil
# Whole pages. 0 or -errno; then none of them is protected, or (mprotect) they may be in part: lift them.
cdef int fault_protect(void *base, size_t n) noexcept nogil
cdef int fault_lift(void *base, size_t n) noexcept nogil
# What to call around fork(2); `child` is to begin with fault_forked.
cdef int fault_at_fork(fork_fn before, fork_fn parent, fork_fn child) noexcept nogil
cdef void fault_forked() noexcept nogil
