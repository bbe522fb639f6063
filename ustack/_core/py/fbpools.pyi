from typing import Self, final

from typing_extensions import disjoint_base

from ustack._core.py.fbufs import Fbuf

KINDS: dict[str, int]

@disjoint_base
class End: ...

@final
class Pool:
    def __new__(
        cls, size: int, count: int = 1, *, kind: str = "protected", once: bool = False, forward: bool = True,
        reuse: str = "oldest",
    ) -> Self: ...
    def alloc(self, length: int | None = None, timeout: float | None = None) -> Fbuf: ...
    @property
    def size(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def protects(self) -> int: ...
