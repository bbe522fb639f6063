"""Sending in place."""

from typing import NamedTuple, Self, final

from typing_extensions import Buffer

from ustack._core.py.socket import Socket

AUTO_LEAST: int

class Completion(NamedTuple):
    low: int
    high: int
    copied: bool

@final
class Registration:
    pinned: bool
    error: int
    nbytes: int
    address: int
    def __new__(cls, buffer: Buffer) -> Self: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

def registered() -> tuple[int, int, int, int]: ...
def number_from(s: Socket, number: int) -> None: ...

@final
class Notices:
    """What a socket knows of its sends with completion."""
