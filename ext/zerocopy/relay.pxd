"""A splice between two connections of one stack: what one receives becomes what the other sends, in the same blocks.

It runs inside the engine: whoever polls calls ``relay_turn`` when something happened on either connection. Flow control
is TCP's own: nothing is taken from the source beyond what the sink's send buffer has room for, so the source's window
closes when the sink is slow. The rules are those of SO_SPLICE (OpenBSD, FreeBSD): one direction, an optional limit of
bytes, an optional time without any after which it ends with ETIMEDOUT.

All functions run under the engine's lock. Nobody is told from here: a finished relay leaves `done` for its owner, and
makes a descriptor readable, if it has one.
"""

from libc.stdint cimport int32_t, int64_t

from ustack._core.base.types cimport ns_t
from ustack._core.base.wheel cimport timer
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.tcp cimport tcb

cdef enum:
    RELAY_OPEN = 0
    RELAY_SOURCE = 1            # the error is the source's, or there is none: its end was reached, or the limit
    RELAY_SINK = 2
    RELAY_DISSOLVED = 3         # by its owner, or since a socket was closed
    RELAY_IDLE = 4

cdef struct relay:
    tcb *source                 # NULL once it is over
    tcb *sink
    context *ctx
    int64_t left                # bytes still to be moved; < 0: to the end
    int64_t moved
    bint pass_end               # the source's FIN becomes the sink's
    bint ended                  # the end of the source was reached
    int error                   # positive, 0: none
    int32_t done                # why it is over, RELAY_*; read without the lock
    ns_t idle                   # 0: none
    ns_t last
    timer clock
    int event                   # signalled when it is over; -1: none
    mblk *farewell              # freed when it is over: its free function tells Python
    relay **at_source           # where the sockets keep it
    relay **at_sink

# Begin; at_source and at_sink are set to it. The structure stays in place until it is over.
cdef void relay_start(relay *r, context *ctx, tcb *source, tcb *sink, relay **at_source, relay **at_sink) noexcept nogil
# Move what can be moved.
cdef void relay_turn(relay *r) noexcept nogil
cdef void relay_dissolve(relay *r, int error) noexcept nogil
