"""Copy on write: which mechanism tells of writes, and the answer to a fault. What is copied: cow_file, cow_plain."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

# Begin. `how`: FAULT_* of sys/fault; FAULT_NONE: the best there is, if nothing was chosen before. Returns what is used,
# or -EBUSY (pages are protected), or -errno: the mechanism is not to be had.
cdef int cow_start(int how) noexcept nogil
# Let nothing of n bytes be protected: for whoever is about to write to them under an engine's lock. Takes those locks.
cdef void cow_break(const void *addr, size_t n) noexcept nogil
