"""Random sequences of operations on messages, against a model that knows nothing but lists of (type, bytes)."""

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ustack import buffers as b

Block = tuple[int, bytes]
data = st.binary(max_size=40) | st.binary(min_size=600, max_size=700)
kinds = st.sampled_from([b.M_DATA, b.M_DATA, b.M_DATA, b.M_PROTO])
number = st.integers(0, 1 << 30)


def reference_sum(octets: bytes) -> int:
    total = sum(int.from_bytes(octets[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(octets), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def same_sum(x: int, y: int) -> bool:
    return x == y or {x, y} == {0, 0xFFFF}


def joined(model: list[Block]) -> bytes:
    return b"".join(octets for _, octets in model)


def leading(model: list[Block]) -> int:
    """How many blocks of the first one's type lead the message."""
    n = 0
    while n < len(model) and model[n][0] == model[0][0]:
        n += 1
    return n


class Algebra(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.arena = b.Arena()
        self.messages: list[tuple[b.Mblk, list[Block]]] = []
        self.freed: list[int] = []
        self.lent = 0

    def pick(self, i: int) -> tuple[b.Mblk, list[Block]]:
        return self.messages[i % len(self.messages)]

    # --- making and freeing ---------------------------------------------------------------------------------
    @rule(octets=data, kind=kinds, room=st.integers(0, 64), head=st.integers(0, 32))
    def allocb(self, octets: bytes, kind: int, room: int, head: int) -> None:
        m = b.allocb(head + len(octets) + room, self.arena)
        m.wptr = m.rptr = 0
        m.wptr = head
        m.rptr = head
        assert b.msgappend(m, octets) == len(octets)
        m.db_type = kind
        self.messages.append((m, [(kind, octets)]))

    @rule(octets=data, stride=st.integers(0, 300), phase=st.integers(0, 299))
    def copyin(self, octets: bytes, stride: int, phase: int) -> None:
        phase = phase % stride if stride else 0
        self.messages.append((b.msgcopyin(octets, stride, self.arena, phase=phase), [(b.M_DATA, octets)]))

    @rule(octets=data, at_once=st.booleans(), mutable=st.booleans())
    def external(self, octets: bytes, at_once: bool, mutable: bool) -> None:
        make = b.desballoc if at_once else b.esballoc
        serial = self.lent
        self.lent += 1
        m = make(bytearray(octets) if mutable else octets, lambda: self.freed.append(serial), self.arena)
        m.wptr = len(octets)
        self.messages.append((m, [(b.M_DATA, octets)]))

    @precondition(lambda self: self.messages)
    @rule(i=number)
    def freemsg(self, i: int) -> None:
        m, _ = self.messages.pop(i % len(self.messages))
        blocks = list(m)
        b.freemsg(m)
        assert all(block.freed for block in blocks)

    # --- sharing and copying --------------------------------------------------------------------------------
    @precondition(lambda self: self.messages)
    @rule(i=number)
    def dupmsg(self, i: int) -> None:
        m, model = self.pick(i)
        before = [block.db_ref for block in m]
        twin = b.dupmsg(m)
        assert [block.address for block in twin] == [block.address for block in m]
        assert all(block.db_ref > ref for block, ref in zip(m, before, strict=True))
        self.messages.append((twin, list(model)))

    @precondition(lambda self: self.messages)
    @rule(i=number)
    def copymsg(self, i: int) -> None:
        m, model = self.pick(i)
        before = self.arena.ledger().get("copyb", (0, 0))[0]
        copy = b.copymsg(m)
        assert [(c.rptr, c.wptr, c.db_ref) for c in copy] == [(o.rptr, o.wptr, 1) for o in m]
        assert self.arena.ledger().get("copyb", (0, 0))[0] - before == len(joined(model))
        self.messages.append((copy, list(model)))

    @precondition(lambda self: self.messages)
    @rule(i=number, offset=number, n=number)
    def dup_range(self, i: int, offset: int, n: int) -> None:
        m, model = self.pick(i)
        total = len(joined(model))
        offset %= total + 1
        n %= total - offset + 1
        part = b.dup_range(m, offset, n)
        assert b.msgcopyout(part) == joined(model)[offset : offset + n]
        self.messages.append((part, [(block.db_type, bytes(block)) for block in part]))

    # --- chains ---------------------------------------------------------------------------------------------
    @precondition(lambda self: len(self.messages) > 1)
    @rule(i=number, j=number)
    def linkb(self, i: int, j: int) -> None:
        m, model = self.messages.pop(i % len(self.messages))
        tail, tail_model = self.pick(j)
        b.linkb(tail, m)
        tail_model += model

    @precondition(lambda self: self.messages)
    @rule(i=number)
    def unlinkb(self, i: int) -> None:
        m, model = self.pick(i)
        rest = b.unlinkb(m)
        assert (rest is None) == (len(model) == 1)
        if rest is not None:
            self.messages.append((rest, model[1:]))
            del model[1:]

    @precondition(lambda self: self.messages)
    @rule(i=number, k=number)
    def rmvb(self, i: int, k: int) -> None:
        at = i % len(self.messages)
        m, model = self.messages[at]
        k %= len(model)
        block = list(m)[k]
        rest = b.rmvb(m, block)
        assert (rest is None) == (len(model) == 1)
        if rest is None:
            self.messages[at] = (block, model)
        else:
            self.messages[at] = (rest, model[:k] + model[k + 1 :])
            self.messages.append((block, [model[k]]))

    @precondition(lambda self: self.messages)
    @rule(i=number, n=st.integers(-1, 90) | st.integers(-1, 800))
    def pullupmsg(self, i: int, n: int) -> None:
        m, model = self.pick(i)
        run = leading(model)
        have = len(joined(model[:run]))
        done = b.pullupmsg(m, n)
        assert done == (n <= have)
        want = have if n == -1 else n
        if not done or want <= len(model[0][1]):
            return
        assert len(m) == want
        octets = joined(model[:run])
        blocks = list(m)
        # What lies behind is the same blocks, cut; which empty ones stay is not said.
        rest = [(block.db_type, bytes(block)) for block in blocks[1:]]
        assert joined(rest) == joined(model)[want:]
        assert [x for x in rest if x[0] != model[0][0]] == [x for x in model if x[0] != model[0][0]]
        model[:] = [(model[0][0], octets[:want]), *rest]

    @precondition(lambda self: self.messages)
    @rule(i=number, n=st.integers(-1, 90) | st.integers(-1, 800))
    def msgpullup(self, i: int, n: int) -> None:
        m, model = self.pick(i)
        have = len(joined(model[: leading(model)]))
        if n > have:
            try:
                b.msgpullup(m, n)
            except ValueError:
                return
            raise AssertionError("bytes from nowhere")
        new = b.msgpullup(m, n)
        assert len(new) == (have if n == -1 else n)
        assert b.msgcopyout(new) == joined(model)
        self.messages.append((new, [(block.db_type, bytes(block)) for block in new]))

    @precondition(lambda self: self.messages)
    @rule(i=number, n=st.integers(-45, 45) | st.integers(-800, 800))
    def adjmsg(self, i: int, n: int) -> None:
        m, model = self.pick(i)
        run = leading(model)
        octets = joined(model[:run])
        addresses = {block.address for block in m}
        done = b.adjmsg(m, n)
        assert done == (abs(n) <= len(octets))
        if done:
            left = octets[n:] if n >= 0 else octets[: len(octets) + n]
            now = [(block.db_type, bytes(block)) for block in m]
            behind = len(model) - run
            split = len(now) - behind
            assert now[split:] == model[run:]
            assert joined(now[:split]) == left
            assert n > 0 or {block.address for block in m} <= addresses
            model[:] = now

    @precondition(lambda self: self.messages)
    @rule(i=number, n=number)
    def splitmsg(self, i: int, n: int) -> None:
        m, model = self.pick(i)
        total = len(joined(model))
        n %= total + 2
        rest = b.splitmsg(m, n)
        if rest is None:
            assert n >= total
            return
        assert b.msgcopyout(m) == joined(model)[:n]
        assert b.msgcopyout(rest) == joined(model)[n:]
        model[:] = [(block.db_type, bytes(block)) for block in m]
        self.messages.append((rest, [(block.db_type, bytes(block)) for block in rest]))

    @precondition(lambda self: self.messages)
    @rule(i=number, n=number)
    def msgconsume(self, i: int, n: int) -> None:
        m, model = self.messages.pop(i % len(self.messages))
        n %= len(joined(model)) + 2
        octets = joined(model)[n:]
        first = b.msgconsume(m, n)
        if first is None:
            assert not octets
        else:
            assert b.msgcopyout(first) == octets
            self.messages.append((first, [(block.db_type, bytes(block)) for block in first]))

    # --- bytes ----------------------------------------------------------------------------------------------
    @precondition(lambda self: self.messages)
    @rule(i=number, octets=data)
    def msgappend(self, i: int, octets: bytes) -> None:
        m, model = self.pick(i)
        last = list(m)[-1]
        room = last.tailroom if last.writable else 0
        n = b.msgappend(m, octets)
        assert n == min(room, len(octets))
        model[-1] = (model[-1][0], model[-1][1] + octets[:n])

    @precondition(lambda self: self.messages)
    @rule(i=number, k=number, octets=data)
    def write_in_place(self, i: int, k: int, octets: bytes) -> None:
        m, model = self.pick(i)
        k %= len(model)
        block = list(m)[k]
        with memoryview(block) as view:
            assert view.readonly == (block.db_ref > 2 or (block.external and not block.writable))
            if not view.readonly:
                new = octets[: len(view)]
                view[: len(new)] = new
                model[k] = (model[k][0], new + model[k][1][len(new) :])

    @precondition(lambda self: self.messages)
    @rule(i=number, r=number, w=number)
    def move_the_window_in(self, i: int, r: int, w: int) -> None:
        m, model = self.pick(i)
        kind, octets = model[0]
        r %= len(octets) + 1
        w %= len(octets) - r + 1
        m.wptr -= w
        m.rptr += r
        model[0] = (kind, octets[r : len(octets) - w])

    @rule(octets=st.binary(min_size=30, max_size=40), cut=st.integers(1, 25), more=data, pull=st.booleans())
    def refill_what_was_summed(self, octets: bytes, cut: int, more: bytes, pull: bool) -> None:
        m = b.msgcopyin(octets, 20, self.arena)
        assert b.adjmsg(m, -cut)
        left = octets[:-cut]
        if pull:
            b.linkb(m, b.msgcopyin(more, 0, self.arena))
            assert b.pullupmsg(m)
        else:
            more = more[: b.msgappend(m, more)]
        self.messages.append((m, [(b.M_DATA, left + more)]))
        if pull and m.cont is not None:
            self.messages[-1][1].append((b.M_DATA, b""))

    # --- what always holds ----------------------------------------------------------------------------------
    @invariant()
    def messages_are_what_the_model_says(self) -> None:
        for m, model in self.messages:
            blocks = list(m)
            assert [(block.db_type, len(block)) for block in blocks] == [(t, len(o)) for t, o in model]
            assert all(0 <= x.rptr <= x.wptr <= x.size for x in blocks)
            assert b.msgcopyout(m) == joined(model)
            assert b.msgbytes(m) == len(joined(model))
            assert b.msgdsize(m) == sum(len(octets) for kind, octets in model if kind == b.M_DATA)
            assert same_sum(b.msgsum(m), reference_sum(joined(model)))
            half = len(joined(model)) // 3
            assert same_sum(b.msgsum(m, half), reference_sum(joined(model)[half:]))

    def teardown(self) -> None:
        while self.messages:
            self.freemsg(0)
        self.arena.reap()
        assert self.arena.live == 0
        assert self.arena.held == 0
        assert sorted(self.freed) == list(range(self.lent))


Algebra.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAlgebra = Algebra.TestCase


@given(
    stride=st.integers(1000, 9000),
    writes=st.lists(st.integers(1, 70_000), min_size=1, max_size=8),
    filler=st.randoms(use_true_random=False),
)
def test_sums_that_go_on_in_phase_cover_every_segment(stride: int, writes: list[int], filler) -> None:
    """Writes of any size, each in phase with what is queued: no segment needs a byte read again for its checksum."""
    arena = b.Arena()
    octets = filler.randbytes(sum(writes))
    queue, at = None, 0
    for n in writes:
        m = b.msgcopyin(octets[at : at + n], stride, arena, phase=at % stride)
        if queue is None:
            queue = m
        else:
            b.linkb(queue, m)
        at += n
    for offset in range(0, at, stride):
        n = min(stride, at - offset)
        assert same_sum(b.msgsum(queue, offset, n), reference_sum(octets[offset : offset + n]))
    assert "tx.checksum" not in arena.ledger()
    b.freemsg(queue)
