"""Receiving by page."""

from typing import NamedTuple, Self, final

from typing_extensions import Buffer

from ustack._core.py.socket import Socket

def recv_flip(s: Socket, buffer: Buffer, nbytes: int, flags: int, zero: bool) -> int: ...
def recv_zerocopy(s: Socket, mapping: ReceiveMapping, copybuf: Buffer | None) -> Received: ...

class Received(NamedTuple):
    """What recv_zerocopy() did."""

    length: int
    recv_skip_hint: int
    inq: int
    err: int
    copybuf_len: int

@final
class FlipBuffer:
    """Memory whose pages are exchanged for received ones."""

    def __new__(cls, length: int) -> Self: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    @property
    def address(self) -> int: ...

@final
class ReceiveMapping:
    """Address space in which received pages are shown."""

    def __new__(cls, length: int) -> Self: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    def release(self) -> None: ...
    @property
    def address(self) -> int: ...
