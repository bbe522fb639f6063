/* Atomics, the spin lock and time constants: what C gives and Cython has no words for. No state here. */
#ifndef USTACK_BASE_H
#define USTACK_BASE_H
#include <stdint.h>
#include <stddef.h>
#include <errno.h>

#define NS_NEVER INT64_MAX
#define NS_US 1000LL
#define NS_MS 1000000LL
#define NS_SEC 1000000000LL

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static inline int32_t atomic_inc32(int32_t *p) { return __atomic_add_fetch(p, 1, __ATOMIC_RELAXED); }
static inline int32_t atomic_dec32(int32_t *p) { return __atomic_sub_fetch(p, 1, __ATOMIC_ACQ_REL); }
static inline int32_t atomic_load32(const int32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void atomic_store32(int32_t *p, int32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int32_t atomic_swap32(int32_t *p, int32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
static inline int atomic_cas32(int32_t *p, int32_t old, int32_t v)
{ return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); }
static inline int64_t atomic_load64(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void atomic_store64(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int64_t atomic_add64(int64_t *p, int64_t v) { return __atomic_add_fetch(p, v, __ATOMIC_RELAXED); }
static inline void *atomic_loadp(void *p) { return __atomic_load_n((void **)p, __ATOMIC_ACQUIRE); }
static inline void atomic_storep(void *p, void *v) { __atomic_store_n((void **)p, v, __ATOMIC_RELEASE); }
static inline void *atomic_swapp(void *p, void *v) { return __atomic_exchange_n((void **)p, v, __ATOMIC_ACQ_REL); }
static inline int atomic_casp(void *p, void *old, void *v)
{ return __atomic_compare_exchange_n((void **)p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); }
/* Orders the descriptor's words before the word that hands it to another thread or to the kernel. */
static inline void fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
#endif
}

/* A spin lock for sections of a few instructions (free lists): never held over a call that can block. */
static inline void spin_lock(int32_t *l)
{ while (unlikely(__atomic_exchange_n(l, 1, __ATOMIC_ACQUIRE))) while (__atomic_load_n(l, __ATOMIC_RELAXED)) cpu_relax(); }
static inline void spin_unlock(int32_t *l) { __atomic_store_n(l, 0, __ATOMIC_RELEASE); }

static inline int bit_lowest64(uint64_t v) { return __builtin_ctzll(v); }
static inline int bit_highest64(uint64_t v) { return 63 - __builtin_clzll(v); }
#endif
