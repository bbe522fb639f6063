"""Words that every room uses: integer types, time, atomics. No state, no functions of our own."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

# Nanoseconds since an origin that only the clock's owner knows. Signed, so that differences are plain.
ctypedef int64_t ns_t

cdef extern from "base.h" nogil:
    const ns_t NS_NEVER
    const ns_t NS_US
    const ns_t NS_MS
    const ns_t NS_SEC

    bint likely(bint x)
    bint unlikely(bint x)

    int32_t atomic_inc32(int32_t *p)
    int32_t atomic_dec32(int32_t *p)
    int32_t atomic_load32(const int32_t *p)
    void atomic_store32(int32_t *p, int32_t v)
    int32_t atomic_swap32(int32_t *p, int32_t v)
    bint atomic_cas32(int32_t *p, int32_t old, int32_t v)
    int64_t atomic_load64(const int64_t *p)
    void atomic_store64(int64_t *p, int64_t v)
    int64_t atomic_add64(int64_t *p, int64_t v)
    void *atomic_loadp(void *p)
    void atomic_storep(void *p, void *v)
    void *atomic_swapp(void *p, void *v)
    bint atomic_casp(void *p, void *old, void *v)
    void fence_full()
    void cpu_relax()
    void spin_lock(int32_t *lock)
    void spin_unlock(int32_t *lock)
    int bit_lowest64(uint64_t v)
    int bit_highest64(uint64_t v)
