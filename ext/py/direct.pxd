"""Sending in place, for the socket handle."""

from libc.stddef cimport size_t

from ustack._core.py.socket cimport Socket

# The socket's send() with `direct` or `zerocopy`: bytes that went. partial: fewer than all may be.
cdef Py_ssize_t send_in_place(Socket s, object data, int flags, object direct, bint zerocopy, bint partial) except -1
# Whether the buffer's memory is mapped from a file, whose pages may go; kinds of objects that are memory are not asked.
cdef bint may_vanish(object data, const void *base, size_t n) noexcept
# SO_ZEROCOPY.
cdef int opt_in(Socket s, bint on) except -1
cdef bint opted_in(Socket s) noexcept
cdef list collect(Socket s, object timeout)
