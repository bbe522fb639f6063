"""ICMP messages (RFC 792, 1191): the first eight bytes, and what an error quotes."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.wire.bytes cimport get16, get32, put16, put32, put_sum

cdef enum:
    O_TYPE = 0
    O_CODE = 1
    O_CHECKSUM = 2
    O_ID = 4
    O_SEQ = 6
    O_MTU = 6
    O_POINTER = 4
    O_RECEIVED = 12
    O_SENT = 16

cdef enum:
    ICMP_LEN = 8
    ICMP_SUM = 2                # where the checksum lies
    ICMP_TIMESTAMP_LEN = 20
    ICMP_ECHO_REPLY = 0
    ICMP_UNREACH = 3
    ICMP_QUENCH = 4
    ICMP_REDIRECT = 5
    ICMP_ECHO = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAM_PROBLEM = 12
    ICMP_TIMESTAMP = 13
    ICMP_TIMESTAMP_REPLY = 14
    ICMP_INFO = 15
    ICMP_INFO_REPLY = 16
    ICMP_MASK = 17
    ICMP_MASK_REPLY = 18

cdef enum:
    # Codes of ICMP_UNREACH (RFC 792, 1122 3.2.2.1, 1812 5.2.7.1)
    UNREACH_NET = 0
    UNREACH_HOST = 1
    UNREACH_PROTO = 2
    UNREACH_PORT = 3
    UNREACH_NEEDFRAG = 4
    UNREACH_SRCFAIL = 5
    UNREACH_NET_UNKNOWN = 6
    UNREACH_HOST_UNKNOWN = 7
    UNREACH_HOST_ISOLATED = 8
    UNREACH_NET_PROHIBITED = 9
    UNREACH_HOST_PROHIBITED = 10
    UNREACH_NET_TOS = 11
    UNREACH_HOST_TOS = 12
    UNREACH_ADMIN = 13
    # Codes of ICMP_TIME_EXCEEDED
    EXCEEDED_TTL = 0
    EXCEEDED_REASSEMBLY = 1

cdef struct icmp_header:
    uint8_t type
    uint8_t code
    uint16_t id                 # echo
    uint16_t seq
    uint16_t mtu                # UNREACH_NEEDFRAG (RFC 1191)
    uint8_t pointer             # ICMP_PARAM_PROBLEM: the byte of the IP header that is wrong


cdef inline int icmp_check(const uint8_t *p, size_t n) noexcept nogil:
    return 0 if n >= ICMP_LEN else -1


cdef inline void icmp_parse(const uint8_t *p, icmp_header *h) noexcept nogil:
    h.type = p[O_TYPE]
    h.code = p[O_CODE]
    h.id = get16(p + O_ID)
    h.seq = get16(p + O_SEQ)
    h.mtu = get16(p + O_MTU)
    h.pointer = p[O_POINTER]


cdef inline void icmp_answer_timestamp(uint8_t *p, uint32_t when) noexcept nogil:
    """Make the answer of a request, with a checksum of 0: when it was received, and sent."""
    p[O_TYPE] = ICMP_TIMESTAMP_REPLY
    p[O_CODE] = 0
    put_sum(p + O_CHECKSUM, 0)
    put32(p + O_RECEIVED, when)
    put32(p + O_SENT, when)


cdef inline void icmp_emit(uint8_t *p, const icmp_header *h) noexcept nogil:
    """Write the header with a checksum of 0. Of id, seq, mtu and pointer: what the type has."""
    p[O_TYPE] = h.type
    p[O_CODE] = h.code
    put_sum(p + O_CHECKSUM, 0)
    put32(p + O_ID, 0)
    if h.type == ICMP_ECHO or h.type == ICMP_ECHO_REPLY:
        put16(p + O_ID, h.id)
        put16(p + O_SEQ, h.seq)
    elif h.type == ICMP_UNREACH:
        put16(p + O_MTU, h.mtu)
    elif h.type == ICMP_PARAM_PROBLEM:
        p[O_POINTER] = h.pointer


cdef inline bint icmp_is_error(uint8_t type) noexcept nogil:
    """Whether a message of this type is an error report, about which no error is sent (RFC 1122 3.2.2)."""
    return (ICMP_UNREACH <= type <= ICMP_REDIRECT or type == ICMP_TIME_EXCEEDED or type == ICMP_PARAM_PROBLEM)
