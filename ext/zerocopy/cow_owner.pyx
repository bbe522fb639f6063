"""Owners of shared pages: see cow_owner.pxd."""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from ustack._core.base.counters cimport C_COW_FAULTS, counters
from ustack._core.base.ledger cimport LR_COW_PAGE, ledger, ledger_book
from ustack._core.base.types cimport atomic_add64, cpu_relax
from ustack._core.sys.fault cimport fault_lock, fault_unlock
from ustack._core.sys.memory cimport page_size


cdef cow_owner *owner_create(void (*hold)(void *arg) noexcept nogil, void (*release)(void *arg) noexcept nogil,
                             void *arg, ledger *book, counters *n) noexcept nogil:
    cdef cow_owner *o = <cow_owner *>calloc(1, sizeof(cow_owner))
    if o != NULL:
        o.refs = 1
        o.hold = hold
        o.release = release
        o.arg = arg
        o.book = book
        o.n = n
    return o


cdef void owner_gone(cow_owner *o) noexcept nogil:
    if o == NULL:
        return
    fault_lock()
    while o.pins:
        fault_unlock()
        cpu_relax()
        fault_lock()
    o.arg = NULL
    o.book = NULL
    o.n = NULL
    fault_unlock()
    owner_unref(o)


cdef void owner_unref(cow_owner *o) noexcept nogil:
    cdef bint last
    fault_lock()
    o.refs -= 1
    last = o.refs == 0
    fault_unlock()
    if last:
        free(o)


cdef void owner_book_fault(cow_owner *o, int pages) noexcept nogil:
    cdef int _k
    if o == NULL or o.n == NULL:
        return
    # Not under the engine's lock: nobody else counts this one.
    atomic_add64(<int64_t *>&o.n.n[C_COW_FAULTS], pages)
    for _k in range(pages):
        ledger_book(o.book, LR_COW_PAGE, page_size())
