"""The scoreboard against a model that keeps what it knows of each byte by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ustack._core.py.probe_tcp import Scoreboard

MASK = 0xFFFFFFFF
HELD, LOST, RESENT = 1, 2, 4
MS = 1_000_000
# Near zero, near 2^31, and across 2^32
BASES = st.sampled_from([0, 1000, 0x7FFFFF80, 0xFFFFFF80])
SPANS = st.tuples(st.integers(0, 300), st.integers(0, 60))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sent"), st.integers(1, 60), st.booleans()),
        st.tuples(st.sampled_from(["resent", "sack"]), SPANS, st.booleans()),
        st.tuples(st.sampled_from(["ack", "lose_below"]), st.integers(0, 300), st.booleans()),
        st.tuples(st.sampled_from(["lose_all", "renege", "unlose"]), st.just(0), st.booleans()),
    ),
    max_size=40,
)


@dataclass
class Byte:
    """What is known of one byte in flight."""

    at: int
    fate: int = 0


@dataclass
class Model:
    """Bytes una to nxt."""

    una: int = 0
    nxt: int = 0
    highest: int = 0
    bytes: dict[int, Byte] = field(default_factory=dict)
    best: tuple[int, int] = (0, 0)

    def deliver(self, x: int, now: int, recover: int, min_rtt: int, echo: int | None) -> tuple[int, bool, bool]:
        b = self.bytes[x]
        if not b.fate & RESENT:
            self.best = max(self.best, (b.at, x + 1))
            return 1, x + 1 <= recover, x + 1 < self.highest
        late = now - b.at >= min_rtt and (echo is None or echo >= b.at // MS)
        if late:
            self.best = max(self.best, (b.at, x + 1))
        return 1, False, False

    def runs(self) -> list[tuple[int, int, int]]:
        out: list[tuple[int, int, int]] = []
        for x in range(self.una, self.nxt):
            fate = self.bytes[x].fate
            if out and out[-1][1] == x and out[-1][2] == fate:
                out[-1] = (out[-1][0], x + 1, fate)
            else:
                out.append((x, x + 1, fate))
        return out

    def total(self, fate: int) -> int:
        return sum(1 for b in self.bytes.values() if b.fate & (HELD | LOST | RESENT) == fate)


def joined(runs: list[tuple[int, int, int, int]], base: int) -> list[tuple[int, int, int]]:
    """Neighbours of one fate as one, whenever they were sent."""
    out: list[tuple[int, int, int]] = []
    for start, end, fate, _ in runs:
        start, end = (start - base) & MASK, (end - base) & MASK
        if out and out[-1][1] == start and out[-1][2] == fate:
            out[-1] = (out[-1][0], end, fate)
        else:
            out.append((start, end, fate))
    return out


def compare(board: Scoreboard, model: Model, base: int) -> None:
    assert joined(board.runs(), base) == model.runs()
    for start, end, fate, at in board.runs():
        if not fate & HELD:
            assert all(model.bytes[x].at == at for x in range((start - base) & MASK, (end - base) & MASK))
    lost = sum(1 for b in model.bytes.values() if b.fate & LOST)
    assert board.totals == (model.total(HELD), lost, model.total(RESENT))
    first = next((r for r in lost_runs(model)), None)
    assert board.lost() == (None if first is None else ((base + first[0]) & MASK, (base + first[1]) & MASK))
    held = sum(1 for r in model.runs() if r[2] & HELD)
    assert board.held_runs(3) == min(3, held)


def lost_runs(model: Model) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for x in range(model.una, model.nxt):
        if model.bytes[x].fate & LOST:
            if out and out[-1][1] == x:
                out[-1] = (out[-1][0], x + 1)
            else:
                out.append((x, x + 1))
    return out


@settings(max_examples=300, deadline=None)
@given(BASES, STEPS, st.integers(0, 5), st.integers(0, 300), st.sampled_from([None, 0, 2, 5]))
def test_every_byte_is_known(
    base: int, steps: list[tuple[str, int | tuple[int, int], bool]], min_rtt: int, recover: int, echo: int | None
) -> None:
    board, model, now = Scoreboard(), Model(), MS
    for what, arg, later in steps:
        now += MS if later else 0
        board.begin(now, base + recover, base + model.highest, min_rtt * MS, echo)
        news = [(0, False, False)]

        def deliver(x: int) -> tuple[int, bool, bool]:
            return model.deliver(x, now, recover, min_rtt * MS, echo)    # noqa: B023 - used within the step

        if what == "sent":
            assert isinstance(arg, int)
            assert board.sent(base + model.nxt, base + model.nxt + arg, now)
            for x in range(model.nxt, model.nxt + arg):
                model.bytes[x] = Byte(now)
            model.nxt += arg
        elif isinstance(arg, tuple):
            start = max(model.una, min(arg[0], model.nxt))
            end = min(start + arg[1], model.nxt)
            if what == "resent" and start < end:
                board.resent(base + start, base + end, now)
                for x in range(start, end):
                    if not model.bytes[x].fate & HELD:
                        model.bytes[x] = Byte(now, RESENT)
            elif what == "sack":
                fresh = [x for x in range(start, end) if not model.bytes[x].fate & HELD]
                news += [deliver(x) for x in fresh]
                assert board.sack(base + start, base + end) == len(fresh)
                for x in fresh:
                    model.bytes[x].fate = HELD
        elif what == "ack":
            una = max(model.una, min(arg, model.nxt))
            news += [deliver(x) for x in range(model.una, una) if not model.bytes[x].fate & HELD]
            board.ack(base + una)
            model.bytes = {x: b for x, b in model.bytes.items() if x >= una}
            model.una = una
        elif what == "lose_below":
            edge = max(model.una, min(arg, model.nxt))
            chosen = [x for x in range(model.una, edge) if model.bytes[x].fate == 0]
            assert board.lose_below(base + edge) == len(chosen)
            for x in chosen:
                model.bytes[x].fate = LOST
        elif what == "lose_all":
            board.lose_all()
            for b in model.bytes.values():
                b.fate |= 0 if b.fate & HELD else LOST
        elif what == "renege":
            board.renege()
            for b in model.bytes.values():
                if b.fate & HELD:
                    b.fate, b.at = LOST | RESENT, 0
        else:
            board.unlose()
            for b in model.bytes.values():
                b.fate &= ~LOST
        told = board.news
        assert told["delivered"] == sum(n for n, _, _ in news)
        # Runs are judged by their ends: a run that straddles the limit is taken for one beyond it.
        assert not told["original"] or any(o for _, o, _ in news)
        assert not told["reordered"] or any(r for _, _, r in news)
        if model.best != (0, 0):
            assert (told["at"], (told["end"] - base) & MASK) == model.best
        held = [x + 1 for x, b in model.bytes.items() if b.fate & HELD]
        model.highest = max([model.highest, model.una, *held])
        compare(board, model, base)


@given(BASES, st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_bounds_cost_precision_and_nothing_else(base: int, dice: Random) -> None:
    """Thousands of runs: times become coarse, never early; bytes stay exact, or a block is forgotten whole."""
    board = Scoreboard()
    for i in range(4000):
        assert board.sent(base + i, base + i + 1, i)
    assert len(board.runs()) <= 1024
    for start, end, _, at in board.runs():
        assert at >= (end - base - 1) & MASK >= (start - base) & MASK
    held: set[int] = set()
    for _ in range(800):
        start, n = dice.randrange(1, 3000), dice.randrange(1, 10)
        new = set(range(start, start + n)) - held
        told = board.sack(base + start, base + start + n)
        assert told in (0, len(new))
        if told:
            held |= new
        board.resent(base + start - 1, base + start, 5000)
    assert len(board.runs()) <= 1024
    assert board.totals[0] == len(held)
    seen = {x for start, end, fate, _ in board.runs() if fate & HELD
            for x in range((start - base) & MASK, (end - base) & MASK)}
    assert seen == held
    board.ack(base + 4000)
    assert board.runs() == []
    assert board.totals == (0, 0, 0)
