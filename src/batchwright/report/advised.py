"""What `advise` found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from batchwright._format import interval, mebibytes, number, one_line, percent, plural
from batchwright.report.plots import DIAL, FAR, Tail
from batchwright.report.sections import Bar, Card, Head, Picture, Report, Section, dial_section

if TYPE_CHECKING:
    from batchwright.advise import (
        Advice,
        DataProfile,
        Duplicates,
        Evidence,
        Gain,
        Hardware,
        Headline,
        LabelProfile,
        ModelProfile,
        Price,
    )

_MOST_LISTED = 4  # techniques of a verdict, in a terminal
_IN_CAPITALS = "What only you know is in capitals."
_CAPITALS = re.compile(r"\b[A-Z]+_?[A-Z]+\b")

_KINDS = {
    "plain": "random batches",
    "grouped": "grouped by length",
    "planned": "planned batches",
    "packed": "packed rows",
    "buckets": "8 shapes",
}


@dataclass(frozen=True)
class Advised:
    """What `advise` shows."""

    evidence: Evidence  # what the advice follows from
    advice: tuple[Advice, ...]  # the most important first
    strategy: str  # all that is advised, as `compare` calls it
    snippet: str  # code to paste
    headline: Headline  # what to do
    price: Price | None = None  # what trials might take; None: there is no task
    seconds_spent: float = 0.0  # what they took

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        facts = asdict(self)
        evidence = facts.pop("evidence")
        del evidence["difficulties"], evidence["step_tokens"]
        spent = facts.pop("seconds_spent")
        if self.price is not None:
            facts["price"]["seconds_spent"] = spent
        return {**evidence, **facts, "trials": list(evidence["trials"].values())}


def advised_report(found: Advised) -> Report:
    """Describe advice: what to use, with code to copy; then what is known."""
    evidence, data = found.evidence, found.evidence.data
    dial = () if data.is_constant else data.dial
    known = [
        _data(data),
        _samples(evidence),
        _speed(found),
        _learning(evidence),
        *([dial_section(dial, note="Updates of 8 batches.")] if dial else []),
        *([] if evidence.model is None else _model(evidence.model)),
        *([] if evidence.hardware is None else [_machine(evidence.hardware)]),
    ]
    folded = {
        DIAL,
        "The model",
        "Cost against length",
        "Memory against shape",
        "Memory by part",
        "The machine",
    }
    known = [replace(each, is_folded=each.title in folded) for each in known]
    by_verdict = {
        verdict: [each for each in found.advice if each.verdict == verdict]
        for verdict in ("use", "do not use", "cannot tell")
    }
    sections = [
        Section(
            f"{verdict.capitalize()} ({len(advice)})" if is_folded else verdict.capitalize(),
            cards=[_card(each) for each in advice],
            is_folded=is_folded,
        )
        for verdict, advice in by_verdict.items()
        for is_folded in [verdict == "cannot tell"]
    ]
    if not by_verdict["use"]:
        code = found.snippet.splitlines()
        sections.append(Section("Code for your batches as they are", code=code, is_folded=True))
    cards = [replace(_card(each), more=()) for each in by_verdict.pop("use")]
    cards += [
        Card(verdict, _listed([each.technique for each in advice]), "")
        for verdict, advice in by_verdict.items()
        if advice
    ]
    picture = _waste(data)
    sentences = [*known[0].sentences, *known[1].sentences]
    printed = [Section(sentences=sentences), Section(cards=cards), Section(picture=picture)]
    return Report(
        f"Advice for {plural(data.num_samples, 'sample')}",
        _of_data(data),
        found.as_json(),
        [*sections, *known],
        printed,
        _head(found, picture),
    )


def _listed(names: Sequence[str]) -> str:
    """List names on a line, of many only the first."""
    first = names if len(names) <= _MOST_LISTED else names[: _MOST_LISTED - 1]
    rest = len(names) - len(first)
    return ", ".join(first) + (f" and {rest} more" if rest else "")


def _head(found: Advised, picture: Picture | None) -> Head:
    said = found.headline
    return Head(
        said.text,
        detail=said.detail,
        verdict=said.verdict,
        picture=picture,
        code=found.snippet.splitlines() if said.verdict == "use" else (),
        code_note=_IN_CAPITALS if _CAPITALS.search(found.snippet) else "",
        then=said.then,
        more="Reasons, settings and plots: --html FILE. All figures: --json.",
    )


def _waste(data: DataProfile) -> Picture | None:
    """Draw what is computed for the same samples, in random batches and in planned ones."""
    shares = {kind: data.efficiency.get(kind) for kind in ("plain", "planned")}
    if data.is_constant or not all(shares.values()):
        return None
    whose = "your batches" if data.batch_size_is_given else "random batches"
    names = [f"{whose} of {number(data.batch_size)}", _KINDS["planned"]]
    bars = [
        Bar(name, f"{percent(1 - share)} padding", 1.0, 1 / share - 1)
        for name, share in zip(names, shares.values(), strict=True)
        if share
    ]
    return Picture(bars, f"real {data.unit}", "padding: computed for nothing")


def _card(advice: Advice) -> Card:
    """Write advice in a line; the rest is folded."""
    more, gain = [advice.why], advice.gain
    if gain is not None:
        source = f": {gain.source}" if gain.source else ""
        more.append(f"Expected: {_gain_interval(gain)} × {gain.of}, {gain.origin}{source}.")
    if advice.settings:
        listed = ", ".join(f"{name}: {value}" for name, value in advice.settings.items())
        more.append(f"Setting: {listed}.")
    if advice.untested:
        more.append(f"Not tested: {advice.untested}.")
    return Card(advice.verdict, advice.technique, advice.short, more)


def _gain_interval(gain: Gain) -> str:
    return interval(gain.ratio, gain.low, gain.high)


def _machine(hardware: Hardware) -> Section:
    known = [hardware.name]
    if hardware.cores is not None:
        known.append(plural(hardware.cores, "core"))
    if hardware.memory_bytes is not None:
        known.append(f"{mebibytes(hardware.memory_bytes / 1024)} GiB")
    speeds = hardware.speed_over_fp32
    widths = sorted({width for each in speeds.values() for width in each})
    rows = [
        {"type": name} | {f"at width {number(width)}": str(each.get(width, "")) for width in widths}
        for name, each in speeds.items()
        if each
    ]
    said = f"{hardware.device} ({', '.join(known)})."
    note = "Speed of matrix products over fp32: the range of repetitions, where these agree."
    return Section("The machine", sentences=[said], rows=rows, note=note if rows else "")


def _of_labels(labels: LabelProfile) -> str:
    said = (
        f"Labels: {number(labels.num_classes)} classes of {number(labels.smallest)} to "
        f"{number(labels.largest)} samples, as balanced as "
        f"{labels.effective_classes:.1f} equal ones."
    )
    if labels.smallest == labels.largest:
        said = f"Labels: {number(labels.num_classes)} classes of {number(labels.largest)} samples."
    if labels.num_classes == 1:
        said = "Labels: one class."
    noise = labels.noise
    if noise is None:
        return f"{said} How many are wrong is not known: {labels.noise_unknown}."
    samples = f"estimated from {noise.of}"
    if noise.is_trusted:
        between = f"{percent(noise.low)} to {percent(noise.high)}"
        return f"{said} Wrong: {percent(noise.rate)} ({between}), {samples}."
    return f"{said} How many are wrong is uncertain ({samples}): {noise.doubt}."


def _of_duplicates(duplicates: Duplicates, unit: str) -> str:
    of = f"the {'' if duplicates.is_complete else 'first '}{number(duplicates.num_samples)}"
    if not duplicates.num_repeated:
        return f"Duplicates: none among {of} samples."
    said = f"Duplicates: {number(duplicates.num_repeated)} of {of} samples"
    if duplicates.token_share is not None:
        said += f", {percent(duplicates.token_share)} of the {unit}"
    said += f"; the most frequent occurs {number(duplicates.largest)} times."
    if duplicates.num_contradicting:
        said += (
            f" Equal samples have different labels: at least "
            f"{number(duplicates.num_contradicting)} must be wrong."
        )
    return said


def _data(data: DataProfile) -> Section:
    rows = [
        {"": label, "padding": percent(1 - data.efficiency[kind])}
        for kind, label in _KINDS.items()
        if kind in data.efficiency
    ]
    bars = [data.efficiency[kind] for kind in _KINDS if kind in data.efficiency]
    said = [
        f"half are at most {number(each.median)} long, the longest {number(each.longest)}"
        for each in data.columns
    ]
    of_columns = [f"By columns: {'; '.join(said)}."] if len(data.columns) > 1 else []
    sentences = [*of_columns, *_of_outliers(data)]
    if data.is_constant:
        return Section("The data", sentences=sentences)
    return Section(
        "The data",
        sentences=sentences,
        rows=rows,
        bars=bars,
        histogram=data.histogram,
        tail=_tail(data),
        unit=data.unit,
    )


def _of_data(data: DataProfile) -> str:
    assumed = "" if data.is_given else " (assumed: --max-tokens)"
    return (
        f"{plural(data.num_samples, 'sample')}, {number(data.num_tokens)} {data.unit}: half are at "
        f"most {number(data.median)} long, the longest {number(data.longest)}. A batch may "
        f"hold {number(data.max_tokens)} {data.unit}, padding included{assumed}."
    )


def _of_outliers(data: DataProfile) -> list[str]:
    return [data.about_outliers()] if data.outliers else []


def _tail(data: DataProfile) -> Tail | None:
    """Return the part of the histogram that is marked: what is far above all other lengths."""
    found = data.outliers
    if found is not None:
        rows = f"{number(found.num_samples)} of {number(data.num_samples)}"
        return Tail(data.max_tokens, f"{rows} longer than {number(data.max_tokens)}")
    if data.longest >= FAR * data.p999:
        return Tail(data.p999, f"0.1 % longer than {number(data.p999)}")
    return None


def _samples(evidence: Evidence) -> Section:
    groups, said, rows, note = evidence.groups, [], [], ""
    if evidence.labels is not None:
        said.append(_of_labels(evidence.labels))
    if evidence.duplicates is not None:
        said.append(_of_duplicates(evidence.duplicates, evidence.data.unit))
    if groups is not None:
        draws = f"of draws at temperature {groups.temperature:g}"
        rows = [
            {
                "group": one_line(each.name),
                "samples": number(each.num_samples),
                "of samples": percent(each.share),
                f"of {evidence.data.unit}": percent(each.token_share),
                "mean length": number(each.mean_length),
                draws: percent(each.tempered_share),
            }
            for each in dict.fromkeys((*groups.largest, groups.smallest))
        ]
        note = f"{plural(groups.num_groups, 'group')}: the largest, and the smallest."
    return Section("The samples", sentences=said, rows=rows, note=note)


def _speed(found: Advised) -> Section:
    rows = [
        {
            "strategy": each.name,
            "precision": each.precision,
            "updates": str(each.updates),
            "tokens/s": f"{each.tokens_per_second:,.0f}",
            "over the first": _gain_interval(each.speed),
        }
        for each in found.evidence.trials.values()
    ]
    said, price = [], found.price
    if price is not None:
        limit = "" if price.seconds is None else f", of at most {price.seconds:.0f} s"
        run = f"about {price.run_seconds:.0f}" if price.run_seconds >= 10 else "less than 10"
        said.append(
            f"Trials took {found.seconds_spent:.0f} s{limit}; a run in plain batches takes {run} s "
            "here."
        )
    note = "(low – high): 95 % interval over updates, which take turns."
    return Section("Trials of speed", sentences=said, rows=rows, note=note)


def _learning(evidence: Evidence) -> Section:
    rows = [
        {
            "strategy": each.name,
            "runs": str(each.runs),
            "of a whole run": percent(each.share),
            "sooner": _gain_interval(each.sooner),
            "range": f"{each.least:.2f} – {each.most:.2f}",
            "held": "yes" if each.held else "no",
            "gain in the end": f"{each.gain:+.4f}",
        }
        for each in evidence.learning.values()
    ]
    note = (
        "Sooner: how many times faster each reached the metric of the first, with its 95 % "
        "interval over runs, and its range along the way. Held: until the end of every run. Gain: "
        "after the same tokens."
    )
    missing = [f"{name}: {each}" for name, each in evidence.untried.items()]
    return Section(
        "Trials of what is learnt" if rows else "Trials without a result",
        sentences=missing,
        rows=rows,
        note=note if rows else "",
    )


def _model(model: ModelProfile) -> Iterator[Section]:
    said = [f"A model of {number(model.parameters)} parameters."]
    said += [f"Not found out: {each}" for each in model.unknown]
    yield Section("The model", sentences=said)
    cost, memory = model.cost, model.memory
    if cost is not None:
        note = (
            f"Forward and backward, in batches that fill the budget. {cost.a:.3g} + "
            f"{cost.b:.3g} · L + {cost.c:.3g} · L² seconds fit to {percent(cost.error)}; "
            f"{percent(cost.quadratic)} of the longest row is due to pairs of tokens."
        )
        costs = [
            {
                "tokens of a row": number(length),
                "ms a row": f"{1e3 * seconds:.3g}",
                "µs a token": f"{1e6 * seconds / length:.3g}",
            }
            for length, seconds in zip(cost.lengths, cost.seconds, strict=True)
        ]
        yield Section("Cost against length", rows=costs, note=note)
    if memory is not None:
        shapes = [
            {"rows": number(rows), "tokens of each": number(length), "MiB": mebibytes(size)}
            for rows, length, size in memory.shapes
        ]
        yield Section("Memory against shape", rows=shapes)
        note = f"{mebibytes(memory.state_bytes)} MiB are in use throughout training."
        parts = [
            {"part of the largest peak": name, "share": percent(share), "reduced by": cure or ""}
            for name, share, cure in memory.parts
        ]
        yield Section("Memory by part", rows=parts, note=note)
