/* Memory system calls with one face on every platform: what is missing answers -ENOSYS. */
#ifndef USTACK_MEMORY_SYS_H
#define USTACK_MEMORY_SYS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef F_SEAL_SEAL
#define SEAL_SEAL F_SEAL_SEAL
#define SEAL_SHRINK F_SEAL_SHRINK
#define SEAL_GROW F_SEAL_GROW
#define SEAL_WRITE F_SEAL_WRITE
#else
#define SEAL_SEAL 1
#define SEAL_SHRINK 2
#define SEAL_GROW 4
#define SEAL_WRITE 8
#endif
#define SEAL_FUTURE_WRITE 0x10
#ifndef MAP_POPULATE
#define MAP_POPULATE 0
#endif
#ifndef MADV_HUGEPAGE
#define MADV_HUGEPAGE -1
#endif
#ifndef MADV_REMOVE
#define MADV_REMOVE -1
#endif
#ifndef MADV_DONTFORK
#define MADV_DONTFORK -1
#endif

static inline int us_memfd(const char *name, size_t length, int huge)
{
#ifdef MFD_CLOEXEC
  int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (huge) {
#ifdef MFD_HUGETLB
    flags |= MFD_HUGETLB;
#else
    return -ENOSYS;
#endif
  }
  int fd = memfd_create(name, flags);
  if (fd < 0)
    return -errno;
  if (ftruncate(fd, (off_t)length) < 0) {
    int e = errno;
    close(fd);
    return -e;
  }
  return fd;
#else
  return -ENOSYS;
#endif
}

static inline int us_seal(int fd, int seals)
{
#ifdef F_ADD_SEALS
  return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
#else
  return -ENOSYS;
#endif
}

static inline int us_seals(int fd)
{
#ifdef F_GET_SEALS
  int s = fcntl(fd, F_GET_SEALS);
  return s < 0 ? -errno : s;
#else
  return -ENOSYS;
#endif
}

static inline int64_t us_length(int fd)
{
  struct stat st;
  return fstat(fd, &st) < 0 ? -(int64_t)errno : (int64_t)st.st_size;
}

static inline void *us_map(void *where, size_t length, int prot, int flags, int fd, int64_t offset, int *err)
{
  void *p = mmap(where, length, prot, fd < 0 ? flags | MAP_ANONYMOUS : flags, fd, (off_t)offset);
  if (p == MAP_FAILED) {
    if (err)
      *err = -errno;
    return NULL;
  }
  return p;
}

static inline int us_unmap(void *p, size_t n) { return munmap(p, n) < 0 ? -errno : 0; }
static inline int us_protect(void *p, size_t n, int prot) { return mprotect(p, n, prot) < 0 ? -errno : 0; }
static inline int us_lock(void *p, size_t n) { return mlock(p, n) < 0 ? -errno : 0; }
static inline int us_unlock(void *p, size_t n) { return munlock(p, n) < 0 ? -errno : 0; }
static inline int us_advise(void *p, size_t n, int what)
{ return what < 0 ? -ENOSYS : madvise(p, n, what) < 0 ? -errno : 0; }
static inline int us_close(int fd) { return close(fd) < 0 ? -errno : 0; }
static inline long us_page_size(void) { return sysconf(_SC_PAGESIZE); }
#endif
