/* The checksum with AVX2. Words are made signed by flipping their top bit (each becomes x - 32768), added in
   pairs into 32-bit lanes by multiply-add with 1, and the 32768 per word are added back at the end. */
#include "csum.h"
#include <immintrin.h>

#define STEP 32
#define BIAS 19                   /* log2 of 32768 times the words of a vector */
#define CHUNK ((size_t)512 << 10)  /* per lane at most 2^16 a round: the sum of four lanes stays below 2^31 */

typedef __m256i vec;

static inline int64_t lanes(__m256i a)
{
  __m256i s = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(a)),
                               _mm256_cvtepi32_epi64(_mm256_extracti128_si256(a, 1)));
  __m128i t = _mm_add_epi64(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  return _mm_cvtsi128_si64(t) + _mm_extract_epi64(t, 1);
}

/* One vector at p: its sum into acc, and the vector itself to d when copying. */
static inline __attribute__((always_inline)) vec step(vec acc, uint8_t *d, const uint8_t *p, int copy)
{
  vec x = _mm256_loadu_si256((const __m256i *)(p));
  if (copy)
    _mm256_storeu_si256((__m256i *)(d), x);
  x = _mm256_xor_si256(x, _mm256_set1_epi16((short)0x8000));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
}

static inline __attribute__((always_inline)) uint32_t run(uint8_t *d, const uint8_t *p, size_t n, int copy)
{
  uint64_t sum = (uint64_t)(n / STEP) << BIAS;
  do {
    size_t here = n < CHUNK ? n : CHUNK, i = 0;
    vec a = _mm256_setzero_si256(), b = a, c = a, e = a;
    for (; i + 4 * STEP <= here; i += 4 * STEP) {
      a = step(a, d + i, p + i, copy);
      b = step(b, d + i + STEP, p + i + STEP, copy);
      c = step(c, d + i + 2 * STEP, p + i + 2 * STEP, copy);
      e = step(e, d + i + 3 * STEP, p + i + 3 * STEP, copy);
    }
    for (; i + STEP <= here; i += STEP)
      a = step(a, d + i, p + i, copy);
    a = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, e));
    sum += (uint64_t)lanes(a);
    d += copy ? i : 0;
    p += i;
    n -= i;
  } while (n >= STEP);
  return us_fold64(sum + (copy ? us_copy_words(d, p, n) : us_sum_words(p, n)));
}

uint32_t us_csum_avx2(const void *p, size_t n)
{
  return run(NULL, p, n, 0);
}

uint32_t us_copy_csum_avx2(void *dst, const void *src, size_t n)
{
  return run(dst, src, n, 1);
}
