"""Child processes: see process.pxd."""

from libc.errno cimport ECHILD, EINTR, errno

from ustack._core.base.types cimport ns_t
from ustack._core.sys.poll cimport POLLIN, pollfd, sys_ppoll

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <signal.h>
    #include <sys/syscall.h>
    #include <sys/types.h>
    #include <sys/wait.h>
    #include <unistd.h>
    #ifndef SYS_pidfd_open
    #define SYS_pidfd_open 434
    #endif
    static inline int us_pidfd(int pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
    """
    int us_pidfd(int pid) noexcept nogil
    int c_kill "kill"(int pid, int signal) noexcept nogil
    int c_waitpid "waitpid"(int pid, int *status, int options) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    enum:
        SIGKILL, WNOHANG


cdef int sys_collect(int pid, ns_t grace) noexcept nogil:
    cdef pollfd p
    cdef int status = 0
    cdef int r = c_waitpid(pid, &status, WNOHANG)
    if r == pid:
        return status
    if r < 0 and errno == ECHILD:
        return -ECHILD
    # It is still our child, so the number is still its own.
    p.fd = us_pidfd(pid)
    p.events = POLLIN
    p.revents = 0
    if p.fd < 0 or sys_ppoll(&p, 1, grace) <= 0:
        c_kill(pid, SIGKILL)
    if p.fd >= 0:
        c_close(p.fd)
    r = c_waitpid(pid, &status, 0)
    while r < 0 and errno == EINTR:
        r = c_waitpid(pid, &status, 0)
    return status if r == pid else -ECHILD
