"""The socket handle, and the calls under it that need no Python."""

from ustack._core.py.ancillary cimport manner
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
    cdef ns_t rcvtimeo          # SO_RCVTIMEO, SO_SNDTIMEO of a socket that blocks; 0: none
    cdef ns_t sndtimeo
    cdef dict kept              # options that only this handle knows; None: none was set
    cdef object notices         # of sends with completion; None: the option was never set
    cdef object __weakref__
    cdef int enter(self) except -1
    cdef void leave(self) noexcept
    cdef ns_t deadline(self) noexcept
    cdef ns_t deadline_in(self, int flags) noexcept
    cdef ns_t deadline_out(self, int flags) noexcept
    cdef object late(self, ns_t deadline)
    cdef int _send_nothing(self) except -1
    cdef size_t _send_bytes(self, const char *p, size_t n, int flags, bint partial) except? 0
    cdef object _send_one(self, object data, object address, int flags, const manner *how)
    cdef object _post_datagram(self, mblk *m, ssize_t n, object address, const manner *how)
    cdef mblk *_take(self, size_t n, int flags) except? NULL
    cdef size_t _copy_out(self, mblk *m, void *to, size_t n) noexcept
    cdef mblk *_take_datagram(self, int flags, udp_meta *meta) except? NULL
    cdef tuple _recv_datagram_into(self, char *to, size_t room, int flags, bint guarded)
