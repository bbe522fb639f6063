"""Options of IPv4 that hosts take part in: Record Route and Timestamp (RFC 791 3.1, RFC 1122 3.2.1.8, 3.2.2.6)."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

# n bytes of options, walked before (ip4_check_options): the offset of a byte in them that cannot be, or -1. The bytes
# that Linux names are named.
cdef int record_problem(const uint8_t *p, size_t n) noexcept nogil
# The options of what answers a packet with these n bytes of options: `out` (40 bytes) gets the records, as one who has
# received the packet and sends the answer continues them. How many bytes, a multiple of four.
cdef size_t record_answer(const uint8_t *p, size_t n, uint32_t us, uint32_t when, uint8_t *out) noexcept nogil
# Milliseconds of no known day, which their highest bit says (RFC 791 3.1, RFC 792): the core knows no other.
cdef uint32_t record_time(int64_t now, const uint64_t *key) noexcept nogil
