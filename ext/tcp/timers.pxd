"""What happens when time passes: retransmission, zero-window probes, keep-alive, FIN-WAIT-2 and TIME-WAIT.

Each block has three timers: `rtx` (a SYN, data, or a probe: one at a time), `delack`, and `life`.
"""

from ustack._core.base.types cimport ns_t
from ustack._core.tcp.block cimport tcb

cdef enum:
    SYN_RETRIES = 6             # 1, 3, 7, ... 127 s: then ETIMEDOUT
    SYNACK_RETRIES = 5
    DATA_RETRIES = 15
    ORPHAN_RETRIES = 8
    PERSIST_MAX_S = 60          # between zero-window probes
    TIME_WAIT_S = 60            # 2 MSL
    KEEP_IDLE_S = 7200
    KEEP_INTVL_S = 75
    KEEP_COUNT = 9

cdef void timers_init(tcb *c) noexcept nogil
# Arm `rtx` for one purpose (RTX_*), from now, with the back-off so far; RTX_NONE stops it.
cdef void rtx_arm(tcb *c, int kind) noexcept nogil
# The same in `wait` ns.
cdef void rtx_arm_in(tcb *c, int kind, ns_t wait) noexcept nogil
# There was progress, and more is in flight: a tail loss probe or the time-out, from now.
cdef void rtx_restart(tcb *c) noexcept nogil
# New data was sent: the probe waits anew.
cdef void rtx_sent(tcb *c) noexcept nogil
# Something is in flight and nothing is armed: the time-out, counted from when the oldest of it was sent last.
cdef void rtx_resume(tcb *c) noexcept nogil
# Arm `life` for one purpose (LIFE_*) in `wait` ns; LIFE_NONE stops it.
cdef void life_arm(tcb *c, int kind, ns_t wait) noexcept nogil
# (Re)start the keep-alive clock if the user wants one and the state allows it.
cdef void keepalive_restart(tcb *c) noexcept nogil
