"""What a comparison of strategies says: two tables, and sentences made of their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from batchwright import _format
from batchwright._format import number, percent, plural

if TYPE_CHECKING:
    from rich.table import Table

Facts = Mapping[str, Any]

Cells: TypeAlias = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings, and rows of a table."""

WORTH_SAYING = 0.03
"""Ratios nearer to 1 than this are called no difference."""

EQUAL = 1e-9
"""Metrics nearer to one another than this are the same."""

DENSE = "dense limit"

_HEADING = 16
"""Characters of a line of a heading."""


def speed_rows(result: Facts) -> Cells:
    """Return headings and cells: what each strategy does with its time and memory."""
    first = result["summary"][0]["name"] if result["summary"] else "first"
    head = (
        *("", "precision", "tokens/s", f"over {first}", "of limit", "padding"),
        *("worst/budget", "peak MB"),
    )
    rows = [
        (
            each["name"],
            each["precision"],
            f"{each['tokens_per_second']:,.0f}",
            interval(each["speed"]),
            "" if each["of_limit"] is None else f"{each['of_limit']['mean']:.2f}",
            percent(round(each["padding"], 4)),
            f"{each['worst_batch']:.2f}",
            "" if each["peak_bytes"] is None else f"{each['peak_bytes'] / 1e6:,.0f}",
        )
        for each in result["summary"]
    ]
    return head, rows


def learning_rows(result: Facts) -> Cells:
    """Return headings and cells: what each strategy reached, and when."""
    first = result["summary"][0]["name"] if result["summary"] else "first"
    head = (
        *("", "updates", "dispersion", "seconds", result["metric"], f"gain over {first}"),
        *(f"time to {_target(result)}", "tokens to it"),
    )
    rows = [
        (
            each["name"],
            f"{each['updates']:,}",
            "" if each["dispersion"] is None else f"{each['dispersion']:.2f}",
            f"{each['seconds']:.1f}",
            _metric(each),
            interval(each["gain"], sign="+", digits=4),
            arrival(each),
            "" if each["tokens"] is None else f"{each['tokens']['mean']:.2f}",
        )
        for each in result["summary"]
        if each["name"] != DENSE
    ]
    return head, rows


def speed_table(result: Facts) -> Table:
    """Show what each strategy does with its time and memory."""
    runs = plural(len(result["runs"]), "run") if result["runs"] else "a part of a run"
    title = f"Speed and memory: {runs} of {number(result['num_tokens'])} tokens"
    head, rows = speed_rows(result)
    return _table(f"{title} × {result['epochs']}", head, rows)


def learning_table(result: Facts) -> Table:
    """Show what each strategy reached, and when."""
    head, rows = learning_rows(result)
    narrow = ["\n".join(wrap(heading, _HEADING)) for heading in head]
    table = _table(f"Learning: {result['metric']}, {result['better']} is better", narrow, rows)
    table.caption = (
        "(low – high): 95 % interval over seeds, paired. tokens/s: real ones. limit: batches of "
        "the\nplanned shapes without padding. worst: the largest batch. dispersion: how unlike "
        "updates\nare, 1 is a plain shuffle. time: of training only."
    )
    return table


def sentences(result: Facts) -> list[str]:
    """Say what the figures say, also where they do not flatter."""
    if not result["runs"]:
        return ["No run is over yet: speeds so far."]
    first, *others = (each for each in result["summary"] if each["name"] != DENSE)
    said = [_sentence(each, first, result) for each in others]
    unpaid = [each["name"] for each in others if did_not_pay(each)]
    if unpaid:
        said.append(f"Not shown to pay here, over {first['name']}: {', '.join(unpaid)}.")
    if len(result["runs"]) < 2:
        said.append("One run of one seed: small differences may be chance. More of them: --seeds.")
    return said


def null_sentence(result: Facts) -> str:
    """Say whether a strategy's own twin is told from it, which it should not be."""
    first, twin = result["summary"][:2]
    speed = twin["speed"]
    near = abs(speed["mean"] - 1) < WORTH_SAYING
    if speed["low"] is None:
        held = f"{'within' if near else 'not within'} {percent(WORTH_SAYING)} of 1 in one run"
    else:
        contains = "contains" if _includes(speed, 1.0) else "does not contain"
        held = (
            f"{'within' if near else 'not within'} {percent(WORTH_SAYING)} of 1, and its interval "
            f"{contains} 1"
        )
    passed = near and (speed["low"] is None or _includes(speed, 1.0))
    verdict = "passed" if passed else "failed: others use this machine, or runs are too short"
    return (
        f"Self-check {verdict}. {first['name']} and {twin['name']} are the same: the ratio of "
        f"their speeds is {interval(speed, digits=3)}, {held}. Smaller ratios mean nothing."
    )


def _sentence(each: Facts, first: Facts, result: Facts) -> str:
    speed = each["speed"]
    same = abs(speed["mean"] - 1) < WORTH_SAYING or _includes(speed, 1.0)
    what = (
        f"{each['name']} trains as fast as {first['name']}: {interval(speed)} ×"
        if same
        else f"{each['name']} trains {interval(speed)} × as many real tokens a second as "
        f"{first['name']}"
    )
    if each["failed"]:
        return f"{what}; its loss was no number any more in {plural(each['failed'], 'run')}."
    if each["gain"] is None:
        return f"{what}."
    gain = each["gain"]
    ending = f"{what}. After the same tokens it is {_difference(gain)}"
    if each["time"] is None:
        runs = len(result["runs"])
        some = "" if each["never"] == runs else f" in {each['never']} of {runs} runs"
        return f"{ending}; it never reaches {_target(result)}{some}."
    return f"{ending}; it needs {interval(each['time'])} of the time to {_target(result)}."


def _difference(gain: Facts) -> str:
    """Say how much better or worse something is."""
    if abs(gain["mean"]) < EQUAL:
        return "as good"
    side = "better" if gain["mean"] > 0 else "worse"
    told = ", which chance may explain" if _includes(gain, 0.0) else ""
    return f"{abs(gain['mean']):.3g} {side}{told}"


def did_not_pay(each: Facts) -> bool:
    """Say whether no run-to-target was shown to be shorter."""
    if each["time"] is None:
        return True
    if each["time"]["high"] is None:
        return bool(each["time"]["mean"] > 1 - WORTH_SAYING)
    return bool(each["time"]["high"] >= 1)


def _metric(each: Facts) -> str:
    if each["metric"] is not None:
        return f"{each['metric']:.4f}"
    return f"failed {each['failed']} ×" if each["failed"] else ""


def arrival(each: Facts) -> str:
    """Write how long a strategy needed to the target, or in how many runs it never came there."""
    if each["time"] is not None:
        return interval(each["time"])
    if not each["never"]:
        return ""
    runs = len(each["speed"]["values"])
    return "never" if each["never"] == runs else f"never in {each['never']} of {runs}"


def _target(result: Facts) -> str:
    target = result["settings"]["target"]
    first = result["summary"][0]["name"] if result["summary"] else "first"
    return f"{first}'s end" if target is None else f"{target:g}"


def _includes(figure: Facts, value: float) -> bool:
    return figure["low"] is not None and bool(figure["low"] <= value <= figure["high"])


def interval(figure: Facts | None, *, sign: str = "", digits: int = 2) -> str:
    """Write a figure of a result, and its interval if there is one.

    Example:
        >>> interval({"mean": 2, "low": 1.5, "high": 2.5}), interval(None)
        ('2.00 (1.50 – 2.50)', '')
    """
    if figure is None:
        return ""
    mean, low, high = figure["mean"], figure["low"], figure["high"]
    return _format.interval(mean, low, high, sign=sign, digits=digits)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    for place, heading in enumerate(head):
        justify: Literal["left", "right"] = "right" if place else "left"
        table.add_column(heading, justify=justify, no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*row)
    return table
