/* io_uring(7) by its bare system calls: requests that the kernel carries out while it takes them in. Where the kernel or
 * its headers lack it, opening answers -ENOSYS. */
#ifndef USTACK_URING_SYS_H
#define USTACK_URING_SYS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#endif

struct us_uring {
  int fd;
  unsigned entries, queued;
  unsigned *sq_head, *sq_tail, sq_mask, *sq_array;
  unsigned *cq_head, *cq_tail, cq_mask;
  void *rings, *sqes, *cqes;
  size_t rings_len, sqes_len;
};

#ifdef IORING_FEAT_SUBMIT_STABLE

static inline void us_uring_close(struct us_uring *u)
{
  if (u->sqes)
    munmap(u->sqes, u->sqes_len);
  if (u->rings)
    munmap(u->rings, u->rings_len);
  if (u->fd >= 0)
    close(u->fd);
  memset(u, 0, sizeof *u);
  u->fd = -1;
}

static inline int us_uring_open(struct us_uring *u, unsigned entries)
{
  const unsigned needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_SUBMIT_STABLE;
  struct io_uring_params p;
  int e;
  memset(u, 0, sizeof *u);
  memset(&p, 0, sizeof p);
  u->fd = (int)syscall(SYS_io_uring_setup, entries, &p);
  if (u->fd < 0)
    return -errno;
  if ((p.features & needed) != needed) {
    us_uring_close(u);
    return -ENOSYS;
  }
  u->entries = p.sq_entries;
  u->rings_len = p.sq_off.array + p.sq_entries * sizeof(unsigned);
  size_t cq_len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
  if (cq_len > u->rings_len)
    u->rings_len = cq_len;
  u->sqes_len = p.sq_entries * sizeof(struct io_uring_sqe);
  char *r = mmap(NULL, u->rings_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQ_RING);
  u->rings = r == MAP_FAILED ? NULL : r;
  void *s = u->rings == NULL ? MAP_FAILED
    : mmap(NULL, u->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQES);
  u->sqes = s == MAP_FAILED ? NULL : s;
  if (u->sqes == NULL) {
    e = -errno;
    us_uring_close(u);
    return e;
  }
  u->sq_head = (unsigned *)(r + p.sq_off.head);
  u->sq_tail = (unsigned *)(r + p.sq_off.tail);
  u->sq_mask = *(unsigned *)(r + p.sq_off.ring_mask);
  u->sq_array = (unsigned *)(r + p.sq_off.array);
  u->cq_head = (unsigned *)(r + p.cq_off.head);
  u->cq_tail = (unsigned *)(r + p.cq_off.tail);
  u->cq_mask = *(unsigned *)(r + p.cq_off.ring_mask);
  u->cqes = r + p.cq_off.cqes;
  return 0;
}

static inline struct io_uring_sqe *us_uring_next(struct us_uring *u)
{
  unsigned at = (*u->sq_tail + u->queued) & u->sq_mask;
  struct io_uring_sqe *e = (struct io_uring_sqe *)u->sqes + at;
  memset(e, 0, sizeof *e);
  u->sq_array[at] = at;
  e->user_data = u->queued++;
  return e;
}

static inline void us_uring_writev(struct us_uring *u, int fd, const struct iovec *v, unsigned n)
{
  struct io_uring_sqe *e = us_uring_next(u);
  e->opcode = IORING_OP_WRITEV;
  e->fd = fd;
  e->addr = (uint64_t)(uintptr_t)v;
  e->len = n;
}

static inline void us_uring_sendmsg(struct us_uring *u, int fd, const struct msghdr *m, int flags)
{
  struct io_uring_sqe *e = us_uring_next(u);
  e->opcode = IORING_OP_SENDMSG;
  e->fd = fd;
  e->addr = (uint64_t)(uintptr_t)m;
  e->len = 1;
  e->msg_flags = (unsigned)flags;
}

static inline unsigned us_uring_reap(struct us_uring *u, int *results, unsigned n)
{
  unsigned head = *u->cq_head, got = 0;
  unsigned tail = __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
  for (; head != tail; head++, got++) {
    const struct io_uring_cqe *c = (const struct io_uring_cqe *)u->cqes + (head & u->cq_mask);
    if (c->user_data < n)
      results[c->user_data] = c->res;
  }
  __atomic_store_n(u->cq_head, head, __ATOMIC_RELEASE);
  return got;
}

static inline int us_uring_run(struct us_uring *u, int *results)
{
  unsigned n = u->queued, taken = 0, done = 0;
  long r = 0;
  u->queued = 0;
  __atomic_store_n(u->sq_tail, *u->sq_tail + n, __ATOMIC_RELEASE);
  while (done < n) {
    r = syscall(SYS_io_uring_enter, u->fd, n - taken, n - done, IORING_ENTER_GETEVENTS, NULL, 0);
    if (r < 0 && errno == EINTR)
      r = 0;
    else if (r < 0)
      r = -errno;
    if (r > 0)
      taken += (unsigned)r;
    done += us_uring_reap(u, results, n);
    if (r < 0 && done == taken)
      break;
    if (r == 0 && done == taken && taken < n)
      break;
  }
  if (taken < n)     /* what the kernel did not take is taken back */
    __atomic_store_n(u->sq_tail, __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
  return taken ? (int)taken : (int)r;
}

#else

static inline int us_uring_open(struct us_uring *u, unsigned entries) { (void)entries; u->fd = -1; return -ENOSYS; }
static inline void us_uring_close(struct us_uring *u) { (void)u; }
static inline void us_uring_writev(struct us_uring *u, int fd, const struct iovec *v, unsigned n)
{ (void)u; (void)fd; (void)v; (void)n; }
static inline void us_uring_sendmsg(struct us_uring *u, int fd, const struct msghdr *m, int flags)
{ (void)u; (void)fd; (void)m; (void)flags; }
static inline int us_uring_run(struct us_uring *u, int *results) { (void)u; (void)results; return -ENOSYS; }

#endif
#endif
