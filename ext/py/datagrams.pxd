"""Many datagrams a call, and the ancillary data of one: what the socket handle does with Python's objects.

`who` names the call in messages. Each raises what the call raises; deadlines as in ``calls``.
"""

from libc.stddef cimport size_t

from ustack._core.base.types cimport ns_t
from ustack._core.mem.mblk cimport mblk
from ustack._core.py.driver cimport driver
from ustack._core.stack.sockets cimport sock

# Send each of `buffers` as a datagram; how many went.
cdef object send_datagrams(driver *d, sock *s, object buffers, object address, ns_t deadline, bint main_thread)
# [(bytes, address)], at least one (none only after shutdown): at most `max`, cut at `size` bytes.
cdef list recv_datagrams(driver *d, sock *s, int max, size_t size, ns_t deadline, bint main_thread)
# [(length, address)]: the k-th at offset k * stride of `to`. whole: the length that it had, even where it was cut.
# guarded: it may end.
cdef list recv_datagrams_into(driver *d, sock *s, char *to, size_t stride, int max, bint whole, bint guarded,
                              ns_t deadline, bint main_thread)
# (length, ancillary data, flags, address) of one datagram, cut where `views`, writable memoryviews of bytes, end. kept:
# the options that ask for ancillary data (see ancillary.pxd).
cdef tuple recv_scattered(driver *d, sock *s, list views, size_t ancillary, dict kept, bint peek, ns_t deadline,
                          bint main_thread)

# To receive into memory that is not there, such as pages of a mapped file that was cut, is EFAULT.
cdef object gone()
# All n bytes of the message from `at` on, or that. guarded: the memory may be that of a file.
cdef int copy_to(driver *d, mblk *m, size_t at, void *to, size_t n, bint guarded) except -1


cdef inline bint may_end(object buffer) noexcept:
    """Whether pages of a buffer to receive into may be those of a mapped file that was cut. Kinds of objects
    that are memory of the interpreter's are not asked."""
    if type(buffer) is memoryview:
        buffer = (<object>buffer).obj
    return type(buffer) is not bytearray
