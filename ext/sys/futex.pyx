"""Parking threads on a word: see futex.pxd."""

from libc.errno cimport errno
from libc.stdint cimport int32_t

from ustack._core.base.types cimport NS_NEVER, NS_SEC, ns_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <time.h>
    #include <unistd.h>
    #include <linux/futex.h>
    #include <sys/syscall.h>
    """
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    long c_syscall "syscall"(long nr, int32_t *word, int op, int32_t value, timespec *t) noexcept nogil
    enum:
        SYS_futex, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE


cdef int sys_futex_wait(int32_t *word, int32_t value, ns_t timeout) noexcept nogil:
    cdef timespec t
    cdef timespec *limit = NULL
    if timeout != NS_NEVER:
        if timeout < 0:
            timeout = 0
        t.tv_sec = timeout // NS_SEC
        t.tv_nsec = timeout % NS_SEC
        limit = &t
    return 0 if c_syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, limit) == 0 else -errno


cdef int sys_futex_wake(int32_t *word, int n) noexcept nogil:
    cdef int r = c_syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL)
    return r if r >= 0 else -errno
