"""What the fuzzer found worth keeping (tools/fuzz): every input goes through without breaking a rule."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ustack._core.py import probe_fuzz

CORPUS = Path(__file__).parent / "corpus"


def inputs() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def test_the_corpus_is_there_and_small():
    found = inputs()
    assert len(found) > 100
    assert sum(map(len, found)) < 200_000


def test_every_input_of_the_corpus():
    broken = {data.hex(): rule for data in inputs() if (rule := probe_fuzz.run(data))}
    assert broken == {}


@pytest.mark.parametrize("state", range(12))
def test_damaged_inputs_in_every_state(state: int):
    """Without the guidance: a few thousand neighbours of the corpus."""
    dice = random.Random(state)
    found = inputs()
    for _ in range(1000):
        data = bytearray(dice.choice(found) + dice.choice(found)[2:])
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.getrandbits(8)
        data[0] = state
        assert probe_fuzz.run(bytes(data)) == 0, data.hex()


def test_an_input_that_ends_early_just_stops():
    for data in inputs()[:50]:
        for n in range(min(len(data), 40)):
            assert probe_fuzz.run(data[:n]) == 0
