/* The checksum with AVX-512 (F, BW). Words are made signed by flipping their top bit (each becomes x - 32768), added in
   pairs into 32-bit lanes by multiply-add with 1, and the 32768 per word are added back at the end. */
#include "csum.h"
#include <immintrin.h>

#define STEP 64
#define BIAS 20                   /* log2 of 32768 times the words of a vector */
#define CHUNK ((size_t)512 << 10)  /* per lane at most 2^16 a round: the sum of four lanes stays below 2^31 */

typedef __m512i vec;

static inline int64_t lanes(__m512i a)
{
  return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(a)),
                                                  _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(a, 1))));
}

/* One vector at p: its sum into acc, and the vector itself to d when copying. */
static inline __attribute__((always_inline)) vec step(vec acc, uint8_t *d, const uint8_t *p, int copy)
{
  vec x = _mm512_loadu_si512(p);
  if (copy)
    _mm512_storeu_si512(d, x);
  x = _mm512_xor_si512(x, _mm512_set1_epi16((short)0x8000));
  return _mm512_add_epi32(acc, _mm512_madd_epi16(x, _mm512_set1_epi16(1)));
}

static inline __attribute__((always_inline)) uint32_t run(uint8_t *d, const uint8_t *p, size_t n, int copy)
{
  uint64_t sum = (uint64_t)(n / STEP) << BIAS;
  do {
    size_t here = n < CHUNK ? n : CHUNK, i = 0;
    vec a = _mm512_setzero_si512(), b = a, c = a, e = a;
    for (; i + 4 * STEP <= here; i += 4 * STEP) {
      a = step(a, d + i, p + i, copy);
      b = step(b, d + i + STEP, p + i + STEP, copy);
      c = step(c, d + i + 2 * STEP, p + i + 2 * STEP, copy);
      e = step(e, d + i + 3 * STEP, p + i + 3 * STEP, copy);
    }
    for (; i + STEP <= here; i += STEP)
      a = step(a, d + i, p + i, copy);
    a = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, e));
    sum += (uint64_t)lanes(a);
    d += copy ? i : 0;
    p += i;
    n -= i;
  } while (n >= STEP);
  return us_fold64(sum + (copy ? us_copy_words(d, p, n) : us_sum_words(p, n)));
}

uint32_t us_csum_avx512(const void *p, size_t n)
{
  return run(NULL, p, n, 0);
}

uint32_t us_copy_csum_avx512(void *dst, const void *src, size_t n)
{
  return run(dst, src, n, 1);
}
