"""Which family of addresses a host belongs to, as it is written."""

from __future__ import annotations

from socket import AF_INET, AF_INET6
from typing import Any


def family_of(host: Any) -> int:
    """AF_INET6 for a host that is written as an IPv6 address."""
    return AF_INET6 if ":" in (host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)) else AF_INET
