"""What `doctor` found in a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import wrap
from typing import Any

from batchwright._format import (
    all_printable,
    duration,
    mebibytes,
    number,
    one_line,
    percent,
    plural,
)
from batchwright.doctor.cures import LENGTHS, Cure, cure_of
from batchwright.doctor.diagnosis import Diagnosis
from batchwright.doctor.finding import LEVELS, Finding, Level
from batchwright.doctor.gains import Gain, gain_of
from batchwright.doctor.notes import gap_of
from batchwright.doctor.records import Run
from batchwright.doctor.summary import LoaderFacts, Summary, summary_of
from batchwright.report.sections import Bar, Card, Head, Picture, Report, Section

_COLUMNS, _LINES = 80, 23  # of a terminal in which a report is read without scrolling
_CARD = 67  # columns beside a level
_USUAL, _LEAST = 3, 2  # lines of a finding where not all that is known of them fits
_MORE = 10  # lines that a report may be longer before findings have the least
_COMMAND = 60  # characters of a command beside other words

_UNTIL_KILLED = "Run it without --resume, too: here it was checked only until it was killed."

_TITLES: dict[Level, str] = {"error": "Errors", "warning": "Warnings", "info": "Good to know"}

_CHECKED = (
    "Samples: lost, repeated, left over by the last batch.",
    "Order: the same in every epoch, not shuffled, sorted by length, of one class at a time.",
    "Ranks: the same samples, other counts, unequal batches, waiting for one another.",
    "Padding: its share, in the loss; packed documents that read one another.",
    "Updates: means of means, accumulation divided not at all or twice, gradients not cleared.",
    "Precision: a sinking loss scale, skipped steps, what autocast misses, slow formats.",
    "Time and memory: waiting for data, shapes for a compiler, batches that set the peak.",
)


@dataclass(frozen=True)
class Diagnosed:
    """What `doctor` shows."""

    diagnosis: Diagnosis
    resumed: Sequence[Run] = ()  # the runs that were killed and resumed, if any; one was checked
    kept: Sequence[str] = ()  # sentences: what was written, and where
    lengths: str | None = None  # the file of lengths, if it was written
    page: str | None = None  # the file of the page, if it is written

    @cached_property
    def notes(self) -> Sequence[str]:
        """What has to be known of how the runs went."""
        runs = (self.diagnosis.run, *self.resumed)
        return tuple(dict.fromkeys(note for each in runs for note in each.notes))

    @cached_property
    def summary(self) -> Summary:
        """What was watched."""
        return summary_of(self.diagnosis.run)

    @cached_property
    def cure(self) -> Cure | None:
        """How batches are planned in the framework that was seen. None: it would change nothing."""
        gain, run = self.gain, self.diagnosis.run
        return None if gain is None else cure_of(run, gain, lengths=self.lengths or LENGTHS)

    @cached_property
    def gain(self) -> Gain | None:
        """What planned batches would change. None: unknown."""
        return gain_of(self.diagnosis.run)

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        run, gain, cure = self.diagnosis.run, self.gain, self.cure
        return {
            **self.diagnosis.as_json(),
            **_run_as_json(run),
            "notes": list(self.notes),
            "watched": asdict(self.summary),
            "gain": None if gain is None else asdict(gain) | {"speed": gain.speed},
            "planned": None if cure is None else asdict(cure),
            "resumed": [_run_as_json(each) for each in self.resumed],
        }


def diagnosed_report(found: Diagnosed) -> Report:
    """Describe what is wrong with a run: the verdict, findings by cost, then what was watched."""
    diagnosis, run, summary = found.diagnosis, found.diagnosis.run, found.summary
    by_level = {
        level: [each for each in diagnosis.findings if each.level == level] for level in LEVELS
    }
    cards = [
        Section(
            f"{_TITLES[level]} ({len(each)})",
            cards=[_card(one) for one in each],
            note=_of_file(each, found.lengths),
        )
        for level, each in by_level.items()
        if each
    ]
    notes = Section("How the run went", sentences=found.notes)
    evidence = [
        _padding(found),
        _watched(run, summary),
        _lengths(summary),
        _resumed(found.resumed),
    ]
    # It says the most where nothing was found.
    is_folded = bool(diagnosis.findings)
    looked_for = Section("What was looked for", sentences=_CHECKED, is_folded=is_folded)
    folded = [replace(each, is_folded=True) for each in evidence]
    about = _about(run, summary)
    head = _head(found)
    return Report(
        f"batchwright doctor: {_command(run)}",
        about,
        found.as_json(),
        [*cards, notes, *folded, looked_for] if is_folded else [notes, looked_for, *folded],
        _printed(found, about, head),
        head,
    )


def _of_file(findings: Sequence[Finding], written: str | None) -> str:
    """Say where the lengths come from that the code of a finding loads, if they were not saved."""
    loads = any(f'np.load("{LENGTHS}")' in line for each in findings for line in each.code)
    if not loads or written == LENGTHS:
        return ""
    return f"{LENGTHS}, which the code loads: --lengths {LENGTHS} writes it."


def _head(found: Diagnosed) -> Head:
    """Say the verdict, and what is not known yet."""
    diagnosis = found.diagnosis
    run, findings = diagnosis.run, diagnosis.findings
    verdict: str = findings[0].level if findings else "use"
    if run.has_failed:
        verdict = "error"
    elif not any(each.updates for each in run.ranks):
        verdict = "cannot tell"
    elif verdict == "info":
        verdict = "use"
    page = "Evidence and code to copy: --html FILE."
    if found.page is not None:
        page = f"Evidence and code to copy are in {found.page}."
    more = [*found.kept, f"{page} All figures: --json."]
    return Head(
        diagnosis.verdict,
        verdict=verdict,
        then=_UNTIL_KILLED if found.resumed else gap_of(run),
        more=" ".join(more),
    )


def _card(finding: Finding) -> Card:
    """Write a finding with all that is known of it."""
    details = {"Cost": finding.cost, "Cure": finding.cure}
    return Card(
        finding.level,
        finding.name,
        finding.figure.removesuffix("."),
        details={label: said for label, said in details.items() if said},
        code=finding.code,
    )


def _printed(found: Diagnosed, about: str, head: Head) -> list[Section]:
    """Choose what of the findings is shown in a terminal: all that is known where that fits.

    Else the figure and the cure of each, the worst with most of it.
    """
    findings = all_printable(found.diagnosis.findings)
    notes = [each for each in found.notes if each not in found.diagnosis.verdict]
    # Sections and the parts of the head are set apart by a line.
    texts = [about, head.more, head.text, head.then, *notes]
    between = 4 if notes else 3
    room = _LINES - between - sum(_height(each) for each in texts)
    cards = [replace(_card(each), text=each.figure, code=()) for each in findings]
    return [Section(cards=_fitted(cards, room)), Section(sentences=notes)]


def _fitted(cards: list[Card], room: int) -> list[Card]:
    """Leave out costs, then ends of figures and cures, of the last first, until all fit."""
    first, others = range(min(len(cards), 1)), range(len(cards) - 1, 0, -1)
    usual, least = _in_lines(_USUAL), _in_lines(_LEAST)
    turns = [(others, _without_cost), (others, usual), (first, _without_cost), (first, usual)]
    for limit, steps in ((room, turns), (room + _MORE, [(others, least), (first, least)])):
        for places, shorten in steps:
            for place in places:
                if sum(map(_lines, cards)) <= limit:
                    return cards
                cards[place] = shorten(cards[place])
    return cards


def _without_cost(card: Card) -> Card:
    return replace(card, details={key: each for key, each in card.details.items() if key != "Cost"})


def _in_lines(lines: int) -> Callable[[Card], Card]:
    """Return what cuts a card to so many lines, its cure among them; to one if it is no fault."""

    def shorten(card: Card) -> Card:
        name = f"{card.technique}: "
        cure = "" if card.verdict == "info" else card.details.get("Cure", "")
        if not cure:
            text = _cut(card.text, 1 if card.verdict == "info" else lines, name)
            return replace(card, text=text, details={})
        text = _cut(card.text, lines - 1, name)
        left = max(1, lines - _height(f"{name}{text}", _CARD))
        below = _cut(cure, left, "Cure: ")
        # There is more room where it begins on the line on which the figure ends.
        behind = _cut(cure, lines, f"{name}{text} Cure: ")
        if not behind or below == cure:
            return replace(card, text=text, details={"Cure": below})
        return replace(card, text=f"{text} Cure: {behind}", details={})

    return shorten


def _cut(text: str, lines: int, before: str) -> str:
    """Cut a text that stands after some words to so many lines: behind a sentence, else a word."""
    if not text or _height(f"{before}{text}", _CARD) <= lines:
        return text
    for end in reversed([found.end() for found in re.finditer(r"\.(?= )", text)]):
        if _height(f"{before}{text[:end]}", _CARD) <= lines:
            return text[:end]
    said = " ".join(_wrapped(f"{before}{text}", _CARD, max_lines=lines, placeholder=" …"))
    return said.removeprefix(before) if said.startswith(before) else ""


def _lines(card: Card) -> int:
    """Return the lines that a card takes in a terminal."""
    first = f"{card.technique}: {card.text}" if card.text else card.technique
    details = [f"{label}: {said}" for label, said in card.details.items()]
    return sum(_height(each, _CARD) for each in (first, *details))


def _height(text: str, columns: int = _COLUMNS) -> int:
    return len(_wrapped(text, columns))


def _wrapped(text: str, columns: int, **options: Any) -> list[str]:
    return wrap(text, columns, break_on_hyphens=False, **options)


def _command(run: Run) -> str:
    """Write a command in a few words: of what lies in another folder, only the name."""
    words = [Path(each).name if Path(each).is_absolute() else each for each in run.command]
    return one_line(shlex.join(words), _COMMAND) or "a command"


def _about(run: Run, summary: Summary) -> str:
    """Say in a line what was watched."""
    said = ["failed"] if run.has_failed else []
    updates = plural(summary.updates, "update")
    if len(summary.optimizers) > 1:
        updates += f" (steps: {_steps(summary)})"
    said.append(updates)
    if summary.epochs:
        said.append(plural(summary.epochs, "whole epoch"))
    if summary.world_size > 1:
        said.append(plural(summary.world_size, "rank"))
    return f"{_command(run)}: {', '.join(said)}, watched for {duration(run.seconds)}."


def _steps(summary: Summary) -> str:
    return ", ".join(f"{name} {number(steps)}" for name, steps in summary.optimizers)


def _padding(found: Diagnosed) -> Section:
    """Draw what is computed for the same samples: in the batches of today, and in planned ones."""
    gain, cure = found.gain, found.cure
    if gain is None or cure is None:
        return Section()
    shares = {"your batches": gain.padding, "planned batches": gain.planned_padding}
    now, planned = percent(gain.padding), percent(gain.planned_padding)
    said = [f"Planned batches of as many tokens an update: {now} → {planned} padding."]
    if gain.speed is not None:
        said.append(f"{gain.speed:.2f} × the real tokens per second. {gain.rests_on}")
    bars = [
        Bar(name, f"{percent(share)} padding", 1.0, share / (1 - share))
        for name, share in shares.items()
        if share < 1
    ]
    picture = Picture(bars, "real tokens", "padding: computed for nothing")
    is_shown = any(each.name == "padding" and each.code for each in found.diagnosis.findings)
    return Section(
        "Padding now, and in planned batches",
        sentences=[*said, cure.text],
        picture=picture,
        code=() if is_shown else cure.code,
    )


def _watched(run: Run, summary: Summary) -> Section:
    """Show what was watched, and how it was made."""
    rows = [{"": label, " ": figure, "  ": note} for label, figure, note in _figures(run, summary)]
    command = [shlex.join(run.command)] if run.command else []
    return Section("What was watched", rows=rows, code=command)


def _figures(run: Run, summary: Summary) -> Iterator[tuple[str, str, str]]:
    """Yield the figures of a run: what each is called, its value, and what it means."""
    if not run.ranks:
        return
    yield "framework", summary.framework, summary.device
    if summary.world_size > 1:
        yield "ranks", number(summary.world_size), f"{plural(len(run.ranks), 'rank')} seen"
    yield "updates", number(summary.updates), f"within {duration(run.seconds)}"
    if len(summary.optimizers) > 1:
        several = "updates are steps of one of them"
        yield "optimizers", number(len(summary.optimizers)), f"{_steps(summary)}: {several}"
    yield "epochs", number(summary.epochs), "seen to their end"
    if summary.loader is not None:
        yield from _of_loader(summary.loader)
    yield "samples", number(summary.samples), f"in {plural(summary.batches, 'batch')}"
    if summary.padding is not None:
        shares = summary.padding_by_column.items()
        columns = ": " + ", ".join(f"{name} {percent(share)}" for name, share in shares)
        looked = "of the batches that were looked into"
        yield "padding", percent(summary.padding), f"{looked}{columns if shares else ''}"
        if summary.tokens_per_second is not None:
            yield "tokens per second", f"{summary.tokens_per_second:,.0f}", "without padding"
    if summary.peak_bytes is not None:
        yield "largest memory in use", f"{mebibytes(summary.peak_bytes)} MiB", "of a rank"


def _of_loader(loader: LoaderFacts) -> Iterator[tuple[str, str, str]]:
    size = "" if loader.num_samples is None else plural(loader.num_samples, "sample")
    if loader.dataset or size:
        yield "data set", one_line(loader.dataset, _COMMAND), size
    if loader.batch_size is not None:
        last = "the last one is dropped if it is smaller" if loader.drop_last else ""
        yield "batch size", number(loader.batch_size), last
    samplers = [each for each in (loader.sampler, loader.batch_sampler) if each]
    planned = "by a plan of Batchwright" if loader.is_planned else ""
    if samplers or planned:
        yield "sampler", one_line(", ".join(samplers), _COMMAND), planned
    yield "workers", number(loader.num_workers), "that load data"


def _lengths(summary: Summary) -> Section:
    lengths = summary.lengths
    if lengths is None:
        return Section()
    row = {"samples": number(lengths.num_samples), "tokens": number(lengths.num_tokens)}
    for name in ("median", "mean", "p95"):
        row[name] = number(getattr(lengths, name))
    row["longest"] = number(lengths.max)
    return Section("Lengths that were seen", rows=[row], histogram=lengths.histogram)


def _resumed(runs: Sequence[Run]) -> Section:
    """List the runs that were killed and resumed."""
    rows = [
        {
            "command": _command(each),
            "updates": number(max((len(rank.updates) for rank in each.ranks), default=0)),
            "ranks": number(each.world_size),
            "seconds": f"{each.seconds:.1f}",
            "ended by": each.stopped,
        }
        for each in runs
    ]
    return Section("Runs that were killed and resumed", rows=rows)


def _run_as_json(run: Run) -> dict[str, object]:
    return {
        "command": list(run.command),
        "seconds": run.seconds,
        "exit_code": run.exit_code,
        "failed": run.has_failed,
        "stopped": run.stopped,
    }
