"""What an ICMP error means to an application: as Linux's icmp_err_convert and icmpv6_err_convert have it."""

from ustack._core.inet.inet cimport ip_error

# A positive errno.
cdef int icmp_verdict(const ip_error *e) noexcept nogil
# Whether it is told to a datagram socket: what says that it is final, and what our own link says, not what routers
# guess.
cdef bint icmp_final(const ip_error *e) noexcept nogil
