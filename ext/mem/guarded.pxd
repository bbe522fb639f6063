"""Copies to memory that may be gone: pages of a mapped file that somebody cuts."""

from libc.stddef cimport size_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.types cimport mblk

# As msgcopyout from `offset` on; fewer bytes if the destination ends (sys/guard, whose handler is installed).
cdef size_t msgcopyout_guarded(ledger *l, int reason, const mblk *m, size_t offset, void *dst, size_t n) noexcept nogil
