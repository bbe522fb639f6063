"""SIGBUS and SIGSEGV turned into a short count: see guard.pxd. The handler is in guard_sys.h, which only this module
includes."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t

cdef extern from "guard_sys.h" nogil:
    size_t us_guard_copy(void *dst, const void *src, size_t n, const void *guarded)
    int us_guard_watch(void *base, size_t n, int32_t *broken)
    void us_guard_forget(int slot)
    int us_guard_install()
    int us_guard_install_all()
    void us_guard_ask_first(first_fn fn)
    size_t us_guard_call(guard_fn fn, void *arg, const void *guarded, size_t n)
    void us_guard_counts(long *stopped, long *replaced)


cdef size_t guard_call(guard_fn fn, void *arg, const void *base, size_t n) noexcept nogil:
    return us_guard_call(fn, arg, base, n)


cdef size_t guard_copy(void *dst, const void *src, size_t n) noexcept nogil:
    return us_guard_copy(dst, src, n, src)


cdef size_t guard_copy_to(void *dst, const void *src, size_t n) noexcept nogil:
    return us_guard_copy(dst, src, n, dst)


cdef int guard_watch(void *base, size_t n, int32_t *broken) noexcept nogil:
    return us_guard_watch(base, n, broken)


cdef void guard_forget(int slot) noexcept nogil:
    us_guard_forget(slot)


cdef int guard_install() noexcept nogil:
    return us_guard_install()


cdef int guard_install_all() noexcept nogil:
    return us_guard_install_all()


cdef void guard_ask_first(first_fn fn) noexcept nogil:
    us_guard_ask_first(fn)


cdef void guard_counts(long *stopped, long *replaced) noexcept nogil:
    us_guard_counts(stopped, replaced)
