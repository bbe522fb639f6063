"""Early demultiplexing: the pool that a packet's bytes belong into, known from its headers before they are stored."""

import ipaddress

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.wire.bytes cimport ip_version
from ustack._core.wire.ip4 cimport IP4_OK, ip4_check, ip4_header, ip4_parse
from ustack._core.wire.ip6 cimport IP6_LEN, IP6_OK, ip6_check, ip6_header, ip6_parse
from ustack._core.wire.udp cimport UDP_LEN, udp_header, udp_parse

from ustack._core.py.fbpools import Pool

cdef enum:
    TCP = 6
    UDP = 17
    ANY_LENGTH = 1 << 20        # the packet itself need not be there

_PROTOCOLS = {"tcp": TCP, "udp": UDP}


@cython.final
cdef class Demux:
    """Filters from a packet's headers to a pool, for drivers and tunnels that store what they receive where its reader
    wants it (``uf_allocb``).

    A filter names the local end, and the remote one or any. The most specific wins: both ends, then the local end, then
    the local port of any address. What matches none goes to ``default`` and costs its reader a copy, if the reader
    cannot map that pool. Fragments but the first, and IPv6 packets with extension headers, have no ports to be found:
    they go to ``default`` too. ``matched`` and ``unmatched`` count packets.
    """

    cdef dict filters
    cdef readonly object default
    cdef readonly unsigned long long matched, unmatched

    def __init__(self, default: Pool):
        self.default = default
        self.filters = {}

    def add(self, pool: Pool, protocol: str, local: tuple[str, int], remote: tuple[str, int] | None = None) -> None:
        """Packets of ``protocol`` ("tcp", "udp") to ``local``, an address ("" for any) and a port, go to ``pool``.
        ValueError if another pool has the same filter."""
        key = _key(protocol, local, remote)
        if self.filters.setdefault(key, pool) is not pool:
            raise ValueError(f"packets of {protocol} to {local} from {remote or 'anywhere'} have a pool already")

    def remove(self, protocol: str, local: tuple[str, int], remote: tuple[str, int] | None = None) -> None:
        """Take a filter away; KeyError if there is none."""
        del self.filters[_key(protocol, local, remote)]

    def pool_for(self, packet: object) -> Pool:
        """The pool for a packet that begins with an IP header; its first 60 bytes are enough. Nothing is believed that
        the headers do not say: what is cut or malformed goes to ``default``."""
        cdef Py_buffer view
        cdef object key
        PyObject_GetBuffer(packet, &view, PyBUF_SIMPLE)
        try:
            key = flow_of(<const uint8_t *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        if key is not None:
            proto, dst, dport, _, _ = key
            for tried in (key, (proto, dst, dport, None, 0), (proto, None, dport, None, 0)):
                pool = self.filters.get(tried)
                if pool is not None:
                    self.matched += 1
                    return pool
        self.unmatched += 1
        return self.default


cdef object flow_of(const uint8_t *p, Py_ssize_t n):
    """(protocol, destination, port, source, port), or None."""
    cdef ip4_header h4
    cdef ip6_header h6
    if n and ip_version(p) == 6:
        if ip6_check(p, n, ANY_LENGTH) != IP6_OK:
            return None
        ip6_parse(p, &h6)
        return ends(p + IP6_LEN, n - IP6_LEN, h6.next, (6, number6(&h6.dst)), (6, number6(&h6.src)))
    if ip4_check(p, n, ANY_LENGTH) != IP4_OK:
        return None
    ip4_parse(p, &h4)
    if h4.frag_offset:
        return None
    return ends(p + h4.header_len, n - h4.header_len, h4.proto, (4, h4.dst), (4, h4.src))


cdef object number6(const ipaddr *a):
    return <object>a.hi << 64 | <object>a.lo


cdef object ends(const uint8_t *transport, Py_ssize_t n, int proto, tuple dst, tuple src):
    cdef udp_header h
    if n < UDP_LEN or (proto != TCP and proto != UDP):
        return None
    udp_parse(transport, &h)            # TCP's ports lie where UDP's do (RFC 9293 3.1, RFC 768)
    return proto, dst, h.dport, src, h.sport


def _number(host: str) -> tuple[int, int]:
    a = ipaddress.ip_address(host)
    return a.version, int(a)


def _key(protocol: str, local: tuple[str, int], remote: tuple[str, int] | None) -> tuple[object, ...]:
    if protocol not in _PROTOCOLS:
        raise ValueError(f"the protocol is tcp or udp, not {protocol!r}")
    host = _number(local[0]) if local[0] else None
    if remote is None:
        return _PROTOCOLS[protocol], host, local[1], None, 0
    if host is None:
        raise ValueError("a filter with a remote end names the local address too")
    return _PROTOCOLS[protocol], host, local[1], _number(remote[0]), remote[1]
