from typing import final

from typing_extensions import Buffer

from ustack._core.py.fbpools import Pool

@final
class Demux:
    default: Pool
    matched: int
    unmatched: int

    def __init__(self, default: Pool) -> None: ...
    def add(
        self, pool: Pool, protocol: str, local: tuple[str, int], remote: tuple[str, int] | None = None
    ) -> None: ...
    def remove(self, protocol: str, local: tuple[str, int], remote: tuple[str, int] | None = None) -> None: ...
    def pool_for(self, packet: Buffer) -> Pool: ...
