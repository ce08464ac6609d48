"""Pages: self-contained, escaped, and no figure on them that is not in the JSON."""

import json
import re

import pytest

from batchwright._format import number, percent
from batchwright.report.advised import advised_report
from batchwright.report.compared import compared_report
from batchwright.report.inspected import plan_report
from batchwright.report.sections import page
from tests.report.conftest import PLANS, RESULTS, result_of
from tests.report.reader import advised_of, facts_of, read, view_of

pytestmark = pytest.mark.slow

INSPECTED = [*PLANS, "alone"]
NAMES = [
    *INSPECTED,
    "advise",
    "earlier",
    "compare",
    "trials",
    "doctor",
]
REPORTS = {
    **dict.fromkeys(INSPECTED, lambda facts: plan_report(view_of(facts))),
    **dict.fromkeys(("advise", "trials"), lambda facts: advised_report(advised_of(facts))),
    **dict.fromkeys(("earlier", "compare"), compared_report),
}


@pytest.fixture
def found(request, pages):
    """Find a page and its JSON by name."""

    def find(name):
        folder = request.getfixturevalue("compared") if name in {"compare", "trials"} else pages
        facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return (folder / f"{name}.html").read_text(encoding="utf-8"), facts

    return find


@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_nobody_for_anything_and_holds_the_facts(found, name):
    html, facts = found(name)
    reader = read(html)
    assert reader.fetched == []
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(html.encode()) < 500_000
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    embedded = facts_of(html)
    if name == "earlier":  # a result file, which has no sentences yet
        del embedded["said"]
    assert embedded == facts
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(set(names)) == len(names)
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", html)) <= set(names)
    text = " ".join(reader.text)
    assert "None" not in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("name", "plots", "bars"),
    [
        # Lengths, shapes, dial, cost; without SOURCE only what the file knows.
        ("padded", 4, 2 + 5),
        ("packed", 3, 2),
        ("fixed", 3, 2),
        ("single", 1, 2),
        ("alone", 0, 0),
        ("advise", 2, 5 + 5),
        ("earlier", 2, 0),
        # Time, tokens, shapes (those of planned+bf16 are planned's), pacing, coverage.
        ("compare", 7, 4),
    ],
)
def test_what_is_known_is_drawn(found, name, plots, bars):
    html = found(name)[0]
    assert html.count("<svg") == plots
    assert html.count('<td class="bar">') == bars


def leaves(value, name=""):
    """Yield every figure of JSON with its name; what is only drawn is no figure of a table."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key.isdigit():  # widths of products
                yield name, int(key)
            if key not in {"curve", "grid", "histogram", "evaluations", "speeds", "progress"}:
                yield from leaves(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, name)
    elif value is not None:
        yield name, value


def written(facts):
    """Return the figures of JSON in every way in which pages write them."""
    known = {"1"}  # where a plain shuffle has 1
    for name, value in leaves(facts):
        if isinstance(value, str):
            known.update(re.findall(FIGURE, value))
            continue
        known |= {number(value), str(value), f"{value:,.0f}", percent_of(value)}
        if name == "efficiency":
            known.add(percent_of(1 - value))
        if name == "peak_bytes":
            known.add(f"{value / 1e6:,.0f}")
        if isinstance(value, float):
            known |= {f"{value:.{digits}f}" for digits in range(1, 5)}
            known |= {percent_of(round(value, 4)), f"{abs(value):.3g}"}
    if "max_batch_tokens" in facts:  # what the report in the terminal works out, too
        known.add(number(facts["num_batches"] - facts["lower_bound"]))
        known.add(percent_of(facts["max_batch_tokens"] / (facts["budget"] or 1)))
    known |= set(converted(facts.get("model") or {}))
    if facts.get("hardware"):
        known.add(f"{facts['hardware']['memory_bytes'] / 2**30:,.0f}")
    return {each.lstrip("-+") for each in known}


def converted(model):
    """Return what the page of advice writes in other units: milliseconds, microseconds, MiB."""
    cost, memory = model.get("cost"), model.get("memory")
    if cost is not None:
        yield from (f"{1e3 * each:.3g}" for each in cost["seconds"])
        pairs = zip(cost["lengths"], cost["seconds"], strict=True)
        yield from (f"{1e6 * seconds / length:.3g}" for length, seconds in pairs)
    if memory is not None:
        sizes = (size / 2**20 for *_, size in memory["shapes"])
        yield from (f"{size:,.0f}" if size >= 10 else f"{size:.2g}" for size in sizes)


FIGURE = r"\d[\d,]*(?:\.\d+)?(?: %)?"


def percent_of(share):
    return percent(share).removeprefix("< ").removeprefix("> ")


def strangers(html, facts):
    """Return the figures in tables and lists of a page that are not in some JSON."""
    seen = re.findall(FIGURE, " ".join(read(html).told))
    known = written(facts)
    return [each for each in seen if each.rstrip(",") not in known], len(seen)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_of_a_page_is_in_the_json(found, name):
    html, facts = found(name)
    unknown, seen = strangers(html, facts)
    # Constants of sentences: intervals of 95 %, differences below 3 %.
    assert set(unknown) <= {"95 %", "3 %"}
    assert seen > (0 if name == "advise" else 10)


def altered(value, name=""):
    """Change every figure that has a name of its own, as a page made of other facts would have."""
    if isinstance(value, dict):
        return {key: altered(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [altered(each, name) for each in value]
    if isinstance(value, float) and 0 < value < 1:
        return value * 0.618
    return value


@pytest.mark.parametrize("name", ["padded", "fixed", "earlier"])
def test_a_page_of_other_facts_would_be_told(found, name):
    _, facts = found(name)
    unknown, _ = strangers(page(REPORTS[name](altered(facts))), facts)
    assert len(unknown) > 5


@pytest.mark.parametrize("name", ["padded", "advise", "earlier"])
def test_a_page_is_a_function_of_its_facts(found, name):
    html, facts = found(name)
    assert page(REPORTS[name](facts)) == html


def test_every_result_of_the_applications_makes_a_page():
    for path in sorted(RESULTS.glob("*.json")):
        result = result_of(path)
        text = " ".join(read(page(compared_report(result))).text)
        for each in result["summary"]:
            assert each["name"].replace("dense limit", "no-padding limit") in text
            assert f"{each['speed']['mean']:.2f}" in text


def test_a_comparison_shows_whom_a_curriculum_draws_and_what_bf16_loses(found):
    html, facts = found("compare")
    assert set(facts["plans"]) == {"plain", "planned", "planned+curriculum", "planned+bf16"}
    for each in facts["summary"]:
        if each["name"] in facts["plans"]:
            assert facts["plans"][each["name"]]["num_batches"] > 10
    drawn = facts["plans"]["planned+curriculum"]
    assert drawn["pacing"]["eligible"][0] < drawn["pacing"]["eligible"][-1] == 1
    assert drawn["coverage"]["seen"][0] < 1
    assert facts["plans"]["planned"]["coverage"] is None
    assert list(facts["audits"]) == ["planned+bf16"]
    text = " ".join(read(html).text)
    assert "Pacing and coverage" in text
    assert "Precision audit: planned+bf16" in text
    assert {each["name"] for each in facts["audits"]["planned+bf16"]["layers"]} == {
        "embed",
        "decide",
    }
