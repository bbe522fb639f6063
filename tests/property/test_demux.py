"""Flow tables against a dictionary."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ustack._core.py.probe_wire import Flows

addresses = st.sampled_from([0, 1, 2, 0x0A000001])
ports = st.integers(0, 3)
keys = st.tuples(addresses, ports, addresses, ports)


@given(st.lists(st.one_of(st.tuples(st.just("insert"), keys), st.tuples(st.just("remove"), st.integers(0, 60)),
                          st.tuples(st.just("find"), keys)), max_size=120))
@settings(deadline=None)
def test_against_a_dictionary(steps):
    table = Flows()
    model: dict[tuple[int, ...], list[int]] = {}
    owners: dict[int, tuple[int, ...]] = {}
    for n, (what, argument) in enumerate(steps):
        if what == "insert":
            table.insert(n + 1, *argument)
            model.setdefault(argument, []).insert(0, n + 1)
            owners[n + 1] = argument
        elif what == "remove" and argument in owners:
            table.remove(argument)
            model[owners.pop(argument)].remove(argument)
        elif what == "find":
            assert table.find(*argument) == model.get(argument, [])
        assert len(table) == len(owners)
    assert table.visit() == set(owners)


@given(st.lists(keys, min_size=1, max_size=40, unique=True), keys, st.integers(0, 2**32 - 1))
def test_a_hash_that_was_computed_before_may_be_anything(inserted, other, wrong):
    table = Flows()
    for n, key in enumerate(inserted):
        table.insert(n, *key)
    for n, key in enumerate(inserted):
        for known in (table.hash_of(n), table.hash_of(0), wrong):
            assert table.find_by(known, *key) == n
        if other not in inserted:
            assert table.find_by(table.hash_of(n), *other) is None


def test_it_grows_and_keeps_order():
    table = Flows()
    for i in range(1, 5001):
        table.insert(i, i % 2500, 80, 7, 9)
    assert len(table) == 5000
    assert table.visit() == set(range(1, 5001))
    for i in range(2500):
        newest = [n for n in (i + 2500, i, i + 5000) if 1 <= n <= 5000]
        assert table.find(i, 80, 7, 9) == sorted(newest, reverse=True)


def test_the_most_specific_listener():
    table = Flows()
    table.insert(1, 0, 80)
    assert table.find_local(5, 80) == 1
    table.insert(2, 5, 80)
    assert table.find_local(5, 80) == 2
    assert table.find_local(6, 80) == 1
    table.insert(3, 5, 80, 9, 9)                             # a connection is no listener
    assert table.find_local(5, 80) == 2
    assert table.find_local(5, 81) is None
    table.remove(2)
    assert table.find_local(5, 80) == 1
