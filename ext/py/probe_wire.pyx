"""For tests: wire formats, offloads in software, and flow tables, as functions of bytes and numbers."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport flow, ip_from4, ipaddr
from ustack._core.base.checksum cimport csum_fold
from ustack._core.base.counters cimport C_COUNT, counter_name
from ustack._core.base.ledger cimport LR_COUNT, LR_RX_COPY, ledger_name
from ustack._core.inet.demux cimport (
    flow_again, flow_entry, flow_find, flow_find_by, flow_find_local, flow_insert, flow_next, flow_remove, flow_table,
    flow_table_free, flow_table_init)
from ustack._core.inet.offload cimport (offload_checksum, offload_coalesce, offload_count, offload_flatten,
                                        offload_segment)
from ustack._core.mem.arena cimport arena_create, arena_live, arena_release
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport (allocb, dupmsg, freemsg, linkb, mblk, msgblocks, msgbytes, msgcopyin_csum,
                                    msgcopyout)
from ustack._core.wire.arp cimport ARP_LEN, arp_check, arp_emit, arp_packet, arp_parse
from ustack._core.wire.ether cimport ETHER_LEN, ether_check, ether_emit, ether_header, ether_parse
from ustack._core.wire.icmp cimport ICMP_LEN, icmp_check, icmp_emit, icmp_header, icmp_parse
from ustack._core.wire.ip4 cimport (IP4_LEN, ip4_check, ip4_check_options, ip4_emit, ip4_header, ip4_parse, ip4_pseudo,
                                    ip4_set_length, ip4_sum_ok)
from ustack._core.wire.tcp cimport (TCP_LEN, TCP_MAX_HEADER, tcp_check, tcp_clear_options, tcp_emit_header,
                                    tcp_emit_options, tcp_header, tcp_options, tcp_options_len, tcp_parse,
                                    tcp_parse_options)
from ustack._core.wire.udp cimport UDP_LEN, udp_check, udp_emit, udp_header, udp_parse


# --- wire -----------------------------------------------------------------------------------------------------
def parse_ether(data: bytes) -> dict | None:
    cdef ether_header h
    if ether_check(data, len(data)) < 0:
        return None
    ether_parse(data, &h)
    return {"dst": bytes(h.dst[:6]), "src": bytes(h.src[:6]), "type": h.type}


def build_ether(dst: bytes, src: bytes, kind: int) -> bytes:
    cdef uint8_t out[ETHER_LEN]
    ether_emit(out, dst, src, kind)
    return bytes(out[:ETHER_LEN])


def parse_arp(data: bytes) -> dict | None:
    cdef arp_packet a
    if arp_check(data, len(data)) < 0:
        return None
    arp_parse(data, &a)
    return {"op": a.op, "sha": bytes(a.sha[:6]), "spa": a.spa, "tha": bytes(a.tha[:6]), "tpa": a.tpa}


def build_arp(op: int, sha: bytes, spa: int, tha: bytes, tpa: int) -> bytes:
    cdef uint8_t out[ARP_LEN]
    cdef arp_packet a
    a.op = op
    a.spa = spa
    a.tpa = tpa
    memcpy(a.sha, <const uint8_t *>sha, 6)
    memcpy(a.tha, <const uint8_t *>tha, 6)
    arp_emit(out, &a)
    return bytes(out[:ARP_LEN])


def check_ip4(data: bytes, packet: int = -1) -> int:
    return ip4_check(data, len(data), packet if packet >= 0 else len(data))


def parse_ip4(data: bytes) -> dict | None:
    cdef ip4_header h
    if ip4_check(data, len(data), len(data)) != 0:
        return None
    ip4_parse(data, &h)
    return {"header_len": h.header_len, "tos": h.tos, "total_len": h.total_len, "id": h.id, "df": bool(h.df),
            "mf": bool(h.mf), "frag_offset": h.frag_offset, "ttl": h.ttl, "proto": h.proto, "src": h.src,
            "dst": h.dst, "sum_ok": bool(ip4_sum_ok(data))}


def build_ip4(fields: dict, options: bytes = b"") -> bytes:
    cdef uint8_t out[60]
    cdef ip4_header h
    h.header_len = IP4_LEN + len(options)
    h.tos = fields["tos"]
    h.total_len = fields["total_len"]
    h.id = fields["id"]
    h.df = fields["df"]
    h.mf = fields["mf"]
    h.frag_offset = fields["frag_offset"]
    h.ttl = fields["ttl"]
    h.proto = fields["proto"]
    h.src = fields["src"]
    h.dst = fields["dst"]
    memcpy(out + IP4_LEN, <const uint8_t *>options, len(options))
    ip4_emit(out, &h)
    return bytes(out[:h.header_len])


def relength_ip4(data: bytes, total: int, id: int) -> bytes:
    cdef uint8_t out[60]
    memcpy(out, <const uint8_t *>data, len(data))
    ip4_set_length(out, total, id)
    return bytes(out[:len(data)])


def check_ip4_options(data: bytes) -> int:
    return ip4_check_options(data, len(data))


def pseudo_sum(src: int, dst: int, proto: int, length: int) -> int:
    """Folded, as a number in network order."""
    cdef uint16_t sum = csum_fold(ip4_pseudo(src, dst, proto, length))
    cdef uint8_t out[2]
    memcpy(out, &sum, 2)
    return out[0] << 8 | out[1]


def parse_icmp(data: bytes) -> dict | None:
    cdef icmp_header h
    if icmp_check(data, len(data)) < 0:
        return None
    icmp_parse(data, &h)
    return {"type": h.type, "code": h.code, "id": h.id, "seq": h.seq, "mtu": h.mtu}


def build_icmp(kind: int, code: int, id: int, seq: int, mtu: int) -> bytes:
    cdef uint8_t out[ICMP_LEN]
    cdef icmp_header h
    h.type = kind
    h.code = code
    h.id = id
    h.seq = seq
    h.mtu = mtu
    icmp_emit(out, &h)
    return bytes(out[:ICMP_LEN])


def parse_udp(data: bytes, length: int = -1) -> dict | None:
    cdef udp_header h
    if udp_check(data, len(data), length if length >= 0 else len(data)) < 0:
        return None
    udp_parse(data, &h)
    return {"sport": h.sport, "dport": h.dport, "length": h.length, "summed": bool(h.summed)}


def build_udp(sport: int, dport: int, length: int) -> bytes:
    cdef uint8_t out[UDP_LEN]
    udp_emit(out, sport, dport, length)
    return bytes(out[:UDP_LEN])


def parse_tcp(data: bytes) -> dict | None:
    cdef tcp_header h
    if tcp_check(data, len(data)) < 0:
        return None
    tcp_parse(data, &h)
    return {"sport": h.sport, "dport": h.dport, "seq": h.seq, "ack": h.ack, "data_offset": h.data_offset,
            "flags": h.flags, "window": h.window, "urgent": h.urgent}


def parse_options(data: bytes) -> tuple[int, dict]:
    cdef tcp_options o
    cdef int result = tcp_parse_options(data, len(data), &o)
    return result, {"mss": o.mss, "wscale": o.wscale, "sack_permitted": bool(o.sack_permitted),
                    "ts": (o.tsval, o.tsecr) if o.has_ts else None, "bad": bool(o.bad),
                    "sack": [(o.sack[i][0], o.sack[i][1]) for i in range(o.nsack)]}


def build_options(mss: int = 0, wscale: int = -1, sack_permitted: bool = False, ts: tuple[int, int] | None = None,
                  sack=()) -> bytes:
    cdef uint8_t out[TCP_MAX_HEADER]
    cdef tcp_options o
    tcp_clear_options(&o)
    o.mss = mss
    o.wscale = wscale
    o.sack_permitted = sack_permitted
    if ts is not None:
        o.has_ts = True
        o.tsval, o.tsecr = ts
    o.nsack = len(sack)
    for i, (left, right) in enumerate(sack):
        o.sack[i][0] = left
        o.sack[i][1] = right
    n = tcp_emit_options(out, &o)
    assert n == tcp_options_len(&o)
    return bytes(out[:n])


def build_tcp(fields: dict) -> bytes:
    cdef uint8_t out[TCP_LEN]
    cdef tcp_header h
    h.sport = fields["sport"]
    h.dport = fields["dport"]
    h.seq = fields["seq"]
    h.ack = fields["ack"]
    h.data_offset = fields["data_offset"]
    h.flags = fields["flags"]
    h.window = fields["window"]
    h.urgent = fields["urgent"]
    tcp_emit_header(out, &h)
    return bytes(out[:TCP_LEN])


# --- offload --------------------------------------------------------------------------------------------------
cdef class Bench:
    """A context to run offloads in. ``sums`` keeps partial sums on the payload, as send does."""

    cdef context ctx

    def __cinit__(self):
        memset(&self.ctx, 0, sizeof(self.ctx))
        self.ctx.mem = arena_create(0, &self.ctx.book)

    def __dealloc__(self):
        arena_release(self.ctx.mem)

    @property
    def live(self) -> int:
        return arena_live(self.ctx.mem)

    def counters(self) -> dict[str, int]:
        """Those that are not 0."""
        cdef int i
        return {counter_name(i).decode(): self.ctx.n.n[i] for i in range(C_COUNT) if self.ctx.n.n[i]}

    def ledger(self) -> dict[str, int]:
        """Bytes booked, by reason."""
        cdef int i
        return {ledger_name(i).decode(): self.ctx.book.nbytes[i] for i in range(LR_COUNT) if self.ctx.book.nbytes[i]}

    cdef mblk *build(self, bytes data, object cuts) except NULL:
        cdef mblk *head = NULL
        cdef mblk *m
        cdef size_t start = 0
        cdef size_t end
        cdef const uint8_t *p = data
        for end in [*cuts, len(data)]:
            m = allocb(self.ctx.mem, end - start)
            memcpy(m.rptr, p + start, end - start)
            m.wptr = m.rptr + (end - start)
            if head == NULL:
                head = m
            else:
                linkb(head, m)
            start = end
        head.pkt_len = len(data)
        return head

    cdef bytes bytes_of(self, const mblk *m):
        cdef size_t n = msgbytes(m)
        cdef bytes out = bytes(n)
        msgcopyout(NULL, LR_RX_COPY, m, 0, <uint8_t *><char *>out, n)
        return out

    def checksum(self, data: bytes, start: int, offset: int, cuts=(), shared: bool = False) -> bytes | int:
        """Complete a partial checksum; ``shared``: somebody else holds the storage, whose bytes must not change."""
        cdef mblk *other = NULL
        cdef mblk *m = self.build(data, cuts)
        cdef int result
        m.csum = 2
        m.csum_start = start
        m.csum_offset = offset
        if shared:
            other = dupmsg(self.ctx.mem, m)
        result = offload_checksum(&self.ctx, m)
        out = self.bytes_of(m)
        if other != NULL:
            assert self.bytes_of(other) == data
            freemsg(other)
        freemsg(m)
        return out if result == 0 else result

    def segment(self, data: bytes, l3: int, gso_size: int, gso_type: int, keep_partial: bool = False, cuts=(),
                header: int = 0, stride: int = 0, max: int = 2048) -> list[tuple[bytes, int, int]] | int:
        """Cut; (bytes, csum, blocks) of each. With ``stride``, all behind ``header`` bytes carries partial sums."""
        cdef mblk *out[2048]
        cdef mblk *m
        cdef mblk *rest
        cdef int n, i
        if stride:
            m = self.build(data[:header], ())
            payload = data[header:]
            rest = msgcopyin_csum(self.ctx.mem, NULL, 0, <const uint8_t *><bytes>payload, len(payload), stride)
            linkb(m, rest)
            m.pkt_len = len(data)
        else:
            m = self.build(data, cuts)
        m.gso_size = gso_size
        m.gso_type = gso_type
        expected = offload_count(m, l3)
        n = offload_segment(&self.ctx, m, l3, out, max, keep_partial)
        if n < 0:
            freemsg(m)
            return n
        assert n == expected
        result = []
        for i in range(n):
            assert out[i].pkt_len == msgbytes(out[i])
            result.append((self.bytes_of(out[i]), out[i].csum, msgblocks(out[i])))
            freemsg(out[i])
        return result

    def coalesce(self, packets: list[tuple[bytes, int]], l3: int, cuts=()) -> list[dict]:
        """Join; ``packets`` are (bytes, csum)."""
        cdef mblk *pkts[256]
        cdef int n, i
        for i, (data, csum) in enumerate(packets):
            pkts[i] = self.build(data, [c for c in cuts if c < len(data)])
            pkts[i].csum = csum
        n = offload_coalesce(&self.ctx, pkts, len(packets), l3)
        result = []
        for i in range(n):
            assert pkts[i].pkt_len == msgbytes(pkts[i])
            result.append({"data": self.bytes_of(pkts[i]), "gso_size": pkts[i].gso_size, "segs": pkts[i].segs,
                           "csum": pkts[i].csum, "gso_type": pkts[i].gso_type})
            freemsg(pkts[i])
        return result

    def flatten(self, data: bytes, cuts) -> tuple[bytes, int]:
        cdef mblk *m = offload_flatten(&self.ctx, self.build(data, cuts))
        out = self.bytes_of(m), msgblocks(m)
        freemsg(m)
        return out


# --- flow tables ----------------------------------------------------------------------------------------------
cdef class Flows:
    """A flow table whose owners are numbers."""

    cdef flow_table t
    cdef dict entries

    def __cinit__(self, key0: int = 1, key1: int = 2):
        cdef uint64_t key[2]
        key[0] = key0
        key[1] = key1
        self.entries = {}
        if flow_table_init(&self.t, key) < 0:
            raise MemoryError

    def __dealloc__(self):
        cdef uint64_t address
        flow_table_free(&self.t)
        for address in self.entries.values():
            free(<flow_entry *>address)

    cdef flow key(self, laddr, lport, raddr, rport):
        cdef flow f
        memset(&f, 0, sizeof(f))
        f.laddr = ip_from4(laddr)
        if raddr or rport:
            f.raddr = ip_from4(raddr)
        f.lport = lport
        f.rport = rport
        return f

    def insert(self, owner: int, laddr: int, lport: int, raddr: int = 0, rport: int = 0):
        cdef flow_entry *e = <flow_entry *>calloc(1, sizeof(flow_entry))
        e.key = self.key(laddr, lport, raddr, rport)
        e.owner = <void *><uint64_t>owner
        flow_insert(&self.t, e)
        self.entries[owner] = <uint64_t>e

    def remove(self, owner: int):
        cdef uint64_t address = self.entries.pop(owner)
        flow_remove(&self.t, <flow_entry *>address)
        free(<flow_entry *>address)

    def find(self, laddr: int, lport: int, raddr: int = 0, rport: int = 0) -> list[int]:
        """All with this key, the newest first."""
        cdef flow f = self.key(laddr, lport, raddr, rport)
        cdef flow_entry *e = flow_find(&self.t, &f)
        out = []
        while e != NULL:
            out.append(<uint64_t>e.owner)
            e = flow_again(e)
        return out

    def find_by(self, hash: int, laddr: int, lport: int, raddr: int = 0, rport: int = 0) -> int | None:
        cdef flow f = self.key(laddr, lport, raddr, rport)
        cdef flow_entry *e = flow_find_by(&self.t, &f, hash)
        return <uint64_t>e.owner if e != NULL else None

    def hash_of(self, owner: int) -> int:
        return (<flow_entry *><uint64_t>self.entries[owner]).hash

    def find_local(self, laddr: int, lport: int) -> int | None:
        cdef ipaddr a = ip_from4(laddr)
        cdef flow_entry *e = flow_find_local(&self.t, &a, lport)
        return <uint64_t>e.owner if e != NULL else None

    def visit(self) -> set[int]:
        cdef uint32_t cursor = 0
        cdef flow_entry *e = flow_next(&self.t, &cursor, NULL)
        out = set()
        while e != NULL:
            out.add(<uint64_t>e.owner)
            e = flow_next(&self.t, &cursor, e)
        return out

    def __len__(self) -> int:
        return self.t.used
