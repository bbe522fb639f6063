"""Addresses between Python's text and the core's values."""

from libc.stdint cimport uint16_t

from ustack._core.base.addr cimport ipaddr

cdef enum:
    AF_INET = 2                 # Linux's numbers
    AF_INET6 = 10

# Of either version.
cdef ipaddr parse_host(object host) except *
cdef object format_host(const ipaddr *a)
# 16 bytes in network order.
cdef ipaddr from_bytes6(bytes raw)
cdef bytes to_bytes6(const ipaddr *a)
# What sockets of a family take: ("host", port), for AF_INET6 also ("host", port, flowinfo, scope_id).
cdef int parse_endpoint(int family, object address, ipaddr *host, uint16_t *port, object what) except -1
cdef object format_endpoint(int family, const ipaddr *a, uint16_t port)
# "10.0.0.1/24", "fd00::2/64" into address and prefix length counted in 128.
cdef int parse_network(object text, ipaddr *host, int *bits) except -1
