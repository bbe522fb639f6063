"""What an ICMP error means to an application: see verdict.pxd."""

from libc.errno cimport EHOSTDOWN, EHOSTUNREACH, ENETUNREACH, ENONET, EOPNOTSUPP

from ustack._core.base.addr cimport ip_equal, ip_is4
from ustack._core.inet.inet cimport ICMP_ERR_HOST, ICMP_ERR_NET, ICMP_ERR_TTL, icmp_errno, ip_error
from ustack._core.wire.icmp cimport (
    ICMP_UNREACH, UNREACH_HOST, UNREACH_HOST_ISOLATED, UNREACH_HOST_TOS, UNREACH_HOST_UNKNOWN, UNREACH_NEEDFRAG,
    UNREACH_NET, UNREACH_NET_PROHIBITED, UNREACH_NET_TOS, UNREACH_NET_UNKNOWN, UNREACH_SRCFAIL,
)


cdef inline bint unreachable4(const ip_error *e) noexcept nogil:
    return e.type == ICMP_UNREACH and ip_is4(&e.dst)


cdef int icmp_verdict(const ip_error *e) noexcept nogil:
    if not unreachable4(e) or UNREACH_HOST < e.code <= UNREACH_NEEDFRAG:
        return icmp_errno(e.kind)
    if e.code == UNREACH_SRCFAIL:
        return EOPNOTSUPP
    if e.code == UNREACH_HOST_UNKNOWN:
        return EHOSTDOWN
    if e.code == UNREACH_HOST_ISOLATED:
        return ENONET
    if e.code in (UNREACH_NET, UNREACH_NET_UNKNOWN, UNREACH_NET_PROHIBITED, UNREACH_NET_TOS):
        return ENETUNREACH
    return EHOSTUNREACH


cdef bint icmp_final(const ip_error *e) noexcept nogil:
    if e.kind == ICMP_ERR_TTL:
        return False
    if unreachable4(e):
        if e.code in (UNREACH_NET, UNREACH_HOST, UNREACH_SRCFAIL, UNREACH_NET_TOS, UNREACH_HOST_TOS):
            return ip_equal(&e.reporter, &e.src)
        return True
    if e.kind == ICMP_ERR_HOST or e.kind == ICMP_ERR_NET:
        return ip_equal(&e.reporter, &e.src)
    return True
