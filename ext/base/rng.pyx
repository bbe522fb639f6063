"""Randomness of one engine: see rng.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ustack._core.base.addr cimport flow


cdef inline uint64_t rotl(uint64_t x, int k) noexcept nogil:
    return (x << k) | (x >> (64 - k))


cdef uint64_t splitmix(uint64_t *state) noexcept nogil:
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    cdef uint64_t z = state[0]
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef void rng_seed(rng *r, const uint64_t *seed, int words) noexcept nogil:
    """Fill the state and the SipHash key from ``words`` numbers of any quality."""
    cdef uint64_t mix = <uint64_t>0x75737461636B2E31
    cdef int i
    for i in range(words):
        mix ^= seed[i]
        mix = splitmix(&mix)
    for i in range(4):
        r.s[i] = splitmix(&mix)
    for i in range(2):
        # With real entropy the key is taken from it unmixed, so that no step of ours can weaken it.
        r.key[i] = seed[i] if words >= 4 else splitmix(&mix)


cdef uint64_t rng_next(rng *r) noexcept nogil:
    """64 random bits (xoshiro256**)."""
    cdef uint64_t result = rotl(r.s[1] * 5, 7) * 9
    cdef uint64_t t = r.s[1] << 17
    r.s[2] ^= r.s[0]
    r.s[3] ^= r.s[1]
    r.s[1] ^= r.s[2]
    r.s[0] ^= r.s[3]
    r.s[2] ^= t
    r.s[3] = rotl(r.s[3], 45)
    return result


cdef uint32_t rng_below(rng *r, uint32_t n) noexcept nogil:
    """A number in [0, n); 0 when n is 0."""
    return <uint32_t>(((rng_next(r) >> 32) * n) >> 32)


cdef double rng_unit(rng *r) noexcept nogil:
    """A number in [0, 1)."""
    return <double>(rng_next(r) >> 11) * (1.0 / 9007199254740992.0)


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] += v[3]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)


cdef uint64_t siphash(const uint64_t *key, const void *data, size_t n) noexcept nogil:
    """SipHash-2-4 (Aumasson, Bernstein 2012) of ``n`` bytes under a 128-bit key."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef const uint8_t *p = <const uint8_t *>data
    cdef size_t left = n
    v[0] = key[0] ^ <uint64_t>0x736F6D6570736575
    v[1] = key[1] ^ <uint64_t>0x646F72616E646F6D
    v[2] = key[0] ^ <uint64_t>0x6C7967656E657261
    v[3] = key[1] ^ <uint64_t>0x7465646279746573
    while left >= 8:
        memcpy(&word, p, 8)
        v[3] ^= word
        sip_round(v)
        sip_round(v)
        v[0] ^= word
        p += 8
        left -= 8
    word = 0
    memcpy(&word, p, left)
    word |= <uint64_t>(n & 0xFF) << 56
    v[3] ^= word
    sip_round(v)
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef uint64_t flow_hash(const uint64_t *key, const flow *f, uint64_t salt) noexcept nogil:
    """Keyed hash of a flow: the F() of RFC 6528 and RFC 6056, and the hash of the demultiplexer."""
    cdef uint64_t words[6]
    words[0] = f.laddr.hi
    words[1] = f.laddr.lo
    words[2] = f.raddr.hi
    words[3] = f.raddr.lo
    words[4] = (<uint64_t>f.lport << 16) | f.rport
    words[5] = salt
    return siphash(key, words, sizeof(words))
