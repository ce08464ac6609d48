"""How long samples are."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.report.figures import number
from batchwright.report.page import Section
from batchwright.report.plots import steps

_SUMMARY = ("min", "median", "mean", "p95", "max")

_OF_COLUMNS = ("num_tokens", "median", "p95", "longest")


def length_plot(histogram: Mapping[str, Any], *, unit: str) -> str:
    """Draw the histogram of lengths as SVG; nothing where all are equal."""
    edges, counts = histogram["edges"], histogram["counts"]
    if edges[-1] - edges[0] == 1:
        return ""
    return steps(edges, counts, across=unit, title="Lengths")


def length_section(lengths: Mapping[str, Any], *, unit: str) -> Section:
    """Show the lengths that a plan was made for.

    Args:
        lengths: What `length_facts` returns.
        unit: What lengths count.
    """
    plot = length_plot(lengths["histogram"], unit=unit)
    return Section(
        "Lengths",
        head=("samples", unit, *_SUMMARY),
        rows=[[number(lengths[name]) for name in ("num_samples", "num_tokens", *_SUMMARY)]],
        plots=[plot] if plot else [],
        note="" if plot else "All samples are equally long.",
    )


def column_sentences(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how long samples are in each of several columns; nothing of a single one.

    Args:
        columns: What ``advise --json`` prints under ``data.columns``.
    """
    if len(columns) < 2:
        return []
    told = [
        f"half are at most {number(each['median'])} long, the longest {number(each['longest'])}"
        for each in columns
    ]
    return ["By columns: " + "; ".join(told) + "."]


def column_section(columns: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Show the columns of samples that have several; nothing of a single one."""
    if len(columns) < 2:
        return []
    rows = [
        (f"column {place}", *(number(each[name]) for name in _OF_COLUMNS))
        for place, each in enumerate(columns)
    ]
    return [Section("Columns", head=("", "tokens", "median", "p95", "longest"), rows=rows)]
