"""Handles on pools of fbufs: what channels need of them."""

cimport cython
from libc.stdint cimport uint32_t

from ustack._core.base.types cimport ns_t
from ustack._core.zerocopy.fbchannel cimport fbchannel
from ustack._core.zerocopy.fbpool cimport fbpool


cdef class End:
    cdef fbchannel *c
    cdef ns_t spin
    cdef set told               # addresses of the pools that know this channel
    cdef object __weakref__

    cdef int known_to(self, fbpool *p) except -1
    cdef bint look_for_end(self) except -1


@cython.final
cdef class Pool:
    cdef fbpool *p
    cdef list channels          # weak references to those that know it
    cdef bint lost
    cdef object __weakref__

    cdef list known(self)
    cdef int collect(self) except -1
    cdef bint ended(self) except -1
    cdef uint32_t lent_of(self, End c)


# 0: do not wait; NS_NEVER: for ever.
cdef ns_t deadline_of(object timeout) except -1
# Until one of the channels has what is waited for (see FBC_MESSAGES), a return, or its end. TimeoutError at the
# deadline.
cdef int sleep_on(list channels, ns_t deadline, int what) except -1
