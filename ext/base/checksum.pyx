"""The Internet checksum: see checksum.pxd. Here the kernel is chosen; the kernels themselves are in ``simd``."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "csum.h" nogil:
    uint32_t us_fold64(uint64_t sum)
    uint64_t us_sum_words(const uint8_t *p, size_t n)
    uint64_t us_copy_words(uint8_t *d, const uint8_t *p, size_t n)

cdef extern from *:
    """
    struct kernel {
      const char *name;
      uint32_t (*sum)(const void *, size_t);
      uint32_t (*copy)(void *, const void *, size_t);
    };

    /* Best first. That the operating system saves the registers is part of what the CPU "supports". */
    static int kernel_runs(const char *name)
    {
    #ifdef USTACK_X86_KERNELS
      __builtin_cpu_init();
      /* CPUs with AVX-512 but without VBMI2 slow their clock down for it: AVX2 is quicker there. */
      if (strcmp(name, "avx512") == 0)
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2");
      if (strcmp(name, "avx2") == 0)
        return __builtin_cpu_supports("avx2");
    #endif
      return strcmp(name, "scalar") == 0;
    }

    static const struct kernel kernels[] = {
    #ifdef USTACK_X86_KERNELS
      {"avx512", us_csum_avx512, us_copy_csum_avx512},
      {"avx2", us_csum_avx2, us_copy_csum_avx2},
    #endif
      {"scalar", us_csum_scalar, us_copy_csum_scalar},
    };
    static const struct kernel *chosen;

    /* Any thread may be the first: all of them choose the same. */
    static const struct kernel *choose_kernel(void)
    {
      const struct kernel *k = kernels;
      while (!kernel_runs(k->name))
        k++;
      __atomic_store_n(&chosen, k, __ATOMIC_RELEASE);
      return k;
    }
    static inline const struct kernel *the_kernel(void)
    {
      const struct kernel *k = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
      return __builtin_expect(k != NULL, 1) ? k : choose_kernel();
    }
    static int select_kernel(const char *name)
    {
      for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (strcmp(kernels[i].name, name) == 0 && kernel_runs(name)) {
          __atomic_store_n(&chosen, &kernels[i], __ATOMIC_RELEASE);
          return 0;
        }
      return -1;
    }
    """
    cdef struct kernel:
        const char *name
        uint32_t (*sum)(const void *p, size_t n) noexcept nogil
        uint32_t (*copy)(void *dst, const void *src, size_t n) noexcept nogil
    const kernel *the_kernel() nogil
    int select_kernel(const char *name) nogil

cdef enum:
    SMALL = 64                  # up to here (headers) plain words beat setting up vectors


cdef uint32_t csum_partial(const void *p, size_t n) noexcept nogil:
    if n <= SMALL:
        return us_fold64(us_sum_words(<const uint8_t *>p, n))
    return the_kernel().sum(p, n)


cdef uint32_t copy_csum(void *dst, const void *src, size_t n) noexcept nogil:
    if n <= SMALL:
        return us_fold64(us_copy_words(<uint8_t *>dst, <const uint8_t *>src, n))
    return the_kernel().copy(dst, src, n)


cdef const char *csum_kernel() noexcept nogil:
    return the_kernel().name


cdef int csum_select(const char *name) noexcept nogil:
    return select_kernel(name)
