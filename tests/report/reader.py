"""Reading a page as a browser would, without one."""

import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from typing import get_type_hints

from batchwright import advise
from batchwright._states import built
from batchwright.layout import layout_of
from batchwright.report.advised import Advised
from batchwright.report.inspected import PlanView
from batchwright.stats.dial import DialPosition
from batchwright.stats.plan_facts import FileFacts, Inspected, Measured, PlanFacts
from batchwright.stats.plan_stats import PlanStats

VOID = {"meta", "br", "hr", "img", "link"}


class Reader(HTMLParser):
    """Collects what a page would fetch, its text and tables, and whether elements are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text, self.tags, self.told = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            outside = value is not None and re.match(r"(https?:)?//", value)
            if outside and not name.startswith("xmlns"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text.append(data)
        if self.open and self.open[-1] in {"td", "li"}:
            self.told.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def text_of(html):
    """Return the text of a page, with one space between words."""
    return " ".join(" ".join(read(html).text).split())


def facts_of(html):
    return json.loads(re.search(r'id="facts">(.*?)</script>', html, re.DOTALL)[1])


def part(facts, kind):
    """Make a dataclass of those of the facts that it has."""
    return built({each.name: facts[each.name] for each in fields(kind)}, kind)


def view_of(facts):
    """Make the view of a plan whose JSON is given."""
    measured = inspected = dial = None
    if "lengths" in facts:
        stats = {each.name: facts[each.name] for each in fields(PlanStats)}
        measured = part(facts | {"stats": stats}, Measured)
        inspected = part(facts, Inspected)
    if "dial" in facts:
        dial = built(facts["dial"], tuple[DialPosition, ...])
    names = ("unit", "source", "plan", "seconds", "seconds_reading")
    known = {name: facts[name] for name in names if name in facts}
    hints = get_type_hints(FileFacts)
    others = {name: built(facts[name], hints[name]) for name in hints if name != "layout"}
    file = FileFacts(**others, layout=layout_of(**facts["layout"]))
    return PlanView(PlanFacts(file, measured, inspected, dial), **known)


def advised_of(facts):
    """Make what `advise` found of the JSON that it printed."""
    kinds = {
        "data": advise.DataProfile,
        "hardware": advise.Hardware | None,
        "model": advise.ModelProfile | None,
        "learning": dict[str, advise.LearningTrial],
        "labels": advise.LabelProfile | None,
        "duplicates": advise.Duplicates | None,
        "groups": advise.GroupProfile | None,
    }
    trials = built(facts["trials"], tuple[advise.SpeedTrial, ...])
    evidence = advise.Evidence(
        trials={each.name: each for each in trials},
        **{name: built(facts[name], kind) for name, kind in kinds.items()},
    )
    advice = built(facts["advice"], tuple[advise.Advice, ...])
    first = built(facts["headline"], advise.Headline)
    found = Advised(evidence, advice, facts["strategy"], facts["snippet"], first)
    if facts["price"] is None:
        return found
    price = {name: value for name, value in facts["price"].items() if name != "seconds_spent"}
    spent = facts["price"]["seconds_spent"]
    return replace(found, price=advise.Price(**price), seconds_spent=spent)
