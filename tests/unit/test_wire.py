"""Wire formats against scapy: what it builds we read, what we build it reads; and no bytes make us read beyond them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.utils import inet_aton

from ustack._core.py import probe_wire as w

u8, u16, u32 = (st.integers(0, 2**n - 1) for n in (8, 16, 32))
mac = st.binary(min_size=6, max_size=6)


def text(mac: bytes) -> str:
    return mac.hex(":")


def dotted(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def number(address: str) -> int:
    return int.from_bytes(inet_aton(address), "big")


@given(mac, mac, u16)
def test_ether(dst: bytes, src: bytes, kind: int):
    ours = w.build_ether(dst, src, kind)
    assert ours == bytes(Ether(dst=text(dst), src=text(src), type=kind))
    assert w.parse_ether(ours) == {"dst": dst, "src": src, "type": kind}
    assert w.parse_ether(ours[:13]) is None


@given(st.sampled_from([1, 2]), mac, u32, mac, u32)
def test_arp(op: int, sha: bytes, spa: int, tha: bytes, tpa: int):
    ours = w.build_arp(op, sha, spa, tha, tpa)
    theirs = ARP(op=op, hwsrc=text(sha), psrc=dotted(spa), hwdst=text(tha), pdst=dotted(tpa), hwlen=6, plen=4)
    assert ours == bytes(theirs)
    assert w.parse_arp(ours) == {"op": op, "sha": sha, "spa": spa, "tha": tha, "tpa": tpa}


@pytest.mark.parametrize("change", [{"hwtype": 6}, {"ptype": 0x86DD}, {"hwlen": 8}, {"plen": 16}, {"op": 3}])
def test_arp_of_another_kind(change: dict[str, int]):
    fields = {"op": 1, "hwlen": 6, "plen": 4, "hwsrc": "02:00:00:00:00:01", "psrc": "1.2.3.4", "pdst": "1.2.3.5"}
    assert w.parse_arp(bytes(ARP(**fields))) is not None
    assert w.parse_arp(bytes(ARP(**{**fields, **change}))) is None
    assert w.parse_arp(bytes(ARP(**fields))[:27]) is None


@given(u8, u16, st.booleans(), st.booleans(), st.integers(0, 8191), u8, u8, u32, u32,
       st.integers(0, 10), st.binary(max_size=64))
def test_ip4(tos, id_, df, mf, offset, ttl, proto, src, dst, words, payload):
    options = b"\x01" * 4 * words
    fields = {"tos": tos, "total_len": 20 + len(options) + len(payload), "id": id_, "df": df, "mf": mf,
              "frag_offset": offset * 8, "ttl": ttl, "proto": proto, "src": src, "dst": dst}
    ours = w.build_ip4(fields, options) + payload
    theirs = IP(tos=tos, id=id_, flags=2 * df + mf, frag=offset, ttl=ttl, proto=proto, src=dotted(src),
                dst=dotted(dst), options=[IPOption(b"\x01")] * len(options))
    assert ours == bytes(theirs / Raw(payload))
    assert w.parse_ip4(ours) == {**fields, "header_len": 20 + len(options), "sum_ok": True}


@given(u16, u16, u16, u16)
def test_ip4_new_length_keeps_the_checksum_right(total, id_, new_total, new_id):
    header = bytes(IP(len=total, id=id_, src="10.0.0.1", dst="10.0.0.2", proto=17))
    patched = w.relength_ip4(header, new_total, new_id)
    assert IP(patched).len == new_total
    assert IP(patched).id == new_id
    fresh = bytes(IP(len=new_total, id=new_id, src="10.0.0.1", dst="10.0.0.2", proto=17))
    assert patched == fresh


def test_ip4_check():
    good = bytes(IP(len=28, proto=17, src="1.2.3.4", dst="1.2.3.5")) + b"12345678"
    assert w.check_ip4(good) == 0
    assert w.check_ip4(b"") == 1
    assert w.check_ip4(good[:19]) == 1
    assert w.check_ip4(b"\x65" + good[1:]) == 2
    assert w.check_ip4(b"\x44" + good[1:]) == 3              # header of 16 bytes
    assert w.check_ip4(good[:27]) == 3                       # total length beyond the packet
    assert w.check_ip4(good[:2] + b"\0\x13" + good[4:]) == 3  # total length below the header
    assert w.check_ip4(good[:20], 28) == 0                   # the rest lies in other blocks
    assert w.check_ip4(b"\x46" + good[1:20], 28) == 1        # its options do not lie here
    bad = bytearray(good)
    bad[8] ^= 1
    parsed = w.parse_ip4(bytes(bad))
    assert parsed is not None
    assert not parsed["sum_ok"]


@pytest.mark.parametrize(("options", "result"), [
    (b"", 0), (b"\x01\x01\x00\xff", 0), (b"\x07\x04\x04\x00", 0),
    (b"\x07", -1), (b"\x01\x07\x00", -2), (b"\x07\x00\x00\x00", -1), (b"\x07\x01\x00\x00", -1),
    (b"\x07\x05\x00\x00", -1),
    (b"\x83\x07\x04\x01\x02\x03\x04\x00", 1), (b"\x01\x89\x03\x04", 1),
])
def test_ip4_options(options: bytes, result: int):
    assert w.check_ip4_options(options) == result


@given(u32, u32, u8, u16)
def test_pseudo_header(src: int, dst: int, proto: int, length: int):
    data = src.to_bytes(4, "big") + dst.to_bytes(4, "big") + bytes([0, proto]) + length.to_bytes(2, "big")
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, 12, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert w.pseudo_sum(src, dst, proto, length) % 0xFFFF == total % 0xFFFF


@given(st.sampled_from([0, 8]), u16, u16)
def test_icmp_echo(kind: int, id_: int, seq: int):
    ours = w.build_icmp(kind, 0, id_, seq, 99)
    assert ours == bytes(ICMP(type=kind, id=id_, seq=seq, chksum=0))
    parsed = w.parse_icmp(ours)
    assert parsed is not None
    assert (parsed["type"], parsed["id"], parsed["seq"]) == (kind, id_, seq)
    assert w.parse_icmp(ours[:7]) is None


@given(u16)
def test_icmp_fragmentation_needed(mtu: int):
    ours = w.build_icmp(3, 4, 5, 6, mtu)
    assert ours == bytes(ICMP(type=3, code=4, nexthopmtu=mtu, chksum=0))[:8]
    parsed = w.parse_icmp(ours)
    assert parsed is not None
    assert parsed["mtu"] == mtu


@given(u16, u16, st.binary(max_size=64))
def test_udp(sport: int, dport: int, payload: bytes):
    ours = w.build_udp(sport, dport, 8 + len(payload)) + payload
    assert ours == bytes(UDP(sport=sport, dport=dport, chksum=0) / Raw(payload))
    assert w.parse_udp(ours) == {"sport": sport, "dport": dport, "length": len(ours), "summed": False}
    assert w.parse_udp(ours + b"trailing") is not None
    assert w.parse_udp(ours[:7]) is None
    assert w.parse_udp(w.build_udp(sport, dport, 7)) is None
    assert w.parse_udp(ours, len(ours) - 1) is None


@given(u16, u16, u32, u32, u8, u16, u16)
def test_tcp(sport, dport, seq, ack, flags, window, urgent):
    fields = {"sport": sport, "dport": dport, "seq": seq, "ack": ack, "data_offset": 20, "flags": flags,
              "window": window, "urgent": urgent}
    ours = w.build_tcp(fields)
    assert ours == bytes(TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, window=window,
                             urgptr=urgent, chksum=0))
    assert w.parse_tcp(ours) == fields


@pytest.mark.parametrize("offset", range(16))
def test_tcp_data_offset(offset: int):
    header = bytearray(60)
    header[12] = offset << 4
    assert (w.parse_tcp(bytes(header)) is None) == (offset < 5)
    assert (w.parse_tcp(bytes(header[:40])) is None) == (offset < 5 or offset > 10)


sack_blocks = st.lists(st.tuples(u32, u32), max_size=4)


@given(u16, st.integers(-1, 14), st.booleans(), st.none() | st.tuples(u32, u32), sack_blocks)
def test_tcp_options_round_trip(mss, wscale, sack_permitted, ts, sack):
    out = w.build_options(mss, wscale, sack_permitted, ts, sack)
    assert len(out) <= 40
    assert len(out) % 4 == 0
    result, o = w.parse_options(out)
    assert result == 0
    room = (40 - len(w.build_options(mss, wscale, sack_permitted, ts)) - 4) // 8
    assert o == {"mss": mss, "wscale": wscale, "sack_permitted": sack_permitted, "ts": ts, "bad": False,
                 "sack": sack[:max(room, 0)]}
    theirs = dict(TCP(bytes(TCP(dataofs=5 + len(out) // 4))[:20] + out).options)
    assert theirs.get("MSS", 0) == mss
    assert theirs.get("WScale", -1) == wscale
    assert ("SAckOK" in theirs) == sack_permitted
    assert theirs.get("Timestamp") == ts


option = st.one_of(
    st.tuples(st.just("MSS"), st.integers(1, 65535)), st.tuples(st.just("WScale"), u8),
    st.tuples(st.just("SAckOK"), st.just(b"")), st.tuples(st.just("NOP"), st.none()),
    st.tuples(st.just("Timestamp"), st.tuples(u32, u32)), st.tuples(st.just(77), st.binary(max_size=5)))


@given(st.lists(option, max_size=5))
def test_tcp_options_of_others_in_any_order(options):
    """Of several of a kind the last one counts; unknown ones are skipped."""
    packet = bytes(TCP(options=options, chksum=0))
    if len(packet) > 60:
        return
    result, o = w.parse_options(packet[20:])
    wanted = dict(options)
    assert result == 0
    assert o["mss"] == wanted.get("MSS", 0)
    assert o["wscale"] == min(wanted.get("WScale", -1), 14)
    assert o["sack_permitted"] == ("SAckOK" in wanted)
    assert o["ts"] == wanted.get("Timestamp")


@pytest.mark.parametrize("options", [
    b"\x02", b"\x02\x00", b"\x02\x01", b"\x02\x05\x05\xb4", b"\x08\x0a\0\0\0\1", b"\x05\xff" + bytes(30), b"\x4d\x00",
])
def test_tcp_options_without_a_valid_length(options: bytes):
    result, o = w.parse_options(b"\x02\x04\x05\xb4" + options)
    assert result == -1
    assert o["bad"]
    assert o["mss"] == 1460                                  # what came before counts


@pytest.mark.parametrize("options", [
    b"\x02\x03\x05", b"\x02\x06\x05\xb4\0\0", b"\x03\x02", b"\x03\x04\x05\x06", b"\x04\x03\x00", b"\x08\x09" + bytes(7),
    b"\x05\x09" + bytes(7), b"\x05\x02", b"\x05\x0b" + bytes(9),
])
def test_tcp_options_of_a_wrong_length_are_skipped(options: bytes):
    nothing = {"mss": 0, "wscale": -1, "sack_permitted": False, "ts": None, "bad": False, "sack": []}
    assert w.parse_options(options + b"\x01") == (0, nothing)


@given(st.binary(max_size=40))
def test_any_bytes_as_options(data: bytes):
    result, o = w.parse_options(data)
    assert (result == -1) == o["bad"]
    assert len(o["sack"]) <= 4
    assert -1 <= o["wscale"] <= 14


@given(st.binary(max_size=80))
def test_any_bytes_as_headers(data: bytes):
    for parse in (w.parse_ether, w.parse_arp, w.parse_ip4, w.parse_icmp, w.parse_udp, w.parse_tcp):
        parse(data)
    w.check_ip4_options(data)
