"""What `advise` found: a value, its sentences for a terminal, and its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from batchwright._format import interval, mebibytes, number, one_line, percent, plural
from batchwright.report.page import Card, Section, dial_section, length_plots, page, waste_plots

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from batchwright.advise import (
        Advice,
        DataProfile,
        Duplicates,
        Evidence,
        Gain,
        GroupProfile,
        Hardware,
        LabelProfile,
        LearningTrial,
        ModelProfile,
        Price,
    )

_KINDS = {
    "plain": "plain batches",
    "grouped": "grouped by length",
    "planned": "TokenBudget",
    "packed": "packed rows",
    "buckets": "8 shapes (Buckets)",
}
_STYLES = {"use": "bold green", "do not use": "bold red", "cannot tell": "bold yellow"}


@dataclass(frozen=True)
class Advised:
    """What `advise` shows.

    Attributes:
        evidence: What the advice follows from.
        advice: The most important first.
        strategy: All that is advised, as `compare` calls it.
        snippet: Code to paste.
        price: What trials might take. None: there is no task.
        seconds_spent: What they took.
    """

    evidence: Evidence
    advice: tuple[Advice, ...]
    strategy: str
    snippet: str
    price: Price | None = None
    seconds_spent: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        facts = asdict(self)
        evidence = facts.pop("evidence")
        del evidence["difficulties"], evidence["step_tokens"]
        spent = facts.pop("seconds_spent")
        if self.price is not None:
            facts["price"]["seconds_spent"] = spent
        return {**evidence, **facts, "trials": list(evidence["trials"].values())}


def advice_report(found: Advised) -> Group:
    """Lay out the advice for rich to print: what is known, then a paragraph for each technique."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    evidence, data = found.evidence, found.evidence.data
    assumed = "" if data.is_given else ", assumed: --max-tokens"
    lengths = (
        f"{number(data.num_samples)} samples, {number(data.num_tokens)} tokens: half are "
        f"at most {number(data.median)} long, the longest {number(data.longest)}. "
        f"Batches of {number(data.max_tokens)} tokens{assumed}."
    )
    known = [
        lengths,
        *_column_sentences(data),
        *_hardware_sentences(evidence.hardware),
        *_sample_sentences(evidence),
        *_model_sentences(evidence.model),
        *_price_sentences(found),
    ]
    parts: list[RenderableType] = [Text(), *map(Text, known)]
    for each in found.advice:
        heading = Text.assemble(
            (f"{each.verdict:12}", _STYLES[each.verdict]), (each.technique, "bold")
        )
        parts += [Text(), heading, Padding(Text(_paragraph(each)), (0, 0, 0, 12))]
    if evidence.trials:
        command = f"batchwright compare TASK --strategies plain,{found.strategy}"
        parts += [Text(), Text(f"To compare them in whole runs: {command}")]
    return Group(*parts)


def _paragraph(advice: Advice) -> str:
    said, gain = [advice.why], advice.gain
    if gain is not None:
        source = f": {gain.source}" if gain.source else ""
        said.append(f"Expected: {_gain_interval(gain)} × {gain.of}, {gain.origin}{source}.")
    if advice.settings:
        listed = ", ".join(f"{name}: {value}" for name, value in advice.settings.items())
        said.append(f"Setting: {listed}.")
    if advice.untested:
        said.append(f"Not tested: {advice.untested}.")
    return " ".join(said)


def _gain_interval(gain: Gain) -> str:
    return interval(gain.ratio, gain.low, gain.high)


def _hardware_name(hardware: Hardware) -> str:
    known = [hardware.name]
    if hardware.cores is not None:
        known.append(plural(hardware.cores, "core"))
    if hardware.memory_bytes is not None:
        known.append(f"{mebibytes(hardware.memory_bytes / 1024)} GiB")
    return f"{hardware.device} ({', '.join(known)})"


def _model_sentences(model: ModelProfile | None) -> list[str]:
    if model is None:
        return []
    said = f"A model of {number(model.parameters)} parameters."
    cost, memory = model.cost, model.memory
    if cost is not None:
        said += (
            f" Rows of {number(cost.lengths[-1])} tokens take {1e3 * cost.seconds[-1]:.3g} ms"
            f" to train, {percent(cost.quadratic)} of it due to pairs of tokens."
        )
    if memory is not None:
        said += (
            f" Its batches peak at {mebibytes(max(size for *_, size in memory.shapes))} MiB, "
            f"most of it {memory.parts[0][0]}."
        )
    return [said, *(f"Not found out: {each}" for each in model.unknown)]


def _price_sentences(found: Advised) -> Iterator[str]:
    price = found.price
    if price is not None:
        said = f"Trials took {found.seconds_spent:.0f} s"
        if price.seconds is not None:
            said += f", of at most {price.seconds:.0f} s"
        run = f"about {price.run_seconds:.0f}" if price.run_seconds >= 10 else "less than 10"
        yield f"{said}; a run in plain batches takes {run} s here."


def _sample_sentences(evidence: Evidence) -> Iterator[str]:
    if evidence.labels is not None:
        yield _of_labels(evidence.labels)
    if evidence.duplicates is not None:
        yield _of_duplicates(evidence.duplicates)
    if evidence.groups is not None:
        yield group_sentence(evidence.groups)


def _column_sentences(data: DataProfile) -> Iterator[str]:
    if len(data.columns) > 1:
        said = (
            f"half are at most {number(each.median)} long, the longest {number(each.longest)}"
            for each in data.columns
        )
        yield f"By columns: {'; '.join(said)}."


def _hardware_sentences(hardware: Hardware | None) -> Iterator[str]:
    if hardware is not None:
        speeds = "; ".join(
            f"{name} over fp32 "
            + ", ".join(f"{ratio:.2f} × at width {number(width)}" for width, ratio in each.items())
            for name, each in hardware.speed_over_fp32.items()
        )
        yield f"Machine: {_hardware_name(hardware)}; {speeds}."


def _of_labels(labels: LabelProfile) -> str:
    said = (
        f"Labels: {number(labels.num_classes)} classes of {number(labels.smallest)} to "
        f"{number(labels.largest)} samples, with the entropy of "
        f"{labels.effective_classes:.1f} equal ones."
        if labels.num_classes > 1
        else "Labels: one class."
    )
    noise = labels.noise
    if noise is None:
        return f"{said} How many are wrong is not known: {labels.noise_unknown}."
    samples = f"estimated from {plural(noise.num_samples, 'sample')}"
    if noise.is_trusted:
        between = f"{percent(noise.low)} to {percent(noise.high)}"
        return f"{said} Wrong: {percent(noise.rate)} ({between}), {samples}."
    return f"{said} How many are wrong is uncertain ({samples}): {noise.doubt}."


def _of_duplicates(duplicates: Duplicates) -> str:
    of = f"the {'' if duplicates.is_complete else 'first '}{number(duplicates.num_samples)}"
    if not duplicates.num_repeated:
        return f"Duplicates: none among {of} samples."
    said = f"Duplicates: {number(duplicates.num_repeated)} of {of} samples"
    if duplicates.token_share is not None:
        said += f", {percent(duplicates.token_share)} of the tokens"
    said += f"; the most frequent occurs {number(duplicates.largest)} times."
    if duplicates.num_contradicting:
        said += (
            f" Equal samples have different labels: at least "
            f"{number(duplicates.num_contradicting)} are wrong."
        )
    return said


def group_sentence(groups: GroupProfile) -> str:
    """Name the smallest and the largest group."""
    if groups.num_groups == 1:
        return "Groups: one."
    largest, smallest = groups.largest[0], groups.smallest
    return (
        f"Groups: {number(groups.num_groups)}, from {one_line(smallest.name)} "
        f"({percent(smallest.token_share)} of the tokens) to {one_line(largest.name)} "
        f"({percent(largest.token_share)})."
    )


def advised_page(found: Advised) -> str:
    """Write the page of advice, as HTML.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.
    """
    evidence, data = found.evidence, found.evidence.data
    cards = [Card(each.verdict, each.technique, _paragraph(each)) for each in found.advice]
    sections = [
        Section(cards=cards),
        Section("To paste", code=found.snippet, note="What only you know is in capitals."),
        *_data(data),
        *_samples(evidence),
        *([dial_section(data.dial, note="Updates of 8 batches.")] if data.dial else []),
        *_speed(found),
        *_learning(evidence.learning),
        *_model(evidence.model),
        *_hardware(evidence.hardware),
    ]
    about = (
        f"{number(data.num_samples)} samples, {number(data.num_tokens)} tokens; batches of "
        f"{number(data.max_tokens)} tokens."
    )
    return page("What to use here", sections, found.as_json(), about=about)


def _data(data: DataProfile) -> Iterator[Section]:
    padding = {
        label: 1 - data.efficiency[kind]
        for kind, label in _KINDS.items()
        if kind in data.efficiency
    }
    plots = [*length_plots(data.histogram, unit="tokens"), *waste_plots(padding)]
    yield Section("The data", plots=plots)
    if len(data.columns) > 1:
        rows = [
            (
                f"column {place}",
                *map(number, (each.num_tokens, each.median, each.p95, each.longest)),
            )
            for place, each in enumerate(data.columns)
        ]
        yield Section("Columns", head=("", "tokens", "median", "p95", "longest"), rows=rows)


def _samples(evidence: Evidence) -> Iterator[Section]:
    sentences, groups = list(_sample_sentences(evidence)), evidence.groups
    if groups is None:
        if sentences:
            yield Section("The samples", sentences=sentences)
        return
    head = (
        *("group", "samples", "of samples", "of tokens", "mean length"),
        f"of draws at temperature {groups.temperature:g}",
    )
    rows = [
        (
            one_line(each.name),
            number(each.num_samples),
            percent(each.share),
            percent(each.token_share),
            number(each.mean_length),
            percent(each.tempered_share),
        )
        for each in groups.largest
    ]
    left_out = groups.num_groups - len(rows)
    note = f"{plural(left_out, 'group')} more, all smaller." if left_out else ""
    yield Section("The samples", sentences=sentences, head=head, rows=rows, note=note)


def _speed(found: Advised) -> Iterator[Section]:
    if found.evidence.trials:
        rows = [
            (
                *(each.name, each.precision, str(each.updates)),
                f"{each.tokens_per_second:,.0f}",
                _gain_interval(each.speed),
            )
            for each in found.evidence.trials.values()
        ]
        yield Section(
            "Trials of speed",
            sentences=list(_price_sentences(found)),
            head=("strategy", "precision", "updates", "tokens/s", "over the first"),
            rows=rows,
            note="(low – high): 95 % interval over updates, which take turns.",
        )


def _learning(trials: Mapping[str, LearningTrial]) -> Iterator[Section]:
    if trials:
        rows = [
            (
                *(each.name, str(each.runs), percent(each.share)),
                _gain_interval(each.sooner),
                f"{each.least:.2f} – {each.most:.2f}",
                f"{each.gain:+.4f}",
            )
            for each in trials.values()
        ]
        yield Section(
            "Trials of what is learnt",
            head=("strategy", "runs", "of a whole run", "sooner", "range", "gain in the end"),
            rows=rows,
            note="Sooner: how many times faster each reached the metric of the first, with its "
            "95 % interval over runs, and its range along the way. Gain: how much better its "
            "metric was after the same tokens.",
        )


def _model(model: ModelProfile | None) -> Iterator[Section]:
    if model is None:
        return
    yield Section("The model", sentences=_model_sentences(model))
    cost, memory = model.cost, model.memory
    if cost is not None:
        note = (
            f"Forward and backward, in batches that fill the budget. {cost.a:.3g} + "
            f"{cost.b:.3g} · L + {cost.c:.3g} · L² seconds fit to {percent(cost.error)}."
        )
        costs = [
            (number(length), f"{1e3 * seconds:.3g}", f"{1e6 * seconds / length:.3g}")
            for length, seconds in zip(cost.lengths, cost.seconds, strict=True)
        ]
        head = ("tokens of a row", "ms a row", "µs a token")
        yield Section("Cost against length", head=head, rows=costs, note=note)
    if memory is not None:
        shapes = [
            (number(rows), number(length), mebibytes(size)) for rows, length, size in memory.shapes
        ]
        parts = [(name, percent(share), cure or "") for name, share, cure in memory.parts]
        yield Section("Memory of a step", head=("rows", "length", "MiB"), rows=shapes)
        yield Section(
            head=("what the largest peak is made of", "share", "how to reduce it"),
            rows=parts,
            note=f"{mebibytes(memory.state_bytes)} MiB are in use throughout training.",
            is_wrapped=True,
        )


def _hardware(hardware: Hardware | None) -> Iterator[Section]:
    if hardware is not None:
        rows = [
            (name, number(width), f"{ratio:.2f}")
            for name, speeds in hardware.speed_over_fp32.items()
            for width, ratio in speeds.items()
        ]
        yield Section(
            "The machine",
            sentences=[f"{_hardware_name(hardware)}."],
            head=("products in", "of width", "times as fast as in fp32"),
            rows=rows,
            note="Measured here. The widths of your model are what counts.",
        )
