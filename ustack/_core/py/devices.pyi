from collections.abc import Iterable
from typing import Self

from ustack._core.py.links import Link

PRIVILEGE: str
OPEN_REMEDIES: dict[int, str]
ATTACH_REMEDIES: dict[int, str]

class Device(Link):
    @property
    def name(self) -> str: ...

class Tap(Device):
    def __init__(
        self,
        name: str = "tap%d",
        *,
        mtu: int | None = None,
        mac: str | bytes | None = None,
        tun: bool = False,
        offloads: bool | Iterable[str] = True,
        multi_queue: bool = False,
        up: bool = True,
    ) -> None: ...
    @classmethod
    def from_fd(
        cls,
        fd: int,
        *,
        mtu: int | None = None,
        mac: str | bytes | None = None,
        offloads: bool | Iterable[str] = True,
    ) -> Self: ...
