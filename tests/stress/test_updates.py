"""A share of the injected faults, and of losses that are no sums."""

import warnings

import pytest

from tests.stress import losses, updates

pytestmark = pytest.mark.slow


def test_faults_anywhere_in_an_update_change_no_gradient():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a check that a fault ended
        found = list(updates.run_cases(range(60), 0, 1))
    assert [wrong for _, _, wrong in found if wrong is not None] == []
    assert len(found) == 60


def test_faults_on_one_of_two_ranks_change_no_gradient():
    came, wrong = updates.found_on_ranks(range(40), 2)
    assert wrong == []
    assert sum(came.values()) == 40


def test_losses_that_are_no_sums_are_right_or_refused():
    came = {losses.run_case(seed) for seed in range(60)}
    assert len(came) >= 5
