"""Record Route and Timestamp: see record.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ustack._core.base.rng cimport siphash
from ustack._core.base.types cimport NS_MS
from ustack._core.wire.bytes cimport get32, put32
from ustack._core.wire.ip4 cimport (IP4_OPT_END, IP4_OPT_NOP, IP4_OPT_POINTER, IP4_OPT_RR, IP4_OPT_TIMESTAMP,
                                    IP4_OPT_TS_FLAGS, TS_AND_ADDRESS, TS_ONLY, TS_PRESPECIFIED)


cdef inline size_t length_at(const uint8_t *p) noexcept nogil:
    return 1 if p[0] == IP4_OPT_NOP else p[1]


cdef int problem_at(const uint8_t *p) noexcept nogil:
    """In one option: the byte that cannot be, or -1."""
    cdef bint ts = p[0] == IP4_OPT_TIMESTAMP
    cdef size_t length = p[1]
    cdef size_t at
    cdef size_t entry = 4
    if not ts and p[0] != IP4_OPT_RR:
        return -1
    if length < 3 + <size_t>ts:
        return 1
    at = p[IP4_OPT_POINTER]
    if at < 4 + <size_t>ts:
        return IP4_OPT_POINTER
    if ts:
        if p[IP4_OPT_TS_FLAGS] & 0xF == TS_AND_ADDRESS or p[IP4_OPT_TS_FLAGS] & 0xF == TS_PRESPECIFIED:
            entry = 8
        if at > length:
            return IP4_OPT_TS_FLAGS if p[IP4_OPT_TS_FLAGS] >> 4 == 15 else -1
    return IP4_OPT_POINTER if at <= length and at + entry - 1 > length else -1


cdef int record_problem(const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t i = 0
    cdef int found
    while i < n and p[i] != IP4_OPT_END:
        if p[i] != IP4_OPT_NOP:
            found = problem_at(p + i)
            if found >= 0:
                return <int>i + found
        i += length_at(p + i)
    return -1


cdef void record(uint8_t *o, uint32_t us, uint32_t when) noexcept nogil:
    """One more entry, if there is room for it and it is ours to write."""
    cdef uint8_t *entry = o + o[IP4_OPT_POINTER] - 1
    cdef size_t room = <size_t>o[1] + 1 - min(<size_t>o[IP4_OPT_POINTER], <size_t>o[1] + 1)
    cdef uint8_t kind
    if o[0] == IP4_OPT_RR:
        if room >= 4:
            put32(entry, us)
            o[IP4_OPT_POINTER] += 4
        return
    kind = o[IP4_OPT_TS_FLAGS] & 0xF
    if room == 0:
        if o[IP4_OPT_TS_FLAGS] >> 4 < 15:
            o[IP4_OPT_TS_FLAGS] += 0x10         # who found no room is counted
    elif kind == TS_ONLY and room >= 4:
        put32(entry, when)
        o[IP4_OPT_POINTER] += 4
    elif room >= 8 and (kind == TS_AND_ADDRESS or kind == TS_PRESPECIFIED and get32(entry) == us):
        put32(entry, us)
        put32(entry + 4, when)
        o[IP4_OPT_POINTER] += 8


cdef size_t record_answer(const uint8_t *p, size_t n, uint32_t us, uint32_t when, uint8_t *out) noexcept nogil:
    cdef size_t i = 0
    cdef size_t written = 0
    memset(out, 0, 40)
    while i < n and p[i] != IP4_OPT_END:
        if p[i] == IP4_OPT_RR or p[i] == IP4_OPT_TIMESTAMP:
            memcpy(out + written, p + i, p[i + 1])
            record(out + written, us, when)     # it has arrived here
            if out[written + IP4_OPT_POINTER] <= out[written + 1]:
                record(out + written, us, when)     # and is sent from here: as in Linux
            written += p[i + 1]
        i += length_at(p + i)
    return (written + 3) & ~<size_t>3


cdef uint32_t record_time(int64_t now, const uint64_t *key) noexcept nogil:
    cdef uint64_t what = 0x74696D65     # how long the machine runs is nobody's business
    cdef uint32_t from_ = <uint32_t>siphash(key, &what, sizeof(what))
    return <uint32_t>0x80000000 | ((<uint32_t>(now // NS_MS) + from_) & 0x7FFFFFFF)
