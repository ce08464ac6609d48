"""Figures over seeds: ratios, differences, when a target was reached."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from batchwright.compare import result_file
from batchwright.compare.arm import Evaluation, Spent
from batchwright.compare.comparison import Comparison
from batchwright.compare.figures import difference, ratio, summarize
from batchwright.compare.race import Outcome, Settings
from batchwright.compare.strategy import DENSE
from batchwright.errors import SourceError
from batchwright.report.compared import learning_section
from tests.compare.conftest import make_task

SETTINGS = {"target": None}


def plain_facts(summaries):
    return [result_file._plain(dataclasses.asdict(each)) for each in summaries]


positive = st.floats(0.01, 100)
pairs = st.lists(st.tuples(positive, positive), min_size=2, max_size=6)


@given(pairs)
def test_a_ratio_and_its_inverse_say_the_same(values):
    ours, theirs = np.transpose(values)
    one, other = ratio(ours, theirs), ratio(theirs, ours)
    assert one.mean == pytest.approx(1 / other.mean)
    assert one.low == pytest.approx(1 / other.high)
    assert one.low <= one.mean * (1 + 1e-12)
    assert one.mean <= one.high * (1 + 1e-12)


def test_the_interval_is_students():
    values = np.array([1.0, 1.2, 0.9, 1.4])
    made = difference(values, np.zeros(4))
    reference = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (made.low, made.high) == pytest.approx(reference)
    assert difference([3.0], [1.0]).low is None
    same = difference([2.0, 2.0], [1.0, 1.0])
    assert (same.low, same.high) == (1.0, 1.0)


def outcome(name, seconds, metrics, *, worst=80):
    points = tuple(
        Evaluation(1_000 * i // (len(metrics) - 1), seconds * i / (len(metrics) - 1), metric)
        for i, metric in enumerate(metrics)
    )
    spent = Spent(seconds, 1_000, 1_250, worst, 10, 20)
    return Outcome(name, "fp32", spent, metrics[-1], points, 1.0, 1_000_000)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("who", [0, 1])
def test_a_metric_that_is_no_number_has_no_figures(odd, who):
    ends = [3.0, 3.0]
    ends[who] = odd
    runs = [[outcome("plain", 10.0, [5.0, ends[0]]), outcome("planned", 5.0, [5.0, ends[1]])]] * 2
    found = summarize(runs, make_task())
    assert (found[who].metric, found[who].gain) == (None, None)
    assert found[1].gain is None
    facts = {"metric": "loss", "better": "lower", "settings": SETTINGS}
    assert len(learning_section(facts | {"summary": plain_facts(found)}).rows) == 2


def test_a_summary_is_beside_the_first_strategy():
    task = make_task()
    runs = [
        [
            outcome("plain", 20.0, [5, 4, 3]),
            outcome("planned", 10.0, [5, 4, 3]),
            outcome(DENSE, 8.0, [5, 5, 5]),
        ]
    ] * 2
    plain, planned, dense = summarize(runs, task)
    assert (plain.speed.mean, planned.speed.mean) == pytest.approx((1.0, 2.0))
    assert planned.of_limit.mean == pytest.approx(0.8)
    assert planned.time.mean == pytest.approx(10 / 20)
    assert planned.tokens.mean == 1.0
    assert planned.gain.mean == 0.0
    assert (planned.held, planned.never, planned.touched) == (2, 0, None)
    assert planned.improved == plain.improved == pytest.approx(1.75)  # smoothed
    assert planned.padding == pytest.approx(0.2)
    assert planned.worst_batch == 1.0
    assert (dense.time, dense.metric, dense.never) == (None, None, 0)


def test_a_target_that_some_run_never_reached_has_no_time():
    task = make_task()
    good = [outcome("plain", 20.0, [5, 4, 3]), outcome("planned", 10.0, [5, 3, 2])]
    bad = [outcome("plain", 20.0, [5, 4, 3]), outcome("planned", 10.0, [5, 5, 4])]
    planned = summarize([good, bad], task)[1]
    assert (planned.time, planned.held, planned.lost, planned.never) == (None, 1, 0, 1)


def test_a_target_that_was_reached_and_lost_again_has_no_time():
    task = make_task()
    first = [8, 7, 6, 5, 4.5, 4, 4]
    runs = [[outcome("plain", 20.0, first), outcome("planned", 20.0, [8, 5, 3, 3, 5, 6, 7])]] * 2
    planned = summarize(runs, task)[1]
    assert (planned.time, planned.held, planned.lost, planned.never) == (None, 0, 2, 0)
    assert planned.touched.mean < 0.6
    assert len(planned.touched.values) == 2


def test_a_baseline_that_failed_sets_no_target():
    task = make_task()
    failed = dataclasses.replace(outcome("plain", 20.0, [5, 4, 3]), metric=None, failed_after=3)
    planned = summarize([[failed, outcome("planned", 20.0, [5, 4, 3])]], task)[1]
    assert (planned.time, planned.held, planned.never) == (None, 0, 0)


def test_a_target_that_only_the_baseline_missed_has_no_time():
    task = make_task()
    runs = [[outcome("plain", 20.0, [5, 4, 4]), outcome("planned", 20.0, [5, 3, 2])]]
    plain, planned = summarize(runs, task, target=3.0)
    assert (plain.held, plain.never) == (0, 1)
    assert (planned.time, planned.held, planned.never) == (None, 1, 0)


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_figures_of_a_result_are_computed_anew_from_its_runs(better):
    task = make_task(better=better)
    runs = [[outcome("plain", 20.0, [1, 4, 5]), outcome("planned", 10.0, [1, 4, float("nan")])]] * 2
    about = {"max_tokens": task.max_tokens, "better": better, "settings": SETTINGS}
    result = result_file.written(Comparison((0, 1), runs), task, about, Settings())
    result["settings"] = SETTINGS
    assert result_file.summarized(result) == result["summary"]


def test_where_higher_is_better_a_gain_is_upwards():
    task = make_task(better="higher")
    runs = [[outcome("plain", 20.0, [0.1, 0.5, 0.8]), outcome("planned", 20.0, [0.1, 0.8, 0.9])]]
    planned = summarize(runs, task)[1]
    assert planned.gain.mean == pytest.approx(0.1)
    assert planned.time.mean < 0.9
    assert planned.improved > 0


@pytest.mark.parametrize(
    "change", [{"metric": "3"}, {"speed": 1.0}, {"never": None}, {"held": True}]
)
def test_a_summary_of_wrong_types_is_refused_despite_a_valid_checksum(tmp_path, change):
    task = make_task()
    runs = [[outcome("plain", 10.0, [5.0, 3.0]), outcome("planned", 5.0, [5.0, 3.0])]]
    result = result_file.written(Comparison((0,), runs), task, {}, Settings())
    result_file.save(tmp_path / "r.json", result, None)
    assert result_file.load(tmp_path / "r.json")[0]["summary"] == result["summary"]
    result["summary"][1] |= change
    result_file.save(tmp_path / "r.json", result, None)
    with pytest.raises(SourceError, match="wrong types"):
        result_file.load(tmp_path / "r.json")
