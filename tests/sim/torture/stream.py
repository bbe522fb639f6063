"""Streams whose every byte is known from its place, so that each piece can be checked when it arrives."""

from __future__ import annotations

from random import Random

PERIOD = 65521              # a prime: no power of two that a mistake may shift by maps the stream onto itself
_BLOCK = Random("stream").randbytes(PERIOD) * 3


class Stream:
    """An endless sequence of bytes; different keys give different ones."""

    def __init__(self, key: int):
        self.start = key * 7919 % PERIOD

    def at(self, offset: int, n: int) -> bytes:
        """The n bytes from an offset on."""
        begin = (self.start + offset) % PERIOD
        if begin + n <= len(_BLOCK):
            return _BLOCK[begin : begin + n]
        rounds = (begin + n) // PERIOD + 1
        return (_BLOCK[:PERIOD] * rounds)[begin : begin + n]
