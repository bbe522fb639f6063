"""Socket options: Linux's numbers for them, and the endpoints' own."""

from libc.stdint cimport int64_t

from ustack._core.py.driver cimport driver
from ustack._core.stack.sockets cimport sock

# Under the engine's lock. 0 or -errno (-ENOPROTOOPT: there is no such option here). SO_LINGER is seconds, -1 off.
cdef int option_set(sock *s, int level, int name, int64_t value) noexcept nogil
cdef int option_get(sock *s, int level, int name, int64_t *value) noexcept nogil
# The name of a TCP socket's congestion control.
cdef bytes congestion_name(driver *d, sock *s)
# Linux's struct tcp_info (linux/tcp.h) as far as tcpi_total_retrans and the 64-bit byte counts behind it.
cdef bytes pack_tcp_info(driver *d, sock *s)
