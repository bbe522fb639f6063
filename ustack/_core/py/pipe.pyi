from collections.abc import Iterable

from typing_extensions import Buffer, disjoint_base

from ustack._core.py.links import Link

@disjoint_base
class Pipe(Link):
    def __init__(
        self,
        layer: int = 3,
        *,
        mtu: int = 1500,
        queue: int = 1024,
        offloads: bool | Iterable[str] = False,
        max_sg: int = 65535,
        mac: str | bytes | None = None,
        header_split: bool = False,
    ) -> None: ...
    def inject(self, packet: Buffer, /) -> bool: ...
    def inject_many(self, packets: Iterable[Buffer], /) -> int: ...
    def inject_from(self, buffer: Buffer, sizes: Buffer, n: int | None = None) -> int: ...
    def drain(self, max: int | None = None, /) -> list[tuple[int, bytes]]: ...
    def drain_into(self, buffer: Buffer, sizes: Buffer, times: Buffer | None = None) -> int: ...
    @property
    def waiting(self) -> tuple[int, int]: ...
