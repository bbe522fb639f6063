"""Sending in place, for the socket handle."""

from ustack._core.py.socket cimport Socket

# The socket's send() with `direct` or `zerocopy`: bytes that went. partial: fewer than all may be.
cdef Py_ssize_t send_in_place(Socket s, object data, int flags, object direct, bint zerocopy, bint partial) except -1
# SO_ZEROCOPY.
cdef int opt_in(Socket s, bint on) except -1
cdef bint opted_in(Socket s) noexcept
cdef list collect(Socket s, object timeout)
