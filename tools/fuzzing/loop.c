/* The loop of tools/fuzz: mutate, execute, keep what reaches new code. Preloaded, so that it defines the function that
 * gcc -fsanitize-coverage=trace-pc calls at every edge of the instrumented modules.
 *
 *     fuzz_loop(fn, seeds, executions, seconds, seed, current)    0, or what fn returned: the input lies in `current`
 *     fuzz_corpus(n, &data, &length)                              what was kept
 *     fuzz_cover(fn, data, n, map)                                the edges of one input
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAP (1u << 16)
#define LONGEST 512
#define KEPT 20000

typedef int (*target)(const uint8_t *data, size_t n);

static uint8_t map[MAP], seen[MAP];
static uint16_t touched[MAP];       /* the edges that this execution took, so that nobody has to look for them */
static uint32_t ntouched;
static uint32_t before;
static int on;

void __sanitizer_cov_trace_pc(void)
{
    uint32_t here, edge;
    if (!on) return;
    here = (uint32_t)(uintptr_t)__builtin_return_address(0);
    here = (here >> 4 ^ here << 8 ^ here >> 16) & (MAP - 1);
    edge = here ^ before;
    before = here >> 1;
    if (map[edge] == 0) touched[ntouched++] = (uint16_t)edge;
    if (map[edge] != 255) map[edge]++;
}

static struct { uint8_t *data; uint32_t n; } corpus[KEPT];
static uint32_t kept;
static uint64_t state;

static uint64_t dice(void)
{
    state ^= state << 13; state ^= state >> 7; state ^= state << 17;
    return state;
}

static uint32_t below(uint32_t n) { return (uint32_t)((dice() >> 16) % n); }

static uint8_t bucket(uint8_t hits)
{
    return hits < 4 ? (uint8_t)(1 << (hits - 1)) : hits < 8 ? 8 : hits < 16 ? 16 : hits < 32 ? 32 : hits < 128 ? 64 : 128;
}

static int execute(target fn, const uint8_t *data, size_t n)
{
    int r;
    while (ntouched) map[touched[--ntouched]] = 0;
    before = 0;
    on = 1;
    r = fn(data, n);
    on = 0;
    return r;
}

static int is_new(void)
{
    int new = 0;
    for (uint32_t k = 0; k < ntouched; k++) {
        uint32_t i = touched[k];
        if (bucket(map[i]) & ~seen[i]) { seen[i] |= bucket(map[i]); new = 1; }
    }
    return new;
}

static void keep(const uint8_t *data, uint32_t n)
{
    if (kept == KEPT) return;
    corpus[kept].data = malloc(n ? n : 1);
    memcpy(corpus[kept].data, data, n);
    corpus[kept++].n = n;
}

static uint32_t mutate(uint8_t *d, uint32_t n)
{
    static const uint8_t odd[] = {0, 1, 2, 4, 16, 17, 18, 20, 64, 127, 128, 255, 3, 6, 8};
    uint32_t rounds = 1u << below(5);
    while (rounds--) {
        uint32_t at = n ? below(n) : 0, m, to;
        switch (below(n < 4 ? 4 : 9)) {
        case 0: if (n < LONGEST) { memmove(d + at + 1, d + at, n - at); d[at] = (uint8_t)dice(); n++; } break;
        case 1: if (n < LONGEST) { d[n] = odd[below(sizeof odd)]; n++; } break;
        case 2: if (n) d[at] = (uint8_t)dice(); break;
        case 3: if (n) d[at] = odd[below(sizeof odd)]; break;
        case 4: d[at] ^= (uint8_t)(1 << below(8)); break;
        case 5: d[at] = (uint8_t)(d[at] + below(33) - 16); break;
        case 6: m = 1 + below(n - at < 16 ? n - at : 16); memmove(d + at, d + at + m, n - at - m); n -= m; break;
        case 7:                                             /* something of this input, again elsewhere */
            m = 1 + below(n - at < 32 ? n - at : 32);
            if (n + m > LONGEST) break;
            to = below(n + 1);
            { uint8_t piece[32]; memcpy(piece, d + at, m); memmove(d + to + m, d + to, n - to); memcpy(d + to, piece, m); }
            n += m;
            break;
        default: {                                          /* the end of another */
            uint32_t other = below(kept), k = corpus[other].n, from;
            if (k < 3) break;
            from = 2 + below(k - 2);
            m = k - from;
            if (at < 2) at = 2;
            if (at + m > LONGEST) m = LONGEST - at;
            memcpy(d + at, corpus[other].data + from, m);
            n = at + m;
        } }
    }
    return n;
}

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint32_t edges(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < MAP; i++) n += seen[i] != 0;
    return n;
}

/* An input of the caller's; `current` holds what is being executed, for the case that the process dies of it. */
int fuzz_seed(target fn, const uint8_t *data, uint32_t n, uint8_t *current)
{
    int r;
    if (n > LONGEST) n = LONGEST;
    memcpy(current + 4, data, n);
    memcpy(current, &n, 4);
    r = execute(fn, data, n);
    if (is_new()) keep(data, n);
    return r;
}

int fuzz_loop(target fn, uint64_t executions, double seconds, uint64_t seed, uint8_t *current, uint64_t *done)
{
    uint8_t *d = current + 4;
    double start = clock_now(), said = start;
    state = seed * 0x9E3779B97F4A7C15u + 1;
    for (*done = 0; *done < executions; ++*done) {
        uint32_t n, pick = below(2) && kept > 64 ? kept - 1 - below(64) : below(kept);
        int r;
        n = corpus[pick].n;
        memcpy(d, corpus[pick].data, n);
        n = mutate(d, n);
        memcpy(current, &n, 4);
        r = execute(fn, d, n);
        if (r) return r;
        if (is_new()) keep(d, n);
        if ((*done & 1023) == 0) {
            double now = clock_now();
            if (now - start > seconds) break;
            if (now - said > 20) {
                said = now;
                printf("%llu executions, %.0f a second, %u edges, %u inputs\n", (unsigned long long)*done,
                       (double)*done / (now - start), edges(), kept);
                fflush(stdout);
            }
        }
    }
    printf("%llu executions in %.0f s, %u edges, %u inputs\n", (unsigned long long)*done, clock_now() - start, edges(),
           kept);
    fflush(stdout);
    return 0;
}

uint32_t fuzz_kept(void) { return kept; }

uint32_t fuzz_input(uint32_t i, uint8_t *to)
{
    memcpy(to, corpus[i].data, corpus[i].n);
    return corpus[i].n;
}

/* The edges that an input reaches, one byte each, without how often. */
void fuzz_cover(target fn, const uint8_t *data, uint32_t n, uint8_t *to)
{
    execute(fn, data, n);
    for (uint32_t i = 0; i < MAP; i++) to[i] = map[i] != 0;
}
