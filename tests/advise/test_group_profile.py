"""Groups: shares of samples and of tokens, and what a mixture would draw."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright._format import one_line
from batchwright.advise import profile_groups


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9)), min_size=5, max_size=60))
def test_shares_are_those_of_the_samples(rows):
    names, lengths = zip(*rows, strict=True)
    profile = profile_groups(list(names), lengths)
    assert profile.num_groups == len(set(names))
    assert sum(each.num_samples for each in profile.largest) == len(rows)
    for total in ("share", "token_share", "tempered_share"):
        assert sum(getattr(each, total) for each in profile.largest) == pytest.approx(1)
    for each in profile.largest:
        own = [length for name, length in rows if name == each.name]
        assert each.num_samples == len(own)
        assert each.share == pytest.approx(len(own) / len(rows))
        assert each.token_share == pytest.approx(sum(own) / sum(lengths))
        assert each.mean_length == pytest.approx(np.mean(own))
    sizes = [each.num_samples for each in profile.largest]
    assert sizes == sorted(sizes, reverse=True)
    assert profile.smallest == profile.largest[-1]
    assert 1 - 1e-9 <= profile.effective_groups <= profile.num_groups + 1e-9


def test_what_a_mixture_would_draw_is_what_the_mixture_draws():
    names = np.repeat(["en", "de", "sw"], [9_000, 900, 100])
    lengths = np.ones(names.size, int)
    profile = profile_groups(names, lengths)
    order = bw.Mixture(names, temperature=profile.temperature, parts=1)
    drawn = names[order(lengths, seed=0, epoch=0).members]
    for each in profile.largest:
        share = np.mean(drawn == each.name)
        assert each.tempered_share == pytest.approx(share, abs=1e-3)
        assert each.tempered_epochs == pytest.approx(share / each.share, rel=0.02)


def test_of_many_groups_ten_and_the_smallest_are_listed():
    names = np.concatenate([np.full(50 - k, k) for k in range(30)])
    profile = profile_groups(names, np.ones((names.size, 2), int))
    assert [each.name for each in profile.largest] == [str(k) for k in range(10)]
    assert (profile.smallest.name, profile.smallest.num_samples) == ("29", 21)
    assert profile.largest[0].mean_length == 2


@pytest.mark.parametrize(
    ("groups", "error", "said"),
    [
        (["a"], bw.errors.LengthsError, "groups: 1 for 3 samples"),
        (["a", "b", "c"], bw.errors.LengthsError, "these are not groups"),
        (["a", None, "a"], bw.errors.LengthsError, r"1 of \d groups is missing, groups\[1\]"),
    ],
)
def test_what_are_no_groups_is_refused(groups, error, said):
    with pytest.raises(error, match=said):
        profile_groups(groups, [1, 2, 3])


def test_names_are_cut_and_cannot_steer_a_terminal():
    profile = profile_groups(["\x1b[2J" + "x" * 100] * 3 + ["b"], [1, 1, 1, 1])
    assert len(profile.largest[0].name) == 60
    assert one_line(profile.largest[0].name).isprintable()
