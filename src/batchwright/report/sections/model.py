"""What a model is, what rows of a length cost it, and what its steps take of memory."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.figures import mebibytes, number, percent
from batchwright.report.page import Section

Facts = Mapping[str, Any]


def model_sentences(model: Facts | None) -> list[str]:
    """Say in a sentence or two what a model is; nothing if that is unknown.

    Args:
        model: What ``advise --json`` prints under ``model``.
    """
    if model is None:
        return []
    said = f"A model of {number(model['parameters'])} parameters."
    cost, memory = model["cost"], model["memory"]
    if cost is not None:
        said += (
            f" Rows of {number(cost['lengths'][-1])} tokens take {1e3 * cost['seconds'][-1]:.3g} ms"
            f" to train, {percent(cost['quadratic'])} of it due to pairs of tokens."
        )
    if memory is not None:
        said += (
            f" Its batches peak at {mebibytes(max(size for *_, size in memory['shapes']))} MiB, "
            f"the most of it {memory['parts'][0][0]}."
        )
    return [said, *(f"Not found out: {each}" for each in model["unknown"])]


def model_sections(model: Facts | None) -> list[Section]:
    """Show the model: in sentences, what lengths cost, and what memory is for.

    Args:
        model: What ``advise --json`` prints under ``model``.

    Returns:
        No section where nothing is known.
    """
    if model is None:
        return []
    sections = [Section("The model", sentences=model_sentences(model))]
    cost, memory = model["cost"], model["memory"]
    if cost is not None:
        rows = [
            (number(length), f"{1e3 * seconds:.3g}", f"{1e6 * seconds / length:.3g}")
            for length, seconds in zip(cost["lengths"], cost["seconds"], strict=True)
        ]
        note = (
            f"Forward and backward, in batches that fill the budget. {cost['a']:.3g} + "
            f"{cost['b']:.3g} · L + {cost['c']:.3g} · L² seconds fit to {percent(cost['error'])}."
        )
        head = ("tokens of a row", "ms a row", "µs a token")
        sections.append(Section("Cost against length", head=head, rows=rows, note=note))
    if memory is not None:
        shapes = [
            (number(rows), number(length), mebibytes(size))
            for rows, length, size in memory["shapes"]
        ]
        sections += [
            Section("Memory against shape", head=("rows", "tokens of each", "MiB"), rows=shapes),
            Section(
                head=("what the largest peak is made of", "share", "less of it"),
                rows=[(name, percent(share), cure or "") for name, share, cure in memory["parts"]],
                note=f"{mebibytes(memory['state_bytes'])} MiB are there throughout training.",
                is_wrapped=True,
            ),
        ]
    return sections
