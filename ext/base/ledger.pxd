"""The ledger of one engine: every payload byte that a CPU moves or sums, by reason. Books only; copies nothing.

The reasons, their names and their meaning are listed once, in ledger.h.
"""

from libc.stdint cimport int64_t

from ustack._core.base.types cimport atomic_add64

cdef extern from "ledger.h":
    enum:
        LR_TX_COPY, LR_RX_COPY, LR_CSUM_TX, LR_CSUM_RX, LR_CSUM_FUSED, LR_APPEND, LR_COLLAPSE, LR_FLATTEN
        LR_SEGMENT, LR_COALESCE, LR_RING_COPY, LR_RING_FILL, LR_PULLUP, LR_COPYB, LR_REASSEMBLY
        LR_PIPE_IN, LR_PIPE_OUT, LR_BOUNCE, LR_RESCUE, LR_MISPLACED, LR_FILE_READ
        LR_COW_PAGE, LR_FLIP_ZERO, LR_DEVICE_TX, LR_DEVICE_RX
        LR_COUNT

cdef struct ledger:
    int64_t nbytes[LR_COUNT]
    int64_t ncalls[LR_COUNT]

cdef const char *ledger_name(int reason) noexcept nogil
cdef const char *ledger_meaning(int reason) noexcept nogil


cdef inline void ledger_book(ledger *l, int reason, size_t n) noexcept nogil:
    # Atomic: user copies are booked outside the engine's lock.
    if l != NULL:
        atomic_add64(&l.nbytes[reason], n)
        atomic_add64(&l.ncalls[reason], 1)
