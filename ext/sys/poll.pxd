"""Sleeping on file descriptors: ppoll and epoll, with timeouts in nanoseconds. Values, or -errno."""

from libc.stdint cimport uint32_t, uint64_t

from ustack._core.base.types cimport ns_t

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLIN, POLLOUT, POLLERR, POLLHUP, POLLNVAL

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        int fd
        uint32_t u32
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum:
        EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
        EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD

# How many are ready; 0 after `timeout` nanoseconds (NS_NEVER: no limit; <= 0: do not wait). -EINTR is given
# to the caller, who may have to look at signals and knows the deadline.
cdef int sys_ppoll(pollfd *fds, int n, ns_t timeout) noexcept nogil
# A new epoll descriptor (close-on-exec).
cdef int sys_epoll_create() noexcept nogil
# EPOLL_CTL_ADD, MOD or DEL of `fd`; `data` comes back in events.
cdef int sys_epoll_ctl(int ep, int op, int fd, uint32_t events, uint64_t data) noexcept nogil
# As sys_ppoll; the timeout is rounded up to milliseconds where the kernel has no epoll_pwait2 (before 5.11).
cdef int sys_epoll_wait(int ep, epoll_event *events, int max, ns_t timeout) noexcept nogil
