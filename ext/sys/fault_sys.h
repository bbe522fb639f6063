/* Write faults on pages that somebody asked to be told of. Its state is static: one module includes this file.
 *
 * Two mechanisms. userfaultfd: the kernel stops whoever writes, in user code or in a system call, and tells a thread of
 * ours, which answers. mprotect: the writer gets SIGSEGV, whose handler (guard_sys.h) asks here, in the writing thread; a
 * system call that would write gets EFAULT. */
#ifndef USTACK_FAULT_SYS_H
#define USTACK_FAULT_SYS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FAULT_NONE 0
#define FAULT_MPROTECT 1
#define FAULT_USERFAULTFD 2

#ifdef UFFD_FEATURE_WP_UNPOPULATED
#define FAULT_UNPOPULATED UFFD_FEATURE_WP_UNPOPULATED
#else
#define FAULT_UNPOPULATED (1ULL << 13)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1ULL << 12)
#endif
#define FAULT_WANTED (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | FAULT_UNPOPULATED | \
                      UFFD_FEATURE_EVENT_REMAP)

/* The owner's answer to a fault: 1 the page may be written now, 0 not ours, -1 try again in a moment. */
typedef int (*fault_fn)(void *page);
typedef void (*moved_fn)(void *before, void *now, size_t n);

static int fault_how = FAULT_NONE, fault_fd = -1;
static long fault_page = 4096;
static fault_fn fault_answer;
static moved_fn fault_moved;
static int32_t fault_word;                   /* the lock below: 0 free, 1 held, 2 and somebody sleeps */
static long fault_generation;                /* how many faults were answered */
static __thread uintptr_t fault_last_at __attribute__((tls_model("initial-exec")));
static __thread long fault_last_generation __attribute__((tls_model("initial-exec")));

/* A lock that a signal handler can take: nobody faults who holds it. */
static void us_fault_lock(void)
{
  int32_t free_ = 0;
  for (int k = 0; k < 200; k++, free_ = 0)
    if (__atomic_compare_exchange_n(&fault_word, &free_, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
      return;
  while (__atomic_exchange_n(&fault_word, 2, __ATOMIC_ACQUIRE))
    syscall(SYS_futex, &fault_word, FUTEX_WAIT_PRIVATE, 2, NULL);
}

static void us_fault_unlock(void)
{
  if (__atomic_exchange_n(&fault_word, 0, __ATOMIC_RELEASE) == 2)
    syscall(SYS_futex, &fault_word, FUTEX_WAKE_PRIVATE, 1);
}

static void fault_pause(void)
{
  struct timespec t = {0, 1000000};
  nanosleep(&t, NULL);
}

/* --- mprotect ------------------------------------------------------------------------------------------------ */

/* 1: it was a page of ours, which may be written to now. */
static int us_fault_answer(void *address)
{
  uintptr_t at = (uintptr_t)address & ~(uintptr_t)(fault_page - 1);
  long now = __atomic_load_n(&fault_generation, __ATOMIC_ACQUIRE);
  int r;
  if (!fault_answer || fault_how != FAULT_MPROTECT)
    return 0;
  while ((r = fault_answer((void *)at)) < 0)
    fault_pause();
  if (r)
    __atomic_add_fetch(&fault_generation, 1, __ATOMIC_RELEASE);
  else if (fault_last_at != at || fault_last_generation != now) {
    /* Another thread may have had it answered while we came here: then the second try succeeds. */
    fault_last_at = at;
    fault_last_generation = now;
    r = 1;
  }
  return r;
}

/* --- userfaultfd --------------------------------------------------------------------------------------------- */

static int fault_writeprotect(void *base, size_t n, uint64_t mode)
{
  struct uffdio_writeprotect w;
  for (;;) {
    w.range.start = (uintptr_t)base;
    w.range.len = n;
    w.mode = mode;
    if (ioctl(fault_fd, UFFDIO_WRITEPROTECT, &w) == 0)
      return 0;
    if (errno != EAGAIN)                     /* the address space is being changed: once more */
      return -errno;
    sched_yield();
  }
}

static void fault_wake(void *base, size_t n)
{
  struct uffdio_range r = {(uintptr_t)base, n};
  ioctl(fault_fd, UFFDIO_WAKE, &r);
}

static void *fault_serve(void *arg)
{
  int fd = (int)(intptr_t)arg;
  struct uffd_msg m;
  for (;;) {
    ssize_t n = read(fd, &m, sizeof m);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
      continue;
    if (n != (ssize_t)sizeof m)
      return NULL;
    if (m.event == UFFD_EVENT_REMAP)
      fault_moved((void *)(uintptr_t)m.arg.remap.from, (void *)(uintptr_t)m.arg.remap.to, m.arg.remap.len);
    if (m.event != UFFD_EVENT_PAGEFAULT)
      continue;
    void *page = (void *)((uintptr_t)m.arg.pagefault.address & ~(uintptr_t)(fault_page - 1));
    while (fault_answer(page) < 0)
      fault_pause();
    fault_wake(page, fault_page);            /* also if it is nobody's any more: let go of since, and lifted */
  }
}

static int fault_open(void)
{
  struct uffdio_api api;
  pthread_attr_t a;
  pthread_t t;
  sigset_t all, old;
  int e, fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  if (fd < 0) {
    e = errno;
    int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev < 0)
      return -e;
#ifdef USERFAULTFD_IOC_NEW
    fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
#endif
    close(dev);
    if (fd < 0)
      return -e;
  }
  memset(&api, 0, sizeof api);
  api.api = UFFD_API;
  api.features = FAULT_WANTED;
  if (ioctl(fd, UFFDIO_API, &api) < 0) {
    e = errno;
    close(fd);
    return -e;
  }
  pthread_attr_init(&a);
  pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&a, 256 * 1024);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  e = pthread_create(&t, &a, fault_serve, (void *)(intptr_t)fd);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&a);
  if (e) {
    close(fd);
    return -e;
  }
  pthread_setname_np(t, "ustack-faults");
  return fd;
}

/* --- the face ------------------------------------------------------------------------------------------------ */

/* With the lock held, and nothing protected. The signal is taken by us_fault_attend. */
static int us_fault_choose(int how, fault_fn answer, moved_fn moved)
{
  int r = 0;
  fault_page = sysconf(_SC_PAGESIZE);
  fault_answer = answer;
  fault_moved = moved;
  if (how == FAULT_USERFAULTFD && fault_fd < 0) {
    r = fault_open();
    if (r < 0)
      return r;
    fault_fd = r;
  }
  __atomic_store_n(&fault_how, how, __ATOMIC_RELEASE);
  return how;
}

static int us_fault_mechanism(void) { return __atomic_load_n(&fault_how, __ATOMIC_ACQUIRE); }

static int us_fault_protect(void *base, size_t n)
{
  if (fault_how == FAULT_MPROTECT)
    return mprotect(base, n, PROT_READ) < 0 ? -errno : 0;
  if (fault_how != FAULT_USERFAULTFD)
    return -ENOSYS;
  int r = fault_writeprotect(base, n, UFFDIO_WRITEPROTECT_MODE_WP);
  if (r == -ENOENT) {                        /* not registered yet, or mapped anew since */
    struct uffdio_register g;
    memset(&g, 0, sizeof g);
    g.range.start = (uintptr_t)base;
    g.range.len = n;
    g.mode = UFFDIO_REGISTER_MODE_WP;
    if (ioctl(fault_fd, UFFDIO_REGISTER, &g) < 0)
      return -errno;
    r = fault_writeprotect(base, n, UFFDIO_WRITEPROTECT_MODE_WP);
  }
  if (r < 0)
    fault_writeprotect(base, n, 0);          /* a part of it may be done */
  return r;
}

static int us_fault_lift(void *base, size_t n)
{
  if (fault_how == FAULT_MPROTECT)
    return mprotect(base, n, PROT_READ | PROT_WRITE) < 0 ? -errno : 0;
  if (fault_how == FAULT_USERFAULTFD)
    return fault_writeprotect(base, n, 0);   /* and wakes who waits */
  return -ENOSYS;
}

/* In a child process there is no thread of ours, and nothing of its memory is watched. */
static void us_fault_forked(void)
{
  if (fault_fd >= 0)
    close(fault_fd);
  fault_fd = -1;
  fault_how = FAULT_NONE;
  fault_word = 0;
}

static int us_fault_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void))
{
  return -pthread_atfork(before, parent, child);
}

#endif
