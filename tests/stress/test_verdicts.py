"""A share of `tests.stress.verdicts`, and that it sees what it should."""

import re

import pytest

from batchwright.compare import verdicts as said
from tests.stress import verdicts


def test_no_text_says_more_than_its_figures():
    printed = []
    assert verdicts.run(300, 0, say=printed.append) is None
    assert all(word in printed[-1] for word in ("faster", "slower", "no gain", "cannot tell"))


def wrongly(name, change):
    """Return a function of `batchwright.compare.verdicts` with another result."""
    right = getattr(said, name)
    return lambda *given: change(right(*given))


MISTAKES = {
    "intervals that include 1 count": ("_side", lambda side: side or -1),
    "what is worse is not seen": ("_better", lambda better: max(better, 0)),
    "worse is better": ("_metric", lambda text: text.replace("worse", "better")),
    "chance is not said": ("_metric", lambda text: text.replace(", which may be chance", "")),
    "what was lost is held": ("_time", lambda text: text.replace("not held", "held")),
    "another figure": ("_time", lambda text: re.sub(r"\.\d(\d)", r".9\1", text)),
    "as good, whatever it is": ("_quality", lambda text: "as good at the end"),
    "more seeds": ("_runs", lambda text: "3 seeds"),
    "the slowest of the faster": ("_estimate", lambda time: -time),
    "no reason": ("_more", lambda text: ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_text_that_says_more_is_seen(monkeypatch, mistake):
    monkeypatch.setattr(said, MISTAKES[mistake][0], wrongly(*MISTAKES[mistake]))
    assert verdicts.run(300, 0, say=lambda text: None) is not None
