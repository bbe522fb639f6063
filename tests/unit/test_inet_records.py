"""Record Route and Timestamp, the options of IPv4 that hosts take part in, and ICMP timestamps."""

import socket
import struct

import pytest
from inet_harness import ICMP, IP, MAC, OUR_MAC, PEER, US, Ether, Host, Raw

US_RAW = socket.inet_aton(US)
OTHER = bytes([10, 0, 0, 77])
DAY = 1 << 31                   # the highest bit of a time: of no known day


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ask(host: Host, options: bytes, message: ICMP | None = None) -> None:
    """A message, by default an echo request of eight bytes, with these options, padded."""
    options += bytes(-len(options) % 4)
    data = bytes(message or ICMP(type=8, id=3, seq=4) / Raw(b"abcdefgh"))
    head = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(data), 1, 0, 64, 1, 0,
                       socket.inet_aton(PEER), US_RAW) + options
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    host.frame(bytes(Ether(src=MAC, dst=OUR_MAC, type=0x800)) + head + data)


def answer(host: Host) -> tuple[bytes, bytes]:
    """The options and what lies behind them of the one packet that was sent; its header must be right."""
    (frame,) = host.sent()
    packet = bytes(frame[IP])
    size = (packet[0] & 15) * 4
    assert checksum(packet[:size]) == 0
    assert struct.unpack("!H", packet[2:4])[0] == len(packet)
    return packet[20:size], packet[size:]


@pytest.mark.parametrize(("asked", "answered"), [
    (bytes([7, 11, 4]) + bytes(8), bytes([7, 11, 12]) + US_RAW * 2),
    (bytes([7, 15, 8]) + OTHER + bytes(8), bytes([7, 15, 16]) + OTHER + US_RAW * 2),
    (bytes([7, 7, 4]) + bytes(4), bytes([7, 7, 8]) + US_RAW),
    (bytes([7, 7, 8]) + OTHER, bytes([7, 7, 8]) + OTHER),                           # full
    (bytes([7, 3, 4]), bytes([7, 3, 4])),
    (bytes([1, 1, 7, 7, 4]) + bytes(4), bytes([7, 7, 8]) + US_RAW),                 # what is between is not answered
    (bytes([0x82, 11]) + bytes(9) + bytes([7, 7, 4]) + bytes(4), bytes([7, 7, 8]) + US_RAW),
    (bytes([7, 39, 4]) + bytes(36), bytes([7, 39, 12]) + US_RAW * 2 + bytes(28)),
    (bytes([0, 7, 7, 4]) + bytes(4), b""),                                          # behind the end
    (bytes([68, 4, 5, 0]), bytes([68, 4, 5, 0x10])),                                # no room: counted
    (bytes([68, 8, 9, 0xE1]) + OTHER, bytes([68, 8, 9, 0xF1]) + OTHER),
    (bytes([68, 12, 5, 3]) + OTHER + bytes(4), bytes([68, 12, 5, 3]) + OTHER + bytes(4)),     # for somebody else
    (bytes([68, 12, 5, 2]) + bytes(8), bytes([68, 12, 5, 2]) + bytes(8)),           # a kind that there is not
])
def test_an_echo_continues_the_records_of_its_request(asked: bytes, answered: bytes):
    """RFC 1122 3.2.2.6: updated to include the current host; at arrival and at departure, as in Linux."""
    with Host() as host:
        ask(host, asked)
        options, message = answer(host)
        assert options == answered + bytes(-len(answered) % 4)
        assert message[:1] == b"\0"
        assert message[4:] == b"\0\3\0\4abcdefgh"


@pytest.mark.parametrize(("flags", "entries"), [(0, "tt"), (1, "at"), (3, "at"), (0xF0, "tt")])
def test_an_echo_is_stamped(flags: int, entries: str):
    with Host() as host:
        times = []
        for _ in range(2):
            ask(host, bytes([68, 12, 5, flags]) + (US_RAW if flags == 3 else bytes(4)) + bytes(4))
            options, _ = answer(host)
            assert options[:4] == bytes([68, 12, 13, flags])
            first, second = struct.unpack("!II", options[4:])
            assert second >= DAY
            assert first == (second if entries == "tt" else int.from_bytes(US_RAW, "big"))
            times.append(second)
            host.advance(1_234_000_000)
        assert times[1] - times[0] == 1234


@pytest.mark.parametrize(("options", "where"), [
    (bytes([7, 2]), 21), (bytes([7, 7, 3]) + bytes(4), 22), (bytes([7, 7, 5]) + bytes(4), 22),
    (bytes([1, 7, 2]), 22), (bytes([68, 3, 5]), 21), (bytes([68, 4, 4, 0]), 22), (bytes([68, 8, 6, 0]) + bytes(4), 22),
    (bytes([68, 12, 9, 1]) + bytes(8), 22), (bytes([68, 12, 9, 3]) + bytes(8), 22), (bytes([68, 4, 5, 0xF0]), 23),
])
def test_a_record_that_cannot_be_continued_is_a_parameter_problem(options: bytes, where: int):
    """RFC 1122 3.2.2.5; which byte it is, is Linux's."""
    with Host() as host:
        ask(host, options)
        (sent,) = host.sent()
        assert (sent[ICMP].type, sent[ICMP].code, sent[ICMP].ptr) == (12, 0, where)
        assert host.counted()["ip.bad_option"] == 1


def test_an_answer_that_does_not_fit_the_path_with_its_records_goes_without():
    with Host() as host:
        record = bytes([7, 39, 4]) + bytes(36)
        ask(host, record, ICMP(type=8) / Raw(bytes(1500 - 60 - 8)))
        assert len(answer(host)[0]) == 40
    with Host(mtu=1400) as host:
        ask(host, record, ICMP(type=8) / Raw(bytes(1400 - 60 - 8 + 1)))
        options, message = answer(host)
        assert options == b""
        assert len(message) == 1341


def test_any_options_of_an_echo_are_answered_soundly():
    """Whatever the bytes are: one sound packet, or none."""
    with Host() as host:
        for kind in (7, 68):
            for length in range(41):
                for pointer in (*range(42), 128, 255):
                    for flags in (0, 1, 3, 0xF3) if kind == 68 else (0,):
                        host.advance(1_000_000)
                        ask(host, (bytes([kind, length, pointer, flags]) + bytes(40))[:40])
                        options, _ = answer(host)
                        assert len(options) <= 40


def test_a_timestamp_is_answered():
    """RFC 1122 3.2.2.8: both times are those of the answer; the highest bit says that they are of no known day."""
    with Host() as host:
        seen = []
        for _ in range(2):
            ask(host, bytes([7, 7, 4]) + bytes(4), ICMP(type=13, code=1, id=9, seq=2, ts_ori=77) / Raw(b"more"))
            options, message = answer(host)
            assert options == bytes([7, 7, 8]) + US_RAW + b"\0"
            assert checksum(message) == 0
            assert message[:2] == b"\x0e\0"
            number, seq, origin, received, sent = struct.unpack("!HHIII", message[4:])
            assert (number, seq, origin) == (9, 2, 77)
            assert received == sent >= DAY
            seen.append(sent)
            host.advance(500_000_000)
        assert seen[1] - seen[0] == 500


def test_timestamps_that_are_not_answered():
    with Host() as host:
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst="10.0.0.255") / ICMP(type=13))
        host.ip(b"\x0d\0\xf2\xff" + bytes(15), proto=1)       # a good checksum, and a byte less
        assert host.sent() == []
        assert host.counted()["icmp.ignored"] == 2
