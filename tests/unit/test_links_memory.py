"""pair() and Pipe: order, bounds, facts, ownership, and that nothing leaks."""

import array
import errno
import struct

import pytest

from ustack._core.py.links import Link, pair
from ustack._core.py.pipe import Pipe
from ustack._core.py.probe_links import Harness

CSUM_NONE, CSUM_OK, CSUM_PARTIAL = 0, 1, 2
GSO_TCP4 = 1


def packets(n, size=100):
    return [bytes([i % 256]) * (size + i % 7) for i in range(n)]


class TestPair:
    def test_packets_pass_by_reference_in_order(self):
        a, b = pair()
        with Harness(a) as left, Harness(b) as right:
            sent = packets(20)
            assert left.tx(sent) == 20
            assert right.pending == 1
            assert right.notified == 1
            got = right.rx(12) + right.rx()
            assert [p["data"] for p in got] == sent
            assert right.pending == 0
            assert left.ledger == right.ledger == {}  # no byte was copied
            assert right.rx() == []
            assert left.live == right.live == 0

    def test_chains_and_offload_facts_pass(self):
        a, b = pair(mtu=1500)
        facts = {"csum": CSUM_PARTIAL, "csum_start": 20, "csum_offset": 16, "gso_type": GSO_TCP4}
        facts["gso_size"] = 1448
        with Harness(a) as left, Harness(b) as right:
            left.tx([[b"h" * 54, b"x" * 30000, b"y" * 30000]], hdr_len=54, **facts)
            [got] = right.rx()
            assert got["blocks"] == [54, 30000, 30000]
            assert {k: got[k] for k in facts} == facts

    def test_without_offloads_nothing_is_vouched_for(self):
        a, b = pair(mtu=1500, offloads=False, max_sg=1)
        assert a.capabilities == {"zerocopy_rx", "zerocopy_tx"}
        assert a.gso_max == a.mtu == 1500
        with Harness(a) as left, Harness(b) as right:
            left.tx([b"x"], csum=CSUM_OK)
            assert right.rx()[0]["csum"] == CSUM_NONE

    def test_a_full_queue_pushes_back_and_tells_when_there_is_room(self):
        a, b = pair(queue=4)
        with Harness(a) as left, Harness(b) as right:
            assert left.tx(packets(6)) == 4
            assert a.stats["tx_busy"] == 1
            assert left.notified == 0
            assert len(right.rx(1)) == 1
            assert left.notified == 1
            assert left.tx(packets(1)) == 1
            assert len(right.rx()) == 4

    def test_too_large_is_dropped_and_counted(self):
        a, b = pair(mtu=576, layer=2)
        with Harness(a) as left, Harness(b) as right:
            assert left.tx([b"x" * 591, b"y" * 590]) == 2
            assert [len(p["data"]) for p in right.rx()] == [590]
            assert a.stats["tx_drop"] == 1

    def test_a_closed_end_is_a_cable_unplugged(self):
        a, b = pair()
        left, right = Harness(a), Harness(b)
        left.tx(packets(3))
        assert right.close() == 0
        assert left.notified == 1
        with pytest.raises(OSError, match="down") as e:
            left.tx(packets(1))
        assert e.value.errno == errno.ENETDOWN
        with pytest.raises(OSError, match="down"):
            left.rx()
        assert a.state == "down"
        assert left.close() == 0
        assert a.state == "closed"

    def test_what_was_sent_before_the_close_arrives(self):
        a, b = pair()
        left, right = Harness(a), Harness(b)
        left.tx([b"last words"])
        left.close()
        assert right.rx()[0]["data"] == b"last words"
        right.close()

    def test_macs(self):
        a, b = pair(layer=2, macs=("02:00:00:00:00:0a", None))
        assert a.mac == b"\x02\0\0\0\0\x0a"
        assert b.mac is not None
        assert b.mac[0] & 3 == 2
        assert pair()[0].mac is None

    @pytest.mark.parametrize(
        "bad",
        [
            {"layer": 4},
            {"mtu": 67},
            {"mtu": 65536},
            {"queue": 0},
            {"offloads": ["tso"]},
            {"offloads": ["warp"]},
            {"macs": (b"\x01\0\0\0\0\0", None), "layer": 2},
            {"macs": ("02:00", None), "layer": 2},
        ],
    )
    def test_wrong_arguments(self, bad):
        with pytest.raises(ValueError, match=r".") as e:
            pair(**bad)
        assert len(str(e.value)) > 20

    def test_offloads_of_a_wrong_type(self):
        with pytest.raises(TypeError, match="offloads"):
            pair(offloads="csum")


class TestPipe:
    def test_in_and_out(self):
        pipe = Pipe()
        with Harness(pipe) as stack:
            assert pipe.inject(b"one")
            assert pipe.inject(bytearray(b"two"))
            assert pipe.inject(memoryview(b"three"))
            assert pipe.waiting == (3, 0)
            assert stack.notified == 1
            assert [p["data"] for p in stack.rx()] == [b"one", b"two", b"three"]
            stack.tx([b"four", [b"fi", b"ve"]], now=17)
            stack.tx([b"six"], now=18)
            assert pipe.drain(1) == [(17, b"four")]
            assert pipe.drain() == [(17, b"five"), (18, b"six")]
            assert pipe.drain() == []
            assert stack.ledger == {"pipe.inject": 11, "pipe.drain": 11}
            assert stack.live == 0

    def test_any_length_is_injected(self):
        pipe = Pipe(layer=2)
        with Harness(pipe) as stack:
            for n in (0, 1, 13, 65550, 1 << 17):
                assert pipe.inject(bytes(n))
                assert len(stack.rx()[0]["data"]) == n
            with pytest.raises(ValueError, match="131072"):
                pipe.inject(bytes((1 << 17) + 1))

    def test_full_queue_refuses_and_counts(self):
        pipe = Pipe(queue=2)
        with Harness(pipe) as stack:
            assert pipe.inject_many(packets(5)) == 2
            assert not pipe.inject(b"x")
            assert pipe.stats["full"] == 2
            assert len(stack.rx()) == 2
            assert stack.tx(packets(3)) == 2
            assert pipe.stats["tx_busy"] == 1
            woken = stack.notified
            pipe.drain(1)
            assert stack.notified == woken + 1
            assert stack.tx(packets(1)) == 1

    def test_no_memory_refuses(self):
        pipe = Pipe()
        with Harness(pipe, budget=100_000) as stack:
            accepted = pipe.inject_many([bytes(60_000)] * 3)
            assert accepted == 1
            assert pipe.stats["rx_nomem"] == 1
            assert len(stack.rx()) == 1

    def test_bursts_through_the_callers_buffers(self):
        pipe = Pipe()
        with Harness(pipe) as stack:
            sent = packets(10)
            blob = b"".join(sent)
            sizes = array.array("I", map(len, sent))
            assert pipe.inject_from(blob, sizes) == 10
            assert [p["data"] for p in stack.rx()] == sent
            assert pipe.inject_from(blob, sizes, 3) == 3
            assert [p["data"] for p in stack.rx()] == sent[:3]
            with pytest.raises(ValueError, match="packet 9"):
                pipe.inject_from(blob[:-1], sizes)
            assert len(stack.rx()) == 9
            with pytest.raises(TypeError, match="4-byte"):
                pipe.inject_from(blob, array.array("H", [1]))

            stack.tx(sent, now=5)
            room = bytearray(sum(map(len, sent[:4])) + 50)
            out, times = array.array("I", [0] * 10), array.array("q", [0] * 10)
            assert pipe.drain_into(room, out, times) == 4
            assert list(out[:4]) == [len(p) for p in sent[:4]]
            assert list(times[:4]) == [5] * 4
            assert bytes(room[: sum(out[:4])]) == b"".join(sent[:4])
            assert pipe.drain_into(room, array.array("I", [0, 0])) == 2
            with pytest.raises(ValueError, match="buffer 3"):
                pipe.drain_into(bytearray(3), out)
            assert [p for _, p in pipe.drain()] == sent[6:]
            with pytest.raises(BufferError):
                pipe.drain_into(b"read only", out)

    def test_not_attached_and_closed(self):
        pipe = Pipe()
        with pytest.raises(OSError, match="add_interface"):
            pipe.inject(b"x")
        assert pipe.drain() == []
        pipe.close()
        pipe.close()
        assert pipe.state == "closed"
        assert pipe.mtu == 0
        with pytest.raises(ValueError, match="closed"):
            pipe.inject(b"x")
        with pytest.raises(ValueError, match="closed"):
            Harness(pipe)

    def test_last_packets_can_be_drained_after_close(self):
        pipe = Pipe()
        stack = Harness(pipe)
        stack.tx([b"fin", b"rst"], now=3)
        pipe.inject(b"never read")
        assert stack.close() == 0
        assert pipe.drain(1) == [(3, b"fin")]
        assert pipe.drain() == [(3, b"rst")]
        assert pipe.drain() == []
        assert pipe.stats["tx"] == 2

    def test_one_user_only(self):
        pipe = Pipe()
        with Harness(pipe):
            assert pipe.attached
            with pytest.raises(ValueError, match="in use by a Harness"):
                Harness(pipe)
            with pytest.raises(ValueError, match="in use"):
                pipe.close()

    def test_offloads_put_a_virtio_header_in_front(self):
        pipe = Pipe(offloads=True)
        assert {"tx_csum", "tso4", "uso"} <= pipe.capabilities
        header = struct.Struct("=BBHHHH")
        with Harness(pipe) as stack:
            assert pipe.inject(header.pack(1, 1, 54, 1448, 20, 16) + bytes(5000))
            [got] = stack.rx()
            assert (got["csum"], got["csum_start"], got["csum_offset"]) == (CSUM_PARTIAL, 20, 16)
            assert (got["gso_type"], got["gso_size"], len(got["data"])) == (GSO_TCP4, 1448, 5000)
            assert pipe.inject(header.pack(2, 0, 0, 0, 0, 0) + b"x")
            assert stack.rx()[0]["csum"] == CSUM_OK
            stack.tx([bytes(3000)], csum=CSUM_PARTIAL, csum_start=20, csum_offset=16, gso_type=GSO_TCP4,
                     gso_size=1448, hdr_len=52)
            [(_, out)] = pipe.drain()
            assert header.unpack(out[:10]) == (1, 1, 52, 1448, 20, 16)
            assert len(out) == 3010

    @pytest.mark.parametrize(
        "fields",
        [
            (1, 0, 0, 0, 100, 0),  # the sum starts where the packet ends
            (1, 0, 0, 0, 83, 16),  # the field lies beyond the end
            (1, 0, 0, 0, 65535, 65535),
            (0, 1, 0, 0, 0, 0),  # a super-segment without a segment size
            (0, 1, 101, 10, 0, 0),  # headers longer than the packet
            (0, 77, 0, 10, 0, 0),  # no such type
        ],
    )
    def test_a_header_that_lies_is_refused_and_counted(self, fields):
        pipe = Pipe(offloads=True)
        with Harness(pipe) as stack:
            with pytest.raises(ValueError, match="virtio"):
                pipe.inject(struct.pack("=BBHHHH", *fields) + bytes(100))
            assert pipe.stats["rx_bad"] == 1
            assert stack.rx() == []
            assert stack.live == 0
            with pytest.raises(ValueError, match="virtio"):
                pipe.inject(b"short")

    def test_offloads_not_claimed_may_not_be_used(self):
        pipe = Pipe(offloads=["csum"])
        with Harness(pipe), pytest.raises(ValueError, match="virtio"):
            pipe.inject(struct.pack("=BBHHHH", 1, 1, 54, 1448, 20, 16) + bytes(100))


def test_link_is_a_base_class():
    with pytest.raises(TypeError, match="base class"):
        Link()


def test_a_with_block_closes_and_repr_tells_the_state():
    with Pipe() as pipe:
        assert repr(pipe) == "<Pipe up mtu=1500>"
    assert repr(pipe) == "<Pipe closed mtu=->"
