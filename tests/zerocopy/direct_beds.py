"""What the tests of sending in place share: two stacks with a device between them, and what was counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from beds import FAR, NEAR

import ustack


@contextlib.contextmanager
def two_devices(**options: Any) -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    """Two stacks over a cable whose ends move bytes as a network card does: sending in place is possible."""
    with ustack.Stack() as near, ustack.Stack() as far:
        for net, link, ip in zip((near, far), ustack.pair(device=True, **options), (NEAR, FAR), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        yield near, far


def counted(net: ustack.Stack, prefix: str = "direct.") -> dict[str, int]:
    """Counters that begin so and are not zero, without that beginning."""
    return {name.removeprefix(prefix): n for name, n in net.stats().items() if name.startswith(prefix) and n}
