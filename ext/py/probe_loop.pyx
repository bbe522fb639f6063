"""For tests: moments of a foreign event loop that only two threads at once bring about, one step after the other."""

from libc.stdint cimport int32_t

from ustack._core.base.types cimport atomic_store32
from ustack._core.link.pipe cimport pipe_inject, pipe_wake
from ustack._core.py.driver cimport driver, driver_lock
from ustack._core.py.links cimport Link
from ustack._core.py.loop cimport loop_poll, loop_take_fired
from ustack._core.py.stack cimport Stack
from ustack._core.stack.sockets cimport sock
from ustack._core.sys.eventfd cimport sys_eventfd_signal


def post_while_the_loop_looks(Stack stack, Link pipe, packet: bytes) -> bool:
    """Another thread injects a packet while the loop holds the lock to look for what has fired, and leaves it to the
    loop to process it. Whether the loop was given a socket."""
    cdef driver *d = stack.d
    cdef const char *data = packet
    cdef size_t n = len(packet)
    cdef sock *found
    driver_lock(d)
    pipe_inject(pipe.dev, data, n)
    pipe_wake(pipe.dev)                         # finds the lock busy
    atomic_store32(<int32_t *>&d.lock, 0)       # nobody looks at what was posted: the loop, that locks now, will
    found = loop_take_fired(d)
    return found != NULL


def signal_that_comes_late(Stack stack) -> None:
    """Another thread has said that it will signal the loop, and does so only after the loop has polled."""
    cdef driver *d = stack.d
    atomic_store32(&d.loop_kicked, 1)
    loop_poll(d)
    sys_eventfd_signal(d.loop_fd)
