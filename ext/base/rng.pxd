"""Randomness of one engine, from a seed that is injected: xoshiro256** for dice, SipHash-2-4 for what must not be
guessed (initial sequence numbers, ports, hash tables). Reads no entropy by itself.
"""

from libc.stdint cimport uint32_t, uint64_t

from ustack._core.base.addr cimport flow

cdef struct rng:
    uint64_t s[4]
    uint64_t key[2]             # the SipHash key

cdef void rng_seed(rng *r, const uint64_t *seed, int words) noexcept nogil
cdef uint64_t rng_next(rng *r) noexcept nogil
cdef uint32_t rng_below(rng *r, uint32_t n) noexcept nogil
cdef double rng_unit(rng *r) noexcept nogil
cdef uint64_t siphash(const uint64_t *key, const void *data, size_t n) noexcept nogil
cdef uint64_t flow_hash(const uint64_t *key, const flow *f, uint64_t salt) noexcept nogil
