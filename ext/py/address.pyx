"""Addresses between Python's text and the core's values. Names are not looked up: the stack has no resolver."""

import ipaddress
import socket as _stdlib

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ustack._core.base.addr cimport ip_from4, ip_is4, ip_to4, ipaddr

_NAMES = {"": "0.0.0.0", "localhost": "127.0.0.1", "<broadcast>": "255.255.255.255"}
_NAMES6 = {"": "::", "localhost": "::1"}
_FACES = (str, ipaddress.IPv4Interface, ipaddress.IPv4Network, ipaddress.IPv6Interface, ipaddress.IPv6Network)


cdef str host_text(object host):
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if isinstance(host, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        host = str(host)
    if not isinstance(host, str):
        raise TypeError(f"a host is a str such as '10.0.0.1', not {type(host).__name__}")
    return host


cdef ipaddr from_bytes6(bytes raw):
    cdef ipaddr a
    a.hi = <uint64_t>int.from_bytes(raw[:8], "big")
    a.lo = <uint64_t>int.from_bytes(raw[8:], "big")
    return a


cdef bytes to_bytes6(const ipaddr *a):
    return int(a.hi).to_bytes(8, "big") + int(a.lo).to_bytes(8, "big")


cdef ipaddr parse4(str host) except *:
    """A numeric IPv4 address, '' (any), 'localhost' or '<broadcast>'."""
    try:
        raw = _stdlib.inet_pton(_stdlib.AF_INET, _NAMES.get(host, host))
    except OSError:
        raise _stdlib.gaierror(
            _stdlib.EAI_NONAME,
            f"{host!r} is not a numeric IPv4 address: this stack resolves no names"
            + (" (IPv6 is for AF_INET6 sockets)" if ":" in host else ""),
        ) from None
    return ip_from4(<uint32_t>int.from_bytes(raw, "big"))


cdef ipaddr parse6(str host) except *:
    """A numeric IPv6 address, '' (any) or 'localhost'. What follows a '%' is a number, and says nothing here: where a
    link-local address leads is for the routes to say."""
    text, _, scope = _NAMES6.get(host, host).partition("%")
    try:
        if scope and not scope.isdecimal():
            raise OSError
        raw = _stdlib.inet_pton(_stdlib.AF_INET6, text)
    except OSError:
        raise _stdlib.gaierror(
            _stdlib.EAI_NONAME,
            f"{host!r} is not a numeric IPv6 address: this stack resolves no names"
            + (" (IPv4 for an AF_INET6 socket is '::ffff:a.b.c.d')" if ":" not in host else ""),
        ) from None
    return from_bytes6(raw)


cdef ipaddr parse_host(object host) except *:
    text = host_text(host)
    return parse6(text) if ":" in text else parse4(text)


cdef object format_host(const ipaddr *a):
    if ip_is4(a):
        return _stdlib.inet_ntoa(int(ip_to4(a)).to_bytes(4, "big"))
    return _stdlib.inet_ntop(_stdlib.AF_INET6, to_bytes6(a))


cdef int parse_endpoint(int family, object address, ipaddr *host, uint16_t *port, object what) except -1:
    if family == AF_INET6:
        if not isinstance(address, tuple) or not 2 <= len(address) <= 4:
            raise TypeError(f"{what}(): an IPv6 address is (host, port[, flowinfo[, scope_id]]), not {address!r}")
    elif not isinstance(address, tuple) or len(address) != 2:
        raise TypeError(f"{what}(): an IPv4 address is a pair (host, port), not {address!r}")
    number = address[1]
    if not isinstance(number, int):
        raise TypeError(f"{what}(): the port must be an int, not {type(number).__name__}")
    if not 0 <= number <= 65535:
        raise OverflowError(f"{what}(): port must be 0-65535.")
    if not 0 <= (address[2] if len(address) > 2 else 0) <= 0xFFFFF:
        raise OverflowError(f"{what}(): flowinfo must be 0-1048575.")
    text = host_text(address[0])
    host[0] = parse6(text) if family == AF_INET6 else parse4(text)
    port[0] = number
    return 0


cdef object format_endpoint(int family, const ipaddr *a, uint16_t port):
    if family == AF_INET6:
        if ip_is4(a):
            return ("::ffff:" + format_host(a), int(port), 0, 0)
        return (format_host(a), int(port), 0, 0)
    if not a.hi and not a.lo:
        return ("0.0.0.0", int(port))
    return (format_host(a), int(port))


cdef int parse_network(object text, ipaddr *host, int *bits) except -1:
    # ip_interface would also take 5 and b"....", which nobody means.
    if not isinstance(text, _FACES):
        raise TypeError(f"an address with its prefix is a str such as '10.9.0.2/24', not {text!r}")
    try:
        face = ipaddress.ip_interface(str(text))
    except ValueError as e:
        raise ValueError(f"an address with its prefix looks like '10.9.0.2/24' or 'fd00::2/64' ({e})") from None
    if face.version == 6:
        host[0] = from_bytes6(face.ip.packed)
        if ip_is4(host):
            raise ValueError(f"{text}: an IPv4 address is written as such, not as an IPv4-mapped one")
        bits[0] = face.network.prefixlen
        return 0
    host[0] = ip_from4(<uint32_t>int(face.ip))
    bits[0] = 96 + face.network.prefixlen
    return 0
