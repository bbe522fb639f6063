"""Local ports of UDP: see ports.pxd."""

from libc.errno cimport EADDRINUSE
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ipaddr
from ustack._core.base.rng cimport rng_below
from ustack._core.inet.demux cimport flow_again, flow_clash, flow_entry, flow_find, flow_insert, flow_remove
from ustack._core.udp.udp cimport udp, udp_pcb


cdef flow_entry *port_first(udp *u, uint16_t port) noexcept nogil:
    cdef flow key
    memset(&key, 0, sizeof(key))
    key.lport = port
    return flow_find(&u.ports, &key)


cdef bint share(const udp_pcb *a, const udp_pcb *b) noexcept nogil:
    """Whether two endpoints agree to have the same port (socket(7))."""
    return (a.reuse_addr and b.reuse_addr) or (a.reuse_port and b.reuse_port)


cdef bint port_free(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil:
    cdef flow_entry *e = port_first(p.owner, port)
    cdef udp_pcb *other
    while e != NULL:
        other = <udp_pcb *>e.owner
        if other != p and flow_clash(&p.entry, addr, &other.entry) and not share(p, other):
            return False
        e = flow_again(e)
    return True


cdef int port_choose(udp_pcb *p, const ipaddr *addr, uint16_t *port) noexcept nogil:
    """RFC 6056 3.3.1: from a random one on, each once. An ephemeral port is never shared."""
    cdef uint32_t n = PORT_LAST - PORT_FIRST + 1
    cdef uint32_t start = rng_below(&p.owner.ctx.dice, n)
    cdef uint32_t i
    for i in range(n):
        port[0] = PORT_FIRST + (start + i) % n
        if port_first(p.owner, port[0]) == NULL:
            return 0
    return -EADDRINUSE


cdef void port_enter(udp_pcb *p, const ipaddr *addr, uint16_t port) noexcept nogil:
    memset(&p.entry.key, 0, sizeof(p.entry.key))
    memset(&p.port_entry.key, 0, sizeof(p.port_entry.key))
    p.entry.key.laddr = addr[0]
    p.entry.key.lport = port
    p.port_entry.key.lport = port
    flow_insert(&p.owner.table, &p.entry)
    flow_insert(&p.owner.ports, &p.port_entry)
    p.bound = True


cdef void port_leave(udp_pcb *p) noexcept nogil:
    if p.bound:
        flow_remove(&p.owner.table, &p.entry)
        flow_remove(&p.owner.ports, &p.port_entry)
    p.bound = False


cdef void port_rekey(udp_pcb *p, const ipaddr *laddr, const ipaddr *raddr, uint16_t rport) noexcept nogil:
    cdef ipaddr local = laddr[0]
    cdef ipaddr none
    none.hi = 0
    none.lo = 0
    flow_remove(&p.owner.table, &p.entry)
    p.entry.key.laddr = local
    p.entry.key.raddr = raddr[0] if raddr != NULL else none
    p.entry.key.rport = rport
    flow_insert(&p.owner.table, &p.entry)
