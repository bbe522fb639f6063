"""Message blocks, regions and arenas as Python sees them."""

import gc
import itertools
import mmap
import random
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from ustack import buffers as b
from ustack._core.py import probe_mem


@pytest.fixture
def arena() -> Iterator[b.Arena]:
    """An arena of which nothing may be left over."""
    arena = b.Arena()
    yield arena
    if arena.live:
        gc.collect()
    arena.reap()
    assert arena.live == 0
    assert arena.held == 0


def message(arena: b.Arena, *parts: bytes | tuple[int, bytes]) -> b.Mblk:
    """A chain with one block per part; (type, bytes) for other types than M_DATA."""
    head: b.Mblk | None = None
    for part in parts:
        kind, octets = part if isinstance(part, tuple) else (b.M_DATA, part)
        block = b.msgcopyin(octets, 0, arena)
        block.db_type = kind
        if head is None:
            head = block
        else:
            b.linkb(head, block)
    assert head is not None
    return head


def parts(m: b.Mblk) -> list[bytes]:
    return [bytes(block) for block in m]


# --- blocks ---------------------------------------------------------------------------------------------------
def test_a_new_block_is_empty_and_exclusively_owned(arena: b.Arena):
    m = b.allocb(1000, arena)
    assert (m.rptr, m.wptr, m.db_ref, m.db_type, len(m)) == (0, 0, 1, b.M_DATA, 0)
    assert m.size >= 1000
    assert m.writable
    assert not m.external


@pytest.mark.parametrize(("size", "held"), [
    (0, 256), (256, 256), (257, 2048), (2048, 2048), (16384, 16384), (16385, 69632), (65536 + 2048, 69632),
    (100_000, 262144), (262144, 262144), (300_000, 303104), (5 << 20, 5 << 20)])
def test_sizes_come_from_the_smallest_fitting_pool(arena: b.Arena, size: int, held: int):
    m = b.allocb(size, arena)
    assert m.size >= size
    assert m.truesize == held == arena.held
    m.wptr = size
    memoryview(m)[:] = b"\xff" * size
    assert m.region_id is not None


def test_64_kb_are_one_block_and_page_aligned(arena: b.Arena):
    m = b.msgcopyin(bytes(65536), 0, arena)
    assert m.cont is None
    assert m.address % mmap.PAGESIZE == 0
    assert [len(x) for x in b.msgcopyin(bytes(65536 + 5), 0, arena)] == [65536, 5]


def test_an_empty_message_is_a_message(arena: b.Arena):
    assert parts(b.msgcopyin(b"", 100, arena)) == [b""]


def test_header_blocks_have_headroom(arena: b.Arena):
    m = b.alloc_header(arena)
    assert m.headroom >= 14 + 60 + 60
    assert m.tailroom >= 64


def test_the_hottest_buffer_is_used_next(arena: b.Arena):
    first, second = b.allocb(2000, arena), b.allocb(2000, arena)
    where = second.address
    b.freeb(first)
    b.freeb(second)
    assert b.allocb(2000, arena).address == where


def test_windows_stay_inside_their_storage(arena: b.Arena):
    m = b.allocb(100, arena)
    for name, value in [("rptr", 1), ("rptr", -1), ("wptr", m.size + 1), ("wptr", -1)]:
        with pytest.raises(ValueError, match=name):
            setattr(m, name, value)
    m.wptr = 10
    m.rptr = 10
    with pytest.raises(ValueError, match="wptr lies between"):
        m.wptr = 9


def test_a_freed_block_says_so(arena: b.Arena):
    m = b.allocb(10, arena)
    b.freeb(m)
    assert m.freed
    assert repr(m) == "<Mblk, freed>"
    for use in (b.freeb, b.freemsg, b.dupb, b.copyb, b.msgdsize, len, bytes, memoryview, list, b.unlinkb):
        with pytest.raises(ValueError, match="freed"):
            use(m)


def test_blocks_cannot_be_made_from_nothing():
    with pytest.raises(TypeError, match="allocb"):
        b.Mblk()


def test_an_idle_arena_holds_no_buffers(arena: b.Arena):
    assert arena.reserved == 0
    m = b.allocb(2000, arena)
    assert 0 < arena.reserved <= 1 << 20
    assert [p.total > 0 for p in arena.pools()] == [False, True, False, False, False]
    assert m.db_ref == 1


# --- sharing --------------------------------------------------------------------------------------------------
def test_dupb_shares_and_copyb_does_not(arena: b.Arena):
    m = b.msgcopyin(b"0123456789", 0, arena)
    m.rptr = 3
    m.db_type = b.M_PROTO
    twin, copy = b.dupb(m), b.copyb(m)
    assert (twin.address, twin.db_ref, m.db_ref) == (m.address, 2, 2)
    assert (copy.rptr, copy.wptr, copy.db_type, copy.db_ref) == (3, 10, b.M_PROTO, 1)
    twin.rptr = 5
    assert (bytes(m), bytes(twin)) == (b"3456789", b"56789")
    memoryview(copy)[:] = b"abcdefg"
    assert bytes(m) == b"3456789"
    assert arena.ledger()["copyb"] == (7, 1)
    for shared in (m, twin):
        assert memoryview(shared).readonly
        with pytest.raises(TypeError):
            memoryview(shared)[0] = 1
    b.freeb(twin)
    assert m.writable


def test_the_255_rule(arena: b.Arena):
    m = b.msgcopyin(b"x", 0, arena)
    m.ref_limit = 255
    twins = [b.dupb(m) for _ in range(254)]
    assert m.db_ref == 255
    with pytest.raises(BufferError, match="copyb"):
        b.dupb(m)
    assert bytes(b.copyb(m)) == b"x"
    b.freeb(twins.pop())
    assert b.dupb(m).db_ref == 255


def test_a_reference_limit_does_not_keep_a_message_from_being_cut(arena: b.Arena):
    m = b.msgcopyin(b"abcdef", 0, arena)
    m.ref_limit = 1
    rest = b.splitmsg(m, 2)
    assert rest is not None
    assert (bytes(m), bytes(rest), m.db_ref) == (b"ab", b"cdef", 1)


# --- views ----------------------------------------------------------------------------------------------------
def test_a_view_keeps_block_storage_and_region(arena: b.Arena):
    m = b.msgcopyin(b"hello", 0, arena)
    view = memoryview(m)
    b.freeb(m)
    again = [b.msgcopyin(b"-----", 0, arena) for _ in range(50)]
    assert bytes(view) == b"hello"
    assert arena.live == 2 * len(again) + 1
    view.release()
    assert arena.live == 2 * len(again)


def test_a_view_outlives_its_arena():
    arena = b.Arena()
    m = b.msgcopyin(bytes(range(256)) * 300, 0, arena)
    views = [memoryview(block) for block in m]
    del arena, m
    gc.collect()
    assert b"".join(views) == bytes(range(256)) * 300


def test_pullup_moves_nothing_under_a_view(arena: b.Arena):
    m = message(arena, b"abc", b"def")
    view = memoryview(m)
    assert b.pullupmsg(m)
    assert (bytes(m), bytes(view)) == (b"abcdef", b"abc")
    assert not view.readonly
    view[0] = 0x7A
    assert bytes(m) == b"abcdef"


def test_several_writable_views_of_one_owner(arena: b.Arena):
    m = b.msgcopyin(b"abc", 0, arena)
    with memoryview(m) as one, memoryview(m) as two:
        one[0], two[1] = 0x41, 0x42
        assert m.db_ref == 3
    assert bytes(m) == b"ABc"
    assert m.db_ref == 1


def test_a_view_is_what_it_was_when_the_window_moves(arena: b.Arena):
    m = b.msgcopyin(b"abcdef", 0, arena)
    view = memoryview(m)
    m.rptr = 4
    other = memoryview(m)
    assert (bytes(view), bytes(other), view.shape, other.shape) == (b"abcdef", b"ef", (6,), (2,))


# --- chains ---------------------------------------------------------------------------------------------------
def test_chains(arena: b.Arena):
    m = message(arena, b"a", b"bc", b"def")
    blocks = list(m)
    assert m.cont is blocks[1]
    assert b.unlinkb(m) is blocks[1]
    assert b.unlinkb(blocks[2]) is None
    b.linkb(m, blocks[1])
    assert b.rmvb(m, blocks[1]) is m
    assert parts(m) == [b"a", b"def"]
    assert b.rmvb(m, m) is blocks[2]
    with pytest.raises(ValueError, match="not in this message"):
        b.rmvb(m, blocks[2])


def test_a_block_is_in_one_message_at_most(arena: b.Arena):
    m = message(arena, b"a", b"b")
    inner = m.cont
    assert inner is not None
    for wrong in (lambda: b.linkb(b.allocb(1, arena), inner), lambda: b.freeb(inner), lambda: b.linkb(m, m),
                  lambda: b.linkb(inner, m), lambda: b.msgconsume(inner, 1)):
        with pytest.raises(ValueError, match=r"inside a message|follow itself"):
            wrong()
    assert parts(m) == [b"a", b"b"]


def test_a_dropped_head_frees_the_message_and_spares_what_is_still_held(arena: b.Arena):
    m = message(arena, b"a", b"b", b"c")
    second = m.cont
    del m
    gc.collect()
    assert second is not None
    assert parts(second) == [b"b", b"c"]
    assert arena.live == 4


def test_long_chains_do_not_exhaust_the_stack(arena: b.Arena):
    blocks = [b.allocb(1, arena) for _ in range(50_000)]
    for tail, head in itertools.pairwise(reversed(blocks)):
        b.linkb(head, tail)
    first = blocks[0]
    del blocks, head, tail
    assert b.msgbytes(first) == 0
    del first


@pytest.mark.parametrize("sizes", [s for k in (1, 2, 3) for s in itertools.product((0, 1, 2), repeat=k)])
@pytest.mark.parametrize("kinds", [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)])
def test_adjmsg_for_every_n_on_small_chains(arena: b.Arena, sizes: tuple[int, ...], kinds: tuple[int, ...]):
    letters = iter(b"abcdefghi")
    model = [(kind, bytes(itertools.islice(letters, n))) for kind, n in zip(kinds, sizes, strict=False)]
    run = list(itertools.takewhile(lambda x: x[0] == model[0][0], model))
    octets = b"".join(x for _, x in run)
    for n in range(-8, 9):
        m = message(arena, *model)
        first = m.address
        assert b.adjmsg(m, n) == (abs(n) <= len(octets))
        after = [(x.db_type, bytes(x)) for x in m]
        if abs(n) > len(octets):
            assert after == model
            continue
        cut = len(after) - (len(model) - len(run))
        assert after[cut:] == model[len(run) :]
        assert b"".join(x for _, x in after[:cut]) == (octets[n:] if n >= 0 else octets[:n])
        assert cut >= 1
        assert n <= 0 or m.address == first + min(n, len(model[0][1]))
        b.freemsg(m)
    assert arena.ledger().keys() <= {"tx.copy"}


def test_msgdsize_counts_data_only(arena: b.Arena):
    m = message(arena, (b.M_PROTO, b"control"), b"da", (b.M_PROTO, b"x"), b"ta")
    assert b.msgdsize(m) == 4
    assert b.msgbytes(m) == 12


def test_pullupmsg_leaves_other_holders_alone_and_fails_whole(arena: b.Arena):
    m = message(arena, b"abc", b"def", (b.M_PROTO, b"p"))
    twin = b.dupmsg(m)
    addresses = [x.address for x in twin]
    assert not b.pullupmsg(m, 7)
    assert parts(m) == [b"abc", b"def", b"p"]
    assert b.pullupmsg(m, 4)
    assert parts(m) == [b"abcd", b"ef", b"p"]
    assert parts(twin) == [b"abc", b"def", b"p"]
    assert [x.address for x in twin] == addresses
    assert arena.ledger()["pullup"] == (4, 1)
    assert b.pullupmsg(m)
    assert parts(m) == [b"abcdef", b"p"]


def test_pullupmsg_fails_whole_without_memory():
    arena = b.Arena(budget=3 * 2048)
    m = message(arena, bytes(1200), bytes(1000), bytes(1500))
    assert not b.pullupmsg(m)
    assert [len(x) for x in m] == [1200, 1000, 1500]
    assert arena.failures == 1


def test_contiguous_bytes_stay_where_they_are(arena: b.Arena):
    m = message(arena, b"abcdef", b"g")
    twin = b.dupb(m)
    assert b.pullupmsg(m, 6)
    assert m.address == twin.address
    assert "pullup" not in arena.ledger()


def test_msgpullup_makes_a_new_message(arena: b.Arena):
    m = message(arena, b"abc", b"def", b"ghi")
    last = list(m)[2].address
    new = b.msgpullup(m, 5)
    assert (parts(m), parts(new)) == ([b"abc", b"def", b"ghi"], [b"abcde", b"f", b"ghi"])
    assert list(new)[2].address == last
    with pytest.raises(ValueError, match="10 bytes"):
        b.msgpullup(m, 10)


def test_consuming_and_cutting_copy_nothing(arena: b.Arena):
    m = b.msgcopyin(bytes(200_000), 0, arena)
    before = arena.ledger()
    rest = b.splitmsg(m, 70_000)
    assert rest is not None
    window = b.dup_range(rest, 60_000, 65_000)
    left = b.msgconsume(rest, 100_000)
    assert left is not None
    assert (b.msgbytes(m), b.msgbytes(window), b.msgbytes(left)) == (70_000, 65_000, 30_000)
    assert arena.ledger() == before
    assert b.msgconsume(left, 30_000) is None


# --- external storage -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [b.esballoc, b.desballoc])
def test_free_runs_once_after_the_last_reference(arena: b.Arena, make):
    ran: list[int] = []
    memory = bytearray(b"0123456789")
    m = make(memory, lambda: ran.append(threading.get_ident()), arena)
    m.wptr = 10
    twin, view = b.dupb(m), memoryview(m)
    b.freeb(m)
    b.freeb(twin)
    b.allocb(1, arena)
    assert ran == []
    with pytest.raises(BufferError):
        memory.append(1)
    view.release()
    b.allocb(1, arena)                          # at the latest in the next call
    assert ran == [threading.get_ident()]
    memory.append(1)
    gc.collect()
    b.allocb(1, arena)
    assert len(ran) == 1


def test_desballoc_frees_inside_the_dropping_call_in_its_thread(arena: b.Arena):
    seen: list[tuple[int, bool]] = []
    done = False
    m = b.desballoc(bytearray(5), lambda: seen.append((threading.get_ident(), done)), arena)

    def drop() -> None:
        nonlocal done
        b.freeb(m)
        done = True

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    ident = thread.ident
    thread.join(60)
    assert seen == [(ident, False)]


def test_free_functions_run_in_the_order_of_the_drops(arena: b.Arena):
    order: list[int] = []
    blocks = [b.esballoc(bytearray(1), lambda i=i: order.append(i), arena) for i in range(10)]
    for i in (3, 1, 2):
        b.freeb(blocks[i])
    del blocks
    b.allocb(1, arena)
    assert order[:3] == [3, 1, 2]
    assert sorted(order) == list(range(10))


def test_a_free_function_that_raises_is_reported_and_leaks_nothing(
        arena: b.Arena, monkeypatch: pytest.MonkeyPatch):
    reports: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(report.exc_type))

    class Callback:
        def __call__(self) -> None:
            raise LookupError("mine")

    callback = Callback()
    gone = weakref.ref(callback)
    memory = bytearray(5)
    b.freeb(b.esballoc(memory, callback, arena))
    del callback
    b.allocb(1, arena)
    assert reports == [LookupError]
    assert gone() is None
    memory.append(1)


def test_a_free_function_may_use_the_library(arena: b.Arena):
    seen: list[bytes] = []

    def again() -> None:
        seen.append(bytes(b.msgcopyin(b"inner", 0, arena)))
        b.freeb(b.desballoc(bytearray(1), lambda: seen.append(b"innermost"), arena))

    b.freeb(b.desballoc(bytearray(1), again, arena))
    b.allocb(1, arena)
    assert seen == [b"inner", b"innermost"]


def test_any_exporter_can_be_lent(arena: b.Arena):
    with mmap.mmap(-1, 4096) as mapped:
        mapped[:5] = b"hello"
        region = b.Region(4096)
        memoryview(region)[:5] = b"hello"
        for memory, writable in [(b"hello", False), (bytearray(b"hello"), True), (mapped, True), (region, True),
                                 (memoryview(b"xhello")[1:], False)]:
            m = b.esballoc(memory, None, arena)
            m.wptr = 5
            assert bytes(m) == b"hello"
            assert (m.external, m.writable, m.region_id) == (True, writable, None)
            b.freeb(m)
        b.allocb(1, arena)
    with pytest.raises(TypeError):
        b.esballoc(5, None, arena)
    with pytest.raises(BufferError):
        b.esballoc(memoryview(bytes(10))[::2], None, arena)


def test_a_dead_arena_still_gives_back_what_it_lent():
    ran: list[int] = []
    m = b.esballoc(bytearray(5), lambda: ran.append(1), b.Arena())
    gc.collect()
    b.freeb(m)
    b.allocb(1)
    assert ran == [1]


# --- budget ---------------------------------------------------------------------------------------------------
def test_the_budget_bounds_what_is_out_and_recovers():
    arena = b.Arena(budget=10 * 2048)
    blocks = [b.allocb(2000, arena) for _ in range(10)]
    assert arena.held == arena.budget
    for size in (1, 2000, 65536, 1 << 20):
        with pytest.raises(MemoryError, match="budget"):
            b.allocb(size, arena)
    assert arena.failures == 4
    assert b.dupb(blocks[0]).db_ref == 2            # shares: needs no budget
    b.freeb(blocks.pop())
    assert b.allocb(2000, arena).size == 2048
    arena.budget = 0
    assert b.allocb(1 << 20, arena).size == 1 << 20


def test_a_message_that_does_not_fit_leaves_nothing_behind():
    arena = b.Arena(budget=150_000)
    with pytest.raises(MemoryError):
        b.msgcopyin(bytes(500_000), 0, arena)
    assert (arena.live, arena.held) == (0, 0)
    assert b.msgbytes(b.msgcopyin(bytes(100_000), 0, arena)) == 100_000


# --- sums -----------------------------------------------------------------------------------------------------
def test_cached_sums_are_used_and_edges_are_booked(arena: b.Arena):
    octets = random.Random(3).randbytes(65536)
    m = b.msgcopyin(octets, 1448, arena)
    assert arena.ledger() == {"tx.copy": (65536, 1), "tx.fused": (65536, 1)}
    for offset, n, read in [(0, 65536, 0), (1448, 14480, 0), (1448 * 40, 65536 - 1448 * 40, 0), (1, 1447, 1447),
                            (1000, 1448 * 3, 1448), (1448, 1449, 1), (65535, 1, 1), (1449, 1448 * 2 - 2, 2894)]:
        before = arena.ledger().get("tx.checksum", (0, 0))[0]
        assert b.msgsum(m, offset, n) == b.checksum_partial(octets[offset : offset + n])
        assert arena.ledger().get("tx.checksum", (0, 0))[0] - before == read


def test_appending_carries_the_sums_on(arena: b.Arena):
    octets = random.Random(4).randbytes(9000)
    m = b.msgcopyin(octets[:3001], 1001, arena)
    for at in range(3001, 9000, 333):
        b.msgappend(m, octets[at : at + 333])
    assert bytes(b.dupb(m)) == octets               # a shared block is seen read-only: the sums stay
    assert b.msgsum(m) == b.checksum_partial(octets)
    assert "tx.checksum" not in arena.ledger()
    assert arena.ledger()["tx.fused"][0] == arena.ledger()["tx.copy"][0] + arena.ledger()["tx.append"][0] == 9000


def test_a_writable_view_makes_the_block_forget_its_sums(arena: b.Arena):
    m = b.msgcopyin(b"abcdefgh" * 100, 100, arena)
    memoryview(m)[150] = 0
    assert b.msgsum(m) == b.checksum_partial(b.msgcopyout(m))


# --- regions --------------------------------------------------------------------------------------------------
def test_regions_are_shareable_memory():
    region = b.Region(5000)
    assert len(region) == 8192
    assert len({region.id, b.Region(1).id, b.Region(1).id}) == 3
    with mmap.mmap(region.fileno(), 8192) as other:
        memoryview(region)[4999] = 7
        assert other[4999] == 7
    view = memoryview(region)
    del region
    gc.collect()
    assert view[4999] == 7


def test_wishes_of_a_region_fall_back():
    region = b.Region(1 << 16, locked=True, huge=True)
    memoryview(region)[:] = b"\1" * len(region)
    assert isinstance(region.locked, bool)
    assert isinstance(region.huge, bool)
    for bad in (0, -5):
        with pytest.raises(ValueError, match="at least one byte"):
            b.Region(bad)


# --- threads --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", [0, 300_000])
def test_threads_that_make_share_hand_over_and_free(budget: int):
    playground = probe_mem.Playground(budget)
    results: list[tuple[int, int]] = []
    threads = [threading.Thread(target=lambda seed=seed: results.append(playground.play(150_000, seed)), daemon=True)
               for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ran, live, held = playground.finish()
    assert [bad for _, bad in results] == [0, 0, 0]
    assert ran == sum(lent for lent, _ in results) > 1000
    assert (live, held) == (0, 0)


def test_callbacks_run_once_when_threads_race():
    arena = b.Arena()
    ran: list[tuple[int, int]] = []

    def work(thread: int) -> None:
        for i in range(300):
            m = b.esballoc(bytearray(8), lambda i=i: ran.append((thread, i)), arena)
            twins = [b.dupb(m) for _ in range(3)]
            b.freeb(m)
            del twins

    threads = [threading.Thread(target=work, args=(t,), daemon=True) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    arena.reap()
    assert sorted(ran) == [(t, i) for t in range(4) for i in range(300)]
    assert arena.live == 0
