"""The socket handle, and the calls under it that need no Python."""

from ustack._core.py.driver cimport driver
from ustack._core.py.stack cimport Stack
from ustack._core.base.types cimport ns_t
from ustack._core.mem.mblk cimport mblk
from ustack._core.stack.sockets cimport sock
from ustack._core.udp.udp cimport udp_meta

cdef class Socket:
    cdef readonly Stack stack
    cdef driver *d
    cdef sock *s
    cdef ns_t timeout_ns        # < 0: wait for ever; 0: never wait
    cdef readonly int family
    cdef readonly int type
    cdef readonly int proto
    cdef bint closed
    cdef object notices         # of sends with completion; None: the option was never set
    cdef object __weakref__
    cdef int enter(self) except -1
    cdef void leave(self) noexcept
    cdef ns_t deadline(self) noexcept
    cdef size_t _send_bytes(self, const char *p, size_t n, int flags, bint partial) except? 0
    cdef object _post_datagram(self, mblk *m, ssize_t n, object address, int flags, int gso_size)
    cdef mblk *_take(self, size_t n, int flags) except? NULL
    cdef size_t _copy_out(self, mblk *m, void *to, size_t n) noexcept
    cdef mblk *_take_datagram(self, int flags, udp_meta *meta) except NULL
    cdef tuple _recv_datagram_into(self, char *to, size_t room, int flags)
