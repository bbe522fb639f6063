import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from typing_extensions import disjoint_base

from ustack._core.py.links import Link

MAGIC: bytes
READY_SECONDS: int

class _Choices(TypedDict, total=False):
    layer: int
    mtu: int
    mac: str | bytes | None
    offloads: bool | Iterable[str]
    slots: int
    max_sg: int
    max_seg: int | None
    align: int
    address_limit: int | None
    outboard: bool
    device: str

@disjoint_base
class SharedMemory(Link):
    device_pid: int
    peer_pid: int
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @classmethod
    def pair(cls, **options: Unpack[_Choices]) -> tuple[Self, Self]: ...
    @classmethod
    def connect(
        cls, path: str | os.PathLike[str], *, timeout: float | None = None, **options: Unpack[_Choices]
    ) -> Self: ...
    @classmethod
    def listen(cls, path: str | os.PathLike[str], **options: Unpack[_Choices]) -> SharedMemoryListener: ...
    @property
    def error(self) -> str | None: ...
    @property
    def shared(self) -> dict[str, dict[str, int]]: ...
    @property
    def descriptors(self) -> dict[str, int]: ...
    @property
    def device_alive(self) -> bool: ...

class SharedMemoryListener:
    def __init__(self, path: str | os.PathLike[str], **options: Unpack[_Choices]) -> None: ...
    def accept(self, timeout: float | None = None) -> SharedMemory: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __del__(self) -> None: ...

def close_all(fds: Iterable[int]) -> None: ...
def peer_process(sock: Any) -> int: ...
def serve(fd: int) -> int: ...
