"""A share of `tests.stress.texts`, and that it sees what it should."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from batchwright.advise import Gain, advise
from tests.stress import profiles, texts

SEEDS = range(24)


@pytest.fixture(scope="module")
def drawn():
    return [texts.random_evidence(seed, most=300).evidence for seed in SEEDS]


def test_no_text_contradicts_its_figures(drawn):
    for evidence in drawn:
        assert list(texts.contradictions(evidence, advise(evidence))) == []


def test_texts_of_other_figures_are_seen(drawn):
    for evidence, other in pairwise(drawn):
        assert list(texts.contradictions(other, advise(evidence)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"why": "There is little left to save.", "gain": Gain(3.5, None, None, "x")}, "beside"),
        ({"verdict": "use", "gain": Gain(1.2, 0.9, 1.5, "x"), "action": "x"}, "used at"),
        ({"verdict": "do not use", "settings": {}, "gain": Gain(3.0, None, None, "x")}, "not used"),
        ({"why": "It is 123,457 times as fast."}, "no figure"),
        ({"why": "It has 1 samples."}, "badly written"),
        ({"short": ""}, "no short line"),
    ],
)
def test_a_contradiction_is_seen(drawn, changes, said):
    evidence = drawn[0]
    first, *others = advise(evidence)
    found = list(texts.contradictions(evidence, [replace(first, **changes), *others]))
    assert any(said in each for each in found)


def test_what_is_drawn_has_everything(drawn):
    for has in (
        lambda known: known.has_task,
        lambda known: known.trials,
        lambda known: known.learning,
        lambda known: known.untried,
        lambda known: known.labels,
        lambda known: known.model,
    ):
        assert {bool(has(each)) for each in drawn} == {True, False}


def test_a_wrong_one_is_named():
    said = []

    def check(_):
        raise texts.ContradictionError("no")

    draw = partial(texts.random_evidence, most=100)
    assert profiles.run(1, 3, check=check, draw=draw, say=said.append) == 3
    assert "seed 3: ContradictionError: no" in said
