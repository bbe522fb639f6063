/* For ustack lab: what pages, mappings and pins cost, in loops that the compiler leaves alone.
   Each function does its work `count` times and returns the nanoseconds of all of them, or -errno.
   The fault handlers take the signal for the time of the loop: no other thread may fault meanwhile. */
#ifndef USTACK_BENCH_LAB_H
#define USTACK_BENCH_LAB_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>

#define LAB_PAGE ((size_t)4096)
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static inline int64_t lab_clock(clockid_t which)
{
  struct timespec t;
  clock_gettime(which, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline int64_t lab_now(void) { return lab_clock(CLOCK_MONOTONIC); }
static inline int64_t lab_cpu(void) { return lab_clock(CLOCK_THREAD_CPUTIME_ID); }

/* --- copying and summing ---------------------------------------------------------------------------------------- */

/* The compiler must not see that nobody reads what is copied, and must call the same memcpy as everybody. */
static void *(*volatile lab_memcpy)(void *, const void *, size_t) = memcpy;

/* As the textbooks have it: 16 bits at a time. */
__attribute__((noinline, optimize("no-tree-vectorize", "no-unroll-loops")))
static uint32_t lab_csum16(const uint8_t *p, size_t n)
{
  uint32_t sum = 0;
  uint16_t w;
  for (; n >= 2; n -= 2, p += 2) {
    memcpy(&w, p, 2);
    sum += w;
    sum = (sum & 0xFFFF) + (sum >> 16);
  }
  return n ? sum + *p : sum;
}

__attribute__((noinline, optimize("no-tree-vectorize", "no-unroll-loops")))
static uint32_t lab_copy_csum16(uint8_t *d, const uint8_t *p, size_t n)
{
  uint32_t sum = 0;
  uint16_t w;
  for (; n >= 2; n -= 2, p += 2, d += 2) {
    memcpy(&w, p, 2);
    memcpy(d, &w, 2);
    sum += w;
    sum = (sum & 0xFFFF) + (sum >> 16);
  }
  if (n) {
    *d = *p;
    sum += *p;
  }
  return sum;
}

/* --- faults ----------------------------------------------------------------------------------------------------- */

static struct {
  uint8_t *base, *spare;
  size_t size;
  int uffd;                     /* -1: mprotect */
  int failed;
} lab_fault;

static void lab_on_fault(int signal, siginfo_t *info, void *context)
{
  uint8_t *page = (uint8_t *)((uintptr_t)info->si_addr & ~(LAB_PAGE - 1));
  int was = errno;
  (void)signal;
  (void)context;
  if (page < lab_fault.base || page >= lab_fault.base + lab_fault.size)
    _exit(139);                 /* a fault of somebody else's: nothing can be said from here */
  memcpy(lab_fault.spare + (page - lab_fault.base), page, LAB_PAGE);
  if (lab_fault.uffd >= 0) {
    struct uffdio_writeprotect w = {{(uintptr_t)page, LAB_PAGE}, 0};
    if (ioctl(lab_fault.uffd, UFFDIO_WRITEPROTECT, &w) < 0)
      lab_fault.failed = errno;
  } else if (mprotect(page, LAB_PAGE, PROT_READ | PROT_WRITE) < 0) {
    lab_fault.failed = errno;
  }
  if (lab_fault.failed)
    _exit(139);
  errno = was;
}

/* Protect all pages, write to the first `writes` of them, each of which is copied by the handler, unprotect. */
static int64_t lab_cow(uint8_t *p, uint8_t *spare, size_t size, long writes, long count, int uffd)
{
  struct sigaction act = {.sa_sigaction = lab_on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER}, was;
  int number = uffd >= 0 ? SIGBUS : SIGSEGV;
  int64_t began, spent = 0;
  lab_fault.base = p;
  lab_fault.spare = spare;
  lab_fault.size = size;
  lab_fault.uffd = uffd;
  lab_fault.failed = 0;
  if (sigaction(number, &act, &was) < 0)
    return -errno;
  for (long k = 0; k < count && !lab_fault.failed; k++) {
    began = lab_now();
    if (uffd >= 0) {
      struct uffdio_writeprotect w = {{(uintptr_t)p, size}, UFFDIO_WRITEPROTECT_MODE_WP};
      if (ioctl(uffd, UFFDIO_WRITEPROTECT, &w) < 0)
        lab_fault.failed = errno;
    } else if (mprotect(p, size, PROT_READ) < 0) {
      lab_fault.failed = errno;
    }
    for (long i = 0; i < writes && !lab_fault.failed; i++)
      ((volatile uint8_t *)p)[i * LAB_PAGE] = (uint8_t)i;
    if (uffd >= 0) {
      struct uffdio_writeprotect w = {{(uintptr_t)p, size}, 0};
      if (ioctl(uffd, UFFDIO_WRITEPROTECT, &w) < 0)
        lab_fault.failed = errno;
    } else if (mprotect(p, size, PROT_READ | PROT_WRITE) < 0) {
      lab_fault.failed = errno;
    }
    spent += lab_now() - began;
  }
  sigaction(number, &was, NULL);
  return lab_fault.failed ? -lab_fault.failed : spent;
}

/* A userfaultfd that write-protects [p, p + size) and reports faults by SIGBUS; -errno. */
static int lab_uffd(uint8_t *p, size_t size)
{
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP};
  struct uffdio_register reg = {.range = {(uintptr_t)p, size}, .mode = UFFDIO_REGISTER_MODE_WP};
  int was, fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0)
    return -errno;
  if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0) {
    was = errno;
    close(fd);
    return -was;
  }
  return fd;
}

/* --- mappings --------------------------------------------------------------------------------------------------- */

static int64_t lab_protect(uint8_t *p, size_t size, long count)
{
  int64_t began = lab_now();
  for (long k = 0; k < count; k++)
    if (mprotect(p, size, PROT_READ) < 0 || mprotect(p, size, PROT_READ | PROT_WRITE) < 0)
      return -errno;
  return lab_now() - began;
}

static int64_t lab_lock(uint8_t *p, size_t size, long count)
{
  int64_t began = lab_now();
  for (long k = 0; k < count; k++)
    if (mlock(p, size) < 0 || munlock(p, size) < 0)
      return -errno;
  return lab_now() - began;
}

static int64_t lab_unmap(size_t size, int huge, long count)
{
  int64_t began, spent = 0;
  for (long k = 0; k < count; k++) {
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
      return -errno;
    if (huge)
      madvise(p, size, MADV_HUGEPAGE);
    for (size_t i = 0; i < size; i += LAB_PAGE)
      ((volatile uint8_t *)p)[i] = 1;
    began = lab_now();
    munmap(p, size);
    spent += lab_now() - began;
  }
  return spent;
}

/* The kernel's own copy on write: the first write to each page of a private mapping of a file. */
static int64_t lab_private(int fd, size_t size, long count)
{
  int64_t began, spent = 0;
  volatile uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  uint8_t sum = 0;
  if (p == MAP_FAILED)
    return -errno;
  for (long k = 0; k < count; k++) {
    for (size_t i = 0; i < size; i += LAB_PAGE)
      sum += p[i];
    began = lab_now();
    for (size_t i = 0; i < size; i += LAB_PAGE)
      p[i] = sum;
    spent += lab_now() - began;
    madvise((void *)p, size, MADV_DONTNEED);
  }
  munmap((void *)p, size);
  return spent;
}

/* Move pages to another address and write to each there; one way. */
static int64_t lab_move(size_t size, long count)
{
  uint8_t *room = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  uint8_t *at, *to;
  int64_t began, spent;
  if (room == MAP_FAILED)
    return -errno;
  at = room;
  to = room + size;
  if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
    return -errno;
  memset(at, 1, size);
  began = lab_now();
  for (long k = 0; k < count; k++) {
    uint8_t *was = at;
    if (mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
      return -errno;
    at = to;
    to = was;
    for (size_t i = 0; i < size; i += LAB_PAGE)
      ((volatile uint8_t *)at)[i] = 1;
  }
  spent = lab_now() - began;
  munmap(room, 2 * size);
  return spent;
}

/* Map the other half of a file of 2 * size over the same address, and read each page; huge pages play no part. */
static int64_t lab_flip(int fd, size_t size, long count)
{
  uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  uint8_t sum = 0;
  int64_t began, spent;
  if (p == MAP_FAILED)
    return -errno;
  began = lab_now();
  for (long k = 0; k < count; k++) {
    if (mmap(p, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, k & 1 ? 0 : (off_t)size) == MAP_FAILED)
      return -errno;
    for (size_t i = 0; i < size; i += LAB_PAGE)
      sum += ((volatile uint8_t *)p)[i];
  }
  spent = lab_now() - began + (sum == 255);
  munmap(p, size);
  return spent;
}

/* --- pinning ---------------------------------------------------------------------------------------------------- */

static int lab_uring(void)
{
  struct io_uring_params params = {0};
  int fd = (int)syscall(SYS_io_uring_setup, 4, &params);
  return fd < 0 ? -errno : fd;
}

/* Register a buffer with io_uring, which pins its pages, and give it back. */
static int64_t lab_register(int ring, uint8_t *p, size_t size, long count)
{
  struct iovec v = {p, size};
  int64_t began = lab_now();
  for (long k = 0; k < count; k++)
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &v, 1) < 0 ||
        syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0) < 0)
      return -errno;
  return lab_now() - began;
}

/* --- files to descriptors of the kernel -------------------------------------------------------------------------- */

enum { LAB_READ, LAB_MAP, LAB_SENDFILE, LAB_SPLICE, LAB_MAPPED };

struct lab_way {                /* from where, to where, and with what */
  int how, file, out, again;    /* again: the output is a file, each piece at its beginning */
  size_t size, piece;
  uint8_t *room;                /* a piece, for LAB_READ */
  const uint8_t *kept;          /* the file, for LAB_MAPPED; for LAB_MAP while it is being sent */
  int pipe[2];
};

static int lab_write_all(const struct lab_way *w, const uint8_t *p, size_t n)
{
  while (n) {
    ssize_t r = w->again ? pwrite(w->out, p, n, 0) : write(w->out, p, n);
    if (r < 0) {
      if (errno == EINTR)
        continue;
      return -errno;
    }
    p += r;
    n -= (size_t)r;
  }
  return 0;
}

static int lab_splice_all(const struct lab_way *w, loff_t at, size_t n)
{
  while (n) {
    ssize_t left, in = splice(w->file, &at, w->pipe[1], NULL, n, SPLICE_F_MOVE);
    if (in <= 0)
      return in < 0 ? -errno : -EIO;
    for (left = in; left;) {
      ssize_t r = splice(w->pipe[0], NULL, w->out, NULL, (size_t)left, SPLICE_F_MOVE);
      if (r <= 0)
        return r < 0 ? -errno : -EIO;
      left -= r;
    }
    n -= (size_t)in;
  }
  return 0;
}

static int lab_piece(const struct lab_way *w, off_t at, size_t n)
{
  switch (w->how) {
  case LAB_READ:
    if (pread(w->file, w->room, n, at) != (ssize_t)n)
      return -EIO;
    return lab_write_all(w, w->room, n);
  case LAB_SENDFILE:
    while (n) {
      ssize_t sent = sendfile(w->out, w->file, &at, n);
      if (sent <= 0)
        return sent < 0 ? -errno : -EIO;
      n -= (size_t)sent;
    }
    return 0;
  case LAB_SPLICE:
    return lab_splice_all(w, at, n);
  default:
    return lab_write_all(w, w->kept + at, n);
  }
}

/* `total` bytes of the file, from its beginning again and again, in pieces; wall and CPU time. */
static int64_t lab_send(struct lab_way *w, uint64_t total, int64_t *cpu)
{
  int64_t began = lab_now(), used = lab_cpu();
  uint64_t done = 0;
  while (done < total) {
    size_t at = done % w->size, n = w->size - at < w->piece ? w->size - at : w->piece;
    int r;
    if (w->how == LAB_MAP && at == 0) {
      w->kept = mmap(NULL, w->size, PROT_READ, MAP_SHARED, w->file, 0);
      if (w->kept == MAP_FAILED)
        return -errno;
    }
    r = lab_piece(w, (off_t)at, n);
    done += n;
    if (w->how == LAB_MAP && (r < 0 || at + n == w->size || done >= total))
      munmap((void *)w->kept, w->size);
    if (r < 0)
      return r;
  }
  *cpu = lab_cpu() - used;
  return lab_now() - began;
}
#endif
