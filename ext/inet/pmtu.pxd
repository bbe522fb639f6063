"""Path MTUs of destinations, learnt from Packet Too Big or Fragmentation Needed and forgotten again (RFC 8201, RFC
1191). Private to the internet layer, but for pmtu_learn, which a transport calls when it has found the message to be
about something that it sent.

A table of fixed size without chains: two destinations of one slot displace each other, and are learnt again.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.types cimport ns_t
from ustack._core.inet.inet cimport inet

cdef enum:
    PMTU_SLOTS = 256
    PMTU4_MIN = 552             # Linux's; less is not believed
    PMTU_SECONDS = 600          # RFC 8201 4 wants 5 minutes at least, recommends 10

cdef struct pmtu_entry:
    ipaddr dst
    uint32_t mtu                # 0: nothing here
    ns_t until

cdef struct pmtu_table:
    int n                       # slots ever used: 0 means that nobody needs to look
    pmtu_entry slots[PMTU_SLOTS]

cdef int pmtu_init(inet *net) noexcept nogil
cdef void pmtu_free(inet *net) noexcept nogil
# The path to dst takes no more than this. Nothing below 1280 (IPv4: 552), and only what is less than what is known.
cdef void pmtu_learn(inet *net, const ipaddr *dst, uint32_t mtu) noexcept nogil
# The smaller of `mtu` and what is known of dst.
cdef uint32_t pmtu_of(inet *net, const ipaddr *dst, uint32_t mtu) noexcept nogil
