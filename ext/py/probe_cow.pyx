"""For tests: what is behind shared pages."""

from libc.stdint cimport uint32_t, uintptr_t

from ustack._core.sys.fault cimport fault_lock, fault_unlock
from ustack._core.zerocopy.cow_file cimport cow_file, cow_file_any, cow_file_find, cow_file_unref
from ustack._core.zerocopy.cow_plain cimport cow_plain_any
from ustack._core.sys.memory cimport page_size


def alias(address: int) -> tuple[int, int]:
    """Of an address in a CowBuffer: where the stack sees the same byte, and the slot it lies in."""
    cdef cow_file *f = cow_file_find(<void *><uintptr_t>address, 1)
    cdef uint32_t slot
    cdef size_t at
    if f == NULL:
        raise ValueError("no CowBuffer has this address")
    at = <uintptr_t>address - <uintptr_t>f.user
    slot = f.slot[at // page_size()]
    found = <uintptr_t>f.r.base + slot * page_size() + at % page_size()
    cow_file_unref(f)
    return found, slot


def anything_protected() -> tuple[bool, bool]:
    """Whether pages of CowBuffers, and of plain memory, are protected."""
    fault_lock()
    r = cow_file_any() != 0, cow_plain_any() != 0
    fault_unlock()
    return r
