"""A page is well-formed and escaped, whatever it is made of."""

import json

import numpy as np

import batchwright as bw
from batchwright.report.inspected import PlanView, plan_report
from batchwright.report.plots import Saved, Tail, runs, steps
from batchwright.report.sections import Bar, Card, Head, Picture, Report, Section, page
from batchwright.stats.plan_facts import inspected_facts
from tests.report.reader import facts_of, read


def test_whatever_is_written_is_escaped():
    mean = "</script><script>alert(1)</script>&"
    section = Section(mean, [mean], [Card("use", mean, mean, [mean])], [{mean: mean}], code=[mean])
    head = Head(mean, mean, mean, "use", Picture([Bar(mean, mean, 1)], mean, mean, mean), [mean])
    html = page(Report(mean, mean, {"mean": mean}, [section], [], head))
    assert read(html).tags.count("script") == 2
    assert facts_of(html) == {"mean": mean}


def test_what_is_empty_is_left_out():
    html = page(Report("Title", "", {}, [Section("Only a heading")], []))
    tags = read(html).tags
    assert not {"table", "figure", "ul", "pre", "h3"} & set(tags)


def test_a_plan_with_a_strange_name_makes_a_page():
    lengths = np.array([5, 3, 8, 2])
    facts = inspected_facts(bw.plan(lengths, max_tokens=16), lengths)
    view = PlanView(facts, plan="a/<b>&.plan", unit="<words>")
    html = page(plan_report(view))
    reader = read(html)
    assert reader.tags.count("b") == 0
    assert "Plan <b>&.plan" in reader.text
    assert facts_of(html) == json.loads(json.dumps(view.as_json()))


def test_what_says_nothing_is_not_drawn():
    lengths = np.full(64, 7)
    html = page(plan_report(PlanView(inspected_facts(bw.plan(lengths, max_tokens=70), lengths))))
    assert "svg" not in read(html).tags
    assert 'class="track"' not in html
    assert "Coverage" not in html


def test_the_time_saved_and_the_tail_are_drawn_and_said():
    two = [([0, 1, 2], [3.0, 2.0, 1.5]), ([0, 1, 2], [3.0, 2.2, 1.4])]
    saved = Saved(1.5, "the target", True, 0.5, 2.0, "75 % of the time saved")
    svg = runs("By seconds", {"plain": two, "other": two}, "seconds", "loss", saved=saved)
    assert svg.count("75 % of the time saved") >= 2  # in the plot, and in its label
    assert 'aria-label="By seconds: loss against seconds, of plain, other' in svg
    svg = steps("Lengths", [1, 10, 1000], [90, 1], across="tokens", tail=Tail(9, "1 far longer"))
    assert svg.count("1 far longer") >= 2
