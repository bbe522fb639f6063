"""Posted receives."""

from typing_extensions import Buffer

from ustack._core.py.socket import Socket

def recv_posted(s: Socket, buffer: Buffer, nbytes: int = 0) -> int: ...
