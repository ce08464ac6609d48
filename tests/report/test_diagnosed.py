"""The report of `doctor`: it fits a screen, says the verdict, and renders whatever was found."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from batchwright._format import printable
from batchwright.doctor.diagnosis import Diagnosis
from batchwright.doctor.finding import LEVELS, Finding
from batchwright.doctor.records import Run
from batchwright.report.diagnosed import Diagnosed, diagnosed_report
from batchwright.report.sections import page
from batchwright.report.text import print_report
from tests.doctor.runs import run_of, shared
from tests.report.diagnoses import FINDINGS, LENGTHS, sick, well
from tests.report.reader import facts_of, read, text_of
from tests.report.test_hostile_names import controls, names

SCREEN = 24


def printed(found, width=80):
    screen = io.StringIO()
    print_report(Console(file=screen, width=width, emoji=False), diagnosed_report(found))
    return screen.getvalue()


words = st.lists(st.text("abcdefg", min_size=1, max_size=9), min_size=1, max_size=30)
sentences = words.map(lambda found: f"{' '.join(found).capitalize()}.")


def findings(texts):
    return st.builds(
        Finding,
        name=texts.map(lambda text: text[:40].lower().strip(".")),
        level=st.sampled_from(LEVELS),
        figure=texts,
        cost=st.just("") | texts,
        cure=st.just("") | texts,
        share=st.floats(0, 1),
        code=st.lists(texts, max_size=3).map(tuple),
    )


@st.composite
def runs(draw):
    """A run of one rank or two, with or without lengths, classes and updates; or of no rank."""
    size = draw(st.integers(0, 12))
    orders = [
        np.random.default_rng(seed).permutation(size) for seed in range(draw(st.integers(0, 3)))
    ]
    known = {"lengths": LENGTHS[:size]} if draw(st.booleans()) else {}
    if not orders or not size:
        return Run(())
    run = run_of(
        *(map(shared, orders) if draw(st.booleans()) else orders),
        batch_size=draw(st.integers(1, 5)),
        is_complete=draw(st.booleans()),
        seconds=draw(st.sampled_from([0.0, 0.01, 3.0])),
        batch={"samples": None} if draw(st.booleans()) else {},
        update={"peak": draw(st.none() | st.integers(0, 2**40))},
        loader={
            "num_samples": draw(st.none() | st.just(size)),
            "is_planned": draw(st.booleans()),
            "trains": draw(st.booleans()),
            "drop_last": draw(st.booleans()),
        },
        **known,
    )
    if draw(st.booleans()):
        return replace(run, ranks=tuple(replace(each, updates=()) for each in run.ranks))
    return run


@st.composite
def diagnoses(draw, texts):
    run = replace(
        draw(runs()),
        command=tuple(draw(st.lists(texts, max_size=3))),
        seconds=draw(st.floats(0, 1e6)),
        exit_code=draw(st.none() | st.integers(-15, 255)),
        stopped=draw(st.sampled_from(["run", "updates", "seconds", "interrupt", "hang"])),
        notes=tuple(draw(st.lists(texts, max_size=2))),
    )
    found = draw(st.lists(findings(texts), max_size=8))
    ranked = sorted(found, key=lambda each: (LEVELS.index(each.level), -each.share))
    others = draw(st.lists(st.just(run), max_size=2))
    return Diagnosed(Diagnosis(run, tuple(ranked)), others, draw(st.lists(texts, max_size=1)))


@pytest.mark.slow
@given(diagnoses(sentences | names))
@example(sick())
@example(well())
@example(Diagnosed(Diagnosis(Run(()), ())))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_every_diagnosis_is_told_in_a_terminal_and_on_a_page(found):
    report = diagnosed_report(found)
    terminal, html = printed(found), page(report)
    assert controls(terminal) | controls(html) == set()
    said = " ".join(printable(found.diagnosis.verdict).split())
    assert " ".join(terminal.split()).count(said) == 1
    text = text_of(html)
    for each in found.diagnosis.findings:
        shown = " ".join(printable(each.figure).removesuffix(".").split())
        assert shown.lower() in text.lower()
    facts = facts_of(html)
    assert facts == json.loads(json.dumps(report.facts, allow_nan=False))
    assert [each["name"] for each in facts["findings"]] == [
        each.name for each in found.diagnosis.findings
    ]
    assert read(html).tags.count("script") == 2


@given(st.lists(findings(sentences), max_size=5))
@example(list(FINDINGS))
@example([])
@settings(max_examples=40)
def test_up_to_five_findings_fit_a_screen(found):
    ranked = sorted(found, key=lambda each: (LEVELS.index(each.level), -each.share))
    diagnosis = Diagnosis(sick().diagnosis.run, tuple(ranked))
    lines = printed(Diagnosed(diagnosis)).splitlines()
    assert len(lines) < SCREEN
    for each in ranked:
        assert sum(line.startswith(each.level) for line in lines) >= 1


def test_the_verdict_is_last_in_a_terminal_and_first_on_a_page():
    found = sick()
    verdict = "2 errors and 2 warnings found. Same order in every epoch: Both epochs have the same"
    assert found.diagnosis.verdict.startswith(verdict)
    end = " ".join(printed(found).split()[-40:])
    assert end.endswith(found.diagnosis.verdict)
    text = text_of(page(diagnosed_report(found)))
    body = text[text.index("python train.py --epochs 2: 20 updates") :]
    assert 0 < body.index("2 errors and 2 warnings found.") < body.index("Errors (2)")
    assert body.index("Errors (2)") < body.index("Warnings (2)") < body.index("Good to know (1)")


def test_costs_and_cures_are_left_out_from_the_end_where_there_is_no_room():
    said = " ".join(printed(sick()).split())
    assert 2 <= said.count("Cure:") <= 4
    long = tuple(replace(each, figure=each.figure * 3) for each in FINDINGS)
    found = Diagnosed(Diagnosis(sick().diagnosis.run, long))
    said = printed(found)
    assert len(said.splitlines()) < SCREEN
    assert 0 < said.count("Cure:") < 4
    assert "Call sampler.set_epoch" in said


def test_more_than_five_findings_are_named():
    others = [replace(FINDINGS[-1], name=f"finding {number}") for number in range(3)]
    found = Diagnosed(Diagnosis(sick().diagnosis.run, (*FINDINGS, *others)))
    assert "3 more: finding 0, finding 1 and finding 2." in printed(found)


def test_nothing_found_is_said_as_a_finding():
    found = well()
    assert printed(found).splitlines()[-1] == "Nothing found that is wrong or wasteful."
    text = text_of(page(diagnosed_report(found)))
    assert "Nothing found that is wrong or wasteful." in text
    assert "What was looked for" in text
    assert "Errors" not in text


def test_what_could_not_be_checked_is_said():
    run = well().diagnosis.run
    passes = run.ranks[0].loaders[0].passes
    parts = {0: "No epoch was seen to its end", 1: "One epoch was seen", 2: "wasteful."}
    for whole, said in parts.items():
        seen = tuple(replace(each, is_complete=at < whole) for at, each in enumerate(passes))
        loader = replace(run.ranks[0].loaders[0], passes=seen)
        rank = replace(run.ranks[0], loaders=(loader,))
        found = Diagnosed(Diagnosis(replace(run, ranks=(rank,)), ()))
        assert said in " ".join(printed(found).split())[-120:]


def test_padding_is_drawn_beside_that_of_planned_batches():
    found = sick()
    assert found.gain is not None
    html = page(diagnosed_report(found))
    assert html.count('class="waste" style="width') >= 1
    assert found.gain.planned_padding < found.gain.padding
    assert facts_of(html)["gain"]["padding"] == found.gain.padding
    assert "svg" in read(html).tags  # the lengths
    assert 'class="waste" style="width' not in page(diagnosed_report(well()))


def test_code_of_a_finding_stands_in_its_card():
    html = page(diagnosed_report(sick()))
    card = html[html.index("Same order in every epoch") : html.index("Mean of means")]
    assert "sampler.set_epoch(epoch)" in card[card.index("<pre") :]
    assert [text_of(html).count(each) for each in ("Diff to apply", "Code to copy")] == [1, 2]


def test_of_a_command_the_names_of_files_are_shown():
    command = ("/a/long/way/to/bin/python", "/another/way/my train.py", "--data", "here/corpus")
    found = Diagnosed(Diagnosis(replace(well().diagnosis.run, command=command), ()))
    assert printed(found).startswith("python 'my train.py' --data here/corpus: 16 updates")
    html = page(diagnosed_report(found))
    assert "/a/long/way/to/bin/python &#39;/another/way/my train.py&#39;" in html


def test_a_failed_run_says_so_on_page_and_terminal():
    run = replace(well().diagnosis.run, notes=("The command failed with exit code 1.",))
    found = Diagnosed(Diagnosis(run, ()))
    for text in (printed(found), text_of(page(diagnosed_report(found)))):
        assert "The command failed with exit code 1." in text
