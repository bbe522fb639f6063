/* The handler of SIGBUS and SIGSEGV. Its state is static: one module includes this file.
 *
 * A fault is ours if this thread is inside us_guard_call with the address in its guarded range (then the call is left by
 * siglongjmp), or if the address lies in a watched range and its file is cut (then a page of zeros is mapped over it, and
 * the range is marked). Everything else goes to the handler that was there before. The ranges are read without a lock: a
 * slot is published by its base, written last and cleared first. */
#ifndef USTACK_GUARD_SYS_H
#define USTACK_GUARD_SYS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_SLOTS 512

typedef struct {
  uintptr_t base, length;
  int32_t *broken;
} guard_range;

typedef struct {
  uintptr_t base, length;
  volatile uintptr_t at;
  sigjmp_buf back;
} guard_jump;

typedef void (*guard_fn)(void *arg, size_t n);

static guard_range guard_ranges[GUARD_SLOTS];
static int guard_high;                       /* slots ever used */
static int guard_lock;
static struct sigaction guard_before[2];     /* whose signals they were: SIGBUS, SIGSEGV */
static long guard_stopped, guard_replaced, guard_page;
static int (*guard_first)(void *at);         /* who may know better of a page that is protected: 1, the access succeeds now */
static __thread guard_jump *volatile guard_current __attribute__((tls_model("initial-exec")));
static __thread int guard_passing __attribute__((tls_model("initial-exec")));

static int guard_replace(uintptr_t at)
{
  int n = __atomic_load_n(&guard_high, __ATOMIC_ACQUIRE);
  for (int k = 0; k < n; k++) {
    uintptr_t base = __atomic_load_n(&guard_ranges[k].base, __ATOMIC_ACQUIRE);
    if (!base || at < base || at - base >= guard_ranges[k].length)
      continue;
    void *page = (void *)(at & ~(uintptr_t)(guard_page - 1));
    if (mmap(page, guard_page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
      return 0;
    __atomic_store_n(guard_ranges[k].broken, 1, __ATOMIC_RELEASE);
    __atomic_add_fetch(&guard_replaced, 1, __ATOMIC_RELAXED);
    return 1;
  }
  return 0;
}

/* Somebody else's: their handler, or what the system does without one when the access is tried again. A handler that
 * passes it on in turn may lead back to us, if we were there before it: then it is over. */
static void guard_pass_on(int number, siginfo_t *info, void *context)
{
  struct sigaction to = guard_before[number == SIGSEGV];
  int theirs = (to.sa_flags & SA_SIGINFO) ? to.sa_sigaction != NULL
                                          : to.sa_handler != SIG_DFL && to.sa_handler != SIG_IGN;
  if (theirs && !guard_passing) {
    guard_passing = 1;
    if (to.sa_flags & SA_SIGINFO)
      to.sa_sigaction(number, info, context);
    else
      to.sa_handler(number);
    guard_passing = 0;
    return;
  }
  struct sigaction plain;
  memset(&plain, 0, sizeof plain);
  plain.sa_handler = SIG_DFL;
  sigaction(number, &plain, NULL);
  if (info->si_code <= 0)                    /* it was sent, not met: nothing is tried again */
    raise(number);
}

static void guard_handler(int number, siginfo_t *info, void *context)
{
  int saved = errno, met = info->si_code > 0;
  guard_jump *j = guard_current;
  uintptr_t at = (uintptr_t)info->si_addr;
  if (number == SIGSEGV && info->si_code == SEGV_ACCERR && guard_first && guard_first(info->si_addr)) {
    errno = saved;
    return;
  }
  if (met && j && at >= j->base && at - j->base < j->length) {
    j->at = at;
    __atomic_add_fetch(&guard_stopped, 1, __ATOMIC_RELAXED);
    siglongjmp(j->back, 1);
  }
  if (!met || number != SIGBUS || !guard_replace(at))
    guard_pass_on(number, info, context);
  errno = saved;
}

static int guard_is_ours(const struct sigaction *a)
{
  return (a->sa_flags & SA_SIGINFO) && a->sa_sigaction == guard_handler;
}

static int guard_take(int number)
{
  struct sigaction now, ours;
  int r = 0;
  if (sigaction(number, NULL, &now) < 0)
    return -errno;
  if (guard_is_ours(&now))
    return 0;
  while (__atomic_exchange_n(&guard_lock, 1, __ATOMIC_ACQUIRE))
    ;
  guard_page = sysconf(_SC_PAGESIZE);
  memset(&ours, 0, sizeof ours);
  ours.sa_sigaction = guard_handler;
  /* NODEFER: the copy is left by a jump, which restores no mask. ONSTACK: as faulthandler does. */
  ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigemptyset(&ours.sa_mask);
  if (sigaction(number, NULL, &now) < 0)
    r = -errno;
  else if (!guard_is_ours(&now)) {
    guard_before[number == SIGSEGV] = now;
    if (sigaction(number, &ours, NULL) < 0)
      r = -errno;
  }
  __atomic_store_n(&guard_lock, 0, __ATOMIC_RELEASE);
  return r;
}

static int us_guard_install(void) { return guard_take(SIGBUS); }

static int us_guard_install_all(void)
{
  int r = guard_take(SIGBUS);
  return r < 0 ? r : guard_take(SIGSEGV);
}

static void us_guard_ask_first(int (*fn)(void *at)) { guard_first = fn; }

/* n if the call came to its end; else the bytes of the range in front of the page that could not be touched. What the
 * call did is done in part, in any order. */
static size_t us_guard_call(guard_fn fn, void *arg, const void *guarded, size_t n)
{
  guard_jump j, *outer = guard_current;
  j.base = (uintptr_t)guarded;
  j.length = n;
  j.at = 0;
  if (sigsetjmp(j.back, 0)) {
    uintptr_t page = j.at & ~(uintptr_t)(guard_page - 1);
    guard_current = outer;
    return page > j.base ? page - j.base : 0;
  }
  guard_current = &j;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  fn(arg, n);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  guard_current = outer;
  return n;
}

typedef struct {
  void *dst;
  const void *src;
} guard_copied;

static void guard_memcpy(void *arg, size_t n)
{
  guard_copied *c = arg;
  memcpy(c->dst, c->src, n);
}

/* `guarded` is one of the two: the one whose pages may be gone. */
static size_t us_guard_copy(void *dst, const void *src, size_t n, const void *guarded)
{
  guard_copied c = {dst, src};
  for (;;) {
    size_t there = us_guard_call(guard_memcpy, &c, guarded, n);
    if (there == n)
      return n;
    n = there;                               /* there may be gaps in front of it, too */
  }
}

static int us_guard_watch(void *base, size_t n, int32_t *broken)
{
  int slot = -ENOSPC, r = us_guard_install();
  if (r < 0)
    return r;
  while (__atomic_exchange_n(&guard_lock, 1, __ATOMIC_ACQUIRE))
    ;
  for (int k = 0; k < GUARD_SLOTS; k++)
    if (!guard_ranges[k].broken) {
      slot = k;
      break;
    }
  if (slot >= 0) {
    guard_ranges[slot].broken = broken;
    guard_ranges[slot].length = n;
    __atomic_store_n(&guard_ranges[slot].base, (uintptr_t)base, __ATOMIC_RELEASE);
    if (slot >= guard_high)
      __atomic_store_n(&guard_high, slot + 1, __ATOMIC_RELEASE);
  }
  __atomic_store_n(&guard_lock, 0, __ATOMIC_RELEASE);
  return slot;
}

/* The caller has unmapped the range, or nobody touches it any more: no handler is at work on the slot. */
static void us_guard_forget(int slot)
{
  while (__atomic_exchange_n(&guard_lock, 1, __ATOMIC_ACQUIRE))
    ;
  __atomic_store_n(&guard_ranges[slot].base, 0, __ATOMIC_RELEASE);
  guard_ranges[slot].broken = NULL;
  __atomic_store_n(&guard_lock, 0, __ATOMIC_RELEASE);
}

static void us_guard_counts(long *stopped, long *replaced)
{
  *stopped = __atomic_load_n(&guard_stopped, __ATOMIC_RELAXED);
  *replaced = __atomic_load_n(&guard_replaced, __ATOMIC_RELAXED);
}
#endif
