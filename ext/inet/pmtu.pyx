"""Path MTUs of destinations: see pmtu.pxd."""

from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.addr cimport ip_equal, ip_is4, ipaddr
from ustack._core.base.counters cimport C_IP_PMTU, count
from ustack._core.base.rng cimport siphash
from ustack._core.base.types cimport NS_SEC
from ustack._core.inet.inet cimport inet
from ustack._core.wire.ip6 cimport IP6_MIN_MTU


cdef int pmtu_init(inet *net) noexcept nogil:
    net.pmtus = calloc(1, sizeof(pmtu_table))
    return 0 if net.pmtus != NULL else -ENOMEM


cdef void pmtu_free(inet *net) noexcept nogil:
    free(net.pmtus)
    net.pmtus = NULL


cdef pmtu_entry *slot(inet *net, const ipaddr *dst) noexcept nogil:
    cdef pmtu_table *t = <pmtu_table *>net.pmtus
    return &t.slots[siphash(net.ctx.dice.key, dst, sizeof(ipaddr)) & (PMTU_SLOTS - 1)]


cdef void pmtu_learn(inet *net, const ipaddr *dst, uint32_t mtu) noexcept nogil:
    cdef pmtu_entry *e = slot(net, dst)
    if mtu < (PMTU4_MIN if ip_is4(dst) else IP6_MIN_MTU):
        return
    if e.mtu and ip_equal(&e.dst, dst) and e.until > net.ctx.now and e.mtu <= mtu:
        return
    (<pmtu_table *>net.pmtus).n += 1 if e.mtu == 0 else 0
    e.dst = dst[0]
    e.mtu = mtu
    e.until = net.ctx.now + PMTU_SECONDS * NS_SEC
    count(&net.ctx.n, C_IP_PMTU)


cdef uint32_t pmtu_of(inet *net, const ipaddr *dst, uint32_t mtu) noexcept nogil:
    cdef pmtu_entry *e
    if (<pmtu_table *>net.pmtus).n == 0:
        return mtu
    e = slot(net, dst)
    if e.mtu and e.mtu < mtu and e.until > net.ctx.now and ip_equal(&e.dst, dst):
        return e.mtu
    return mtu
