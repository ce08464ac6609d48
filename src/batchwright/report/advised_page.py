"""The page of `advise`: what to do first, then the figures behind it."""

from collections.abc import Iterator

from batchwright._format import mebibytes, number, one_line, percent, plural
from batchwright.advise.data_profile import DataProfile
from batchwright.advise.machine import Hardware, ModelProfile
from batchwright.advise.trials import LearningTrial
from batchwright.report.advised import (
    Advised,
    gain_interval,
    hardware_name,
    model_sentences,
    paragraph,
    price_sentences,
    sample_sentences,
)
from batchwright.report.page import Card, Section, page
from batchwright.report.parts import dial_section, length_plots, waste_plots

_KINDS = {
    "plain": "plain batches",
    "grouped": "grouped by length",
    "planned": "TokenBudget",
    "packed": "packed rows",
    "buckets": "8 shapes (Buckets)",
}


def advised_page(found: Advised) -> str:
    """Write the page of advice, as HTML.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.
    """
    data = found.data
    cards = [Card(each.verdict, each.technique, paragraph(each)) for each in found.advice]
    sections = [
        Section(cards=cards),
        Section("To paste", code=found.snippet, note="What only you know is in capitals."),
        *_data(data),
        *_samples(found),
        *([dial_section(data.dial, note="Updates of 8 batches.")] if data.dial else []),
        *_speed(found),
        *_learning(found.learning),
        *_model(found.model),
        *_hardware(found.hardware),
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


def _samples(found: Advised) -> Iterator[Section]:
    sentences, groups = sample_sentences(found), found.groups
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
    if found.trials:
        rows = [
            (
                *(each.name, each.precision, str(each.updates)),
                f"{each.tokens_per_second:,.0f}",
                gain_interval(each.speed),
            )
            for each in found.trials
        ]
        yield Section(
            "Trials of speed",
            sentences=price_sentences(found.price),
            head=("strategy", "precision", "updates", "tokens/s", "over the first"),
            rows=rows,
            note="(low – high): 95 % interval over updates, which take turns.",
        )


def _learning(trials: dict[str, LearningTrial]) -> Iterator[Section]:
    if trials:
        rows = [
            (
                *(each.name, str(each.runs), percent(each.share)),
                gain_interval(each.sooner),
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
    yield Section("The model", sentences=model_sentences(model))
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
            sentences=[f"{hardware_name(hardware)}."],
            head=("products in", "of width", "times as fast as in fp32"),
            rows=rows,
            note="Measured here. The widths of your model are what counts.",
        )
