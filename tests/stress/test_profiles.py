"""A share of `tests.stress.profiles`, and that it sees what it should."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from tests.stress import profiles


@pytest.mark.slow
def test_budgets_and_figures_of_random_profiles():
    said = []
    draw = partial(profiles.random_profile, most=2_000)
    assert profiles.run(20, 0, draw=draw, say=said.append) is None
    assert "outliers" in said[-1]


def test_every_kind_is_drawn_the_same_for_a_seed():
    drawn = [profiles.random_profile(seed, most=200) for seed in range(100)]
    assert {each.kind for each in drawn} == set(profiles.KINDS)
    for each in drawn[:5]:
        again = profiles.random_profile(each.seed, most=200)
        assert np.array_equal(again.lengths, each.lengths)
    assert all(each.outliers.size <= 0.01 * each.lengths.size for each in drawn)


def test_a_budget_that_one_row_decides_is_seen(monkeypatch):
    def careless(lengths, **given):
        return dataclasses.replace(sound(lengths, **given), max_tokens=8 * int(max(lengths)))

    sound = profiles.suggest
    monkeypatch.setattr(profiles, "suggest", careless)
    said = []
    draw = partial(profiles.random_profile, most=2_000)

    def check(profile):
        profiles.check_budget(profile.lengths)
        return "sound"

    assert profiles.run(20, 0, check=check, draw=draw, say=said.append) is not None
    assert any("p99.9" in line for line in said)
