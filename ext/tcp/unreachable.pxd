"""ICMP errors about our segments: which to believe, and what to do (RFC 5927, RFC 9293 3.9.2.2, RFC 1191)."""

from ustack._core.inet.inet cimport ip_error

# The error upcall of the internet layer.
cdef void tcp_error(void *proto, const ip_error *e) noexcept nogil
