"""Free functions of lent memory run although nobody calls into the library any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from ustack import buffers as b


def dropped_here(arena: b.Arena, ran: Callable[[], None]) -> None:
    """The last reference is a view: it goes outside of every call."""
    m = b.esballoc(bytearray(100), ran, arena)
    view = memoryview(m)
    b.freeb(m)
    view.release()


def dropped_elsewhere(arena: b.Arena, ran: Callable[[], None]) -> None:
    thread = threading.Thread(target=dropped_here, args=(arena, ran), daemon=True)
    thread.start()
    thread.join(60)


@pytest.mark.parametrize("drop", [dropped_here, dropped_elsewhere])
def test_a_free_function_runs_though_nobody_calls_in(drop: Callable[[b.Arena, Callable[[], None]], None]) -> None:
    arena = b.Arena()
    ran: list[int] = []
    drop(arena, lambda: ran.append(threading.get_ident()))
    deadline = time.monotonic() + 60
    while not ran and time.monotonic() < deadline:
        pass                                    # the interpreter runs; the library is not called
    assert len(ran) == 1
    assert arena.live == 0
