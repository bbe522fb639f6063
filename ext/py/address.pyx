"""Addresses between Python's text and the core's values. Names are not looked up: the stack has no resolver."""

import ipaddress
import socket as _stdlib

from libc.stdint cimport uint16_t, uint32_t

from ustack._core.base.addr cimport ip_from4, ip_is4, ip_to4, ipaddr

_NAMES = {"": "0.0.0.0", "localhost": "127.0.0.1", "<broadcast>": "255.255.255.255"}


cdef ipaddr parse_host(object host) except *:
    """A numeric IPv4 address, '' (any), 'localhost' or '<broadcast>'."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if isinstance(host, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        host = str(host)
    if not isinstance(host, str):
        raise TypeError(f"a host is a str such as '10.0.0.1', not {type(host).__name__}")
    try:
        raw = _stdlib.inet_pton(_stdlib.AF_INET, _NAMES.get(host, host))
    except OSError:
        raise _stdlib.gaierror(
            _stdlib.EAI_NONAME,
            f"{host!r} is not a numeric IPv4 address: this stack resolves no names"
            + (" and has no IPv6 yet" if ":" in host else ""),
        ) from None
    return ip_from4(<uint32_t>int.from_bytes(raw, "big"))


cdef object format_host(const ipaddr *a):
    if ip_is4(a):
        return _stdlib.inet_ntoa(int(ip_to4(a)).to_bytes(4, "big"))
    if not a.hi and not a.lo:
        return "0.0.0.0"        # "any", in a stack that has no other family yet
    return str(ipaddress.IPv6Address((int(a.hi) << 64) | int(a.lo)))


cdef int parse_endpoint(object address, ipaddr *host, uint16_t *port, object what) except -1:
    if not isinstance(address, tuple) or len(address) != 2:
        raise TypeError(f"{what}(): an IPv4 address is a pair (host, port), not {address!r}")
    number = address[1]
    if not isinstance(number, int):
        raise TypeError(f"{what}(): the port must be an int, not {type(number).__name__}")
    if not 0 <= number <= 65535:
        raise OverflowError(f"{what}(): port must be 0-65535.")
    host[0] = parse_host(address[0])
    port[0] = number
    return 0


cdef object format_endpoint(const ipaddr *a, uint16_t port):
    return (format_host(a), int(port))


cdef int parse_network(object text, ipaddr *host, int *bits) except -1:
    # IPv4Interface would also take 5 and b"....", which nobody means.
    if not isinstance(text, (str, ipaddress.IPv4Interface, ipaddress.IPv4Network)):
        raise TypeError(f"an address with its prefix is a str such as '10.9.0.2/24', not {text!r}")
    try:
        face = ipaddress.IPv4Interface(str(text))
    except ValueError as e:
        raise ValueError(f"an address with its prefix looks like '10.9.0.2/24' ({e})") from None
    host[0] = ip_from4(<uint32_t>int(face.ip))
    bits[0] = 96 + face.network.prefixlen
    return 0
