"""What other libraries get wrong."""

import numpy as np
import pytest

from batchwright import pacing
from batchwright.pacing.progress import powers

PROGRESS = np.linspace(0, 1, 201)


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, 10])
def test_a_root_has_the_degree_that_was_asked_for(p):
    # CurML takes the square root, whatever p.
    share = pacing.root(p=p, start=0.2)(PROGRESS)
    assert np.diff(share**p, 2) == pytest.approx(np.zeros(199), abs=1e-12)
    if p != 2:
        assert np.abs(np.diff(share**2, 2)).max() > 1e-7


def test_a_schedule_may_come_back_down():
    # DeepSpeed stays at the maximum once it was there.
    there_and_back = pacing.discrete((0.5, 1, 0.25), until=(0.3, 0.6))
    assert there_and_back([0.1, 0.5, 0.9]).tolist() == [0.5, 1.0, 0.25]


@pytest.mark.parametrize(
    "function",
    [pacing.difficulty_root(), pacing.discrete((0.5, 1), until=(0.5,)), pacing.root()],
    ids=repr,
)
def test_a_pacing_has_no_memory(function):
    before = function(0.25)
    function(1)
    assert function(0.25) == before


@pytest.mark.parametrize("p", [1, 2])
def test_rounding_goes_neither_below_the_start_nor_misses_the_end(p):
    # DeepSpeed: 5 % rounded to steps of 8 is 0 %, and 100 % is 96 %.
    share = pacing.difficulty_root(p=p, start=0.05, step=0.08)(PROGRESS)
    assert share[0] == share.min() == 0.05
    assert share[-1] == 1.0
    inner = share[(share > 0.05) & (share < 1)] / 0.08
    assert inner == pytest.approx(np.rint(inner))


@pytest.mark.parametrize(
    "settings",
    [
        {"min_length": 64, "max_length": 64},
        {"min_length": 64, "max_length": 65, "step": 8},
        {"min_length": 1, "max_length": 4096, "step": 1, "reach": 1e-3},
        {"min_length": 8, "max_length": 64, "reach": 5e-324},
    ],
)
def test_a_warm_up_may_be_shorter_than_its_steps(settings):
    # Composer divides by how many updates a step takes, and by how many steps there are.
    warm_up = pacing.length_warm_up(**settings)
    # Ten updates: fewer than there are steps.
    lengths = warm_up(np.arange(11) / 10)
    assert lengths[0] == settings["min_length"]
    assert lengths[-1] == settings["max_length"]
    assert (np.diff(lengths) >= 0).all()


def test_the_hardest_sample_is_eligible_in_the_end():
    # Rounded, a formula ends at 0.9999999999999999, and ⌊that × n⌋ samples are one too few.
    for start in np.linspace(0.001, 1, 500):
        for make in (pacing.root, pacing.linear, pacing.exponential, pacing.geometric):
            assert make(start=start, reach=0.7)([0.7, 1]).tolist() == [1.0, 1.0]
    for factor in range(2, 100):
        settings = {"start": 1 / factor**2, "increase": factor}
        assert pacing.fixed_exponential(**settings, step_length=0.3)(0.6) == 1.0
        assert pacing.varied_exponential((0.2, 0.3), **settings)(0.6) == 1.0


@pytest.mark.parametrize("base", [0.916015625, 0.01, 1.9, 3])
def test_a_lone_power_is_rounded_as_one_of_many(base):
    exponents = np.array([0, 0.5, 1, 2, 3, 0.3])
    alone = [powers(base, np.asarray(each)).item() for each in exponents]
    assert powers(base, exponents).tolist() == alone
    assert [powers(base, np.array([each])).item() for each in exponents] == alone
