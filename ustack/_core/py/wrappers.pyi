import os
from collections.abc import Mapping
from typing import IO, Any

from typing_extensions import disjoint_base

from ustack._core.py.links import Link

DIRECTION: dict[str, Any]

@disjoint_base
class Wrapper(Link):
    @property
    def inner(self) -> Link: ...

class Impair(Wrapper):
    def __init__(
        self,
        link_inside: Link,
        *,
        seed: int = 0,
        tx: Mapping[str, float | None] | None = None,
        rx: Mapping[str, float | None] | None = None,
        **impairments: float | None,
    ) -> None: ...
    def _fates(self, tx: bool) -> dict[str, int]: ...
    @property
    def fates(self) -> dict[str, dict[str, int]]: ...

class Capture(Wrapper):
    def __init__(
        self,
        link_inside: Link,
        file: str | bytes | os.PathLike[str] | int | IO[Any],
        *,
        snaplen: int = 262144,
        epoch: int | None = None,
    ) -> None: ...
    def flush(self) -> None: ...
    @property
    def captured(self) -> dict[str, int]: ...
