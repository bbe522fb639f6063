"""Write faults: see fault.pxd. Handler and thread are in fault_sys.h, which only this module includes."""

from libc.stddef cimport size_t

from ustack._core.sys.guard cimport guard_ask_first, guard_install_all

cdef extern from "fault_sys.h" nogil:
    void us_fault_lock()
    void us_fault_unlock()
    int us_fault_choose(int how, fault_fn answer, moved_fn moved)
    int us_fault_mechanism()
    int us_fault_protect(void *base, size_t n)
    int us_fault_lift(void *base, size_t n)
    int us_fault_at_fork(fork_fn before, fork_fn parent, fork_fn child)
    void us_fault_forked()
    int us_fault_answer(void *at)


cdef void fault_lock() noexcept nogil:
    us_fault_lock()


cdef void fault_unlock() noexcept nogil:
    us_fault_unlock()


cdef int answer_first(void *at) noexcept nogil:
    return us_fault_answer(at)


cdef int fault_choose(int how, fault_fn answer, moved_fn moved) noexcept nogil:
    guard_ask_first(answer_first)
    return us_fault_choose(how, answer, moved)


cdef int fault_mechanism() noexcept nogil:
    return us_fault_mechanism()


cdef int fault_attend() noexcept nogil:
    return guard_install_all() if us_fault_mechanism() == FAULT_MPROTECT else 0


cdef int fault_protect(void *base, size_t n) noexcept nogil:
    return us_fault_protect(base, n)


cdef int fault_lift(void *base, size_t n) noexcept nogil:
    return us_fault_lift(base, n)


cdef int fault_at_fork(fork_fn before, fork_fn parent, fork_fn child) noexcept nogil:
    return us_fault_at_fork(before, parent, child)


cdef void fault_forked() noexcept nogil:
    us_fault_forked()
