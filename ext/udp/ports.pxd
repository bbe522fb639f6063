"""Local ports of UDP: who has which, which are free (RFC 6056), and the entries that input finds endpoints by."""

from libc.stdint cimport uint16_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.inet.demux cimport flow_entry
from ustack._core.udp.udp cimport udp, udp_pcb

cdef enum:
    PORT_FIRST = 32768          # of the ephemeral range, as in Linux
    PORT_LAST = 60999

# Whether p may have (addr, port) beside those who have the port already.
cdef bint port_free(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil
# A free ephemeral port in *port, or -EADDRINUSE.
cdef int port_choose(udp_pcb *p, const ipaddr *addr, uint16_t *port) noexcept nogil
# Enter an endpoint under this local address and port; leave again. Neither fails.
cdef void port_enter(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil
cdef void port_leave(udp_pcb *p) noexcept nogil
# Enter an endpoint anew under a changed local address and a peer (NULL: none).
cdef void port_rekey(udp_pcb *p, const ipaddr *laddr, const ipaddr *raddr, uint16_t rport) noexcept nogil
# The first entry on a local port; flow_again gives the others.
cdef flow_entry *port_first(udp *u, uint16_t port) noexcept nogil
