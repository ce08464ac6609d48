"""A few very long samples: named, and never what the advice is made of."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright._format import percent
from batchwright.advise import Evidence, advise, headline, profile_data, snippet
from tests.cli.command import invoke
from tests.strategies import columns, lengths

USUAL = np.random.default_rng(0).integers(5, 213, 6_263)
WITH_LONG = np.append(USUAL, [20_000, 25_000, 30_000, 36_314])


def test_a_few_long_rows_do_not_decide_the_budget():
    profile, usual = profile_data(WITH_LONG), profile_data(USUAL)
    assert profile.max_tokens == usual.max_tokens
    assert profile.batch_size == usual.batch_size
    for kind, efficiency in usual.efficiency.items():
        near = 0.02 if kind in {"planned", "packed"} else 0.1  # others pad rows to them
        assert profile.efficiency[kind] == pytest.approx(efficiency, abs=near)
    assert usual.outliers is None
    assert not usual.about_outliers()


def test_long_rows_are_named():
    profile = profile_data(WITH_LONG, unit="words")
    said = profile.about_outliers()
    assert said.startswith("4 of 6,267 rows (0.06 %) are longer than a batch of 1,696 words")
    assert "row 6,266, of 36,314" in said
    assert "99.9 % of all rows are at most 212 long" in said
    assert 'cut them (oversize="truncate")' in said
    assert profile.outliers.num_samples == 4
    assert profile.outliers.oversize == "truncate"


@pytest.mark.parametrize("oversize", ["truncate", "drop"])
def test_a_headline_names_rows_that_are_cut_or_left_out_where_they_are_many(oversize):
    done = {"truncate": "cut to 20", "drop": "left out"}[oversize]
    for budget, named in ((20, True), (400, False)):
        evidence = Evidence(profile_data(WITH_LONG, max_tokens=budget, oversize=oversize))
        detail = headline(evidence, advise(evidence)).detail
        share = percent(np.mean(budget < WITH_LONG))
        assert (f"from the lengths, {share} of them {done}; no speed" in detail) == named


def test_a_budget_below_the_longest_row_is_taken():
    profile = profile_data(WITH_LONG, max_tokens=2_048)
    assert (profile.max_tokens, profile.is_given, profile.oversize) == (2_048, True, "truncate")
    assert profile.batch_size == 2_048 // 212


@pytest.mark.parametrize("oversize", ["truncate", "drop"])
def test_long_rows_are_cut_or_left_out_as_asked(oversize):
    profile = profile_data(WITH_LONG, oversize=oversize)
    assert profile.outliers.is_given
    assert "as asked" in profile.about_outliers()
    kept = np.minimum(WITH_LONG, profile.max_tokens) if oversize == "truncate" else USUAL
    for kind, batching, step_tokens in (
        ("plain", bw.FixedSize(profile.batch_size), None),
        ("planned", bw.TokenBudget(profile.max_tokens), profile.step_tokens),
    ):
        planner = bw.Planner(kept, batching=batching, step_tokens=step_tokens)
        assert profile.efficiency[kind] == planner(0).stats(kept).efficiency
    assert f'TokenBudget({profile.max_tokens}, oversize="{oversize}")' in snippet(
        advise(Evidence(profile)), profile
    )


def test_rows_are_those_of_the_data_where_empty_ones_are_left_out():
    lengths = np.insert(WITH_LONG, [3, 3, 100], 0)
    profile = profile_data(lengths, empty="drop")
    assert profile.num_samples == WITH_LONG.size
    assert profile.outliers.longest_row == lengths.argmax()
    assert 'empty="drop"' in snippet(advise(Evidence(profile)), profile)
    assert profile_data(lengths, empty="one").num_samples == lengths.size
    with pytest.raises(bw.errors.LengthsError, match="3 of 6,270 lengths are 0"):
        profile_data(lengths)


def test_long_rows_do_not_decide_the_tokens_of_an_update():
    profile = profile_data(WITH_LONG, oversize="drop")
    assert profile.step_tokens == pytest.approx(profile.batch_size * USUAL.mean(), rel=0.01)


def test_rows_of_equal_length_beside_one_that_is_left_out_are_constant():
    values = [64] * 1_000 + [10**5]
    assert profile_data(values, oversize="drop").is_constant
    assert not profile_data(values).is_constant


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ([5] * 10 + [3], {}),
        ([3, 9] * 20 + [500], {"oversize": "drop"}),
        ([[3, 9], [9, 3], [3, 8], [500, 1]] * 20, {}),
    ],
)
def test_batches_of_one_sample_do_not_make_lengths_equal(values, settings):
    assert not profile_data(values, batch_size=1, **settings).is_constant


@pytest.mark.parametrize("batch_size", [8, 32])
def test_the_padding_of_planned_batches_is_that_of_the_code(batch_size):
    rng = np.random.default_rng(0)
    values = rng.lognormal(3.0, 0.8, 2_000).astype(int).clip(min=1)
    data = profile_data(values, batch_size=batch_size)
    plan = bw.plan(values, max_tokens=data.max_tokens, step_tokens=data.step_tokens)
    assert data.efficiency["planned"] == plan.stats(values).efficiency


def test_a_batch_size_is_the_baseline():
    profile = profile_data(USUAL, batch_size=32)
    assert (profile.batch_size, profile.batch_size_is_given) == (32, True)
    assert profile.max_tokens == 32 * 212
    plain = bw.plan(USUAL, batching=bw.FixedSize(32)).stats(USUAL).efficiency
    assert profile.efficiency["plain"] == plain


def test_samples_of_several_columns_are_left_out():
    values = np.stack([USUAL, USUAL[::-1]], axis=1)
    values[7] = [10**5, 3]
    profile = profile_data(values)
    assert (profile.oversize, profile.outliers.longest_row) == ("drop", 7)
    assert "truncate" not in profile.about_outliers()
    with pytest.raises(bw.errors.BudgetError, match="several columns"):
        profile_data(values, oversize="truncate")


def test_where_all_rows_are_too_long_none_can_be_left_out():
    with pytest.raises(bw.errors.BudgetError, match="no sample is within max_tokens=10"):
        profile_data([30, 40], max_tokens=10, oversize="drop")
    assert profile_data([30, 40], max_tokens=10).efficiency["planned"] == 1.0
    with pytest.raises(bw.errors.BudgetError, match="oversize"):
        profile_data([30, 40], oversize="split")


@settings(max_examples=30)
@given(
    values=lengths(min_size=2) | columns(min_size=2),
    longest=st.integers(1, 10**5),
    max_tokens=st.none() | st.integers(1, 400),
)
def test_any_lengths_with_one_long_row_have_a_profile(values, longest, max_tokens):
    values = values.astype(np.int64)
    values[0] = longest
    policy = "truncate" if values.ndim == 1 else "drop"
    try:
        profile = profile_data(values, max_tokens=max_tokens)
    except bw.errors.BudgetError:
        assert policy == "drop"
        assert (values.reshape(len(values), -1).sum(axis=1) > max_tokens).all()
        return
    assert profile.oversize in {None, policy}
    assert all(0 < each <= 1 for each in profile.efficiency.values())
    assert {"plain", "grouped", "planned", "packed"} <= set(profile.efficiency)
    compile(snippet(advise(Evidence(profile)), profile), "snippet", "exec")


def test_the_command_names_long_rows_and_cuts_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("lengths.npy", WITH_LONG)
    shown = json.loads(invoke("advise", "lengths.npy", "--max-tokens", 2048, "--json").stdout)
    assert shown["data"]["outliers"]["longest_row"] == 6_266
    said = invoke("advise", "lengths.npy", "--batch-size", 32, "--oversize", "drop").stdout
    said = " ".join(said.split())
    assert "They are left out here, as asked" in said
    assert 'oversize="drop"' in said
