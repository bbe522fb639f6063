"""What all layers of one engine share: the time of this verb, timers, randomness, memory and the books."""

from ustack._core.base.counters cimport counters
from ustack._core.base.ledger cimport ledger
from ustack._core.base.ready cimport ready_list
from ustack._core.base.rng cimport rng
from ustack._core.base.types cimport ns_t
from ustack._core.base.wheel cimport wheel
from ustack._core.mem.arena cimport arena

cdef struct context:
    ns_t now                    # set by the engine at the start of each verb
    wheel timers
    rng dice
    counters n
    ledger book
    arena *mem
    ready_list ready
