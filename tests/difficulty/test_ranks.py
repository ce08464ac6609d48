"""Percentile ranks against counting, and combinations against sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.difficulty import combined, percentiles
from batchwright.errors import LengthsError

SCORES = st.lists(st.integers(-5, 5) | st.floats(-1e9, 1e9), min_size=1, max_size=60)


def counted(scores, groups):
    """Rank by counting: the share below, and half of the share that is equal."""
    ranks = []
    for score, group in zip(scores, groups, strict=True):
        own = [s for s, g in zip(scores, groups, strict=True) if g == group]
        ranks.append((sum(s < score for s in own) + sum(s == score for s in own) / 2) / len(own))
    return ranks


@given(SCORES)
def test_ranks_are_counted(scores):
    ranks = percentiles(scores)
    assert np.allclose(ranks, counted(scores, [0] * len(scores)), rtol=0, atol=1e-12)
    assert ranks.min() > 0
    assert ranks.max() < 1
    assert ranks.mean() == pytest.approx(0.5)


@given(st.data(), SCORES, st.sampled_from([["de", "en", "fr"], [3, 1, 2], [0.5, -1.5, 7.0]]))
def test_ranks_within_groups_are_counted_among_the_group(data, scores, values):
    groups = data.draw(
        st.lists(st.sampled_from(values), min_size=len(scores), max_size=len(scores))
    )
    ranks = percentiles(scores, groups=groups)
    assert np.allclose(ranks, counted(scores, groups), rtol=0, atol=1e-12)


@given(st.data(), st.integers(1, 40), st.floats(0, 1))
def test_the_largest_rank_is_the_intersection_of_what_each_measure_admits(data, size, admitted):
    one, two = (
        np.array(data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)))
        for _ in range(2)
    )
    both = combined({"one": one, "two": two}) <= admitted
    assert np.array_equal(both, (percentiles(one) <= admitted) & (percentiles(two) <= admitted))


def test_a_mean_is_that_of_the_ranks():
    one, two = [1, 2, 3], [3, 1, 2]
    plain = combined({"one": one, "two": two}, how="mean")
    assert np.allclose(plain, (percentiles(one) + percentiles(two)) / 2)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([1.0, 2.0, np.nan, np.nan], ["[2]", "nan"]),
        ([np.inf, 1.0], ["[0]", "inf"]),
        ([], ["[0]"]),
        ([[1.0, 2.0]], ["[1, 2]"]),
        (["a", "b"], ["numbers"]),
    ],
)
def test_scores_that_cannot_be_ranked_are_named(scores, words):
    with pytest.raises(LengthsError) as raised:
        percentiles(scores)
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize("groups", [[1], np.array([{}, 1], dtype=object)])
def test_groups_that_do_not_fit_are_refused(groups):
    with pytest.raises(LengthsError):
        percentiles([1, 2], groups=groups)


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        ({}, {}),
        ({"a": [1, 2], "b": [1]}, {}),
        ({"a": [1]}, {"how": "least"}),
    ],
)
def test_what_cannot_be_combined_is_refused(scores, options):
    with pytest.raises(LengthsError):
        combined(scores, **options)
