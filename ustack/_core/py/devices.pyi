from collections.abc import Iterable
from typing import Self

from typing_extensions import disjoint_base

from ustack._core.py.links import Link

ARPHRD_ETHER: int
PRIVILEGE: str
FANOUT: dict[str, int]
RING_REMEDIES: dict[int, str]
OPEN_REMEDIES: dict[int, str]
ATTACH_REMEDIES: dict[int, str]
XDP_RELEASED: float
XDP_MODES: dict[str, int]
XDP_COUNTS: tuple[str, ...]
XDP_STEPS: dict[int, str]
XDP_REMEDIES: dict[int, str]

@disjoint_base
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
        gso_max: int | None = None,
        multi_queue: bool = False,
        up: bool = True,
        header_split: bool = False,
    ) -> None: ...
    @classmethod
    def from_fd(
        cls,
        fd: int,
        *,
        mtu: int | None = None,
        mac: str | bytes | None = None,
        offloads: bool | Iterable[str] = True,
        gso_max: int | None = None,
        header_split: bool = False,
    ) -> Self: ...

class PacketRing(Device):
    def __init__(
        self,
        name: str,
        *,
        mac: str | bytes | None = None,
        offloads: bool | Iterable[str] = True,
        gso_max: int | None = None,
        rx_slots: int = 128,
        tx: str = "sendmmsg",
        tx_slots: int = 16,
        fanout: int | tuple[int, str] | None = None,
        promiscuous: bool = False,
        qdisc_bypass: bool = False,
        lend: bool = True,
    ) -> None: ...
    @property
    def replaced(self) -> int: ...
    @property
    def extent(self) -> tuple[int, int]: ...

@disjoint_base
class Xdp(Device):
    def __init__(
        self, name: str, *, queue: int = 0, mode: str = "auto", mac: str | bytes | None = None, frames: int = 1024
    ) -> None: ...
    @property
    def facts(self) -> dict[str, str | bool | int]: ...
    @property
    def mode(self) -> str: ...
