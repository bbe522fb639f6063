/* Kernels of the Internet checksum: one pair per instruction set, all with the same results.
   A sum is that of the data as 16-bit words in memory order, folded to 16 bits: 0 only if all bytes are 0.
   The copying ones read and write [p, p + n) once; source and destination do not overlap. No state. */
#ifndef USTACK_CSUM_H
#define USTACK_CSUM_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

uint32_t us_csum_scalar(const void *p, size_t n);
uint32_t us_copy_csum_scalar(void *dst, const void *src, size_t n);
uint32_t us_csum_avx2(const void *p, size_t n);
uint32_t us_copy_csum_avx2(void *dst, const void *src, size_t n);
uint32_t us_csum_avx512(const void *p, size_t n);
uint32_t us_copy_csum_avx512(void *dst, const void *src, size_t n);

static inline uint32_t us_fold64(uint64_t s)
{
  s = (s & 0xFFFFFFFFu) + (s >> 32);
  s = (s & 0xFFFFFFFFu) + (s >> 32);
  s = (s & 0xFFFF) + (s >> 16);
  s = (s & 0xFFFF) + (s >> 16);
  return (uint32_t)s;
}

/* What is left of a buffer, or a header: plain words, no set-up. */
static inline uint64_t us_sum_words(const uint8_t *p, size_t n)
{
  uint64_t sum = 0, w;
  uint32_t w4;
  uint16_t w2;
  for (; n >= 8; n -= 8, p += 8) {
    memcpy(&w, p, 8);
    sum += (w & 0xFFFFFFFFu) + (w >> 32);
  }
  if (n & 4) {
    memcpy(&w4, p, 4);
    sum += w4;
    p += 4;
  }
  if (n & 2) {
    memcpy(&w2, p, 2);
    sum += w2;
    p += 2;
  }
  if (n & 1) {
    w2 = 0;
    memcpy(&w2, p, 1);
    sum += w2;
  }
  return sum;
}

static inline uint64_t us_copy_words(uint8_t *d, const uint8_t *p, size_t n)
{
  uint64_t sum = 0, w;
  uint32_t w4;
  uint16_t w2;
  for (; n >= 8; n -= 8, p += 8, d += 8) {
    memcpy(&w, p, 8);
    memcpy(d, &w, 8);
    sum += (w & 0xFFFFFFFFu) + (w >> 32);
  }
  if (n & 4) {
    memcpy(&w4, p, 4);
    memcpy(d, &w4, 4);
    sum += w4;
    p += 4;
    d += 4;
  }
  if (n & 2) {
    memcpy(&w2, p, 2);
    memcpy(d, &w2, 2);
    sum += w2;
    p += 2;
    d += 2;
  }
  if (n & 1) {
    w2 = 0;
    memcpy(&w2, p, 1);
    *d = *p;
    sum += w2;
  }
  return sum;
}
#endif
