"""Ancillary data, and options that a handle keeps: see ancillary.pxd."""

import struct

from libc.errno cimport EINVAL

from ustack._core.base.addr cimport ip_is4, ip_is_any, ip_is_multicast, ip_to4
from ustack._core.inet.inet cimport inet, inet_is_local
from ustack._core.py.address cimport from_bytes6, to_bytes6
from ustack._core.py.driver cimport driver_lock, driver_unlock

from operator import index

cdef enum:
    # Linux's numbers (linux/in.h, linux/in6.h, linux/udp.h, linux/socket.h)
    MSG_CTRUNC = 8
    CMSG_HEADER = 16
    IPPROTO_IP = 0
    IP_TOS = 1
    IP_TTL = 2
    IP_PKTINFO = 8
    IP_RECVTTL = 12
    IP_RECVTOS = 13
    IPPROTO_UDP = 17
    UDP_SEGMENT = 103
    UDP_GRO = 104
    IPPROTO_IPV6 = 41
    IPV6_RECVPKTINFO = 49
    IPV6_PKTINFO = 50
    IPV6_RECVHOPLIMIT = 51
    IPV6_HOPLIMIT = 52
    IPV6_RECVTCLASS = 66
    IPV6_TCLASS = 67

_MOST = 2**31 - 1
_SWITCH = (0, 0, 1)
# Of all sockets: they change nothing here, where no packet has a priority, a mark, a route of its own or a debug trace.
_KEPT = {
    (1, 1): _SWITCH,                            # SO_DEBUG
    (1, 5): _SWITCH,                            # SO_DONTROUTE
    (1, 12): (0, 0, _MOST),                     # SO_PRIORITY
    (1, 36): (0, -_MOST - 1, _MOST),            # SO_MARK
    (1, 46): (0, 0, _MOST),                     # SO_BUSY_POLL
    (IPPROTO_IP, IP_PKTINFO): _SWITCH,
    (IPPROTO_IP, IP_RECVTTL): _SWITCH,
    (IPPROTO_IP, IP_RECVTOS): _SWITCH,
    (IPPROTO_IP, 24): _SWITCH,                  # IP_BIND_ADDRESS_NO_PORT
}
_KEPT6 = {
    (IPPROTO_IPV6, IPV6_RECVPKTINFO): _SWITCH,
    (IPPROTO_IPV6, IPV6_RECVHOPLIMIT): _SWITCH,
    (IPPROTO_IPV6, IPV6_RECVTCLASS): _SWITCH,
}
# Of datagram sockets, to which they mean nothing on Linux either.
_KEPT_DATAGRAM = {
    (1, 9): _SWITCH,                            # SO_KEEPALIVE
    (1, 10): _SWITCH,                           # SO_OOBINLINE
    (1, 18): (1, -_MOST - 1, _MOST),            # SO_RCVLOWAT
}


cdef tuple kept_option(bint stream, bint v6, int level, int name):
    key = (level, name)
    found = _KEPT.get(key)
    if found is None and v6:
        found = _KEPT6.get(key)
    if found is None and not stream:
        found = _KEPT_DATAGRAM.get(key)
    return found


# --- out ----------------------------------------------------------------------------------------------------------
cdef int number_of(object value, int least, int most) except -2:
    """An int, or 1 or 4 bytes of one; OSError if it is out of bounds."""
    cdef object n = value
    if not isinstance(value, int):
        raw = bytes(memoryview(value))
        n = raw[0] if len(raw) == 1 else struct.unpack("i", raw)[0] if len(raw) == 4 else None
    if n is None or not least <= n <= most:
        raise OSError(EINVAL, "sendmsg(): a value of ancillary data is out of bounds")
    return n


cdef int source_of(object raw, bint v6, manner *how) except -1:
    """struct in_pktinfo or in6_pktinfo: the address to send from. The interface is for the routes to say."""
    raw = bytes(memoryview(raw))
    if len(raw) != (20 if v6 else 12):
        raise OSError(EINVAL, "sendmsg(): packet information has another size")
    how.source = from_bytes6(raw[:16] if v6 else bytes(10) + b"\xff\xff" + raw[4:8])
    how.sourced = not ip_is_any(&how.source)
    return 0


cdef int take_item(int level, int kind, object value, manner *how) except -1:
    if (level, kind) == (IPPROTO_UDP, UDP_SEGMENT):
        raw = value if isinstance(value, int) else int.from_bytes(memoryview(value), "little")
        how.gso_size = number_of(raw, 0, 65535)
    elif (level, kind) in ((IPPROTO_IP, IP_TTL), (IPPROTO_IPV6, IPV6_HOPLIMIT)):
        how.ttl = number_of(value, 1 if level == IPPROTO_IP else -1, 255)
    elif (level, kind) in ((IPPROTO_IP, IP_TOS), (IPPROTO_IPV6, IPV6_TCLASS)):
        how.tos = number_of(value, 0 if level == IPPROTO_IP else -1, 255)
    elif (level, kind) in ((IPPROTO_IP, IP_PKTINFO), (IPPROTO_IPV6, IPV6_PKTINFO)):
        source_of(value, level == IPPROTO_IPV6, how)
    else:
        raise OSError(EINVAL, f"sendmsg(): ancillary data of level {level}, type {kind} is not known here")
    return 0


cdef int ancillary_out(object ancdata, manner *how) except -1:
    how.gso_size = how.ttl = how.tos = -1
    how.sourced = False
    for item in ancdata:
        try:
            level, kind, value = item
            level, kind = index(level), index(kind)
            if not isinstance(value, int):
                memoryview(value)
        except (TypeError, ValueError):
            raise TypeError("[sendmsg() argument 2] must be (int, int, bytes-like object) tuples") from None
        take_item(level, kind, value, how)
    return 0


# --- in -----------------------------------------------------------------------------------------------------------
cdef ipaddr answer_from(driver *d, sock *s, const udp_meta *meta) noexcept:
    """The address to answer from: the one that was sent to or, of a group, the first of the interface."""
    cdef ipaddr own = meta.dst
    cdef inet *net = &s.eng.net
    cdef int k, j
    with nogil:
        driver_lock(d)
        if ip_is_multicast(&own) or not inet_is_local(net, &own, NULL):
            for k in range(net.nifs):
                for j in range(net.ifs[k].naddrs):
                    if (net.ifs[k].index + 1 == meta.device and ip_is4(&net.ifs[k].addrs[j].addr) == ip_is4(&meta.dst)
                            and own.lo == meta.dst.lo and own.hi == meta.dst.hi):
                        own = net.ifs[k].addrs[j].addr
        driver_unlock(d)
    return own


cdef object packet_info(driver *d, sock *s, const udp_meta *meta):
    cdef ipaddr own = answer_from(d, s, meta)
    return struct.pack("=i4s4s", meta.device, int(ip_to4(&own)).to_bytes(4, "big"),
                       int(ip_to4(&meta.dst)).to_bytes(4, "big"))


cdef list wanted(driver *d, sock *s, dict kept, const udp_meta *meta):
    """In Linux's order."""
    items = []
    if meta.gso_size:
        items.append((IPPROTO_UDP, UDP_GRO, struct.pack("i", meta.gso_size)))
    if not kept:
        return items
    if not s.v6:
        if kept.get((IPPROTO_IP, IP_PKTINFO)):
            items.append((IPPROTO_IP, IP_PKTINFO, packet_info(d, s, meta)))
        if kept.get((IPPROTO_IP, IP_RECVTTL)):
            items.append((IPPROTO_IP, IP_TTL, struct.pack("i", meta.ttl)))
        if kept.get((IPPROTO_IP, IP_RECVTOS)):
            items.append((IPPROTO_IP, IP_TOS, bytes([meta.tos])))
        return items
    if kept.get((IPPROTO_IPV6, IPV6_RECVPKTINFO)):
        items.append((IPPROTO_IPV6, IPV6_PKTINFO, to_bytes6(&meta.dst) + struct.pack("I", meta.device)))
    if kept.get((IPPROTO_IPV6, IPV6_RECVHOPLIMIT)):
        items.append((IPPROTO_IPV6, IPV6_HOPLIMIT, struct.pack("i", meta.ttl)))
    if kept.get((IPPROTO_IPV6, IPV6_RECVTCLASS)):
        items.append((IPPROTO_IPV6, IPV6_TCLASS, struct.pack("i", meta.tos)))
    return items


cdef tuple ancillary_in(driver *d, sock *s, dict kept, const udp_meta *meta, size_t room):
    cdef list given = []
    cdef size_t need
    if not kept and not meta.gso_size:
        return given, 0
    for item in wanted(d, s, kept, meta):
        need = CMSG_HEADER + len(item[2])
        if need > room:
            return given, MSG_CTRUNC
        given.append(item)
        need = (need + 7) & ~<size_t>7
        room -= need if need < room else room
    return given, 0
