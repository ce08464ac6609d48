"""The figures of a plan as rows of text: a label, a figure, and what it means."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from batchwright.report.figures import duration, number, percent, plural
from batchwright.report.glyphs import Glyphs

_EVEN = 0.9
_UNEVEN = 1.1

_REASONS = {"oversize": "longer than the budget"}


class Row(NamedTuple):
    """One figure.

    Attributes:
        label: What it is called.
        figure: The figure.
        note: What it means. Empty: it needs no word.
    """

    label: str
    figure: str
    note: str = ""


def layout_line(facts: dict[str, Any]) -> str:
    """Say how batches lie in memory.

    Example:
        >>> layout = {"kind": "packed", "budget": 8192, "max_samples": None, "multiple": 16}
        >>> layout_line({"layout": layout | {"max_length": None}, "unit": "tokens"})
        'rows packed to 8,192 tokens, samples rounded up to multiples of 16'
    """
    layout = facts["layout"]
    unit = facts["unit"]
    words = []
    budget = layout["budget"] if layout.get("caps") is None else layout["caps"]
    is_packed = layout["kind"] == "packed"
    if budget is None:
        words.append("packed rows" if is_packed else "padded batches")
    else:
        what = "rows packed to" if is_packed else "padded batches of at most"
        words.append(f"{what} {_numbers(budget)} {unit}")
    if layout["max_samples"] is not None:
        words.append(f"at most {plural(layout['max_samples'], 'sample')} each")
    if layout["multiple"] > 1:
        what = "samples" if is_packed else "rows"
        words.append(f"{what} rounded up to multiples of {number(layout['multiple'])}")
    if layout["max_length"] is not None:
        words.append(f"longer samples cut to {_numbers(layout['max_length'])}")
    return ", ".join(words)


def _numbers(values: int | Sequence[int]) -> str:
    """Show a figure, or one for each column."""
    return number(values) if isinstance(values, int) else " and ".join(map(number, values))


def batch_rows(facts: dict[str, Any], glyphs: Glyphs) -> list[Row]:
    """Say how many batches and updates there are, and what is in them."""
    samples = plural(facts["num_samples"], "sample")
    ranks, slots = facts["world_size"], facts["accumulate"]
    each = f"{plural(ranks, 'rank')} {glyphs.times} {plural(slots, 'batch')}"
    mean, std = number(facts["samples_per_batch_mean"]), number(facts["samples_per_batch_std"])
    rows = [
        Row("batches", number(facts["num_batches"]), f"of {samples}"),
        Row("updates", number(facts["num_steps"]), f"of {each} each"),
        Row(
            "samples a batch",
            mean,
            f"{glyphs.spread} {std}, at most {number(facts['samples_per_batch_max'])}",
        ),
    ]
    if "shapes" in facts:
        kind = "row length" if facts["layout"]["kind"] == "packed" else "batch shape"
        rows.append(Row("shapes", number(facts["shapes"]), f"distinct {kind}s"))
    return rows


def budget_rows(facts: dict[str, Any]) -> list[Row]:
    """Say what is padded, how full batches are, and how many there must be."""
    unit = facts["unit"]
    real, laid_out = number(facts["num_tokens"]), number(facts["padded_tokens"])
    largest = f"{unit}, padding included"
    if facts["budget"] is not None:
        share = percent(facts["max_batch_tokens"] / facts["budget"])
        largest = f"{unit}, {share} of the budget of {number(facts['budget'])}"
    rows = [
        Row("efficiency", percent(facts["efficiency"]), f"{real} of {laid_out} {unit} are real"),
        Row("largest batch", number(facts["max_batch_tokens"]), largest),
        Row("lower bound", number(facts["lower_bound"]), _gap(facts)),
    ]
    if facts["fill"] is not None:
        rows.insert(2, Row("fill", percent(facts["fill"]), "of the budget, on average"))
    return rows


def mix_rows(facts: dict[str, Any], glyphs: Glyphs) -> list[Row]:
    """Say how large and how alike updates are, and whether ranks wait."""
    mean, std = number(facts["step_tokens_mean"]), number(facts["step_tokens_std"])
    rows = [
        Row("update size", mean, f"{glyphs.spread} {std} {facts['unit']}"),
        Row("dispersion", number(facts["dispersion"]), _mix(facts)),
    ]
    if facts["world_size"] > 1:
        squared = f"{facts['imbalance_quadratic']:.3f}"
        note = f"slowest over mean rank; {squared} in squared lengths"
        rows.append(Row("rank imbalance", f"{facts['imbalance_padded']:.3f}", note))
    return rows


def loss_rows(facts: dict[str, Any]) -> list[Row]:
    """Say what was left out, repeated or cut, and why; or that nothing was."""
    limit = facts["layout"]["max_length"]
    dropped = facts["dropped_by_reason"].items()
    rows = [
        *(Row("dropped", number(count), _REASONS.get(reason, reason)) for reason, count in dropped),
        Row("absent", number(facts["absent"] or 0), "samples in no batch"),
        Row("repeated", number(facts["repeated"]), "samples beyond their first time"),
        Row("truncated", number(facts.get("truncated", 0)), f"samples, to {_numbers(limit or 0)}"),
        Row(
            "split",
            number(facts.get("split", 0)),
            f"samples, into pieces of {_numbers(limit or 0)}",
        ),
    ]
    told = [row for row in rows if row.figure != "0"]
    if told or facts["absent"] is None:
        return told
    return [Row("dropped", "0", "every sample is in the plan, exactly once")]


def origin_rows(facts: dict[str, Any]) -> list[Row]:
    """Say what a plan was made from, and how long that took."""
    rows = [Row("seed", str(facts["seed"]), f"epoch {facts['epoch']}")]
    if "lengths" not in facts and facts["num_lengths"] is not None:
        about = f"lengths of fingerprint {facts['fingerprint']}"
        rows.append(Row("made for", number(facts["num_lengths"]), about))
    if "seconds" in facts:
        reading = f"and {duration(facts['seconds_reading'])} to read the lengths"
        rows.append(Row("planned in", duration(facts["seconds"]), reading))
    return rows


def _gap(facts: dict[str, Any]) -> str:
    more = facts["num_batches"] - facts["lower_bound"]
    if not more:
        return "no plan of these samples has fewer batches"
    return f"batches at least; this plan has {number(more)} more ({percent(facts['gap'])})"


def _mix(facts: dict[str, Any]) -> str:
    value = facts["dispersion"]
    if facts["num_steps"] == 1:
        return "a single update: nothing to compare"
    if value < _EVEN:
        return "more even than a plain shuffle, which is 1"
    if value <= _UNEVEN:
        return "as even as a plain shuffle, which is 1"
    return "less even than a plain shuffle, which is 1; more batches an update mix better"
