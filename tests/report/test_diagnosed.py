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
from batchwright.doctor.notes import notes_of
from batchwright.doctor.records import Run
from batchwright.report.diagnosed import Diagnosed, _cut, diagnosed_report
from batchwright.report.sections import page
from batchwright.report.text import print_report
from tests.doctor.runs import run_of, shared
from tests.report.diagnoses import FINDINGS, LENGTHS, sick, well
from tests.report.reader import facts_of, read, text_of
from tests.report.test_hostile_names import controls, names

SCREEN = 24
MORE = 34  # lines that several long findings may take


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


def cards_of(text):
    """Return the lines of each finding that is printed."""
    cards = []
    for line in text.splitlines():
        if line.startswith(LEVELS) and line[:13].strip() in LEVELS:
            cards.append([])
        if cards and (not line or line.startswith((*LEVELS, " " * 13))):
            cards[-1] += [line] if line else []
        elif cards:
            break
    return cards


@given(st.lists(findings(sentences), max_size=8))
@example(list(FINDINGS))
@example([])
@settings(max_examples=60)
def test_every_fault_has_its_cure_on_about_a_screen(found):
    ranked = sorted(found, key=lambda each: (LEVELS.index(each.level), -each.share))
    text = printed(Diagnosed(Diagnosis(sick().diagnosis.run, tuple(ranked))))
    cards = cards_of(text)
    assert len(cards) == len(ranked)
    for each, card in zip(ranked, cards, strict=True):
        is_cured = any(line.strip().startswith("Cure: ") for line in card)
        assert is_cured == bool(each.cure) or each.level == "info"
    if len(ranked) <= 8:
        assert len(text.splitlines()) < MORE
    if len(text.splitlines()) >= SCREEN:
        assert max(map(len, cards)) <= 3


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


def test_costs_and_ends_of_sentences_are_left_out_from_the_end_where_there_is_no_room():
    said = printed(sick())
    assert said.count("Cure:") == 4
    assert len(said.splitlines()) < SCREEN
    long = tuple(replace(each, figure=f"{each.figure[:-1]} {each.figure}") for each in FINDINGS)
    said = printed(Diagnosed(Diagnosis(sick().diagnosis.run, long)))
    assert len(said.splitlines()) < MORE
    assert said.count("Cure:") == 4
    assert [len(each) for each in cards_of(said)] == [4, 3, 3, 3, 1]
    assert [" …" in "".join(each) for each in cards_of(said)] == [False, True, False, False, True]


def test_of_ten_faults_each_has_two_lines():
    many = [replace(FINDINGS[0], name=f"finding {number}") for number in range(10)]
    said = printed(Diagnosed(Diagnosis(sick().diagnosis.run, tuple(many))))
    sizes = [len(each) for each in cards_of(said)]
    assert len(sizes) == 10
    assert set(sizes) <= {2, 3}
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("text", "lines", "said"),
    [
        ("Do this. Then that.", 1, "Do this. Then that."),
        (f"Do this. Then {'that ' * 20}.", 1, "Do this."),
        (f"Do {'this ' * 20}. Then that.", 1, f"Do {'this ' * 11}…"),
        (f"Do {'this ' * 14}. Then {'that ' * 20}.", 2, f"Do {'this ' * 14}."),
    ],
)
def test_a_text_ends_behind_a_sentence_or_a_word(text, lines, said):
    assert _cut(text, lines, "Cure: ") == said


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


def test_a_failed_run_says_so_first_on_page_and_terminal():
    run = replace(well().diagnosis.run, exit_code=1)
    run = replace(run, notes=notes_of(run))
    said = "The command failed with exit code 1, after 16 updates."
    found = Diagnosed(Diagnosis(run, ()))
    assert found.diagnosis.verdict == f"{said} Nothing found that is wrong or wasteful."
    text = " ".join(printed(found).split())
    assert text.startswith("python train.py: failed, 16 updates, 2 whole epochs, watched for")
    assert text.count(said) == 1
    assert text_of(page(diagnosed_report(found))).index(said) < 300
    assert diagnosed_report(found).head.verdict == "error"


def test_steps_of_several_optimizers_are_told_apart():
    rank = replace(well().diagnosis.run.ranks[0], optimizers=(("Adam", 16), ("SGD", 4)))
    found = Diagnosed(Diagnosis(replace(well().diagnosis.run, ranks=(rank,)), ()))
    assert "16 updates (steps: Adam 16, SGD 4)" in printed(found)
    facts = facts_of(page(diagnosed_report(found)))
    assert facts["watched"]["optimizers"] == [["Adam", 16], ["SGD", 4]]
    assert "steps:" not in printed(well())
