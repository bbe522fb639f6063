/* The portable kernel: 64-bit adds of 32-bit halves, which compilers turn into whatever vectors the baseline has. */
#include "csum.h"

/* Copying is memcpy's business, in pieces that are still in the first-level cache when they are summed. */
#define PIECE 2048

uint32_t us_csum_scalar(const void *p, size_t n)
{
  const uint8_t *b = p;
  uint64_t low[4] = {0}, high[4] = {0};
  for (; n >= 32; n -= 32, b += 32) {
    uint64_t w[4];
    memcpy(w, b, 32);
    for (int i = 0; i < 4; i++) {
      low[i] += w[i] & 0xFFFFFFFFu;
      high[i] += w[i] >> 32;
    }
  }
  uint64_t sum = us_sum_words(b, n);
  for (int i = 0; i < 4; i++)
    sum += us_fold64(low[i]) + us_fold64(high[i]);
  return us_fold64(sum);
}

uint32_t us_copy_csum_scalar(void *dst, const void *src, size_t n)
{
  uint8_t *d = dst;
  const uint8_t *s = src;
  uint64_t sum = 0;
  for (; n > PIECE; n -= PIECE, d += PIECE, s += PIECE) {
    memcpy(d, s, PIECE);
    sum += us_csum_scalar(s, PIECE);
  }
  memcpy(d, s, n);
  return us_fold64(sum + us_csum_scalar(s, n));
}
