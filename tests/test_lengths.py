import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.lengths import Lengths, as_lengths, fingerprint, logs, runs
from tests import strategies


@pytest.mark.parametrize(
    ("given_lengths", "said"),
    [
        ([3.0, float("nan"), 2.0], r"lengths\[1\] is nan, .* finite whole number"),
        ([3.0, float("inf")], r"lengths\[1\] is inf"),
        ([3, 0, 2], r"1 of 3 lengths is 0, lengths\[1\]\. Leave out"),
        ([3, 4, -7], r"lengths\[2\] is -7, .* at least 1"),
        ([1.0, 2.5], r"lengths\[1\] is 2.5, .* whole number"),
        ([], "empty"),
        (np.ones((4, 2, 2), dtype=int), r"shape \[4, 2, 2\], expected \[n\]"),
        (np.ones((4, 0), dtype=int), r"shape \[4, 0\], expected \[n\]"),
        (5, r"shape \[\], expected \[n\]"),
        (["a", "b"], "expected integers"),
        ([[1], [2, 3]], "cannot be read as an array"),
        ([True, False], "dtype bool"),
        ([None, 3], "dtype object"),
        ([2**60], r"more than 2\*\*53"),
        ([1e300], "finite whole number"),
    ],
)
def test_bad_lengths_name_the_first_and_the_way_out(given_lengths, said):
    for plan in (as_lengths, lambda lengths: bw.plan(lengths, max_tokens=100)):
        with pytest.raises(bw.errors.LengthsError, match=said) as caught:
            plan(given_lengths)
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value)


def test_integers_are_not_copied():
    lengths = np.array([3, 1, 2], dtype=np.uint16)
    assert as_lengths(lengths) is lengths


def test_whole_floats_are_accepted():
    assert as_lengths([3.0, 1.0]).tolist() == [3, 1]


@given(strategies.lengths(min_size=2), st.data())
def test_fingerprint_hangs_on_values_and_order_alone(lengths, data):
    assert fingerprint(lengths) == fingerprint(lengths.astype(np.int64))
    changed = lengths.astype(np.int64)
    place = data.draw(st.integers(0, lengths.size - 1))
    changed[place] += data.draw(st.integers(1, 5))
    assert fingerprint(lengths) != fingerprint(changed)
    assert fingerprint(lengths) != fingerprint(lengths[:-1])


def test_fingerprint_of_many_blocks_sees_each_of_them():
    lengths = np.arange(1, 500_001)
    seen = {fingerprint(lengths)}
    for place in (0, 131_071, 131_072, 400_000, 499_999):
        changed = lengths.copy()
        changed[place] = 7
        seen.add(fingerprint(changed))
    assert len(seen) == 6


@given(strategies.lengths(max_length=60_000), st.data())
def test_runs_count_the_members(lengths, data):
    members = np.array(
        data.draw(st.lists(st.integers(0, lengths.size - 1), min_size=1)), dtype=np.int64
    )
    values, counts = runs(lengths, members)
    expected = sorted(lengths[members].tolist(), reverse=True)
    assert np.repeat(values, counts).tolist() == expected
    assert (np.diff(values) < 0).all()


@given(st.lists(st.floats(1e-3, 1e15), min_size=2, max_size=20, unique=True))
def test_logs_increase_and_stay_near_the_true_one(values):
    array = np.sort(np.array(values))
    assert (np.diff(logs(array)) >= 0).all()
    assert np.abs(logs(array) - np.log2(array)).max() < 0.09


def test_checked_lengths_are_taken_as_they_are():
    checked = Lengths.of([5, 3, 8, 2])
    assert Lengths.of(checked) is checked
    assert as_lengths(checked) is checked.array
    plan = bw.plan(checked, max_tokens=10)
    assert plan.origin.fingerprint == checked.fingerprint
    assert plan.stats(checked) == plan.stats([5, 3, 8, 2])
    with pytest.raises(bw.errors.LengthsError, match=r"expected \[n\]"):
        as_lengths(Lengths.of([[5, 3], [8, 2]]))
