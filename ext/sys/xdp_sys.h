/* AF_XDP sockets and the few bytes of BPF that they need, by system calls alone. One module includes this file.
 * Constants that older headers lack are given by value. */
#ifndef USTACK_XDP_SYS_H
#define USTACK_XDP_SYS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_xdp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define US_AF_XDP 44
#define US_SOL_XDP 283
#define US_BPF_LINK_CREATE 28
#define US_BPF_XDP 37                   /* enum bpf_attach_type */
#define US_BPF_F_XDP_HAS_FRAGS (1u << 5)
#define US_XDP_USE_SG (1 << 4)

static int us_xdp_socket(void)
{
  int fd = socket(US_AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
}

static int us_xdp_umem(int fd, void *base, uint64_t length, uint32_t chunk)
{
  struct xdp_umem_reg r;
  memset(&r, 0, sizeof r);
  r.addr = (uintptr_t)base;
  r.len = length;
  r.chunk_size = chunk;
  return setsockopt(fd, US_SOL_XDP, XDP_UMEM_REG, &r, sizeof r) < 0 ? -errno : 0;
}

typedef struct {
  void *map;
  size_t length;
  uint32_t *producer, *consumer, *flags;
  void *entries;
} us_xdp_ring;

/* which: 0 fill, 1 completion, 2 rx, 3 tx */
static int us_xdp_ring_open(int fd, int which, uint32_t n, us_xdp_ring *r)
{
  static const int option[] = {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING};
  static const uint64_t at[] = {0x100000000ull, 0x180000000ull, 0, 0x80000000ull};
  struct xdp_mmap_offsets o;
  struct xdp_ring_offset *w;
  socklen_t size = sizeof o;
  if (setsockopt(fd, US_SOL_XDP, option[which], &n, sizeof n) < 0)
    return -errno;
  if (getsockopt(fd, US_SOL_XDP, XDP_MMAP_OFFSETS, &o, &size) < 0)
    return -errno;
  if (size != sizeof o)
    return -ENOSYS;
  w = which == 0 ? &o.fr : which == 1 ? &o.cr : which == 2 ? &o.rx : &o.tx;
  r->length = w->desc + (size_t)n * (which < 2 ? sizeof(uint64_t) : sizeof(struct xdp_desc));
  r->map = mmap(NULL, r->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)at[which]);
  if (r->map == MAP_FAILED) {
    r->map = NULL;
    return -errno;
  }
  r->producer = (uint32_t *)((char *)r->map + w->producer);
  r->consumer = (uint32_t *)((char *)r->map + w->consumer);
  r->flags = (uint32_t *)((char *)r->map + w->flags);
  r->entries = (char *)r->map + w->desc;
  return 0;
}

static void us_xdp_ring_close(us_xdp_ring *r)
{
  if (r->map)
    munmap(r->map, r->length);
  r->map = NULL;
}

static int us_xdp_bind(int fd, int ifindex, uint32_t queue, int flags)
{
  struct sockaddr_xdp a;
  memset(&a, 0, sizeof a);
  a.sxdp_family = US_AF_XDP;
  a.sxdp_flags = flags;
  a.sxdp_ifindex = ifindex;
  a.sxdp_queue_id = queue;
  return bind(fd, (struct sockaddr *)&a, sizeof a) < 0 ? -errno : 0;
}

static int us_xdp_zerocopy(int fd)
{
  struct xdp_options o;
  socklen_t n = sizeof o;
  memset(&o, 0, sizeof o);
  return getsockopt(fd, US_SOL_XDP, XDP_OPTIONS, &o, &n) == 0 && (o.flags & XDP_OPTIONS_ZEROCOPY);
}

/* rx_dropped, rx_invalid_descs, tx_invalid_descs, rx_ring_full, rx_fill_ring_empty_descs, tx_ring_empty_descs */
static int us_xdp_statistics(int fd, uint64_t out[6])
{
  socklen_t n = 6 * sizeof(uint64_t);
  memset(out, 0, n);
  return getsockopt(fd, US_SOL_XDP, XDP_STATISTICS, out, &n) < 0 ? -errno : 0;
}

static int us_xdp_kick(int fd)
{
  return sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? -errno : 0;
}

static int us_xdp_nudge(int fd)
{
  return recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 ? -errno : 0;
}

static int us_bpf(int command, union bpf_attr *a)
{
  int r = (int)syscall(SYS_bpf, command, a, sizeof *a);
  return r < 0 ? -errno : r;
}

/* A map from queues to sockets, with this socket at its queue. The map's descriptor. */
static int us_xdp_map(int sock, uint32_t queue)
{
  union bpf_attr a;
  int map, r;
  memset(&a, 0, sizeof a);
  a.map_type = BPF_MAP_TYPE_XSKMAP;
  a.key_size = a.value_size = 4;
  a.max_entries = queue + 1;
  map = us_bpf(BPF_MAP_CREATE, &a);
  if (map < 0)
    return map;
  memset(&a, 0, sizeof a);
  a.map_fd = map;
  a.key = (uintptr_t)&queue;
  a.value = (uintptr_t)&sock;
  r = us_bpf(BPF_MAP_UPDATE_ELEM, &a);
  if (r < 0) {
    close(map);
    return r;
  }
  return map;
}

/* return bpf_redirect_map(map, ctx->rx_queue_index, XDP_PASS): other queues go to the kernel. */
static int us_xdp_program(int map, int frags)
{
  const struct bpf_insn code[] = {
    {BPF_LDX | BPF_MEM | BPF_W, 2, 1, 16, 0},                   /* r2 = xdp_md.rx_queue_index */
    {BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map},  /* r1 = map */
    {0, 0, 0, 0, 0},
    {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 2},                  /* r3 = XDP_PASS */
    {BPF_JMP | BPF_CALL, 0, 0, 0, 51},                          /* bpf_redirect_map */
    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  union bpf_attr a;
  memset(&a, 0, sizeof a);
  a.prog_type = BPF_PROG_TYPE_XDP;
  a.insn_cnt = sizeof code / sizeof code[0];
  a.insns = (uintptr_t)code;
  a.license = (uintptr_t)"Dual BSD/GPL";
  a.prog_flags = frags ? US_BPF_F_XDP_HAS_FRAGS : 0;
  memcpy(a.prog_name, "ustack_xdp", 10);
  return us_bpf(BPF_PROG_LOAD, &a);
}

/* A link: the kernel detaches the program when its last descriptor is closed, however that comes about. */
static int us_xdp_attach(int program, int ifindex, uint32_t mode)
{
  union bpf_attr a;
  uint32_t words[4] = {(uint32_t)program, (uint32_t)ifindex, US_BPF_XDP, mode};
  memset(&a, 0, sizeof a);
  memcpy(&a, words, sizeof words);
  return us_bpf(US_BPF_LINK_CREATE, &a);
}
#endif
