"""Addresses between Python's text and the core's values."""

from libc.stdint cimport uint16_t

from ustack._core.base.addr cimport ipaddr

cdef ipaddr parse_host(object host) except *
cdef object format_host(const ipaddr *a)
# A ("host", port) pair as sockets take it.
cdef int parse_endpoint(object address, ipaddr *host, uint16_t *port, object what) except -1
cdef object format_endpoint(const ipaddr *a, uint16_t port)
# "10.0.0.1/24" into address and prefix length counted in 128.
cdef int parse_network(object text, ipaddr *host, int *bits) except -1
