"""Who sends pages that are shared with the application, as the fault handler sees it: a lock, and the books.

A fault may come at any time, also while a stack is being closed: so the handler has a structure of its own for each
stack, which outlives it. All fields are read and written under fault_lock.
"""

from libc.stdint cimport int32_t

from ustack._core.base.counters cimport counters
from ustack._core.base.ledger cimport ledger

cdef struct cow_owner:
    int32_t refs
    int32_t pins                # handlers that are about to call hold or release
    void (*hold)(void *arg) noexcept nogil       # the lock under which blocks of the owner are looked at
    void (*release)(void *arg) noexcept nogil
    void *arg                   # NULL: the owner is gone
    ledger *book
    counters *n

# NULL without memory.
cdef cow_owner *owner_create(void (*hold)(void *arg) noexcept nogil, void (*release)(void *arg) noexcept nogil,
                             void *arg, ledger *book, counters *n) noexcept nogil
# No handler calls it from now on; waits for those that do. Drops the creator's reference. NULL is allowed.
cdef void owner_gone(cow_owner *o) noexcept nogil
cdef void owner_unref(cow_owner *o) noexcept nogil
# Under fault_lock: a page was copied.
cdef void owner_book_fault(cow_owner *o, int pages) noexcept nogil
