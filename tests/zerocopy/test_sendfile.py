"""sendfile(): the standard library's shape, Linux' and FreeBSD's semantics, and what each technique copies."""

import contextlib
import errno
import io
import os
import random
import socket
import tempfile
import threading

import pytest
from beds import PATIENCE, Lossy, connected, copied, lose_first, read_all, reading, two_stacks
from helpers import Background

import ustack
from ustack._core.py.transfers import file_windows
from ustack.socket import SF_NODISKIO

DATA = random.Random(1).randbytes(3_000_017)
HOWS = ["auto", "read", "mmap", "copy", "gather"]


@pytest.fixture(scope="module")
def file():
    with tempfile.TemporaryFile() as f:
        f.write(DATA)
        f.flush()
        yield f
    ustack.drop_file_windows()


@pytest.fixture
def pair():
    with two_stacks() as (near, far), connected(near, far) as ends:
        yield ends


def sent_and_got(c, s, *args, **options):
    with reading(s) as got:
        n = c.sendfile(*args, **options)
        c.shutdown(socket.SHUT_WR)
        return n, got.result(PATIENCE)


@pytest.mark.parametrize("how", HOWS)
def test_a_whole_file(pair, file, how):
    file.seek(5)                            # the standard library's offset is 0 wherever the file stands
    assert sent_and_got(*pair, file, how=how) == (len(DATA), DATA)
    assert file.tell() == len(DATA)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("offset", "count"), [
    (1, 1), (4095, 4098), (2 * 1024 * 1024 - 1, 2), (7, 2_999_999), (3_000_000, 17), (3_000_000, None),
    (2_999_000, 5000), (3_000_017, None), (4_000_000, 100),
])
def test_a_part_of_it(pair, file, how, offset, count):
    part = DATA[offset:None if count is None else offset + count]
    assert sent_and_got(*pair, file, offset, count, how=how) == (len(part), part)
    assert file.tell() == offset + len(part)


def test_a_descriptor_with_an_offset_stays_where_it_is(pair, file):
    os.lseek(file.fileno(), 77, os.SEEK_SET)
    assert sent_and_got(*pair, file.fileno(), 10, 20) == (20, DATA[10:30])
    assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 77


def test_a_descriptor_without_an_offset_moves(pair, file):
    os.lseek(file.fileno(), 77, os.SEEK_SET)
    assert sent_and_got(*pair, file.fileno(), None, 20) == (20, DATA[77:97])
    assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 97


def test_a_file_object_without_an_offset_moves(pair, file):
    file.seek(100)
    assert sent_and_got(*pair, file, None, 20) == (20, DATA[100:120])
    assert file.tell() == 120


@pytest.mark.parametrize("how", HOWS)
def test_headers_and_trailers_are_one_with_the_file(pair, file, how):
    tail = [b"trai", memoryview(b"ler")]
    n, got = sent_and_got(*pair, file, 0, 1000, headers=[b"head", b"er"], trailers=tail, how=how)
    assert (n, got) == (1013, b"header" + DATA[:1000] + b"trailer")


def test_header_file_and_trailer_share_segments():
    """What is smaller than a segment leaves as one: nothing is pushed in between."""
    with Lossy(lambda raw: False) as wire:
        c, s = wire.connect()
        with c, s, tempfile.TemporaryFile() as f:
            f.write(DATA[:500])
            f.flush()
            before = wire.stacks[0].stats()["tcp.tx"]
            assert c.sendfile(f, headers=[b"h" * 100], trailers=[b"t" * 100]) == 700
            wire.carry()
            assert wire.stacks[0].stats()["tcp.tx"] == before + 1
            assert s.recv(1000) == b"h" * 100 + DATA[:500] + b"t" * 100


def test_a_pipe_and_a_kernel_socket_as_the_source(pair):
    c, s = pair
    for ends in (os.pipe(), [x.detach() for x in socket.socketpair()]):
        reader, writer = ends

        def feed(writer=writer):
            with open(writer, "wb") as f:
                f.write(DATA[:300_000])

        feeding = Background(feed)
        taking = Background(s.recv, 300_000, socket.MSG_WAITALL)
        assert c.sendfile(reader, None) == 300_000
        feeding.result(PATIENCE)
        assert taking.result(PATIENCE) == DATA[:300_000]
        os.close(reader)


def test_a_pipe_has_no_offsets(pair):
    reader, writer = os.pipe()
    with open(reader, "rb") as r, open(writer, "wb"), pytest.raises(OSError, match="no offsets") as caught:
        pair[0].sendfile(r.fileno(), 5)
    assert caught.value.errno == errno.ESPIPE


def test_a_file_object_without_a_descriptor(pair):
    memory = io.BytesIO(DATA[:100_000])
    assert sent_and_got(*pair, memory, 10, 5000) == (5000, DATA[10:5010])
    assert memory.tell() == 5010


def test_arguments_that_make_no_sense(pair, file, tmp_path):
    c, _ = pair
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            c.sendfile(file, 0, wrong)
    with pytest.raises(TypeError, match="positive"):
        c.sendfile(file, 0, 1.5)
    with pytest.raises(ValueError, match="how is one of"):
        c.sendfile(file, how="magic")
    (tmp_path / "t").write_text("text")
    with open(tmp_path / "t") as text, pytest.raises(ValueError, match="binary"):
        c.sendfile(text)
    with pytest.raises(OSError, match="negative") as caught:
        c.sendfile(file, -1)
    assert caught.value.errno == errno.EINVAL
    with c.stack.socket(type=socket.SOCK_DGRAM) as udp, pytest.raises(ValueError, match="SOCK_STREAM"):
        udp.sendfile(file)
    with pytest.raises(TypeError, match="a file, a descriptor, or None"):
        c.sendfile("a name")
    for wrong in (b"one buffer", "text"):
        with pytest.raises(TypeError, match="lists of buffers"):
            c.sendfile(file, headers=wrong)
        with pytest.raises(TypeError, match="lists of buffers"):
            c.sendfile(file, trailers=wrong)


def test_headers_and_trailers_without_a_file(pair):
    c, s = pair
    assert c.sendfile(None, headers=[b"ab", b"c"], trailers=[b"de"]) == 5
    c.shutdown(socket.SHUT_WR)
    assert read_all(s) == b"abcde"


@pytest.mark.parametrize("how", HOWS)
def test_an_offset_that_no_file_reaches(pair, file, how):
    assert pair[0].sendfile(file, 1 << 62, how=how) == 0


def test_a_device_is_read_from_where_it_stands(pair):
    c, s = pair
    with open("/dev/zero", "rb") as zeros:
        assert c.sendfile(zeros, count=10_000) == 10_000
        with pytest.raises(OSError, match="no offsets"):
            c.sendfile(zeros, 5, 10)
    c.shutdown(socket.SHUT_WR)
    assert read_all(s) == bytes(10_000)


def test_descriptors_that_cannot_be_read(pair, tmp_path):
    c, _ = pair
    with open(tmp_path / "w", "wb") as writable, pytest.raises(OSError, match="not open for reading") as caught:
        c.sendfile(writable)
    assert caught.value.errno == errno.EBADF
    gone = os.open(tmp_path / "w", os.O_RDONLY)
    os.close(gone)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        c.sendfile(gone)
    assert caught.value.errno == errno.EBADF
    folder = os.open(tmp_path, os.O_RDONLY)
    for offset in (0, None):
        with pytest.raises(IsADirectoryError):
            c.sendfile(folder, offset)
    os.close(folder)


def test_a_socket_that_is_not_connected(file):
    with ustack.Stack() as net, net.socket() as s, pytest.raises(OSError, match=r"not connected|Broken pipe"):
        s.sendfile(file)


@pytest.mark.parametrize("how", HOWS)
def test_a_non_blocking_socket_takes_what_there_is_room_for(pair, how):
    c, s = pair
    with tempfile.TemporaryFile() as f:
        f.truncate(20_000_000)              # a hole: zeros
        c.setblocking(False)
        total = 0
        full = False
        while not full and total < 20_000_000:
            try:
                total += c.sendfile(f, total, how=how)
                assert f.tell() == total
            except BlockingIOError:
                full = True
        assert full
        assert 0 < total < 20_000_000
        assert s.recv(total, socket.MSG_WAITALL) == bytes(total)


def test_a_timeout_says_how_much_went(pair):
    c, s = pair
    with tempfile.TemporaryFile() as f:
        f.truncate(20_000_000)
        c.settimeout(0.01)
        with pytest.raises(TimeoutError) as caught:
            c.sendfile(f, headers=[b"head"])
        moved = caught.value.moved
        assert 0 < moved < 20_000_000
        assert f.tell() == moved - 4
        assert s.recv(moved, socket.MSG_WAITALL) == b"head" + bytes(moved - 4)


def test_a_reset_says_how_much_went(pair):
    c, s = pair
    with tempfile.TemporaryFile() as f:
        f.truncate(50_000_000)
        failing = Background(c.sendfile, f)
        assert s.recv(1000, socket.MSG_WAITALL) == bytes(1000)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)) as caught:
            failing.result(PATIENCE)
        assert 1000 <= caught.value.moved < 50_000_000


@pytest.mark.parametrize(("how", "reasons"), [
    ("read", {"file.read", "tx.copy"}), ("mmap", {"tx.copy"}), ("copy", {"file.read"}), ("gather", set()),
    ("auto", set()),
])
def test_what_each_technique_copies(file, how, reasons):
    """CPU copies between the page cache and the link: 2, 1, 1, 0."""
    with Lossy(lambda raw: False) as wire:
        c, s = wire.connect()
        with c, s:
            assert c.sendfile(file, 0, 200_000, how=how) == 200_000
            got = bytearray()

            def received():
                with contextlib.suppress(BlockingIOError):
                    got.extend(s.recv(1 << 20))
                return len(got) == 200_000

            wire.run(received)
            assert bytes(got) == DATA[:200_000]
            assert copied(wire.stacks[0]) == dict.fromkeys(reasons, 200_000)


@pytest.mark.parametrize(("options", "reason"), [({"offloads": False}, "no_checksum"), ({"max_sg": 1}, "no_gather")])
def test_where_gathering_is_not_possible_it_is_counted_why(file, options, reason):
    with Lossy(lambda raw: False, **options) as wire:
        c, s = wire.connect()
        with c, s:
            assert c.sendfile(file, 0, 10_000, how="gather") == 10_000
            wire.carry()
            assert s.recv(20_000) == DATA[:10_000]
        assert wire.stacks[0].stats()[f"file.{reason}"] > 0
        assert copied(wire.stacks[0])["file.read"] == 10_000


def test_a_receiver_is_not_handed_the_pages_of_a_file(pair, file):
    assert sent_and_got(*pair, file, 0, 100_000, how="gather") == (100_000, DATA[:100_000])
    assert pair[0].stack.stats()["file.by_reference"] > 0
    assert copied(pair[0].stack) == {"file.read": 100_000}


@pytest.mark.parametrize("how", ["read", "mmap", "copy"])
def test_a_file_that_is_overwritten_at_once_was_sent_as_it_was(how):
    """Loss and retransmission included (S1, S2): the copying forms have let go of the file when they return."""
    with Lossy(lose_first(3)) as wire, tempfile.TemporaryFile() as f:
        f.write(DATA[:300_000])
        f.flush()
        c, s = wire.connect()
        with c, s:
            assert c.sendfile(f, how=how) == 300_000
            os.pwrite(f.fileno(), bytes(300_000), 0)
            got = bytearray()

            def received():
                with contextlib.suppress(BlockingIOError):
                    got.extend(s.recv(1 << 20))
                return len(got) == 300_000

            wire.run(received)
            assert bytes(got) == DATA[:300_000]
            assert wire.stacks[0].stats()["tcp.retransmitted_bytes"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_gathered_bytes_are_old_or_new_and_nothing_else(seed):
    """The file is overwritten with each packet, while it is sent, lost and sent again; checksums are always right."""
    rng = random.Random(seed)
    lose = lose_first(3)

    def overwrite_and_lose(raw):
        os.pwrite(f.fileno(), b"\xff" * rng.randrange(1, 3000), rng.randrange(297_000))
        return lose(raw)

    with tempfile.TemporaryFile() as f, Lossy(overwrite_and_lose) as wire:
        os.pwrite(f.fileno(), bytes(300_000), 0)
        c, s = wire.connect()
        with c, s:
            assert c.sendfile(f, how="gather") == 300_000
            got = bytearray()

            def received():
                with contextlib.suppress(BlockingIOError):
                    got.extend(s.recv(1 << 20))
                return len(got) >= 300_000

            wire.run(received)
            assert len(got) == 300_000
            assert set(got) == {0, 0xFF}
            assert wire.stacks[0].stats()["tcp.retransmitted_bytes"] > 0
            assert not wire.stacks[1].stats().get("tcp.checksum")
            assert copied(wire.stacks[0]) == {}


def test_windows_are_released_by_the_last_acknowledgement():
    ustack.drop_file_windows()
    with Lossy(lambda raw: False) as wire, tempfile.TemporaryFile() as f:
        f.write(DATA[:100_000])
        f.flush()
        c, s = wire.connect()
        with c, s:
            c.sendfile(f, how="gather")
            assert file_windows() == (1, 0)
            assert ustack.drop_file_windows() == 0
            wire.run(lambda: not c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)[24:28].strip(b"\0")
                     and file_windows() == (1, 1))
            assert ustack.drop_file_windows() == 1
            assert file_windows() == (0, 0)


def test_a_window_that_was_kept_shows_the_file_as_it_is_now():
    with Lossy(lambda raw: False) as wire, tempfile.TemporaryFile() as f:
        f.write(b"a" * 5000)
        f.flush()
        c, s = wire.connect()
        with c, s:
            for text in (b"a" * 5000, b"b" * 5000, b"c" * 9000):
                os.pwrite(f.fileno(), text, 0)
                assert c.sendfile(f, how="gather") == len(text)
                wire.carry()
                assert s.recv(10_000) == text


def test_a_file_that_was_replaced_is_another_file(tmp_path):
    """What is open is sent, whatever is called by its name now; and the new one is not mistaken for the old one."""
    path = tmp_path / "f"
    path.write_bytes(b"old" * 1000)
    with Lossy(lambda raw: False) as wire:
        c, s = wire.connect()
        with c, s, open(path, "rb") as old:
            assert c.sendfile(old, how="gather") == 3000
            (tmp_path / "g").write_bytes(b"new" * 1000)
            (tmp_path / "g").rename(path)
            assert c.sendfile(old, how="gather") == 3000
            with open(path, "rb") as new:
                assert c.sendfile(new, how="gather") == 3000
            wire.carry()
            assert s.recv(10_000) == b"old" * 2000 + b"new" * 1000
    ustack.drop_file_windows()


def test_many_threads_send_one_file(file):
    with two_stacks() as (near, far), contextlib.ExitStack() as stack:
        ends = [stack.enter_context(connected(near, far)) for _ in range(4)]
        jobs = [Background(sent_and_got, c, s, file, 0, None) for c, s in ends]
        for job, how in zip(jobs, HOWS, strict=False):
            assert job.result(PATIENCE) == (len(DATA), DATA), how
    assert threading.active_count() < 50


def test_closing_the_socket_ends_it(pair):
    c, s = pair
    with tempfile.TemporaryFile() as f:
        f.truncate(50_000_000)
        sending = Background(c.sendfile, f)
        assert s.recv(1000, socket.MSG_WAITALL) == bytes(1000)
        c.close()
        with pytest.raises(OSError, match=r"Bad file|Broken pipe"):
            sending.result(PATIENCE)


@pytest.mark.parametrize(("checksum", "reasons"), [
    ("auto", {"tx.copy"}), ("fused", {"tx.copy", "tx.fused"}), ("naive", {"tx.copy", "tx.checksum"}),
    ("outboard", {"tx.copy"}),
])
def test_forms_of_the_checksum_where_the_link_sums(pair, checksum, reasons):
    c, s = pair
    with reading(s) as got:
        assert c.write(DATA, checksum=checksum) == len(DATA)
        c.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == DATA
    assert copied(c.stack) == dict.fromkeys(reasons, len(DATA))


@pytest.mark.parametrize("checksum", ["auto", "fused", "naive", "outboard"])
def test_forms_of_the_checksum_where_it_does_not(checksum):
    """The receiver verifies every sum; a pass of its own is made by the naive and the outboard form only."""
    with ustack.Stack() as near, ustack.Stack() as far:
        for net, link, k in zip((near, far), ustack.pair(offloads=False), (1, 2), strict=True):
            net.add_interface(link, addresses=[f"10.9.0.{k}/24"])
        with connected(near, far) as (c, s), reading(s) as got:
            assert c.write(DATA, checksum=checksum) == len(DATA)
            c.shutdown(socket.SHUT_WR)
            assert got.result(PATIENCE) == DATA
        assert not far.stats().get("tcp.checksum")
        books = copied(near)
        assert books["tx.copy"] == len(DATA)
        assert (books.get("tx.fused", 0) == len(DATA)) == (checksum in ("auto", "fused"))
        assert (books.get("tx.checksum", 0) >= len(DATA)) == (checksum in ("naive", "outboard"))


def test_an_unknown_form_of_the_checksum(pair):
    with pytest.raises(ValueError, match="checksum is one of"):
        pair[0].write(b"x", checksum="sha")
    assert pair[0].write(b"") == 0


@pytest.mark.parametrize("how", ["auto", "copy", "mmap", "read", "gather"])
def test_no_disk_is_waited_for(tmp_path, how):
    """SF_NODISKIO: what is in memory goes, then EBUSY says how much that was; to read on helps."""
    data = random.Random(1).randbytes(4 << 20)
    with open(tmp_path / "cold", "w+b", buffering=0) as f, ustack.Stack() as near, ustack.Stack() as far:
        f.write(data)
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 1 << 20, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(f.fileno(), [bytearray(1)], 3 << 20, os.RWF_NOWAIT)
            pytest.skip("this file system keeps files in memory")
        except BlockingIOError:
            pass
        except OSError:
            pytest.skip("this file system does not say what is in memory")
        for net, link, k in zip((near, far), ustack.pair(device=True), (1, 2), strict=True):
            net.add_interface(link, addresses=[f"10.9.0.{k}/24"])
        with far.create_server(("10.9.0.2", 0)) as listener, near.create_connection(listener.getsockname()) as c:
            s, _ = listener.accept()
            with s:
                got = Background(read_all, s)
                with pytest.raises(OSError, match="busy") as caught:
                    c.sendfile(f, how=how, headers=[b"head"], flags=SF_NODISKIO)
                moved = caught.value.moved - 4
                assert caught.value.errno == errno.EBUSY
                assert moved <= 3 << 20
                assert f.tell() == moved
                assert f.read() == data[moved:]
                assert c.sendfile(f, moved, how=how, flags=SF_NODISKIO) == len(data) - moved
                c.shutdown(socket.SHUT_WR)
                assert got.result(60) == b"head" + data
                with pytest.raises(OSError, match="SF_NODISKIO"):
                    c.sendfile(f, flags=2)
