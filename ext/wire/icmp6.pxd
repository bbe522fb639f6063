"""ICMPv6 messages (RFC 4443): the first eight bytes. Neighbour discovery and group membership are not served."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.wire.bytes cimport get16, get32, put16, put32, put_sum

cdef enum:
    O_TYPE = 0
    O_CODE = 1
    O_CHECKSUM = 2
    O_ID = 4
    O_SEQ = 6
    O_WORD = 4

cdef enum:
    ICMP6_LEN = 8
    ICMP6_SUM = 2               # where the checksum lies
    ICMP6_UNREACH = 1
    ICMP6_TOO_BIG = 2
    ICMP6_TIME_EXCEEDED = 3
    ICMP6_PARAM_PROBLEM = 4
    ICMP6_ECHO = 128            # below: errors
    ICMP6_ECHO_REPLY = 129
    ICMP6_REDIRECT = 137

cdef enum:
    # Codes of ICMP6_UNREACH
    UNREACH6_NO_ROUTE = 0
    UNREACH6_ADMIN = 1
    UNREACH6_SCOPE = 2
    UNREACH6_ADDRESS = 3
    UNREACH6_PORT = 4
    UNREACH6_POLICY = 5
    UNREACH6_REJECT = 6
    # Codes of ICMP6_TIME_EXCEEDED
    EXCEEDED6_HOPS = 0
    EXCEEDED6_REASSEMBLY = 1
    # Codes of ICMP6_PARAM_PROBLEM
    PARAM6_FIELD = 0
    PARAM6_NEXT_HEADER = 1
    PARAM6_OPTION = 2
    PARAM6_FIRST_FRAGMENT = 3   # RFC 7112

cdef struct icmp6_header:
    uint8_t type
    uint8_t code
    uint16_t id                 # echo
    uint16_t seq
    uint32_t word               # errors: MTU or pointer


cdef inline int icmp6_check(const uint8_t *p, size_t n) noexcept nogil:
    return 0 if n >= ICMP6_LEN else -1


cdef inline void icmp6_parse(const uint8_t *p, icmp6_header *h) noexcept nogil:
    h.type = p[O_TYPE]
    h.code = p[O_CODE]
    h.id = get16(p + O_ID)
    h.seq = get16(p + O_SEQ)
    h.word = get32(p + O_WORD)


cdef inline void icmp6_emit(uint8_t *p, const icmp6_header *h) noexcept nogil:
    """Write the header with a checksum of 0. Of id, seq and word: what the type has."""
    p[O_TYPE] = h.type
    p[O_CODE] = h.code
    put_sum(p + O_CHECKSUM, 0)
    if h.type == ICMP6_ECHO or h.type == ICMP6_ECHO_REPLY:
        put16(p + O_ID, h.id)
        put16(p + O_SEQ, h.seq)
    else:
        put32(p + O_WORD, h.word)


cdef inline bint icmp6_is_error(uint8_t type) noexcept nogil:
    """Whether no error may be sent about a message of this type (RFC 4443 2.4 (e))."""
    return type < ICMP6_ECHO or type == ICMP6_REDIRECT
