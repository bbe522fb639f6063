"""The timer wheel against a sorted list."""

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ustack._core.py.probe_base import Wheel

TICK = 1 << 16
SLOT_SEARCH = 32        # of a far slot with more timers than this, only the beginning is known
N = 60

near = st.integers(0, 5 * TICK)
any_delay = near | st.integers(0, 1 << 26) | st.integers(0, 1 << 34) | st.integers(0, 1 << 44) | st.integers(0, 1 << 62)
index = st.integers(0, N - 1)


class AgainstSortedList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.wheel = Wheel(0, N)
        self.armed: dict[int, int] = {}
        self.scripts: dict[int, tuple[int, int | None]] = {}

    @rule(i=index, delay=any_delay)
    def arm(self, i: int, delay: int) -> None:
        self.wheel.arm(i, self.now + delay)
        self.armed[i] = self.now + delay

    @rule(i=index, before=st.integers(0, 1 << 40))
    def arm_in_the_past(self, i: int, before: int) -> None:
        self.wheel.arm(i, self.now - before)
        self.armed[i] = self.now - before

    @rule(delay=any_delay, step=st.integers(0, 3))
    def arm_many(self, delay: int, step: int) -> None:
        for i in range(N):
            self.arm(i, delay + i * step)

    @rule(i=index)
    def stop(self, i: int) -> None:
        self.wheel.stop(i)
        self.armed.pop(i, None)

    @rule(i=index)
    def never(self, i: int) -> None:
        self.wheel.arm(i, (1 << 63) - 1)
        self.armed.pop(i, None)

    @rule(i=index, other=index, delta=st.none() | st.integers(1, 1 << 34))
    def script(self, i: int, other: int, delta: int | None) -> None:
        self.wheel.script(i, other, delta)
        self.scripts[i] = (other, delta)

    def fired(self) -> list[tuple[int, int]]:
        """What a run must fire: in order of expiry, with re-arming and stopping in between."""
        result: list[tuple[int, int]] = []
        while self.armed:
            i = min(self.armed, key=lambda k: (self.armed[k], k))
            if self.armed[i] > self.now:
                break
            result.append((self.armed.pop(i), i))
            if i in self.scripts:
                other, delta = self.scripts.pop(i)
                if delta is None:
                    self.armed.pop(other, None)
                else:
                    self.armed[other] = self.now + delta
        return result

    def advance(self, to: int) -> None:
        self.now = to
        before = dict(self.armed)
        scripts = dict(self.scripts)
        want = self.fired()
        got = self.wheel.run(to)
        expiries = [e for e, _ in want]
        ties = len(set(expiries)) < len(expiries)
        if ties and scripts:
            # Equal expiries fire in any order, so what a script stops may have fired: take the wheel's own order.
            self.armed, self.scripts = before, scripts
            for i in got:
                assert self.armed.pop(i) <= to
                if i in self.scripts:
                    other, delta = self.scripts.pop(i)
                    if delta is None:
                        self.armed.pop(other, None)
                    else:
                        self.armed[other] = to + delta
            assert all(e > to for e in self.armed.values())
            return
        assert [before[i] for i in got] == expiries
        assert sorted(got) == sorted(i for _, i in want)

    @rule(delay=any_delay)
    def run(self, delay: int) -> None:
        self.advance(min(self.now + delay, 1 << 61))     # so that no timer is armed beyond 63 bits

    @rule()
    def run_at_the_deadline(self) -> None:
        deadline = self.wheel.deadline()
        if deadline is not None and deadline > self.now:
            self.advance(deadline)

    @invariant()
    def deadline_is_never_late(self) -> None:
        deadline = self.wheel.deadline()
        if not self.armed:
            assert deadline is None
        else:
            first = min(self.armed.values())
            assert deadline is not None
            assert deadline <= first
            if len(self.armed) <= SLOT_SEARCH:
                assert deadline == first

    @invariant()
    def what_is_armed_agrees(self) -> None:
        assert self.wheel.count == len(self.armed)
        assert {i for i in range(N) if self.wheel.armed(i)} == set(self.armed)


AgainstSortedList.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAgainstSortedList = AgainstSortedList.TestCase


@given(st.integers(0, 1 << 40), st.lists(any_delay, min_size=1, max_size=N))
@settings(max_examples=100, deadline=None)
def test_following_deadlines_meets_every_expiry_exactly(start: int, delays: list[int]):
    wheel = Wheel(start, len(delays))
    expiries = {}
    for i, delay in enumerate(delays):
        expiries[i] = min(start + delay, 1 << 62)
        wheel.arm(i, expiries[i])
    steps = 0
    while (now := wheel.deadline()) is not None:
        steps += 1
        assert steps < 20 * len(delays) + 20
        for i in wheel.run(max(now, start)):
            assert expiries.pop(i) == max(now, start) or now < start
    assert not expiries


def test_a_timer_fires_once_and_can_rearm_itself():
    wheel = Wheel(1000, 1)
    wheel.arm(0, 1000 + 3 * TICK)
    wheel.script(0, 0, 5)
    assert wheel.run(1000 + 3 * TICK - 1) == []
    assert wheel.run(1000 + 3 * TICK) == [0]
    assert wheel.deadline() == 1005 + 3 * TICK
    assert wheel.run(1004 + 3 * TICK) == []
    assert wheel.run(1 << 50) == [0]
    assert wheel.deadline() is None


def test_a_timer_stopped_by_an_earlier_one_does_not_fire():
    wheel = Wheel(0, 2)
    wheel.arm(0, 10)
    wheel.arm(1, 11)
    wheel.script(0, 1, None)
    assert wheel.run(100) == [0]
    assert not wheel.armed(1)
