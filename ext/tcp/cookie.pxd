"""SYN cookies (RFC 4987 3.6): handshakes that cost no memory until the peer has proved that it hears us.

Our initial sequence number carries what is to be remembered of the SYN, as in Linux:

    keyed hash of the four-tuple + peer's number + (minute << 24) + (keyed hash of both and the minute + MSS index)

and, if the peer has timestamps, the low six bits of ours carry its window scale and whether it knows SACK; without
timestamps neither is agreed. A cookie is good for one to two minutes.
"""

from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb

# Whether the SYN that has come is to be answered with a cookie.
cdef bint cookie_wanted(const tcb *listener) noexcept nogil
cdef void cookie_answer(tcb *listener, const arrival *s) noexcept nogil
# Whether a segment with ACK answers a cookie of ours: then `syn` becomes the SYN as far as it is known. Counted.
cdef bint cookie_returned(const tcb *listener, const arrival *s, arrival *syn) noexcept nogil
