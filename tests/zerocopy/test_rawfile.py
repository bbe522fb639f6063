"""RawFile: the same bytes as through the page cache, whatever is aligned to what, and counted by the way they came."""

import errno
import mmap
import os
import random
import socket
import tempfile

import pytest
from helpers import Background

import ustack

PAGE = mmap.PAGESIZE
SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 64 * PAGE + 777]


def content(n):
    return random.Random(n).randbytes(n)


@pytest.fixture(params=["/dev/shm", None], ids=["shm", "tmp"])
def path(request):
    """A file's path: in memory, and wherever temporary files are."""
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        yield os.path.join(folder, "file")


def written(path, data):
    with open(path, "wb") as f:
        f.write(data)
    return ustack.RawFile(path)


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_file(path, size):
    with written(path, content(size)) as f, mmap.mmap(-1, size + 3 * PAGE) as m:
        assert f.read_into(m) == size
        assert m[:size] == content(size)
        assert m[size:] == bytes(3 * PAGE)
        assert f.raw + f.buffered == size
        assert f.raw == size // PAGE * PAGE or "refused" in f.fallbacks


def test_random_ranges(path):
    size = 40 * PAGE + 123
    data = content(size)
    rng = random.Random(1)
    with written(path, data) as f, mmap.mmap(-1, 50 * PAGE) as m:
        for _ in range(400):
            offset = rng.choice([rng.randrange(size + 2 * PAGE), rng.randrange(41) * PAGE])
            start = rng.choice([0, offset % PAGE, rng.randrange(PAGE), 512])
            n = rng.choice([rng.randrange(4 * PAGE), rng.randrange(45) * PAGE, 45 * PAGE])
            m[:] = b"\xee" * len(m)
            with memoryview(m)[start : start + n] as view:
                got = f.read_into(view, offset)
            assert got == max(0, min(n, size - offset))
            assert m[start : start + got] == data[offset : offset + got]
            assert m[:start] + m[start + got :] == b"\xee" * (len(m) - got)
        assert f.buffered
        assert {"unaligned", "small"} <= set(f.fallbacks)
        assert f.raw or "refused" in f.fallbacks


def test_whole_pages_come_past_the_page_cache(path):
    """Where the file system can do it at all."""
    with written(path, content(8 * PAGE)) as f, mmap.mmap(-1, 9 * PAGE) as m:
        with memoryview(m)[100 : 100 + 6 * PAGE] as view:
            assert f.read_into(view, 100) == 6 * PAGE
        assert m[100 : 100 + 6 * PAGE] == content(8 * PAGE)[100 : 100 + 6 * PAGE]
        if "refused" in f.fallbacks:
            assert f.raw == 0
        else:
            assert (f.raw, f.buffered, f.fallbacks) == (5 * PAGE, PAGE, {})


def test_what_the_file_system_refuses_is_read_all_the_same():
    with open("/proc/self/maps", "rb") as of_the_kernel, ustack.RawFile(of_the_kernel) as f:
        m = bytearray(1 << 20)
        n = f.read_into(m)
        assert n
        assert f.raw == 0
        assert f.buffered == n
        assert f.fallbacks["refused"] >= 1


def test_a_refusal_in_the_midst(path, monkeypatch):
    data = content(6 * PAGE)
    with written(path, data) as f, mmap.mmap(-1, 6 * PAGE) as m:
        honest, calls = os.preadv, []

        def refuses(fd, buffers, offset):
            if fd != f.fileno():
                calls.append(offset)
                if offset:
                    raise OSError(errno.EINVAL, "no")
                return honest(fd, [buffers[0][:PAGE]], offset)
            return honest(fd, buffers, offset)

        monkeypatch.setattr(os, "preadv", refuses)
        assert f.read_into(m) == 6 * PAGE
        assert m[:] == data
        assert calls in ([0, PAGE], [])
        if calls:
            assert (f.raw, f.buffered, f.fallbacks) == (PAGE, 5 * PAGE, {"refused": 1})


def test_an_error_of_the_disk_is_an_error(path, monkeypatch):
    def fails(fd, buffers, offset):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with written(path, content(4 * PAGE)) as f, mmap.mmap(-1, 4 * PAGE) as m:
        monkeypatch.setattr(os, "preadv", fails)
        with pytest.raises(OSError, match="Input/output"):
            f.read_into(m)


def test_the_file_behind_an_object_or_a_descriptor(path):
    written(path, content(PAGE)).close()
    with open(path, "rb") as plain, mmap.mmap(-1, PAGE) as m:
        for source in (plain, plain.fileno()):
            f = ustack.RawFile(source)
            assert f.read_into(m) == PAGE
            assert m[:] == content(PAGE)
            f.close()
            f.close()
        assert plain.read() == content(PAGE)  # neither closed nor moved


def test_what_makes_no_sense(path):
    with written(path, content(10)) as f:
        with pytest.raises(ValueError, match="negative"):
            f.read_into(bytearray(1), -1)
        with pytest.raises(TypeError, match="writable"):
            f.read_into(b"1234")
        with pytest.raises(TypeError):
            f.read_into(3)
        assert f.read_into(bytearray(0)) == 0
        assert f.read_into(bytearray(8), 1 << 40) == 0
    with pytest.raises(ValueError, match="closed"):
        f.read_into(bytearray(1))
    with pytest.raises(FileNotFoundError):
        ustack.RawFile(path + ".not")
    read, write = os.pipe()
    with pytest.raises(OSError, match="Illegal seek"):
        ustack.RawFile(read)
    os.close(read)
    os.close(write)


def test_from_the_disk_to_a_link_without_a_copy(path):
    """No copy by a CPU between disk and link: raw into memory that is sent in place."""
    data = content(64 * PAGE)
    near, far = ustack.pair(device=True)
    with ustack.Stack() as a, ustack.Stack() as b, written(path, data) as f, mmap.mmap(-1, len(data)) as m:
        a.add_interface(near, addresses=["10.9.0.1/24"])
        b.add_interface(far, addresses=["10.9.0.2/24"])
        with b.create_server(("10.9.0.2", 7)) as listener, a.create_connection(("10.9.0.2", 7)) as c:
            s, _ = listener.accept()
            with s:
                reading = Background(lambda: s.recv(len(data), socket.MSG_WAITALL))
                assert f.read_into(m) == len(data)
                c.sendall(m, direct=True)
                assert reading.result(20) == data
                assert "tx.copy" not in a.ledger()
